package mask

import (
	"bytes"
	"slices"
	"strings"
)

// assigned is what stands under a name, and how.
type assigned struct {
	class     class
	name      int    // where the name begins
	key       []byte // the name
	before    byte   // what is in front of it
	from, to  int
	closed    bool // the quote in front of the name is closed behind it
	quoted    bool
	equals    bool // assigned by a sign of equality
	spaced    bool // with blanks on both sides of it
	flag      bool // --password …
	lineStart bool // the name begins its line
}

// maxKeyed bounds a keyed value; judged is how much of it is looked at to tell
// whether it is one.
const (
	maxKeyed = 4096
	judged   = 64
)

// The delimiters at which stretches end.
const (
	atBlank  = iota // white space
	atWord          // what cannot be in a value without quotes, amid other text
	atLine          // the end of the line
	atDouble        // a quote, or the end of the line
	atSingle
	atBack
	atMarkup // a tag
	atSign   // what cannot be in the signature of a URL
	delimiters
)

var inside = [delimiters]*[256]bool{
	atBlank: allBut(" \t\r\n\v\f"), atWord: allBut(" \t\r\n\v\f\"'`,;&<>(){}[]|"), atLine: allBut("\r\n"),
	atDouble: allBut("\"\r\n"), atSingle: allBut("'\r\n"), atBack: allBut("`"), atMarkup: allBut("<"), atSign: tableOf(b64std | b64url | percent),
}

func allBut(chars string) *[256]bool {
	t := anyByte
	for _, c := range []byte(chars) {
		t[c] = false
	}
	return &t
}

// untilAny returns where the stretch from i ends, at most maxKeyed further.
func (l *look) untilAny(i, delimiter int) int {
	return min(l.reach(&l.until[delimiter], i, inside[delimiter]), i+maxKeyed)
}

// read takes the value that begins at i.
func (v *assigned) read(l *look, i int) (from, to int, ok bool) {
	text := l.text
	if i >= len(text) {
		return 0, 0, false
	}
	if i+1 < len(text) && isQuote(text[i+1]) && bytes.IndexByte([]byte("bfruBFRU@$"), text[i]) >= 0 {
		i++ // b"…", f'…'
	}
	switch c := text[i]; {
	case isQuote(c) && c == v.before && !v.closed:
		return 0, 0, false // "PWD="+dir
	case isQuote(c):
		if i++; i+1 < len(text) && text[i] == c && text[i+1] == c { // """…"""
			i += 2
		}
		delimiter := map[byte]int{'"': atDouble, '\'': atSingle, '`': atBack}[c]
		v.quoted, v.from, v.to = true, i, l.untilAny(i, delimiter)
		for n := 0; n < 64 && v.to > i && v.to < len(text) && text[v.to] == c && text[v.to-1] == '\\'; n++ {
			v.to = l.untilAny(v.to+1, delimiter) // "pass\"word"
		}
	case (c == '|' || c == '>') && !v.equals && v.lineStart: // the text of a YAML block
		n := bytes.IndexByte(text[i:min(len(text), i+8)], '\n')
		if n < 0 {
			return 0, 0, false
		}
		v.from = skipSpace(text, i+n)
		v.to = l.untilAny(v.from, atLine)
	case v.lineStart && !v.spaced && v.equals, v.lineStart && !v.equals:
		v.from, v.to = i, l.untilAny(i, atBlank)
		if rest := text[v.to:min(len(text), v.to+2)]; !v.equals && len(rest) == 2 && rest[0] != '\n' && rest[0] != '\r' && rest[1] != '#' && rest[1] != '\n' {
			return 0, 0, false // a sentence
		}
		for v.to > v.from && strings.IndexByte(",;\"'`", text[v.to-1]) >= 0 { // code
			v.to, v.lineStart = v.to-1, false
		}
	default:
		v.from, v.to = i, l.untilAny(i, atWord)
	}
	return v.from, v.to, v.from < v.to && v.literal(text)
}

// literal tells whether the value is one, and no reference to it, placeholder,
// type, or name of a variable.
func (v *assigned) literal(text []byte) bool {
	s := text[v.from:min(v.to, v.from+judged)]
	next := byte('\n')
	if v.to < len(text) {
		next = text[v.to]
	}
	if !isLiteral(v.class, s) || bytes.EqualFold(s, v.key) {
		return false
	}
	if isOther(v.key, s) && strings.IndexByte("?&;", v.before) < 0 { // nor in a connection string
		return false
	}
	if !v.quoted {
		if next == '(' || next == '[' || next == '{' || isPath(s) || isCall(s) {
			return false // code
		}
		if v.class == generated && !v.equals && (next == ',' || next == ';') && (v.to+1 >= len(text) || text[v.to+1] == '\n') {
			return false // a member of an object in code
		}
		if v.class == passwords && isWord(s) && (v.spaced || !v.apart(next)) {
			return false // may be a variable
		}
		if v.class == generated && (isWord(s) || bytes.ContainsAny(s, "(){}[]\"'`")) {
			return false
		}
	}
	return true
}

// apart tells whether the pair stands by itself, as in a line of a file, a
// query, a connection string; not as an argument in code.
func (v *assigned) apart(next byte) bool {
	if v.lineStart {
		return strings.IndexByte("\n\r \t", next) >= 0
	}
	return (v.equals || v.flag) && strings.IndexByte("\n\r \t&;\"'", next) >= 0 && strings.IndexByte("\x00\n\r \t?&;\"'-", v.before) >= 0
}

