package mask

import "bytes"

// files are credentials at their place in URLs, in files of tools, in SQL.
var files = []detector{
	structure("url-credentials", "https://www.rfc-editor.org/rfc/rfc3986#section-3.2.1", checkURL, []string{"://"}, glued, inOne),
	structure("url-signature", "https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html", checkSignature,
		[]string{"x-amz-signature=", "x-goog-signature=", "x-amz-security-token=", "&sig=", "?sig="}, anyCase, around),
	structure("netrc", "https://www.gnu.org/software/inetutils/manual/html_node/The-_002enetrc-file.html", checkNetrc, []string{"machine ", "machine\t", "machine\n", "default login "}, inOne),
	structure("pgpass", "https://www.postgresql.org/docs/current/libpq-pgpass.html", checkPgpass, []string{":5432:", ":5433:", ":5434:", ":6432:", ":6543:", ":26257:", "*:*:*:"}, around),
	structure("docker-auth", "https://docs.docker.com/reference/cli/docker/login/", checkDockerAuth, []string{"\"auth\"", "_auth"}, around),
	structure("kubernetes-secret", "https://kubernetes.io/docs/concepts/configuration/secret/", checkKubernetes, []string{"kind: secret", "kind: \"secret\"", "kind: 'secret'"}, anyCase, around),
	sqlPassword,
	structure("sensitive-field", "https://developer.hashicorp.com/terraform/language/values/outputs#sensitive-suppressing-values-in-cli-output", noText, nil),
	structure("jwk", "https://www.rfc-editor.org/rfc/rfc7517", noText, nil),
}

// noText is the check of what only JSON itself shows, see fields.go.
func noText(*look, int, int) (int, int, bool) { return 0, 0, false }

// checkURL wants user:password@ behind ://, and masks the password.
func checkURL(l *look, _, body int) (int, int, bool) {
	text, colon := l.text, -1
	for i := body; i < len(text) && i < body+1024; i++ {
		switch c := text[i]; {
		case c == '@':
			from := colon + 1
			ok := colon >= 0 && i > from && len(bytes.Trim(text[from:i], "*")) > 0 && !isTemplate(text[from:i])
			return from, i, ok
		case c == ':' && colon < 0:
			colon = i
		case c <= ' ', c == '/', c == '"', c == '<', c == '>', c == '`':
			return 0, 0, false
		}
	}
	return 0, 0, false
}

// isTemplate tells a reference or a placeholder: ${PASS}, {{ pass }}, $PASS,
// [masked: …].
func isTemplate(s []byte) bool {
	return len(s) > 1 && (s[0] == '$' && (s[1] == '{' || s[1] == '(' || isWord(s[1:])) || s[0] == '{' && s[len(s)-1] == '}' || s[0] == '[' && s[len(s)-1] == ']' || fewKinds(s))
}

// checkSignature wants the signature of a URL that was signed in advance.
func checkSignature(l *look, _, body int) (int, int, bool) {
	end := l.untilAny(body, atSign)
	return body, end, end-body >= 20 && bytes.ContainsAny(l.text[body:min(end, body+judged)], "0123456789")
}

// checkNetrc reads machine NAME login NAME password WORD, in any order of the
// pairs, on one line or several.
func checkNetrc(l *look, start, body int) (int, int, bool) {
	text := l.text[:min(len(l.text), body+1024)]
	i := body
	next := func() []byte {
		i = skipSpace(text, i)
		from := i
		for i < len(text) && text[i] > ' ' && i-from < 256 {
			i++
		}
		return text[from:i]
	}
	if l.text[start] == 'm' {
		next()
	} else {
		i -= len("login ")
	}
	login := false
	for range 4 {
		switch key := next(); string(key) {
		case "login", "account":
			login = true
			next()
		case "password":
			s := next()
			return i - len(s), i, login && len(s) > 2 && !isTemplate(s)
		default:
			return 0, 0, false
		}
	}
	return 0, 0, false
}

// checkPgpass wants a line host:port:database:user:password, of PostgreSQL's
// usual ports.
func checkPgpass(l *look, start, body int) (int, int, bool) {
	text := l.text
	if text[start] == ':' {
		host := start
		for host > 0 && start-host < 255 && (isName(text[host-1]) || text[host-1] == '*' || text[host-1] == '/') {
			host--
		}
		if host == start || host > 0 && text[host-1] != '\n' {
			return 0, 0, false
		}
	} else if start > 0 && text[start-1] != '\n' {
		return 0, 0, false
	} else { // *:*:*: is host, port and database
		body = start + len("*:*:")
	}
	i := body
	for n := range 2 {
		from := i
		for i < len(text) && i-from < 128 && text[i] > ' ' && text[i] != ':' {
			i++
		}
		if i == from || i >= len(text) || text[i] != ':' || n == 0 && len(bytes.Trim(text[from:i], "0123456789")) == 0 {
			return 0, 0, false // main.go:5432:12: is a place in a file
		}
		i++
	}
	end := l.untilAny(i, atLine)
	return i, end, end > i && !bytes.ContainsAny(text[i:end], " *") && !isTemplate(text[i:end])
}

