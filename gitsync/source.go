package gitsync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// What a Source's methods fail with, besides *Rejected and the network's errors.
var (
	ErrUnchanged = errors.New("the policy is unchanged")
	ErrNone      = errors.New("no policy was ever accepted here")
)

// Rejected is a policy that is not to be used. The last good one stays.
type Rejected struct {
	Commit string // what the reference names
	Reason string // for people
}

// Error says which commit and why.
func (r *Rejected) Error() string {
	return fmt.Sprintf("policy %.12s is rejected: %s", r.Commit, r.Reason)
}

// PolicyConfig says where policy comes from and who vouches for it.
type PolicyConfig struct {
	URL  string
	Ref  string // a branch, a tag, or a full reference; empty: the remote's HEAD
	Auth Auth
	// Signers vouch for every commit. None at all is an error unless Unverified
	// says that nobody needs to.
	Signers    Signers
	Unverified bool
	Dir        string // state: the clone and what was accepted last
	// ResetTo names a commit (40 hex digits) that may be gone back, or sideways,
	// to: a descendant of it, or it, is taken without descending from the last
	// accepted. It works once: the reset is noted with the acceptance.
	ResetTo string
	Now     func() time.Time
	Timeout time.Duration // of one contact with the remote; default a minute
	Limits  Limits
}

// Limits bound a snapshot; zero values take the defaults.
type Limits struct {
	File    int64 // bytes of one file: 1 MB
	Total   int64 // bytes of all files: 64 MB
	Files   int   // 10,000
	Depth   int   // folders in folders: 16
	Pack    int64 // bytes of one fetch: 256 MB
	Commits int   // commits since the last accepted one: 10,000
}

func (l Limits) orDefault() Limits {
	or := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	or(&l.File, 1<<20)
	or(&l.Total, 64<<20)
	or(&l.Pack, 256<<20)
	for _, n := range []struct {
		v *int
		d int
	}{{&l.Files, 10_000}, {&l.Depth, 16}, {&l.Commits, 10_000}} {
		if *n.v == 0 {
			*n.v = n.d
		}
	}
	return l
}

// Snapshot is the policy of one commit.
type Snapshot struct {
	FS        fs.FS
	Commit    string
	Subject   string    // first line of its message
	Author    string    // "Name <email>"
	Signer    string    // principal or key; empty if nobody needs to vouch
	When      time.Time // committed
	Confirmed time.Time // when the remote was last seen to name this commit
	Reset     bool      // it does not descend from the one before; the operator wanted it
}

// Source follows a policy repository. Its methods may be called by several
// goroutines.
type Source struct {
	cfg     PolicyConfig
	trust   *Trust // nil: unverified
	digest  string // of the signers: acceptance under others is checked again
	remote  *remote
	repo    *Repo
	mu      sync.Mutex
	pending map[string]accepted // by commit: verified, waiting for Accept
	bad     map[string]string   // by tip: why it was rejected, in this run
}

// accepted is the state on disk (accepted.json): the commit in force.
type accepted struct {
	Version   int       `json:"version"` // 1
	Commit    string    `json:"commit"`
	Tip       string    `json:"tip"` // the commit, or the tag object that names it
	Signer    string    `json:"signer,omitempty"`
	Signers   string    `json:"signers"` // digest of the signers that it was checked with; "none"
	Confirmed time.Time `json:"confirmed"`
	ResetTo   string    `json:"reset_to,omitempty"` // the last reset, spent
	Reset     bool      `json:"reset,omitempty"`    // this commit came in by it
}

