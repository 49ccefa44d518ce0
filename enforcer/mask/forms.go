package mask

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// form is one spelling of a secret on the wire.
type form struct {
	text string
	b64  bool // a piece of base64: the run around it is masked whole
}

// minLine is how long a line of a multi-line secret must be to be masked by
// itself (a private key may come back re-indented, or in part).
const minLine = 20

// wireForms lists the spellings in which a value is looked for, without
// repetition, each of at least minNeedle bytes. Mixes that no encoder writes
// by itself (one letter escaped here, another there) are not here: decoding
// finds them, see decode.go.
func wireForms(value string) []form {
	var out []form
	seen := map[string]bool{}
	add := func(text string, b64 bool) {
		if len(text) >= minNeedle && !seen[text] {
			seen[text] = true
			out = append(out, form{text, b64})
		}
	}
	all := func(v string) {
		add(v, false)
		for _, once := range jsonSpellings(v) {
			add(once, false)
			for _, twice := range jsonSpellings(once) {
				add(twice, false)
			}
		}
		for _, s := range percentSpellings(v) {
			add(s, false)
		}
		for _, s := range quotings(v) {
			add(s, false)
		}
		h := hex.EncodeToString([]byte(v))
		add(h, false)
		add(strings.ToUpper(h), false)
		for shift := range 3 {
			add(base64Middle(base64.RawStdEncoding, v, shift), true)
			add(base64Middle(base64.RawURLEncoding, v, shift), true)
		}
	}
	all(value)
	if strings.Contains(value, "\n") {
		all(strings.ReplaceAll(strings.ReplaceAll(value, "\r\n", "\n"), "\n", "\r\n"))
		for line := range strings.Lines(value) {
			line = strings.TrimSpace(line)
			if len(line) >= minLine && !strings.HasPrefix(line, "-----") {
				all(line)
			}
		}
	}
	return out
}

// jsonSpellings escapes a value as the encoders in use do it: shortest (most),
// with / escaped (PHP), with < > & escaped (Go), with ' " + ` escaped too
// (.NET, PHP's JSON_HEX_*), beyond ASCII as is or escaped (Python), hex digits
// in either case, control characters by letter or by number. RFC 8259 §7.
func jsonSpellings(v string) []string {
	var out []string
	seen := map[string]bool{}
	for bits := range 64 {
		html, slash, ascii := bits&1 != 0, bits&2 != 0, bits&4 != 0
		upper, dotnet, numeric := bits&8 != 0, bits&16 != 0, bits&32 != 0
		if dotnet && !html {
			continue
		}
		s := jsonEscape(v, func(r rune) bool {
			return html && strings.ContainsRune("<>&\u2028\u2029", r) ||
				dotnet && strings.ContainsRune("'\"+`", r) ||
				ascii && r > 126 || numeric && r < 32
		}, slash, upper)
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
		if s == v && isPlain(v) {
			break // no encoder escapes any of it
		}
	}
	return out
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

func percentSpellings(v string) []string {
	var out []string
	for _, kept := range percentKept {
		for bits := range 4 {
			out = append(out, percentEscape(v, kept, bits&1 != 0, bits&2 != 0))
		}
	}
	return out
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
	return append(out, b.String())
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
