package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	agefile "filippo.io/age"

	"countersign/audit"
	"countersign/fixtures/githost"
	"countersign/gitsync"
)

// erasure is an enforcer's record with bodies, published to a real repository.
type erasure struct {
	dir, remote string
	key         []byte
	logKey      audit.Signer
	logPub      []byte
	runs        int

	mu        sync.Mutex
	now       time.Time
	retention time.Duration
	store     *flakyStore
	repo      *gitsync.Repo
	past      []*audit.Past
	journal   *audit.Journal
	log       *audit.Publisher
	bodies    *audit.Bodies
	eraser    *audit.Eraser
	outlet    *audit.Outlet

	name    string   // of remote, for the eraser
	before  []string // remotes that the record was in before
	stores  []*gitsync.Repo
	outlets []*audit.Outlet // theirs
}

// flakyStore fails before, or after, a rewrite when it is told to, or when asked
// where a branch is.
type flakyStore struct {
	*gitsync.Repo
	before, after, tip func() error
}

func (f *flakyStore) Tip(branch string) (string, bool, error) {
	if f.tip != nil {
		return "", false, f.tip()
	}
	return f.Repo.Tip(branch)
}

func (f *flakyStore) Rewrite(ctx context.Context, branch, old string, keep func(string) bool, message string, when time.Time) (string, error) {
	if f.before != nil {
		if err := f.before(); err != nil {
			return "", err
		}
	}
	h, err := f.Repo.Rewrite(ctx, branch, old, keep, message, when)
	if err == nil && f.after != nil {
		err = f.after()
	}
	return h, err
}

func newErasure(t *testing.T) *erasure {
	t.Helper()
	s := &erasure{dir: t.TempDir(), remote: filepath.Join(t.TempDir(), "remote.git"), now: time.Date(2026, 11, 28, 14, 5, 0, 0, time.UTC)}
	if err := githost.Init(s.remote); err != nil {
		t.Fatal(err)
	}
	s.key, _ = keyPair(t)
	private, public := keyPair(t)
	k, err := audit.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	s.logKey, s.logPub = audit.KeySigner(k), public
	s.start(t)
	return s
}

