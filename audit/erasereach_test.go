package audit_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign/audit"
)

// all does what a window does in every repository that is there.
func (s *erasure) all(t *testing.T) {
	t.Helper()
	for range 2 { // what one log says goes from all
		s.flush(t)
		for i, o := range s.outlets {
			err := o.Flush(t.Context())
			if _, gone := os.Stat(s.before[i]); (err == nil) != (gone == nil) {
				t.Fatalf("%s is there: %v; flushed: %v", s.before[i], gone == nil, err)
			}
		}
	}
}

// away takes a repository from its place, and gives what brings it back.
func away(t *testing.T, remote string) (back func()) {
	t.Helper()
	if err := os.Rename(remote, remote+".away"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Rename(remote+".away", remote); err != nil {
			t.Fatal(err)
		}
	}
}

// forget removes the journal of a run: it was pruned.
func (s *erasure) forget(t *testing.T, run string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(s.dir, "journal", run)); err != nil {
		t.Fatal(err)
	}
}

// Bodies in repositories that the record was in before are erased, too. While one
// of these is away, the erasure is not done, and says which it waits for.
func TestAnErasureReachesEarlierRepositories(t *testing.T) {
	s := newErasure(t)
	a1, b1 := s.call(t, "alice", "c_a1"), s.call(t, "bob", "c_b1")
	s.flush(t)
	s.moveOn(t)
	a2 := s.call(t, "alice", "c_a2")
	s.flush(t)
	s.forget(t, "r_1")
	s.moveOn(t)
	s.forget(t, "r_2")
	a3 := s.call(t, "alice", "c_a3")
	s.flush(t)
	first, second := s.before[0], s.before[1]

	back := away(t, first)
	er := s.ask(t, alice())
	if er.Done || er.Seen || !strings.Contains(er.Waits, first+": what could be found here is gone, but the remote cannot be asked") || strings.Contains(er.Waits, "; "+second) {
		t.Fatalf("%+v", er)
	}
	s.all(t)
	s.state(t, second, 2, a2, audit.BodyGone)
	s.state(t, s.remote, 3, a3, audit.BodyGone)
	s.state(t, s.copyDir(first), 1, a1, audit.BodyWhole) // only its log says that they are hers
	s.start(t)                                           // a restart does not forget it
	s.all(t)
	if er, ok := s.eraser.Get(er.ID); !ok || er.Done || !strings.Contains(er.Waits, first) {
		t.Fatalf("%+v", er)
	}
	for _, e := range s.erased(t) {
		t.Errorf("it is recorded as %s", e.Status)
	}

	back()
	s.all(t)
	er = s.done(t, er.ID, 6)
	s.state(t, first, 1, a1, audit.BodyGone)
	s.state(t, s.copyDir(first), 1, a1, audit.BodyGone)
	s.state(t, first, 1, b1, audit.BodyWhole)
	in := map[string]string{}
	for _, step := range er.Steps {
		in[step.Branch] += step.Repo
	}
	if len(in) != 3 || in["bodies/gate/r_1/2026-11"] != first || in["bodies/gate/r_2/2026-11"] != second || in["bodies/gate/r_3/2026-11"] != s.remote {
		t.Errorf("it went from %v", in)
	}
	es := s.erased(t)
	if len(es) != 1 || !strings.Contains(string(es[0].Detail), `"repository":"`+first+`"`) {
		t.Errorf("recorded: %+v", es)
	}
}

// The log that says whose a body is may be in a later repository than the body.
func TestWhatALaterLogSaysGoesFromEarlierRepositories(t *testing.T) {
	s := newErasure(t)
	a1 := s.call(t, "alice", "c_a1")
	if err := s.bodies.Commit(t.Context()); err != nil { // there, without the log
		t.Fatal(err)
	}
	done, err := s.repo.Push(t.Context(), s.bodies.Dirty()...)
	if err == nil {
		err = s.bodies.Pushed(t.Context(), done.Tips)
	}
	if err != nil {
		t.Fatal(err)
	}
	first := s.remote
	s.moveOn(t)
	s.all(t) // the run's log arrives here
	s.forget(t, "r_1")
	s.start(t)
	back := away(t, s.remote)
	er := s.ask(t, alice())
	s.state(t, first, 1, a1, audit.BodyWhole)
	if er.Done || !strings.Contains(er.Waits, s.remote) {
		t.Fatalf("%+v", er)
	}
	back()
	s.all(t)
	s.done(t, er.ID, 2)
	s.state(t, first, 1, a1, audit.BodyGone)
}

// A repository that is away keeps no other from dropping what is too old.
func TestBodiesExpireInEveryRepository(t *testing.T) {
	s := newErasure(t)
	s.retention = 10 * 24 * time.Hour
	a1 := s.call(t, "alice", "c_1")
	s.flush(t)
	s.moveOn(t)
	a2 := s.call(t, "alice", "c_2")
	s.flush(t)
	s.forget(t, "r_1")
	s.start(t)
	back := away(t, s.before[0])
	s.sleep(12 * 24 * time.Hour)
	s.all(t)
	s.state(t, s.remote, 2, a2, audit.BodyGone)
	s.sleep(24 * time.Hour)
	back()
	s.all(t)
	s.state(t, s.before[0], 1, a1, audit.BodyGone)
	var about []string
	for _, e := range s.erased(t) {
		for _, remote := range []string{s.remote, s.before[0]} {
			if e.Status == audit.StatusExpired && strings.Contains(string(e.Detail), `"bodies":2`) && strings.Contains(string(e.Detail), `,"repository":"`+remote+`"}`) {
				about = append(about, remote)
			}
		}
	}
	if len(about) != 2 || about[0] != s.remote {
		t.Errorf("recorded about %q: %+v", about, s.erased(t))
	}
}
