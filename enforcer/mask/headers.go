package mask

import (
	"bytes"
	"encoding/base64"
	"unicode"
	"unicode/utf8"
)

// headers are credentials as HTTP carries them, in whatever text shows it.
var headers = []detector{
	issued("bearer", "", "token68{16,16384}", "https://www.rfc-editor.org/rfc/rfc6750#section-2.1", anyCase, withDigit, after("bearer ")),
	structure("basic", "https://www.rfc-editor.org/rfc/rfc7617#section-2", checkBasic, []string{"basic "}, anyCase, inOne),
	structure("authorization-header", "https://www.rfc-editor.org/rfc/rfc9110#section-11.6.2", checkAuthorization, []string{"authorization"}, anyCase, around),
	structure("cookie-header", "https://www.rfc-editor.org/rfc/rfc6265", checkCookie, []string{"cookie:", "cookie\":", "cookie':"}, anyCase, around),
	structure("curl-user", "https://curl.se/docs/manpage.html#-u", checkCurlUser, []string{" -u ", " --user ", " --user="}, around),
}

// checkBasic wants base64 of user:password.
func checkBasic(l *look, start, body int) (int, int, bool) {
	text, end := l.text, body
	for end < len(text) && end < body+maxKeyed && classOf[text[end]]&b64std != 0 {
		end++
	}
	return start, end, isUserPassword(text[body:end])
}

func isUserPassword(b64 []byte) bool {
	if len(b64) < 6 || len(b64) > maxKeyed {
		return false
	}
	plain, err := base64.RawStdEncoding.DecodeString(string(bytes.TrimRight(b64, "=")))
	return err == nil && bytes.IndexByte(plain, ':') >= 0 && utf8.Valid(plain) && bytes.IndexFunc(plain, unicode.IsControl) < 0
}

// checkAuthorization reads Authorization: or Proxy-Authorization: with a scheme
// or none, as a header, a member of JSON, an argument of curl.
func checkAuthorization(l *look, _, body int) (int, int, bool) {
	text, i := l.text, body
	if i < len(text) && isQuote(text[i]) {
		i++
	}
	if i < len(text) && text[i] != '=' {
		i = skipBlanks(text, i, 4)
	}
	if i >= len(text) || text[i] != ':' && text[i] != '=' {
		return 0, 0, false
	}
	i = skipBlanks(text, i+1, 4)
	delimiter := atLine
	if i < len(text) && isQuote(text[i]) {
		i++
	}
	switch end := l.untilAny(i, atLine); {
	case l.untilAny(i, atDouble) < end:
		delimiter = atDouble
	case l.untilAny(i, atSingle) < end:
		delimiter = atSingle
	}
	end := l.untilAny(i, delimiter)
	from := i
	word := l.untilAny(i, atBlank)
	if next := skipBlanks(text, word, 8); next < end && word-i <= 24 && isScheme(text[i:word]) {
		from = next
	}
	for end > from && (text[end-1] <= ' ' || text[end-1] == ',' || text[end-1] == ';') {
		end--
	}
	s := text[from:end]
	if len(s) >= 8 && bytes.Contains(s[:min(len(s), 512)], []byte("ignature=")) {
		return from, end, true // Digest, AWS4-HMAC-SHA256, Signature: all of it
	}
	end = min(end, l.untilAny(from, atBlank))
	for end > from && (text[end-1] == ',' || text[end-1] == ';') {
		end--
	}
	return from, end, isLiteral(generated, text[from:end]) && bytes.ContainsAny(text[from:min(end, from+judged)], "0123456789")
}

func isScheme(word []byte) bool {
	for _, c := range word {
		if !isAlnum(c) && c != '-' {
			return false
		}
	}
	return len(word) > 0
}

// checkCookie masks what Cookie or Set-Cookie sends, up to the end of the line.
func checkCookie(l *look, start, body int) (int, int, bool) {
	text := l.text
	i := skipBlanks(text, body, 4)
	if start > 0 && isAlnum(text[start-1]) {
		return 0, 0, false
	}
	delimiter := atLine
	if i < len(text) && isQuote(text[i]) {
		delimiter = map[byte]int{'"': atDouble, '\'': atSingle, '`': atBack}[text[i]]
		i++
	} else if n := start - 1; n >= 0 && (text[n] == '"' || text[n] == '\'') { // curl -H 'Cookie: …'
		delimiter = map[byte]int{'"': atDouble, '\'': atSingle}[text[n]]
	}
	end := l.untilAny(i, delimiter)
	n := bytes.IndexByte(text[i:min(end, i+128)], '=')
	if n <= 0 || end-i-n <= 8 {
		return 0, 0, false
	}
	for _, c := range text[i : i+n] {
		if !isName(c) {
			return 0, 0, false
		}
	}
	return i, end, true
}

// checkCurlUser wants user:password behind -u, and curl in front.
func checkCurlUser(l *look, start, body int) (int, int, bool) {
	text, i := l.text, skipBlanks(l.text, body, 4)
	delimiter := atBlank
	if i < len(text) && (text[i] == '"' || text[i] == '\'') {
		delimiter = map[byte]int{'"': atDouble, '\'': atSingle}[text[i]]
		i++
	}
	end := l.untilAny(i, delimiter)
	n := bytes.IndexByte(text[i:min(end, i+128)], ':')
	if n < 0 || end-i-n < 4 || text[i] == '<' || !bytes.Contains(text[max(0, start-200):start], []byte("curl")) {
		return 0, 0, false
	}
	return i + n + 1, end, isLiteral(passwords, text[i+n+1:end])
}
