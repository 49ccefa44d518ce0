package audit_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"filippo.io/age"

	"countersign/audit"
	"countersign/gitsync"
)

// What of the record the process that is killed changes while it goes on: its
// repository, its keys, its bodies. It is done as cmd/countersign does it.

// childSite is one repository of the record.
type childSite struct {
	name   string
	store  *gitsync.Repo
	outlet *audit.Outlet
}

// childLog is one run's log, and where it is.
type childLog struct {
	past *audit.Past // nil: of this run
	pub  *audit.Publisher
	site *childSite
}

func repoName(number int) string { return fmt.Sprintf("log-%d.git", number) }

func repoNumber(name string) (n int, err error) {
	_, err = fmt.Sscanf(name, "log-%d.git", &n)
	return n, err
}

// at opens a repository, or finds it among those that are open.
func (c *child) at(name string) (*childSite, error) {
	for _, s := range c.sites {
		if s.name == name {
			return s, nil
		}
	}
	signer, err := c.signers.now[audit.UseCommit].SSH()
	if err != nil {
		return nil, err
	}
	store, err := gitsync.OpenAudit(gitsync.AuditConfig{
		Dir: filepath.Join(c.Dir, name), URL: c.URL + "/" + name, Signer: signer, Name: "demo", Email: committer})
	if err != nil {
		return nil, err
	}
	s := &childSite{name: name, store: store}
	s.outlet, err = audit.NewOutlet(audit.OutletConfig{
		Window:   c.Window,
		Rejected: func(err error) bool { return errors.Is(err, gitsync.ErrRejected) },
		Push: func(ctx context.Context, branches []string) (audit.Push, error) {
			done, err := store.Push(ctx, branches...)
			for branch, why := range done.Failed {
				c.say("phase failed %s: %v", branch, why)
			}
			return audit.Push(done), err
		},
		After: func(d time.Duration) <-chan time.Time { return time.After(min(d, c.LongestPause)) },
	})
	if err != nil {
		return nil, err
	}
	if c.eraser != nil {
		s.outlet.Add(c.reach(s))
	}
	c.sites = append(c.sites, s)
	return s, nil
}

// reaches is how many repositories erasures reach: the operator removes the
// others from the list, or a long test is all about them.
const reaches = 3

// begins finds the repository in which the run before ended, and opens those
// that erasures reach.
func (c *child) begins() error {
	c.target = repoName(1)
	for _, p := range c.past { // oldest first
		if name := p.Repo(); name != "" {
			c.target = name
		}
		for e, err := range p.Read() {
			if err != nil {
				return err
			}
			var to audit.Rolled
			if e.Kind == audit.KindRolled {
				if err := json.Unmarshal(e.Detail, &to); err != nil {
					return err
				}
				c.target = to.To
			}
		}
	}
	number, err := repoNumber(c.target)
	if err != nil {
		return err
	}
	c.say("repo %d", number)
	for n := max(1, number+1-reaches); n <= number; n++ {
		if _, err := c.at(repoName(n)); err != nil {
			return err
		}
	}
	return nil
}

// takeUp publishes an earlier run, as far as that is not done: where its log
// is, and its bodies where it began.
func (c *child) takeUp(ctx context.Context, p *audit.Past, here *childSite) (*audit.Bodies, error) {
	if p.Published() {
		return nil, nil
	}
	in, from := p.Repo(), p.Began()
	if in == "" { // it committed nothing, and begins where it leaves from, or here
		in = here.name
		for e, err := range p.Read() {
			if err != nil {
				return nil, err
			}
			if e.Kind == audit.KindRolled {
				var roll audit.Rolled
				if err := json.Unmarshal(e.Detail, &roll); err != nil {
					return nil, err
				}
				in = roll.From
				break
			}
		}
		from = in
	}
	site, err := c.at(in)
	if err != nil {
		return nil, err
	}
	began, err := c.at(from)
	if err != nil {
		return nil, err
	}
	pub, err := c.publisher(audit.PublisherConfig{Past: p}, site)
	if err != nil {
		return nil, err
	}
	if err := pub.Commit(ctx); err != nil {
		return nil, err
	}
	b, err := c.bodies(audit.BodiesConfig{Past: p}, began)
	if err != nil {
		return nil, err
	}
	c.logs = append(c.logs, &childLog{p, pub, site})
	site.outlet.Add(pub)
	began.outlet.Add(b)
	return b, nil
}

