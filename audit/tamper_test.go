package audit_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"countersign/audit"
	"countersign/gitsync"
)

// The tamper table: a record made by the real publisher in a real repository,
// every class of edit, and what Verify says. docs/record.md has the table; the
// test fails when it is not what Verify says.

// namedKey is a key that is the same in every run, so that the table is.
func namedKey(t testing.TB, name string) (ed25519.PrivateKey, []byte, []byte) {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	key := ed25519.NewKeyFromSeed(seed[:])
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(block), ssh.MarshalAuthorizedKey(pub)
}

// recordWorld is what makes records: enforcers with keys and state directories,
// one repository, a clock.
type recordWorld struct {
	t    testing.TB
	dir  string
	repo string // bare
	now  time.Time
}

// run is one incarnation, at work.
type run struct {
	w       *recordWorld
	journal *audit.Journal
	log     *audit.Publisher
	store   *gitsync.Repo
}

func newRecordWorld(t testing.TB) *recordWorld {
	dir := t.TempDir()
	return &recordWorld{t: t, dir: dir, repo: filepath.Join(dir, "audit.git"), now: time.Date(2026, 10, 30, 9, 0, 0, 0, time.UTC)}
}

func (w *recordWorld) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// open begins an incarnation of an enforcer on a state directory; before are
// the checkpoint keys that sign beside the one, while they are replaced.
func (w *recordWorld) open(state, enforcer, incarnation, commitKey, checkpointKey string, before ...string) *run {
	w.t.Helper()
	var previousKey audit.Signer
	for _, name := range before {
		key, _, _ := namedKey(w.t, name)
		previousKey = audit.KeySigner(key)
	}
	_, commit, _ := namedKey(w.t, commitKey)
	key, _, _ := namedKey(w.t, checkpointKey)
	store, err := gitsync.OpenAudit(gitsync.AuditConfig{Dir: w.repo, KeyPEM: commit, Name: enforcer, Email: enforcer + "@countersign.invalid"})
	w.must(err)
	now := func() time.Time { return w.now }
	state = filepath.Join(w.dir, state)
	previous, err := audit.Previous(state)
	w.must(err)
	for _, p := range previous { // as a start does: the first entry names the last checkpoint
		pub, err := audit.NewPublisher(audit.PublisherConfig{Past: p, Store: store, Signer: audit.KeySigner(key), Previous: previousKey, Now: now})
		w.must(err)
		w.must(pub.Commit(context.Background()))
	}
	r := &run{w: w, store: store}
	r.journal, err = audit.Open(audit.Config{Dir: state, Enforcer: enforcer, Incarnation: incarnation, Previous: previous, Now: now, Rand: zeros{}})
	w.must(err)
	r.log, err = audit.NewPublisher(audit.PublisherConfig{Journal: r.journal, Store: store, Signer: audit.KeySigner(key), Previous: previousKey, Now: now})
	w.must(err)
	return r
}

func (r *run) add(e audit.Entry) {
	r.w.t.Helper()
	_, err := r.journal.Append(context.Background(), e)
	r.w.must(err)
}

// zeros are salts that are the same in every run, so that the table is.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// call records a call, and commits.
func (r *run) call(id, reason string) {
	r.w.t.Helper()
	r.w.now = r.w.now.Add(time.Minute)
	e := audit.Entry{Call: id, Sub: "alice", Client: "ide", Server: "postgres", Method: "tools/call", Tool: "query"}
	intent, outcome := e, e
	intent.Kind, intent.Effect, intent.Reason = audit.KindIntent, "allow", reason
	outcome.Kind, outcome.Status = audit.KindOutcome, "ok"
	r.add(intent)
	_, err := r.journal.Append(context.Background(), outcome, audit.Body{Of: "response", Text: []byte("the answer to " + id)})
	r.w.must(err)
	r.commit()
}

