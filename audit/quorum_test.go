package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// witnessed is a record whose commits are cosigned as by says; a run each.
func witnessed(t testing.TB, c *clockAt, m *memStore, dir, run string, by ...string) {
	t.Helper()
	past, err := Previous(dir)
	if err != nil {
		t.Fatal(err)
	}
	j := openJournal(t, Config{Dir: dir, Incarnation: run, Previous: past, Now: c.Now})
	at := 0
	p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Now: c.Now, Cosign: func(_ context.Context, a Cosigning) (string, error) {
		who := strings.Fields(by[at])
		if len(who) > 0 && who[0] == "false" {
			_, line, _ := strings.Cut(strings.TrimPrefix(cosignedBy(t, "x/y\n0\n"+strings.Split(a.Signed, "\n")[2]+"\n\n", "w1"), ""), "\n\n")
			return a.Signed + line, nil
		}
		return cosignedBy(t, a.Signed, who...), nil
	}})
	for at = range by {
		c.Set(c.Now().Add(time.Minute))
		add(t, j, Entry{Kind: KindIntent})
		if err := p.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestQuorum(t *testing.T) {
	three := []string{witnessVkey(t, "w1"), witnessVkey(t, "w2"), witnessVkey(t, "w3")}
	for _, c := range []struct {
		what    string
		commits []string // by whom each is cosigned
		age     time.Duration
		size    uint64 // cosigned
		problem string
		note    string
	}{
		{"to the end", []string{"", "w1", "w1 w2"}, 24 * time.Hour, 4, "", ""},
		{"by all", []string{"w1 w2 w3"}, 24 * time.Hour, 2, "", ""},
		{"but for the last, a moment ago", []string{"w1 w3", "w1"}, 5 * time.Minute, 2, "", "entries from 2 to 2 lack the cosignatures of 2 of 3 witnesses"},
		{"but for the last, long ago", []string{"w1 w3", "w1"}, time.Hour, 2, "entries from 2 to 2 lack the cosignatures of 2 of 3 witnesses: the last that did was of 2 entries", ""},
		{"but for the last two, the first of them long ago", []string{"w1 w3", "", ""}, 14*time.Minute + time.Second, 2, "entries from 2 to 3", ""},
		{"dated in the future", []string{"w1 w3", ""}, -time.Hour, 2, "entries from 2 to 2", ""},
		{"one twice", []string{"w1 w1"}, time.Hour, 0, "entries from 0 to 1 lack", ""},
		{"by strangers", []string{"x y z"}, time.Hour, 0, "none ever met it", ""},
		{"falsely", []string{"w1 w2", "false"}, time.Hour, 2, "invalid signature for key w1.example", ""},
		{"by nobody", []string{""}, time.Hour, 0, "none ever met it", ""},
	} {
		clock := &clockAt{t: noon}
		m := newStore()
		witnessed(t, clock, m, t.TempDir(), "i1", c.commits...)
		q, err := NewQuorum(three, 2)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := Verify(t.Context(), m.repository(), VerifyConfig{Keys: keysOf("log"), Signer: checkSigner, Quorum: q, Grace: DefaultGrace, Now: clock.Now().Add(c.age)})
		if err != nil {
			t.Fatal(err)
		}
		if rep.Logs[0].Cosigned != c.size || rep.Logs[0].CosignedAt.IsZero() != (c.size == 0) {
			t.Errorf("%s: cosigned up to %d at %s, want %d", c.what, rep.Logs[0].Cosigned, rep.Logs[0].CosignedAt, c.size)
		}
		if rep.OK() != (c.problem == "") || !strings.Contains(rep.String(), c.problem) || !strings.Contains(fmt.Sprint(rep.Notes), c.note) {
			t.Errorf("%s: %s; notes %q", c.what, rep, rep.Notes)
		}
		if c.problem != "" && rep.Problems[0].Class != ClassQuorum {
			t.Errorf("%s: %+v", c.what, rep.Problems[0])
		}
	}
}

// The end of a run that the witnesses missed is cosigned with the next run,
// whose first entry names it.
func TestQuorumOfASuccessor(t *testing.T) {
	q, err := NewQuorum([]string{witnessVkey(t, "w1")}, 1)
	if err != nil {
		t.Fatal(err)
	}
	clock, m, dir := &clockAt{t: noon}, newStore(), t.TempDir()
	witnessed(t, clock, m, dir, "i1", "w1", "")
	check := func() *Report {
		rep, err := Verify(t.Context(), m.repository(), VerifyConfig{Keys: keysOf("log"), Signer: checkSigner, Quorum: q, Grace: DefaultGrace, Now: clock.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	if rep := check(); rep.OK() {
		t.Error("an end that nobody cosigned passes")
	}
	past, err := Previous(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := newPublisher(t, PublisherConfig{Past: past[0], Store: m, Now: clock.Now}).Commit(t.Context()); err != nil {
		t.Fatal(err) // so that it knows its checkpoint
	}
	j := openJournal(t, Config{Dir: dir, Incarnation: "i2", Previous: past, Now: clock.Now})
	p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Now: clock.Now, Cosign: func(_ context.Context, a Cosigning) (string, error) {
		return cosignedBy(t, a.Signed, "w1"), nil
	}})
	if err := p.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rep := check(); !rep.OK() || rep.Logs[0].Cosigned != rep.Logs[0].Entries {
		t.Errorf("%s; %+v", rep, rep.Logs)
	}
}

func TestWitnessPolicies(t *testing.T) {
	k := func(name string) string { return witnessVkey(t, name) }
	two := "witness a " + k("w1") + " https://a.example/\nwitness b " + k("w2") + "\n"
	q, err := ParseQuorum([]byte("# ours\nlog nonsense that is not looked at\n" + two + "group g all a b # both\nquorum g\n"))
	if err != nil || len(q.Witnesses) != 2 || q.Witnesses[0].URL != "https://a.example" || q.Witnesses[1].URL != "" || q.Witnesses[0].Key.String() != k("w1") {
		t.Fatalf("%+v, %v", q, err)
	}
	signed, err := Checkpoint{Origin: "demo/i1", Size: 0, Root: (&edge{}).root()}.Sign(testKey("log"))
	if err != nil {
		t.Fatal(err)
	}
	if by, err := q.Check(cosignedBy(t, signed, "w2", "w1")); err != nil || names(by) != "b, a" {
		t.Errorf("%v, %v", by, err)
	}
	if by, err := q.Check(cosignedBy(t, signed, "w1")); !errors.Is(err, ErrQuorum) || len(by) != 1 {
		t.Errorf("%v, %v", by, err)
	}
	renamed := "other" + strings.TrimPrefix(k("w1"), "w1.example")
	for what, bad := range map[string]string{
		"nothing":             "",
		"no quorum":           two,
		"an unknown quorum":   two + "quorum c\n",
		"a name twice":        two + "witness a " + k("w3") + "\nquorum a\n",
		"a key twice":         two + "witness c " + k("w1") + "\nquorum a\n",
		"a member twice":      two + "group g 2 a a\nquorum g\n",
		"too many":            two + "group g 3 a b\nquorum g\n",
		"a member of two":     two + "group g any a\ngroup h any a b\nquorum h\n",
		"a log's key":         "witness a demo/i1+4b6a3c8f+AQ== \nquorum a\n",
		"another hash":        "witness a " + renamed + "\nquorum a\n",
		"no URL":              "witness a " + k("w1") + " ftp://a\nquorum a\n",
		"more words":          "witness a " + k("w1") + " https://a b\nquorum a\n",
		"a carriage return":   two + "quorum a\r\n",
		"an unknown keyword":  two + "quorum a\nwitnesses a\n",
		"the name none":       "witness none " + k("w1") + "\nquorum none\n",
		"a witness's no name": "witness " + k("w1") + "\nquorum a\n",
	} {
		if _, err := ParseQuorum([]byte(bad)); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	for _, n := range []int{0, 3} {
		if _, err := NewQuorum([]string{k("w1"), k("w2")}, n); err == nil {
			t.Errorf("%d of 2: no error", n)
		}
	}
	if _, err := NewQuorum([]string{k("w1"), k("w1")}, 2); err == nil {
		t.Error("one witness twice: no error")
	}
}

func FuzzQuorum(f *testing.F) {
	k := witnessVkey(f, "w1")
	f.Add([]byte("witness a " + k + " https://a\ngroup g any a\nquorum g\n"))
	f.Add([]byte("quorum none\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		q, err := ParseQuorum(file)
		if err != nil {
			return
		}
		signed, err := Checkpoint{Origin: "demo/i1", Size: 0, Root: (&edge{}).root()}.Sign(testKey("log"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.Check(signed); err == nil && !strings.Contains(string(file), "none") {
			t.Errorf("%q is met by nobody", file)
		}
	})
}
