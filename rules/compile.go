package rules

import (
	"bytes"
	"cmp"
	"runtime"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"go.yaml.in/yaml/v3"
)

// compileAll compiles every distinct condition once, on all processors:
// policies of thousands of rules are swapped in while calls wait for nothing.
func compileAll(env *cel.Env, sources []ruleSource) (map[conditionText]*condition, map[conditionText][]issue) {
	conds, issues := map[conditionText]*condition{}, map[conditionText][]issue{}
	var texts []conditionText
	for _, src := range sources {
		if src.when != nil && src.rule.when != "" {
			texts = append(texts, src.text())
		}
	}
	slices.SortFunc(texts, func(a, b conditionText) int {
		return cmp.Or(strings.Compare(a.when, b.when), strings.Compare(a.required, b.required))
	})
	texts = slices.Compact(texts)

	var mu sync.Mutex
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), len(texts))
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(texts); i += workers {
				c, is := compile(env, texts[i])
				mu.Lock()
				conds[texts[i]], issues[texts[i]] = c, is
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return conds, issues
}

// place finds where in the file an issue of a condition is. Of a folded text
// only the first line is known for sure.
func place(d *document, n *yaml.Node, is issue) (line, column int) {
	switch n.Style {
	case yaml.LiteralStyle:
		line = n.Line + is.line
		lines := bytes.Split(d.src, []byte("\n"))
		if line-1 < len(lines) {
			text := string(lines[line-1])
			indent := len(text) - len(strings.TrimLeft(text, " "))
			// The text's own indentation beyond the block's counts in both.
			own := strings.Split(n.Value, "\n")
			if is.line-1 < len(own) {
				indent -= len(own[is.line-1]) - len(strings.TrimLeft(own[is.line-1], " "))
			}
			return line, max(indent, 0) + is.column + 1
		}
		return line, 1
	case yaml.FoldedStyle:
		return n.Line + 1, 1
	case yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle:
		return n.Line, n.Column + 1 + is.column
	}
	if is.line == 1 {
		return n.Line, n.Column + is.column
	}
	return n.Line, n.Column
}

// number sorts the rules by id and remembers the place of each.
func (p *Policy) number() {
	slices.SortStableFunc(p.rules, func(a, b *rule) int { return strings.Compare(a.id, b.id) })
	for i, r := range p.rules {
		r.order = i
	}
}
