package mask

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func crowd(b *testing.B, n int) *Mask {
	r := rand.New(rand.NewPCG(9, 9))
	m := New(Options{})
	for i := range n {
		if _, err := m.Add(fmt.Sprintf("v%d", i), sampleOf(r, b64url, 24)); err != nil {
			b.Fatal(err)
		}
	}
	return m
}

// corpus is a tool result: prose, code and JSON as text.
func corpus(size int) []byte {
	words := strings.Fields(`the quick SELECT id, name FROM customers WHERE created_at > now() func main() { return } error: https://example.com/a/b?c=d
		user@example.com 2026-01-02T03:04:05Z 192.168.0.1 {"key": "value", "n": 12345} task-key npm install github.com/x/y Authorization`)
	r := rand.New(rand.NewPCG(11, 12))
	var s strings.Builder
	for s.Len() < size {
		s.WriteString(words[r.IntN(len(words))])
		s.WriteByte(" \n"[r.IntN(20)/19])
	}
	b, _ := json.Marshal(map[string]any{"result": map[string]any{"content": []any{map[string]any{"type": "text", "text": s.String()}}}})
	return b
}

func message(b *testing.B, m *Mask, msg []byte) {
	b.Helper()
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := m.Message(msg); err != nil && err != ErrBudget {
			b.Fatal(err)
		}
	}
}

// BenchmarkIndex is the search for known values alone.
func BenchmarkIndex(b *testing.B) {
	text := corpus(1 << 20)
	for _, n := range []int{1, 300, 10_000} {
		m := crowd(b, n)
		b.Run(fmt.Sprint(n, " values, all forms"), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			s := m.search()
			for b.Loop() {
				s.matches = s.index.scan(text, &s.clock, s.matches[:0])
			}
			ix := m.index.Load()
			b.ReportMetric(float64(len(ix.old.needles)+len(ix.young.needles)), "forms")
		})
	}
}

// BenchmarkDetectors is the search for token formats alone.
func BenchmarkDetectors(b *testing.B) {
	ds := newDetectorSet(nil, nil)
	for name, text := range hostile(1 << 20) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			c := New(Options{Budget: 1 << 60}).search().clock
			var found []finding
			for b.Loop() {
				found = ds.scan([]byte(text), nil, true, &c, found[:0])
			}
		})
	}
}

// hostile is text that looks like many tokens, and is none or all of them.
func hostile(size int) map[string]string {
	fill := func(s string) string { return strings.Repeat(s, size/len(s)+1)[:size] }
	return map[string]string{
		"clean":     string(corpus(size)),
		"prefixes":  fill(" sk-ant-ghp_xoxb-AKIAeyJ hvs.npm_ glpat-SG.sk_live_AIza"),
		"jwt":       fill("-eyJ"),
		"jwt dots":  fill("eyJaaaaaaaaaa.eyJ."),
		"dashes":    fill("-"),
		"pem":       fill("-----BEGIN PRIVATE KEY-----"),
		"urls":      fill("://a:b"),
		"almost":    fill(" sk-ant-" + strings.Repeat("a-", 150)),
		"backslash": fill(`\\\\u005c`),
		"percent":   fill("%25"),
		"mixed":     fill(`\\%5c&amp;#92;%2525\u005c `),
		"base64":    base64.StdEncoding.EncodeToString([]byte(fill(`\\%5cQUJD `)))[:size],
		"lines":     fill("QUJDREVGR0hJSktMTU5P\n"),
		"breaks":    fill("QUJDREVG\n         "),
		"open":      fill(`{"a":`),
		"quotes":    fill(`"\`),
	}
}

func BenchmarkMessage(b *testing.B) {
	for _, n := range []int{0, 300, 10_000} {
		for name, msg := range map[string][]byte{"200 bytes": corpus(100), "1 MB": corpus(1 << 20)} {
			b.Run(fmt.Sprint(name, ", ", n, " values"), func(b *testing.B) { message(b, crowd(b, n), msg) })
		}
	}
}

func BenchmarkHostileMessage(b *testing.B) {
	m := crowd(b, 300)
	for name, text := range hostile(1 << 20) {
		msg, _ := json.Marshal([]string{text})
		b.Run(name, func(b *testing.B) { message(b, m, msg) })
	}
	one := New(Options{})
	if _, err := one.Add("p", strings.Repeat("ab", 500)); err != nil {
		b.Fatal(err)
	}
	b.Run("periodic value", func(b *testing.B) { message(b, one, []byte(`"`+strings.Repeat("ab", 1<<19)+`"`)) })
	msg, _ := json.Marshal(strings.Split(strings.Repeat("a,b,c,d", 1<<17), ","))
	b.Run("tiny strings", func(b *testing.B) { message(b, m, msg) })
}

func BenchmarkAdd(b *testing.B) {
	for _, n := range []int{0, 300, 10_000} {
		m := crowd(b, n)
		r := rand.New(rand.NewPCG(1, 9))
		b.Run(fmt.Sprint("to ", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Add("l", sampleOf(r, b64url, 24)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
