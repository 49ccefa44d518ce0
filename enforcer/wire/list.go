package wire

import (
	"errors"
	"fmt"
)

// FilterList hides the elements of a list result that keep refuses. The key
// is tools, prompts, resources or resourceTemplates; keep gets an element's
// name and its uri (for templates its uriTemplate), "" where it has none, and
// where it stands in m. It returns the message with the hidden elements cut
// out, and how many there were; what stays keeps its bytes.
//
// An element that cannot be told by name (or uri, for resources) is hidden.
// A cacheScope of public becomes private even if nothing was hidden, because
// the next caller's list may differ (2026-07-28 "Caching"). A message that is
// not a list result of that key comes back as it is, an error response for
// instance; a key spelled in another case is an error.
func FilterList(m *Message, key string, keep func(name, uri string, at Span) bool) ([]byte, int, error) {
	if m.Kind != Response {
		return nil, 0, errors.New("a list result must be a response")
	}
	var list Span
	var variant string
	members(m.Raw, m.Result, func(_ Span, name []byte, value Span) bool {
		if string(name) == key {
			list = value
		} else if k := caseVariant(name, []string{key, "cacheScope"}); k != "" {
			variant = k
		}
		return true
	})
	if variant != "" {
		return nil, 0, fmt.Errorf("the result has a key spelled like %s but in another case", variant)
	}
	edits := m.privatize()
	hidden := 0
	if list.Present() {
		if m.Raw[list.Start] != '[' {
			return nil, 0, fmt.Errorf("result.%s is not an array", key)
		}
		cuts, n, err := m.cuts(list, key, keep)
		if err != nil {
			return nil, 0, err
		}
		edits, hidden = append(edits, cuts...), n
	}
	if len(edits) == 0 {
		return m.Raw, 0, nil
	}
	return Splice(m.Raw, edits...), hidden, nil
}

// Private turns a result's cacheScope of public into private; for answers that
// policy shaped for one caller.
func Private(m *Message) []byte {
	edits := m.privatize()
	if len(edits) == 0 {
		return m.Raw
	}
	return Splice(m.Raw, edits...)
}

func (m *Message) privatize() []Edit {
	at, ok := m.Member(m.Result, "cacheScope")
	if scope, _ := m.Text(at); !ok || scope != "public" {
		return nil
	}
	return []Edit{{at, []byte(`"private"`)}}
}

// cuts makes the edits that remove elements with the commas that belong to
// them: elements before the first that stays go with the comma after them, all
// others with the comma before.
func (m *Message) cuts(list Span, key string, keep func(name, uri string, at Span) bool) ([]Edit, int, error) {
	var all []Span
	elements(m.Raw, list, func(e Span) { all = append(all, e) })
	var edits []Edit
	hidden, kept, first := 0, 0, -1
	for i, e := range all {
		stays, err := m.stays(e, key, keep)
		if err != nil {
			return nil, 0, err
		}
		switch {
		case stays && kept == 0:
			kept++
			if first >= 0 {
				edits = append(edits, Edit{Span: Span{all[first].Start, e.Start}})
			}
		case stays:
			kept++
		case kept == 0:
			hidden++
			if first < 0 {
				first = i
			}
		default:
			hidden++
			edits = append(edits, Edit{Span: Span{all[i-1].End, e.End}})
		}
	}
	if kept == 0 && hidden > 0 {
		edits = []Edit{{Span: Span{all[0].Start, all[len(all)-1].End}}}
	}
	return edits, hidden, nil
}

func (m *Message) stays(e Span, key string, keep func(name, uri string, at Span) bool) (bool, error) {
	if m.Raw[e.Start] != '{' {
		return false, nil
	}
	var name, uri, variant string
	members(m.Raw, e, func(_ Span, k []byte, v Span) bool {
		switch string(k) {
		case "name":
			name, _ = m.Text(v)
		case "uri", "uriTemplate":
			if (string(k) == "uri") == (key == "resources") {
				uri, _ = m.Text(v)
			}
		default:
			if known := caseVariant(k, []string{"name", "uri", "uriTemplate"}); known != "" {
				variant = known
			}
		}
		return true
	})
	if variant != "" {
		return false, fmt.Errorf("an element of %s has a key spelled like %s but in another case", key, variant)
	}
	if key == "tools" || key == "prompts" {
		return name != "" && keep(name, uri, e), nil
	}
	return uri != "" && keep(name, uri, e), nil
}
