package flows

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shelf is a made-up document with every kind of value that a list or a map can hold.
type shelf struct {
	Books  []book
	Prices []price
	Owners []owner
	Note   *Node
}

type book struct {
	Title string
	Pages int
	node  *Node
}

type price struct {
	Name  string
	Value float64
	node  *Node
}

type owner struct {
	Name string
	Age  int
	node *Node
}

func (b *book) fields(n *Node) Fields {
	b.node = n
	return Fields{
		String("title", &b.Title, "the title", Required()),
		Int("pages", &b.Pages, "how many", Default("1"), Min(1)),
	}
}

func (s *shelf) fields() Fields {
	return Fields{
		List("books", &s.Books, "book", (*book).fields, "the books", Required()),
		Values("prices", &s.Prices, func(p *price) (*string, **Node) { return &p.Name, &p.node },
			func(p *price) Field { return Float("value", &p.Value, "the price") }, "the prices"),
		Map("owners", &s.Owners, "owner", func(o *owner) (*string, **Node) { return &o.Name, &o.node },
			func(o *owner) Fields { return Fields{Int("age", &o.Age, "in years")} }, "the owners"),
		Any("note", &s.Note, "a note"),
	}
}

func TestDocument(t *testing.T) {
	root, d := Document("shelf.yaml", []byte(`
books: [{title: "${A}"}, {title: b, pages: 2}]
prices: {a b: 1.5, "${B}": 2}
owners: {"${C}": {age: 3}, d:}
note: [{x: [1, null]}, ~]
`), "a shelf")
	if len(d) > 0 {
		t.Fatal(d)
	}
	var s shelf
	fields := s.fields()
	if err := fields.Verify(); err != nil {
		t.Fatal(err)
	}
	fields.Decode(root, "", &d)
	if len(d) > 0 {
		t.Fatal(d)
	}
	if len(s.Books) != 2 || s.Books[0].Title != "${A}" || s.Books[0].Pages != 1 || s.Books[1].Pages != 2 || s.Books[1].node.Pos().Column != 26 {
		t.Errorf("books %+v", s.Books)
	}
	if len(s.Prices) != 2 || s.Prices[0].Name != "a b" || s.Prices[0].Value != 1.5 || s.Prices[1].Name != "${B}" {
		t.Errorf("prices %+v", s.Prices)
	}
	if len(s.Owners) != 2 || s.Owners[0].Name != "${C}" || s.Owners[0].Age != 3 || !s.Owners[1].node.IsNull() {
		t.Errorf("owners %+v", s.Owners)
	}
	if diff := cmp.Diff([]any{map[string]any{"x": []any{int64(1), nil}}, nil}, s.Note.Value()); diff != "" {
		t.Error(diff)
	}
	items, keys := 0, ""
	for item := range s.Note.Items() {
		items++
		for key := range item.Pairs() {
			text, _ := key.Text()
			keys += text
		}
	}
	if items != 2 || keys != "x" || !s.Note.IsList() || s.Note.IsMapping() || !root.IsMapping() || (*Node)(nil).IsList() {
		t.Errorf("%d items, keys %q", items, keys)
	}
	for range (*Node)(nil).Items() {
		t.Error("nothing has an item")
	}
	for range (*Node)(nil).Pairs() {
		t.Error("nothing has a key")
	}
}

func TestDocumentFaults(t *testing.T) {
	for src, want := range map[string]string{
		"books: []":                        "1:8: books must not be empty",
		"books: {}":                        "1:8: books: expected a list, found a mapping",
		"books: [{}, 1]":                   "1:9: book 1: missing required field \"title\"\n1:13: book 2: expected a mapping, such as {title: …}, found integer 1",
		"books: [{title: a, page: 1}]":     "1:20: book 1: unknown field \"page\" (did you mean \"pages\"?); fields: pages, title",
		"books: [{title: a, pages: 0}]":    "1:27: book 1: pages: must be at least 1, found 0",
		"books: [{title: a}]\nprices: [1]": "2:9: prices: expected a mapping, found a list",
		"books: [{title: a}]\nprices: {a: b, a: 1, c: }": "2:13: prices: a: expected a finite number, found string \"b\"\n" +
			"2:16: duplicate key \"a\": first declared at 2:10: rename or remove one\n2:25: prices: c has no value: give it one or remove the key",
		"books: [{title: a}]\nowners: {a: {age: x}}": "2:19: owner \"a\": age: expected an integer, found string \"x\"",
		"books: [": "1:8: not valid YAML: expected a value",
	} {
		root, d := Document("", []byte(src), "a shelf")
		if root != nil {
			new(shelf).fields().Decode(root, "", &d)
		}
		d.Sort()
		if diff := cmp.Diff(want, d.String()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", src, diff)
		}
	}
	if _, d := LoadDocument("no/such.yaml", "a shelf"); d.String() != "no/such.yaml: cannot be read: no such file or directory" {
		t.Error(d)
	}
}

func TestDocumentSchema(t *testing.T) {
	got, err := json.Marshal(new(shelf).fields().Schema())
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"additionalProperties":false,"properties":{` +
		`"books":{"description":"the books","items":{"additionalProperties":false,"properties":{` +
		`"pages":{"default":1,"description":"how many","maximum":9223372036854775807,"minimum":1,"type":"integer"},` +
		`"title":{"description":"the title","minLength":1,"type":"string"}},"required":["title"],"type":"object"},"minItems":1,"type":"array"},` +
		`"note":{"description":"a note"},` +
		`"owners":{"additionalProperties":{"additionalProperties":false,"properties":{"age":{"description":"in years",` +
		`"maximum":9223372036854775807,"minimum":-9223372036854775808,"type":"integer"}},"type":["object","null"]},"description":"the owners",` +
		`"type":["object","null"]},` +
		`"prices":{"additionalProperties":{"description":"the price","type":"number"},"description":"the prices","type":["object","null"]}},` +
		`"required":["books"],"type":"object"}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	markdown := new(shelf).fields().Markdown()
	for _, row := range []string{"| `books[].title` | string | required |", "| `owners.NAME.age` | integer |", "| `note` | any value |"} {
		if !strings.Contains(markdown, row) {
			t.Errorf("lacks %q:\n%s", row, markdown)
		}
	}
}

// Only what stands under the file's own tests is spared.
func TestVariablesUnderTests(t *testing.T) {
	f, d := Parse("flows.yaml", []byte("version: 1\ntests: [{a: \"${A}\"}]\nflows:\n  f:\n    from: {stream: s}\n"+
		"    stages:\n      - x: {tests: \"${B}\"}\n"), nil)
	if len(d) != 1 || !strings.Contains(d.String(), "7:21: variable B is not set") {
		t.Error(d)
	}
	if diff := cmp.Diff([]any{map[string]any{"a": "${A}"}}, f.Tests.Value()); diff != "" {
		t.Error(diff)
	}
}
