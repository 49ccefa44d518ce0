package approval_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"countersign/enforcer/approval"
	"countersign/rules"
)

// The rules as they change from one policy to the next. Where a set is asked the
// same by the same rule, its votes stand.
var versions = [][]rules.Ask{
	{modelAsk("writes", "dba", 2, "")},
	{modelAsk("writes", "dba", 2, ""), modelAsk("reads", "security", 1, "")},
	{modelAsk("reads", "security", 1, "")},
	{modelAsk("writes", "dba", 1, "oncall"), modelAsk("reads", "security", 1, "oncall")},
	{modelAsk("writes", "dba", 1, "oncall"), modelAsk("reads", "security", 1, "")},
	{modelAsk("writes", "dba", 1, "")}, // grants a window
}

const windowVersion = 5

func modelAsk(rule, set string, quorum int, glass string) rules.Ask {
	return rules.Ask{Rule: rule, Approvers: set, Quorum: quorum, BreakGlass: glass, Digest: fmt.Sprint("sha256:", rule, set, quorum, glass)}
}

// The people of the model: whom each voter is, and what they are a member of.
var voters = []struct {
	name, human string
	sets        []string
	signs       bool
}{
	{"alice", "alice", []string{"dba"}, false}, // who asks
	{"bob", "bob", []string{"dba", "security"}, false},
	{"bob2", "bob", []string{"dba"}, true}, // whose Slack user policy knows as bob
	{"carol", "carol", []string{"dba", "oncall"}, false},
	{"dave", "dave", []string{"dba"}, true},
	{"erin", "erin", []string{"security"}, false},
	{"olga", "olga", []string{"oncall"}, true},
	{"zoe", "zoe", nil, true},
}

// modelled is what the model knows of one approval. It is written without a
// look at how the package does it.
type modelled struct {
	digest  string
	version int
	state   approval.State
	expires time.Time
	until   time.Time
	votes   []modelVote
	uses    int
}

type modelVote struct {
	human string
	sets  []string
	glass bool
	once  bool
}

// enough tells by trying everything whether distinct humans fill all places.
func (m *modelled) enough() bool {
	need := map[string]int{}
	for _, ask := range versions[m.version] {
		spared := ask.BreakGlass != "" && slices.ContainsFunc(m.votes, func(v modelVote) bool { return v.glass })
		if !spared {
			need[ask.Approvers] = max(need[ask.Approvers], ask.Quorum)
		}
	}
	var places []string
	for set, n := range need {
		for range n {
			places = append(places, set)
		}
	}
	var fill func(i int, used []string) bool
	fill = func(i int, used []string) bool {
		if i == len(places) {
			return true
		}
		return slices.ContainsFunc(m.votes, func(v modelVote) bool {
			return !v.glass && !slices.Contains(used, v.human) && slices.Contains(v.sets, places[i]) && fill(i+1, append(slices.Clone(used), v.human))
		})
	}
	return fill(0, nil)
}

func (m *modelled) decide(now time.Time) {
	if m.state = approval.Pending; !m.enough() {
		return
	}
	m.state = approval.Approved
	if m.version == windowVersion && !slices.ContainsFunc(m.votes, func(v modelVote) bool { return v.once }) {
		m.until = now.Add(time.Hour)
	}
}

func (m *modelled) ends() time.Time {
	if m.state == approval.Approved && !m.until.IsZero() {
		return m.until
	}
	return m.expires
}

func (m *modelled) live(now time.Time) bool {
	return (m.state == approval.Pending || m.state == approval.Approved) && now.Before(m.ends())
}

// renew has the rules changed.
func (m *modelled) renew(version int, now, expires time.Time) {
	asked := func(version int, set string, glass bool) (out []rules.Ask) {
		for _, ask := range versions[version] {
			if !glass && ask.Approvers == set || glass && ask.BreakGlass == set {
				out = append(out, ask)
			}
		}
		return out
	}
	var stand []modelVote
	for _, v := range m.votes {
		whole := true
		var sets []string
		for _, set := range v.sets {
			before, after := asked(m.version, set, v.glass), asked(version, set, v.glass)
			for _, ask := range after {
				whole = whole && slices.ContainsFunc(before, func(b rules.Ask) bool { return b.Digest == ask.Digest })
			}
			if len(after) > 0 {
				sets = append(sets, set)
			}
		}
		if v.sets = sets; whole && len(sets) > 0 {
			stand = append(stand, v)
		}
	}
	if len(stand) == 0 || expires.Before(m.expires) {
		m.expires = expires
	}
	m.votes, m.version = stand, version
	m.decide(now)
}