// commitBodies commits the bodies that the journal holds.
func (r *run) commitBodies() {
	r.w.t.Helper()
	b, err := audit.NewBodies(audit.BodiesConfig{Journal: r.journal, Store: r.store, Now: func() time.Time { return r.w.now },
		Recipients: func() ([]age.Recipient, bool) { return nil, true }})
	r.w.must(err)
	r.w.must(b.Commit(context.Background()))
}

func (r *run) commit() {
	r.w.t.Helper()
	r.w.must(r.log.Commit(context.Background()))
}

func (r *run) close() {
	r.w.t.Helper()
	r.w.must(r.journal.Close())
	r.w.must(r.store.Close())
}

const (
	october  = "audit/prod-1/r1/2026-10"
	november = "audit/prod-1/r1/2026-11"
	second   = "audit/prod-1/r2/2026-11"
	other    = "audit/prod-2/r1/2026-11"
)

// sampleRecord is two runs of prod-1, the first over the end of a month, and
// one of prod-2, whose log holds a checkpoint of prod-1's second run. It returns
// the newest checkpoint of that run, which nobody in the record holds.
func sampleRecord(t testing.TB) (w *recordWorld, newest string) {
	w = newRecordWorld(t)
	r1 := w.open("state-1", "prod-1", "r1", "commit-1", "checkpoint-1")
	r1.call("c_1", "some words") // entries 0, 1 and 2
	r1.call("c_2", "some words") // 3 and 4
	r1.call("c_3", "some words") // 5 and 6
	w.now = time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)
	r1.call("c_4", "some words") // 7 and 8
	r1.call("c_5", "some words") // 9 and 10
	r1.commitBodies()
	r1.close()
	r2 := w.open("state-1", "prod-1", "r2", "commit-1", "checkpoint-1")
	r2.call("c_6", "some words") // 0, 1 and 2
	_, held, _ := r2.log.Last()
	p2 := w.open("state-2", "prod-2", "r1", "commit-2", "checkpoint-2")
	detail, err := audit.Detail(audit.Anchor{Checkpoint: held})
	w.must(err)
	p2.add(audit.Entry{Kind: audit.KindAnchor, Detail: detail})
	p2.commit()
	p2.close()
	r2.call("c_7", "some words") // 3 and 4
	_, newest, _ = r2.log.Last()
	r2.commitBodies()
	r2.close()
	return w, newest
}

// copied is a copy of everything, to be tampered with.
func (w *recordWorld) copied(t testing.TB) *recordWorld {
	t.Helper()
	c := &recordWorld{t: t, dir: t.TempDir(), now: w.now}
	c.repo = filepath.Join(c.dir, "audit.git")
	c.must(os.CopyFS(c.dir, os.DirFS(w.dir)))
	return c
}

// remake writes a branch anew, commit by commit, signed by a key: change sees
// the files that each commit adds, and its message; false leaves it out. The
// commits before the first that change touches stay as they are.
func (w *recordWorld) remake(branch, key string, change func(n int, files map[string][]byte, message *string) bool) {
	w.t.Helper()
	_, pem, _ := namedKey(w.t, key)
	store, err := gitsync.OpenAudit(gitsync.AuditConfig{Dir: w.repo, KeyPEM: pem, Name: "prod-1", Email: "prod-1@countersign.invalid"})
	w.must(err)
	defer func() { w.must(store.Close()) }()
	commits := strings.Fields(gitIn(w.t, w.repo, "rev-list", "--reverse", branch))
	parent, moved := "", false
	const scratch = "scratch/remade"
	for n, c := range commits {
		files := map[string][]byte{}
		for f := range strings.FieldsSeq(gitIn(w.t, w.repo, "diff-tree", "-r", "--root", "--no-commit-id", "--name-only", c)) {
			files[f] = []byte(gitIn(w.t, w.repo, "show", c+":"+f))
		}
		was, err := store.Commits(c)
		w.must(err)
		before, message := fmt.Sprint(files), was.Message
		keep := change(n, files, &message)
		if !moved && keep && fmt.Sprint(files) == before && message == was.Message && key != "nobody" {
			parent = c
			continue
		}
		if !moved {
			moved = true
			if parent != "" {
				gitIn(w.t, w.repo, "update-ref", "refs/heads/"+scratch, parent)
			}
		}
		if keep {
			parent, err = store.Commit(context.Background(), scratch, parent, files, message, was.When)
			w.must(err)
		}
	}
	if moved {
		gitIn(w.t, w.repo, "update-ref", "-d", "refs/heads/"+scratch)
	}
	gitIn(w.t, w.repo, "update-ref", "refs/heads/"+branch, parent)
}