func (s *erasure) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *erasure) sleep(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

// start begins a run, as after a crash of the one before.
func (s *erasure) start(t *testing.T) {
	t.Helper()
	if s.journal != nil {
		if err := errors.Join(s.journal.Close(), s.repo.Close()); err != nil {
			t.Fatal(err)
		}
		for _, r := range s.stores {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.stores, s.outlets = nil, nil
	s.runs++
	var err error
	s.repo = s.copyOf(t, s.remote)
	s.store = &flakyStore{Repo: s.repo}
	if s.past, err = audit.Previous(s.dir); err != nil {
		t.Fatal(err)
	}
	var parts []audit.Part
	var bodies []*audit.Bodies
	erased := func(d string) bool { return s.eraser != nil && s.eraser.Erased(d) }
	nobody := func() ([]agefile.Recipient, bool) { return nil, true }
	part := func(j *audit.Journal, p *audit.Past) *audit.Bodies {
		log, err := audit.NewPublisher(audit.PublisherConfig{Journal: j, Past: p, Store: s.store, Signer: s.logKey, Now: s.clock})
		if err != nil {
			t.Fatal(err)
		}
		b, err := audit.NewBodies(audit.BodiesConfig{Journal: j, Past: p, Store: s.store, Recipients: nobody, Erased: erased, Now: s.clock})
		if err != nil {
			t.Fatal(err)
		}
		if p != nil {
			if err := log.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		s.log = log
		parts, bodies = append(parts, log, b), append(bodies, b)
		return b
	}
	for _, p := range s.past {
		if len(s.before) == 0 || !p.Published() {
			part(nil, p)
		}
	}
	if s.journal, err = audit.Open(audit.Config{Dir: s.dir, Enforcer: "gate", Incarnation: fmt.Sprintf("r_%d", s.runs), Previous: s.past, Now: s.clock}); err != nil {
		t.Fatal(err)
	}
	s.bodies = part(s.journal, nil)
	n := 0
	if s.eraser, err = audit.NewEraser(audit.EraserConfig{
		Dir: s.dir, Enforcer: "gate", Journal: s.journal, Past: s.past, Bodies: bodies,
		Pseudonym: func(issuer, sub string) (string, string) { return issuer, "pseudonym:" + sub },
		Retention: func() (time.Duration, bool) { return s.retention, true },
		ID:        func() string { n++; return fmt.Sprintf("er_%d_%d", s.runs, n) }, Now: s.clock,
	}); err != nil {
		t.Fatal(err)
	}
	s.outlet = s.outletTo(t, s.repo, append(parts, s.eraser.Reach(audit.Place{Name: s.name, Store: s.store, Published: borrowed(s.repo)})))
	for _, remote := range s.before {
		repo := s.copyOf(t, remote)
		s.stores = append(s.stores, repo)
		s.outlets = append(s.outlets, s.outletTo(t, repo, []audit.Part{s.eraser.Reach(audit.Place{Name: remote, Store: repo, Published: borrowed(repo)})}))
	}
}

// copyOf opens the repository that is published to a remote.
func (s *erasure) copyOf(t *testing.T, remote string) *gitsync.Repo {
	t.Helper()
	repo, err := gitsync.OpenAudit(gitsync.AuditConfig{Dir: s.copyDir(remote), URL: remote, KeyPEM: s.key, Name: "gate", Email: "gate@x.invalid"})
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

func (s *erasure) copyDir(remote string) string {
	return filepath.Join(s.dir, "audit-"+filepath.Base(remote))
}

func (s *erasure) outletTo(t *testing.T, repo *gitsync.Repo, parts []audit.Part) *audit.Outlet {
	t.Helper()
	o, err := audit.NewOutlet(audit.OutletConfig{
		Parts: parts,
		Push: func(ctx context.Context, branches []string) (audit.Push, error) {
			done, err := repo.Push(ctx, branches...)
			return audit.Push(done), err
		},
		Rejected: func(err error) bool { return errors.Is(err, gitsync.ErrRejected) }, Now: s.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// moveOn has the next run begin in another repository.
func (s *erasure) moveOn(t *testing.T) {
	t.Helper()
	s.before = append(s.before, s.remote)
	s.remote = filepath.Join(filepath.Dir(s.remote), fmt.Sprintf("remote-%d.git", len(s.before)+1))
	s.name = s.remote
	if err := githost.Init(s.remote); err != nil {
		t.Fatal(err)
	}
	s.start(t)
}

// borrowed is how the eraser sees the log that a remote has.
func borrowed(repo *gitsync.Repo) func(context.Context, string) (audit.PublishedLog, error) {
	return func(ctx context.Context, prefix string) (audit.PublishedLog, error) { return repo.Borrow(ctx, prefix) }
}

func (s *erasure) flush(t *testing.T) {
	t.Helper()
	if err := s.outlet.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// call records one with a body of either kind.
func (s *erasure) call(t *testing.T, sub, id string) []audit.Entry {
	t.Helper()
	var es []audit.Entry
	for _, e := range []struct {
		entry audit.Entry
		body  audit.Body
	}{
		{audit.Entry{Kind: audit.KindIntent, Effect: "allow"}, audit.Body{Of: "request", Text: []byte(sub + " asks " + id)}},
		{audit.Entry{Kind: audit.KindOutcome, Status: audit.StatusOK}, audit.Body{Of: "response", Text: []byte(sub + " is told " + id)}},
	} {
		e.entry.Call, e.entry.Issuer, e.entry.Sub = id, "https://id", sub
		en, err := s.journal.Append(t.Context(), e.entry, e.body)
		if err != nil {
			t.Fatal(err)
		}
		es = append(es, en)
	}
	return es
}

// state checks what a clone has of the bodies of a call in a run.
func (s *erasure) state(t *testing.T, repo string, run int, es []audit.Entry, want audit.BodyState) {
	t.Helper()
	shelf := audit.NewShelf(reader(t, repo))
	for _, e := range es {
		got, why, err := audit.CheckBody(shelf, fmt.Sprintf("gate/r_%d", run), e.Time, e.Bodies[0])
		if err != nil || why != nil || got != want {
			t.Errorf("%s: body of entry %d of run %d: %v, %v, %v; want %v", filepath.Base(repo), e.Seq, run, got, why, err, want)
		}
	}
}

func (s *erasure) local() string { return s.copyDir(s.remote) }

// verified checks that the log still proves itself.
func (s *erasure) verified(t *testing.T) {
	t.Helper()
	keys, err := audit.ParseLogKeys(s.logPub)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := audit.Verify(t.Context(), reader(t, s.remote), audit.VerifyConfig{Keys: keys, Signer: func([]byte, time.Time) (string, error) { return "gate", nil }})
	if err != nil || !rep.OK() {
		t.Fatalf("%v, %v", rep, err)
	}
}

// erased gives the entries about erasures of this run's journal.
func (s *erasure) erased(t *testing.T) []audit.Entry {
	t.Helper()
	var out []audit.Entry
	for e, err := range s.journal.Read() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == audit.KindErased {
			out = append(out, e)
		}
	}
	return out
}

func alice() audit.Erasure {
	return audit.Erasure{By: "operator uid 0", Reason: "she asked", Issuer: "https://id", Sub: "alice"}
}

func (s *erasure) ask(t *testing.T, ask audit.Erasure) audit.Erasure {
	t.Helper()
	er, err := s.eraser.Ask(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	return er
}

func (s *erasure) done(t *testing.T, id string, bodies int) audit.Erasure {
	t.Helper()
	er, ok := s.eraser.Get(id)
	if !ok || !er.Done || er.Waits != "" || er.Count() != bodies {
		t.Fatalf("%+v, want it done with %d bodies", er, bodies)
	}
	return er
}

func TestEraseASubject(t *testing.T) {
	s := newErasure(t)
	a1, b1 := s.call(t, "alice", "c_a1"), s.call(t, "bob", "c_b1")
	p1 := s.call(t, "pseudonym:alice", "c_p1")
	s.flush(t)
	s.sleep(40 * 24 * time.Hour) // another month
	s.start(t)
	a2, b2 := s.call(t, "alice", "c_a2"), s.call(t, "bob", "c_b2")
	s.flush(t)
	if _, err := s.repo.Trim(t.Context(), "audit/", s.clock().Add(time.Hour), func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	a3 := s.call(t, "alice", "c_a3") // not published yet, nor committed
	old := strings.TrimSpace(gitIn(t, s.remote, "rev-parse", "bodies/gate/r_1/2026-11"))
	objects := gitIn(t, s.local(), "ls-tree", "-r", old)

	er := s.ask(t, alice())
	if er.Done || len(er.Steps) != 2 || er.Waits == "" {
		t.Fatalf("%+v", er)
	}
	s.state(t, s.local(), 1, a1, audit.BodyGone)
	s.state(t, s.remote, 1, a1, audit.BodyWhole)
	s.flush(t)
	if er = s.done(t, er.ID, 8); er.Held != 2 {
		t.Errorf("%d were held back", er.Held)
	}
	for _, repo := range []string{s.local(), s.remote} {
		s.state(t, repo, 1, a1, audit.BodyGone)
		s.state(t, repo, 1, p1, audit.BodyGone)
		s.state(t, repo, 2, a2, audit.BodyGone)
		s.state(t, repo, 2, a3, audit.BodyGone)
		s.state(t, repo, 1, b1, audit.BodyWhole)
		s.state(t, repo, 2, b2, audit.BodyWhole)
	}
	// Nothing of hers is left in the local repository, in any form.
	kept := gitIn(t, s.local(), "ls-tree", "-r", "bodies/gate/r_1/2026-11")
	for line := range strings.Lines(objects) {
		hash := strings.Fields(line)[2]
		_, err := s.repo.Blob(hash)
		if strings.Contains(kept, hash) != (err == nil) {
			t.Errorf("%s: %v", line, err)
		}
	}
	es := s.erased(t)
	if len(es) != 2 || es[0].Status != audit.StatusAsked || es[1].Status != audit.StatusErased || es[1].Call != er.ID || es[1].Reason != "she asked" {
		t.Fatalf("recorded: %+v", es)
	}
	for _, want := range []string{`"by":"operator uid 0"`, `"sub":"alice"`, `"bodies":8,"unpublished":2`, `"branch":"bodies/gate/r_1/2026-11","old":"` + old} {
		if !strings.Contains(string(es[1].Detail), want) {
			t.Errorf("detail lacks %s: %s", want, es[1].Detail)
		}
	}
	s.flush(t)
	s.verified(t)

	// Once more, there is nothing; and later bodies of hers are kept.
	again := s.ask(t, alice())
	s.flush(t)
	s.done(t, again.ID, 0)
	a4 := s.call(t, "alice", "c_a4")
	s.flush(t)
	s.state(t, s.remote, 2, a4, audit.BodyWhole)
	s.start(t)
	s.flush(t)
	s.state(t, s.remote, 2, a3, audit.BodyGone)
	s.state(t, s.remote, 2, a4, audit.BodyWhole)
	s.verified(t)
}

func TestEraseACallBeforeItIsPublished(t *testing.T) {
	s := newErasure(t)
	one, two := s.call(t, "alice", "c_1"), s.call(t, "alice", "c_2")
	er := s.ask(t, audit.Erasure{By: "op", Reason: "leak", Call: "c_1"})
	if er = s.done(t, er.ID, 2); er.Held != 2 || len(er.Steps) > 0 { // there was nothing to take back
		t.Errorf("%+v", er)
	}
	s.start(t)
	s.flush(t)
	s.state(t, s.remote, 1, one, audit.BodyGone)
	s.state(t, s.remote, 1, two, audit.BodyWhole)
	s.verified(t)
	for _, ask := range []audit.Erasure{
		{By: "op", Reason: "x"},
		{By: "op", Reason: "x", Call: "c", Issuer: "i", Sub: "s"},
		{By: "op", Reason: "x", Issuer: "i"},
		{By: "op", Call: "c"},
		{Reason: "x", Call: "c"},
	} {
		if _, err := s.eraser.Ask(t.Context(), ask); !errors.Is(err, audit.ErrErasure) {
			t.Errorf("%+v: %v", ask, err)
		}
	}
}

func TestAnErasureGoesOnWhenTheRemoteIsBack(t *testing.T) {
	s := newErasure(t)
	a := s.call(t, "alice", "c_a")
	s.flush(t)
	away := s.remote + ".away"
	if err := os.Rename(s.remote, away); err != nil {
		t.Fatal(err)
	}
	er := s.ask(t, alice())
	if er.Done || er.Seen || !strings.Contains(er.Waits, "cannot be asked") || er.Count() != 2 {
		t.Fatalf("%+v", er)
	}
	s.state(t, s.local(), 1, a, audit.BodyGone)
	if err := s.outlet.Flush(t.Context()); err == nil {
		t.Error("pushed to what is not there")
	}
	s.start(t) // a restart does not forget it
	if open := s.eraser.List(); len(open) != 1 || open[0].ID != er.ID {
		t.Fatalf("%+v", open)
	}
	if again := s.ask(t, alice()); again.ID != er.ID {
		t.Errorf("asked twice, it is two: %+v", again)
	}
	if err := os.Rename(away, s.remote); err != nil {
		t.Fatal(err)
	}
	s.flush(t)
	s.done(t, er.ID, 2)
	s.state(t, s.remote, 1, a, audit.BodyGone)
	s.verified(t)
}

// The branches of bodies were brought in, and then the log could not be: what
// can be found here goes, and the rest waits.
func TestAnErasureWaitsForTheLogOfTheRemote(t *testing.T) {
	s := newErasure(t)
	a := s.call(t, "alice", "c_a")
	s.flush(t)
	tmp := os.TempDir()
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "none")) // nowhere to clone it into
	er := s.ask(t, alice())
	if er.Done || er.Seen || !strings.Contains(er.Waits, "cannot be asked") || er.Count() != 2 {
		t.Fatalf("%+v", er)
	}
	s.state(t, s.local(), 1, a, audit.BodyGone)
	t.Setenv("TMPDIR", tmp)
	s.flush(t)
	s.done(t, er.ID, 2)
	s.state(t, s.remote, 1, a, audit.BodyGone)
	s.verified(t)
}

// Killed before or after the entry that says it was asked for, it is done by the
// next start, and that entry is there once.
func TestAnErasureIsAskedForOnceOverACrash(t *testing.T) {
	for _, recorded := range []bool{false, true} {
		t.Run(fmt.Sprintf("recorded=%v", recorded), func(t *testing.T) {
			s := newErasure(t)
			a := s.call(t, "alice", "c_a")
			s.flush(t)
			file := filepath.Join(s.dir, "erasing", "er_crashed.json")
			saved := audit.Erasure{ID: "er_crashed", By: "dana", Reason: "her request", Call: "c_a", Asked: s.clock(), Unasked: true}
			if recorded { // as a crash leaves it that comes behind the entry
				s.store.before = func() error { return errors.New("crash") }
				saved = s.ask(t, audit.Erasure{By: "dana", Reason: "her request", Call: "c_a"})
				saved.Unasked = true
				file = filepath.Join(s.dir, "erasing", saved.ID+".json")
			}
			b, err := json.Marshal(saved)
			if err == nil {
				err = os.MkdirAll(filepath.Dir(file), 0o700)
			}
			if err == nil {
				err = os.WriteFile(file, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			s.store.before = nil
			s.start(t)
			s.flush(t)
			s.done(t, saved.ID, 2)
			s.state(t, s.remote, 1, a, audit.BodyGone)
			asked := 0 // in this run
			if recorded {
				asked++ // in the one before
			}
			for _, e := range s.erased(t) {
				if e.Status == audit.StatusAsked {
					asked++
				}
			}
			if asked != 1 {
				t.Errorf("it is recorded %d times that it was asked for", asked)
			}
			s.verified(t)
		})
	}
}

// Killed in the middle, an erasure is finished by the next start, and counts
// what went before.
func TestAnErasureIsFinishedAfterACrash(t *testing.T) {
	crash := errors.New("crash")
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("rewritten=%v", after), func(t *testing.T) {
			s := newErasure(t)
			a1 := s.call(t, "alice", "c_a1")
			s.flush(t)
			s.start(t)
			a2 := s.call(t, "alice", "c_a2")
			s.flush(t)
			n := 0
			second := func() error {
				if n++; n == 2 {
					return crash
				}
				return nil
			}
			if after {
				s.store.after = second
			} else {
				s.store.before = second
			}
			er := s.ask(t, alice())
			if er.Done || !strings.Contains(er.Waits, "crash") {
				t.Fatalf("%+v", er)
			}
			s.start(t)
			s.flush(t)
			s.done(t, er.ID, 4)
			s.state(t, s.remote, 1, a1, audit.BodyGone)
			s.state(t, s.remote, 2, a2, audit.BodyGone)
			for _, step := range mustGet(t, s, er.ID).Steps {
				if got := strings.TrimSpace(gitIn(t, s.remote, "rev-parse", step.Branch)); got != step.New || step.Begun {
					t.Errorf("%+v, but it is at %s", step, got)
				}
			}
			s.verified(t)
		})
	}
}

// What the remote has goes from the local repository after a while. It is erased
// on the remote all the same, expires there, and the rest stays.
func TestBodiesThatAreTrimmedHereAreErasedThere(t *testing.T) {
	s := newErasure(t)
	a1, b1 := s.call(t, "alice", "c_a1"), s.call(t, "bob", "c_b1")
	s.flush(t)
	trim := func() {
		t.Helper()
		if _, err := s.repo.Trim(t.Context(), "bodies/", s.clock().Add(time.Hour), func(string) bool { return true }); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(es ...audit.Entry) {
		t.Helper()
		for _, e := range es {
			hash := strings.TrimSpace(gitIn(t, s.remote, "rev-parse", "bodies/gate/r_1/2026-11:"+e.Time.Format("02/15/04/")+e.Bodies[0].Digest[7:9]+"/"+e.Bodies[0].Digest[7:]))
			if _, err := s.repo.Blob(hash); !errors.Is(err, gitsync.ErrNotFound) {
				t.Errorf("body of entry %d is here: %v", e.Seq, err)
			}
		}
	}
	trim()
	gone(a1...)
	gone(b1...)
	a2, b2 := s.call(t, "alice", "c_a2"), s.call(t, "bob", "c_b2")
	s.flush(t)
	er := s.ask(t, alice())
	s.start(t) // before it is pushed
	s.flush(t)
	s.flush(t)
	s.done(t, er.ID, 4)
	s.state(t, s.remote, 1, append(a1, a2...), audit.BodyGone)
	s.state(t, s.remote, 1, append(b1, b2...), audit.BodyWhole)
	trim()
	gone(b2...)
	s.verified(t)
	s.retention = 24 * time.Hour
	s.sleep(72 * time.Hour)
	b3 := s.call(t, "bob", "c_b3")
	s.flush(t)
	s.flush(t)
	s.state(t, s.remote, 1, append(b1, b2...), audit.BodyGone)
	s.state(t, s.remote, 2, b3, audit.BodyWhole)
	s.verified(t)
}

// A body that is in a journal only is counted once, whether a crash comes before
// it is held back, and it is committed after all, or after.
func TestBodiesHeldBackAreCountedOnceOverACrash(t *testing.T) {
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("held=%v", after), func(t *testing.T) {
			s := newErasure(t)
			a1, b1 := s.call(t, "alice", "c_a1"), s.call(t, "bob", "c_b1")
			s.flush(t)
			a2 := s.call(t, "alice", "c_a2")
			list := filepath.Join(s.dir, "erased")
			if after {
				s.store.tip = func() error { return errors.New("crash") }
			} else if err := os.Mkdir(list, 0o700); err != nil {
				t.Fatal(err)
			}
			er := s.ask(t, alice())
			if er.Waits == "" || er.Count() != 0 || len(er.Waiting) != 2 {
				t.Fatalf("%+v", er)
			}
			if !after {
				if err := os.Remove(list); err != nil {
					t.Fatal(err)
				}
			}
			s.start(t)
			s.flush(t)
			s.flush(t) // the branch was pushed for its bodies' sake: the erasure sees it next time
			er = s.done(t, er.ID, 4)
			if want := map[bool]int{true: 2}[after]; er.Held != want || len(er.Waiting) > 0 {
				t.Errorf("%d were held back, want %d", er.Held, want)
			}
			s.state(t, s.remote, 1, a1, audit.BodyGone)
			s.state(t, s.remote, 1, a2, audit.BodyGone)
			s.state(t, s.remote, 1, b1, audit.BodyWhole)
			s.verified(t)
		})
	}
}

func mustGet(t *testing.T, s *erasure, id string) audit.Erasure {
	t.Helper()
	er, ok := s.eraser.Get(id)
	if !ok {
		t.Fatal(id)
	}
	return er
}

// Recorded, and killed before that was noted, it is not recorded again.
func TestAnErasureIsRecordedOnce(t *testing.T) {
	s := newErasure(t)
	s.call(t, "alice", "c_a")
	s.flush(t)
	er := s.ask(t, alice())
	file := filepath.Join(s.dir, "erasing", er.ID+".json")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s.flush(t)
	s.done(t, er.ID, 2)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	s.flush(t)
	if open, es := s.eraser.List(), s.erased(t); len(open) != 0 || len(es) != 0 {
		t.Errorf("%+v, %+v", open, es)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.NewEraser(audit.EraserConfig{Dir: s.dir, Enforcer: "gate", Journal: s.journal, ID: func() string { return "" }}); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("a damaged one: %v", err)
	}
}

func TestBodiesExpire(t *testing.T) {
	s := newErasure(t)
	s.retention = 10 * 24 * time.Hour
	old := s.call(t, "alice", "c_1")
	s.flush(t)
	s.sleep(24 * time.Hour)
	s.start(t)
	young := s.call(t, "alice", "c_2")
	s.flush(t)
	s.sleep(10 * 24 * time.Hour) // the first is eleven days old, the second ten
	s.flush(t)
	s.state(t, s.remote, 1, old, audit.BodyGone)
	s.state(t, s.remote, 2, young, audit.BodyWhole)
	es := s.erased(t)
	if len(es) != 1 || es[0].Status != audit.StatusExpired || !strings.Contains(string(es[0].Detail), `"bodies":2`) {
		t.Fatalf("%+v", es)
	}
	s.sleep(24 * time.Hour)
	s.flush(t)
	s.state(t, s.remote, 2, young, audit.BodyGone)
	s.flush(t)
	s.verified(t)

	// An enforcer that lost its disk still drops what its earlier runs left, and
	// branches of theirs that hold nothing.
	last := s.call(t, "alice", "c_3")
	s.flush(t)
	if err := os.RemoveAll(s.dir); err != nil {
		t.Fatal(err)
	}
	s.journal, s.runs = nil, 10
	s.start(t)
	s.flush(t)
	s.state(t, s.remote, 2, last, audit.BodyWhole)
	s.sleep(11 * 24 * time.Hour)
	s.flush(t)
	if got := strings.Fields(gitIn(t, s.remote, "for-each-ref", "--format=%(refname)", "refs/heads/bodies")); len(got) != 0 {
		t.Errorf("still there: %v", got)
	}
	s.verified(t)
}
