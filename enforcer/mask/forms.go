package mask

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// form is one spelling of a secret on the wire.
type form struct {
	text string
	b64  bool // a piece of base64: the run around it is masked whole
}

// maxForms bounds the spellings of one secret, in bytes, as far as decoding
// would find them too (see wireForms). For a password it is never reached.
const maxForms = 64 << 10

// wireForms lists the spellings in which a value is looked for, without
// repetition, each of at least minNeedle bytes: those of the value itself, and
// of the parts in which it may come back (see facets). Mixes that no encoder
// writes by itself (one letter escaped here, another there) are not here:
// decoding finds them, see decode.go.
//
// Spellings that decoding would not find come first, of all parts: their
// bytes are a small multiple of the value's. Those that decoding finds as well
// (escaped for JSON, percent-encoded) are there so that a value under two more
// encodings than decoding takes off is found; they end at maxForms, or a value
// of many lines and quotes would take a thousand times its size.
func wireForms(value string) []form {
	l := lister{seen: map[string]bool{}}
	texts := slices.DeleteFunc(facets(value), func(f facet) bool { return len(f.text) < minNeedle })
	for _, p := range texts {
		l.whole(p.text)
	}
	for _, p := range texts {
		if !p.binary && !l.escaped(p.text, false) {
			return l.forms
		}
	}
	for _, p := range texts {
		if !p.binary && !l.escaped(p.text, true) {
			break
		}
	}
	return l.forms
}

type lister struct {
	forms []form
	seen  map[string]bool
	bytes int // of what escaped has added
}

func (l *lister) add(text string, b64 bool) {
	if len(text) >= minNeedle && !l.seen[text] {
		l.seen[text] = true
		l.forms = append(l.forms, form{text, b64})
	}
}

// whole adds the spellings that decoding does not find: as it is, between the
// quotes of various languages, hex, and the pieces of base64 that are too short
// to be decoded.
func (l *lister) whole(v string) {
	l.add(v, false)
	h := hex.EncodeToString([]byte(v))
	l.add(h, false)
	l.add(strings.ToUpper(h), false)
	for shift := range 3 {
		l.add(base64Middle(base64.RawStdEncoding, v, shift), true)
		l.add(base64Middle(base64.RawURLEncoding, v, shift), true)
	}
	if utf8.ValidString(v) {
		for _, s := range quotings(v) {
			l.add(s, false)
		}
	}
	if strings.Contains(v, " ") { // decoding leaves a plus alone
		for s := range percentSpellings(v, true) {
			l.add(s, false)
		}
	}
}

// escaped adds a value as JSON encoders escape it, once or twice, and as
// percent-encoders do. It tells whether there was room for all.
func (l *lister) escaped(v string, twice bool) bool {
	add := func(s string) bool {
		if l.bytes += len(s); l.bytes > maxForms {
			return false
		}
		l.add(s, false)
		return true
	}
	for s := range jsonSpellings(v, twice) {
		if !add(s) {
			return false
		}
	}
	for s := range percentSpellings(v, false) {
		if !twice && !add(s) {
			return false
		}
	}
	return true
}

// jsonSpellings escapes a value as the encoders in use do it: shortest (most),
// with / escaped (PHP), with < > & escaped (Go), with ' " + ` escaped too
// (.NET, PHP's JSON_HEX_*), beyond ASCII as is or escaped (Python), hex digits
// in either case, control characters by letter or by number. RFC 8259 §7.
// Twice is by the same encoder; of two that differ, decoding finds the outer.
func jsonSpellings(v string, twice bool) iter.Seq[string] {
	return func(yield func(string) bool) {
		seen := map[string]bool{}
		for bits := range 64 {
			html, slash, ascii := bits&1 != 0, bits&2 != 0, bits&4 != 0
			upper, dotnet, numeric := bits&8 != 0, bits&16 != 0, bits&32 != 0
			if dotnet && !html {
				continue
			}
			escape := func(v string) string {
				return jsonEscape(v, func(r rune) bool {
					return html && strings.ContainsRune("<>&\u2028\u2029", r) ||
						dotnet && strings.ContainsRune("'\"+`", r) ||
						ascii && r > 126 || numeric && r < 32
				}, slash, upper)
			}
			s := escape(v)
			plain := s == v && isPlain(v)
			if twice {
				s = escape(s)
			}
			if !seen[s] {
				seen[s] = true
				if !yield(s) {
					return
				}
			}
			if plain {
				return // no encoder escapes any of it
			}
		}
	}
}

