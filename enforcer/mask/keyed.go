package mask

import (
	"bytes"
	"slices"
	"strings"
)

// class says what stands under a key.
type class uint8

const (
	plain     class = iota
	passwords       // chosen by somebody: any literal
	generated       // made by a machine: long, mixed
)

// keyedValues are found by the name that they stand under: DB_PASSWORD=…,
// "clientSecret": "…", <token>…</token>, --api-key …, name/value pairs. A name
// may have anything in front, and nothing behind. What stands there must be a
// literal, see literal.
var keyedValues = []detector{
	keyed("password-value", passwords, "password", "passwd", "passphrase", "pwd", "pass"),
	keyed("secret-value", generated, "secret", "secret_key", "secretkey", "secret-key", "secret_access_key", "secretaccesskey",
		"secret_key_base", "secretvalue", "private_key", "privatekey", "private-key", "presharedkey", "preshared_key", "encryption_key", "encryptionkey",
		"encryption-key", "signing_key", "signingkey", "signing-key", "master_key", "masterkey", "account_key", "accountkey",
		"shared_access_key", "sharedaccesskey", "storage_key", "credential", "credentials", "client-key-data", "hmac_key", "hmackey", "session_key"),
	keyed("api-key-value", generated, "api_key", "apikey", "api-key", "access_key", "accesskey", "access-key", "subscription_key",
		"subscription-key", "app_key", "appkey", "app-key", "auth_key", "authkey", "auth-key", "service_key", "servicekey",
		"license_key", "licensekey", "functions-key", "consumer_key"),
	keyed("token-value", generated, "token"),
}

// sqlPasswords stand in statements: CREATE USER … IDENTIFIED BY '…'.
var sqlPassword = keyed("sql-password", passwords, "identified by")

func keyed(name string, c class, words ...string) detector {
	return detector{name: name, prefixes: words, source: "docs/masking.md#keyed-values", fold: true, soft: true, loose: true, whole: true, keyed: c,
		check: func(l *look, start, body int) (int, int, bool) { return keyedValue(l, start, body, c) }}
}

// keyWords are the names above, by last letter: for keys of JSON objects.
var keyWords = func() (t [256][]keyWord) {
	for i := range detectors {
		if d := &detectors[i]; d.keyed != plain {
			for _, w := range d.prefixes {
				t[w[len(w)-1]] = append(t[w[len(w)-1]], keyWord{w, i})
			}
		}
	}
	return t
}()

type keyWord struct {
	word     string
	detector int
}

// maxKey is how long a name may be.
const maxKey = 64

// notSecret are what the word in front makes of a token: places in lists, and
// the protocol's own.
var notSecret = []string{"page", "next", "previous", "prev", "pagination", "continuation", "continue", "progress", "cancellation", "cancel", "sync", "delta", "skip", "scroll", "resume", "resumption", "idempotency", "clientrequest", "client_request", "cursor", "start", "end", "stop", "eos", "bos", "pad", "unk", "mask", "csrf", "xsrf", "authenticity", "public", "publishable"}

// compounds are words that make one word with token.
var compounds = []string{"access", "auth", "refresh", "id", "api", "bearer", "session", "security", "bot", "app", "user", "private", "deploy", "webhook", "secret", "login", "identity", "registry", "oauth", "client", "server", "root", "admin", "device", "push", "join", "github", "gitlab", "slack", "vault"}

// exempt tells whether a name, the last word of which begins at word, names
// nothing secret.
func exempt(name []byte, word int) bool {
	front := bytes.TrimRight(name[:word], "_-.$")
	last := name[word:]
	if bytes.EqualFold(last, []byte("pass")) { // of tests and counters; bypass
		return len(front) == 0 || last[0] == 'p' && len(front) == word
	}
	if !bytes.EqualFold(last, []byte("token")) || len(front) == 0 {
		return false
	}
	low := bytes.ToLower(front[max(0, len(front)-16):])
	ends := func(w string) bool { return bytes.HasSuffix(low, []byte(w)) }
	if last[0] == 't' && len(front) == word && isAlnum(front[word-1]) { // jsonwebtoken
		return !slices.ContainsFunc(compounds, ends)
	}
	return slices.ContainsFunc(notSecret, ends)
}

