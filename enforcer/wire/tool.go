package wire

import (
	"bytes"
	"slices"
)

// Tool is one element of a tools/list result, cut into the parts that a person
// reviews. A part is the canonical form of its value (see Message.Canonical),
// nil where the member is absent: two spellings of one value are one part.
type Tool struct {
	Name        string // "" if it has none: nobody can call it
	Title       []byte
	Description []byte
	Input       []byte // inputSchema
	Output      []byte // outputSchema
	Annotations []byte
	Other       []byte // all further members (icons, execution, _meta, unknown ones), as one object

	Required []string // the properties that Input requires at its top level: sorted, distinct
}

// maxProperty bounds a name in Required; a longer one is left out.
const maxProperty = 128

// Tools says where the elements of a tools/list result stand. Those that are
// not objects are left out, and so is everything of any other message.
func (m *Message) Tools() []Span {
	var all []Span
	if list, ok := m.Member(m.Result, "tools"); ok {
		elements(m.Raw, list, func(e Span) {
			if m.Raw[e.Start] == '{' {
				all = append(all, e)
			}
		})
	}
	return all
}

// Tool cuts up the tool in a span of m.
func (m *Message) Tool(at Span) Tool {
	var t Tool
	known := func(key []byte) *[]byte {
		switch string(key) {
		case "title":
			return &t.Title
		case "description":
			return &t.Description
		case "inputSchema":
			return &t.Input
		case "outputSchema":
			return &t.Output
		case "annotations":
			return &t.Annotations
		}
		return nil
	}
	further := false
	members(m.Raw, at, func(_ Span, key []byte, value Span) bool {
		switch part := known(key); {
		case part != nil:
			*part = canonicalValue(nil, m.Raw, value)
		case string(key) == "name":
			t.Name, _ = m.Text(value)
		default:
			further = true
		}
		if string(key) == "inputSchema" {
			t.Required = m.required(value)
		}
		return true
	})
	if further {
		t.Other = canonicalObject(nil, m.Raw, at, func(key []byte) bool {
			return string(key) == "name" || known(key) != nil
		})
	}
	return t
}

// required reads a schema's list of required properties. Names that are blank,
// very long or hold NUL are of no use to a condition, and left out.
func (m *Message) required(schema Span) []string {
	var names []string
	list, _ := m.Member(schema, "required")
	elements(m.Raw, list, func(e Span) {
		name, ok := m.Text(e)
		if ok && len(name) <= maxProperty && len(bytes.TrimSpace([]byte(name))) > 0 && !bytes.Contains([]byte(name), []byte{0}) {
			names = append(names, name)
		}
	})
	slices.Sort(names)
	return slices.Compact(names)
}
