package audit_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign/audit"
	"countersign/fixtures/githost"
	"countersign/gitsync"
)

// shared is a repository that several enforcers publish to, each with its own
// journal, disk and keys; in simulated time, of which a minute takes as long as
// its pushes. Whenever an enforcer's window has come, it pushes to a real Git
// host, and the host's pushes are counted where it stands.
type shared struct {
	*testing.T
	dir, url string
	seed     uint64
	members  []*member

	mu     sync.Mutex
	now    time.Time
	pushes []arrival
	fault  http.HandlerFunc // what the host does instead; nil: what it should
	parked chan *member     // one that waits for its window
}

// arrival is a push at the host.
type arrival struct {
	at  time.Time
	who string // whose it is, as the simulation has it: one runs at a time
}

type member struct {
	name    string
	store   *gitsync.Repo
	journal *audit.Journal
	outlet  *audit.Outlet
	keys    audit.LogKeys
	signers string
	due     time.Time
	fire    chan time.Time
	stop    context.CancelFunc
	stopped chan struct{}
	every   time.Duration // it appends so often; 0: never
	next    time.Time
	entries int
	refused int
}

func newShared(t *testing.T) *shared {
	s := &shared{T: t, dir: t.TempDir(), seed: uint64(number(t, "COUNTERSIGN_SOAK_SEED", 20260728)), now: time.Date(2026, 11, 23, 14, 31, 7, 0, time.UTC), parked: make(chan *member)}
	if err := githost.Init(filepath.Join(s.dir, "remote.git")); err != nil {
		t.Fatal(err)
	}
	host, err := githost.ServeHTTP(s.dir, "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Close)
	to, err := url.Parse(host.URL)
	if err != nil {
		t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(to)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/git-receive-pack") {
			name, _, _ := r.BasicAuth()
			s.mu.Lock()
			s.pushes = append(s.pushes, arrival{s.now, name})
			s.mu.Unlock()
		}
		s.mu.Lock()
		fault := s.fault
		s.mu.Unlock()
		if fault != nil {
			fault(w, r)
			return
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	s.url = front.URL + "/remote.git"
	return s
}

func (s *shared) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *shared) fails(how http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = how
}

// join starts an enforcer that appends an entry every so often.
func (s *shared) join(name string, every time.Duration) *member { return s.joinBound(name, every, 0) }

// joinBound is join, of one whose journal takes so many bytes.
func (s *shared) joinBound(name string, every time.Duration, most int64) *member {
	s.Helper()
	m := &member{name: name, every: every, next: s.clock(), stopped: make(chan struct{})}
	commitKey, commitPub := keyPair(s.T)
	logKey, logPub := keyPair(s.T)
	m.signers = name + "@countersign.example namespaces=\"git\" " + string(commitPub)
	var err error
	if m.keys, err = audit.ParseLogKeys(append([]byte(name+" "), logPub...)); err != nil {
		s.Fatal(err)
	}
	key, err := audit.ParsePrivateKey(logKey)
	if err != nil {
		s.Fatal(err)
	}
	dir := filepath.Join(s.dir, name)
	if m.store, err = gitsync.OpenAudit(gitsync.AuditConfig{Dir: filepath.Join(dir, "audit.git"), URL: s.url, KeyPEM: commitKey, Name: name, Email: name + "@countersign.example",
		Auth: gitsync.Auth{Username: name, Token: func(context.Context) (string, error) { return "any", nil }}}); err != nil {
		s.Fatal(err)
	}
	if m.journal, err = audit.Open(audit.Config{Dir: dir, Enforcer: name, Incarnation: "r1", Now: s.clock, MaxBytes: most}); err != nil {
		s.Fatal(err)
	}
	log, err := audit.NewPublisher(audit.PublisherConfig{Journal: m.journal, Store: m.store, Signer: audit.KeySigner(key), Now: s.clock})
	if err != nil {
		s.Fatal(err)
	}
	jitter := rand.New(rand.NewPCG(s.seed, uint64(len(s.members))))
	m.outlet, err = audit.NewOutlet(audit.OutletConfig{
		Parts: []audit.Part{log}, Now: s.clock, Rand: jitter.Float64,
		Rejected: func(err error) bool { return errors.Is(err, gitsync.ErrRejected) },
		Push: func(ctx context.Context, branches []string) (audit.Push, error) {
			done, err := m.store.Push(ctx, branches...)
			return audit.Push(done), err
		},
		After: func(d time.Duration) <-chan time.Time {
			m.due, m.fire = s.clock().Add(d), make(chan time.Time, 1)
			s.parked <- m
			return m.fire
		},
	})
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.Context())
	m.stop = cancel
	go func() {
		defer close(m.stopped)
		m.outlet.Run(ctx)
	}()
	<-s.parked
	s.members = append(s.members, m)
	return m
}

