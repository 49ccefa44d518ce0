package rules

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// A document is one policy file under the strict reading of this package:
// every field is asked for by name, and what was not asked for is a problem.
// Aliases, anchors, merge keys, custom tags and second documents are refused:
// the reviewer of a pull request sees what the program sees.
type document struct {
	file     string
	src      []byte
	problems *Problems
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(?:column \d+: )?`)

// parse returns the file's root node, or nil if there is none to go on with.
func (d *document) parse() (root *yaml.Node) {
	// The YAML library reports its errors as values; a panic of it on some
	// input nobody thought of must still not take a running enforcer down.
	defer func() {
		if r := recover(); r != nil {
			*d.problems = append(*d.problems, Problem{d.file, 0, 0, fmt.Sprintf("cannot be read as YAML: %v", r)})
			root = nil
		}
	}()
	dec := yaml.NewDecoder(strings.NewReader(string(d.src)))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if err.Error() == "EOF" {
			*d.problems = append(*d.problems, Problem{d.file, 0, 0, "is empty"})
			return nil
		}
		d.syntax(err)
		return nil
	}
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		d.report(&second, "a file holds one YAML document: remove the second")
		return nil
	} else if err.Error() != "EOF" {
		d.syntax(err)
		return nil
	}
	if len(doc.Content) != 1 {
		*d.problems = append(*d.problems, Problem{d.file, 0, 0, "is empty"})
		return nil
	}
	if !d.plain(doc.Content[0]) {
		return nil
	}
	return doc.Content[0]
}

func (d *document) syntax(err error) {
	msg, line := err.Error(), 0
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		msg = msg[len(m[0]):]
		line, _ = strconv.Atoi(m[1]) // empty or too long: the file as a whole
	}
	p := Problem{d.file, line, 0, "not valid YAML: " + msg}
	if line > 0 {
		p.Column = 1
	}
	*d.problems = append(*d.problems, p)
}

// plain reports every use of what the strict reading leaves out.
func (d *document) plain(n *yaml.Node) bool {
	ok := true
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.report(n, "aliases and anchors are not supported: write the value out")
		return false
	}
	if n.Style&yaml.TaggedStyle != 0 || n.Tag == "!!merge" || n.Tag == "!!binary" {
		d.report(n, "tags and merge keys are not supported: write the value out")
		ok = false
	}
	if n.Kind == yaml.MappingNode {
		seen := make(map[string]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Kind != yaml.ScalarNode {
				d.report(k, "a key must be a plain word")
				ok = false
				continue
			}
			if first, dup := seen[k.Value]; dup {
				d.report(k, "duplicate key %q (first on line %d)", k.Value, first)
				ok = false
			}
			seen[k.Value] = k.Line
		}
	}
	for _, c := range n.Content {
		ok = d.plain(c) && ok
	}
	return ok
}

func (d *document) report(n *yaml.Node, format string, args ...any) {
	d.reportAt(n.Line, n.Column, format, args...)
}

func (d *document) reportAt(line, column int, format string, args ...any) {
	*d.problems = append(*d.problems, Problem{d.file, line, column, fmt.Sprintf(format, args...)})
}

// A field is a value together with the key that it stands under.
type field struct {
	key, val *yaml.Node
}

// fields reads a mapping that may hold the named fields and no others.
func (d *document) fields(n *yaml.Node, what string, allowed ...string) (map[string]*yaml.Node, bool) {
	if n.Kind != yaml.MappingNode {
		d.report(n, "%s must be a mapping, not %s", what, kind(n))
		return nil, false
	}
	m := make(map[string]*yaml.Node, len(n.Content)/2)
	for _, f := range pairs(n) {
		if !slices.Contains(allowed, f.key.Value) {
			d.report(f.key, "unknown field %q in %s (known: %s)", f.key.Value, what, strings.Join(allowed, ", "))
			continue
		}
		m[f.key.Value] = f.val
	}
	return m, true
}

func pairs(n *yaml.Node) []field {
	var fs []field
	for i := 0; i+1 < len(n.Content); i += 2 {
		fs = append(fs, field{n.Content[i], n.Content[i+1]})
	}
	return fs
}

// mapping lists the entries of a mapping whose keys the user chooses.
func (d *document) mapping(n *yaml.Node, what string) []field {
	if n == nil {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		d.report(n, "%s must be a mapping, not %s", what, kind(n))
		return nil
	}
	return pairs(n)
}

func (d *document) list(n *yaml.Node, what string) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		d.report(n, "%s must be a list, not %s", what, kind(n))
		return nil
	}
	return n.Content
}

// text reads a string; a number or a boolean in its place is refused rather
// than spelled back, since YAML may have changed it on the way.
func (d *document) text(n *yaml.Node, what string) string {
	if n == nil {
		return ""
	}
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		d.report(n, "%s must be a text, not %s", what, kind(n))
		return ""
	}
	if strings.TrimSpace(n.Value) == "" {
		d.report(n, "%s is empty", what)
	}
	return n.Value
}

// texts reads a text or a list of texts.
func (d *document) texts(n *yaml.Node, what string) []string {
	if n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		if s := d.text(n, what); s != "" {
			return []string{s}
		}
		return nil
	}
	if len(n.Content) == 0 {
		d.report(n, "%s is an empty list", what)
	}
	var out []string
	for _, c := range n.Content {
		s := d.text(c, what)
		if s == "" {
			continue
		}
		if slices.Contains(out, s) {
			d.report(c, "%s lists %q twice", what, s)
			continue
		}
		out = append(out, s)
	}
	return out
}

// each calls f for each text of a list, or of a single text, with its place.
func (d *document) each(n *yaml.Node, what string, f func(*yaml.Node, string)) {
	if n == nil {
		return
	}
	if len(d.texts(n, what)) == 0 {
		return // said why
	}
	nodes := n.Content
	if n.Kind != yaml.SequenceNode {
		nodes = []*yaml.Node{n}
	}
	for _, c := range nodes {
		if c.Kind == yaml.ScalarNode && c.Tag == "!!str" && c.Value != "" {
			f(c, c.Value)
		}
	}
}

func (d *document) textMap(n *yaml.Node, what string) map[string]string {
	fs := d.mapping(n, what)
	if len(fs) == 0 {
		return nil
	}
	m := make(map[string]string, len(fs))
	for _, f := range fs {
		m[f.key.Value] = d.text(f.val, what+"."+f.key.Value)
	}
	return m
}

func (d *document) number(n *yaml.Node, what string) int {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" {
		d.report(n, "%s must be a whole number, not %s", what, kind(n))
		return 0
	}
	i, err := strconv.Atoi(n.Value)
	if err != nil {
		d.report(n, "%s must be a whole number in decimal digits", what)
		return 0
	}
	return i
}

// truth reads true or false; absent, it is false.
func (d *document) truth(n *yaml.Node, what string) bool {
	if n == nil {
		return false
	}
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
		d.report(n, "%s must be true or false, not %s", what, kind(n))
		return false
	}
	return strings.EqualFold(n.Value, "true")
}

// count reads a whole number within bounds.
func (d *document) count(n *yaml.Node, what string, least, most int) int {
	before := len(*d.problems)
	i := d.number(n, what)
	if len(*d.problems) == before && (i < least || i > most) {
		d.report(n, "%s is %d: it must lie between %d and %d", what, i, least, most)
	}
	return i
}

// span reads a duration such as 45s, 15m or 1h30m, within bounds.
func (d *document) span(n *yaml.Node, what string, least, most time.Duration) time.Duration {
	s := d.text(n, what)
	if s == "" {
		return 0
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		d.report(n, "%s must be a duration such as 45s, 15m or 1h, not %q", what, s)
		return 0
	}
	if v < least || v > most {
		d.report(n, "%s is %v: it must lie between %v and %v", what, v, least, most)
		return 0
	}
	return v
}

// size reads a number of bytes such as 4MB; KB, MB and GB are powers of 1024.
func (d *document) size(n *yaml.Node, what string, most int64) int64 {
	units := []struct {
		suffix string
		shift  uint
	}{{"KB", 10}, {"MB", 20}, {"GB", 30}}
	if n.Kind == yaml.ScalarNode {
		s, shift := n.Value, uint(0)
		for _, u := range units {
			if rest, ok := strings.CutSuffix(n.Value, u.suffix); ok {
				s, shift = rest, u.shift
			}
		}
		v, err := strconv.ParseInt(s, 10, 64)
		if err == nil && v > 0 && v <= math.MaxInt64>>shift && v<<shift <= most {
			return v << shift
		}
	}
	d.report(n, "%s must be a size such as 512KB or 4MB, at most %d MB", what, most>>20)
	return 0
}

// json spells a node as JSON, numbers as they are written where JSON knows
// that spelling.
func (d *document) json(n *yaml.Node) json.RawMessage {
	var b strings.Builder
	if !d.writeJSON(&b, n) {
		return nil
	}
	return json.RawMessage(b.String())
}

func (d *document) writeJSON(b *strings.Builder, n *yaml.Node) bool {
	quote := func(s string) {
		q, err := json.Marshal(s)
		if err != nil { // cannot be: a string always has a JSON form
			d.report(n, "cannot be spelled as JSON: %v", err)
			return
		}
		b.Write(q)
	}
	switch n.Kind {
	case yaml.MappingNode:
		b.WriteByte('{')
		for i, f := range pairs(n) {
			if i > 0 {
				b.WriteByte(',')
			}
			quote(f.key.Value)
			b.WriteByte(':')
			if !d.writeJSON(b, f.val) {
				return false
			}
		}
		b.WriteByte('}')
	case yaml.SequenceNode:
		b.WriteByte('[')
		for i, c := range n.Content {
			if i > 0 {
				b.WriteByte(',')
			}
			if !d.writeJSON(b, c) {
				return false
			}
		}
		b.WriteByte(']')
	default:
		switch n.Tag {
		case "!!null":
			b.WriteString("null")
		case "!!bool":
			b.WriteString(strings.ToLower(n.Value))
		case "!!int", "!!float":
			if !json.Valid([]byte(n.Value)) {
				d.report(n, "%q is not a number in JSON: write it in decimal, or quote it", n.Value)
				return false
			}
			b.WriteString(n.Value)
		default:
			quote(n.Value)
		}
	}
	return true
}

func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "a boolean"
	case "!!int", "!!float":
		return "a number (quote it if a text is meant)"
	case "!!timestamp":
		return "a date (quote it if a text is meant)"
	}
	return "a text"
}
