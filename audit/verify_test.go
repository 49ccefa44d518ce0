package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign/rules"
)

const branch = "audit/demo/i1/2026-11"

// sample is a record of three commits: entries 0 to 5, 6 to 9, 10 to 13.
func sample(t testing.TB) *memStore {
	t.Helper()
	c := &clockAt{t: noon}
	j := openJournal(t, Config{Now: c.Now})
	m := newStore()
	p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Now: c.Now})
	for i := 1; i < 14; i++ {
		c.Set(noon.Add(time.Duration(i) * time.Minute))
		add(t, j, Entry{Kind: KindIntent, Call: fmt.Sprintf("c_%d", i), Reason: "some words"})
		if i == 5 || i == 9 || i == 13 {
			flush(t, p)
		}
	}
	if rep := holds(t, m, 14); rep.Commits != 3 || rep.String() != "14 entries, 3 checkpoints, all links hold" {
		t.Fatal(rep)
	}
	return m
}

// second is the file of entries 6 to 9.
const second = "entries/000/006.jsonl"

func lineOf(n int) func([]byte) (int, int) {
	return func(b []byte) (int, int) {
		from := 0
		for range n {
			from += bytes.IndexByte(b[from:], '\n') + 1
		}
		return from, from + bytes.IndexByte(b[from:], '\n') + 1
	}
}

