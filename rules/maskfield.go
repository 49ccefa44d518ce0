package rules

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// FieldAction is what a field rule does to a value.
type FieldAction string

// The actions, from the most restrictive to the least.
const (
	FieldBlock     FieldAction = "block"     // the whole answer is refused
	FieldDrop      FieldAction = "drop"      // the member, element or column goes
	FieldRedact    FieldAction = "redact"    // [masked: id]
	FieldPseudonym FieldAction = "pseudonym" // a keyed hash, the same for the same value
	FieldPartial   FieldAction = "partial"   // ****1234
	FieldKeep      FieldAction = "keep"      // exempt from the rules under Over
)

var fieldActions = []FieldAction{FieldBlock, FieldDrop, FieldRedact, FieldPseudonym, FieldPartial, FieldKeep}

// FieldRule masks fields of answers by their name or place.
type FieldRule struct {
	ID      string
	Servers []string     // names, or "*"
	Tools   []string     // names, prefixes ending in "*", or "*"
	Keys    []string     // names of object members, in any case, with at most one "*" each
	Columns []string     // the same for columns of a query's result
	Paths   [][]PathStep // from the root of structuredContent, or of JSON in a text
	Action  FieldAction
	Reason  string   // for the agent; required for block
	Over    []string // keep: ids of the rules that it exempts from
}

// PathStep is one step of a path, a subset of RFC 9535: .name, ["name"], [3],
// [*], and ..name, which is a name at any depth.
type PathStep struct {
	Deep  bool   // at any depth below
	Any   bool   // any member or element
	Index int    // of an element; -1 if the step is a name
	Name  string // of a member
}

// maxFieldRules bounds the work that one answer takes.
const maxFieldRules = 1000

func (l *loader) maskFields(d *document, n *yaml.Node) {
	if n == nil {
		return
	}
	for _, c := range d.list(n, "fields") {
		if len(l.policy.masks.Fields) >= maxFieldRules {
			d.report(c, "more than %d field rules", maxFieldRules)
			return
		}
		l.maskField(d, c)
	}
}

func (l *loader) maskField(d *document, n *yaml.Node) {
	f, ok := d.fields(n, "a field rule", "id", "server", "tool", "keys", "columns", "paths", "action", "reason", "over")
	if !ok {
		return
	}
	r := FieldRule{Tools: []string{"*"}}
	if at := f["id"]; at == nil {
		d.report(n, "id is missing: it names the rule in the record, and stands where a value was")
	} else if r.ID = d.text(at, "id"); d.named(r.ID, at.Line, at.Column, "id") {
		if slices.ContainsFunc(l.policy.masks.Fields, func(o FieldRule) bool { return o.ID == r.ID }) {
			d.report(at, "duplicate id %q: another field rule has it", r.ID)
		}
	}
	r.Servers = l.maskServers(d, n, f["server"])
	if at := f["tool"]; at != nil {
		r.Tools = d.patterns(at, "tool")
	}
	r.Keys, r.Columns = d.fieldNames(f["keys"], "keys"), d.fieldNames(f["columns"], "columns")
	r.Reason = d.text(f["reason"], "reason")
	if at := f["action"]; at == nil {
		d.report(n, "action is missing: block, drop, redact, pseudonym, partial or keep")
	} else if r.Action = FieldAction(d.text(at, "action")); r.Action != "" && !slices.Contains(fieldActions, r.Action) {
		d.report(at, "action %q is not known: block, drop, redact, pseudonym, partial or keep", r.Action)
	}
	d.each(f["paths"], "paths", func(at *yaml.Node, text string) {
		steps, err := parsePath(text)
		switch {
		case err != nil:
			d.report(at, "path %q: %v", text, err)
		case len(steps) == 0 && r.Action == FieldDrop:
			d.report(at, "path %q: drop needs a member or an element; block refuses the whole answer", text)
		default:
			r.Paths = append(r.Paths, steps)
		}
	})
	if f["keys"] == nil && f["columns"] == nil && f["paths"] == nil {
		d.report(n, "a field rule needs keys, columns or paths")
	}
	if r.Action == FieldBlock && f["reason"] == nil {
		d.report(n, "a field rule that blocks needs a reason, for the agent")
	}
	l.fieldOver(d, n, f["over"], &r)
	l.policy.masks.Fields = append(l.policy.masks.Fields, r)
}

