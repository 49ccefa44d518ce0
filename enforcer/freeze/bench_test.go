package freeze

import (
	"testing"
	"time"
)

// What every call pays, twice or thrice.
func BenchmarkCheck(b *testing.B) {
	board := New(Config{})
	now := time.Now()
	for name, n := range map[string]int{"none": 0, "100": 100} {
		b.Run(name, func(b *testing.B) {
			var list []Freeze
			for range n {
				list = append(list, Freeze{Target: Target{Issuer: alice.Issuer, Sub: "alicf"}})
			}
			board.state.Store(&state{freezes: list})
			board.confirmed.Store(&now)
			b.ReportAllocs()
			for b.Loop() {
				if err := board.Check(alice); err != nil {
					now = time.Now() // it ran longer than the store's patience
					board.confirmed.Store(&now)
				}
			}
		})
	}
}