// editLines edits the lines of the batch that begins with an entry.
func editLines(first int, edit func(lines [][]byte) [][]byte) func(int, map[string][]byte, *string) bool {
	return func(_ int, files map[string][]byte, _ *string) bool {
		name := fmt.Sprintf("entries/000/%03d.jsonl", first)
		if b, ok := files[name]; ok {
			files[name] = bytes.Join(edit(bytes.SplitAfter(b, []byte("\n"))), nil)
		}
		return true
	}
}

// tampering is a row of the table.
type tampering struct {
	what, who string
	do        func(w *recordWorld)
	with      func(cfg *audit.VerifyConfig, newest string) // beside the keys
	foundBy   string
}

func swapWords(l [][]byte) [][]byte {
	l[0] = bytes.Replace(l[0], []byte("words"), []byte("wordz"), 1)
	return l
}

func tamperings() []tampering {
	anchored := func(cfg *audit.VerifyConfig, newest string) { cfg.Anchors = []string{newest} }
	remake := func(branch, key string, change func(int, map[string][]byte, *string) bool) func(*recordWorld) {
		return func(w *recordWorld) { w.remake(branch, key, change) }
	}
	back := func(branch string, n int) func(*recordWorld) {
		return func(w *recordWorld) {
			gitIn(w.t, w.repo, "update-ref", "refs/heads/"+branch, fmt.Sprintf("%s~%d", branch, n))
		}
	}
	gone := func(branches ...string) func(*recordWorld) {
		return func(w *recordWorld) {
			for _, b := range branches {
				gitIn(w.t, w.repo, "update-ref", "-d", "refs/heads/"+b)
			}
		}
	}
	// anew has the real publisher write the end of r2 again, with both keys.
	anew := func(w *recordWorld) {
		forged := &recordWorld{t: w.t, dir: w.t.TempDir(), now: time.Date(2026, 11, 2, 9, 2, 0, 0, time.UTC)}
		forged.repo = filepath.Join(forged.dir, "audit.git")
		w.must(os.CopyFS(filepath.Join(forged.dir, "state-1"), os.DirFS(filepath.Join(w.dir, "state-1"))))
		w.must(os.RemoveAll(filepath.Join(forged.dir, "state-1", "journal", "r2")))
		w.must(os.CopyFS(forged.repo, os.DirFS(w.repo)))
		gitIn(w.t, forged.repo, "update-ref", "-d", "refs/heads/"+second)
		r := forged.open("state-1", "prod-1", "r2", "commit-1", "checkpoint-1")
		r.call("c_6", "some words")
		r.call("c_7", "other words")
		r.close()
		gitIn(w.t, w.repo, "fetch", "-q", "-f", forged.repo, "+refs/heads/"+second+":refs/heads/"+second)
	}
	thirdRun := func(w *recordWorld, state string, key audit.Signer, e audit.Entry, commitKey, checkpointKey string) {
		r := w.open(state, "prod-1", "r3", commitKey, checkpointKey)
		if e.Kind != "" {
			r.add(e)
		}
		r.commit()
		r.close()
	}
	// replaced has a start put both keys out of use, as it should.
	replaced := func(w *recordWorld) {
		r := w.open("state-1", "prod-1", "r4", "commit-3", "checkpoint-3", "checkpoint-1")
		for _, use := range []string{audit.UseCommit, audit.UseCheckpoint} {
			old, _, _ := namedKey(w.t, use+"-1")
			next, _, _ := namedKey(w.t, use+"-3")
			rotation, err := audit.Rotate("prod-1", use, audit.KeySigner(old), next.Public().(ed25519.PublicKey))
			w.must(err)
			detail, err := audit.Detail(rotation)
			w.must(err)
			r.add(audit.Entry{Kind: audit.KindKey, Status: audit.StatusRotated, Detail: detail})
		}
		r.commit()
		r.close()
		w.now = w.now.Add(time.Hour)
	}
	// The hand-over is one that was signed: it is the checkpoint of October's end.
	beheaded := func(w *recordWorld) {
		last := gitIn(w.t, w.repo, "show", october+":checkpoint")
		w.remake(november, "commit-1", func(n int, files map[string][]byte, _ *string) bool {
			if n == 0 {
				files["handover"] = []byte(last)
			}
			return true
		})
		gone(october)(w)
	}
	return []tampering{
		{"nothing", "", func(*recordWorld) {}, nil, ""},
		{"an entry is edited", "the Git host", remake(november, "nobody", editLines(7, swapWords)), nil, "leaf hashes, then the commit's signature"},
		{"an entry is edited, and the commits signed by another key", "anybody", remake(november, "mallory", editLines(7, swapWords)), nil, "leaf hashes, then the commit's signature"},
		{"an entry is dropped", "the Git host", remake(november, "mallory", editLines(7, func(l [][]byte) [][]byte { return l[1:] })), nil, "leaf hashes"},
		{"two entries are swapped", "the Git host", remake(november, "mallory", editLines(7, func(l [][]byte) [][]byte { l[0], l[1] = l[1], l[0]; return l })), nil, "leaf hashes"},
		{"an entry is put in", "the Git host", remake(november, "mallory", editLines(7, func(l [][]byte) [][]byte { return slices.Concat(l[:1], l) })), nil, "leaf hashes"},
		{"a commit is left out", "the Git host", remake(october, "mallory", func(n int, _ map[string][]byte, _ *string) bool { return n != 1 }), nil, "numbers of the entries"},
		{"everything is signed again by another key", "anybody", remake(october, "nobody", func(int, map[string][]byte, *string) bool { return true }), nil, "the commit's signature"},
		{"an entry is edited", "a thief of the commit key", remake(november, "commit-1", editLines(7, swapWords)), nil, "leaf hashes under the checkpoint"},
		{"an entry is edited, its leaf hash too", "a thief of the commit key", remake(november, "commit-1", func(n int, files map[string][]byte, m *string) bool {
			editLines(7, swapWords)(n, files, m)
			if b, ok := files["entries/000/007.jsonl"]; ok {
				var hashes []byte
				for l := range bytes.SplitSeq(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) {
					h := sha256.Sum256(append([]byte{0}, l...))
					hashes = append(hashes, h[:]...)
				}
				files["entries/000/007.hashes"] = hashes
			}
			return true
		}), nil, "the checkpoint"},
		{"a commit's message lies", "a thief of the commit key", remake(november, "commit-1", func(_ int, _ map[string][]byte, m *string) bool {
			*m = strings.Replace(*m, "1 call", "0 calls", 1)
			return true
		}), nil, "the message, made again"},
		{"a month is deleted in the middle", "the Git host", gone(october), nil, "the next month's base"},
		{"a run is deleted", "the Git host", gone(october, november), nil, "the next run's first entry"},
		{"the end of a run is cut", "the Git host", back(november, 1), nil, "the next run's first entry"},
		{"the last run is deleted", "the Git host", gone(second), nil, "another enforcer's entry"},
		{"the end of the last run is cut", "the Git host", back(second, 1), nil, ""},
		{"the end of the last run is cut", "the Git host", back(second, 1), anchored, "the anchor"},
		{"the end of the last run is cut", "the Git host", back(second, 1), withState, "the state of an earlier run"},
		{"the end of the last run is written anew", "a thief of both keys", anew, nil, ""},
		{"the end of the last run is written anew", "a thief of both keys", anew, anchored, "the anchor"},
		{"the end of the last run is written anew", "a thief of both keys", anew, withState, "the state of an earlier run"},
		{"a state directory is copied, and both copies run", "an operator", func(w *recordWorld) {
			w.must(os.CopyFS(filepath.Join(w.dir, "copy"), os.DirFS(filepath.Join(w.dir, "state-1"))))
			w.must(os.RemoveAll(filepath.Join(w.dir, "copy", "journal", "r2")))
			thirdRun(w, "copy", audit.Signer{}, audit.Entry{}, "commit-1", "checkpoint-1")
		}, nil, "two runs that follow one"},
		{"a run of its own is added", "anybody", func(w *recordWorld) {
			thirdRun(w, "mine", audit.Signer{}, audit.Entry{}, "mallory", "mallory")
		}, nil, "the checkpoint's signature"},
		{"a run of its own is added, with another enforcer's keys", "a thief of both keys of that one", func(w *recordWorld) {
			thirdRun(w, "mine", audit.Signer{}, audit.Entry{}, "commit-2", "checkpoint-2")
		}, nil, "the checkpoint's signer, who is another enforcer"},
		{"a run of its own is added, its checkpoints by another enforcer's key", "a thief of this one's commit key and that one's checkpoint key", func(w *recordWorld) {
			thirdRun(w, "mine", audit.Signer{}, audit.Entry{}, "commit-1", "checkpoint-2")
		}, nil, "the checkpoint's signer, who is another enforcer"},
		{"a run of its own is added, its commits by another enforcer's key", "a thief of this one's checkpoint key and that one's commit key", func(w *recordWorld) {
			thirdRun(w, "mine", audit.Signer{}, audit.Entry{}, "commit-2", "checkpoint-1")
		}, nil, "the commit's signer, who is another enforcer"},
		{"a run of its own is added, and another enforcer's key says which key replaces it", "a thief of this one's checkpoint key and that one's commit key", func(w *recordWorld) {
			key, _, _ := namedKey(w.t, "commit-2")
			next, _, _ := namedKey(w.t, "mallory")
			r, err := audit.Rotate("prod-1", audit.UseCommit, audit.KeySigner(key), next.Public().(ed25519.PublicKey))
			w.must(err)
			detail, err := audit.Detail(r)
			w.must(err)
			thirdRun(w, "mine", audit.Signer{}, audit.Entry{Kind: audit.KindKey, Status: audit.StatusRotated, Detail: detail}, "mallory", "checkpoint-1")
		}, nil, "whose the old key is"},
		{"a key is replaced, and the old one did not say so", "a faulty enforcer", func(w *recordWorld) {
			key, _, _ := namedKey(w.t, "mallory")
			next, _, _ := namedKey(w.t, "mallory-2")
			r, err := audit.Rotate("prod-1", audit.UseCheckpoint, audit.KeySigner(key), next.Public().(ed25519.PublicKey))
			w.must(err)
			detail, err := audit.Detail(r)
			w.must(err)
			thirdRun(w, "state-1", audit.Signer{}, audit.Entry{Kind: audit.KindKey, Status: audit.StatusRotated, Detail: detail}, "commit-1", "checkpoint-1")
		}, nil, "the signature of the old key"},
		{"keys are replaced", "an operator", replaced, nil, "no fault: the old keys signed the new ones"},
		{"keys are replaced, and a run of its own is added with the old ones", "a thief of both retired keys", func(w *recordWorld) {
			replaced(w)
			thirdRun(w, "mine", audit.Signer{}, audit.Entry{}, "commit-1", "checkpoint-1")
		}, nil, "the entry by which the key was replaced"},
		{"keys are replaced, and a run of its own is added, its commits by the old one", "a thief of the retired commit key and the checkpoint key", func(w *recordWorld) {
			replaced(w)
			thirdRun(w, "mine", audit.Signer{}, audit.Entry{}, "commit-1", "checkpoint-3")
		}, nil, "the entry by which the key was replaced"},
		{"keys are replaced, and the end of a run before is written anew with the old ones", "a thief of both retired keys", func(w *recordWorld) {
			replaced(w)
			anew(w)
		}, nil, "the next run's first entry, and another enforcer's"},
		{"keys are replaced, and the old one says that another replaces it", "a thief of both retired keys", func(w *recordWorld) {
			replaced(w)
			key, _, _ := namedKey(w.t, "checkpoint-1")
			next, _, _ := namedKey(w.t, "mallory")
			r, err := audit.Rotate("prod-1", audit.UseCheckpoint, audit.KeySigner(key), next.Public().(ed25519.PublicKey))
			w.must(err)
			detail, err := audit.Detail(r)
			w.must(err)
			thirdRun(w, "mine", audit.Signer{}, audit.Entry{Kind: audit.KindKey, Status: audit.StatusRotated, Detail: detail}, "commit-1", "checkpoint-1")
		}, nil, "the entry by which the key was replaced"},
		{"a repository begins with a hand-over of its own making", "a thief of the commit key", func(w *recordWorld) {
			w.remake(november, "commit-1", func(n int, files map[string][]byte, _ *string) bool {
				if n == 0 {
					files["handover"] = bytes.Replace(files["checkpoint"], []byte("\n9\n"), []byte("\n7\n"), 1)
				}
				return true
			})
			gone(october)(w)
		}, nil, "the hand-over's signature"},
		{beheadedWhat, "a thief of the commit key", beheaded, nil, "the repository before, which must be given"},
		{beheadedWhat, "a thief of the commit key", beheaded, func(cfg *audit.VerifyConfig, _ string) { cfg.Handover = true }, noRoll},
		{beheadedWhat, "a thief of the commit key", beheaded, withState, "the state of an earlier run"},
		{"a body is changed", "the Git host", func(w *recordWorld) {
			for b := range strings.FieldsSeq(gitIn(w.t, w.repo, "for-each-ref", "--format=%(refname:short)", "refs/heads/bodies")) {
				w.remake(b, "mallory", func(_ int, files map[string][]byte, _ *string) bool {
					for name, f := range files {
						files[name] = append(bytes.Clone(f[:len(f)-1]), f[len(f)-1]^1)
					}
					return true
				})
			}
		}, nil, "the digest in the entry"},
		{"bodies are deleted", "whoever may erase them", func(w *recordWorld) {
			gone(strings.Fields(gitIn(w.t, w.repo, "for-each-ref", "--format=%(refname:short)", "refs/heads/bodies"))...)(w)
		}, nil, ""},
		{"an outcome is left out when it should be recorded", "a faulty enforcer", func(w *recordWorld) {
			r := w.open("state-1", "prod-1", "r3", "commit-1", "checkpoint-1")
			r.add(audit.Entry{Kind: audit.KindIntent, Call: "c_8", Effect: "allow", Server: "postgres", Tool: "query"})
			r.commit()
			r.close()
			r = w.open("state-1", "prod-1", "r4", "commit-1", "checkpoint-1")
			r.call("c_9", "some words")
			r.close()
		}, nil, "the entries: each call has an outcome"},
		{"a stream is let through whose call was not recorded", "a faulty enforcer", func(w *recordWorld) {
			r := w.open("state-1", "prod-1", "r3", "commit-1", "checkpoint-1")
			r.add(audit.Entry{Kind: audit.KindSegment, Call: "c_8", Status: "open", Server: "postgres"})
			r.commit()
			r.close()
		}, nil, "the entries: a stream belongs to a call"},
		{"a call that needed approval is forwarded without", "a faulty enforcer", func(w *recordWorld) {
			r := w.open("state-1", "prod-1", "r3", "commit-1", "checkpoint-1")
			r.add(audit.Entry{Kind: audit.KindIntent, Call: "c_8", Effect: "approve", Approval: "ap_1", Server: "postgres", Tool: "query"})
			r.add(audit.Entry{Kind: audit.KindOutcome, Call: "c_8", Status: "ok", Server: "postgres", Tool: "query"})
			r.commit()
			r.close()
		}, nil, "the entries: each approved call has its votes"},
	}
}