func TestTamperingIsFoundAndNamed(t *testing.T) {
	edit := func(b []byte, n int) []byte {
		from, to := lineOf(n)(b)
		return slices.Concat(b[:from], bytes.Replace(b[from:to], []byte("words"), []byte("wordz"), 1), b[to:])
	}
	rehash := func(files map[string][]byte) { // the forger covers the tracks
		var hs []byte
		for _, l := range trimLines(files[second]) {
			var e edge
			h := (&e).with(leavesOf(l)).hashes[0]
			hs = append(hs, h[:]...)
		}
		files["entries/000/006.hashes"] = hs
	}
	at := func(k int, f func(files map[string][]byte)) func(int, map[string][]byte, *string) bool {
		return func(n int, files map[string][]byte, _ *string) bool {
			if n == k {
				f(files)
			}
			return true
		}
	}
	for _, c := range []struct {
		name   string
		change func(n int, files map[string][]byte, message *string) bool
		want   string // what the first problem says
		entry  int64
	}{
		{"edit", at(1, func(f map[string][]byte) { f[second] = edit(f[second], 3) }),
			"entry 9 does not match the tree signed at 12:09:00 on 2026-11-23", 9},
		{"edit, hashes removed", at(1, func(f map[string][]byte) {
			f[second] = edit(f[second], 3)
			delete(f, "entries/000/006.hashes")
		}), "entry 6 does not match its leaf hash, and neither leads to the tree signed at 12:09:00", 6},
		{"edit, hashes too", at(1, func(f map[string][]byte) { f[second] = edit(f[second], 3); rehash(f) }),
			"entries 6 to 9 do not match the tree signed at 12:09:00", -1},
		{"edit out of form, hashes too", at(1, func(f map[string][]byte) {
			f[second] = bytes.Replace(f[second], []byte(`"call":"c_8"`), []byte(`"call": "c_8"`), 1)
			rehash(f)
		}), "entry 8 does not read", 8},
		{"hashes only", at(1, func(f map[string][]byte) {
			h := bytes.Clone(f["entries/000/006.hashes"])
			h[70] ^= 1
			f["entries/000/006.hashes"] = h
		}), "the leaf hash beside entry 8 was changed; the entry itself matches", 8},
		{"hashes gone", at(1, func(f map[string][]byte) { delete(f, "entries/000/006.hashes") }),
			"the leaf hash beside entry 6 was changed", 6},
		{"edit by a later commit", at(2, func(f map[string][]byte) { f[second] = edit(f[second], 1) }),
			"entry 7 does not match the tree signed at 12:09:00 on 2026-11-23: a later commit changed it", 7},
		{"hashes by a later commit", at(2, func(f map[string][]byte) { f["entries/000/006.hashes"] = nil }),
			`it changes or removes "entries/000/006.hashes"`, -1},
		{"file gone later", at(2, func(f map[string][]byte) { delete(f, second) }),
			`it changes or removes "entries/000/006.jsonl"`, -1},
		{"reorder", at(1, func(f map[string][]byte) {
			b := f[second]
			from, mid := lineOf(1)(b)
			_, to := lineOf(2)(b)
			f[second] = slices.Concat(b[:from], b[mid:to], b[from:mid], b[to:])
		}), "entry 7 does not stand where the tree signed at 12:09:00 on 2026-11-23 has it", 7},
		{"delete", at(1, func(f map[string][]byte) {
			from, to := lineOf(2)(f[second])
			f[second] = slices.Concat(f[second][:from], f[second][to:])
		}), "entry 8 of the tree signed at 12:09:00 on 2026-11-23 is missing", 8},
		{"delete the last of a batch", at(1, func(f map[string][]byte) {
			from, _ := lineOf(3)(f[second])
			f[second] = f[second][:from]
		}), "entry 9 of the tree signed at 12:09:00 on 2026-11-23 is missing", 9},
		{"insert", at(1, func(f map[string][]byte) {
			from, to := lineOf(2)(f[second])
			f[second] = slices.Concat(f[second][:from], edit(f[second][from:to], 0), f[second][from:])
		}), "entry 8 does not match the tree signed at 12:09:00 on 2026-11-23: a line was put in", 8},
		{"append to a batch", at(1, func(f map[string][]byte) {
			from, to := lineOf(2)(f[second])
			f[second] = slices.Concat(f[second], f[second][from:to])
		}), "entry 10 does not match the tree signed at 12:09:00 on 2026-11-23: a line was put in", 10},
		{"no line feed at the end", at(1, func(f map[string][]byte) { f[second] = bytes.TrimSuffix(f[second], []byte("\n")) }),
			"entry 6 of the tree signed at 12:09:00 on 2026-11-23 is missing", 6},
		{"batch left out", func(n int, f map[string][]byte, _ *string) bool {
			delete(f, second)
			delete(f, "entries/000/006.hashes")
			return n != 1
		}, "entry 6 does not follow: the commit adds no entries/000/006.jsonl", 6},
		{"first batch left out", func(n int, f map[string][]byte, _ *string) bool {
			delete(f, "entries/000/000.jsonl")
			return n != 0
		}, "entry 0 does not follow", 0},
		{"batches joined", func(n int, _ map[string][]byte, _ *string) bool { return n != 1 },
			"the tree signed at 12:13:00 on 2026-11-23 has 14 entries, and here are 10: commits were left out, joined or exchanged", -1},
		{"stray file", at(1, func(f map[string][]byte) { f["README"] = []byte("hi") }),
			`it adds "README", which is no part of the record`, -1},
		{"stray entries", at(1, func(f map[string][]byte) { f["entries/000/999.jsonl"] = []byte("hi") }),
			`it adds "entries/000/999.jsonl", which is no part of the record`, -1},
		{"old checkpoint", func(n int, f map[string][]byte, m *string) bool {
			if n == 1 {
				f["checkpoint"] = []byte(strings.Replace(string(f["checkpoint"]), "demo/i1\n10\n", "demo/i1\n9\n", 1))
			}
			return true
		}, "the tree signed at 12:09:00 on 2026-11-23 has 9 entries, and here are 10", -1},
		{"message only", func(n int, _ map[string][]byte, m *string) bool {
			if n == 1 {
				*m = strings.Replace(*m, "demo/i1\n10\n", "demo/i1\n11\n", 1)
			}
			return true
		}, "its message carries another checkpoint than its file", -1},
		{"signed by another", func(int, map[string][]byte, *string) bool { return true },
			"the commit is not signed by a key that you trust", -1},
	} {
		for _, by := range []string{"mallory", "demo"} { // even with the commit key
			if by == "demo" && (c.name == "signed by another" || c.name == "old checkpoint") {
				continue
			}
			t.Run(c.name+" by "+by, func(t *testing.T) {
				m := sample(t).clone()
				if by == "demo" && c.name == "hashes by a later commit" {
					c.change = at(2, func(f map[string][]byte) { delete(f, "entries/000/006.hashes") })
				}
				m.rewrite(branch, by, func(n int, f map[string][]byte, msg *string) bool {
					// Until the first change the forger keeps the true commits.
					before := fmt.Sprint(f, *msg)
					keep := c.change(n, f, msg)
					if by == "mallory" && c.name != "signed by another" && keep && fmt.Sprint(f, *msg) == before {
						m.signer = "demo"
					} else {
						m.signer = by
					}
					return keep
				})
				rep := verifyStore(t, m)
				if rep.OK() {
					t.Fatal("not found")
				}
				first := rep.Problems[0]
				if by == "mallory" && !strings.Contains(c.want, "a later commit") { // nobody trustworthy says when
					c.want, _, _ = strings.Cut(c.want, "the tree signed at")
				}
				if !strings.HasPrefix(first.Text, c.want) || first.Entry != c.entry {
					t.Errorf("entry %d: %s\nwant %d: %s", first.Entry, first.Text, c.entry, c.want)
				}
				if by == "mallory" && !strings.HasPrefix(c.name, "batch") && c.name != "first batch left out" && !strings.Contains(rep.String(), "not signed by a key that you trust") {
					t.Errorf("the signature is not mentioned: %s", rep)
				}
			})
		}
	}
}

