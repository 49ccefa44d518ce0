package mask

import (
	"bytes"
	"regexp"
)

// Pattern is a detector of the user's own: what policy says, compiled.
type Pattern struct {
	ID         string
	Expression *regexp.Regexp // never nil
	Group      int            // what is masked; 0 is the whole match
	MinEntropy float64        // bits a character that it must have; 0: any
}

const (
	// window is how much text an expression sees at a time: the clock is read in
	// between. maxMatch is how far the windows overlap: a longer match may be
	// found in part only.
	window   = 64 << 10
	maxMatch = 4 << 10
)

// search appends what the user's own patterns find, string by string. Go's
// expressions take time linear in the text; those that begin with fixed text
// cost nothing where it is not.
func (ds *detectorSet) search(buf []byte, cuts []int, c *clock, found []finding) []finding {
	for n := range ds.own {
		p := &ds.own[n]
		if prefix, _ := p.Expression.LiteralPrefix(); prefix != "" && !bytes.Contains(buf, []byte(prefix)) {
			continue
		}
		cut := 0
		for low := 0; low < len(buf); {
			for cut < len(cuts) && cuts[cut] <= low {
				cut++
			}
			high := len(buf)
			if cut < len(cuts) {
				high = cuts[cut]
			}
			for at := low; ; at += window - maxMatch {
				text := buf[at:min(high, at+window)]
				if c.work(8 * len(text)) {
					return found
				}
				for _, m := range p.Expression.FindAllSubmatchIndex(text, -1) {
					start, end := m[2*p.Group], m[2*p.Group+1]
					if start >= 0 && start < end && shannon(text[start:end]) >= p.MinEntropy {
						found = append(found, finding{at + start, at + end, &ds.owned[n]})
					}
				}
				if at+window >= high {
					break
				}
			}
			low = high
		}
	}
	return found
}
