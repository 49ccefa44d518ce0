package audit_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"filippo.io/age"

	"countersign/audit"
	"countersign/gitsync"
)

// The process that TestKilledAtRandom kills: this test binary, told by its environment.
// It does with journal and Git what an enforcer does, and says on its standard
// output, a line each, what it was told is so:
//
//	A <incarnation> <number> <time> <SHA-256 of the line>   Append returned
//	P <signed note, base64>                                 the remote has it
//	phase <what>                                            this begins now
//	clean                                                   it ended in order
//
// A line is written by one write(2) of few bytes, so that none is ever torn.

const asKilled = "COUNTERSIGN_TEST_AS_KILLED"

// orders are what the child is told.
type orders struct {
	Dir, URL             string
	CommitKey, LogKey    []byte // PEM
	Run                  int
	Seed                 uint64
	Now                  time.Time     // its clock begins here …
	Step                 time.Duration // … and moves on by this whenever it is read
	Writers              int
	SegmentBytes         int64
	Keep                 int // earlier journals
	Window, LongestPause time.Duration
}

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
	clock   atomic.Int64 // microseconds
	month   atomic.Int64
	journal *audit.Journal
	current *audit.Publisher
	outlet  *audit.Outlet
	past    []*audit.Past
	pushed  chan struct{} // something was
}

func (c *child) say(format string, args ...any) {
	if _, err := fmt.Printf(format+"\n", args...); err != nil {
		os.Exit(2) // the parent is gone
	}
}

func (c *child) now() time.Time { return time.UnixMicro(c.clock.Add(c.Step.Microseconds())).UTC() }

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
	c.say("A %s %d %d %x", c.journal.Incarnation(), e.Seq, e.Time.UnixMicro(), sha256.Sum256(line))
	month := int64(e.Time.Year()*12 + int(e.Time.Month()))
	if was := c.month.Swap(month); was != 0 && was != month {
		c.say("phase month")
	}
	return nil
}

func (c *child) live() (err error) {
	c.clock.Store(c.Now.UnixMicro())
	c.pushed = make(chan struct{}, 1)
	lock, err := audit.Lock(c.Dir)
	if err != nil {
		return err
	}
	store, err := gitsync.OpenAudit(gitsync.AuditConfig{
		Dir: filepath.Join(c.Dir, "audit.git"), URL: c.URL, KeyPEM: c.CommitKey, Name: "demo", Email: "demo@countersign.example"})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := c.start(ctx, store); err != nil {
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
	publishing.Go(func() { c.current.Follow(ctx) })
	publishing.Go(func() { c.outlet.Run(ctx) })
	publishing.Go(func() { failed <- c.prune(ctx) })
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
	return c.end(store, lock)
}

// start takes up what earlier runs left.
func (c *child) start(ctx context.Context, store *gitsync.Repo) error {
	key, err := audit.ParsePrivateKey(c.LogKey)
	if err != nil {
		return err
	}
	publisher := func(pc audit.PublisherConfig) (*audit.Publisher, error) {
		pc.Store, pc.Signer, pc.Now = store, audit.KeySigner(key), c.now
		pc.Done = func(_ audit.Checkpoint, signed string, pushed bool) {
			if !pushed {
				return
			}
			c.say("P %s", base64.StdEncoding.EncodeToString([]byte(signed)))
			select {
			case c.pushed <- struct{}{}:
			default:
			}
		}
		return audit.NewPublisher(pc)
	}
	if c.past, err = audit.Previous(c.Dir); err != nil {
		return err
	}
	c.say("phase prune")
	if c.past, err = audit.Prune(c.past, c.Keep, c.now()); err != nil {
		return err
	}
	c.say("phase recover")
	open := map[string]audit.Entry{}
	var order []string
	var parts []audit.Part
	bodies := func(bc audit.BodiesConfig) error {
		bc.Store, bc.Now = store, c.now
		bc.Recipients = func() ([]age.Recipient, bool) { return nil, true }
		part, err := audit.NewBodies(bc)
		parts = append(parts, part)
		return err
	}
	for _, p := range c.past {
		for e, err := range p.Read() {
			if err != nil {
				return err
			}
			switch e.Kind {
			case audit.KindIntent:
				open[e.Call] = e
				order = append(order, e.Call)
			case audit.KindOutcome, audit.KindRecovered:
				delete(open, e.Call)
			}
		}
		pub, err := publisher(audit.PublisherConfig{Past: p})
		if err != nil {
			return err
		}
		if err := pub.Commit(ctx); err != nil {
			return err
		}
		if !p.Published() {
			if err := bodies(audit.BodiesConfig{Past: p}); err != nil {
				return err
			}
			parts = append(parts, pub)
		}
	}
	c.journal, err = audit.Open(audit.Config{Dir: c.Dir, Enforcer: "demo", Incarnation: fmt.Sprintf("r%d", c.Run), Previous: c.past,
		Now: c.now, SegmentBytes: c.SegmentBytes})
	if err != nil {
		return err
	}
	for _, call := range order {
		if _, dangling := open[call]; !dangling {
			continue
		}
		if err := c.append(ctx, audit.Entry{Kind: audit.KindRecovered, Call: call, Status: audit.StatusUnknown}); err != nil {
			return err
		}
	}
	if c.current, err = publisher(audit.PublisherConfig{Journal: c.journal}); err != nil {
		return err
	}
	if err := bodies(audit.BodiesConfig{Journal: c.journal}); err != nil {
		return err
	}
	c.outlet, err = audit.NewOutlet(audit.OutletConfig{
		Parts: append(parts, c.current), Window: c.Window,
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
	return err
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
		intent := audit.Entry{Kind: audit.KindIntent, Call: fmt.Sprintf("c_%d_%d_%d", c.Run, n, i), Server: "postgres", Method: "tools/call", Tool: "query",
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

// prune removes, after every other push, what is published.
func (c *child) prune(ctx context.Context) error {
	r := rand.New(rand.NewPCG(c.Seed, uint64(c.Run)))
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.pushed:
		}
		if r.IntN(2) == 0 {
			continue
		}
		c.say("phase prune")
		var err error
		if c.past, err = audit.Prune(c.past, 0, c.now()); err == nil {
			err = c.journal.Prune(c.now())
		}
		if err != nil {
			return err
		}
	}
}

// end writes the last entry, and publishes what there is.
func (c *child) end(store *gitsync.Repo, lock io.Closer) error {
	if err := c.append(context.Background(), audit.Entry{Kind: audit.KindStop}); err != nil {
		return err
	}
	if err := c.journal.Close(); err != nil {
		return err
	}
	// A push of the run before may be under way still, at the remote alone.
	for err := c.outlet.Flush(context.Background()); err != nil; err = c.outlet.Flush(context.Background()) {
		if errors.Is(err, audit.ErrForked) {
			return err
		}
	}
	if err := errors.Join(store.Close(), lock.Close()); err != nil {
		return err
	}
	c.say("clean")
	return nil
}
