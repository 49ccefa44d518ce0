package mask

import (
	"bytes"
	"strconv"
)

// keyBlocks are keys in an armour or a file format of their own.
var keyBlocks = []detector{
	structure("private-key", "https://www.rfc-editor.org/rfc/rfc7468", checkPEM, []string{"-----BEGIN "}, glued, probed(5)),
	structure("ssh2-private-key", "https://www.rfc-editor.org/rfc/rfc4716", checkSSH2, []string{"---- BEGIN SSH2 "}, glued, probed(5)),
	structure("putty-private-key", "https://the.earth.li/~sgtatham/putty/latest/htmldoc/AppendixC.html", checkPuTTY, []string{"PuTTY-User-Key-File-"}),
	structure("xml-rsa-key", "https://www.w3.org/TR/xmldsig-core1/", checkXMLKey, []string{"<RSAKeyValue>"}, glued),
}

// maxBlock is how far the end of a block is looked for.
const maxBlock = 64 << 10

// What blocks end with, or hold.
const (
	pemDashes = iota
	ssh2End
	privateLines
	xmlKeyEnd
	xmlPrivate
	needles
)

var needleTexts = [needles]string{"-----", "---- END SSH2 ENCRYPTED PRIVATE KEY ----", "Private-Lines: ", "</RSAKeyValue>", "<D>"}

// checkPEM wants the armour of a private key (PGP's is alike). A block whose
// end is missing is masked as far as it looks like one.
func checkPEM(l *look, start, body int) (int, int, bool) {
	const dashes = "-----"
	text := l.text
	title := text[body:min(len(text), body+64)]
	n := bytes.Index(title, []byte(dashes))
	if n < 0 || !bytes.Contains(title[:n], []byte("PRIVATE KEY")) {
		return 0, 0, false
	}
	i := body + n + len(dashes)
	if n := l.find(pemDashes, i); n >= 0 && n-i < maxBlock && bytes.HasPrefix(text[n:], []byte(dashes+"END ")) {
		if n-i < 24 {
			return 0, 0, false // as in an explanation
		}
		end := n + len(dashes)
		if m := bytes.Index(text[end:min(len(text), end+64)], []byte(dashes)); m >= 0 {
			end += m + len(dashes)
		}
		return start, end, true
	}
	end, size := i, 0
	for i < len(text) {
		for i < len(text) && (text[i] <= ' ' || text[i] == '\\') {
			i++
		}
		from := i
		for i < len(text) && classOf[text[i]]&b64std != 0 {
			i++
		}
		if i-from < 16 {
			break
		}
		end, size = i, size+i-from
	}
	return start, end, size >= 32
}

func checkSSH2(l *look, start, body int) (int, int, bool) {
	if !bytes.HasPrefix(l.text[body:], []byte("ENCRYPTED PRIVATE KEY ----")) {
		return 0, 0, false
	}
	n := l.find(ssh2End, body)
	return start, n + len(needleTexts[ssh2End]), n >= 0 && n-body < maxBlock
}

// checkPuTTY masks the private lines, and leaves the public half.
func checkPuTTY(l *look, _, body int) (int, int, bool) {
	n := l.find(privateLines, body)
	if n < 0 || n-body > maxBlock {
		return 0, 0, false
	}
	body = n + len(needleTexts[privateLines])
	rest := l.text[body:min(len(l.text), body+maxBlock)]
	i := 0
	end := i
	for end < len(rest) && rest[end]-'0' < 10 && end < i+4 {
		end++
	}
	count, err := strconv.Atoi(string(rest[i:end]))
	if err != nil || count > 1000 {
		return 0, 0, false
	}
	from := skipSpace(rest, end)
	end = from
	for range count {
		m := bytes.IndexByte(rest[end:], '\n')
		if m < 0 {
			return body + from, body + len(rest), from < len(rest)
		}
		end += m + 1
	}
	for end > from && rest[end-1] <= ' ' {
		end--
	}
	return body + from, body + end, end > from
}

func checkXMLKey(l *look, start, body int) (int, int, bool) {
	n, d := l.find(xmlKeyEnd, body), l.find(xmlPrivate, body)
	return start, n + len(needleTexts[xmlKeyEnd]), d >= 0 && d < n && n-body < maxBlock
}
