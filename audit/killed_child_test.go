package audit_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"countersign/audit"
)

// The process that TestKilledAtRandom kills: this test binary, told by its environment.
// It does with journal and Git what an enforcer does, and says on its standard
// output, a line each, what it was told is so:
//
//	A <incarnation> <number> <time> <SHA-256 of the line>   Append returned
//	P <signed note, base64>                                 the remote has it
//	phase <what>                                            this begins now
//	E <id>                                                  this erasure was asked for
//	key <use>                                               it is on record that this key was replaced
//	repo <number>                                           the log goes on in this repository
//	waits <what for>                                        it ends, but not yet
//	clean                                                   it ended in order
//
// A line is written by one write(2) of few bytes, so that none is ever torn.

const asKilled = "COUNTERSIGN_TEST_AS_KILLED"

// orders are what the child is told.
type orders struct {
	Dir, URL             string     // the URL without the repository's name
	Keys, Before         signingKey // Before: those that were replaced, while both are at hand
	Run                  int
	Seed                 uint64
	Now                  time.Time     // its clock begins here …
	Step                 time.Duration // … and moves on by this whenever it is read
	Writers              int
	SegmentBytes         int64
	Keep                 int // earlier journals, at least
	Window, LongestPause time.Duration
	Rolls                bool          // the log goes on in another repository
	Erases               int           // bodies are erased once in so many commits and pushes; 0: none are
	Retention            time.Duration // of bodies; 0: for ever
}

// signingKey are the keys that sign the record, in PEM; one that there is not is
// empty.
type signingKey struct{ Commit, Log []byte }