// leave ends an enforcer; what it has not pushed stays with it, if it dies.
func (s *shared) leave(m *member, dies bool) {
	s.Helper()
	m.stop()
	<-m.stopped
	err := m.journal.Close()
	if !dies {
		err = errors.Join(err, m.outlet.Flush(s.Context()))
	}
	if err := errors.Join(err, m.store.Close()); err != nil {
		s.Error(err)
	}
	s.members = slices.DeleteFunc(s.members, func(o *member) bool { return o == m })
}

// pass lets time go by.
func (s *shared) pass(d time.Duration) {
	s.Helper()
	end := s.clock().Add(d)
	for {
		next := slices.MinFunc(s.members, func(a, b *member) int { return a.due.Compare(b.due) })
		until := next.due
		if until.After(end) {
			until = end
		}
		for _, m := range s.members { // what was recorded meanwhile
			for ; m.every > 0 && !m.next.After(until); m.next = m.next.Add(m.every) {
				s.mu.Lock()
				if m.next.After(s.now) {
					s.now = m.next
				}
				s.mu.Unlock()
				_, err := m.journal.Append(s.Context(), audit.Entry{Kind: audit.KindIntent, Call: fmt.Sprintf("c_%s_%d", m.name, m.entries), Reason: strings.Repeat("words ", 100)})
				switch {
				case errors.Is(err, audit.ErrFull):
					m.refused++
				case err != nil:
					s.Fatal(err)
				default:
					m.entries++
				}
			}
		}
		s.mu.Lock()
		s.now = until
		s.mu.Unlock()
		if next.due.After(end) {
			return
		}
		next.fire <- until
		<-s.parked
	}
}

// within gives how many pushes came in a span, in all and by whom.
func (s *shared) within(from, to time.Time) (all int, by map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	by = map[string]int{}
	for _, p := range s.pushes {
		if !p.at.Before(from) && p.at.Before(to) {
			all++
			by[p.who]++
		}
	}
	return all, by
}

// verified verifies the repository, and counts the entries of each enforcer.
func (s *shared) verified(members ...*member) map[string]int {
	s.Helper()
	var signers string
	cfg := audit.VerifyConfig{Keys: audit.LogKeys{}}
	for _, m := range members {
		signers += m.signers
		maps.Copy(cfg.Keys, m.keys)
	}
	trust, err := gitsync.Signers{AllowedSigners: []byte(signers)}.Parse()
	if err != nil {
		s.Fatal(err)
	}
	cfg.Signer = trust.Commit
	rep, err := audit.Verify(s.Context(), reader(s.T, filepath.Join(s.dir, "remote.git")), cfg)
	if err != nil || !rep.OK() || len(rep.Logs) != len(members) {
		s.Fatalf("%v, %d logs: %v", err, len(rep.Logs), rep)
	}
	s.Log(rep)
	entries := map[string]int{}
	for _, l := range rep.Logs {
		entries[l.Enforcer] = int(l.Entries)
	}
	return entries
}

// first tells when each pushed for the first time.
func (s *shared) first() map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	by := map[string]time.Time{}
	for _, p := range slices.Backward(s.pushes) {
		by[p.who] = p.at
	}
	return by
}

