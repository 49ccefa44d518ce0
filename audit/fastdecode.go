package audit

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// fastDecode reads a line that is spelled as Encode spells it, in one pass, its
// members in their order; false leaves the line to the slow reader, which says
// what is wrong with it, or finds that nothing is. What is true here is true
// there, with the same values: FuzzFastDecode. The entry's strings are parts of
// the line, which they keep in memory.
func fastDecode(line string, e *Entry) bool {
	r := scanner{s: line}
	r.must(`{"seq":`)
	e.Seq = r.number()
	r.must(`,"time":"`)
	e.Time = r.time()
	r.must(`","kind":`)
	e.Kind = Kind(r.text())
	r.member(`,"call":`, &e.Call)
	r.member(`,"policy":`, &e.Policy)
	r.member(`,"issuer":`, &e.Issuer)
	r.member(`,"sub":`, &e.Sub)
	r.member(`,"client":`, &e.Client)
	r.member(`,"holder":`, &e.Holder)
	r.member(`,"session":`, &e.Session)
	r.member(`,"server":`, &e.Server)
	r.member(`,"method":`, &e.Method)
	r.member(`,"tool":`, &e.Tool)
	r.member(`,"resource":`, &e.Resource)
	r.member(`,"effect":`, &e.Effect)
	if r.has(`,"rules":[`) {
		for more := true; more; more = r.has(",") {
			e.Rules = append(e.Rules, r.string())
		}
		r.must("]")
	}
	r.objects(`,"trace":[`, func() {
		var t Step
		t.Rule = r.next(`"rule":`)
		t.Effect = r.next(`,"effect":`)
		r.member(`,"why":`, &t.Why)
		e.Trace = append(e.Trace, t)
	})
	r.member(`,"reason":`, &e.Reason)
	r.member(`,"approval":`, &e.Approval)
	r.member(`,"credential":`, &e.Credential)
	r.member(`,"lease":`, &e.Lease)
	r.member(`,"args":`, &e.Args)
	r.member(`,"result":`, &e.Result)
	r.member(`,"digest":`, &e.Digest)
	r.member(`,"status":`, &e.Status)
	if r.has(`,"ms":`) {
		e.Millis = r.millis()
		r.bad = r.bad || e.Millis == 0
	}
	r.objects(`,"timings":[`, func() {
		var t Timing
		t.Part = r.next(`"part":`)
		r.must(`,"ms":`)
		t.Millis = r.millis()
		e.Timings = append(e.Timings, t)
	})
	r.objects(`,"masked":[`, func() {
		var m Masked
		m.Detector = r.next(`"detector":`)
		m.Place = r.next(`,"place":`)
		r.must(`,"count":`)
		m.Count = int(r.integer())
		e.Masked = append(e.Masked, m)
	})
	r.objects(`,"splices":[`, func() {
		var s Splice
		s.What = r.next(`"what":`)
		s.Where = r.next(`,"where":`)
		e.Splices = append(e.Splices, s)
	})
	if r.has(`,"bytes":`) {
		e.Bytes = r.integer()
		r.bad = r.bad || e.Bytes == 0
	}
	r.objects(`,"bodies":[`, func() {
		var b BodyRef
		b.Of = r.next(`"of":`)
		r.must(`,"size":`)
		b.Size = r.integer()
		r.member(`,"digest":`, &b.Digest)
		b.Kept = r.next(`,"kept":`)
		e.Bodies = append(e.Bodies, b)
	})
	if r.has(`,"detail":`) {
		e.Detail = r.object()
	}
	r.must("}")
	return !r.bad && r.i == len(line) && len(line) <= MaxLine && len(e.Args) <= MaxArgs && len(e.Result) <= MaxArgs && len(e.Trace) <= MaxTrace
}

// scanner reads the line from i on. Once it is bad, what it gives means nothing.
type scanner struct {
	s   string
	i   int
	bad bool
}

func (r *scanner) has(literal string) bool {
	if !r.bad && strings.HasPrefix(r.s[r.i:], literal) {
		r.i += len(literal)
		return true
	}
	return false
}

func (r *scanner) must(literal string) { r.bad = !r.has(literal) }

func (r *scanner) member(name string, value *string) {
	if r.has(name) {
		*value = r.text()
	}
}

// objects reads an array of objects, each by one, if the member is there.
func (r *scanner) objects(name string, one func()) {
	if !r.has(name) {
		return
	}
	for more := true; more; more = r.has(",") {
		r.must("{")
		one()
		r.must("}")
	}
	r.must("]")
}

func (r *scanner) next(name string) string {
	r.must(name)
	return r.string()
}

// text is a string that is not empty: an empty member is left out.
func (r *scanner) text() string {
	s := r.string()
	r.bad = r.bad || s == ""
	return s
}

func (r *scanner) string() string {
	if !r.has(`"`) {
		r.bad = true
		return ""
	}
	start := r.i
	for i := start; i < len(r.s); {
		switch c := r.s[i]; {
		case c == '"':
			r.i = i + 1
			return r.s[start:i]
		case c == '\\':
			return r.escaped(start, i)
		case c >= 0x20 && c < 0x7f:
			i++
		default:
			n := shown(r.s[i:])
			if n == 0 {
				r.bad = true
				return ""
			}
			i += n
		}
	}
	r.bad = true
	return ""
}