// modelWorld has the model and the books side by side.
type modelWorld struct {
	*world
	rand  *rand.Rand
	books []*approval.Book
	known map[string]*modelled
	ids   []string
	calls int
}

func (w *modelWorld) request(digest string, version int) approval.Request {
	r := w.world.request(digest, versions[version]...)
	r.RulesDigest = fmt.Sprint("sha256:version", version)
	if version == windowVersion {
		r.Grant = rules.Grant{For: time.Hour, Scope: rules.ScopeTool}
	}
	return r
}

func (w *modelWorld) pick() *approval.Book { return w.books[w.rand.IntN(len(w.books))] }

func newModelWorld(t *testing.T, seed uint64) *modelWorld {
	w := &modelWorld{world: newWorld(t), rand: rand.New(rand.NewPCG(seed, 5)), known: map[string]*modelled{}}
	w.policy = policy(t, "a", `
people:
  alice: { issuer: https://id.example, sub: alice, slack: { team: T0TEST, user: U0ALICE } }
  bob:   { issuer: https://id.example, sub: bob, slack: { team: T0TEST, user: U0BOB } }
  carol: { issuer: https://id.example, sub: carol, slack: { team: T0TEST, user: U0CAROL } }
  dave:  { issuer: https://id.example, sub: dave }
  erin:  { issuer: https://id.example, sub: erin, slack: { team: T0TEST, user: U0ERIN } }
links: { login: true }
sets:
  dba:      { members: [alice, bob, carol, dave], groups: [{ issuer: https://id.example, group: dbas }], channel: C0DBA }
  security: { members: [bob, erin], channel: C0SEC }
  oncall:   { members: [carol], groups: [{ issuer: https://id.example, group: oncall }], approve_via: oidc }
`)
	w.world.book = w.newBook()
	for range 3 {
		w.books = append(w.books, w.newBook())
	}
	if err := w.logins.Link(t.Context(), "T0TEST", "U0BOB", w.signIn("bob2", "dbas")); err != nil {
		t.Fatal(err)
	}
	return w
}

// ballot is some vote of somebody.
func (w *modelWorld) ballot() (v approval.Vote, who int) {
	who = w.rand.IntN(len(voters))
	voter := voters[who]
	glass := w.rand.IntN(4) == 0
	if voter.signs || glass {
		groups := map[string][]string{"bob2": {"dbas"}, "olga": {"oncall"}}[voter.name]
		v = by(w.signIn(voter.name, groups...))
	} else {
		v = yes(voter.name)
	}
	v.BreakGlass, v.Once, v.Reason = glass, w.rand.IntN(3) == 0, "Because"
	v.Approve = glass || w.rand.IntN(12) > 0
	return v, who
}

// expect is what the model makes of a vote: whether it counts.
func (m *modelled) expect(v approval.Vote, who int, now time.Time) bool {
	voter := voters[who]
	if m.state != approval.Pending || !now.Before(m.expires) || voter.human == "alice" {
		return false
	}
	var sets []string
	for _, ask := range versions[m.version] {
		set := ask.Approvers
		if v.BreakGlass {
			set = ask.BreakGlass
		}
		if set != "" && slices.Contains(voter.sets, set) && !slices.Contains(sets, set) {
			sets = append(sets, set)
		}
	}
	if len(sets) == 0 {
		return false
	}
	if !v.Approve {
		m.state = approval.Denied
		return true
	}
	if slices.ContainsFunc(m.votes, func(had modelVote) bool { return had.human == voter.human && had.glass == v.BreakGlass }) {
		return false
	}
	m.votes = append(m.votes, modelVote{voter.human, sets, v.BreakGlass, v.Once || v.BreakGlass})
	m.decide(now)
	return true
}

