package mask

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkAnswer masks answers that nothing is found in, with more and more
// field rules.
func BenchmarkAnswer(b *testing.B) {
	const row = `{"id":12345,"name":"Some One","plan":"pro","note":"nothing here to see"}`
	for _, n := range []int{1, 100, 10_000} {
		rows := "[" + strings.TrimSuffix(strings.Repeat(row+",", n), ",") + "]"
		msg := []byte(result(rows, rows))
		for _, k := range []int{0, 1, 100} {
			m := New(Options{})
			var rules []FieldRule
			for i := range k {
				rules = append(rules, FieldRule{ID: fmt.Sprint("r", i), Servers: []string{"s"}, Tools: []string{"*"}, Action: Redact,
					Keys: []string{fmt.Sprint("k", i)}, Columns: []string{fmt.Sprint("c", i)}, Paths: [][]Step{{member("rows"), anyStep, member("x")}}})
			}
			m.ConfigureFields(rules, nil)
			b.Run(fmt.Sprintf("rows=%d/rules=%d", n, k), func(b *testing.B) {
				b.SetBytes(int64(len(msg)))
				for b.Loop() {
					if _, _, err := m.Answer(msg, Site{Server: "s"}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
