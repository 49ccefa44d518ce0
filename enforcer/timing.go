package enforcer

import (
	"time"

	"countersign/audit"
)

// part is a part of a call whose time the record tells apart. What is left of
// the whole (the scan, the decision, the client that takes its time) is in none.
type part int

const (
	partWait       part = iota // for people
	partCredential             // to be minted, or to be had again
	partUpstream               // sending, and waiting for what comes back
	partMask                   // of what comes back
	partRecord                 // the intent, until it is durable
	parts
)

var partNames = [parts]string{"wait", "credential", "upstream", "mask", "record"}

// spends is where a call's time went.
type spends [parts]time.Duration

// clock measures a part, from now until the function that it returns is called.
func (x *exchange) clock(p part) (stop func()) {
	start := x.e.Now()
	return func() { x.spends[p] += x.e.Now().Sub(start) }
}

// timings are the parts that took any time.
func (s *spends) timings() (out []audit.Timing) {
	for p, d := range s {
		if ms := millis(d); ms > 0 {
			out = append(out, audit.Timing{Part: partNames[p], Millis: ms})
		}
	}
	return out
}
