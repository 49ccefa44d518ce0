// Package freeze is the kill switch: what a person has stopped, kept where
// every enforcer of one store sees it, until a person lifts it.
//
// It promises:
//
//   - A freeze works in this process before Board.Freeze does anything else,
//     and in every other process that shares the store within a second.
//   - It outlives the process once it is in the store, and it is there, or its
//     maker is told that it is not. What could not be stored or recorded holds
//     all the same, and is tried again.
//   - It is lifted only after the record says so.
//   - Not to know is to be frozen: while the store has not answered for
//     Patience, or holds what cannot be read, every call is stopped.
//
// All freezes are one document in the store; see decode.
package freeze

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
)

// Bounds. The document of all freezes stays well below what a store takes as
// one value (NATS: 1 MB).
const (
	Max       = 100  // freezes at a time; so many more of everything, which must always be possible
	maxPart   = 1024 // bytes of each part of a target
	maxReason = 512
	maxBy     = 256
	documents = 1 << 20
)

// Target says what a freeze stops: everything, or the calls that agree with
// every part that is given.
type Target struct {
	All    bool   `json:"all,omitempty"`
	Issuer string `json:"issuer,omitempty"` // of the subject: with Sub, or not at all
	Sub    string `json:"sub,omitempty"`
	Client string `json:"client,omitempty"`
	Server string `json:"server,omitempty"`
	Tool   string `json:"tool,omitempty"` // the upstream's own name of it (of a prompt, too)
}

// Freeze is one that stands.
type Freeze struct {
	ID     string    `json:"id"`
	Target           // its members stand beside these
	Reason string    `json:"reason"`
	By     string    `json:"by"` // who froze, as a person reads it
	Since  time.Time `json:"since"`
}

// Operator is who freezes and unfreezes.
type Operator struct {
	Name        string // as a person reads it
	Issuer, Sub string // empty at the command line
	Why         string // they lift a freeze, for the record; empty: they did not say
}

func (o Operator) check() error {
	if o.Why != "" && !plain(o.Why, maxReason) {
		return fmt.Errorf("%w: at most %d bytes, all of them printable", ErrWhy, maxReason)
	}
	return nil
}

// Call is what is asked about: who calls what. Parts that a call does not have
// are empty, and agree with no freeze that names them.
type Call struct {
	Issuer, Sub, Client, Server, Tool string

	// Alias is another name of the subject, which a freeze may have for a Sub: that
	// under which the record has it.
	Alias string
}

// Stops tells whether the target covers the call.
func (t Target) Stops(c Call) bool {
	agrees := func(want, have string) bool { return want == "" || want == have }
	return t.All || t.given() && agrees(t.Issuer, c.Issuer) && (agrees(t.Sub, c.Sub) || t.Sub == c.Alias) && agrees(t.Client, c.Client) &&
		agrees(t.Server, c.Server) && agrees(t.Tool, c.Tool)
}

func (t Target) given() bool { return t.Sub+t.Client+t.Server+t.Tool != "" }

// String is the target as a person reads it.
func (t Target) String() string {
	if t.All {
		return "everything"
	}
	var parts []string
	for _, p := range []struct{ name, value string }{{"subject", t.Issuer + "#" + t.Sub}, {"client", t.Client}, {"server", t.Server}, {"tool", t.Tool}} {
		if p.value != "" && p.value != "#" {
			parts = append(parts, p.name+" "+p.value)
		}
	}
	return strings.Join(parts, ", ")
}

// Stopped is why a call may not go on: a freeze covers it.
type Stopped struct{ Freeze Freeze }

func (s *Stopped) Error() string {
	f := s.Freeze
	return fmt.Sprintf("frozen by %s since %s: %s (%s)", f.By, f.Since.UTC().Format("2006-01-02 15:04 MST"), f.Reason, f.ID)
}

// Why a freeze is not set, not lifted, or not as durable as it should be.
var (
	ErrTarget     = errors.New("what to freeze is not said clearly")
	ErrReason     = errors.New("a freeze needs a reason, which the agents are told")
	ErrWhy        = errors.New("why it is lifted is one line")
	ErrFull       = errors.New("too many freezes stand: lift some, or freeze everything")
	ErrNone       = errors.New("no such freeze stands")
	ErrUnstored   = errors.New("the store could not be written")
	ErrUnrecorded = errors.New("it could not be recorded")
	ErrUnknown    = errors.New("what is frozen is not known, so nothing is served")
)

