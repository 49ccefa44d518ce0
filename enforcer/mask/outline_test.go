package mask

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func unhurried() *clock {
	return &clock{now: time.Now, deadline: time.Now().Add(time.Hour)}
}

// What the outline says of each bracket is what reading a tree there says.
func TestOutlineAgreesWithTheTree(t *testing.T) {
	check := func(text string) {
		t.Helper()
		o := newOutline([]byte(text), unhurried())
		for i := range len(text) {
			if text[i] != '{' && text[i] != '[' {
				continue
			}
			tr := &tree{raw: []byte(text)}
			root, ok := tr.read(i)
			if got := o.opens(i); got != ok {
				t.Fatalf("%.200q at %d: opens %v, the tree %v", text, i, got, ok)
			}
			if s := o.shapes[o.index[i]-1]; ok && (int(s.end) != tr.items[root].end || int(s.items) != len(tr.items)) {
				t.Fatalf("%.200q at %d: %+v, but the tree ends at %d with %d items", text, i, s, tr.items[root].end, len(tr.items))
			}
		}
	}
	for _, text := range []string{
		`[]`, `{}`, `[ ]`, `{ }`, `[[]`, `[{}`, `[1,]`, `[,1]`, `[1 2]`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a":1,"b":[{"c":"]"}]} [`,
		`[[[ {"a":[1,2,{"b":null}]}, tru ]]]`, `["[[", [true, false], "[\"[", [-1.5e3, {"x":[]}]`, "[\"a\n\"]", `[01x]`, `{"a":[}]`, `["\q"]`,
		strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1), strings.Repeat("[", maxDepth+2) + strings.Repeat("]", maxDepth+2),
		strings.Repeat("[", maxDepth) + "1" + strings.Repeat("]", maxDepth), strings.Repeat(`{"a":`, maxDepth+1) + "1" + strings.Repeat("}", maxDepth+1),
	} {
		check(text)
	}
	r := rand.New(rand.NewPCG(51, 52))
	words := []string{"[", "]", "{", "}", `"a":`, `"b"`, ",", " ", "1", "-2e5", "true", "nul", `"[{\"`, `"`, `\`, "\n", `[]`, `{"k":[1,2]}`}
	for range 20_000 {
		var b strings.Builder
		for range r.IntN(24) {
			b.WriteString(words[r.IntN(len(words))])
		}
		check(b.String())
	}
}

// The work on brackets that open nothing grows as the text does.
func TestBracketsStayLinear(t *testing.T) {
	for _, unit := range hostileBrackets {
		cost := func(size int) float64 {
			text := []byte(strings.Repeat(unit, size/len(unit)))
			m := New(Options{})
			m.ConfigureFields([]FieldRule{{ID: "r", Servers: []string{"*"}, Tools: []string{"*"}, Action: Redact, Keys: []string{"k"}, Columns: []string{"k"}}}, nil)
			set := m.fields.Load()
			w := newFielder(set, set.list, *unhurried())
			w.within(text, 0)
			if w.clock.late || w.refused != nil {
				t.Fatalf("%q: late %v, refused %v", unit, w.clock.late, w.refused)
			}
			w.clock.over()
			return float64(w.clock.total) / float64(len(text))
		}
		if small, large := cost(1<<13), cost(1<<18); large > 2*small+1 {
			t.Errorf("%q: %.1f units of work a byte in 8 KB, %.1f in 256 KB", unit, small, large)
		}
	}
}

// hostileBrackets are units of texts that look like JSON from many places, and
// are none.
var hostileBrackets = []string{"[", "{", `{"a":`, "[[]", `["[\"`, `[""[`, `["[,`, `[{"k":1},`, `[1,[2,`, "[   ", `["a",{"b":"[{"`, `"k":((`, "[]", `{"k":"v"}]`}

// A text with more brackets than are remembered is refused, not let through.
func TestTooManyBrackets(t *testing.T) {
	m := New(Options{Budget: time.Hour, MaxMessage: 64 << 20})
	m.ConfigureFields([]FieldRule{{ID: "r", Servers: []string{"*"}, Tools: []string{"*"}, Action: Redact, Keys: []string{"k"}}}, nil)
	text := "[ oops" + strings.Repeat(" [", maxTokens+1)
	_, _, err := m.Answer([]byte(`{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"`+text+`"}]}}`), Site{Server: "s"})
	if err != ErrTooLarge {
		t.Errorf("got %v", err)
	}
}

func BenchmarkBrackets(b *testing.B) {
	m := New(Options{})
	m.ConfigureFields([]FieldRule{{ID: "r", Servers: []string{"*"}, Tools: []string{"*"}, Action: Redact, Keys: []string{"k"}, Columns: []string{"k"}}}, nil)
	for _, unit := range hostileBrackets {
		text := bytes.ReplaceAll(bytes.ReplaceAll([]byte(strings.Repeat(unit, 1<<16/len(unit))), []byte(`\`), []byte(`\\`)), []byte(`"`), []byte(`\"`))
		msg := []byte(`{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"` + string(text) + `"}]}}`)
		b.Run(unit, func(b *testing.B) {
			b.SetBytes(int64(len(msg)))
			for b.Loop() {
				if _, _, err := m.Answer(msg, Site{Server: "s"}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