func init() {
	text := os.Getenv(asKilled)
	if text == "" {
		return
	}
	var o orders
	err := json.Unmarshal([]byte(text), &o)
	if err == nil {
		err = (&child{orders: o}).live()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type child struct {
	orders
	clock    atomic.Int64 // microseconds
	still    bool         // it stands still
	month    atomic.Int64
	journal  *audit.Journal
	past     []*audit.Past
	signers  childKeys
	outgoing map[string]bool // runs that the commit key before signs to their end
	sites    []*childSite
	logs     []*childLog // the last one is this run's
	target   string      // name of the repository in which this run's log is, or is to go on
	eraser   *audit.Eraser

	published chan struct{} // something was committed, or pushed
	kept      struct {      // what could be erased
		sync.Mutex
		calls []string
	}
}

func (c *child) say(format string, args ...any) {
	if _, err := fmt.Printf(format+"\n", args...); err != nil {
		os.Exit(2) // the parent is gone
	}
}

func (c *child) now() time.Time {
	if c.still {
		return time.UnixMicro(c.clock.Load()).UTC()
	}
	return time.UnixMicro(c.clock.Add(c.Step.Microseconds())).UTC()
}

// append records an entry, and says so.
func (c *child) append(ctx context.Context, e audit.Entry, bodies ...audit.Body) error {
	e, err := c.journal.Append(ctx, e, bodies...)
	if err != nil {
		return err
	}
	line, err := e.Encode()
	if err != nil {
		return err
	}
	c.keeps(e)
	c.say("A %s %d %d %x", c.journal.Incarnation(), e.Seq, e.Time.UnixMicro(), sha256.Sum256(line))
	month := int64(e.Time.Year()*12 + int(e.Time.Month()))
	if was := c.month.Swap(month); was != 0 && was != month {
		c.say("phase month")
	}
	return nil
}

func (c *child) live() (err error) {
	c.clock.Store(c.Now.UnixMicro())
	c.published, c.outgoing = make(chan struct{}, 1), map[string]bool{}
	lock, err := audit.Lock(c.Dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := c.start(ctx); err != nil {
		return err
	}
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		// The parent closes it for an orderly end; and it is closed when the parent dies.
		_, _ = io.Copy(io.Discard, bufio.NewReader(os.Stdin))
	}()
	var working, publishing sync.WaitGroup
	failed := make(chan error, c.Writers+1)
	for _, s := range c.sites {
		publishing.Go(func() { s.outlet.Run(ctx) })
	}
	publishing.Go(func() { c.logs[len(c.logs)-1].pub.Follow(ctx) })
	publishing.Go(func() { failed <- c.tend(ctx, &publishing) })
	for n := range c.Writers {
		working.Go(func() { failed <- c.work(stop, n) })
	}
	for {
		select {
		case err := <-failed:
			if err != nil {
				return err
			}
			continue
		case <-stop:
		}
		break
	}
	working.Wait()
	cancel()
	publishing.Wait()
	for len(failed) > 0 {
		if err := <-failed; err != nil {
			return err
		}
	}
	return c.end(lock)
}

// start takes up what earlier runs left.
func (c *child) start(ctx context.Context) (err error) {
	if c.signers, err = c.parseKeys(); err != nil {
		return err
	}
	if c.past, err = audit.Previous(c.Dir); err != nil {
		return err
	}
	c.say("phase prune")
	keep := c.Keep
	for i, p := range c.past {
		if p.Repo() != "" { // the newest of these tells where the log is
			keep = max(c.Keep, len(c.past)-i)
		}
	}
	if c.past, err = audit.Prune(c.past, keep, c.now()); err != nil {
		return err
	}
	c.say("phase recover")
	if err := errors.Join(c.finds(), c.begins()); err != nil {
		return err
	}
	here, err := c.at(c.target)
	if err != nil {
		return err
	}
	open := map[string]audit.Entry{}
	var order []string
	var bodies []*audit.Bodies
	for _, p := range c.past {
		for e, err := range p.Read() {
			if err != nil {
				return err
			}
			c.keeps(e)
			switch e.Kind {
			case audit.KindIntent:
				open[e.Call] = e
				order = append(order, e.Call)
			case audit.KindOutcome, audit.KindRecovered:
				delete(open, e.Call)
			}
		}
		b, err := c.takeUp(ctx, p, here)
		if err != nil {
			return err
		}
		if b != nil {
			bodies = append(bodies, b)
		}
	}
	// A run's first commit says by whose key it is signed: not across a month.
	c.still = true
	c.journal, err = audit.Open(audit.Config{Dir: c.Dir, Enforcer: "demo", Incarnation: fmt.Sprintf("r%d", c.Run), Previous: c.past,
		Now: c.now, SegmentBytes: c.SegmentBytes})
	if err != nil {
		return err
	}
	if err := c.rotate(ctx); err != nil {
		return err
	}
	c.still = false
	for _, call := range order {
		if _, dangling := open[call]; !dangling {
			continue
		}
		if err := c.append(ctx, audit.Entry{Kind: audit.KindRecovered, Call: call, Status: audit.StatusUnknown}); err != nil {
			return err
		}
	}
	current, err := c.publisher(audit.PublisherConfig{Journal: c.journal}, here)
	if err != nil {
		return err
	}
	c.logs = append(c.logs, &childLog{nil, current, here})
	b, err := c.bodies(audit.BodiesConfig{Journal: c.journal}, here)
	if err != nil {
		return err
	}
	here.outlet.Add(current)
	here.outlet.Add(b)
	return c.newEraser(append(bodies, b))
}

// work makes calls, one after the other; some stay open for a while, the first
// as long as this lasts.
func (c *child) work(stop <-chan struct{}, n int) error {
	r := rand.New(rand.NewPCG(c.Seed, uint64(c.Run)<<16|uint64(n)))
	var first, open []audit.Entry
	for i := 0; ; i++ {
		select {
		case <-stop:
			for _, e := range append(first, open...) {
				if err := c.append(context.Background(), e); err != nil {
					return err
				}
			}
			return nil
		default:
		}
		intent := audit.Entry{Kind: audit.KindIntent, Call: fmt.Sprintf("c_%d_%d_%d", c.Run, n, i), Issuer: issuer, Sub: fmt.Sprint("s", n), Server: "postgres", Method: "tools/call", Tool: "query",
			Effect: "allow", Args: strings.Repeat("some words ", r.IntN(40))}
		outcome := audit.Entry{Kind: audit.KindOutcome, Call: intent.Call, Status: audit.StatusOK, Bytes: r.Int64N(10_000)}
		var bodies []audit.Body
		if r.IntN(40) == 0 {
			bodies = append(bodies, audit.Body{Of: "request", Text: []byte(strings.Repeat(intent.Call+" ", 1+r.IntN(100)))})
		}
		if err := c.append(context.Background(), intent, bodies...); err != nil {
			return err
		}
		if first == nil {
			first = append(first, outcome)
			continue
		}
		open = append(open, outcome)
		if r.IntN(8) == 0 { // it takes long
			continue
		}
		for len(open) > 0 {
			last := len(open) - 1
			if err := c.append(context.Background(), open[last]); err != nil {
				return err
			}
			if open = open[:last]; r.IntN(4) != 0 {
				break
			}
		}
	}
}

// tend does, when something was committed or pushed, what else is done to the
// record: what is published is pruned, the log rolls, bodies are erased.
func (c *child) tend(ctx context.Context, running *sync.WaitGroup) error {
	r := rand.New(rand.NewPCG(c.Seed, uint64(c.Run)))
	rolls := 1 + r.IntN(4)
	for times := 1; ; times++ {
		select {
		case <-ctx.Done():
			return nil
		case <-c.published:
		}
		var err error
		if c.Rolls && times == rolls {
			err = c.roll(ctx)
		}
		if c.Erases > 0 && r.IntN(c.Erases) == 0 {
			err = errors.Join(err, c.erase(ctx, r))
		}
		if r.IntN(4) == 0 {
			err = errors.Join(err, c.prune())
		}
		if err = errors.Join(err, c.moveOn(ctx, running)); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// prune removes what is published, once this run's log tells where it is: the
// earlier ones may be all that does.
func (c *child) prune() (err error) {
	if _, _, ok := c.logs[len(c.logs)-1].pub.Last(); !ok {
		return nil
	}
	c.say("phase prune")
	if c.past, err = audit.Prune(c.past, 0, c.now()); err != nil {
		return err
	}
	return c.journal.Prune(c.now())
}

// end finishes what was asked for, writes the last entry, and publishes what
// there is.
func (c *child) end(lock io.Closer) error {
	c.Retention = 0
	if err := c.flush(func() bool { return len(c.eraser.List()) == 0 }); err != nil {
		return err
	}
	if err := c.append(context.Background(), audit.Entry{Kind: audit.KindStop}); err != nil {
		return err
	}
	if err := c.journal.Close(); err != nil {
		return err
	}
	if err := c.flush(func() bool { return true }); err != nil {
		return err
	}
	for _, s := range c.sites {
		if err := s.store.Close(); err != nil {
			return err
		}
	}
	if err := lock.Close(); err != nil {
		return err
	}
	c.say("clean")
	return nil
}

// flush publishes everything, until that is enough.
func (c *child) flush(enough func() bool) error {
	ctx := context.Background()
	for {
		var errs []error
		for _, s := range c.sites {
			// A push of the run before may be under way still, at the remote alone.
			errs = append(errs, s.outlet.Flush(ctx))
		}
		err := errors.Join(errs...)
		if errors.Is(err, audit.ErrForked) {
			return err
		}
		moved, merr := c.moved(func(*audit.Publisher, *childSite) {})
		if merr != nil {
			return merr
		}
		if err == nil && !moved && enough() {
			return nil
		}
		c.say("waits %q", fmt.Sprintf("%v; moved %v; %+v", err, moved, c.eraser.List()))
	}
}