// step does one random thing to both, and compares.
func (w *modelWorld) step(t *testing.T) string {
	now := w.clock()
	var id string
	if len(w.ids) > 0 {
		id = w.ids[max(0, len(w.ids)-1-w.rand.IntN(3))]
	}
	m := w.known[id]
	switch n := w.rand.IntN(20); {
	case id == "" || n < 5:
		return w.stepAsk(t, now)
	case n < 12:
		v, who := w.ballot()
		want := m.expect(v, who, now)
		_, err := w.cast(w.pick(), id, v, w.policy)
		if (err == nil) != want {
			t.Fatalf("vote of %s, glass %v: %v; the model says %v", voters[who].name, v.BreakGlass, err, want)
		}
		return fmt.Sprintf("%s votes %v on %s: %v", voters[who].name, v.Approve, id, want)
	case n < 16:
		for _, other := range w.ids { // of which there are few
			if w.known[other].state == approval.Approved {
				id, m = other, w.known[other]
			}
		}
		digest, version := fmt.Sprint("d", w.rand.IntN(2)), m.version
		if w.rand.IntN(2) == 0 {
			version = w.rand.IntN(len(versions))
		}
		want := m.state == approval.Approved && now.Before(m.ends()) && version == m.version && (digest == m.digest || !m.until.IsZero())
		w.calls++
		call := fmt.Sprint("c_", w.calls)
		_, err := w.pick().Spend(t.Context(), id, w.request(digest, version), call)
		if (err == nil) != want {
			t.Fatalf("spend of %s: %v; the model says %v", id, err, want)
		}
		if want {
			m.uses++
			if m.until.IsZero() {
				m.state = approval.Spent
			}
			if err := w.pick().Finish(t.Context(), id, call, "ok"); err != nil {
				t.Fatal(err)
			}
		}
		return fmt.Sprintf("spend %s: %v", id, want)
	case n < 17:
		want := m.state == approval.Approved && now.Before(m.ends())
		if _, err := w.pick().Revoke(t.Context(), id, no("carol", "Enough"), w.policy); (err == nil) != want && slices.ContainsFunc(versions[m.version], func(a rules.Ask) bool {
			return a.Approvers == "dba" || a.BreakGlass == "oncall"
		}) {
			t.Fatalf("revoke %s: %v; the model says %v", id, err, want)
		} else if err == nil {
			m.state = approval.Revoked
		}
		return "revoke " + id
	case n < 18: // a restart: the store is rebuilt from what was recorded
		w.mu.Lock()
		var list []approval.Approval
		for _, a := range w.last {
			list = append(list, a)
		}
		w.mu.Unlock()
		if err := w.pick().Restore(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		return "restart"
	}
	w.pass(time.Duration(w.rand.IntN(20)) * time.Minute)
	if w.rand.IntN(3) > 0 {
		return "time passes, and nobody looks"
	}
	if _, err := w.pick().Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, m := range w.known {
		if (m.state == approval.Pending || m.state == approval.Approved) && !w.clock().Before(m.ends()) {
			m.state = approval.Expired
		}
	}
	return "time passes"
}

func (w *modelWorld) stepAsk(t *testing.T, now time.Time) string {
	r := w.request(fmt.Sprint("d", w.rand.IntN(2)), w.rand.IntN(len(versions)))
	var version int
	if _, err := fmt.Sscanf(r.RulesDigest, "sha256:version%d", &version); err != nil {
		t.Fatal(err)
	}
	// A window that covers it; or what was asked for exactly this, and lives.
	var found *modelled
	for _, id := range w.ids {
		if m := w.known[id]; version == windowVersion && m.version == version && m.live(now) && !m.until.IsZero() {
			found = m
		}
	}
	if found == nil {
		for _, id := range w.ids {
			if m := w.known[id]; m.digest == r.Digest && m.live(now) {
				found = m
			}
		}
		switch {
		case found != nil && found.version != version && !found.until.IsZero():
			found.state, found = approval.Revoked, nil
		case found != nil && found.version != version:
			found.renew(version, now, r.Expires)
		}
	}
	a, created, err := w.pick().Ask(t.Context(), r)
	if err != nil || created != (found == nil) {
		t.Fatalf("ask: %s created %v, %v; the model has %+v", a.ID, created, err, found)
	}
	if created {
		found = &modelled{digest: r.Digest, version: version, state: approval.Pending, expires: r.Expires}
		w.known[a.ID] = found
		w.ids = append(w.ids, a.ID)
	}
	if version != windowVersion && w.known[a.ID] != found {
		t.Fatalf("another one was found: %s", a.ID)
	}
	return fmt.Sprintf("ask %s under %d: %s", r.Digest, version, a.ID)
}

func (w *modelWorld) compare(t *testing.T) {
	for _, id := range w.ids {
		m := w.known[id]
		a, err := w.pick().Get(t.Context(), id)
		if errors.Is(err, approval.ErrUnknown) && m.state != approval.Pending && m.state != approval.Approved {
			continue
		}
		if late := m.state == approval.Pending || m.state == approval.Approved; late && !w.clock().Before(m.ends()) && a.State == approval.Expired {
			m.state = a.State // whoever came too late has noted it
		}
		uses := a.Uses
		if a.SpentBy != "" {
			uses++
		}
		if err != nil || a.State != m.state || !a.Until.Equal(m.until) || uses != m.uses || len(a.Votes) < len(m.votes) || !a.Expires.Equal(m.expires) {
			t.Fatalf("%s is %s until %v expires %v, %d uses, %d votes, %v;\nthe model has %+v", id, a.State, a.Until, a.Expires, uses, len(a.Votes), err, m)
		}
	}
}

// Random sequences of everything, by several Books over one store, with restarts
// in between: state, votes, uses and times are always those of the model.
func TestAgainstAModel(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := newModelWorld(t, seed)
			var done []string
			defer func() {
				if t.Failed() {
					t.Log(done)
				}
			}()
			for range 70 {
				done = append(done, w.step(t))
				w.compare(t)
			}
		})
	}
}