// keyOf finds the detector for the key of a JSON object, -1 if it names no
// secret.
func keyOf(name []byte) int {
	if len(name) == 0 || len(name) > maxKey {
		return -1
	}
	for _, k := range keyWords[name[len(name)-1]|0x20] {
		front := len(name) - len(k.word)
		if front >= 0 && bytes.EqualFold(name[front:], []byte(k.word)) {
			if (k.word != "pass" || front > 0) && exempt(name, front) {
				return -1
			}
			return k.detector
		}
	}
	return -1
}

// isOther tells a value of a name's other meaning: the directory that PWD and
// OLDPWD are in a shell, and how many tests pass.
func isOther(name, s []byte) bool {
	switch strings.ToLower(string(name)) {
	case "pwd", "oldpwd":
		return isDirectory(s)
	case "pass":
		return isCount(s)
	}
	return false
}

// isDirectory tells an absolute path of plain names.
func isDirectory(s []byte) bool {
	if len(s) > 2 && s[1] == ':' && s[0]|0x20-'a' < 26 {
		s = s[2:]
	}
	first := bytes.TrimLeft(s, `/\`)
	if len(first) == 0 || len(first) == len(s) || !isName(first[0]) {
		return false
	}
	for _, c := range s {
		if !isName(c) && c != '/' && c != '\\' && c != ' ' && c < 0x80 {
			return false
		}
	}
	return true
}

// isCount tells 12/15, 3 of 4, 98.5%.
func isCount(s []byte) bool {
	const digits = "0123456789."
	rest := bytes.TrimLeft(s, digits)
	if len(rest) == 0 || len(rest) == len(s) {
		return false
	}
	switch sign := bytes.TrimSpace(bytes.TrimRight(rest, digits)); string(sign) {
	case "/", "of", "%":
		return true
	}
	return false
}

func isName(c byte) bool { return isAlnum(c) || c == '_' || c == '-' || c == '.' || c == '$' }

func skipBlanks(text []byte, i, most int) int {
	for most > 0 && i < len(text) && (text[i] == ' ' || text[i] == '\t') {
		i, most = i+1, most-1
	}
	return i
}

func isQuote(c byte) bool { return c == '"' || c == '\'' || c == '`' }

// keyedValue reads what is behind a name that ends at body: how it is quoted,
// what assigns, and the value.
func keyedValue(l *look, start, body int, c class) (from, to int, ok bool) {
	text := l.text
	i := body
	if i+1 < len(text) && (text[i] == '_' || text[i] == '-') && text[i+1]-'0' < 10 {
		i++
	}
	for n := 0; n < 4 && i < len(text) && text[i]-'0' < 10; n++ { // password2, token_123
		i++
	}
	if i >= len(text) || isName(text[i]) && !(text[i] == '.' && i+1 < len(text) && text[i+1] == '=') {
		return 0, 0, false
	}
	name := start
	for name > 0 && start-name < maxKey && isName(text[name-1]) {
		name--
	}
	quotedKey := name > 0 && isQuote(text[name-1])
	if exempt(text[name:body], start-name) && !(quotedKey && start == name && body-start == len("pass")) {
		return 0, 0, false
	}
	v := assigned{name: name, class: c, key: text[name:body]}
	if name > 0 {
		v.before = text[name-1]
	}
	v.lineStart = lineStart(text, name)
	switch {
	case v.before == '<' && text[i] == '>': // <password>…</password>
		i = skipSpace(text, i+1)
		v.from, v.to = i, l.untilAny(i, atMarkup)
		for v.to > v.from && text[v.to-1] <= ' ' {
			v.to--
		}
		v.quoted = v.to < len(text) && bytes.HasPrefix(text[skipSpace(text, v.to):], []byte("</"))
		return v.from, v.to, v.literal(text)
	case isQuote(text[i]):
		v.closed = true
		i++
	case text[i] == ']':
		i++
	}
	if i < len(text) && text[i] == ']' { // config["password"]
		i++
	}
	spaced := skipBlanks(text, i, 16)
	i, ok = assignment(text, spaced, spaced > i, quotedKey, &v)
	if !ok {
		return 0, 0, false
	}
	after := skipBlanks(text, i, 16)
	v.spaced = spaced > body && after > i
	return v.read(l, after)
}

func skipSpace(text []byte, i int) int {
	for n := 0; n < 128 && i < len(text) && text[i] <= ' '; n++ {
		i++
	}
	return i
}

// lineStart tells whether only indentation, export, a list's dash or a comment
// sign is between the start of the line and i.
func lineStart(text []byte, i int) bool {
	from := max(0, i-40)
	line := text[from:i]
	if n := bytes.LastIndexByte(line, '\n'); n >= 0 {
		line = line[n+1:]
	} else if from > 0 {
		return false
	}
	switch string(bytes.TrimSpace(line)) {
	case "", "export", "set", "-", "#", "//", ";", "ENV", "ARG", "\"", "'":
		return true
	}
	return false
}

// assignment reads what makes the value follow the name, at i.
func assignment(text []byte, i int, blank, quotedKey bool, v *assigned) (int, bool) {
	if i >= len(text) {
		return i, false
	}
	rest := text[i:]
	switch rest[0] {
	case ':':
		n := 1
		for n < 3 && n < len(rest) && rest[n] == ':' {
			n++
		}
		if n < len(rest) && rest[n] == '=' {
			n++
			v.equals = true
		} else if n > 1 {
			return i, false // a scope: Password::new
		}
		return i + n, true
	case '=':
		v.equals = true
		n := 1
		if n < len(rest) && rest[n] == '>' {
			n++
		} else if n < len(rest) && (rest[n] == '=' || rest[n] == '~') {
			return i, false // a comparison
		}
		return i + n, true
	case '?', '.', '+', '|':
		v.equals = true
		if n := bytes.IndexByte(rest[:min(3, len(rest))], '='); n > 0 {
			return i + n + 1, true
		}
		return i, false
	case ',':
		if !quotedKey {
			return i, false
		}
		if n := valueField(text, skipSpace(text, i+1)); n > 0 {
			return n, true
		}
		n := skipBlanks(text, i+1, 16)
		called := v.name > 1 && text[v.name-2] == '(' // put("password", "…")
		return n, called && n < len(text) && isQuote(text[n])
	case '\'':
		return i, blank && v.class == passwords // PASSWORD '…'
	case '\n', '\r':
		if n := valueField(text, skipSpace(text, i)); n > 0 && !quotedKey {
			v.lineStart = true
			return n, true
		}
		return i, false
	}
	if blank && len(rest) > 6 && quotedKey && string(rest[:6]) == "value=" { // <add key="password" value="…"/>
		return i + 6, true
	}
	if blank && v.name > 1 && string(text[v.name-1:v.name+1]) == "--" || blank && bytes.HasPrefix(v.key, []byte("--")) {
		v.flag = true
		return i, rest[0] != '-'
	}
	for _, kind := range []string{"string", "String", "str"} { // var token string = "…"
		if blank && bytes.HasPrefix(rest, []byte(kind)) {
			if n := skipBlanks(text, i+len(kind), 4); n+1 < len(text) && text[n] == '=' && text[n+1] != '=' {
				v.equals = true
				return n + 1, true
			}
		}
	}
	return i, false
}

// valueField reads the key of the second half of a pair: "value": or value:
func valueField(text []byte, i int) int {
	quote := i < len(text) && isQuote(text[i])
	if quote {
		i++
	}
	if len(text)-i < 6 || !bytes.EqualFold(text[i:i+5], []byte("value")) {
		return 0
	}
	if i += 5; quote {
		if !isQuote(text[i]) {
			return 0
		}
		i++
	}
	if i = skipBlanks(text, i, 16); i < len(text) && text[i] == ':' {
		return i + 1
	}
	return 0
}
