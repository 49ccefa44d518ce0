package audit

import (
	"encoding/json"
	"errors"
	"testing"
)

// Who holds the enforcer's secret shows of which body a digest is; who has the
// salt then, too; and nobody shows it of another body, entry or run.
func TestABodyThatIsNotKeptIsProven(t *testing.T) {
	salts := NewSalts([]byte("a secret of the enforcer's"))
	start := func(j *Journal) (s Start) {
		t.Helper()
		for e, err := range j.Read() {
			if err == nil {
				err = json.Unmarshal(e.Detail, &s)
			}
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		return s
	}
	j := openJournal(t, Config{Salts: salts})
	text := []byte(`{"result":"ok"}`)
	call := func(id string) Entry {
		t.Helper()
		e, err := j.Append(t.Context(), Entry{Kind: KindOutcome, Call: id}, Body{Of: "request", Text: text, Digest: true},
			Body{Of: "response", Text: text, Digest: true}, Body{Of: "response", Text: text})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	one, two := call("c_1"), call("c_2")
	digests := map[string]bool{bodyDigest(nil, text): true}
	for i := range 4 { // of each entry those that are not kept
		digests[[]Entry{one, two}[i/2].Bodies[i%2].Digest] = true
	}
	if len(digests) != 5 {
		t.Errorf("equal bodies show as equal: %v", digests)
	}
	salt, err := salts.Prove("demo/i1", start(j), one, 1, text)
	if err != nil || ProvenBy(salt, one.Bodies[1], text) != nil {
		t.Errorf("not proven: %v, %v", err, ProvenBy(salt, one.Bodies[1], text))
	}
	for _, err := range []error{ProvenBy(salt, one.Bodies[0], text), ProvenBy(salt, two.Bodies[1], text), ProvenBy(salt, one.Bodies[1], text[1:]), ProvenBy(nil, one.Bodies[1], text)} {
		if !errors.Is(err, ErrBodyDiffers) {
			t.Errorf("the salt of one body shows another: %v", err)
		}
	}
	moved := one
	moved.Call = "c_2"
	earlier := openJournal(t, Config{Incarnation: "i0"})
	for name, c := range map[string]struct {
		salts  *Salts
		origin string
		start  Start
		entry  Entry
		index  int
		text   string
		want   error
	}{
		"another text":           {salts, "demo/i1", start(j), one, 1, `{"result":"no"}`, ErrBodyDiffers},
		"another run":            {salts, "demo/i2", start(j), one, 1, string(text), ErrBodyDiffers},
		"another call":           {salts, "demo/i1", start(j), moved, 1, string(text), ErrBodyDiffers},
		"another secret":         {NewSalts([]byte("another")), "demo/i1", start(j), one, 1, string(text), ErrBodyUnproven},
		"a run without a secret": {salts, "demo/i0", start(earlier), one, 1, string(text), ErrBodyUnproven},
		"a body that is kept":    {salts, "demo/i1", start(j), one, 2, string(text), ErrBodyUnproven},
	} {
		if _, err := c.salts.Prove(c.origin, c.start, c.entry, c.index, []byte(c.text)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if salts.Name() == NewSalts([]byte("another")).Name() || len(salts.Name()) != 16 {
		t.Errorf("the key is called %s", salts.Name())
	}
}

// The salt of a body that is kept is random: with the body it is gone for good.
func TestTheSaltOfAKeptBodyComesOfNoSecret(t *testing.T) {
	salts := NewSalts([]byte("a secret of the enforcer's"))
	j := openJournal(t, Config{Salts: salts})
	e, err := j.Append(t.Context(), Entry{Kind: KindOutcome, Call: "c_1"}, Body{Of: "response", Text: []byte("text")})
	if err != nil {
		t.Fatal(err)
	}
	if salt := salts.of("demo/i1", e.Call, e.Kind, 0, []byte("text")); ProvenBy(salt, e.Bodies[0], []byte("text")) == nil {
		t.Error("the secret tells what an erased body was")
	}
}