// The same things all at once: whatever the order, nothing is approved without
// its quorum of distinct people, nobody barred is counted, and nothing is used
// more often than it may be.
func TestAllAtOnce(t *testing.T) {
	for seed := range uint64(4) {
		w := newModelWorld(t, seed)
		type try struct {
			vote approval.Vote
			who  int
		}
		var mu sync.Mutex
		spent := map[string]int{}
		for range 6 {
			version := w.rand.IntN(len(versions))
			a, _, err := w.pick().Ask(t.Context(), w.request("d0", version))
			if err != nil {
				t.Fatal(err)
			}
			var tries []try
			for range 8 {
				v, who := w.ballot()
				v.Approve, v.Shown = true, a.Shows()
				tries = append(tries, try{v, who})
			}
			next := w.request("d0", w.rand.IntN(len(versions)))
			var all sync.WaitGroup
			for i, one := range tries {
				book := w.books[i%len(w.books)]
				all.Go(func() {
					// A refusal is none of our business here: only what counts.
					_, _ = book.Vote(t.Context(), a.ID, one.vote, w.policy)
					if _, err := book.Spend(t.Context(), a.ID, a.Request, fmt.Sprint(a.ID, i)); err == nil {
						mu.Lock()
						spent[a.ID]++
						mu.Unlock()
					}
				})
			}
			all.Go(func() {
				if _, _, err := w.books[0].Ask(t.Context(), next); err != nil {
					t.Error(err)
				}
			})
			all.Wait()
			w.pass(time.Minute)
		}
		list, err := w.world.book.All(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			m := modelled{}
			if _, err := fmt.Sscanf(a.RulesDigest, "sha256:version%d", &m.version); err != nil {
				t.Fatal(err)
			}
			for _, v := range a.Votes {
				i := slices.IndexFunc(voters, func(one struct {
					name, human string
					sets        []string
					signs       bool
				}) bool {
					return one.name == v.Sub
				})
				if voters[i].human == "alice" || slices.ContainsFunc(m.votes, func(had modelVote) bool { return had.human == voters[i].human && had.glass == v.BreakGlass }) {
					t.Errorf("%s: %s is counted", a.ID, v.Sub)
				}
				m.votes = append(m.votes, modelVote{voters[i].human, v.Sets, v.BreakGlass, v.Once})
			}
			if a.State == approval.Revoked { // a window, whose rules then changed
				continue
			}
			granted := a.State == approval.Approved || a.State == approval.Spent
			if granted != m.enough() {
				t.Errorf("%s is %s under %d with %+v", a.ID, a.State, m.version, m.votes)
			}
			if a.Until.IsZero() && spent[a.ID] > 1 || !a.Until.IsZero() && spent[a.ID] != a.Uses {
				t.Errorf("%s ran %d times, counts %d", a.ID, spent[a.ID], a.Uses)
			}
		}
	}
}
