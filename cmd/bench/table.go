package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// The targets, as ratios within one run: how many of the bare proxy's calls
// a second the product must reach, and how much longer than it one call may
// take beside two syncs of the disk.
const (
	wantShare = 0.8
	nextShare = 0.9
	wantExtra = 200 * time.Microsecond
	judged    = 200 // bytes of the answers that they are for
)

// cell is one line of the table.
type cell struct {
	clients int
	kind    string
	size    int
	way     string
}

// results collects the turns.
type results struct {
	duration time.Duration
	rounds   int
	order    []cell
	turns    map[cell][]turn
	disk     []time.Duration // write and fdatasync, nothing else under way
	record   *recordResults
}

func (r *results) add(c cell, t turn) {
	if r.turns == nil {
		r.turns = map[cell][]turn{}
	}
	if r.turns[c] == nil {
		r.order = append(r.order, c)
	}
	r.turns[c] = append(r.turns[c], t)
}

// calls is how many calls went a way, those that warmed up included.
func (r *results) calls(way string) (n int) {
	for c, turns := range r.turns {
		for _, t := range turns {
			if c.way == way {
				n += t.calls()
			}
		}
	}
	return n
}

// rate is the median of the rounds.
func (r *results) rate(c cell) float64 {
	var rates []float64
	for _, t := range r.turns[c] {
		rates = append(rates, t.rate())
	}
	return median(rates)
}

// share is the median of the rounds' ratios: each turn is compared with the
// one beside it.
func (r *results) share(c cell, of string) float64 {
	other := r.turns[cell{c.clients, c.kind, c.size, of}]
	var shares []float64
	for i, t := range r.turns[c] {
		shares = append(shares, t.rate()/other[i].rate())
	}
	return median(shares)
}

// latency is a percentile over all rounds.
func (r *results) latency(c cell, p float64) time.Duration {
	var all []time.Duration
	for _, t := range r.turns[c] {
		all = append(all, t.latency...)
	}
	slices.Sort(all)
	return percentile(all, p)
}

// cpu is what a call costs the process between, which is the figure that other
// programs on the machine disturb least.
func (r *results) cpu(c cell) (each time.Duration) {
	n := 0
	for _, t := range r.turns[c] {
		each += t.cpu
		n += t.calls()
	}
	return each / time.Duration(max(1, n))
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// String is the report.
func (r *results) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "calls of %d bytes, %d rounds of %s each; calls/s and ratios are medians of the rounds\n\n", callBytes, r.rounds, r.duration)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(cells ...string) { fmt.Fprintln(w, strings.Join(cells, "\t")+"\t") }
	line("clients", "answers", "size", "way", "calls/s", "p50", "p99", "CPU/call", "of bare", "of direct")
	for _, c := range r.order {
		line(fmt.Sprint(c.clients), c.kind, bytesOf(c.size), c.way, fmt.Sprintf("%.0f", r.rate(c)), micros(r.latency(c, 50)), micros(r.latency(c, 99)),
			micros(r.cpu(c)), fmt.Sprintf("%.2f", r.share(c, "bare")), fmt.Sprintf("%.2f", r.share(c, "direct")))
	}
	if err := w.Flush(); err != nil {
		return err.Error() // a strings.Builder does not fail
	}
	slices.Sort(r.disk)
	fmt.Fprintf(&b, "\nwrite and fdatasync on this disk, alone: p50 %s, p99 %s\n", micros(percentile(r.disk, 50)), micros(percentile(r.disk, 99)))
	fmt.Fprintf(&b, "targets: %s\n", strings.Join(r.judge(), "; "))
	if r.record != nil {
		b.WriteString("\n" + r.record.String())
	}
	return b.String()
}

// judge says which targets are met, for those counts of clients that were
// measured.
func (r *results) judge() []string {
	out := []string{}
	one, many := cell{1, "json", judged, "countersign"}, cell{64, "json", judged, "countersign"}
	if r.turns[one] != nil {
		bare, sync := r.latency(cell{1, "json", judged, "bare"}, 50), percentile(r.disk, 50)
		have, limit := r.latency(one, 50), bare+2*sync+wantExtra
		out = append(out, fmt.Sprintf("1 client p50 ≤ bare + 2 × fdatasync + %s = %s: %s with %s",
			micros(wantExtra), micros(limit), met(have <= limit), micros(have)))
	}
	if r.turns[many] != nil {
		share := r.share(many, "bare")
		out = append(out, fmt.Sprintf("64 clients ≥ %.1f × bare: %s with %.2f (then %.1f: %s)",
			wantShare, met(share >= wantShare), share, nextShare, met(share >= nextShare)))
	}
	if len(out) == 0 {
		out = append(out, "not judged: they are for 1 and 64 clients, answers of 200 bytes")
	}
	return out
}

// bytesOf is a size as the table shows it.
func bytesOf(n int) string {
	switch {
	case n >= 1_000_000:
		return fmt.Sprintf("%g MB", float64(n)/1e6)
	case n >= 1000:
		return fmt.Sprintf("%g KB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}

func met(ok bool) string {
	if ok {
		return "met"
	}
	return "missed"
}

func micros(d time.Duration) string { return fmt.Sprintf("%d µs", d.Microseconds()) }
