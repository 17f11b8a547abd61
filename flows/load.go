package flows

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

//go:embed default.yaml
var defaultSource string

// builtInName is the name under which diagnostics speak of the built-in file.
const builtInName = "built-in flows.yaml"

// DefaultSource returns the text of the built-in file: the reference feedback flow, driven by the environment.
func DefaultSource() []byte { return []byte(defaultSource) }

// BuiltIn reads the built-in file; see [Parse].
func BuiltIn(env func(string) (string, bool)) (*File, Diagnostics) {
	return Parse(builtInName, DefaultSource(), env)
}

// Load reads a file of at most 1 MiB; see [Parse]. A file that cannot be read is a diagnostic like any other fault.
func Load(path string, env func(string) (string, bool)) (*File, Diagnostics) {
	src, err := read(path)
	if err != nil {
		return &File{Path: path}, Diagnostics{{Pos: Position{File: path}, Message: err.Error()}}
	}
	f, diags := Parse(path, src, env)
	f.Dir = filepath.Dir(path)
	return f, diags
}

// Digest tells the content of a file apart from another: the SHA-256 of its first 1 MiB and a byte, in hexadecimal, which
// is more than a flow file or a schema may have. The error is that of reading.
func Digest(r io.Reader) (string, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(r, maxFileSize+1)); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// read stops just past the limit, so that a wrong path to something huge costs nothing.
func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if path == "-" && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot be read: %w: standard input is /dev/stdin", withoutPath(err))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", withoutPath(err))
	}
	defer file.Close()
	src, err := io.ReadAll(io.LimitReader(file, maxFileSize+int64(len("\uFEFF"))+1))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", withoutPath(err))
	}
	return src, nil
}

// withoutPath drops the path from an error, since the diagnostic's position has it.
func withoutPath(err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err
	}
	return err
}

// Parse reads the text of a file. The name is what diagnostics call it. Variables are looked up through env, which is
// os.LookupEnv in a real process; nil means that no variable is set.
//
// All problems are reported together, sorted by position. The File is never nil: with errors among the diagnostics it
// holds what could be made out, which allows further checks in the same run, and must not be run.
func Parse(name string, src []byte, env func(string) (string, bool)) (*File, Diagnostics) {
	var diags Diagnostics
	f := &File{Path: name, text: src}
	if t, document := newTree(name, src, env, "version and flows", &diags); document != nil {
		if root := t.build(document, 1); !t.full {
			f.decode(t, root)
		}
	}
	diags.Sort()
	return f, diags
}

func (f *File) decode(t *tree, root *Node) {
	if root.shape == unusable {
		return
	}
	f.root = root
	c := decoding{diags: t.diags, at: root.pos}
	f.Bus.Name, f.Bus.Pos = DefaultBus, root.Get("bus").Pos()
	c.fields(f.fields(t), root)
	f.Admin.finish(root.Get("admin"), c)
	f.Rates.Pos = root.Get("rates").Get("share").Pos()
	f.Bus.Redis.finish(root.Get("bus").Get("redis"), c)
	f.check(root, t.diags)
}
