package rules

import (
	"fmt"
	"math"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Detector is a pattern of the user's own for what is to be masked: masks/*.yaml.
type Detector struct {
	ID         string
	Expression *regexp.Regexp // RE2: time linear in the text
	Group      int            // the part of a match that is masked; 0 is all of it
	MinEntropy float64        // bits a character that this part must have; 0: any
}

// Bounds of detectors: each is looked for in all that passes.
const (
	maxDetectors    = 32
	maxExpression   = 512  // bytes
	maxInstructions = 1000 // of the compiled expression
	maxExamples     = 32   // of either kind
	maxExample      = 1024 // bytes
)

// ordinary is a text of which no detector may take much: prose, JSON, SQL, code.
const ordinary = `The quick brown fox jumps over 13 lazy dogs, says ada@example.com on 2026-01-02.
{"id": 42, "name": "Ada Lovelace", "url": "https://example.com/a/b?c=d"}
SELECT id, name FROM customers WHERE created_at > '2026-01-01' ORDER BY name LIMIT 100;
func main() { fmt.Println("hello, world", 3.14159) } // 123e4567-e89b-12d3-a456-426614174000`

// Find returns the offsets of what the detector takes of a text, pair by pair.
func (d Detector) Find(text string) [][2]int {
	var found [][2]int
	for _, m := range d.Expression.FindAllStringSubmatchIndex(text, -1) {
		if start, end := m[2*d.Group], m[2*d.Group+1]; start >= 0 && start < end && bits(text[start:end]) >= d.MinEntropy {
			found = append(found, [2]int{start, end})
		}
	}
	return found
}

// bits is the Shannon entropy of the first 64 bytes of s, in bits a byte.
func bits(s string) float64 {
	s = s[:min(len(s), 64)]
	var counts [256]float64
	for i := range len(s) {
		counts[s[i]]++
	}
	sum := 0.0
	for _, n := range counts {
		if n > 0 {
			sum -= n / float64(len(s)) * math.Log2(n/float64(len(s)))
		}
	}
	return sum
}

// detectors reads the list under detectors of one file.
func (l *loader) detectors(d *document, n *yaml.Node) {
	if n == nil {
		return
	}
	for _, item := range d.list(n, "detectors") {
		before := len(*d.problems)
		det := l.detector(d, item)
		if len(*d.problems) > before {
			if det.ID != "" { // that it is named elsewhere is not wrong, too
				l.policy.own = append(l.policy.own, Problem{d.file, item.Line, item.Column, det.ID})
			}
			continue
		}
		m := &l.policy.masks
		if slices.ContainsFunc(m.Detectors, func(o Detector) bool { return o.ID == det.ID }) {
			d.report(item, "duplicate id %q among the detectors", det.ID)
			continue
		}
		if len(m.Detectors) == maxDetectors {
			d.report(item, "a policy has at most %d detectors of its own", maxDetectors)
			return
		}
		m.Detectors = append(m.Detectors, det)
		l.policy.own = append(l.policy.own, Problem{d.file, item.Line, item.Column, det.ID})
	}
}

func (l *loader) detector(d *document, n *yaml.Node) (det Detector) {
	f, ok := d.fields(n, "a detector", "id", "pattern", "group", "min_entropy", "examples", "counterexamples")
	if !ok {
		return det
	}
	for _, name := range []string{"id", "pattern", "examples"} {
		if f[name] == nil {
			d.report(n, "%s is missing", name)
			return det
		}
	}
	if det.ID = d.text(f["id"], "id"); !d.named(det.ID, f["id"].Line, f["id"].Column, "id") {
		return det
	}
	if det.Expression = d.expression(f["pattern"]); det.Expression == nil {
		return det
	}
	if at := f["group"]; at != nil {
		if det.Expression.NumSubexp() == 0 {
			d.report(at, "group: the pattern has no groups")
			return det
		}
		det.Group = d.count(at, "group", 1, det.Expression.NumSubexp())
	}
	if at := f["min_entropy"]; at != nil {
		v, err := strconv.ParseFloat(at.Value, 64)
		if at.Kind != yaml.ScalarNode || at.Tag != "!!int" && at.Tag != "!!float" || err != nil || !(v > 0 && v <= 6) {
			d.report(at, "min_entropy must be a number of bits a character, over 0 and at most 6")
			return det
		}
		det.MinEntropy = v
	}
	if det.Group > det.Expression.NumSubexp() {
		return det
	}
	taken := 0
	for _, m := range det.Find(ordinary) {
		taken += m[1] - m[0]
	}
	if 8*taken > len(ordinary) {
		d.report(f["pattern"], "the pattern would mask %d%% of an ordinary text: begin it with what only the secret begins with", 100*taken/len(ordinary))
	}
	d.samples(f["examples"], "examples", det, true)
	d.samples(f["counterexamples"], "counterexamples", det, false)
	return det
}

// expression compiles a pattern, nil if it said why not.
func (d *document) expression(n *yaml.Node) *regexp.Regexp {
	s := d.text(n, "pattern")
	if s == "" {
		return nil
	}
	if len(s) > maxExpression {
		d.report(n, "the pattern has %d bytes: it may have %d", len(s), maxExpression)
		return nil
	}
	tree, err := syntax.Parse(s, syntax.Perl)
	if err != nil {
		d.report(n, "the pattern is not one that RE2 knows: %v", err)
		return nil
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		d.report(n, "the pattern cannot be compiled: %v", err)
		return nil
	}
	if len(prog.Inst) > maxInstructions {
		d.report(n, "the pattern compiles to %d instructions: it may have %d; use shorter repetitions", len(prog.Inst), maxInstructions)
		return nil
	}
	re, err := regexp.Compile(s)
	switch {
	case err != nil:
		d.report(n, "the pattern cannot be compiled: %v", err)
		return nil
	case re.MatchString(""):
		d.report(n, "the pattern matches nothing at all: each part of it may be left out")
		return nil
	}
	return re
}

// samples holds a detector to its examples.
func (d *document) samples(n *yaml.Node, what string, det Detector, match bool) {
	if n != nil && n.Kind == yaml.SequenceNode && len(n.Content) > maxExamples {
		d.report(n, "%s: %d of them; at most %d", what, len(n.Content), maxExamples)
		return
	}
	d.each(n, what, func(at *yaml.Node, text string) {
		switch found := det.Find(text); {
		case len(text) > maxExample:
			d.report(at, "%s: one has %d bytes; at most %d", what, len(text), maxExample)
		case match && len(found) == 0:
			d.report(at, "detector %s does not find this example%s", det.ID, lacking(det, text))
		case !match && len(found) > 0:
			d.report(at, "detector %s finds this counterexample, at byte %d", det.ID, found[0][0])
		}
	})
}

// lacking says whether it was the entropy.
func lacking(det Detector, text string) string {
	low := det
	low.MinEntropy = 0
	if found := low.Find(text); len(found) > 0 {
		return fmt.Sprintf(": it has %.1f bits a character, min_entropy is %g", bits(text[found[0][0]:found[0][1]]), det.MinEntropy)
	}
	return ""
}