// shown is the length of the character that s begins with, if it is one that
// stands for itself in a string; else 0.
func shown(s string) int {
	c, n := utf8.DecodeRuneInString(s)
	if c == utf8.RuneError && n <= 1 || hidden(c) {
		return 0
	}
	return n
}

// escaped is the string that begins at start, and has an escape at i.
func (r *scanner) escaped(start, i int) string {
	var b strings.Builder
	b.Grow(len(r.s[start:i]) + 64)
	for from := start; i < len(r.s); {
		switch c := r.s[i]; {
		case c == '"':
			b.WriteString(r.s[from:i])
			r.i = i + 1
			return b.String()
		case c == '\\':
			b.WriteString(r.s[from:i])
			c, n := unescape(r.s[i:])
			if n == 0 {
				r.bad = true
				return ""
			}
			b.WriteRune(c)
			i += n
			from = i
		case c >= 0x20 && c < 0x7f:
			i++
		default:
			n := shown(r.s[i:])
			if n == 0 {
				r.bad = true
				return ""
			}
			i += n
		}
	}
	r.bad = true
	return ""
}

// unescape reads the escape that s begins with, if it is one that appendString
// writes; n is its length, or 0.
func unescape(s string) (c rune, n int) {
	if len(s) < 2 {
		return 0, 0
	}
	switch s[1] {
	case '"', '\\':
		return rune(s[1]), 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		if len(s) < 6 {
			return 0, 0
		}
		for _, d := range []byte(s[2:6]) {
			switch {
			case d >= '0' && d <= '9':
				c = c<<4 | rune(d-'0')
			case d >= 'a' && d <= 'f':
				c = c<<4 | rune(d-'a'+10)
			default:
				return 0, 0
			}
		}
		if hidden(c) && c != '\n' && c != '\r' && c != '\t' {
			return c, 6
		}
	}
	return 0, 0
}

// digits takes decimal digits, without a zero in front, and at most max.
func (r *scanner) digits(most int) string {
	start := r.i
	for r.i < len(r.s) && r.s[r.i] >= '0' && r.s[r.i] <= '9' {
		r.i++
	}
	d := r.s[start:r.i]
	r.bad = r.bad || d == "" || len(d) > most || d[0] == '0' && len(d) > 1
	return d
}

func (r *scanner) number() uint64 {
	n, err := strconv.ParseUint(r.digits(18), 10, 64)
	r.bad = r.bad || err != nil
	return n
}

func (r *scanner) integer() int64 { return int64(r.number()) }

// millis is a number with three decimals at most, none of the last a zero. So
// it is a whole number of thousandths below 2^53, divided by 1,000: rounded as
// encoding/json rounds it, and spelled by Encode with these very digits.
func (r *scanner) millis() float64 {
	whole := r.digits(11)
	frac := ""
	if r.has(".") {
		start := r.i
		for r.i < len(r.s) && r.s[r.i] >= '0' && r.s[r.i] <= '9' {
			r.i++
		}
		frac = r.s[start:r.i]
		r.bad = r.bad || frac == "" || len(frac) > 3 || frac[len(frac)-1] == '0'
	}
	if r.bad {
		return 0
	}
	n, err := strconv.ParseUint(whole+(frac + "000")[:3], 10, 64)
	r.bad = err != nil
	return float64(n) / 1000
}

// time is a timeLayout, without quotation marks.
func (r *scanner) time() time.Time {
	const form = "dddd-dd-ddTdd:dd:dd.ddddddZ"
	if r.bad || len(r.s)-r.i < len(form) {
		r.bad = true
		return time.Time{}
	}
	s := r.s[r.i : r.i+len(form)]
	for i := range len(form) {
		if form[i] == 'd' && (s[i] < '0' || s[i] > '9') || form[i] != 'd' && s[i] != form[i] {
			r.bad = true
			return time.Time{}
		}
	}
	r.i += len(form)
	two := func(i int) int { return int(s[i]-'0')*10 + int(s[i+1]-'0') }
	year, month, day, hour, minute, second := two(0)*100+two(2), two(5), two(8), two(11), two(14), two(17)
	micros := two(20)*10_000 + two(22)*100 + two(24)
	t := time.Date(year, time.Month(month), day, hour, minute, second, micros*1000, time.UTC)
	// Date takes what is out of range for the day after, say.
	r.bad = year == 0 || month < 1 || month > 12 || day < 1 || t.Day() != day || hour > 23 || minute > 59 || second > 59
	return t
}

// object takes a JSON object, which jsontext looks through. One that could nest
// as deep as a reader's bound is left to the slow one.
func (r *scanner) object() json.RawMessage {
	if r.bad {
		return nil
	}
	// The detail is the last member: it ends before the last brace.
	d := r.s[r.i:max(r.i, len(r.s)-1)]
	if len(d) < 2 || len(d) > 8<<10 || d[0] != '{' {
		r.bad = true
		return nil
	}
	out := []byte(d)
	if d != "{}" {
		v := jsontext.Value(bytes.Clone(out))
		err := v.Compact(jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false))
		r.bad = err != nil || string(v) != d
	}
	r.i += len(d)
	return out
}
