package enforcer

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/enforcer/freeze"
	"countersign/rules"
)

func recordPolicy(t *testing.T, record string) *rules.Policy {
	t.Helper()
	p, err := rules.Load(fstest.MapFS{"countersign.yaml": {Data: []byte("version: 1\nrecord: " + record + "\n")}}, "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// An approval's entries name nobody, and the next start knows it whole, given
// the key; with another key it stays under its pseudonym, and nobody approves it.
func TestApprovalsUnderPseudonyms(t *testing.T) {
	hidden, plain := recordPolicy(t, "{ subjects: pseudonym }"), recordPolicy(t, "{}")
	key := []byte(strings.Repeat("k", 32))
	n := NewNames(key, nil)
	a := approval.Approval{ID: "ap_1", Request: approval.Request{
		Subject: rules.Subject{Issuer: "https://id.example", Sub: "alice", Email: "alice@example.com"}, Holder: "https://id.example#alice|desk|db|ro", Server: "db",
	}, State: approval.Pending, Votes: []approval.Vote{{Person: "bob", Issuer: "https://id.example", Sub: "u-bob", Approve: true, Via: "oidc", At: time.Unix(0, 0).UTC()}}}
	for name, p := range map[string]*rules.Policy{"policy": hidden, "no policy yet": nil} {
		told, err := n.Approval(p, a)
		if err != nil {
			t.Fatal(err)
		}
		detail, err := audit.Detail(told)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(detail), "alice") || !strings.Contains(string(detail), n.Pseudonym("https://id.example", "alice")) || !strings.Contains(string(detail), `"u-bob"`) {
			t.Errorf("%s: %s", name, detail)
		}
		entry := audit.Entry{Kind: audit.KindApproval, Approval: a.ID, Detail: detail}
		r, err := Recover(n, journalOf(entry))
		if err != nil || len(r.Approvals) != 1 {
			t.Fatal(r, err)
		}
		if got := r.Approvals[0]; got.Subject.Sub != "alice" || got.Subject.Email != "alice@example.com" || got.Holder != a.Holder || got.Partial || got.Cut {
			t.Errorf("%s: %+v", name, got)
		}
		if r, err = Recover(NewNames([]byte(strings.Repeat("x", 32)), nil), journalOf(entry)); err != nil {
			t.Fatal(err)
		}
		if got := r.Approvals[0]; got.Subject.Sub != n.Pseudonym("https://id.example", "alice") || !got.Partial || !got.Cut {
			t.Errorf("%s, another key: %+v", name, got)
		}
		moved := told
		moved.ID = "ap_2" // a seal is good for its approval alone
		if got := n.reveal(moved); got.Subject.Sub == "alice" || !got.Cut {
			t.Errorf("%s: %+v", name, got)
		}
	}
	told, err := n.Approval(plain, a)
	if err != nil || told.Sealed != "" || told.Subject.Sub != "alice" {
		t.Errorf("%+v %v", told, err)
	}
}

// A freeze of a subject is in the record under its pseudonym, and stops that
// subject after a restart, even with another key for what is sealed.
func TestFreezesUnderPseudonyms(t *testing.T) {
	hidden := recordPolicy(t, "{ subjects: pseudonym }")
	n := NewNames([]byte(strings.Repeat("k", 32)), []byte(strings.Repeat("p", 32)))
	f := freeze.Freeze{ID: "fz_1", Target: freeze.Target{Issuer: "https://id.example", Sub: "alice"}, Reason: "why", By: "dana", Since: time.Unix(1e9, 0).UTC()}
	shown, sealed, err := n.Frozen(hidden, f)
	if err != nil || sealed == "" || shown.Sub != n.Pseudonym("https://id.example", "alice") {
		t.Fatal(shown, sealed, err)
	}
	detail, err := audit.Detail(map[string]any{"by": "dana", "freeze": json.RawMessage(shown.Encode()), "sealed": sealed})
	if err != nil {
		t.Fatal(err)
	}
	entry := audit.Entry{Kind: audit.KindFreeze, Call: "fz_1", Status: audit.StatusFrozen, Detail: detail}
	call := freeze.Call{Issuer: "https://id.example", Sub: "alice", Alias: n.Pseudonym("https://id.example", "alice")}
	for name, with := range map[string]Names{"same key": n, "another": NewNames([]byte(strings.Repeat("x", 32)), []byte(strings.Repeat("p", 32)))} {
		r, err := Recover(with, journalOf(entry))
		if err != nil || len(r.Standing) != 1 || !r.Standing[0].Stops(call) || (r.Standing[0].Sub == "alice") != (name == "same key") {
			t.Errorf("%s: %+v %v", name, r, err)
		}
	}
	if shown, sealed, err := n.Frozen(hidden, freeze.Freeze{ID: "fz_2", Target: freeze.Target{Server: "db"}}); err != nil || sealed != "" || shown.Server != "db" {
		t.Errorf("%+v %q %v", shown, sealed, err)
	}
}

func TestWhoHoldsALease(t *testing.T) {
	n := NewNames(make([]byte, 32), nil)
	key := (&exchange{server: "db"}).ownerKey() + "|ro"
	var en audit.Entry
	n.Held(&en, nil, key) // nobody
	if en.Holder != "" || en.Server != "" {
		t.Errorf("%+v", en)
	}
	n.Held(&en, recordPolicy(t, "{}"), "https://id.example#a%7Cb|desk|db|ro")
	if en.Holder != n.Holder("https://id.example#a%7Cb|desk|db|ro") || en.Issuer != "https://id.example" || en.Sub != "a|b" || en.Client != "desk" || en.Server != "db" {
		t.Errorf("%+v", en)
	}
	n.Held(&en, recordPolicy(t, "{ subjects: pseudonym }"), "https://id.example#a%7Cb|desk|db|ro")
	if en.Sub != n.Pseudonym("https://id.example", "a|b") {
		t.Errorf("%+v", en)
	}
}
