package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"countersign/audit"
)

const (
	defaultLimit = 5 * time.Second
	// maxSkew bounds how far a witness's clock may be from ours: a cosignature
	// of another time is no statement about now.
	maxSkew   = 5 * time.Minute
	maxAnswer = 64 << 10
)

// ErrForked: a witness has cosigned a tree that ours does not continue. Our
// state directory was copied or restored, or somebody else signs with our key.
var ErrForked = errors.New("a witness has seen another history of this log")

// ClientConfig says who is asked, and how.
type ClientConfig struct {
	Quorum *audit.Quorum // its witnesses that have a URL are asked
	HTTP   *http.Client  // nil: http.DefaultClient
	Limit  time.Duration // for all of them together; 0: 5 s
	Now    func() time.Time
	Log    *slog.Logger // nil: none
}

// Client has checkpoints cosigned. It may be used by several goroutines.
type Client struct {
	cfg ClientConfig

	mu   sync.Mutex
	seen map[string]map[string]uint64 // witness, origin: size cosigned last
	said map[string]*Standing         // by witness
}

// Standing is how a witness did so far.
type Standing struct {
	Witness  string
	Size     uint64    // of the tree it cosigned last
	Cosigned time.Time // when, by its clock; zero: never in this run
	Failed   uint64    // times that it gave no cosignature when asked
	Forked   bool      // it has seen another history: a person must look
	Err      string    // of the last time, if that failed
}

// NewClient returns a Client; nobody is asked yet.
func NewClient(cfg ClientConfig) (*Client, error) {
	if cfg.Quorum == nil || cfg.Now == nil {
		return nil, errors.New("witness: a client needs a quorum and a clock")
	}
	if cfg.HTTP == nil {
		cfg.HTTP = http.DefaultClient
	}
	if cfg.Limit == 0 {
		cfg.Limit = defaultLimit
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{cfg: cfg, seen: map[string]map[string]uint64{}, said: map[string]*Standing{}}
	for _, w := range cfg.Quorum.Witnesses {
		if w.URL != "" {
			c.seen[w.Name], c.said[w.Name] = map[string]uint64{}, &Standing{Witness: w.Name}
		}
	}
	if len(c.said) == 0 {
		return nil, errors.New("witness: no witness of the policy has a URL")
	}
	return c, nil
}

// Cosign asks all witnesses at once to cosign a checkpoint, and gives its note
// with the lines of those that did, in the order of the policy. The error, if
// some did not or the quorum is not met, comes with the note as far as it got;
// ErrForked is one to wake somebody for.
func (c *Client) Cosign(ctx context.Context, ask audit.Cosigning) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Limit)
	defer cancel()
	type answer struct {
		cosig audit.Cosignature
		err   error
	}
	answers := make([]answer, len(c.cfg.Quorum.Witnesses))
	var wait sync.WaitGroup
	for i, w := range c.cfg.Quorum.Witnesses {
		if w.URL == "" {
			continue
		}
		wait.Go(func() {
			cosig, err := c.ask(ctx, &w, ask)
			answers[i] = answer{cosig, err}
			c.note(w.Name, ask.Checkpoint, cosig, err)
		})
	}
	wait.Wait()
	note := ask.Signed
	var errs []error
	for _, a := range answers {
		note += a.cosig.Line
		errs = append(errs, a.err)
	}
	if _, err := c.cfg.Quorum.Check(note); err != nil {
		errs = append(errs, err)
	}
	return note, errors.Join(errs...)
}

// Standings tells how each witness did, in the order of the policy.
func (c *Client) Standings() []Standing {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Standing
	for _, w := range c.cfg.Quorum.Witnesses {
		if s := c.said[w.Name]; s != nil {
			all = append(all, *s)
		}
	}
	return all
}

// note remembers what came of asking a witness.
func (c *Client) note(name string, cp audit.Checkpoint, cosig audit.Cosignature, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.said[name]
	if err == nil {
		c.seen[name][cp.Origin] = cp.Size
		s.Size, s.Cosigned, s.Err = cp.Size, cosig.Time, ""
		return
	}
	s.Failed++
	s.Err = err.Error()
	if errors.Is(err, ErrForked) {
		s.Forked = true
		c.cfg.Log.Error("a witness has seen another history of this log: was the state directory copied or restored, or the checkpoint key stolen?",
			"witness", name, "origin", cp.Origin, "size", cp.Size, "err", err)
		return
	}
	c.cfg.Log.Warn("a witness did not cosign", "witness", name, "origin", cp.Origin, "size", cp.Size, "err", err)
}

// ask has one witness cosign. What it cosigned last we may know; if not, its
// answer to a wrong size says so, and it is asked once more.
func (c *Client) ask(ctx context.Context, w *audit.Witness, ask audit.Cosigning) (audit.Cosignature, error) {
	fail := func(err error) (audit.Cosignature, error) {
		return audit.Cosignature{}, fmt.Errorf("witness %s: %w", w.Name, err)
	}
	c.mu.Lock()
	knew := c.seen[w.Name][ask.Checkpoint.Origin]
	c.mu.Unlock()
	old := knew
	for again := false; ; again = true {
		status, answer, err := c.post(ctx, w.URL, ask, old)
		if err != nil {
			return fail(err)
		}
		if status == http.StatusOK {
			cosig, err := w.Cosigned(ask.Signed, answer)
			if err != nil {
				return fail(err)
			}
			if skew := cosig.Time.Sub(c.cfg.Now()); skew.Abs() > maxSkew {
				return fail(fmt.Errorf("it dates its cosignature %s: its clock, or ours, is wrong", cosig.Time.Format(time.RFC3339)))
			}
			return cosig, nil
		}
		if status != http.StatusConflict {
			return fail(fmt.Errorf("it answers %d: %s", status, plain(answer)))
		}
		has, err := strconv.ParseUint(strings.TrimSuffix(answer, "\n"), 10, 63)
		switch {
		case err != nil:
			return fail(fmt.Errorf("it answers 409 without a size: %s", plain(answer)))
		case has > ask.Checkpoint.Size:
			return fail(fmt.Errorf("%w: it has cosigned %d entries, and here are %d", ErrForked, has, ask.Checkpoint.Size))
		case has == old && old == ask.Checkpoint.Size:
			return fail(fmt.Errorf("%w: another tree of %d entries", ErrForked, has))
		case again:
			return fail(fmt.Errorf("it has cosigned %d entries, though it said %d a moment ago", has, old))
		case has < knew:
			c.cfg.Log.Error("a witness has forgotten what it cosigned: what it says is worth nothing until it has a new key",
				"witness", w.Name, "origin", ask.Checkpoint.Origin, "had", knew, "has", has)
		}
		old = has
	}
}

// post sends one request.
func (c *Client) post(ctx context.Context, base string, ask audit.Cosigning, old uint64) (status int, answer string, err error) {
	r := request{old: old, signed: ask.Signed}
	if r.proof, err = ask.Proof(ctx, old); err != nil {
		return 0, "", fmt.Errorf("no proof from %d entries: %w", old, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/add-checkpoint", bytes.NewReader(r.encode()))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := c.cfg.HTTP.Do(req)
	if err != nil {
		return 0, "", err
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return 0, "", err
	}
	return resp.StatusCode, string(b), nil
}

// plain is what a stranger said, fit for a line of a log.
func plain(s string) string {
	return strconv.QuoteToASCII(strings.TrimSpace(s[:min(len(s), 200)]))
}
