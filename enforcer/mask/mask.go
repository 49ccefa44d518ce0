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
	ErrTooLarge = errors.New("mask: message is larger than the limit")
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
	MaxMessage int              // bytes that Message and Text accept; default 16 MiB
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
	lastID  uint64
	changed uint64 // counts changes of secrets

	build  sync.Mutex // held while an index is built
	built  uint64     // the changed that the running index reflects
	inOld  map[*secret]bool
	pruned time.Time

	index atomic.Pointer[index]
	rules atomic.Pointer[rules]
}

// secret is a known value. Everything but refs and until is immutable.
type secret struct {
	label string
	forms []form
	refs  int       // Adds that were not retired yet
	until time.Time // when refs is 0: masked until then
}

// rules are what policy says about masking.
type rules struct {
	detectors *detectorSet
	keys      map[string]string // lower case to name as configured
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
	if m.budget == 0 {
		m.budget = 2 * time.Second
	}
	m.rebuild(nil, true)
	m.Configure(o.Disable, o.Keys)
	return m
}

// Configure replaces what policy says: detectors to switch off, and keys whose
// values are always masked. Messages under way finish under the old rules.
func (m *Mask) Configure(disable, keys []string) {
	r := &rules{detectors: newDetectorSet(disable), keys: map[string]string{}}
	for _, k := range keys {
		r.keys[strings.ToLower(k)] = k
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
		fresh = &secret{label: cleanLabel(label, value), forms: wireForms(value)}
	}

	m.mu.Lock()
	if s = m.secrets[value]; s == nil {
		if fresh == nil { // it expired between the two looks
			fresh = &secret{label: cleanLabel(label, value), forms: wireForms(value)}
		}
		s = fresh
		m.secrets[value] = s
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
	}
}

// reach returns when the running index reflects the change numbered want.
// Whoever gets the build lock builds for all that wait.
func (m *Mask) reach(want uint64) {
	m.build.Lock()
	defer m.build.Unlock()
	if m.built >= want {
		return
	}
	m.mu.Lock()
	m.built = m.changed
	m.prune()
	live := make([]*secret, 0, len(m.secrets))
	for _, s := range m.secrets {
		live = append(live, s)
	}
	m.mu.Unlock()
	m.rebuild(live, false)
}

// prune forgets what was retired more than Keep ago; m.mu is held.
func (m *Mask) prune() {
	now := m.now()
	for v, s := range m.secrets {
		if s.refs == 0 && now.After(s.until) {
			delete(m.secrets, v)
		}
	}
	m.pruned = now
}

// rebuild makes the index of these secrets and puts it in force; m.build is
// held. Secrets new since the last full build go to the young table, until
// they are many.
func (m *Mask) rebuild(live []*secret, full bool) {
	running := m.index.Load()
	var young []*secret
	for _, s := range live {
		if !m.inOld[s] {
			young = append(young, s)
		}
	}
	gone := len(m.inOld) - (len(live) - len(young))
	limit := max(64, len(live)/16)
	if full || running == nil || len(young) > limit || gone > limit {
		old := buildTable(live)
		base, shift := newFilter(old)
		m.inOld = make(map[*secret]bool, len(live))
		for _, s := range live {
			m.inOld[s] = true
		}
		m.index.Store(buildIndex(old, base, shift, buildTable(nil)))
		return
	}
	m.index.Store(buildIndex(running.old, running.base, running.shift, buildTable(young)))
}

// cleanLabel keeps a label from breaking the text it is put in, and from
// giving away the value.
func cleanLabel(label, value string) string {
	label = strings.Map(func(r rune) rune {
		if r < 0x80 && (isAlnum(byte(r)) || strings.ContainsRune("-_./: ", r)) {
			return r
		}
		return '_'
	}, label)
	if label == "" || len(label) > 100 || strings.Contains(label, value) {
		return "secret"
	}
	return label
}

// Detectors names the token formats that are looked for, in order.
func Detectors() []string {
	var names []string
	for _, d := range detectors {
		names = append(names, d.name)
	}
	slices.Sort(names)
	return names
}
