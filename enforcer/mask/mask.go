// Package mask takes secrets out of what passes from an upstream to anybody:
// client, log, record, chat.
//
// It promises:
//   - A known value (Add) is found in every wire form that an encoder writes:
//     raw, JSON-escaped once or twice, percent-encoded, hex, base64 at any
//     alignment, quoted for a shell, SQL, YAML or markup, and in arbitrary
//     mixes of escapes, in keys and values, whole or split over the strings of
//     one message. That is a guarantee, from the moment Add returns until Keep
//     after Retire.
//   - Tokens of well-known issuers are found by their fixed prefixes (Detectors).
//   - What cannot be masked is an error, and the caller blocks it: not JSON, too
//     large, out of time, a known form that remains, a panic in here.
//   - Bytes outside a masked span are the bytes that came. Where nothing is
//     masked, Message returns its argument.
//
// It does not promise to find what an upstream transforms on purpose (reversed,
// encrypted, spelled out in words) or splits over several messages.
package mask

import (
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Errors of Add.
var (
	ErrTooShort = errors.New("mask: a value under 6 bytes cannot be masked: it would hit everywhere; have a longer one minted")
	ErrTooLong  = errors.New("mask: a value over 64 KiB cannot be masked")
)

// Errors of Message. The caller blocks the message on any of them.
var (
	ErrNotJSON  = errors.New("mask: not one JSON value in valid UTF-8")
	ErrTooLarge = errors.New("mask: message is larger than the limit, in bytes or in strings")
	ErrBudget   = errors.New("mask: out of time")
	ErrRemains  = errors.New("mask: a known value is still there after masking")
	ErrPanic    = errors.New("mask: internal error")
)

// Options of a Mask. The zero value is usable.
type Options struct {
	Keep       time.Duration    // how long a retired value is still masked; default 1 h
	Now        func() time.Time // default time.Now
	Disable    []string         // detectors that are off; known values cannot be
	Keys       []string         // object keys whose strings and numbers are always masked, in any case
	MaxMessage int              // bytes that Message and Text accept; default 16 MiB, at most 256
	Budget     time.Duration    // time that one Message or Text may take; default 2 s
}

// Mask holds the known values of one process. It is safe for concurrent use.
type Mask struct {
	now        func() time.Time
	keep       time.Duration
	maxMessage int
	budget     time.Duration

	mu      sync.Mutex // guards what follows; held for moments
	secrets map[string]*secret
	ids     map[uint64]*secret
	young   []*secret // added since the old table was built
	lastID  uint64
	changed uint64 // counts changes of secrets
	pruned  int    // secrets forgotten since the old table was built

	build sync.Mutex // held while an index is built
	built uint64     // the changed that the running index reflects

	index   atomic.Pointer[index]
	rules   atomic.Pointer[rules]
	fields  atomic.Pointer[fieldRules]
	allowed atomic.Pointer[[]allowance]
	due     atomic.Int64 // when retired values should be forgotten, in Unix nanoseconds; 0: none
}

// secret is a known value. Cause and forms are immutable.
type secret struct {
	cause
	forms []form
	refs  int       // Adds that were not retired yet
	until time.Time // when refs is 0: masked until then
}

// rules are what policy says about masking.
type rules struct {
	detectors *detectorSet
	keys      map[string]*cause // by name in lower case
}

const maxValue = 64 << 10

// New makes a Mask that knows no values yet.
func New(o Options) *Mask {
	m := &Mask{
		now: o.Now, keep: o.Keep, maxMessage: o.MaxMessage, budget: o.Budget,
		secrets: map[string]*secret{}, ids: map[uint64]*secret{},
	}
	if m.now == nil {
		m.now = time.Now
	}
	if m.keep == 0 {
		m.keep = time.Hour
	}
	if m.maxMessage == 0 {
		m.maxMessage = 16 << 20
	}
	m.maxMessage = min(m.maxMessage, 256<<20) // offsets are 32 bits wide
	if m.budget == 0 {
		m.budget = 2 * time.Second
	}
	m.catchUp()
	m.Configure(o.Disable, o.Keys)
	m.ConfigureFields(nil, nil)
	m.ConfigureAllowed(nil)
	return m
}

// Configure replaces what policy says: detectors to switch off, and keys whose
// values are always masked. Messages under way finish under the old rules.
func (m *Mask) Configure(disable, keys []string, own ...Pattern) {
	r := &rules{detectors: newDetectorSet(disable, own), keys: map[string]*cause{}}
	for _, k := range keys {
		c := causeOf("key", cleanLabel(k))
		r.keys[strings.ToLower(k)] = &c
	}
	m.rules.Store(r)
}

// Add makes value known under a label, which is shown in its place. When Add
// returns, every message masked from then on is free of it. White space around
// the value is not part of it. The same value may be added several times; it
// stays until each id is retired.
func (m *Mask) Add(label, value string) (id uint64, err error) {
	value = strings.TrimSpace(value)
	switch {
	case len(value) < minNeedle:
		return 0, ErrTooShort
	case len(value) > maxValue:
		return 0, ErrTooLong
	}
	m.mu.Lock()
	s := m.secrets[value]
	m.mu.Unlock()
	var fresh *secret
	if s == nil { // the costly part without the lock
		fresh = newSecret(label, value)
	}

	m.mu.Lock()
	if s = m.secrets[value]; s == nil {
		if fresh == nil { // it expired between the two looks
			fresh = newSecret(label, value)
		}
		s = fresh
		m.secrets[value] = s
		m.young = append(m.young, s)
		m.changed++
	}
	s.refs++
	m.lastID++
	id = m.lastID
	m.ids[id] = s
	want := m.changed
	m.mu.Unlock()

	m.reach(want)
	return id, nil
}

// Retire says that the value behind id is dead. It is masked for Keep longer:
// answers that hold it may still be under way.
func (m *Mask) Retire(id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.ids[id]
	if s == nil {
		return
	}
	delete(m.ids, id)
	if s.refs--; s.refs == 0 {
		s.until = m.now().Add(m.keep)
		m.due.CompareAndSwap(0, s.until.UnixNano())
	}
}

// reach returns when the running index reflects the change numbered want.
// Whoever gets the build lock builds for all that wait.
func (m *Mask) reach(want uint64) {
	m.build.Lock()
	defer m.build.Unlock()
	if m.built < want {
		m.catchUp()
	}
}

// sweep drops what was retired long enough ago, now and then. It is beside the
// message that finds it due: to build an index of thousands of values takes
// longer than to mask.
func (m *Mask) sweep() {
	due := m.due.Load()
	if due == 0 || m.now().Before(time.Unix(0, due)) || !m.build.TryLock() {
		return
	}
	go func() {
		defer m.build.Unlock()
		m.mu.Lock()
		if m.prune() {
			m.changed++
		}
		m.mu.Unlock()
		m.catchUp()
	}()
}

// prune forgets what was retired more than keep ago, and sets when to look
// again; m.mu is held. It tells whether something went.
func (m *Mask) prune() bool {
	now := m.now()
	var next time.Time
	before := len(m.secrets)
	for v, s := range m.secrets {
		switch {
		case s.refs > 0:
		case !s.until.After(now):
			delete(m.secrets, v)
		case next.IsZero() || s.until.Before(next):
			next = s.until
		}
	}
	if next.IsZero() {
		m.due.Store(0)
	} else { // not for each one of many: this costs a full build
		m.due.Store(max(next.UnixNano(), now.Add(m.keep/16).UnixNano()))
	}
	gone := before - len(m.secrets)
	m.pruned += gone
	return gone > 0
}

// catchUp puts an index of all secrets in force; m.build is held. New secrets
// go to the young table, until they are many.
func (m *Mask) catchUp() {
	running := m.index.Load()
	m.mu.Lock()
	m.built = m.changed
	young := slices.Clone(m.young)
	// Each change builds the young table anew, so it stays about as small as
	// makes both together cheapest.
	full := running == nil || m.pruned > 0 || len(young) > max(64, int(math.Sqrt(float64(2*len(m.secrets)))))
	var live []*secret
	if full {
		live = slices.Collect(maps.Values(m.secrets))
		m.young, m.pruned = nil, 0
	}
	m.mu.Unlock()
	if full {
		old := buildTable(live)
		base, shift := newFilter(old)
		m.index.Store(buildIndex(old, base, shift, buildTable(nil)))
		return
	}
	m.index.Store(buildIndex(running.old, running.base, running.shift, buildTable(young)))
}

func newSecret(label, value string) *secret {
	label = cleanLabel(label)
	if strings.Contains(label, value) {
		label = "secret" // or the mask would tell what it hides
	}
	return &secret{cause: causeOf(known, label), forms: wireForms(value)}
}

// cleanLabel keeps a label from breaking the text it is put in.
func cleanLabel(label string) string {
	label = strings.Map(func(r rune) rune {
		if r < 0x80 && (isAlnum(byte(r)) || strings.ContainsRune("-_./: ", r)) {
			return r
		}
		return '_'
	}, label)
	switch {
	case label == "":
		return "secret"
	case len(label) > 100:
		return label[:100]
	}
	return label
}