func TestTruncationShowsAgainstAnchors(t *testing.T) {
	m := sample(t)
	anchor := string(m.tipFiles(branch)["checkpoint"])
	if rep := verifyStore(t, m, anchor); !rep.OK() || rep.Anchors != 1 {
		t.Fatalf("%d anchors: %s", rep.Anchors, rep)
	}
	cut := m.clone()
	cut.branches[branch] = cut.history(cut.branches[branch])[1]
	if rep := verifyStore(t, cut); !rep.OK() {
		t.Errorf("a shorter record alone is not to be told: %s", rep)
	}
	rep := verifyStore(t, cut, anchor)
	if rep.OK() || rep.Problems[0].Entry != 10 || !strings.HasPrefix(rep.Problems[0].Text, "entry 10 and those up to 13 are missing: the record ends before the checkpoint that anchor 1 holds") {
		t.Errorf("%s", rep)
	}
	delete(cut.branches, branch)
	if rep := verifyStore(t, cut, anchor); rep.OK() || len(rep.Problems) != 1 {
		t.Errorf("%s", rep)
	}
	if rep := verifyStore(t, cut); rep.OK() {
		t.Error("an empty repository passes")
	}
	// Another tree under the same key: the key's holder rewrote history.
	other, err := Checkpoint{Origin: "demo/i1", Size: 10}.Sign(testKey("log"))
	if err != nil {
		t.Fatal(err)
	}
	if rep := verifyStore(t, m, other); rep.OK() || !strings.Contains(rep.String(), "the record forks, or was rewritten") {
		t.Errorf("%s", rep)
	}
	// An anchor within a batch.
	var e edge
	for _, f := range []string{"entries/000/000.jsonl", second} {
		for _, l := range trimLines(m.tipFiles(branch)[f]) {
			if e.size < 8 {
				e = e.with(leavesOf(l))
			}
		}
	}
	within, err := Checkpoint{Origin: "demo/i1", Size: 8, Root: e.root()}.Sign(testKey("log"))
	if err != nil {
		t.Fatal(err)
	}
	if rep := verifyStore(t, m, within); !rep.OK() || rep.Anchors != 1 {
		t.Errorf("%s", rep)
	}
	if rep := verifyStore(t, m, strings.Replace(anchor, "14", "15", 1)); rep.OK() {
		t.Error("a forged anchor passes")
	}
}

