package enforcer

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"countersign/audit"
	"countersign/rules"
)

// Names are how holders, sessions and, where policy says so, subjects stand in
// the record: each under a keyed digest that is the same for the same one, and
// that nobody can try values against who does not have the key.
type Names struct{ digest, pseudonym []byte }

// NewNames has holders and sessions named under digestKey, and subjects under
// pseudonymKey, or, without one, under a key that comes of the digest key: then
// pseudonyms are the same for all enforcers that share approvals.
func NewNames(digestKey, pseudonymKey []byte) Names {
	if len(pseudonymKey) == 0 {
		h := hmac.New(sha256.New, digestKey) // of a text that no digest is made of
		h.Write([]byte("countersign pseudonym key 1"))
		pseudonymKey = h.Sum(nil)
	}
	return Names{digestKey, pseudonymKey}
}

// named is the first n bytes, in hex, of HMAC-SHA256 over the parts, each but
// the first after a NUL.
func named(key []byte, n int, parts ...string) string {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(h.Sum(nil)[:n])
}

// Holder names a holder, which exchange.holder spells out: 20 hex digits.
func (n Names) Holder(key string) string { return named(n.digest, 10, "countersign holder 1", key) }

// Session names a session at a server. Its id is no name, but what lets a
// client speak in it.
func (n Names) Session(server, id string) string {
	return named(n.digest, 10, "countersign session 1", server, id)
}

// pseudonymPrefix is what every pseudonym of a subject begins with.
const pseudonymPrefix = "pseudonym:"

// Pseudonym is what a subject's sub becomes where the record does not name
// subjects: "pseudonym:" and 32 hex digits. What is one stays as it is.
func (n Names) Pseudonym(issuer, sub string) string {
	if sub == "" || strings.HasPrefix(sub, pseudonymPrefix) {
		return sub
	}
	return pseudonymPrefix + named(n.pseudonym, 16, "countersign subject 1", issuer, sub)
}

// Held says in an entry about something that a holder has, whose key is given
// (see exchange.holder), who that is, as the policy has the record name people.
func (n Names) Held(en *audit.Entry, p *rules.Policy, key string) {
	of := holderOf(key)
	if of.Sub == "" {
		return
	}
	s := n.Subject(p, rules.Subject{Issuer: of.Issuer, Sub: of.Sub})
	en.Holder, en.Issuer, en.Sub, en.Client, en.Server = n.Holder(key), s.Issuer, s.Sub, of.Client, of.Server
}

// Subject is how the policy has the record name a subject. While there is none,
// p being nil, nobody is named: the next one may have it so.
func (n Names) Subject(p *rules.Policy, s rules.Subject) (out rules.Subject) {
	if s.Sub == "" || p != nil && !p.Settings().Record.Pseudonym {
		return s
	}
	return rules.Subject{Issuer: s.Issuer, Sub: n.Pseudonym(s.Issuer, s.Sub)}
}