// check tells what is wrong with a target.
func (t Target) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrTarget, fmt.Sprintf(format, args...))
	}
	switch {
	case t.All && (t.given() || t.Issuer != ""):
		return bad("everything, or a subject, client, server or tool, not both")
	case t.All:
		return nil
	case (t.Issuer == "") != (t.Sub == ""):
		return bad("a subject is an issuer and a sub: give both")
	case !t.given():
		return bad("name a subject, client, server or tool, or everything")
	}
	for name, value := range map[string]string{"issuer": t.Issuer, "sub": t.Sub, "client": t.Client, "server": t.Server, "tool": t.Tool} {
		if value != "" && !plain(value, maxPart) {
			return bad("the %s is longer than %d bytes, or holds what cannot be printed", name, maxPart)
		}
	}
	return nil
}

func (f Freeze) check() error {
	if err := f.Target.check(); err != nil {
		return err
	}
	switch {
	case !plain(f.Reason, maxReason) || strings.TrimSpace(f.Reason) == "":
		return fmt.Errorf("%w: one line of at most %d bytes, all of it printable", ErrReason, maxReason)
	case !plain(f.By, maxBy):
		return errors.New("a freeze needs somebody who froze")
	case !idForm(f.ID):
		return errors.New("a freeze needs an id: fz_ and letters or digits")
	case f.Since.IsZero():
		return errors.New("a freeze needs the time since when it stands")
	}
	return nil
}

// plain is text that can stand in a log line, a terminal and an answer.
func plain(s string, most int) bool {
	return s != "" && len(s) <= most && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

func idForm(id string) bool {
	rest, ok := strings.CutPrefix(id, "fz_")
	return ok && rest != "" && len(id) <= 64 && strings.Trim(rest, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == ""
}

// Decode reads one freeze, as Encode wrote it: strictly, since whoever reads
// half of a freeze would let through what it stops.
func Decode(b []byte) (Freeze, error) {
	var f Freeze
	if err := json.Unmarshal(b, &f, json.RejectUnknownMembers(true)); err != nil {
		return Freeze{}, fmt.Errorf("freeze: %w", err)
	}
	if err := f.check(); err != nil {
		return Freeze{}, fmt.Errorf("freeze: %w", err)
	}
	f.Since = f.Since.UTC()
	return f, nil
}

// Encode is the freeze as JSON: the members of Freeze and Target, those that
// are empty left out; since in RFC 3339.
func (f Freeze) Encode() []byte {
	b, err := json.Marshal(f)
	if err != nil { // strings that were checked, and a time: cannot be
		return nil
	}
	return b
}

// document is the value that holds all freezes:
//
//	{"format":1,"freezes":[{"id":"fz_…","all":true,"reason":"…","by":"…","since":"2026-11-27T18:00:00Z"},…]}
//
// in the order in which they were set. It is read strictly: a member that is
// not known, one that is there twice, a freeze that is not whole, an id that
// is there twice, another format: each makes the whole unreadable. So does a
// later version's document to an earlier version.
type document struct {
	Format  int      `json:"format"`
	Freezes []Freeze `json:"freezes"`
}

func encode(list []Freeze) []byte {
	b, err := json.Marshal(document{1, list})
	if err != nil { // as Encode
		return nil
	}
	return b
}

func decode(b []byte) ([]Freeze, error) {
	var d document
	if len(b) > documents {
		return nil, fmt.Errorf("freeze: the document has %d bytes, more than %d", len(b), documents)
	}
	if err := json.Unmarshal(b, &d, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("freeze: the document cannot be read: %w", err)
	}
	if d.Format != 1 {
		return nil, fmt.Errorf("freeze: the document has format %d, and format 1 is known here", d.Format)
	}
	if d.Freezes == nil {
		return nil, errors.New("freeze: the document has no list of freezes")
	}
	seen := map[string]bool{}
	for i, f := range d.Freezes {
		if err := f.check(); err != nil {
			return nil, fmt.Errorf("freeze: freeze %d of the document: %w", i+1, err)
		}
		if seen[f.ID] {
			return nil, fmt.Errorf("freeze: the document has %s twice", f.ID)
		}
		seen[f.ID] = true
		d.Freezes[i].Since = f.Since.UTC()
	}
	return d.Freezes, nil
}