func TestTruncationOfThePreviousIncarnationShows(t *testing.T) {
	dir, c, m := t.TempDir(), &clockAt{t: noon}, newStore()
	run := func(dir, id string, past []*Past) {
		j := openJournal(t, Config{Dir: dir, Incarnation: id, Now: c.Now, Previous: past})
		p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Now: c.Now})
		flush(t, p)
		add(t, j, Entry{Kind: KindIntent})
		flush(t, p)
	}
	run(dir, "i1", nil)
	past, err := Previous(dir)
	if err != nil {
		t.Fatal(err)
	}
	run(dir, "i2", past)
	if rep := holds(t, m, 4); rep.Anchors != 1 {
		t.Error(rep)
	}
	cut := m.clone()
	cut.branches[branch] = cut.history(cut.branches[branch])[1]
	if rep := verifyStore(t, cut); rep.OK() || !strings.Contains(rep.String(), "entry 1 and those up to 1 are missing: the record ends before the checkpoint that entry 0 of demo/i2 holds") {
		t.Error(rep)
	}
	delete(cut.branches, branch)
	if rep := verifyStore(t, cut); rep.OK() || !strings.Contains(rep.String(), "no branch has them") {
		t.Error(rep)
	}
	// A copied state directory begins a second line after i1.
	run(t.TempDir(), "i3", past)
	if rep := verifyStore(t, m); rep.OK() || !strings.Contains(rep.String(), "the record forks") {
		t.Error(rep)
	}
	// An anchor kept by another enforcer.
	detail, err := Detail(Anchor{Checkpoint: past[0].Checkpoint()})
	if err != nil {
		t.Fatal(err)
	}
	other := newStore()
	j := openJournal(t, Config{Enforcer: "other"})
	add(t, j, Entry{Kind: KindAnchor, Detail: detail})
	flush(t, newPublisher(t, PublisherConfig{Journal: j, Store: other}))
	if rep := verifyStore(t, other); rep.OK() || !strings.Contains(rep.String(), "entry 1 of other/i1 holds their checkpoint") {
		t.Error(rep)
	}
}

func TestMonthsMustContinue(t *testing.T) {
	c := &clockAt{t: noon}
	j := openJournal(t, Config{Now: c.Now})
	m := newStore()
	p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Now: c.Now})
	for i := range 3 {
		c.Set(noon.AddDate(0, i, 0))
		add(t, j, Entry{Kind: KindIntent})
		add(t, j, Entry{Kind: KindOutcome})
		flush(t, p)
	}
	holds(t, m, 7)
	const dec = "audit/demo/i1/2026-12"
	gap := m.clone()
	delete(gap.branches, dec)
	if rep := verifyStore(t, gap); rep.OK() || !strings.HasPrefix(rep.String(), "entry 3 and those up to 4 are missing") {
		t.Error(rep)
	}
	for name, change := range map[string]func(map[string][]byte){
		"does not continue the tree": func(f map[string][]byte) {
			f["base"] = bytes.Replace(f["base"], []byte("\n"), []byte("\nA"), 1)
			f["base"] = append(f["base"][:len("3\n")+1], f["base"][len("3\n")+2:]...)
		},
		"is not a size":          func(f map[string][]byte) { f["base"] = []byte("x") },
		"entry 0 is there twice": func(f map[string][]byte) { delete(f, "base") },
	} {
		bad := m.clone()
		bad.rewrite(dec, "demo", func(_ int, f map[string][]byte, _ *string) bool { change(f); return true })
		if rep := verifyStore(t, bad); rep.OK() || !strings.Contains(rep.String(), name) {
			t.Errorf("%s: %s", name, rep)
		}
	}
	moved := m.clone()
	moved.branches["audit/demo/i1/2027-03"] = moved.branches["audit/demo/i1/2027-01"]
	delete(moved.branches, "audit/demo/i1/2027-01")
	if rep := verifyStore(t, moved); rep.OK() || !strings.Contains(rep.String(), "is of another month") {
		t.Error(rep)
	}
	stray := m.clone()
	stray.branches["audit/demo/notes"] = stray.branches[dec]
	if rep := verifyStore(t, stray); rep.OK() {
		t.Error("a stray branch passes")
	}
	merge := m.clone()
	tip := merge.branches[branch]
	merge.branches[branch] = merge.write(merge.files[tip], []string{tip, tip}, "x", noon)
	if rep := verifyStore(t, merge); rep.OK() || !strings.Contains(rep.String(), "merges") {
		t.Error(rep)
	}
}

