package mask

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Action is what a field rule does to a value.
type Action string

// The actions, from the most restrictive to the least: where several rules
// match a value, the most restrictive is done.
const (
	Block     Action = "block"     // the whole message is refused
	Drop      Action = "drop"      // the member, element or column goes
	Redact    Action = "redact"    // [masked: id]
	Pseudonym Action = "pseudonym" // a keyed hash, the same for the same value
	Partial   Action = "partial"   // ****1234
	Keep      Action = "keep"      // exempts from the rules under Over, and from nothing else
)

var actions = []Action{Block, Drop, Redact, Pseudonym, Partial, Keep}

// FieldRule masks fields by their name or place: of structuredContent, of the
// data of errors and notifications, and of JSON within any text.
type FieldRule struct {
	ID      string
	Servers []string // names, or "*"
	Tools   []string // names, prefixes ending in "*", or "*"
	Keys    []string // of object members, in any case, with at most one "*"
	Columns []string // the same, of the columns of a query's result
	Paths   [][]Step // at most 60 steps each
	Action  Action
	Reason  string   // of Block: words for the agent
	Over    []string // of Keep: ids of rules
}

// Step is one step of a path from the root of a JSON document.
type Step struct {
	Deep  bool   // at any depth below
	Any   bool   // any member or element
	Index int    // of an element; -1: a name
	Name  string // of a member
}

// Site is where a message comes from.
type Site struct {
	Server string
	Tool   string // "": of none, such as a resource
	Any    bool   // nobody knows of which tool: what concerns any of them counts
	Root   string // what places begin with, where the JSON is a part of the message: "params"
	batch  bool   // the JSON is an array of messages: places are within each
}

// Refused is the error of Answer where a field rule blocks.
type Refused struct{ Rule, Place, Reason string }

func (r *Refused) Error() string {
	return fmt.Sprintf("field rule %s does not let it pass, for what stands at %s: %s", r.Rule, r.Place, r.Reason)
}

// fieldRule is a FieldRule, ready to run.
type fieldRule struct {
	FieldRule
	rank    int // place of its action in actions
	text    string
	keys    []pattern
	columns []pattern
}

// fieldRules is what policy says about fields, with the key of pseudonyms.
type fieldRules struct {
	list []*fieldRule
	key  []byte
}

// pattern is a name in lower case, or what stands before and behind its star.
type pattern struct {
	name, tail string
	star       bool
}

func newPattern(s string) pattern {
	name, tail, star := strings.Cut(strings.ToLower(s), "*")
	return pattern{name, tail, star}
}

// match wants name in lower case.
func (p pattern) match(name string) bool {
	if !p.star {
		return name == p.name
	}
	return len(name) >= len(p.name)+len(p.tail) && strings.HasPrefix(name, p.name) && strings.HasSuffix(name, p.tail)
}

// ConfigureFields replaces the field rules, and the key of pseudonyms. Without
// a key, what should become a pseudonym is redacted.
func (m *Mask) ConfigureFields(list []FieldRule, key []byte) {
	f := &fieldRules{key: slices.Clone(key)}
	for _, r := range list {
		one := &fieldRule{FieldRule: r, rank: slices.Index(actions, r.Action), text: "[masked: " + cleanLabel(r.ID) + "]"}
		if one.rank < 0 { // not a word that policy can say
			one.Action, one.rank = Redact, slices.Index(actions, Redact)
		}
		for _, k := range r.Keys {
			one.keys = append(one.keys, newPattern(k))
		}
		for _, c := range r.Columns {
			one.columns = append(one.columns, newPattern(c))
		}
		f.list = append(f.list, one)
	}
	// Rules of one action come in the order of their ids: files have none.
	slices.SortStableFunc(f.list, func(a, b *fieldRule) int {
		if a.rank != b.rank {
			return a.rank - b.rank
		}
		return strings.Compare(a.ID, b.ID)
	})
	m.fields.Store(f)
}

// at lists the rules for a site, the most restrictive first. Where nobody knows
// the tool, a rule that masks counts whatever tool it names, and one that keeps
// only if it names all.
func (f *fieldRules) at(s Site) []*fieldRule {
	var out []*fieldRule
	for _, r := range f.list {
		if !slices.Contains(r.Servers, s.Server) && !slices.Contains(r.Servers, "*") {
			continue
		}
		if s.Any && r.Action != Keep || names(r.Tools, s) {
			out = append(out, r)
		}
	}
	return out
}

// shown is what a value becomes under a rule that neither drops nor blocks. What
// was masked already does not become less so.
func (f *fieldRules) shown(r *fieldRule, value string, boolean bool) string {
	masked := strings.Contains(value, "[masked: ")
	switch {
	case boolean || masked: // two values: a hash, or a part, would tell which
	case r.Action == Pseudonym && len(f.key) > 0:
		return cleanLabel(r.ID) + ":" + f.pseudonym(r.ID, value)
	case r.Action == Partial:
		n := utf8.RuneCountInString(value)
		show := min(4, n/4)
		rest := value
		for range n - show {
			_, size := utf8.DecodeRuneInString(rest)
			rest = rest[size:]
		}
		return "****" + rest
	}
	return r.text
}

// pseudonym is the first 80 bits, in hex, of HMAC-SHA256 over "countersign
// pseudonym 1", the rule's id and the value, each ended by a NUL but the last:
// equal values under one rule stay equal, those under two rules say nothing of
// each other.
func (f *fieldRules) pseudonym(rule, value string) string {
	h := hmac.New(sha256.New, f.key)
	h.Write([]byte("countersign pseudonym 1\x00" + rule + "\x00" + value))
	return hex.EncodeToString(h.Sum(nil)[:10])
}
