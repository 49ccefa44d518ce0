package audit

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// months is a record of entries 0 to 9 in two months, in four commits.
func months(t testing.TB) *memStore {
	t.Helper()
	c := &clockAt{t: time.Date(2026, 11, 30, 23, 50, 0, 0, time.UTC)}
	j := openJournal(t, Config{Now: c.Now})
	m := newStore()
	p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Now: c.Now})
	for i := 1; i < 10; i++ {
		kind := KindIntent
		if i%2 == 0 {
			kind = KindOutcome
		}
		add(t, j, Entry{Kind: kind, Call: fmt.Sprintf("c_%d", (i-1)/2), Reason: "some words"})
		if i == 3 || i == 7 || i == 9 {
			flush(t, p)
		}
		if i == 5 {
			c.Set(time.Date(2026, 12, 1, 0, 0, 1, 0, time.UTC))
		}
	}
	holds(t, m, 10)
	return m
}

// A stranger checks every proof with torchwood alone: the file, and the log's
// key in a line.
func TestProofsForStrangers(t *testing.T) {
	m := months(t)
	for seq := range uint64(10) {
		p, err := Prove(t.Context(), m.repository(), ProveConfig{Keys: keysOf("other", "log"), Seq: seq})
		if err != nil {
			t.Fatalf("entry %d: %v", seq, err)
		}
		if p.Entry.Seq != seq || p.Checkpoint.Size != 10 {
			t.Errorf("entry %d: %+v", seq, p)
		}
		file := p.Encode()
		vkey, err := p.LogKey(keysOf("other", "log"))
		if err != nil {
			t.Fatal(err)
		}
		log, err := torchwood.ParsePolicy([]byte("log " + vkey + "\nquorum none\n"))
		if err != nil {
			t.Fatal(err)
		}
		line, err := torchwood.ProofExtraData(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := torchwood.VerifyProof(log, tlog.RecordHash(line), file); err != nil {
			t.Errorf("entry %d: %v\n%s", seq, err, file)
		}
		again, err := OpenProof(file, keysOf("log"), nil)
		if err != nil || again.Entry.Seq != seq {
			t.Errorf("entry %d: %v", seq, err)
		}
	}
	for call, want := range map[string]uint64{"c_0": 2, "c_2": 6, "c_4": 9} {
		if p, err := Prove(t.Context(), m.repository(), ProveConfig{Keys: keysOf("log"), Call: call}); err != nil || p.Entry.Seq != want {
			t.Errorf("%s: entry %d, %v", call, p.Entry.Seq, err)
		}
	}
	if p, err := Prove(t.Context(), m.repository(), ProveConfig{Keys: keysOf("log"), Call: "c_2", Kind: KindIntent}); err != nil || p.Entry.Seq != 5 {
		t.Errorf("the intent: entry %d, %v", p.Entry.Seq, err)
	}
}

func TestProofsThatCannotBe(t *testing.T) {
	m := months(t)
	two := m.clone()
	two.branches["audit/demo/i2/2026-11"] = two.branches["audit/demo/i1/2026-11"]
	q, err := NewQuorum([]string{witnessVkey(t, "w")}, 1)
	if err != nil {
		t.Fatal(err)
	}
	edited := m.clone()
	edited.rewrite("audit/demo/i1/2026-12", "demo", func(n int, f map[string][]byte, _ *string) bool {
		for path, b := range f {
			if strings.HasSuffix(path, ".jsonl") {
				f[path] = bytes.Replace(b, []byte("words"), []byte("wordz"), 1)
			}
		}
		return true
	})
	for what, c := range map[string]struct {
		m    *memStore
		cfg  ProveConfig
		want error
	}{
		"no such number":  {m, ProveConfig{Keys: keysOf("log"), Seq: 10}, ErrNoEntry},
		"no such call":    {m, ProveConfig{Keys: keysOf("log"), Call: "c_9"}, ErrNoEntry},
		"which log":       {two, ProveConfig{Keys: keysOf("log"), Seq: 1}, ErrNoEntry},
		"no log":          {m, ProveConfig{Keys: keysOf("log"), Seq: 1, Prefix: "audit/other/"}, ErrNoEntry},
		"another key":     {m, ProveConfig{Keys: keysOf("other"), Seq: 1}, ErrProof},
		"never cosigned":  {m, ProveConfig{Keys: keysOf("log"), Seq: 1, Quorum: q}, ErrQuorum},
		"an edited entry": {edited, ProveConfig{Keys: keysOf("log"), Call: "c_3", Kind: KindIntent}, ErrProof},
	} {
		if _, err := Prove(t.Context(), c.m.repository(), c.cfg); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}

// A proof in which anything is changed is none.
func TestProofsThatWereChanged(t *testing.T) {
	m := months(t)
	p, err := Prove(t.Context(), m.repository(), ProveConfig{Keys: keysOf("log"), Seq: 4})
	if err != nil {
		t.Fatal(err)
	}
	other, err := Prove(t.Context(), m.repository(), ProveConfig{Keys: keysOf("log"), Seq: 5})
	if err != nil {
		t.Fatal(err)
	}
	file := string(p.Encode())
	lines := strings.SplitAfter(file, "\n")
	foreign := other
	foreign.signed = p.signed
	foreign.line = p.line
	shorter := p
	shorter.path = p.path[:len(p.path)-1]
	for what, bad := range map[string]string{
		"empty":                 "",
		"another line":          string(foreign.Encode()),
		"a hash too few":        string(shorter.Encode()),
		"another index":         strings.Replace(file, "index 4", "index 5", 1),
		"an index with a zero":  strings.Replace(file, "index 4", "index 04", 1),
		"no extra data":         strings.Replace(file, lines[1], "", 1),
		"a line more":           file + "\n",
		"a hash twice":          strings.Replace(file, lines[3], lines[3]+lines[3], 1),
		"hashes exchanged":      strings.Replace(file, lines[3]+lines[4], lines[4]+lines[3], 1),
		"another size":          strings.Replace(file, "\n10\n", "\n9\n", 1),
		"without signature":     file[:strings.Index(file, "— ")],
		"another first line":    strings.Replace(file, "@v1", "@v2", 1),
		"extra data in pieces":  strings.Replace(file, "extra ", "extra \r", 1),
		"longer than any proof": file + strings.Repeat("— x AAAAAAAAAAA=\n", 20000),
	} {
		if _, err := OpenProof([]byte(bad), keysOf("log"), nil); !errors.Is(err, ErrProof) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := OpenProof([]byte(file), keysOf("other"), nil); !errors.Is(err, ErrProof) || !errors.Is(err, ErrCheckpoint) {
		t.Errorf("another key: %v", err)
	}
}

func FuzzProof(f *testing.F) {
	m := months(f)
	for _, seq := range []uint64{0, 4, 9} {
		p, err := Prove(f.Context(), m.repository(), ProveConfig{Keys: keysOf("log"), Seq: seq})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p.Encode())
	}
	good := map[string]bool{}
	repo := m.repository()
	logs, err := openShelves([]Repository{repo}, "")
	if err != nil {
		f.Fatal(err)
	}
	for _, mo := range logs[0].months {
		for _, b := range mo.batches {
			text, err := repo.Blob(b.lines)
			if err != nil {
				f.Fatal(err)
			}
			for _, l := range trimLines(text) {
				good[string(l)] = true
			}
		}
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		p, err := OpenProof(file, keysOf("log"), nil)
		if err == nil && !good[string(p.line)] {
			t.Errorf("proves what was never recorded: %s", p.line)
		}
	})
}

// witnessVkey is the vkey of the witness whose key has this name.
func witnessVkey(t testing.TB, name string) string {
	t.Helper()
	return witnessSigner(t, name).Verifier().String()
}

func witnessSigner(t testing.TB, name string) *torchwood.CosignatureSigner {
	t.Helper()
	s, err := torchwood.NewCosignatureSigner(name+".example", testKey("witness "+name))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// cosignedBy adds witnesses' lines to a note.
func cosignedBy(t testing.TB, signed string, names ...string) string {
	t.Helper()
	text, _, _ := strings.Cut(signed, "\n\n")
	for _, name := range names {
		both, err := note.Sign(&note.Note{Text: text + "\n"}, witnessSigner(t, name))
		if err != nil {
			t.Fatal(err)
		}
		_, line, _ := strings.Cut(string(both), "\n\n")
		signed += line
	}
	return signed
}

func TestLogKeys(t *testing.T) {
	pub := func(name string) string { return sshLine(t, public(testKey(name))) }
	keys, err := ParseLogKeys([]byte("# ours\nprod-1 " + pub("log") + " a comment\n\n" + pub("any") + "\nprod-1 " + pub("next") + "\n"))
	if err != nil || len(keys["prod-1"]) != 2 || len(keys[""]) != 1 {
		t.Fatalf("%v, %v", keys, err)
	}
	sign := func(origin, key string) string {
		s, err := Checkpoint{Origin: origin, Size: 3}.Sign(testKey(key))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	delete(keys, "")
	for _, c := range []struct {
		signed string
		want   error
	}{
		{sign("prod-1/r_a", "log"), nil}, {sign("prod-1/r_b", "next"), nil},
		{sign("prod-1/r_a", "any"), ErrCheckpoint}, {sign("prod-2/r_a", "log"), ErrUnknownLog}, {"prod-1/r_a\n", ErrCheckpoint},
	} {
		if _, err := keys.Open(c.signed); !errors.Is(err, c.want) {
			t.Errorf("%q: %v, want %v", c.signed, err, c.want)
		}
	}
	// A key of one enforcer's is nobody else's, also where theirs are known; one
	// that nobody is named for is anybody's, and that is said.
	keys, err = ParseLogKeys([]byte("prod-1 " + pub("log") + "\nprod-2 " + pub("next") + "\n"))
	if err != nil || keys.Unnamed() != "" {
		t.Fatalf("%v, %q", err, keys.Unnamed())
	}
	if _, err := keys.Open(sign("prod-1/r_a", "next")); !errors.Is(err, ErrCheckpoint) || !strings.Contains(err.Error(), "it is signed by prod-2's key, and this is a log of prod-1") {
		t.Errorf("another enforcer's key: %v", err)
	}
	if keys, err = ParseLogKeys([]byte(pub("log") + " prod-1\n")); err != nil || !strings.Contains(keys.Unnamed(), "SHA256:") {
		t.Fatalf("%v, %q", err, keys.Unnamed())
	}
	if _, err := keys.Open(sign("prod-2/r_a", "log")); err != nil {
		t.Errorf("without a name: %v", err)
	}
	if keys, err = ParseLogKeys([]byte("ssh-gate " + pub("log") + "\n")); err != nil || len(keys["ssh-gate"]) != 1 {
		t.Errorf("an enforcer whose name looks like a key's type: %v, %v", keys, err)
	}
	// A vkey is for its log alone.
	vkey, err := note.NewEd25519VerifierKey("prod-1/r_a", public(testKey("log")))
	if err != nil {
		t.Fatal(err)
	}
	if keys, err = ParseLogKeys([]byte(vkey + "\n")); err != nil {
		t.Fatal(err)
	}
	for signed, want := range map[string]error{sign("prod-1/r_a", "log"): nil, sign("prod-1/r_b", "log"): ErrUnknownLog, sign("prod-1/r_a", "next"): ErrCheckpoint} {
		if _, err := keys.Open(signed); !errors.Is(err, want) {
			t.Errorf("a vkey: %q: %v, want %v", signed, err, want)
		}
	}
	foreign, err := note.NewEd25519VerifierKey("example.com/a/log", public(testKey("log")))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "# none", foreign, witnessVkey(t, "w"), vkey + " x", strings.Replace(vkey, "r_a", "r_b", 1), "cert-authority " + pub("log"), "Prod " + pub("log"), "prod-1", "prod-1 prod-2 " + pub("log"), "prod-1 ssh-rsa AAAA", "prod/1 " + pub("log")} {
		if _, err := ParseLogKeys([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// sshLine is a public key as in a .pub file.
func sshLine(t testing.TB, key ed25519.PublicKey) string {
	t.Helper()
	k, err := ssh.NewPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}
