package mask

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Allowance lets through what a detector finds, or a key rule masks, and is no
// secret. All that it says must hold. It never holds for known values.
type Allowance struct {
	Hash     string    // SHA-256 of what is found, as it stands in the decoded text, lower-case hex; "" for any
	Detector string    // "key" for key rules; "" for any
	Servers  []string  // names, or "*"; empty for any
	Tools    []string  // names, prefixes ending in "*", or "*"; empty for any
	Path     string    // a Hit's place, and all below it; [*] stands for any index; "" for any
	Until    time.Time // zero: for ever
}

// allowance is an Allowance, ready to be asked.
type allowance struct {
	Allowance
	path *regexp.Regexp // nil: any
}

// ConfigureAllowed replaces what is let through.
func (m *Mask) ConfigureAllowed(list []Allowance) {
	out := make([]allowance, 0, len(list))
	for _, a := range list {
		one := allowance{Allowance: a}
		if a.Path != "" {
			quoted := strings.ReplaceAll(regexp.QuoteMeta(a.Path), `\[\*\]`, `\[[0-9*]+\]`)
			one.path = regexp.MustCompile("^" + quoted + `($|[.|(\[])`) // quoted, so it compiles
		}
		out = append(out, one)
	}
	m.allowed.Store(&out)
}

// allowedAt lists what is let through at a site now.
func (m *Mask) allowedAt(s Site, now time.Time) []*allowance {
	list := *m.allowed.Load()
	var out []*allowance
	for i := range list {
		a := &list[i]
		switch {
		case !a.Until.IsZero() && !now.Before(a.Until):
		case len(a.Servers) > 0 && !slices.Contains(a.Servers, "*") && (s.Server == "" || !slices.Contains(a.Servers, s.Server)):
		case len(a.Tools) > 0 && !names(a.Tools, s):
		default:
			out = append(out, a)
		}
	}
	return out
}

// names tells whether patterns name the site's tool for certain.
func names(patterns []string, s Site) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, glob := strings.CutSuffix(p, "*")
		return glob && prefix == "" || !s.Any && (p == s.Tool || glob && strings.HasPrefix(s.Tool, prefix))
	})
}

// allows tells whether a finding is to be let through. place is asked for only
// where it matters.
func (s *search) allows(c *cause, value []byte, place func() string) bool {
	if c.detector == known || s.knownOnly {
		return false
	}
	var hash, where string
	for _, a := range s.allowed {
		if a.Detector != "" && a.Detector != c.detector {
			continue
		}
		if a.Hash != "" {
			if hash == "" {
				sum := sha256.Sum256(value)
				hash = hex.EncodeToString(sum[:])
			}
			if a.Hash != hash {
				continue
			}
		}
		if a.path != nil {
			if where == "" {
				where = place()
			}
			if len(where) >= maxPath || !a.path.MatchString(where) {
				continue
			}
		}
		return true
	}
	return false
}

// placeOf names a token's place from the root of the message.
func (s *search) placeOf(d *document, tok int) string {
	place := d.path(span{token: tok}, nil)
	if s.batch {
		_, place, _ = strings.Cut(place, "].")
	}
	return below(s.within, place)
}

// below is a place below the one that a document has.
func below(root, place string) string {
	if root == "" || place == "" || strings.HasSuffix(root, "|") || place[0] == '[' || place[0] == '|' {
		return root + place
	}
	return root + "." + place
}

// maxLet bounds what is remembered of one message; what goes beyond is masked
// where it stands in JSON in a text.
const maxLet = 1000

// allow takes what is let through out of the findings of a buffer. What stands
// within it is looked at again: a detector has passed over it.
func (s *search) allow(d *document, b *buffer, found []finding) []finding {
	if len(s.allowed) == 0 {
		return found
	}
	var kept []finding
	for len(found) > 0 {
		f := found[0]
		found = found[1:]
		tok, from := b.owner(f.start)
		at := span{token: tok, start: from, end: from + f.end - f.start, cause: f.cause}
		place := func() string {
			if last, _ := b.owner(f.end - 1); tok < 0 || last != tok {
				return "" // a part of it stands elsewhere
			}
			return s.placeOf(d, tok)
		}
		if !d.passed(at) && !s.allows(f.cause, b.text[f.start:f.end], place) {
			kept = append(kept, f)
			continue
		}
		if tok >= 0 && at.end <= d.tokens[tok].size && len(d.let) < maxLet {
			d.let = append(d.let, at)
		}
		for _, from := range []int{f.start, f.start + 1} {
			if s.clock.work(f.end - f.start) {
				return kept
			}
			again := false
			for _, inner := range s.rules.detectors.scan(b.text[from:f.end], nil, false, &s.clock, nil) {
				inner.start, inner.end = inner.start+from, inner.end+from
				if inner == f {
					again = true
					continue
				}
				found = append(found, inner)
			}
			if !again {
				break
			}
		}
	}
	return kept
}

// passed tells whether a finding is one that was let through in JSON within the
// text: it is found in the text, too.
func (d *document) passed(at span) bool {
	return slices.ContainsFunc(d.let, func(p span) bool {
		return p.token == at.token && p.cause == at.cause && p.start <= at.start && at.end <= p.end
	})
}

// owner is the token that an offset lies in, -1 if there is none, and the
// offset in the token's text.
func (b *buffer) owner(at int) (token, offset int) {
	i, ok := slices.BinarySearch(b.cuts, at)
	if !ok {
		i--
	}
	for i+1 < len(b.cuts) && b.cuts[i+1] <= at { // empty pieces
		i++
	}
	if i < 0 {
		return -1, 0
	}
	return int(b.pieces[i].token), at - b.cuts[i] + int(b.pieces[i].from)
}
