package mask

import (
	"hash/crc32"
	"math"
	"strconv"
	"strings"
)

// A detector knows one kind of secret by fixed text that it begins with, or
// holds at a known place. The table is data: a name (policy, allow-lists and
// reports use it, so it never changes), the family it is reported under, where
// its format is described, the prefixes, and the shape of the rest.
type detector struct {
	name, family, source string
	prefixes             []string
	shape                string // as it stands in the table and in docs/masking.md
	lead                 *part  // characters in front of the prefix that belong to the token
	parts                []part // what follows the prefix
	floor                float64
	digit                bool                   // at least one digit behind the prefix: an ordinary word has none
	sum                  func(body []byte) bool // a checksum that the issuer put in
	// check replaces parts where a format is more than a sequence of them. It
	// gets the offsets of the prefix and of what is behind it, and returns what
	// to mask.
	check func(l *look, start, body int) (from, to int, ok bool)
	loose bool // may follow any character; otherwise no letter or digit
	whole bool // never searched over the seams between strings
	fold  bool // prefixes in any case
	soft  bool // known by what is around it: a detector that knows the value itself names it instead
	probe int  // the four bytes of a prefix that are looked for
	keyed class
}

// part is a literal, or min to max characters of a set.
type part struct {
	lit      string
	set      set
	is       *[256]bool // the set's characters
	min, max int
	memo     int // its place in look.runs
}

// set is a union of the classes below.
type set uint32

const (
	lowerHex set = 1 << iota // a-f
	lowerRest
	upperHex
	upperRest
	digit27 // base32 has the digits 2 to 7
	digit0189
	dash
	under
	dot
	equal
	plus
	slash
	tilde
	percent
	other // of no alphabet

	lower  = lowerHex | lowerRest
	upper  = upperHex | upperRest
	digit  = digit27 | digit0189
	alnum  = lower | upper | digit
	word   = alnum | under
	b64url = word | dash
	b64std = alnum | plus | slash | equal
	dotted = b64url | dot
)

// alphabets are the names of sets in shapes.
var alphabets = map[string]set{
	"digit": digit, "hex": lowerHex | digit, "anyhex": lowerHex | upperHex | digit, "HEX": upperHex | digit,
	"lower": lower | digit, "UPPER": upper | digit, "base32": upper | digit27, "alnum": alnum, "letter": lower | upper,
	"word": word, "url64": b64url, "std64": b64std, "raw64": alnum | plus | slash, "both64": b64std | b64url,
	"dotted": dotted, "token68": dotted | b64std | tilde, "secret": dotted | tilde, "percent": alnum | percent,
	"crypt": alnum | dot | slash, "padded": dotted | equal,
}

var classOf = func() (t [256]set) {
	for c := range t {
		switch {
		case c >= 'a' && c <= 'f':
			t[c] = lowerHex
		case c >= 'g' && c <= 'z':
			t[c] = lowerRest
		case c >= 'A' && c <= 'F':
			t[c] = upperHex
		case c >= 'G' && c <= 'Z':
			t[c] = upperRest
		case c >= '2' && c <= '7':
			t[c] = digit27
		case c >= '0' && c <= '9':
			t[c] = digit0189
		default:
			t[c] = other
		}
	}
	t['-'], t['_'], t['.'], t['='], t['+'], t['/'], t['~'], t['%'] = dash, under, dot, equal, plus, slash, tilde, percent
	return t
}()

// maxPart bounds the longest part of a token.
const maxPart = 16 << 10

// commonFloor is the entropy, in bits a character, that any token must have:
// below it are rows of x, of zeros, of one word.
const commonFloor = 1.9

// issued is a line of the table: a name, prefixes separated by blanks, the shape
// of what follows, where that is described (a URL, or the rule of a public rule
// set), and what else is asked of it.
func issued(name, prefixes, shape, source string, more ...func(*detector)) detector {
	d := detector{name: name, prefixes: strings.Fields(prefixes), shape: shape, source: source, floor: commonFloor}
	d.lead, d.parts = parseShape(shape)
	return d.with(more)
}

