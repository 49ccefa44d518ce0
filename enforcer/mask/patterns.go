package mask

import "regexp"

// Pattern is a detector of the user's own: what policy says, compiled.
type Pattern struct {
	ID         string
	Expression *regexp.Regexp
	Group      int     // what is masked: 0 is the whole match
	MinEntropy float64 // bits a character that it must have; 0: any
}

const (
	// window is how much text an expression sees at a time; the clock is read in
	// between. maxMatch is how much the windows overlap: a longer match may be
	// missed, or found in part.
	window   = 64 << 10
	maxMatch = 4 << 10
)

// search appends what the user's own patterns find, string by string. Go's
// expressions run in time linear in the text.
func (ds *detectorSet) search(buf []byte, cuts []int, c *clock, found []finding) []finding {
	for n := range ds.own {
		p := &ds.own[n]
		for i, low := 0, 0; low < len(buf); i++ {
			high := len(buf)
			for i < len(cuts) && cuts[i] <= low {
				i++
			}
			if i < len(cuts) {
				high = cuts[i]
			}
			for at := low; at < high; at += window - maxMatch {
				if c.over() {
					return found
				}
				text := buf[at:min(high, at+window)]
				for _, m := range p.Expression.FindAllSubmatchIndex(text, -1) {
					start, end := m[2*p.Group], m[2*p.Group+1]
					if start < 0 || start == end || shannon(text[start:end]) < p.MinEntropy {
						continue
					}
					found = append(found, finding{at + start, at + end, &ds.owned[n]})
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