func (c *child) publisher(pc audit.PublisherConfig, at *childSite) (*audit.Publisher, error) {
	pc.Store, pc.Repo, pc.Now = at.store, at.name, c.now
	pc.Signer, pc.Previous = c.signers.now[audit.UseCheckpoint], c.signers.before[audit.UseCheckpoint]
	if pc.Past != nil && c.outgoing[pc.Past.Incarnation] {
		signer, err := c.signers.before[audit.UseCommit].SSH()
		if err != nil {
			return nil, err
		}
		pc.Store = at.store.SignedBy(signer)
	}
	pc.Done = func(_ audit.Checkpoint, signed string, pushed bool) {
		if pushed {
			c.say("P %s", base64.StdEncoding.EncodeToString([]byte(signed)))
		}
		select {
		case c.published <- struct{}{}:
		default:
		}
	}
	return audit.NewPublisher(pc)
}

func (c *child) bodies(bc audit.BodiesConfig, at *childSite) (*audit.Bodies, error) {
	bc.Store, bc.Now = at.store, c.now
	bc.Recipients = func() ([]age.Recipient, bool) { return nil, true }
	bc.Erased = func(digest string) bool { return c.eraser.Erased(digest) }
	return audit.NewBodies(bc)
}

// roll has the log go on in the next repository.
func (c *child) roll(ctx context.Context) error {
	number, err := repoNumber(c.target)
	if err != nil {
		return err
	}
	to := repoName(number + 1)
	detail, err := audit.Detail(audit.Rolled{From: c.target, To: to, Reason: audit.RolledSize})
	if err != nil {
		return err
	}
	c.say("phase roll")
	if err := c.append(ctx, audit.Entry{Kind: audit.KindRolled, Detail: detail}); err != nil {
		return err
	}
	c.target = to
	c.say("repo %d", number+1)
	return nil
}

// moved takes logs to the next repository that have wholly arrived in the one
// before, and tells of what that begins.
func (c *child) moved(begun func(*audit.Publisher, *childSite)) (moved bool, err error) {
	for _, l := range c.logs {
		to, ok := l.pub.Rolled()
		if !ok {
			continue
		}
		c.say("phase move")
		open := len(c.sites)
		next, err := c.at(to)
		if err != nil {
			return moved, err
		}
		pc := audit.PublisherConfig{Past: l.past}
		if l.past == nil {
			pc.Journal = c.journal
		}
		pub, err := c.publisher(pc, next)
		if err != nil {
			return moved, err
		}
		l.site.outlet.Remove(l.pub)
		next.outlet.Add(pub)
		l.pub, l.site, moved = pub, next, true
		if l.past != nil {
			pub = nil
		}
		if open == len(c.sites) {
			next = nil
		}
		begun(pub, next)
		c.say("phase moved")
	}
	return moved, nil
}

func (c *child) moveOn(ctx context.Context, running *sync.WaitGroup) error {
	_, err := c.moved(func(pub *audit.Publisher, at *childSite) {
		if pub != nil {
			running.Go(func() { pub.Follow(ctx) })
		}
		if at != nil {
			running.Go(func() { at.outlet.Run(ctx) })
		}
	})
	return err
}

// childKeys are keys by what they are used for.
type childKeys struct{ now, before map[string]audit.Signer }

func (c *child) parseKeys() (k childKeys, err error) {
	parse := func(s signingKey) (map[string]audit.Signer, error) {
		of := map[string]audit.Signer{}
		for use, text := range map[string][]byte{audit.UseCommit: s.Commit, audit.UseCheckpoint: s.Log} {
			if len(text) == 0 {
				continue
			}
			key, err := audit.ParsePrivateKey(text)
			if err != nil {
				return nil, err
			}
			of[use] = audit.KeySigner(key)
		}
		return of, nil
	}
	if k.now, err = parse(c.Keys); err != nil {
		return k, err
	}
	k.before, err = parse(c.Before)
	return k, err
}

