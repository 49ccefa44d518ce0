package mask

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"
)

// gitlabToken is one that the detector gitlab-pat knows, made here so that none stands
// in the repository.
func gitlabToken(seed byte) string { return "gl" + "pat-" + string(rune(seed)) + "7Kq2mB9vT4nR8sW3dYz" }

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestAllowed(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	in := result(`{"a":{"b":["x `+gitlabToken('a')+`","`+gitlabToken('b')+`"]}}`, `{"n":"`+gitlabToken('a')+`"}`)
	site := Site{Server: "db", Tool: "query"}
	for name, c := range map[string]struct {
		allow Allowance
		site  Site
		a, b  int // how often each token is still there
	}{
		"nothing":            {Allowance{Detector: "npm"}, site, 0, 0},
		"detector":           {Allowance{Detector: "gitlab-pat"}, site, 2, 1},
		"hash":               {Allowance{Hash: hashOf(gitlabToken('a'))}, site, 2, 0},
		"hash of another":    {Allowance{Hash: hashOf(gitlabToken('c'))}, site, 0, 0},
		"hash and detector":  {Allowance{Hash: hashOf(gitlabToken('b')), Detector: "npm"}, site, 0, 0},
		"server":             {Allowance{Servers: []string{"db"}}, site, 2, 1},
		"another server":     {Allowance{Servers: []string{"files"}}, site, 0, 0},
		"no site":            {Allowance{Servers: []string{"db"}}, Site{}, 0, 0},
		"tool":               {Allowance{Tools: []string{"q*"}}, site, 2, 1},
		"another tool":       {Allowance{Tools: []string{"write"}}, site, 0, 0},
		"nobody knows which": {Allowance{Tools: []string{"query"}}, Site{Server: "db", Any: true}, 0, 0},
		"path":               {Allowance{Path: "result.structuredContent.a.b[0]"}, site, 1, 0},
		"path, any index":    {Allowance{Path: "result.structuredContent.a.b[*]"}, site, 1, 1},
		"path above":         {Allowance{Path: "result.structuredContent.a"}, site, 1, 1},
		"path in a text":     {Allowance{Path: "result.content[*].text|n"}, site, 1, 0},
		"path of the text":   {Allowance{Path: "result.content[0].text"}, site, 1, 0},
		"half a name":        {Allowance{Path: "result.struct"}, site, 0, 0},
		"no longer":          {Allowance{Detector: "gitlab-pat", Until: now}, site, 0, 0},
		"still":              {Allowance{Detector: "gitlab-pat", Until: now.Add(1)}, site, 2, 1},
	} {
		m := New(Options{Now: func() time.Time { return now }})
		m.ConfigureAllowed([]Allowance{c.allow})
		out, r, err := m.MessageAt([]byte(in), c.site)
		if err != nil {
			t.Fatal(err)
		}
		if a, b := strings.Count(string(out), gitlabToken('a')), strings.Count(string(out), gitlabToken('b')); a != c.a || b != c.b {
			t.Errorf("%s: %d and %d, want %d and %d\n%s", name, a, b, c.a, c.b, out)
		}
		if r.Masked() != (c.a+c.b < 3) {
			t.Errorf("%s: %+v", name, r)
		}
		if text, _ := m.Text("see " + gitlabToken('a')); strings.Contains(text, gitlabToken('a')) != (c.a == 2 && c.allow.Servers == nil && c.allow.Tools == nil) {
			t.Errorf("%s: as text: %s", name, text)
		}
	}
}

// TestAllowedNeverKnown: no entry lets a known value through, whatever else
// takes it for its own; nor another secret within what is let through.
func TestAllowedNeverKnown(t *testing.T) {
	m := New(Options{Keys: []string{"pw"}})
	m.ConfigureAllowed([]Allowance{{}, {Detector: "known"}, {Hash: hashOf(gitlabToken('k'))}, {Detector: "key"}, {Servers: []string{"*"}}})
	if _, err := m.Add("db", gitlabToken('k')); err != nil {
		t.Fatal(err)
	}
	out, _, err := m.Answer([]byte(result(`{"x":"`+gitlabToken('k')+`","pw":"`+gitlabToken('k')+`","y":"fine 1234"}`, gitlabToken('k'))), Site{Server: "s"})
	if err != nil || strings.Contains(string(out), gitlabToken('k')) {
		t.Errorf("%v %s", err, out)
	}
	m = New(Options{})
	m.ConfigureAllowed([]Allowance{{Detector: "url-credentials"}})
	text, _ := m.Text("see https://user:" + gitlabToken('u') + "@example.com/ for it")
	if strings.Contains(text, gitlabToken('u')) {
		t.Errorf("one detector's finding hid another's: %s", text)
	}
}

func TestAllowedKey(t *testing.T) {
	m := New(Options{Keys: []string{"pw"}})
	m.ConfigureAllowed([]Allowance{{Detector: "key", Path: "result.structuredContent.form.pw"}})
	out, _, err := m.Answer([]byte(result(`{"form":{"pw":"the field's name"},"pw":"real"}`, "")), Site{})
	if err != nil || !strings.Contains(string(out), `{"form":{"pw":"the field's name"},"pw":"[masked: pw]"}`) {
		t.Errorf("%v %s", err, out)
	}
}

// Places in a part of a message are those in the message, odd names too.
func TestPlacesInAPart(t *testing.T) {
	token := gitlabToken('a')
	for _, arguments := range []string{`{"a":"` + token + `"}`, `{"odd name":"` + token + `"}`, `["` + token + `"]`} {
		m := New(Options{})
		_, whole, err := m.Message([]byte(`{"params":{"arguments":` + arguments + `}}`))
		if err != nil || len(whole.Hits) != 1 {
			t.Fatal(whole, err)
		}
		part := Site{Root: "params.arguments"}
		if _, r, err := m.MessageAt([]byte(arguments), part); err != nil || len(r.Hits) != 1 || r.Hits[0].Place != whole.Hits[0].Place {
			t.Errorf("%+v, not %+v", r, whole)
		}
		m.ConfigureAllowed([]Allowance{{Path: whole.Hits[0].Place}})
		if out, _, err := m.MessageAt([]byte(arguments), part); err != nil || string(out) != arguments {
			t.Errorf("%s %v", out, err)
		}
	}
}
