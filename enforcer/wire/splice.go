package wire

import (
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// Edit replaces a range of bytes. A range of no length is an insertion.
type Edit struct {
	Span Span
	New  []byte
}

// Splice applies edits to a copy of raw: every byte outside their spans stays
// as it was. Insertions at one place keep the order in which they were given.
// Edits that overlap or lie outside of raw give nil: nothing is ever sent that
// was edited by guess.
func Splice(raw []byte, edits ...Edit) []byte {
	sorted := slices.Clone(edits)
	slices.SortStableFunc(sorted, func(a, b Edit) int {
		if a.Span.Start != b.Span.Start {
			return a.Span.Start - b.Span.Start
		}
		return a.Span.End - b.Span.End
	})
	size, at := len(raw), 0
	for _, e := range sorted {
		if e.Span.Start < at || e.Span.End < e.Span.Start || e.Span.End > len(raw) {
			return nil
		}
		at = e.Span.End
		size += len(e.New) - (e.Span.End - e.Span.Start)
	}
	out := make([]byte, 0, size)
	at = 0
	for _, e := range sorted {
		out = append(out, raw[at:e.Span.Start]...)
		out = append(out, e.New...)
		at = e.Span.End
	}
	return append(out, raw[at:]...)
}

// SetArgument makes the edit that sets params.arguments.<name> to a JSON
// value: the value is replaced where the argument exists, otherwise the
// argument is added at the end. Only one such edit fits into one Splice; for
// several arguments use SetArguments.
func (m *Message) SetArgument(name string, value []byte) (Edit, error) {
	edits, err := m.SetArguments(map[string][]byte{name: value})
	if err != nil {
		return Edit{}, err
	}
	return edits[0], nil
}

// SetArguments makes the edits that set several arguments at once; the
// arguments that are new come in the order of their names.
func (m *Message) SetArguments(values map[string][]byte) ([]Edit, error) {
	if m.Kind == Response {
		return nil, errors.New("a response has no arguments to set")
	}
	if m.Arguments.Present() && m.Raw[m.Arguments.Start] != '{' {
		return nil, errors.New("params.arguments is not an object")
	}
	names := make([]string, 0, len(values))
	for name, value := range values {
		if !utf8.ValidString(name) {
			return nil, errors.New("an argument's name is not valid UTF-8")
		}
		if err := validValue(value); err != nil {
			return nil, fmt.Errorf("the value for argument %q is not strict JSON: %w", name, err)
		}
		names = append(names, name)
	}
	slices.Sort(names)

	var edits []Edit
	var added []byte
	for _, name := range names {
		if at, ok := m.Member(m.Arguments, name); ok {
			edits = append(edits, Edit{at, values[name]})
			continue
		}
		if clash := m.foldedArgument(name); clash {
			return nil, fmt.Errorf("the call has an argument that differs from %q only in case", name)
		}
		if added != nil {
			added = append(added, ',')
		}
		added = append(appendString(added, []byte(name)), ':')
		added = append(added, values[name]...)
	}
	if added != nil {
		edits = append(edits, m.insertion(added))
	}
	if len(edits) == 0 {
		return nil, errors.New("there is no argument to set")
	}
	return edits, nil
}

// insertion places new members at the end of params.arguments, making the
// objects around them where they are missing.
func (m *Message) insertion(added []byte) Edit {
	wrap := func(before string, after string) []byte {
		return append(append([]byte(before), added...), after...)
	}
	comma := func(empty bool) string {
		if empty {
			return ""
		}
		return ","
	}
	switch {
	case m.Arguments.Present():
		at := m.Arguments.End - 1
		return Edit{Span{at, at}, wrap(comma(m.empty), "")}
	case m.Params.Present():
		at := m.Params.End - 1
		return Edit{Span{at, at}, wrap(comma(m.emptyParams)+`"arguments":{`, "}")}
	}
	at := len(m.Raw) - 1
	for m.Raw[at] != '}' { // Parse saw to it that there is one
		at--
	}
	return Edit{Span{at, at}, wrap(`,"params":{"arguments":{`, "}}")}
}

func (m *Message) foldedArgument(name string) bool {
	folded, clash := foldKey([]byte(name)), false
	members(m.Raw, m.Arguments, func(_ Span, key []byte, _ Span) bool {
		clash = foldKey(key) == folded
		return !clash
	})
	return clash
}

// validValue holds a value that we are about to insert to the same strictness
// as one that came with the message.
func validValue(value []byte) error {
	s := scanner{b: value, m: &Message{}, maxDepth: defaultDepth}
	end, err := s.value(0, inArgument)
	if err != nil {
		return err
	}
	if end != len(value) {
		return &Error{Code: CodeParse, Reason: "data after the value", Offset: end}
	}
	return nil
}
