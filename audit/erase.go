package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErasingStore keeps branches of bodies that can be written anew.
type ErasingStore interface {
	BodyStore
	Branches(prefix string) ([]string, error)
	// Files lists a folder of a commit, folders with a slash at the end.
	Files(commit, dir string) ([]string, error)
	// Rewrite replaces a branch that stands at old by one commit with the files
	// that keep lets stay, or removes it if none does (""), durably, and takes
	// the rest out of this store. If all stay, nothing happens (old).
	Rewrite(ctx context.Context, branch, old string, keep func(path string) bool, message string, when time.Time) (string, error)
	// Rewritten lists the branches that were rewritten, and are not yet so on
	// the remote.
	Rewritten(prefix string) ([]string, error)
	// FetchNew brings in the branches that only the remote has.
	FetchNew(ctx context.Context, prefixes ...string) error
}

// PublishedLog is the log as the remote has it.
type PublishedLog interface {
	Branches(prefix string) ([]string, error)
	Tip(branch string) (hash string, ok bool, err error)
	Files(commit, dir string) ([]string, error)
	File(commit, path string) ([]byte, error)
	Close() error
}

// Place is a repository that has, or had, bodies of this enforcer.
type Place struct {
	Name  string // its URL, without credentials; "": there is only one
	Store ErasingStore
	// Published brings the log's branches under prefix from the remote: what it
	// has is soon no longer on this disk.
	Published func(ctx context.Context, prefix string) (PublishedLog, error)
	// Away is why the remote cannot be asked, as things are configured: what is
	// there must not be forgotten. nil: it can.
	Away error
}

// EraserConfig says whose bodies are dropped, and when; where they are, Reach.
type EraserConfig struct {
	Dir      string // the state directory
	Enforcer string
	// Named is told of a repository that the log of another names, where that
	// goes on, or from where it came. If it is one of the enforcer's, it is given
	// to Reach, and known is true. nil: none is.
	Named   func(name string) (known bool, err error)
	Journal *Journal  // this run's: erasures are recorded in it
	Past    []*Past   // earlier runs' that are still on this disk
	Bodies  []*Bodies // those that commit now
	// Subject gives a subject as the record has it now; Pseudonym as it has
	// been recorded where a policy wanted pseudonyms. Both nil: as it is.
	Subject, Pseudonym func(issuer, sub string) (string, string)
	Retention          func() (age time.Duration, ok bool) // of the policy in force: 0 for ever; false: not known
	ID                 func() string                       // a fresh id of an erasure
	Now                func() time.Time                    // nil: time.Now
	Log                *slog.Logger                        // nil: none
}