// What the holder of both keys writes is signed; it must still be a log.
func TestSignedNonsenseIsFound(t *testing.T) {
	start := func(s Start) Entry {
		d, err := Detail(s)
		if err != nil {
			t.Fatal(err)
		}
		return Entry{Kind: KindStart, Time: noon, Detail: d}
	}
	good := start(Start{Enforcer: "demo", Incarnation: "i1"})
	for want, entries := range map[string][]Entry{
		"":                                     {good, {Seq: 1, Kind: KindStop, Time: noon}},
		"entry 1 is dated before":              {good, {Seq: 1, Kind: KindStop, Time: noon.Add(-time.Second)}},
		"entry 2 stands where entry 1 belongs": {good, {Seq: 2, Kind: KindStop, Time: noon}},
		"entry 0 does not begin this log":      {start(Start{Enforcer: "demo", Incarnation: "i2"})},
		"entry 0 names no checkpoint":          {start(Start{Enforcer: "demo", Incarnation: "i1", Previous: "x"})},
		"entry 1 is of another month":          {good, {Seq: 1, Kind: KindStop, Time: noon.AddDate(0, 1, 0)}},
	} {
		var lines, hashes []byte
		var e edge
		for _, en := range entries {
			l, err := en.Encode()
			if err != nil {
				t.Fatal(err)
			}
			lines = append(append(lines, l...), '\n')
			leaf := leavesOf(l)
			hashes = append(hashes, leaf[0][:]...)
			e = e.with(leaf)
		}
		cp, err := Checkpoint{Origin: "demo/i1", Size: e.size, Root: e.root()}.Sign(testKey("log"))
		if err != nil {
			t.Fatal(err)
		}
		m := newStore()
		if _, err := m.Commit(t.Context(), branch, "", map[string][]byte{
			"entries/000/000.jsonl": lines, "entries/000/000.hashes": hashes, "checkpoint": []byte(cp),
		}, "x\n\n"+cp, noon); err != nil {
			t.Fatal(err)
		}
		if rep := verifyStore(t, m); rep.OK() != (want == "") || !strings.HasPrefix(rep.String(), want) {
			t.Errorf("want %q, got %s", want, rep)
		}
	}
}

func TestWrongKeysAndDamage(t *testing.T) {
	m := sample(t)
	rep, err := Verify(t.Context(), m.repository(), VerifyConfig{Keys: keysOf("other"), Signer: checkSigner})
	if err != nil || rep.OK() || !strings.Contains(rep.String(), "not signed by a checkpoint key that you trust") {
		t.Errorf("%v, %s", err, rep)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, m.repository(), VerifyConfig{Keys: keysOf("log"), Signer: checkSigner}); err == nil {
		t.Error("not cancelled")
	}
	for h := range m.objects { // any object lost is found
		bad := m.clone()
		bad.branches = map[string]string{branch: m.branches[branch]}
		delete(bad.objects, h)
		used := verifyStore(t, bad)
		if _, isBlob := m.objects[h].([]byte); used.OK() && !isBlob {
			t.Errorf("commit or tree %s is not missed", h)
		}
	}
}

