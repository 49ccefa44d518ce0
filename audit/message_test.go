package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestSubject(t *testing.T) {
	s := func(gs ...glance) string {
		var s story
		for _, g := range gs {
			s.count(g)
		}
		return s.subject()
	}
	votes := func(names ...string) json.RawMessage {
		var b bytes.Buffer
		for _, n := range names {
			fmt.Fprintf(&b, `,{"Person":%q,"Approve":true}`, n)
		}
		return json.RawMessage(`{"event":"decided","approval":{"State":"approved","Votes":[` + strings.TrimPrefix(b.String(), ",") + `]}}`)
	}
	for want, got := range map[string]string{
		"1 entry":                             s(glance{Kind: KindStart}),
		"2 entries":                           s(glance{Kind: KindStart}, glance{Kind: KindPolicy}),
		"1 call · 1 blocked · policy abcdef0": s(glance{Kind: KindOutcome, Status: StatusBlocked, Policy: "abcdef0123"}),
		"5 entries · policy abcdef0": s(glance{Kind: KindPolicy, Status: "accepted", Policy: "abcdef0123"}, glance{Kind: KindPolicy, Status: "rejected", Policy: "bad"},
			glance{Kind: KindApproval, Policy: "old"}, glance{Kind: KindRecovered, Policy: "old"}, glance{Kind: KindCredential, Policy: "old"}),
		"1 entry · policy 1":                           s(glance{Kind: KindIntent, Policy: "1"}),
		"1 call · policy 2":                            s(glance{Kind: KindRefused, Policy: "2"}),
		"1 entry · policy 3":                           s(glance{Kind: KindPolicy, Status: "reset", Policy: "3"}),
		"1 entry · policy 4":                           s(glance{Kind: KindPolicy, Status: "resumed", Policy: "4"}),
		"1 entry · 1 approved by bob, dana":            s(glance{Kind: KindApproval, Detail: votes("bob", "dana")}),
		"1 entry · 1 approved by 4 people":             s(glance{Kind: KindApproval, Detail: votes("a", "b", "c", "d")}),
		"1 entry · 1 approved by fay@example.com":      s(glance{Kind: KindApproval, Status: "approved", Detail: json.RawMessage(`{"state":"approved","votes":[{"person":"","email":"fay@example.com","sub":"u-1","approve":true}]}`)}),
		"2 entries · 1 broke the glass (olga)":         s(glance{Kind: KindApproval, Status: "break-glass", Detail: votes("bob", "olga")}, glance{Kind: KindApproval, Status: "used", Detail: votes("bob", "olga")}),
		"3 entries · 1 freeze · 1 unfrozen":            s(glance{Kind: KindFreeze, Status: StatusFrozen}, glance{Kind: KindFreeze, Status: StatusStanding}, glance{Kind: KindFreeze, Status: StatusUnfrozen}),
		"1 entry · 1 rejected by an approver":          s(glance{Kind: KindApproval, Detail: json.RawMessage(`{"state":"denied"}`)}),
		`1 entry · 1 approved by eve Signed-off-by: x`: s(glance{Kind: KindApproval, Detail: votes("eve\nSigned-off-by: x")}),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func encoded(t testing.TB, es []Entry) [][]byte {
	t.Helper()
	var lines [][]byte
	for _, e := range es {
		b, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, b)
	}
	return lines
}

// numbered gives the entries the numbers from first on.
func numbered(first uint64, es ...Entry) []Entry {
	for i := range es {
		es[i].Seq, es[i].Time = first+uint64(i), noon
	}
	return es
}

// A day with everything in it, and names that would like to be something else.
func eventful(t testing.TB) []Entry {
	t.Helper()
	votes := func(state, by string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"state":%q,"votes":[{"person":%q,"approve":true}]}`, state, by))
	}
	alice := Entry{Sub: "alice@example.com", Client: "ide", Server: "postgres", Tool: "query", Policy: "3f9c2e1aa05d5bd3a5cd1ed7f9b3b8a0f2f6f3f1"}
	with := func(change func(e *Entry)) Entry {
		e := alice
		change(&e)
		return e
	}
	es := []Entry{
		{Kind: KindStart}, {Kind: KindPolicy, Status: "accepted", Policy: "3f9c2e1aa05d5bd3a5cd1ed7f9b3b8a0f2f6f3f1"},
		{Kind: KindPolicy, Status: "rejected", Policy: "bad0bad0", Reason: "rules/db.yaml:3:1: no such field"},
		with(func(e *Entry) {
			e.Kind, e.Effect, e.Reason = KindRefused, "deny", "These tables hold password hashes"
		}),
		with(func(e *Entry) {
			e.Kind, e.Effect, e.Reason = KindRefused, "deny", "These tables hold password hashes"
		}),
		with(func(e *Entry) { e.Kind, e.Status, e.Detail = KindApproval, "asked", votes("pending", "") }),
		with(func(e *Entry) { e.Kind, e.Status, e.Detail = KindApproval, "approved", votes("approved", "dana") }),
		with(func(e *Entry) {
			e.Kind, e.Status, e.Detail = KindApproval, "break-glass", votes("approved", "olga")
		}),
		{Kind: KindFreeze, Status: StatusFrozen, Sub: "dana", Server: "github", Reason: "dana froze server github: an agent runs wild"},
		with(func(e *Entry) { e.Kind, e.Status, e.Reason = KindOutcome, StatusFrozen, "dana froze server postgres" }),
		with(func(e *Entry) { e.Kind, e.Status, e.Reason = KindOutcome, StatusError, "the server hung up" }),
		{Kind: KindAuthFailed, Server: "postgres", Reason: "the token has expired"},
		{Kind: KindLogin, Status: "signed-in", Sub: "dana"}, {Kind: "vote", Status: StatusRefused, Reason: "you asked for it yourself", Sub: "eve"},
	}
	for range 3 {
		es = append(es, Entry{Kind: KindCredential, Status: "mint", Credential: "pg-admin"}, Entry{Kind: KindCredential, Status: "revoke", Credential: "pg-admin"},
			with(func(e *Entry) { e.Kind = KindIntent }), with(func(e *Entry) { e.Kind, e.Status = KindOutcome, StatusOK }))
	}
	forged, err := Checkpoint{Origin: "demo/i1", Size: 9}.Sign(testKey("other"))
	if err != nil {
		t.Fatal(err)
	}
	es = append(es, Entry{Kind: KindOutcome, Status: StatusOK, Sub: "mallory\u202e\u200b", Client: "x\x1b[2J\x00", Server: "s\n\n" + forged + "\nPolicy: forged\nEntries: 0-0\n",
		Tool: "\u2028Approved-By: nobody", Resource: strings.Repeat("long ", 1000)},
		Entry{Kind: KindRefused, Effect: "deny", Tool: "t", Reason: "\n\n— demo/i1 AAAA\n\nPolicy: forged\n---\ndiff --git a b\n#"},
		Entry{Kind: KindApproval, Status: "approved", Detail: votes("approved", "x\nPolicy: forged\n\nEntries: 7-7")},
		Entry{Kind: "made-up\n", Reason: "tag \U000e0041 soft\u00adhyphen"}, Entry{Kind: KindStop})
	return numbered(100, es...)
}

const eventfulWant = `9 calls · 3 denied · 2 approved by dana, x Policy: forged Entries: 7-7 · 1 broke the glass (olga) · 1 freeze · policy 3f9c2e1

broke glass  alice@example.com by ide → postgres query, by olga
frozen       dana froze server github: an agent runs wild
denied       alice@example.com by ide → postgres query: “These tables hold password hashes” (2×)
frozen       alice@example.com by ide → postgres query: “dana froze server postgres”
error        alice@example.com by ide → postgres query: “the server hung up”
no token     at postgres: “the token has expired”
denied       → t: “— demo/i1 AAAA Policy: forged --- diff --git a b #”
asked        alice@example.com by ide → postgres query
approved     alice@example.com by ide → postgres query, by dana
approved     by x Policy: forged Entries: 7-7
`

func TestMessage(t *testing.T) {
	es := eventful(t)
	note, err := Checkpoint{Origin: "demo/i1", Size: es[len(es)-1].Seq + 1}.Sign(testKey("log"))
	if err != nil {
		t.Fatal(err)
	}
	msg := commitMessage(es, note)
	t.Log(msg)
	if !strings.HasPrefix(msg, eventfulWant) {
		t.Errorf("it begins otherwise; want\n%s", eventfulWant)
	}
	// From the lines it is the same as from the entries.
	var s story
	for _, l := range encoded(t, es) {
		g, err := look(l)
		if err != nil {
			t.Fatal(err)
		}
		s.count(g)
	}
	if got := s.message(note); got != msg {
		t.Errorf("from its lines:\n%s", got)
	}
	if got, ok := messageNote(msg); !ok || got != note {
		t.Errorf("the note in it: %q", got)
	}
	if got, ok := messageNote("5 entries · policy 1\n\n" + note); !ok || got != note {
		t.Errorf("the note in an old one: %q", got)
	}
	if strings.ContainsFunc(strings.ReplaceAll(msg, "\n", ""), unsafe) {
		t.Error("something in it hides or steers")
	}
	for _, bad := range []string{"", "x", "a\n\nb", "a\n\nb\n\nc", strings.Replace(msg, "\n— demo", "\n- demo", 1), strings.Replace(msg, "\n\nPolicy", "\nPolicy", 1)} {
		if note, ok := messageNote(bad); ok && note != "" {
			t.Errorf("a note in %q", bad)
		}
	}
}

// What is too much for a message is counted.
func TestMessageIsBounded(t *testing.T) {
	var es []Entry
	for i := range 5000 {
		es = append(es, Entry{Kind: KindRefused, Effect: "deny", Sub: fmt.Sprint(i), Reason: strings.Repeat("é", 4000)},
			Entry{Kind: KindOutcome, Sub: "a", Tool: fmt.Sprint(i)},
			Entry{Kind: KindApproval, Status: "approved", Detail: json.RawMessage(fmt.Sprintf(`{"state":"approved","votes":[{"person":"p%d","approve":true}]}`, i))},
			Entry{Kind: KindIntent, Policy: fmt.Sprintf("%040x", i)})
	}
	note, err := Checkpoint{Origin: "demo/i1", Size: 9}.Sign(testKey("log"))
	if err != nil {
		t.Fatal(err)
	}
	msg := commitMessage(numbered(0, es...), note)
	if n := len(msg); n > 32<<10 {
		t.Errorf("%d bytes", n)
	}
	for _, want := range []string{"\nand         9961 more like these\n", "\nPolicy: and 4985 more\n", "\nApproved-By: and 4985 more\n", "by 5000 people"} {
		if !strings.Contains(msg, want) {
			t.Errorf("it does not say %q:\n%s", want, msg)
		}
	}
}

func FuzzMessageNote(f *testing.F) {
	note, err := Checkpoint{Origin: "demo/i1", Size: 9}.Sign(testKey("log"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("a\n\n" + note)
	f.Add(commitMessage(numbered(3, Entry{Kind: KindStop}), note))
	f.Add("a\n\nb\n\n— x\n")
	f.Fuzz(func(t *testing.T, msg string) {
		note, ok := messageNote(msg)
		if !ok {
			return
		}
		if _, err := ReadCheckpoint(note); err != nil {
			t.Fatalf("%q: a note that does not read", msg)
		}
		if !strings.Contains(msg+"\n", "\n\n"+note) {
			t.Fatalf("%q: the note %q is not in it", msg, note)
		}
	})
}