// Erasure is bodies that are to go, and how far that has come.
type Erasure struct {
	ID     string    `json:"id"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	Issuer string    `json:"issuer,omitempty"` // those of this subject's calls
	Sub    string    `json:"sub,omitempty"`
	Call   string    `json:"call,omitempty"`       // those of this call
	Before time.Time `json:"before,omitzero"`      // those older than this: retention
	Asked  time.Time `json:"asked"`                //
	Steps  []Erased  `json:"branches"`             // what was written anew
	Held   int       `json:"held,omitempty"`       // bodies that were in a journal only, and stay there until that goes
	Seen   bool      `json:"everywhere"`           // every remote was asked for branches that are not here, and nothing is left here
	Done   bool      `json:"done"`                 // nor on the remotes, and it is recorded
	Waits  string    `json:"waits,omitempty"`      // why it is not done
	Repo   string    `json:"repository,omitempty"` // the only one that it is about: retention; "": all, or there is only one
	Others []string  `json:"others,omitempty"`     // repositories that the log names, and that are none of the enforcer's: not looked into

	Waiting []foundBody `json:"waiting,omitempty"` // those that may count as Held
	Unasked bool        `json:"unasked,omitempty"` // it may not be recorded yet that it was asked for
}

// Erased is a branch that was written anew.
type Erased struct {
	Repo   string `json:"repository,omitempty"` // that it is in, if there may be several
	Branch string `json:"branch"`
	Old    string `json:"old"` // its tip before
	New    string `json:"new"` // after; "" if nothing was left of it
	Bodies int    `json:"bodies"`
	Begun  bool   `json:"begun,omitempty"` // New is not known yet
}

// Count is the number of bodies that were dropped, or held back.
func (e *Erasure) Count() int {
	n := e.Held
	for _, s := range e.Steps {
		n += s.Bodies
	}
	return n
}

// What Status says of a KindErased entry.
const (
	StatusAsked   = "asked"   // an erasure begins
	StatusErased  = "erased"  // it is done, here and on the remote
	StatusExpired = "expired" // bodies older than the policy's retention are gone
)

// erasedDetail is the detail of a KindErased entry.
type erasedDetail struct {
	By       string    `json:"by,omitempty"`
	Issuer   string    `json:"issuer,omitempty"` // the subject, as the record has it
	Sub      string    `json:"sub,omitempty"`
	Call     string    `json:"of_call,omitempty"`
	Before   time.Time `json:"before,omitzero"`
	Bodies   int       `json:"bodies"`
	Held     int       `json:"unpublished,omitempty"` // of them, those that never left the enforcer's disk
	Branches []Erased  `json:"branches,omitempty"`
	Repo     string    `json:"repository,omitempty"` // the only one that it is about
	Others   []string  `json:"others,omitempty"`     // see Erasure
}

// ErrErasure is returned for an erasure that cannot be asked for like that.
var ErrErasure = errors.New("audit: erasure")

// Eraser drops bodies: those of a subject or a call, when an operator asks, and
// those that are older than the policy's retention. It writes branches of
// bodies anew, those of every run of its enforcer, in every repository that its
// record is or was in, and nothing else; the log stays as it is, and the erasure
// is an entry of it.
//
// What is to be done is on this disk before it begins; a crash in the middle is
// finished by the next start, and what cannot be done now (a remote is down)
// by a later window. To do a step again changes nothing.
type Eraser struct {
	cfg EraserConfig

	mu       sync.Mutex // never held while a remote is asked
	places   []*reached
	open     map[string]*Erasure
	searches map[string]*search // of those that are open
	viewing  sync.Mutex
	view     map[string]Erasure // what Get and List tell, also while something is done
	erased   struct {
		sync.RWMutex
		digests map[string]bool
	}
}

const (
	lookEvery = time.Hour   // bodies that are too old are looked for
	askTime   = time.Minute // who asks for an erasure waits no longer for the remotes
)

// NewEraser takes up what earlier runs did not finish.
func NewEraser(cfg EraserConfig) (*Eraser, error) {
	if cfg.Journal == nil || cfg.ID == nil || cfg.Enforcer == "" {
		return nil, errors.New("audit: an eraser needs a journal, an enforcer's name and ids")
	}
	same := func(issuer, sub string) (string, string) { return issuer, sub }
	if cfg.Subject == nil {
		cfg.Subject = same
	}
	if cfg.Pseudonym == nil {
		cfg.Pseudonym = same
	}
	if cfg.Retention == nil {
		cfg.Retention = func() (time.Duration, bool) { return 0, true }
	}
	if cfg.Named == nil {
		cfg.Named = func(string) (bool, error) { return false, nil }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	e := &Eraser{cfg: cfg, open: map[string]*Erasure{}, searches: map[string]*search{}, view: map[string]Erasure{}}
	if err := errors.Join(e.loadErased(), e.loadOpen()); err != nil {
		return nil, err
	}
	return e, nil
}

// Reach has the eraser reach a repository, from now on: what it does there is a
// Part of that one's Outlet, after the Bodies.
func (e *Eraser) Reach(p Place) Part {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := &reached{Place: p, e: e}
	e.places = append(e.places, r)
	return r
}

// Erased tells whether the body of this digest must not be published any more.
func (e *Eraser) Erased(digest string) bool {
	e.erased.RLock()
	defer e.erased.RUnlock()
	return e.erased.digests[digest]
}

// Ask begins an erasure: of a subject (Issuer and Sub) or of a Call, with By
// and Reason. When it returns without an error, it is recorded that it was
// asked for, and it will be done; what of it is done already, the Erasure says.
func (e *Eraser) Ask(ctx context.Context, ask Erasure) (Erasure, error) {
	subject := ask.Issuer != "" && ask.Sub != ""
	if subject == (ask.Call != "") || (ask.Issuer != "") != (ask.Sub != "") || ask.By == "" || ask.Reason == "" {
		return Erasure{}, fmt.Errorf("%w: of a subject (issuer and sub) or of a call, with a reason", ErrErasure)
	}
	er, err := e.begin(ctx, ask)
	if err != nil {
		return Erasure{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	for asked := 0; ; { // what one finds may name more
		e.mu.Lock()
		more := e.places[asked:]
		asked = len(e.places)
		e.mu.Unlock()
		if len(more) == 0 {
			now, _ := e.Get(er.ID) // it is there since it began
			return now, nil
		}
		var all sync.WaitGroup
		for _, p := range more {
			all.Go(func() { _ = p.advance(ctx, er) }) // Waits says it
		}
		all.Wait()
	}
}

// begin records that an erasure was asked for, unless it is under way. It is on
// this disk first: what the record says was asked for is done, also after a crash.
func (e *Eraser) begin(ctx context.Context, ask Erasure) (*Erasure, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, o := range e.open { // asked again
		if o.Issuer == ask.Issuer && o.Sub == ask.Sub && o.Call == ask.Call && o.Before.IsZero() {
			return o, nil
		}
	}
	er := &Erasure{
		ID: e.cfg.ID(), By: ask.By, Reason: ask.Reason, Issuer: ask.Issuer, Sub: ask.Sub, Call: ask.Call,
		Asked: e.cfg.Now().UTC(), Steps: []Erased{},
	}
	er.Unasked = true // until the entry is there, which a crash may precede
	if err := e.save(er); err != nil {
		return nil, err
	}
	if err := e.record(ctx, er, StatusAsked); err != nil {
		return nil, errors.Join(fmt.Errorf("nothing is erased, since that cannot be recorded: %w", err), os.Remove(e.path(er.ID)))
	}
	er.Unasked = false
	e.open[er.ID] = er
	e.show(er)
	return er, nil
}

// Get gives an erasure that is not done, or was done in this run.
func (e *Eraser) Get(id string) (Erasure, bool) {
	e.viewing.Lock()
	defer e.viewing.Unlock()
	er, ok := e.view[id]
	return er, ok
}

// List gives the erasures that are not done, oldest first.
func (e *Eraser) List() []Erasure {
	e.viewing.Lock()
	defer e.viewing.Unlock()
	all := []Erasure{}
	for _, er := range e.view {
		if !er.Done {
			all = append(all, er)
		}
	}
	slices.SortFunc(all, func(a, b Erasure) int { return cmp.Or(a.Asked.Compare(b.Asked), strings.Compare(a.ID, b.ID)) })
	return all
}

// show has Get and List see an erasure as it is now.
func (e *Eraser) show(er *Erasure) {
	e.viewing.Lock()
	defer e.viewing.Unlock()
	now := *er
	now.Steps, now.Others = slices.Clone(er.Steps), slices.Clone(er.Others)
	e.view[er.ID] = now
}

func (e *Eraser) prefix() string { return bodiesPrefix + e.cfg.Enforcer + "/" }

// finish ends an erasure if nothing is left to do, here or on a remote, and says
// in Waits what is. e.mu is held.
func (e *Eraser) finish(ctx context.Context, er *Erasure) (err error) {
	if er.Done {
		return nil
	}
	defer func() {
		if err != nil {
			er.Waits = err.Error()
		}
		e.show(er)
	}()
	var left []string
	if !er.Seen {
		s := e.search(er)
		for _, p := range e.places {
			if !p.concerns(er) {
				continue
			}
			if why := s.left(p, er); why != "" {
				left = append(left, strings.TrimPrefix(p.Name+": "+why, ": "))
			}
		}
		if er.Waits = strings.Join(left, "; "); er.Waits != "" {
			return nil
		}
		er.Seen = true
		if err := e.save(er); err != nil {
			return err
		}
		delete(e.searches, er.ID) // it is known now, and may be large
	}
	for _, p := range e.places {
		waiting, err := p.Store.Rewritten(e.prefix())
		if err != nil {
			return err
		}
		if slices.ContainsFunc(er.Steps, func(s Erased) bool { return s.Repo == p.Name && slices.Contains(waiting, s.Branch) }) {
			left = append(left, strings.TrimPrefix(p.Name+": the branches are not on the remote yet as they are here", ": "))
		}
	}
	if er.Waits = strings.Join(left, "; "); er.Waits != "" {
		return nil
	}
	status := StatusErased
	if !er.Before.IsZero() {
		status = StatusExpired
	}
	if len(er.Steps) > 0 || er.Before.IsZero() {
		if err := e.record(ctx, er, status); err != nil {
			return err
		}
	}
	if err := os.Remove(e.path(er.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("audit: %w", err)
	}
	er.Done = true
	delete(e.open, er.ID)
	return nil
}

func (e *Eraser) record(ctx context.Context, er *Erasure, status string) error {
	d := erasedDetail{By: er.By, Call: er.Call, Before: er.Before, Bodies: er.Count(), Held: er.Held, Branches: er.Steps, Repo: er.Repo, Others: er.Others}
	if er.Sub != "" {
		d.Issuer, d.Sub = e.cfg.Subject(er.Issuer, er.Sub)
	}
	if status == StatusAsked {
		d.Branches = nil
	}
	if len(d.Branches) > maxNamedBranches {
		d.Branches = d.Branches[:maxNamedBranches] // the line has a bound; the count is of all
	}
	detail, err := Detail(d)
	for ; err == nil && len(detail) > maxErasedDetail && len(d.Branches) > 0; detail, err = Detail(d) {
		d.Branches = d.Branches[:len(d.Branches)/2]
	}
	if err != nil {
		return err
	}
	_, err = e.cfg.Journal.Append(context.WithoutCancel(ctx), Entry{Kind: KindErased, Call: er.ID, Status: status, Reason: er.Reason, Detail: detail})
	return err
}

// maxNamedBranches and maxErasedDetail bound what an entry names.
const (
	maxNamedBranches = 128
	maxErasedDetail  = 48 << 10
)
