package mask

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// writeSpeeds measures, and writes rows of speedHead, and a line on known values.
func writeSpeeds(t *testing.T, page *strings.Builder, theirs map[string]float64) {
	texts := reportTexts(t)
	ds := newDetectorSet(nil, nil)
	m := New(Options{Budget: time.Hour, MaxMessage: 64 << 20})
	c := m.search().clock
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		text := []byte(texts[name])
		msg, err := json.Marshal(map[string]string{"text": texts[name]})
		if err != nil {
			t.Fatal(err)
		}
		var found []finding
		detect := speedOf(len(text), func() { found = ds.scan(text, nil, true, &c, found[:0]) })
		whole := speedOf(len(msg), func() {
			if _, _, err := m.Message(msg); err != nil {
				t.Fatal(err)
			}
		})
		fmt.Fprintf(page, "| %s | %.0f | %.1f | %.2f |\n", name[2:], detect, whole, theirs[name])
	}
	r := crowdOf(t, 300)
	s := r.search()
	text := corpus(1 << 20)
	known := speedOf(len(text), func() { s.matches = s.index.scan(text, &s.clock, s.matches[:0]) })
	fmt.Fprintf(page, "\nThe search for 300 known values in all their forms: %.0f MB/s on the clean text.\n", known)
}

func crowdOf(t *testing.T, n int) *Mask {
	m := New(Options{Budget: time.Hour})
	for i := range n {
		if _, err := m.Add(fmt.Sprint("v", i), fmt.Sprintf("%x-%d-value", i*7919, i)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// speedOf is the best of several runs within half a second, in MB/s.
func speedOf(size int, run func()) float64 {
	best := time.Hour
	for begin, n := time.Now(), 0; n < 3 || time.Since(begin) < 500*time.Millisecond; n++ {
		start := time.Now()
		run()
		best = min(best, time.Since(start))
	}
	return float64(size) / best.Seconds() / 1e6
}