// Policy opens a source. It does not contact the remote.
func Policy(cfg PolicyConfig) (*Source, error) {
	if cfg.Now == nil {
		return nil, errors.New("gitsync: PolicyConfig.Now is not set")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	cfg.Limits = cfg.Limits.orDefault()
	s := &Source{cfg: cfg, digest: "none", pending: map[string]accepted{}, bad: map[string]string{}}
	switch {
	case cfg.Unverified && !cfg.Signers.Empty():
		return nil, errors.New("signers are configured, and also that policy needs no signature: choose one")
	case !cfg.Unverified:
		trust, err := cfg.Signers.Parse()
		if err != nil {
			return nil, err
		}
		if cfg.Signers.Empty() {
			return nil, errors.New("nobody is named who signs policy: give allowed signers or an OpenPGP keyring, or say that unverified policy is wanted")
		}
		sum := sha256.New()
		fmt.Fprintf(sum, "%d\n%s%s", len(cfg.Signers.AllowedSigners), cfg.Signers.AllowedSigners, cfg.Signers.Keyring)
		s.trust, s.digest = trust, "sha256:"+hex.EncodeToString(sum.Sum(nil))
	}
	if cfg.ResetTo != "" {
		if _, err := parseHash(cfg.ResetTo); err != nil {
			return nil, fmt.Errorf("the commit to reset to must be given as 40 hex digits: %q", cfg.ResetTo)
		}
	}
	var err error
	if s.remote, err = newRemote(cfg.URL, cfg.Auth); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	s.repo, err = openBare(filepath.Join(cfg.Dir, "repo.git"))
	return s, err
}

// Close lets go of the clone.
func (s *Source) Close() error { return s.repo.Close() }

// Accepted returns the policy accepted last, from disk alone: ErrNone if there
// is none; *Rejected if the signers have changed since and the present ones do
// not vouch for it.
func (s *Source) Accepted() (*Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, err := s.load()
	if err != nil {
		return nil, err
	}
	if err := s.stillTrusted(a); err != nil {
		return nil, err
	}
	return s.snapshot(a)
}

// load reads the state; ErrNone if there is none, or if it dates from a time
// when nobody needed to vouch and now somebody must.
func (s *Source) load() (accepted, error) {
	path := filepath.Join(s.cfg.Dir, "accepted.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return accepted{}, ErrNone
	}
	if err != nil {
		return accepted{}, err
	}
	var a accepted
	if err := json.Unmarshal(data, &a); err != nil || a.Version != 1 {
		return accepted{}, fmt.Errorf("%s is damaged or of another version: nothing tells what was accepted last. If you are sure what the policy should be, remove it", path)
	}
	if s.trust != nil && a.Signers == "none" {
		return accepted{}, fmt.Errorf("%w (what was accepted before needed no signature)", ErrNone)
	}
	return a, nil
}

// stillTrusted checks the accepted commit again if the signers have changed:
// a key that was taken away must not keep its policy in force over a restart.
func (s *Source) stillTrusted(a accepted) error {
	if s.trust == nil || a.Signers == s.digest {
		return nil
	}
	if _, err := s.vouched(a.Tip, plumbing.NewHash(a.Commit), time.Time{}); err != nil {
		return &Rejected{a.Commit, fmt.Sprintf("the signers have changed since it was accepted, and now %s", err)}
	}
	return nil
}

// Fetch contacts the remote. It returns a verified snapshot that waits for
// Accept; ErrUnchanged, when the reference names what is in force, which is
// thereby confirmed; *Rejected, when it names what must not be; or the error
// of the contact. A snapshot not accepted comes again at the next Fetch, unless
// Refuse was called.
func (s *Source) Fetch(ctx context.Context) (*Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	last, err := s.load()
	if err != nil && !errors.Is(err, ErrNone) {
		return nil, err
	}
	var haves []plumbing.Hash
	if h := plumbing.NewHash(last.Commit); s.repo.st.HasEncodedObject(h) == nil {
		haves = append(haves, h)
	}
	started := s.cfg.Now().UTC() // not the end: what it says was true no later
	picks, err := s.remote.fetch(ctx, s.repo.st, s.cfg.Limits.Pack, haves, s.choose)
	if err != nil {
		return nil, err
	}
	ref := picks[0]
	tip := ref.Hash.String()
	if why, ok := s.bad[tip]; ok {
		return nil, &Rejected{tip, why}
	}
	if tip == last.Tip {
		if err := s.stillTrusted(last); err != nil {
			return nil, err
		}
		if last.ResetTo == s.cfg.ResetTo || s.cfg.ResetTo == "" {
			last.Confirmed, last.Signers = started, s.digest
			if err := s.save(last); err != nil {
				return nil, err
			}
			return nil, ErrUnchanged
		}
	}
	next, err := s.verify(ref, last)
	if err == nil {
		next.Confirmed = started
		var snap *Snapshot
		if snap, err = s.snapshot(next); err == nil {
			s.pending[next.Commit] = next
			return snap, nil
		}
	}
	var rejected *Rejected
	if errors.As(err, &rejected) {
		s.bad[tip] = rejected.Reason
	}
	return nil, err
}

// choose finds the reference that policy is followed by.
func (s *Source) choose(refs map[plumbing.ReferenceName]plumbing.Hash, head plumbing.ReferenceName) ([]fetched, error) {
	names := []plumbing.ReferenceName{plumbing.ReferenceName(s.cfg.Ref)}
	switch {
	case s.cfg.Ref == "":
		if head == "" {
			return nil, errors.New("the remote is empty, or does not say which branch is its HEAD: name the branch")
		}
		names[0] = head
	case !strings.HasPrefix(s.cfg.Ref, "refs/"):
		names = []plumbing.ReferenceName{plumbing.NewBranchReferenceName(s.cfg.Ref), plumbing.NewTagReferenceName(s.cfg.Ref)}
	}
	var found []fetched
	for _, n := range names {
		if h, ok := refs[n]; ok {
			found = append(found, fetched{n, h})
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("the remote has no %s", names[0])
	case 1:
		return found, nil
	}
	return nil, fmt.Errorf("%q is both a branch and a tag: write refs/heads/… or refs/tags/…", s.cfg.Ref)
}

// Accept puts a snapshot that Fetch returned in force, once its rules have
// loaded: durably, so that the next start begins with it.
func (s *Source) Accept(commit string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.pending[commit]
	if !ok {
		return fmt.Errorf("policy %q was not fetched and verified by this process", commit)
	}
	// The objects first: the state must not name what a crash takes away.
	if err := syncAll(filepath.Join(s.repo.dir, "objects")); err != nil {
		return err
	}
	if err := s.save(a); err != nil {
		return err
	}
	clear(s.pending)
	// What was rejected as not descending from the one before may descend now.
	clear(s.bad)
	return nil
}

// Refuse remembers that a fetched snapshot is of no use, its rules being
// wrong, so that Fetch says so until the reference moves.
func (s *Source) Refuse(commit, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.pending[commit]; ok {
		s.bad[a.Tip] = reason
		delete(s.pending, commit)
	}
}

func (s *Source) save(a accepted) error {
	a.Version = 1
	data, err := json.MarshalIndent(a, "", "\t")
	if err != nil {
		return err
	}
	if err := writeDurable(filepath.Join(s.cfg.Dir, "accepted.json"), append(data, '\n')); err != nil {
		return fmt.Errorf("note the accepted policy: %w", err)
	}
	return nil
}