// isPlain: letters, digits and the few signs that no JSON encoder escapes.
func isPlain(v string) bool {
	for i := range len(v) {
		if c := v[i]; !isAlnum(c) && !strings.ContainsRune("-_.~!*,;:=@#$%^?()[]{}| ", rune(c)) {
			return false
		}
	}
	return true
}

func jsonEscape(v string, hexed func(rune) bool, slash, upper bool) string {
	var b strings.Builder
	for i := 0; i < len(v); {
		r, n := utf8.DecodeRuneInString(v[i:])
		switch short := strings.IndexRune("\b\f\n\r\t", r); {
		case r == utf8.RuneError && n == 1:
			b.WriteByte(v[i])
		case hexed(r):
			jsonHex(&b, r, upper)
		case r == '"', r == '\\', r == '/' && slash:
			b.WriteByte('\\')
			b.WriteByte(byte(r))
		case short >= 0:
			b.WriteByte('\\')
			b.WriteByte("bfnrt"[short])
		case r < 32:
			jsonHex(&b, r, upper)
		default:
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}

func jsonHex(b *strings.Builder, r rune, upper bool) {
	digits := "0123456789abcdef"
	if upper {
		digits = "0123456789ABCDEF"
	}
	units := []rune{r}
	if r > 0xFFFF {
		hi, lo := utf16.EncodeRune(r)
		units = []rune{hi, lo}
	}
	for _, u := range units {
		b.WriteString(`\u`)
		for shift := 12; shift >= 0; shift -= 4 {
			b.WriteByte(digits[u>>shift&15])
		}
	}
}

// percentKept lists, by encoder, the characters beside letters and digits
// that stay as they are (RFC 3986 §2; WHATWG URL for forms).
var percentKept = []string{
	"-_.~",                 // RFC 3986, Go's QueryEscape, Python's quote_plus
	"-_.~/",                // Python's quote
	"-_.!~*'()",            // encodeURIComponent
	"-_.!~*'();/?:@&=+$,#", // encodeURI
	"-_.*",                 // HTML forms, Java's URLEncoder
	"-_.~$&+:=@",           // Go's PathEscape
	"-_.~$&+,;=",           // Go's userinfo
	"-_.~!$&'()*+,;=:",     // all that RFC 3986 lets userinfo keep
	"-_.~!$&'()*+,;=:@/?",  // all that a query may keep
	"-_.",                  // PHP's urlencode
}

func percentSpellings(v string, plus bool) iter.Seq[string] {
	return func(yield func(string) bool) {
		seen := map[string]bool{v: true}
		for _, kept := range percentKept {
			for _, lower := range []bool{false, true} {
				if s := percentEscape(v, kept, plus, lower); !seen[s] {
					seen[s] = true
					if !yield(s) {
						return
					}
				}
			}
		}
	}
}

func percentEscape(v, kept string, plus, lower bool) string {
	digits := "0123456789ABCDEF"
	if lower {
		digits = "0123456789abcdef"
	}
	var b strings.Builder
	for i := range len(v) {
		switch c := v[i]; {
		case isAlnum(c) || strings.IndexByte(kept, c) >= 0:
			b.WriteByte(c)
		case c == ' ' && plus:
			b.WriteByte('+')
		default:
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	return b.String()
}

var quoters = []*strings.Replacer{
	strings.NewReplacer(`'`, `'\''`),                                              // shell, single quotes
	strings.NewReplacer(`'`, `'"'"'`),                                             // the same, as Python's shlex has it
	strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`"),              // shell, double quotes
	strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`", `!`, `\!`),   // the same, history expansion on
	strings.NewReplacer(`'`, `''`),                                                // SQL and YAML, single quotes
	strings.NewReplacer(`'`, `''`, `\`, `\\`),                                     // SQL with backslash escapes
	strings.NewReplacer(`"`, `""`),                                                // CSV, SQL identifiers
	strings.NewReplacer(`\`, `\\`, `'`, `\'`),                                     // Python, JavaScript, SQL E'…', shell $'…'
	strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`, "\r", `\r`, "\t", `\t`), // the same with control characters
	strings.NewReplacer(`\`, `\\`, `'`, `\'`, `"`, `\"`),                          // both quotes (PHP's addslashes)
	strings.NewReplacer(`\`, `\\`),                                                // libpq conninfo, .properties
	strings.NewReplacer(`&`, `&amp;`, `<`, `&lt;`, `>`, `&gt;`),                   // XML text
	strings.NewReplacer(`&`, `&amp;`, `<`, `&lt;`, `>`, `&gt;`, `"`, `&quot;`),    // XML attributes
	strings.NewReplacer(`&`, `&amp;`, `<`, `&lt;`, `>`, `&gt;`, `"`, `&quot;`, `'`, `&apos;`),
	strings.NewReplacer(`&`, `&amp;`, `<`, `&lt;`, `>`, `&gt;`, `"`, `&quot;`, `'`, `&#x27;`), // Python's html.escape
	strings.NewReplacer(`&`, `&amp;`, `<`, `&lt;`, `>`, `&gt;`, `"`, `&#34;`, `'`, `&#39;`),   // Go's html.EscapeString
}

// quotings spells a value inside the quotes of shells, SQL, YAML and markup.
func quotings(v string) []string {
	var out []string
	for _, q := range quoters {
		out = append(out, q.Replace(v))
	}
	var b strings.Builder // bash's printf %q: a backslash before all that is special
	for i := range len(v) {
		if c := v[i]; c < 0x80 && c > 32 && !isAlnum(c) && strings.IndexByte("-_./:=@%+", c) < 0 || c == ' ' {
			b.WriteByte('\\')
		}
		b.WriteByte(v[i])
	}
	return append(out, b.String(), yamlDouble(v), quotedPrintable(v))
}

var yamlShort = []rune("\x00\a\b\t\n\v\f\r\x1b\u0085\u00a0\u2028\u2029\"\\")

// yamlDouble is a value between YAML's double quotes, in ASCII (YAML 1.2 §5.7).
// It is a form since decoding takes \xE9 for a byte, as C does.
func yamlDouble(v string) string {
	var b strings.Builder
	for _, r := range v {
		switch short := slices.Index(yamlShort, r); {
		case short >= 0:
			b.WriteByte('\\')
			b.WriteByte(`0abtnvfreN_LP"\`[short])
		case r >= ' ' && r <= '~':
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02X`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			fmt.Fprintf(&b, `\U%08X`, r)
		}
	}
	return b.String()
}

// quotedPrintable is how mail writes a value (RFC 2045 §6.7), but for the line
// breaks that it puts into long lines.
func quotedPrintable(v string) string {
	var b strings.Builder
	for i := range len(v) {
		if c := v[i]; c == '=' || c > 126 {
			b.WriteString("=" + strings.ToUpper(hex.EncodeToString([]byte{c})))
			continue
		}
		b.WriteByte(v[i])
	}
	return b.String()
}

// base64Middle encodes the value as it appears after shift unknown bytes, and
// leaves out the edge characters that depend on its neighbours (RFC 4648 §4).
func base64Middle(enc *base64.Encoding, v string, shift int) string {
	text := enc.EncodeToString(append(make([]byte, shift), v...))
	first := (shift*8 + 5) / 6
	whole := (shift + len(v)) * 8 / 6
	return text[first:whole]
}

func isAlnum(c byte) bool {
	return c-'0' < 10 || c|0x20-'a' < 26
}