// finds the earlier runs that the commit key before signs to their end.
func (c *child) finds() error {
	if _, rotating := c.signers.before[audit.UseCommit]; !rotating {
		return nil
	}
	key := c.signers.now[audit.UseCommit].Public
	n, err := audit.RotatedIn(c.past, audit.UseCommit, key)
	if err != nil {
		return err
	}
	if n == len(c.past) { // or that is older than what is on this disk
		last, err := c.lastKeys()
		if err != nil {
			return err
		}
		if line, err := audit.PublicLine(key); err != nil || last[audit.UseCommit] == line {
			return err
		}
	}
	for _, p := range c.past[:n] {
		c.outgoing[p.Incarnation] = true
	}
	return nil
}

// lastKeys gives the keys that signed last, by use.
func (c *child) lastKeys() (map[string]string, error) {
	last := map[string]string{}
	b, err := os.ReadFile(filepath.Join(c.Dir, keysFile))
	if errors.Is(err, fs.ErrNotExist) {
		return last, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &last)
	}
	return last, err
}

const keysFile = "keys.json"

// rotate writes into the record which keys were replaced since the last start.
func (c *child) rotate(ctx context.Context) error {
	last, err := c.lastKeys()
	if err != nil {
		return err
	}
	for _, use := range []string{audit.UseCommit, audit.UseCheckpoint} {
		now, err := audit.PublicLine(c.signers.now[use].Public)
		if err != nil {
			return err
		}
		if before, rotating := c.signers.before[use]; rotating && last[use] != now {
			r, err := audit.Rotate("demo", use, before, c.signers.now[use].Public)
			if err != nil {
				return err
			}
			detail, err := audit.Detail(r)
			if err != nil {
				return err
			}
			c.say("phase rotate")
			if err := c.append(ctx, audit.Entry{Kind: audit.KindKey, Status: audit.StatusRotated, Detail: detail}); err != nil {
				return err
			}
			c.say("key %s", use)
		}
		last[use] = now
	}
	b, err := json.Marshal(last)
	if err != nil {
		return err
	}
	c.say("phase rotate")
	path := filepath.Join(c.Dir, keysFile)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// rewritten tells when a branch is written anew.
type rewritten struct {
	*gitsync.Repo
	say func(string, ...any)
}

func (s rewritten) Rewrite(ctx context.Context, branch, old string, keep func(string) bool, message string, when time.Time) (string, error) {
	s.say("phase rewrite")
	h, err := s.Repo.Rewrite(ctx, branch, old, keep, message, when)
	s.say("phase rewritten")
	return h, err
}

func (c *child) newEraser(bodies []*audit.Bodies) (err error) {
	n := 0
	c.eraser, err = audit.NewEraser(audit.EraserConfig{
		Dir: c.Dir, Enforcer: "demo", Journal: c.journal, Past: c.past, Bodies: bodies,
		Retention: func() (time.Duration, bool) { return c.Retention, true },
		ID:        func() string { n++; return fmt.Sprintf("er_%d_%d", c.Run, n) }, Now: c.now,
	})
	if err != nil {
		return err
	}
	for _, s := range c.sites {
		s.outlet.Add(c.reach(s))
	}
	return nil
}

func (c *child) reach(s *childSite) audit.Part {
	return c.eraser.Reach(audit.Place{Name: s.name, Store: rewritten{s.store, c.say},
		Published: func(ctx context.Context, prefix string) (audit.PublishedLog, error) {
			return s.store.Borrow(ctx, prefix)
		}})
}

const issuer = "https://id.example"

// keeps notes what could be erased.
func (c *child) keeps(e audit.Entry) {
	for _, ref := range e.Bodies {
		if ref.Kept == audit.KeptFull {
			c.kept.Lock()
			c.kept.calls = append(c.kept.calls, e.Call)
			c.kept.Unlock()
			return
		}
	}
}

// erase asks for the bodies of a call or of a subject to go.
func (c *child) erase(ctx context.Context, r *rand.Rand) error {
	ask := audit.Erasure{By: "a test", Reason: "asked"}
	c.kept.Lock()
	if n := len(c.kept.calls); n > 0 && r.IntN(3) > 0 {
		ask.Call = c.kept.calls[r.IntN(n)]
	} else {
		ask.Issuer, ask.Sub = issuer, fmt.Sprint("s", r.IntN(c.Writers))
	}
	c.kept.Unlock()
	c.say("phase erase")
	er, err := c.eraser.Ask(ctx, ask)
	if err != nil {
		return err
	}
	c.say("E %s", er.ID)
	return nil
}
