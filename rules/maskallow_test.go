package rules

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestAllowProblems(t *testing.T) {
	allow := func(body string) string { return "allow:\n- " + body + "\n" }
	for _, c := range []struct{ name, text, want string }{
		{"no list", "allow: { detector: a }\n", "masks/x.yaml:1:8: allow must be a list"},
		{"unknown", allow(`{ value: a, reason: r }`), `masks/x.yaml:2:5: unknown field "value" in an entry under allow`},
		{"nothing", allow(`{ reason: r }`), "masks/x.yaml:2:3: an entry under allow needs at least one of"},
		{"no reason", allow(`{ detector: github }`), "masks/x.yaml:2:3: an entry under allow needs a reason"},
		{"hash", allow(`{ hash: abc, reason: r }`), "masks/x.yaml:2:11: hash must be the SHA-256"},
		{"upper case", allow(`{ hash: "` + strings.Repeat("AB", 32) + `", reason: r }`), "in lower case"},
		{"known", allow(`{ detector: known, reason: r }`), "masks/x.yaml:2:15: known values, which were minted, are always masked"},
		{"field", allow(`{ detector: "field:x", reason: r }`), "write a field rule with action: keep"},
		{"server", allow(`{ server: flies, reason: r }`), `masks/x.yaml:2:13: server "flies" is not in servers/`},
		{"tool", allow(`{ tool: "*x", reason: r }`), "* may only stand alone or at the end"},
		{"path", allow(`{ path: "a\u0007b", reason: r }`), "path must be a place"},
		{"path from a dollar", allow(`{ detector: github, path: "$.content", reason: r }`), "masks/x.yaml:2:29: path begins with the message's own member"},
		{"expires", allow(`{ detector: github, expires: soon, reason: r }`), "masks/x.yaml:2:32: expires must be a day"},
		{"expires, a number", allow(`{ detector: github, expires: 2027, reason: r }`), "expires must be a day"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := try(base(), "masks/x.yaml", c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestAllow(t *testing.T) {
	hash := strings.Repeat("0f", 32)
	p := load(t, base(), "masks/x.yaml", "allow:\n- { hash: "+hash+", detector: github, server: files, tool: [read, \"get_*\"], path: \"result.content[*].text\", expires: 2027-01-31, reason: a sample }\n- { detector: gitbub, expires: 2027-01-31T10:00:00+02:00, reason: r }\n")
	want := []MaskAllowance{
		{Hash: hash, Detector: "github", Servers: []string{"files"}, Tools: []string{"read", "get_*"}, Path: "result.content[*].text", Expires: time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC), Reason: "a sample"},
		{Detector: "gitbub", Expires: time.Date(2027, 1, 31, 8, 0, 0, 0, time.UTC), Reason: "r"},
	}
	if got := p.Masks().Allow; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	ps := p.UnknownDetectors([]string{"e-mail", "github"})
	if err := error(ps); !errors.As(err, &ps) || len(ps) != 1 || !strings.Contains(ps[0].String(), `masks/x.yaml:3:15: there is no detector "gitbub": did you mean github?`) {
		t.Errorf("%v", ps)
	}
}