func TestVerifyFiles(t *testing.T) {
	m := sample(t)
	rep := verifyStore(t, m)
	cfg := VerifyConfig{Keys: keysOf("log")}
	for want, change := range map[string]func(map[string][]byte){
		"": func(map[string][]byte) {},
		"entry 9 does not match the tree signed at 12:13:00 on 2026-11-23": func(f map[string][]byte) {
			from, to := lineOf(3)(f[second])
			f[second] = slices.Concat(f[second][:from], bytes.Replace(f[second][from:to], []byte("words"), []byte("wordz"), 1), f[second][to:])
		},
		"entry 6 of the tree signed at 12:13:00 on 2026-11-23 is missing": func(f map[string][]byte) { delete(f, second) },
		"entry 9 is not in the file": func(f map[string][]byte) {
			from, to := lineOf(3)(f[second])
			third := "entries/000/010.jsonl"
			f[third] = slices.Concat(f[second][from:to], f[third])
			f[second] = f[second][:from]
		},
		`"entries/x" is no part`: func(f map[string][]byte) { f["entries/x"] = nil },
		"checkpoint":             func(f map[string][]byte) { f["checkpoint"] = []byte("x") },
		"file base":              func(f map[string][]byte) { f["base"] = []byte("x") },
	} {
		files := map[string][]byte{}
		for p, b := range m.tipFiles(branch) {
			files[p] = bytes.Clone(b)
		}
		change(files)
		ps, err := VerifyFiles(mapFS(files), cfg, rep)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if len(ps) > 0 {
			got = ps[0].Text
		}
		if (want == "") != (got == "") || !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if _, err := VerifyFiles(mapFS(nil), cfg, nil); err == nil {
		t.Error("nothing verifies")
	}
}

func TestReplay(t *testing.T) {
	facts := json.RawMessage(`{"facts":{"email":"a@x","groups":["dba"],"source":"10.0.0.1"}}`)
	entries := []Entry{
		{Kind: KindStart}, {Kind: KindIntent, Call: "c1", Effect: "allow", Rules: []string{"r1"}, Tool: "query", Sub: "alice", Args: `{"a":1}`, Detail: facts},
		{Kind: KindOutcome, Call: "c1", Effect: "allow"},
		{Kind: KindRefused, Call: "c2", Effect: "deny", Tool: "drop", Detail: facts},
		{Kind: KindIntent, Call: "c3", Effect: "allow", Detail: facts, Args: `{"a":"[masked: key]"}`},
		{Kind: KindIntent, Call: "c4", Effect: "allow", Detail: facts, Args: `{"a":"x…`},
		{Kind: KindIntent, Call: "c5", Effect: "allow"},
		{Kind: KindRefused, Call: "c6", Effect: "deny", Method: "subscriptions/listen", Detail: json.RawMessage(`{"facts":{},"params":"{\"notifications\":{\"resourceSubscriptions\":[\"x:1\"]}}"}`)},
		{Kind: KindIntent, Call: "c7", Effect: "allow", Rules: []string{"r1"}, Method: "subscriptions/listen", Detail: json.RawMessage(strings.Replace(string(facts), `}}`, `},"params":"{\"notifications\":{\"toolsListChanged\":true}}"}`, 1))},
	}
	seq := func(yield func(Entry, error) bool) {
		for i, e := range entries {
			e.Seq, e.Time = uint64(i), noon
			if !yield(e, nil) {
				return
			}
		}
	}
	r, err := Replay(seq, func(req rules.Request) rules.Decision {
		if !req.Now.Equal(noon) || req.Subject.Groups[0] != "dba" || req.Source != "10.0.0.1" {
			t.Errorf("request %+v", req)
		}
		return rules.Decision{Effect: rules.Allow, Trace: []rules.Match{{Rule: "r1", Effect: rules.Allow, Matched: true}}}
	})
	if err != nil || r.Requests != 3 || r.Same != 2 || len(r.Changed) != 1 || len(r.Skipped) != 4 {
		t.Fatalf("%v, %+v", err, r)
	}
	if s := r.Changed[0].String(); s != "entry 3: deny → allow (no rule → r1)" {
		t.Error(s)
	}
}

func TestLineAndShow(t *testing.T) {
	e := full()
	if got, want := e.Line(), "2026-11-23 12:00:00      9  denied        alice by desk-assistant  → customers query db://x  “These tables hold password hashes”  {\"sql\":\"SELECT 1\"}  (rule no-credential-tables)  3 masked  1.2ms  c_abc"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	f := Entry{Seq: 4, Time: noon, Kind: KindFreeze, Call: "fz_1", Sub: "dana", Status: StatusFrozen, Reason: "dana froze everything: drill"}
	if got, want := f.Line(), "2026-11-23 12:00:00      4  frozen        dana  “dana froze everything: drill”  fz_1"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	f.Status = StatusStanding
	if got := f.Line(); !strings.Contains(got, "still frozen") {
		t.Error(got)
	}
	if got := (Entry{Kind: KindCredential, Status: "mint", Credential: "customers-ro", Lease: "l_1", Call: "c_1", Time: noon}).Line(); !strings.HasSuffix(got, "  credential    mint customers-ro l_1  c_1") {
		t.Errorf("got  %s", got)
	}
	window := json.RawMessage(`{"state":"approved","votes":[{"person":"bob","approve":true},{"person":"eve"}]}`)
	for status, want := range map[string]string{"used": "used          approved by bob", "approved": "approved      approved by bob", "denied": "denied        denied by eve",
		"asked": "asked", "renewed": "renewed", "card": "card", "finished": "finished", "": "approved"} {
		if got := (Entry{Kind: KindApproval, Status: status, Detail: window, Time: noon}).Line(); !strings.HasSuffix(got, "  "+want) {
			t.Errorf("%s: %s", status, got)
		}
	}
	for _, c := range []struct {
		d      erasedDetail
		status string
		want   string
	}{
		{erasedDetail{By: "operator uid 0", Issuer: "https://id.example.com", Sub: "alice"}, StatusAsked, "  erases        bodies of alice, by operator uid 0  “her request”  er_1"},
		{erasedDetail{By: "operator uid 0", Call: "c_1", Bodies: 1}, StatusErased, "  erased        1 body of c_1, by operator uid 0  “her request”  er_1"},
		{erasedDetail{Before: noon, Bodies: 12}, StatusExpired, "  expired       12 bodies from before 2026-11-23  “her request”  er_1"},
	} {
		detail, err := Detail(c.d)
		if err != nil {
			t.Fatal(err)
		}
		if got := (Entry{Kind: KindErased, Status: c.status, Call: "er_1", Reason: "her request", Detail: detail, Time: noon}).Line(); !strings.HasSuffix(got, c.want) {
			t.Errorf("%s: %s", c.status, got)
		}
	}
	if got := (Entry{Kind: KindLogin, Status: "linked", Sub: "dana", Time: noon}).Line(); !strings.Contains(got, "  linked        dana") {
		t.Errorf("a login: %s", got)
	}
	if got := (Entry{Kind: KindRefused, Effect: "allow", Status: StatusFrozen, Time: noon}).Line(); !strings.Contains(got, "  frozen") {
		t.Error(got)
	}
	for _, want := range []string{"entry 9  denied", "  reason      These tables", "3 × stripe-key at result.content[0].text", `"x": 1.0`} {
		if !strings.Contains(e.Show(), want) {
			t.Errorf("%s\nhas no %q", e.Show(), want)
		}
	}
}