// fieldOver reads which rules a keep exempts from: by name, so that one keep
// cannot undo a rule that its author has not seen.
func (l *loader) fieldOver(d *document, n, over *yaml.Node, r *FieldRule) {
	switch {
	case r.Action == FieldKeep && over == nil:
		d.report(n, "keep needs over: the ids of the field rules that it exempts from")
		return
	case r.Action != FieldKeep && over != nil:
		d.report(over, "over belongs to action: keep")
		return
	}
	d.each(over, "over", func(at *yaml.Node, id string) {
		r.Over = append(r.Over, id)
		l.late = append(l.late, func() {
			i := slices.IndexFunc(l.policy.masks.Fields, func(o FieldRule) bool { return o.ID == id })
			switch {
			case i < 0:
				d.report(at, "over %q: there is no field rule of that id", id)
			case l.policy.masks.Fields[i].Action == FieldKeep:
				d.report(at, "over %q: that rule keeps, too", id)
			}
		})
	})
}

// maskServers reads the servers of an entry in masks/, whose names are known
// later.
func (l *loader) maskServers(d *document, n, at *yaml.Node) (servers []string) {
	if at == nil {
		d.report(n, "server is missing: a name, a list of names, or \"*\"")
	}
	d.each(at, "server", func(at *yaml.Node, s string) {
		servers = append(servers, s)
		l.late = append(l.late, func() {
			if _, known := l.policy.servers[s]; !known && s != "*" {
				d.report(at, "server %q is not in servers/", s)
			}
		})
	})
	return servers
}

// fieldNames reads names in which one * may stand for anything.
func (d *document) fieldNames(n *yaml.Node, what string) []string {
	names := d.texts(n, what)
	for _, s := range names {
		if strings.Count(s, "*") > 1 {
			d.report(n, "%s %q: at most one * in a name", what, s)
		}
	}
	return names
}

// maxSteps bounds a path: its steps are the bits of a word where it is applied.
const maxSteps = 32

// parsePath reads a path: $.rows[*].email, a["odd name"][0], $..email. The $
// may be left out.
func parsePath(text string) ([]PathStep, error) {
	rest, rooted := strings.CutPrefix(text, "$")
	var steps []PathStep
	for first := true; rest != ""; first = false {
		step := PathStep{Index: -1}
		switch {
		case strings.HasPrefix(rest, ".."):
			step.Deep, rest = true, rest[2:]
		case rest[0] == '.':
			if rest = rest[1:]; rest == "" || rest[0] == '[' {
				return nil, fmt.Errorf("a name is missing behind a dot")
			}
		case rest[0] != '[' && !(first && !rooted):
			return nil, fmt.Errorf("expected . or [ before %q", rest)
		}
		var err error
		if rest, err = step.read(rest); err != nil {
			return nil, err
		}
		if steps = append(steps, step); len(steps) > maxSteps {
			return nil, fmt.Errorf("more than %d steps", maxSteps)
		}
	}
	return steps, nil
}

// read takes one name, index or * off the path.
func (s *PathStep) read(rest string) (string, error) {
	if !strings.HasPrefix(rest, "[") {
		end := strings.IndexAny(rest, ".[")
		if end < 0 {
			end = len(rest)
		}
		name := rest[:end]
		switch {
		case name == "*":
			s.Any = true
			return rest[end:], nil
		case name == "":
			return "", fmt.Errorf("a name is missing")
		case strings.ContainsFunc(name, func(r rune) bool { return strings.ContainsRune(`*?()@&|!<>=,:;"'\] `, r) }):
			return "", fmt.Errorf("%q is not a plain name: write [\"…\"] around it; filters and slices are not supported", name)
		}
		s.Name = name
		return rest[end:], nil
	}
	inner := rest[1:]
	if inner != "" && (inner[0] == '"' || inner[0] == '\'') {
		end := strings.IndexByte(inner[1:], inner[0])
		if end < 0 || !strings.HasPrefix(inner[end+2:], "]") || !utf8.ValidString(inner[1:end+1]) {
			return "", fmt.Errorf("a quoted name must end in %c]", inner[0])
		}
		if s.Name = inner[1 : end+1]; strings.Contains(s.Name, `\`) {
			return "", fmt.Errorf("escapes in a quoted name are not supported")
		}
		return inner[end+3:], nil
	}
	end := strings.IndexByte(inner, ']')
	if end < 0 {
		return "", fmt.Errorf("a ] is missing")
	}
	what := inner[:end]
	if what == "*" {
		s.Any = true
		return inner[end+1:], nil
	}
	i, err := strconv.ParseUint(what, 10, 31)
	if err != nil || strconv.FormatUint(i, 10) != what {
		return "", fmt.Errorf("[%s]: only an index, * or a quoted name may stand in brackets", what)
	}
	s.Index = int(i)
	return inner[end+1:], nil
}
