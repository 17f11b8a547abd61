package stages

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/mjdevaccount/pulseflow/flows"
)

// maxSchemaFile bounds a schema document, in bytes.
const maxSchemaFile = 1 << 20

// schemaFile compiles a JSON Schema document, and returns a digest of what it read.
// References to other documents are refused: checking a file never reaches outside it.
func schemaFile(path string) (compiled check, digest string, err error) {
	// Opening a named pipe may wait for ever, and what comes through one cannot be read again.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, "", fmt.Errorf("schema %s is not a regular file: give the path of one", path)
	}
	f, err := os.Open(path)
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	if err != nil {
		return nil, "", fmt.Errorf("schema %s cannot be read: %w: paths start at the folder of the flow file", path, err)
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxSchemaFile+1))
	if err != nil {
		return nil, "", fmt.Errorf("read schema: %w", err)
	}
	digest, _ = flows.Digest(bytes.NewReader(src)) // which cannot fail
	if len(src) > maxSchemaFile {
		return nil, digest, fmt.Errorf("schema %s is over 1 MiB", path)
	}
	schema, err := compileSchema(path, src)
	if err != nil {
		return nil, digest, fmt.Errorf("schema %s: %w", path, err)
	}
	return schemaCheck(schema), digest, nil
}

// noReferences refuses to load any document a schema refers to.
type noReferences struct{}

func (noReferences) Load(string) (any, error) {
	return nil, errors.New("references to other documents are not supported")
}

func compileSchema(name string, src []byte) (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(src))
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(noReferences{})
	if err := c.AddResource(name, doc); err != nil {
		return nil, err
	}
	schema, err := c.Compile(name)
	var invalid *jsonschema.SchemaValidationError
	var broken *jsonschema.ValidationError
	if errors.As(err, &invalid) && errors.As(invalid.Err, &broken) {
		// The library's own text names the file by a URL and takes many lines.
		return nil, fmt.Errorf("not a JSON Schema: %w", describe(broken))
	}
	return schema, err
}

// schemaCheck validates payloads by schema. Its errors name pointer and rule, and
// leave out the value.
func schemaCheck(schema *jsonschema.Schema) check {
	return func(d *Delivery) error {
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(d.Event.Document()))
		if err != nil {
			return errors.New("payload is not JSON")
		}
		err = schema.Validate(value)
		var broken *jsonschema.ValidationError
		if errors.As(err, &broken) {
			return describe(broken)
		}
		return err
	}
}

// describe turns the first leaf of a validation error into pointer and rule.
func describe(err *jsonschema.ValidationError) error {
	leaf := err
	for len(leaf.Causes) > 0 {
		leaf = leaf.Causes[0]
	}
	pointer := "/" + strings.Join(leaf.InstanceLocation, "/")
	rule := strings.Join(leaf.ErrorKind.KeywordPath(), "/")
	switch k := leaf.ErrorKind.(type) {
	case *kind.Type:
		return fmt.Errorf("%s: must be %s (got %s)", pointer, strings.Join(k.Want, " or "), k.Got)
	case *kind.Enum:
		return fmt.Errorf("%s: must be one of %s", pointer, listed(k.Want))
	case *kind.Required:
		return fmt.Errorf("%s: %s is required", strings.TrimSuffix(pointer, "/")+"/", strings.Join(k.Missing, ", "))
	case *kind.Minimum:
		return fmt.Errorf("%s: must be at least %s", pointer, decimal(k.Want))
	case *kind.ExclusiveMinimum:
		return fmt.Errorf("%s: must be above %s", pointer, decimal(k.Want))
	case *kind.Maximum:
		return fmt.Errorf("%s: must be at most %s", pointer, decimal(k.Want))
	case *kind.ExclusiveMaximum:
		return fmt.Errorf("%s: must be below %s", pointer, decimal(k.Want))
	case *kind.MinLength:
		return fmt.Errorf("%s: must have at least %d characters", pointer, k.Want)
	case *kind.MaxLength:
		return fmt.Errorf("%s: must have at most %d characters", pointer, k.Want)
	case *kind.MinItems:
		return fmt.Errorf("%s: must have at least %d items", pointer, k.Want)
	case *kind.MaxItems:
		return fmt.Errorf("%s: must have at most %d items", pointer, k.Want)
	case *kind.Pattern:
		if len(k.Want) <= maxPatternShown {
			return fmt.Errorf("%s: must match %s", pointer, k.Want)
		}
	}
	return fmt.Errorf("%s: breaks the rule %q", pointer, rule)
}

// maxPatternShown bounds the pattern that the reason of a dead letter shows, in bytes.
const maxPatternShown = 100

// decimal writes a bound of a schema.
func decimal(bound *big.Rat) string {
	f, _ := bound.Float64()
	return strconv.FormatFloat(f, 'f', -1, 64)
}

// listed writes the allowed values of a schema, which are no part of an event.
func listed(values []any) string {
	texts := make([]string, len(values))
	for i, v := range values {
		text, err := json.Marshal(v)
		if err != nil {
			text = []byte(fmt.Sprint(v))
		}
		texts[i] = string(text)
	}
	return strings.Join(texts, ", ")
}