// TestSharedRemote has several enforcers publish to one repository, and counts
// the pushes at the host: in no minute are there more than it takes, nobody is
// left out for long, and who has nothing to say pushes nothing.
func TestSharedRemote(t *testing.T) {
	t.Parallel()
	s := newShared(t)
	began := s.clock()
	phase := func(what string, d time.Duration, steady bool, each ...int) {
		t.Helper()
		from := s.clock()
		s.pass(d)
		all, by := s.within(from, s.clock())
		t.Logf("%s, %s: %d pushes, %v", what, d, all, by)
		for i, least := range each {
			if m := s.members[i]; steady && by[m.name] < least {
				t.Errorf("%s: %s pushed %d times", what, m.name, by[m.name])
			}
		}
	}
	one := s.join("one", 2*time.Second)
	phase("one alone", time.Minute, true, 4)
	two := s.join("two", 3*time.Second)
	phase("two come together", 2*time.Minute, false)
	phase("two", 3*time.Minute, true, 6, 6)
	three := s.join("three", time.Second)
	phase("three come together", 3*time.Minute, false)
	phase("three", 3*time.Minute, true, 4, 4, 4)
	s.leave(three, true)
	s.leave(one, false)
	stopped := s.clock()
	phase("the last one notices", 5*time.Minute, false)
	phase("the last one", time.Minute, true, 4)

	// Four at once, of which none knows of the others.
	for _, name := range []string{"four", "five", "six"} {
		s.join(name, time.Second)
	}
	phase("four at once", 5*time.Minute, true, 2, 2, 2, 2)

	// A host takes six a minute. The first push of one that comes is one of
	// which the others cannot know, and so is the last of one that stops in
	// order: there is room for it while another one is alone.
	worst := 0
	for from := began; from.Before(s.clock()); from = from.Add(time.Second) {
		n, by := s.within(from, from.Add(time.Minute))
		bound := 6
		for who, first := range s.first() {
			if by[who] > 0 && !first.Before(from) && who != one.name && who != two.name {
				bound++
			}
		}
		if !stopped.Before(from) && stopped.Before(from.Add(time.Minute)) {
			bound++
		}
		if n > bound {
			t.Errorf("%d pushes in the minute from %s on: %v", n, from.Sub(began), by)
		}
		worst = max(worst, n)
	}
	t.Logf("%d pushes in the worst minute", worst)

	// Idle: all is pushed, and then nothing is.
	for _, m := range s.members {
		m.every = 0
	}
	s.pass(3 * time.Minute)
	from := s.clock()
	s.pass(time.Hour)
	if n, _ := s.within(from, s.clock()); n != 0 {
		t.Errorf("%d pushes in an idle hour", n)
	}

	// All that was pushed verifies, together.
	entries := s.verified(append(slices.Clone(s.members), one, three)...)
	for _, m := range append(slices.Clone(s.members), one) {
		if entries[m.name] != m.entries+1 { // and its start
			t.Errorf("%s: %d entries are published, of %d", m.name, entries[m.name], m.entries+1)
		}
	}
	if n := entries[three.name]; n == 0 || n > three.entries+1 {
		t.Errorf("three, which died: %d entries are published, of %d", n, three.entries+1)
	}
	for _, m := range slices.Clone(s.members) {
		s.leave(m, false)
	}
}

// TestRemoteAwayForLong has the Git host fail for hours, in the ways at hand,
// while two enforcers record: one has room for all of it, the other one's
// journal comes to its bound. Both say so in time; and when the host is back,
// all that was recorded is there within minutes.
func TestRemoteAwayForLong(t *testing.T) {
	t.Parallel()
	s := newShared(t)
	wide := s.join("wide", 20*time.Second)
	narrow := s.joinBound("narrow", 20*time.Second, 128<<10)
	s.pass(2 * time.Minute)
	ended := 0
	for what, fault := range map[string]http.HandlerFunc{
		"it says that it is down": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) },
		"it cuts connections":     func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"it speaks of other things": func(w http.ResponseWriter, _ *http.Request) {
			if _, err := w.Write([]byte("<html>sign in</html>")); err != nil {
				panic(http.ErrAbortHandler)
			}
		},
	} {
		for _, m := range s.members {
			if st := m.journal.State(); st.Alert != "" {
				t.Errorf("%s: %s begins with the alert %q", what, m.name, st.Alert)
			}
		}
		refused := narrow.refused
		s.fails(fault)
		s.pass(34 * time.Minute) // about 100 entries of 700 bytes
		if a := wide.journal.State().Alert; a != "" {
			t.Errorf("%s: an alert before the hour: %q", what, a)
		}
		if a := narrow.journal.State().Alert; !strings.Contains(a, " % full") {
			t.Errorf("%s: no alert at half: %q", what, a)
		}
		if narrow.refused > refused {
			t.Errorf("%s: refused before the bound", what)
		}
		s.pass(27 * time.Minute)
		if a := wide.journal.State().Alert; !strings.Contains(a, "are not published yet") {
			t.Errorf("%s: no alert after an hour: %q", what, a)
		}
		if narrow.refused == refused {
			t.Errorf("%s: nothing was refused at the bound: %+v", what, narrow.journal.State())
		}
		// What is under way can end, at the bound.
		if _, err := narrow.journal.Append(t.Context(), audit.Entry{Kind: audit.KindOutcome, Call: fmt.Sprintf("c_narrow_%d", ended)}); err != nil {
			t.Errorf("%s: an outcome: %v", what, err)
		}
		narrow.entries++
		ended++
		s.fails(nil)
		back := s.clock()
		for wide.journal.State().Bytes > 2000 || narrow.journal.State().Bytes > 2000 {
			if s.clock().Sub(back) > 10*time.Minute {
				t.Fatalf("%s: not published after %s: %+v, %+v", what, s.clock().Sub(back), wide.journal.State(), narrow.journal.State())
			}
			s.pass(10 * time.Second)
		}
		t.Logf("%s: all is published %s after it is back; %d refused", what, s.clock().Sub(back), narrow.refused-refused)
	}
	members := slices.Clone(s.members)
	for _, m := range members {
		s.leave(m, false)
	}
	entries := s.verified(members...)
	for _, m := range members {
		if entries[m.name] != m.entries+1 {
			t.Errorf("%s: %d entries are published, of %d", m.name, entries[m.name], m.entries+1)
		}
	}
}