func (d detector) with(more []func(*detector)) detector {
	for _, m := range more {
		m(&d)
	}
	if d.fold {
		for i, p := range d.prefixes {
			d.prefixes[i] = strings.ToLower(p)
		}
	}
	return d
}

// structure is a line of the table whose shape is code.
func structure(name, source string, check func(*look, int, int) (int, int, bool), prefixes []string, more ...func(*detector)) detector {
	return detector{name: name, prefixes: prefixes, source: source, check: check}.with(more)
}

func withDigit(d *detector)                { d.digit = true }
func anyCase(d *detector)                  { d.fold = true }
func glued(d *detector)                    { d.loose = true }
func inOne(d *detector)                    { d.whole = true }
func around(d *detector)                   { d.soft, d.loose, d.whole = true, true, true }
func entropy(bits float64) func(*detector) { return func(d *detector) { d.floor = bits } }
func after(prefixes ...string) func(*detector) {
	return func(d *detector) { d.prefixes = prefixes }
}
func probed(at int) func(*detector) { return func(d *detector) { d.probe = at } }
func summed(f func([]byte) bool) func(*detector) {
	return func(d *detector) { d.sum = f }
}

// parseShape reads the notation of the table: elements separated by blanks,
// each a name of an alphabet with a length, alnum{36} or alnum{36,255}, uuid,
// or a literal. An element that ends in < stands in front of the prefix.
func parseShape(shape string) (lead *part, parts []part) {
	for _, e := range strings.Fields(shape) {
		e, before := strings.CutSuffix(e, "<")
		name, lengths, ok := strings.Cut(strings.TrimSuffix(e, "}"), "{")
		set := alphabets[name]
		switch {
		case e == "uuid":
			for i, n := range []int{8, 4, 4, 4, 12} {
				if i > 0 {
					parts = append(parts, part{lit: "-"})
				}
				s := alphabets["anyhex"]
				parts = append(parts, part{set: s, is: tableOf(s), min: n, max: n})
			}
			continue
		case !ok:
			parts = append(parts, part{lit: e})
			continue
		case set == 0:
			panic("mask: no alphabet " + name)
		}
		low, high, ranged := strings.Cut(lengths, ",")
		if !ranged {
			high = low
		}
		p := part{set: set, is: tableOf(set), min: lengthOf(low), max: maxPart}
		if high != "" {
			p.max = lengthOf(high)
		}
		if before {
			lead = &p
		} else {
			parts = append(parts, p)
		}
	}
	return lead, parts
}

func lengthOf(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic("mask: a length in the table: " + err.Error())
	}
	return n
}

// shannon is the entropy of b in bits a character, of its first 64 at most.
func shannon(b []byte) float64 {
	if len(b) > entropyWindow {
		b = b[:entropyWindow]
	}
	var counts [256]uint8
	sum := 0.0
	for _, c := range b {
		counts[c]++
		// n log n grows by what one more occurrence adds.
		sum += nLogN[counts[c]] - nLogN[counts[c]-1]
	}
	if len(b) == 0 {
		return 0
	}
	n := float64(len(b))
	return math.Log2(n) - sum/n
}

const entropyWindow = 64

var nLogN = func() (t [entropyWindow + 1]float64) {
	for i := 2; i < len(t); i++ {
		t[i] = float64(i) * math.Log2(float64(i))
	}
	return t
}()

// crcBase62 tells whether the last six characters are the CRC32 of those in
// front, in base 62: GitHub's tokens, and those who followed.
// https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/
func crcBase62(body []byte) bool {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	if len(body) <= 6 {
		return false
	}
	n := crc32.ChecksumIEEE(body[:len(body)-6])
	for i := len(body) - 1; i >= len(body)-6; i-- {
		if body[i] != digits[n%62] {
			return false
		}
		n /= 62
	}
	return true
}
