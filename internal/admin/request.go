package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// maxRequest bounds the body of a request that is a few fields, in bytes.
const maxRequest = 4 << 10

// read decodes the body, a JSON object, into request, and answers 400 or 413 where
// that fails; fields are those there are, for the answer. An empty body leaves the
// request as it is.
func (s *Server) read(w http.ResponseWriter, r *http.Request, request any, fields string) bool {
	// To its end: from then on net/http notices when the client goes away.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			s.fail(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body must have at most %d bytes", maxRequest))
		} else {
			s.fail(w, http.StatusBadRequest, "the body could not be read")
		}
		return false
	}
	if err := decode(body, request, fields); err != nil {
		s.fail(w, http.StatusBadRequest, err.Error())
		return false
	}
	return true
}

// decode takes in what a caller sent. Errors are in words for the caller.
func decode(body []byte, request any, fields string) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(request)
	if err == nil {
		if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
			return errors.New("the body must be one JSON object")
		}
		return nil
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrong.Field == "" {
			return errors.New("the body must be a JSON object")
		}
		return fmt.Errorf("%s must be %s, not a %s", wrong.Field, kind(wrong.Type), wrong.Value)
	}
	if _, name, unknown := strings.Cut(err.Error(), "unknown field "); unknown {
		return fmt.Errorf("unknown field %s; fields: %s", name, fields)
	}
	return fmt.Errorf("the body must be a JSON object: %w", err)
}

// kind names what a field takes.
func kind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Int:
		return "a whole number"
	default:
		return "a number"
	}
}

// duration reads a field that takes a duration from 0 to longest; "" is 0.
func duration(field, text string, longest time.Duration) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return 0, fmt.Errorf("%s: %q needs a unit (ms, s, m, h), as in 500ms or 2s", field, text)
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%s: %q is not a duration such as 500ms or 2s", field, text)
	case d < 0:
		return 0, fmt.Errorf("%s: %q must not be negative", field, text)
	case d > longest:
		return 0, fmt.Errorf("%s: %q must be at most %s", field, text, longest)
	}
	return d, nil
}
