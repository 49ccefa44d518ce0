package mask

import (
	"bytes"
	"sync"
)

// look is one look at one buffer. What it remembers keeps hostile input from
// having the same characters read over and over: a run of one alphabet is read
// once for each place of a format that asks for it, and a stretch up to a
// delimiter once.
type look struct {
	text   []byte // up to the seam, if what is found must end there
	runs   [maxRuns]stretch
	digits stretch
	until  [delimiters]stretch
	finds  [needles]spot
	data   manifest
	read   int // characters read, each time they are
}

// spot is where a needle stands next.
type spot struct{ from, at, size int }

// find returns the next position of a needle at or after i, -1 if there is
// none. The text is searched once for each needle, however often it is asked.
func (l *look) find(needle, i int) int {
	p, what := &l.finds[needle], needleTexts[needle]
	if p.size == 0 || i < p.from || p.at >= 0 && p.at < i {
		*p = spot{from: i, at: -1, size: i}
	}
	if p.at < 0 && p.size < len(l.text) { // not in what was searched, but there is more
		from := max(p.from, p.size-len(what))
		if n := bytes.Index(l.text[from:], []byte(what)); n >= 0 {
			p.at = from + n
		}
		l.read += len(l.text) - from
		p.size = len(l.text)
	}
	if p.at >= 0 && p.at+len(what) > len(l.text) {
		return -1
	}
	return p.at
}

// maxRuns is the number of alphabets, by place in a format, that the table uses.
const maxRuns = 96

var looks = sync.Pool{New: func() any { return new(look) }}

// stretch is characters that are known to be of one kind. An open one ended
// with the text that was looked at, and may go on.
type stretch struct {
	start, end int
	open       bool
}

// reach returns where the characters of a kind that begin at i end.
func (l *look) reach(s *stretch, i int, is *[256]bool) int {
	text := l.text
	if i < s.start || i >= s.end {
		*s = stretch{i, i, true}
	}
	if s.open && s.end < len(text) {
		j := s.end
		for j < len(text) && is[text[j]] {
			j++
		}
		l.read += j - s.end
		s.end, s.open = j, j == len(text)
	}
	return min(s.end, len(text))
}

// run returns the end of the run of p's alphabet from i.
func (l *look) run(i int, p *part) int { return l.reach(&l.runs[p.memo], i, p.is) }

var noDigit = tableOf(^digit)

// tables are the alphabets, by set.
var tables map[set]*[256]bool

// tableOf returns the characters of a set.
func tableOf(s set) *[256]bool {
	if t := tables[s]; t != nil {
		return t
	}
	var t [256]bool
	for c := range t {
		t[c] = classOf[c]&s != 0
	}
	if tables == nil {
		tables = map[set]*[256]bool{}
	}
	tables[s] = &t
	return &t
}