// isWord tells a run of letters, as variables and plain words are.
func isWord(s []byte) bool {
	for _, c := range s {
		if c|0x20-'a' >= 26 && c != '_' {
			return false
		}
	}
	return true
}

// isCall tells a call, an index or a composite: z.string().min(6), &Secret{
func isCall(s []byte) bool {
	n := bytes.IndexAny(s, "([{")
	if n <= 0 {
		return false
	}
	name := bytes.TrimLeft(s[:n], "&*")
	return len(name) > 0 && (isWord(name) || isPath(name))
}

// isPath tells names joined by dots, arrows or colons: config.db.password.
func isPath(s []byte) bool {
	joints, segment := 0, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c|0x20-'a' < 26 || c == '_' || c-'0' < 10 && segment > 0:
			segment++
		case segment > 0 && segment < 32 && (c == '.' || c == ':' || c == '-' && i+1 < len(s) && s[i+1] == '>'):
			joints++
			segment = 0
			for i+1 < len(s) && (s[i+1] == '>' || s[i+1] == ':') {
				i++
			}
		default:
			return false
		}
	}
	return joints > 0 && segment > 0 && segment < 32
}

// noValues are words that stand where a secret would.
var noValues = wordSet(`true false null none nil undefined yes no on off void empty unset string str text bytes byte char varchar any
	object number integer int float boolean bool array list map dict required optional redacted hidden masked removed omitted
	password passwd passphrase pwd secret token key apikey value example placeholder default todo tbd xxx self this input prompt
	compat files systemd readonly nullable unknown invalid missing expired incorrect wrong changed reset basic bearer env file vault literal`)

func wordSet(words string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

// references begin a value that names where the secret is; by first letter.
var references = func() (t [256][]string) {
	for _, r := range []string{"$", "{{", "<%", "%(", "#{", "@{", "!", "&", "*", "arn:", "vault:", "op://", "env:", "env.", "file:", "http://", "https://",
		"projects/", "ref+", "gsm:", "ssm:", "secret://", "secrets/", "secrets.", "[masked", "[redacted", "/run/", "/etc/", "/var/", "/home/", "./", "~/", "../",
		"process.env", "os.environ", "your", "my_", "my-", "insert", "enter", "example", "-----", "data:", "sha256:", "base64:", "hmac-sha256:", "enc["} {
		t[r[0]|0x20] = append(t[r[0]|0x20], r)
	}
	return t
}()

// placeholders are within a value that is to be replaced.
var placeholders = []string{"example", "placeholder", "your_", "your-", "_here", "-here", "xxxxxx", "redacted", "changeme"}

// isLiteral judges the value by itself, by how it begins. What costs least is
// asked first: hostile text asks often.
func isLiteral(c class, s []byte) bool {
	s = s[:min(len(s), judged)]
	least := 8
	if c == passwords {
		least = 4
	}
	if len(s) < least || fewKinds(s) {
		return false
	}
	blanks, letters, digits, signs := 0, 0, 0, 0
	for _, b := range s {
		switch class := classOf[b]; {
		case class&(lower|upper) != 0:
			letters++
		case class&digit != 0:
			digits++
		case b <= ' ':
			blanks++
		default:
			signs++
		}
	}
	switch {
	case c == passwords:
		if blanks > 0 && digits == 0 && !bytes.ContainsAny(s, "!@#$%^&*") {
			return false
		}
	case blanks > 0, (letters+digits)*2 <= len(s), letters == 0 && digits < 16:
		return false
	case digits == 0:
		// No constant's name, no long word.
		if len(s) < 20 || letters != len(s) || shannon(s) < 3.3 || oneCase(s) {
			return false
		}
	case shannon(s) < commonFloor:
		return false
	}
	return !isReference(c, s) && !isPlaceholder(c, s)
}

func oneCase(s []byte) bool {
	for _, c := range s {
		if c&0x20 != s[0]&0x20 {
			return false
		}
	}
	return true
}

// isReference tells what names a place where the secret is.
func isReference(c class, s []byte) bool {
	for _, r := range references[s[0]|0x20] {
		if len(s) >= len(r) && bytes.EqualFold(s[:len(r)], []byte(r)) {
			// A password may begin with a sign; a reference goes on as a name.
			if c != passwords || len(r) > 1 || len(s) > 1 && (s[1] == '{' || s[1] == '(' || isWord(s[1:])) {
				return true
			}
		}
	}
	return bytes.Contains(s, []byte("${")) || bytes.Contains(s, []byte("{{"))
}

// isPlaceholder tells what stands where the secret is to be put.
func isPlaceholder(c class, s []byte) bool {
	var buf [judged]byte
	low := buf[:len(s)]
	for i, b := range s {
		if b-'A' < 26 {
			b |= 0x20
		}
		low[i] = b
	}
	if len(low) <= 12 && noValues[string(low)] {
		return true
	}
	first, last := s[0], s[len(s)-1]
	if first == '<' && (last == '>' || bytes.IndexByte(s, '>') < 0) || first == '%' && last == '%' || first == '[' && last == ']' ||
		first == '{' && last == '}' || first == '(' || bytes.Contains(s, []byte("...")) {
		return true
	}
	if c == passwords {
		return false
	}
	return first == '{' || first == '<' || slices.ContainsFunc(placeholders, func(p string) bool { return bytes.Contains(low, []byte(p)) })
}

// fewKinds tells rows of one or two signs: ****, xxxx, .-.-
func fewKinds(s []byte) bool {
	a, b := s[0], s[0]
	for _, c := range s[:min(len(s), 64)] {
		if c != a && c != b {
			if a != b {
				return false
			}
			b = c
		}
	}
	return true
}
