package wire

import "slices"

// Without is the message's text without the named members of its params: each
// goes with its key, the comma beside it and the space between. Every other
// byte stays.
func (m *Message) Without(names ...string) []byte {
	var edits []Edit
	open := m.Params.Start + 1 // where the first member that stays will begin
	kept, gone, last := false, false, open
	members(m.Raw, m.Params, func(key Span, name []byte, value Span) bool {
		switch {
		case slices.Contains(names, string(name)):
			if gone = true; kept { // with the comma in front of it
				edits = append(edits, Edit{Span: Span{last, value.End}})
			}
		case !kept && gone: // with the commas behind those that came before
			edits = append(edits, Edit{Span: Span{open, key.Start}})
			kept = true
		default:
			kept = true
		}
		last = value.End
		return true
	})
	if gone && !kept {
		edits = append(edits, Edit{Span: Span{open, last}})
	}
	return Splice(m.Raw, edits...)
}