const beheadedWhat = "months are deleted, and the next one made to begin as in a new repository"

// noRoll is what finds a hand-over that was none.
const noRoll = "the hand-over, which proves no roll"

// withState marks rows that are verified with the state of a run before.
func withState(*audit.VerifyConfig, string) {}

func TestTamperTable(t *testing.T) {
	w, newest := sampleRecord(t)
	keys := audit.LogKeys{}
	var allowed []byte
	for _, n := range []string{"1", "2"} {
		key, _, _ := namedKey(t, "checkpoint-"+n)
		keys["prod-"+n] = []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
		_, _, pub := namedKey(t, "commit-"+n)
		allowed = fmt.Appendf(allowed, "prod-%s@countersign.invalid namespaces=\"git\" %s", n, pub)
	}
	trust, err := gitsync.Signers{AllowedSigners: allowed}.Parse()
	if err != nil {
		t.Fatal(err)
	}
	verify := func(w *recordWorld, cfg audit.VerifyConfig) *audit.Report {
		t.Helper()
		cfg.Keys, cfg.Signer, cfg.Bodies = keys, trust.Commit, true
		cfg.Writer = func(signer string) string {
			enforcer, ok := strings.CutSuffix(signer, "@countersign.invalid")
			if !ok {
				return ""
			}
			return enforcer
		}
		cfg.Committer = func(key, enforcer string, when time.Time) (string, error) {
			return trust.Key(key, enforcer+"@countersign.invalid", when)
		}
		cfg.SignedBy = func(raw []byte, when time.Time, key string) error {
			_, err := gitsync.VerifyCommit(raw, gitsync.Signers{AllowedSigners: []byte("successor namespaces=\"git\" " + key + "\n")}, when)
			return err
		}
		rep, err := audit.Verify(t.Context(), objects(t, w.repo, 2), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	before := audit.NewVerified("test")
	if rep := verify(w, audit.VerifyConfig{State: before, Bodies: true}); !rep.OK() || rep.Checked.Messages != rep.Commits || rep.Checked.Bodies != 7 {
		t.Fatal(rep)
	}
	saved, err := before.Encode()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/record.md")
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("| what was done | by whom | held against | what verify says | what found it |\n|---|---|---|---|---|\n")
	for _, c := range tamperings() {
		bad := w.copied(t)
		c.do(bad)
		var cfg audit.VerifyConfig
		against := "the keys"
		switch {
		case c.with == nil:
		case c.foundBy == "the anchor":
			against = "the keys, and a checkpoint kept elsewhere"
			c.with(&cfg, newest)
		case c.foundBy == noRoll:
			against = "the keys, and `--handover`"
			c.with(&cfg, newest)
		default:
			against = "the keys, and the state of a run before"
			cfg.State = audit.NewVerified("test")
			if err := cfg.State.Load(saved); err != nil {
				t.Fatal(err)
			}
		}
		rep := verify(bad, cfg)
		if rep.OK() != (c.foundBy == "" || strings.HasPrefix(c.foundBy, "no fault")) {
			t.Errorf("%s by %s, against %s: %s", c.what, c.who, against, rep)
		}
		says := "holds"
		if len(rep.Problems) > 0 {
			says = "**" + string(rep.Problems[0].Class) + "**: " + rep.Problems[0].Text
			if n := len(rep.Problems) - 1; n > 0 {
				says += fmt.Sprintf(" (and %d more)", n)
			}
		}
		found := c.foundBy
		if c.what == "bodies are deleted" {
			found = "no fault: counted as not there"
			if rep.Checked.Erased != 7 || rep.Checked.Bodies != 0 {
				t.Errorf("%+v", rep.Checked)
			}
		} else if found == "" && c.who != "" {
			found = "nothing: no anchor has seen it"
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %s | %s |\n", c.what, c.who, against, says, found)
	}
	if !bytes.Contains(page, []byte(table.String())) {
		t.Errorf("docs/record.md does not have the table as it is:\n%s", table.String())
	}
}
