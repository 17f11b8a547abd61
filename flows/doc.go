// Package flows is the YAML language in which Pulseflow is told what flows where.
//
// It reads a file into a typed [File] whose every part remembers its line and column, and reports everything that is
// wrong with the file in one run as [Diagnostics]. It needs no Redis, opens nothing but the file itself and knows no
// stage: a stage's configuration stays a [Node] until the package that owns the stage decodes it, with the same
// [Fields] that describe the rest of the file. A Fields value declares a mapping once; decoding, defaults, validation,
// the resolved listing of [File.Redacted] and the generated documentation all follow from that declaration.
//
// The package may import the standard library, yaml.v3 and a string-distance library, and no other package of this
// module.
//
// Where the next change goes: a new key of the file in schema.go, with its variable in file.go; a rule that spans
// several keys in check.go; a new kind of value in kind.go and value.go; anything about text becoming a tree in
// source.go, syntax.go and node.go; variables in interpolate.go.
package flows