// checkDockerAuth wants "auth": "…" or _auth=… with base64 of user:password.
func checkDockerAuth(l *look, _, body int) (int, int, bool) {
	text := l.text
	i := skipBlanks(text, body, 4)
	if i >= len(text) || text[i] != ':' && text[i] != '=' {
		return 0, 0, false
	}
	if i = skipBlanks(text, i+1, 4); i < len(text) && text[i] == '"' {
		i++
	}
	end := i
	for end < len(text) && end < i+maxKeyed && classOf[text[end]]&b64std != 0 {
		end++
	}
	return i, end, isUserPassword(text[i:end])
}

// checkKubernetes masks all that stands under data or stringData of a Secret's
// manifest, which may stand in front of its kind too, a little.
func checkKubernetes(l *look, start, body int) (int, int, bool) {
	if body < len(l.text) && isName(l.text[body]) {
		return 0, 0, false
	}
	const near = 2048
	m := &l.data
	m.read(l.text, start)
	if from, to, ok := m.block(l.text, start); ok && start-from < near {
		if bytes.Contains(l.text[from:start], []byte("\n---")) {
			ok = false
		}
		if ok {
			return from, to, ok
		}
	}
	for m.at < len(l.text) && m.at < body+near && m.lineAt <= start {
		m.read(l.text, m.at+1)
	}
	from, to, ok := m.block(l.text, body+near)
	return from, to, ok && from > body && !bytes.Contains(l.text[body:from], []byte("\n---"))
}

// manifest is how far the lines of a text were read for one that says data: or
// stringData:, and what stands under the last such line.
type manifest struct {
	at             int // the line to read next
	lineAt, indent int // the last line that says so, how deep it stands; lineAt is 0 if there is none
	of, from, to   int // the block below the line at of
	ok             bool
}

// read goes on line by line, up to the line that begins at or behind limit.
func (m *manifest) read(text []byte, limit int) {
	for m.at < limit && m.at < len(text) {
		n := bytes.IndexByte(text[m.at:], '\n')
		if n < 0 {
			n = len(text) - m.at - 1
		}
		if n < 64 {
			line := text[m.at : m.at+n]
			indent := indentOf(line)
			if key := string(bytes.TrimRight(line[indent:], " \r")); key == "data:" || key == "stringData:" {
				m.lineAt, m.indent = m.at+n+1, indent
			}
		}
		m.at += n + 1
	}
}

// block returns the lines that stand deeper, below the last line read.
func (m *manifest) block(text []byte, limit int) (int, int, bool) {
	if m.lineAt == 0 || m.lineAt > limit || m.lineAt >= len(text) {
		return 0, 0, false
	}
	if m.of == m.lineAt {
		return m.from, m.to, m.ok
	}
	end := m.lineAt
	for end < len(text) {
		deeper := text[end:min(len(text), end+maxBlock)]
		if i := indentOf(deeper); i <= m.indent || i == len(deeper) || deeper[i] == '\n' {
			break
		}
		n := bytes.IndexByte(deeper, '\n')
		if n < 0 {
			end = len(text)
			break
		}
		end += n + 1
	}
	m.of, m.from = m.lineAt, m.lineAt+indentOf(text[m.lineAt:end])
	for end > m.from && text[end-1] <= ' ' {
		end--
	}
	m.to = end
	m.ok = end > m.from && holdsData(text[m.from:end])
	return m.from, m.to, m.ok
}

// holdsData tells whether a block has any member with more than a template or
// nothing in it.
func holdsData(block []byte) bool {
	for line := range bytes.Lines(block) {
		_, member, ok := bytes.Cut(line, []byte(": "))
		if member = bytes.Trim(member, " \"'|>-\r\n"); ok && len(member) >= 4 && !bytes.HasPrefix(member, []byte("{{")) && !bytes.HasPrefix(member, []byte("ENC[")) || !ok && len(bytes.TrimSpace(line)) >= 16 {
			return true
		}
	}
	return false
}

func indentOf(line []byte) int {
	n := 0
	for n < len(line) && (line[n] == ' ' || line[n] == '\t') {
		n++
	}
	return n
}
