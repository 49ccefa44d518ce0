package mask

import (
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestEveryDetector(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	m := New(Options{})
	formats := 0
	for i := range detectors {
		d := &detectors[i]
		if d.check == nil {
			formats++
		}
		if from, _, _ := strings.Cut(d.source, " "); !strings.HasPrefix(d.source, "https://") && !slices.Contains([]string{"gitleaks", "trufflehog", "kingfisher"}, from) && d.keyed == plain {
			t.Errorf("%s has no source: %q", d.name, d.source)
		}
		for _, prefix := range d.prefixes {
			for range 5 {
				s := sample(r, d, prefix)
				secret := s.secret[len(s.secret)/2:][:5]
				arounds := []string{"%s", "x %s;", "say \"%s\"\n", "a: %s b", "(%s)", "x,%s,y"}
				if s.around {
					arounds = []string{"%s", "%s\n", "text\n%s"}
				}
				for _, around := range arounds {
					text := strings.Replace(around, "%s", s.text, 1)
					out, rep := m.Text(text)
					if strings.Contains(out, secret) || !rep.Masked() {
						t.Fatalf("%s: %q passed as %q", d.name, text, out)
					}
					if names := detectorsOf(rep); !slices.Contains(names, d.name) && !(d.soft || d.lead != nil || shared[d.name]) {
						shared[d.name] = true // said once
						t.Errorf("%s: %q found by %v", d.name, text, names)
					}
					if again, rep := m.Text(out); again != out || rep.Masked() {
						t.Errorf("%s: not stable: %q", d.name, again)
					}
					msg, err := json.Marshal(map[string]any{"content": []any{map[string]string{"text": text}}})
					if err != nil {
						t.Fatal(err)
					}
					res, _, err := m.Message(msg)
					if err != nil || strings.Contains(string(res), secret) || !json.Valid(res) {
						t.Fatalf("%s: %s %v", d.name, res, err)
					}
				}
				if !s.around {
					b64 := base64.StdEncoding.EncodeToString([]byte("some words " + s.text + " and more"))
					if out, rep := m.Text(b64); !rep.Masked() || len(out) > 80 {
						t.Errorf("%s in base64 passed: %s", d.name, out)
					}
				}
			}
		}
	}
	if formats < 150 {
		t.Errorf("%d token formats", formats)
	}
	if names := Detectors(); len(slices.Compact(names)) != len(detectors) {
		t.Error("two detectors have one name")
	}
}

// shared are formats that another one describes as well: the first of the table
// that fits names a token.
var shared = map[string]bool{"liveblocks": true}

func detectorsOf(r Report) []string {
	var names []string
	for _, h := range r.Hits {
		names = append(names, h.Detector)
	}
	return names
}

func TestSplitTokens(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	m := New(Options{})
	for i := range detectors {
		d := &detectors[i]
		if d.whole || d.lead != nil || d.check != nil {
			continue
		}
		token := sample(r, d, d.prefixes[0]).text
		for cut := 1; cut < len(token); cut++ {
			msg, err := json.Marshal([]any{map[string]string{"type": "text", "text": "see " + token[:cut]}, map[string]string{"type": "text", "text": token[cut:] + " end"}})
			if err != nil {
				t.Fatal(err)
			}
			if out, rep, err := m.Message(msg); err != nil || !rep.Masked() || !json.Valid(out) {
				t.Errorf("%s cut at %d: %s %v", d.name, cut, out, err)
				break
			}
		}
	}
}

func TestOrdinaryTextPasses(t *testing.T) {
	m := New(Options{})
	for _, text := range []string{
		"The task-sk-force met; key-value stores, npm_modules, hf_transfer, pul-ley, SKATE and AKIAN.",
		"Bearer authentication is required. Basic authentication too. basic information follows",
		"https://example.com:8080/a@b ssh://git@github.com/x http://user:***@host ://:@",
		"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY----- is how a key begins.",
		"AKIA" + strings.Repeat("A", 30), "ghp_short", "eyJhbGciOi.eyJ.x", "sk-ant-eater is an animal-with-hyphens",
		"commit 3f9c2e1b8d7a6054f3e2d1c0b9a8978685746352 uuid 123e4567-e89b-12d3-a456-426614174000",
		strings.Repeat("lorem ipsum dolor sit amet ", 100),
	} {
		if out, r := m.Text(text); out != text || r.Masked() {
			t.Errorf("%q became %q", text, out)
		}
	}
}

func TestDisabledDetector(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	i := slices.IndexFunc(detectors, func(d detector) bool { return d.name == "github-pat" })
	token := sample(r, &detectors[i], detectors[i].prefixes[0]).text
	m := New(Options{Disable: []string{"github-pat", "known"}})
	if out, _ := m.Text(token); out != token {
		t.Errorf("disabled, but masked: %s", out)
	}
	if _, err := m.Add("gh", token); err != nil {
		t.Fatal(err)
	}
	if out, _ := m.Text(token); out != "[masked: gh]" {
		t.Errorf("a known value must not be disabled: %s", out)
	}
	if !slices.Contains(Detectors(), "github-pat") || !slices.IsSorted(Detectors()) {
		t.Error("Detectors")
	}
}

// A key that lost its end, in pieces over an array, and with escaped breaks.
func TestPrivateKeyShapes(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	m := New(Options{})
	key := pem(r)
	lines := strings.Split(key, "\n")
	array, err := json.Marshal(lines)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{key, strings.Join(lines[:4], "\n"), strings.ReplaceAll(key, "\n", `\n`), strings.ReplaceAll(key, "\n", `\\n`), string(array)} {
		if out, _ := m.Text(text); strings.Contains(out, lines[2][:20]) {
			t.Errorf("%s", out)
		}
	}
	out, _, err := m.Message(array)
	if err != nil || strings.Contains(string(out), lines[2][:20]) {
		t.Errorf("%s %v", out, err)
	}
}

// What is no token within one string does not become one because another
// string follows.
func TestSeamsMakeNoTokens(t *testing.T) {
	m := New(Options{})
	msg := []byte(`["AKIA` + strings.Repeat("A", 30) + `","x",{"a":"http://host","b":"12:30","c":"bob@example.com"}]`)
	if out, r, err := m.Message(msg); err != nil || r.Masked() {
		t.Errorf("%s %v", out, err)
	}
}
