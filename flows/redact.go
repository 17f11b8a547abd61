package flows

import (
	"bytes"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// Redacted returns the file as it is understood: as YAML, with variables replaced and every default filled in. Secrets
// are shown as "***" and passwords in URLs left out. A stage's configuration is shown as it was given, except for what
// came from a variable that is named like a secret. Read again, the result means the same, but for the secrets.
func (f *File) Redacted() ([]byte, error) {
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(listing(f.fields(&tree{}))); err != nil {
		return nil, fmt.Errorf("write the file as YAML: %w", err)
	}
	if err := encoder.Close(); err != nil {
		return nil, fmt.Errorf("write the file as YAML: %w", err)
	}
	return b.Bytes(), nil
}

// listing turns what a field's variable holds into YAML.
func listing(v any) *yaml.Node {
	switch v := v.(type) {
	case Fields:
		m := &yaml.Node{Kind: yaml.MappingNode}
		for i := range v {
			if v[i].Kind == KindAny {
				continue // its owner's, and nothing that runs
			}
			m.Content = append(m.Content, name(v[i].Name), listing(v[i].value.encode(&v[i])))
		}
		return m
	case []namedFields:
		m := &yaml.Node{Kind: yaml.MappingNode}
		for _, e := range v {
			m.Content = append(m.Content, name(e.name), listing(e.fields))
		}
		return m
	case []Fields:
		l := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range v {
			l.Content = append(l.Content, listing(item))
		}
		return l
	case []StageSpec:
		l := &yaml.Node{Kind: yaml.SequenceNode}
		for _, s := range v {
			l.Content = append(l.Content, s.listing())
		}
		return l
	case []Named:
		m := &yaml.Node{Kind: yaml.MappingNode}
		for _, e := range v {
			m.Content = append(m.Content, name(e.Name), text(e.Text))
		}
		return m
	case []string:
		l := &yaml.Node{Kind: yaml.SequenceNode}
		for _, s := range v {
			l.Content = append(l.Content, text(s))
		}
		return l
	case string:
		return text(v)
	case float64:
		return plain(formatFloat(v))
	default:
		return plain(fmt.Sprint(v))
	}
}

// text makes a string that is read back as the same string.
func text(s string) *yaml.Node { return name(strings.ReplaceAll(s, "${", "$${")) }

// name makes a key, in which no variable would be replaced.
func name(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
}

func plain(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: s} }

func (s StageSpec) listing() *yaml.Node {
	config := s.Config.listing()
	if config.Kind == yaml.MappingNode && len(config.Content) == 0 {
		return name(s.Kind)
	}
	return &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{name(s.Kind), config}}
}

func (n *Node) listing() *yaml.Node {
	switch {
	case n == nil:
		return plain("null")
	case n.shape == mappingNode:
		m := &yaml.Node{Kind: yaml.MappingNode}
		for _, p := range n.pairs {
			m.Content = append(m.Content, name(p.key.text), p.value.listing())
		}
		return m
	case n.shape == listNode:
		l := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range n.items {
			l.Content = append(l.Content, item.listing())
		}
		return l
	case n.shape == unusable, n.isNull():
		return plain("null")
	}
	for _, v := range n.vars {
		if secretName(v.name) && !v.isDefault {
			return text(hidden)
		}
	}
	if u, err := url.Parse(n.text); err == nil && u.User != nil {
		return text(redactURL(n.text))
	}
	if _, isText := n.scalar().(string); isText {
		return text(n.text)
	}
	return plain(n.text)
}

// redactURL replaces the password of a URL, and the values of query parameters that are named like secrets.
func redactURL(text string) string {
	if text == "" {
		return ""
	}
	u, err := url.Parse(text)
	if err != nil {
		return hidden
	}
	secretQuery := false
	for name := range u.Query() {
		secretQuery = secretQuery || secretName(name)
	}
	if secretQuery {
		u.RawQuery = "" // shown below, so that the asterisks stay asterisks
	}
	user := u.User
	u.User = nil
	shown := u.String()
	if user != nil {
		credentials := url.User(user.Username()).String()
		if _, ok := user.Password(); ok {
			credentials += ":" + hidden
		}
		shown = strings.Replace(shown, "://", "://"+credentials+"@", 1)
	}
	if secretQuery {
		shown += "?" + hidden
	}
	return shown
}

// hidden stands for a secret in a listing.
const hidden = "***"

// secretName reports whether a variable or parameter is named like one that holds a secret.
func secretName(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc([]string{"token", "secret", "password", "passwd", "credential", "api_key", "apikey"},
		func(part string) bool { return strings.Contains(name, part) })
}
