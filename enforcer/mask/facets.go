package mask

import (
	"encoding/base64"
	"strings"
	"unicode"
	"unicode/utf8"
)

// minLine is how long a line of a multi-line secret must be to be masked by
// itself (a file may come back re-indented, or in part). Shorter ones are
// rarely secret: braces, names of fields. A line of a PEM block is nothing but
// key, however short.
const minLine = 20

// facet is a text that is as secret as the value it was taken from.
type facet struct {
	text   string
	binary bool // nobody escapes it: it goes encoded, in hex or base64
}

// facets lists what of a value is looked for: the value itself; with several
// lines, the same with the other line ends, and each line; of a PEM block
// (RFC 7468) each line of its body, the body without line breaks, and the bytes
// that it stands for. A file may be a value in disguise: with \n for its line
// ends, as it stands in JSON and in environment variables, or in base64, as
// Kubernetes keeps it and Vault's GCP engine sends it.
func facets(value string) []facet {
	out := []facet{{text: value}}
	files := []string{value}
	if text, ok := textOfBase64(value); ok {
		out = append(out, facet{text: text})
		files = append(files, text)
	}
	for _, text := range files {
		if strings.Contains(text, "\n") {
			lf := strings.ReplaceAll(text, "\r\n", "\n")
			out = append(out, facet{text: lf}, facet{text: strings.ReplaceAll(lf, "\n", "\r\n")})
			for line := range strings.Lines(text) {
				if line = strings.TrimSpace(line); len(line) >= minLine && !strings.HasPrefix(line, armour) {
					out = append(out, facet{text: line})
				}
			}
		}
		out = append(out, keyFacets(text)...)
		if strings.Contains(text, armour+"BEGIN ") && strings.Contains(text, `\n`) {
			out = append(out, keyFacets(strings.NewReplacer(`\r`, "", `\n`, "\n", `\/`, "/").Replace(text))...)
		}
	}
	return out
}

const armour = "-----"

// keyFacets are those of the PEM blocks in a text.
func keyFacets(text string) (out []facet) {
	for {
		_, after, ok := strings.Cut(text, armour+"BEGIN ")
		if !ok {
			return out
		}
		_, after, _ = strings.Cut(after, armour)
		block, rest, ok := strings.Cut(after, armour+"END ")
		if !ok {
			return out
		}
		text = rest
		var body strings.Builder
		for line := range strings.Lines(block) {
			line = strings.TrimSpace(line)
			if strings.Contains(line, ":") { // a header (RFC 1421 §4.6)
				continue
			}
			out = append(out, facet{text: line})
			body.WriteString(line)
		}
		out = append(out, facet{text: body.String()})
		if b, err := base64.StdEncoding.DecodeString(body.String()); err == nil {
			out = append(out, facet{text: string(b), binary: true})
		}
	}
}

// textOfBase64 decodes a value that is a text in base64, wrapped or not.
func textOfBase64(value string) (string, bool) {
	if len(value) < minRun {
		return "", false
	}
	bare := strings.NewReplacer("\n", "", "\r", "").Replace(value)
	b, err := base64.StdEncoding.DecodeString(bare)
	if err != nil {
		b, err = base64.RawURLEncoding.DecodeString(bare)
	}
	text := strings.TrimSpace(string(b))
	printable := func(r rune) bool { return unicode.IsPrint(r) || unicode.IsSpace(r) }
	if err != nil || !utf8.ValidString(text) || strings.IndexFunc(text, func(r rune) bool { return !printable(r) }) >= 0 {
		return "", false
	}
	return text, true
}
