package rules

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// MaskAllowance lets through what a detector takes for a secret and is none. All
// that it says must hold; what it leaves out does not matter. It never holds for
// known values.
type MaskAllowance struct {
	Hash     string    // SHA-256 of the value as it stands in the decoded text, hex; "" for any
	Detector string    // or "key", for what masks.keys masks; "" for any
	Servers  []string  // names, or "*"; empty for any
	Tools    []string  // as in rules; empty for any
	Path     string    // a place as the record shows it, and all below it; [*] stands for any index; "" for any
	Expires  time.Time // from then on it does not hold; zero: never
	Reason   string
}

// maxAllowances bounds the work that one finding takes.
const maxAllowances = 1000

func (l *loader) maskAllows(d *document, n *yaml.Node) {
	if n == nil {
		return
	}
	for _, c := range d.list(n, "allow") {
		if len(l.policy.masks.Allow) >= maxAllowances {
			d.report(c, "more than %d entries under allow", maxAllowances)
			return
		}
		l.maskAllow(d, c)
	}
}

func (l *loader) maskAllow(d *document, n *yaml.Node) {
	f, ok := d.fields(n, "an entry under allow", "hash", "detector", "server", "tool", "path", "expires", "reason")
	if !ok {
		return
	}
	var a MaskAllowance
	if f["hash"] == nil && f["detector"] == nil && f["server"] == nil && f["tool"] == nil && f["path"] == nil {
		d.report(n, "an entry under allow needs at least one of hash, detector, server, tool and path")
	}
	if a.Reason = d.text(f["reason"], "reason"); f["reason"] == nil {
		d.report(n, "an entry under allow needs a reason: why what is found is no secret")
	}
	if at := f["hash"]; at != nil {
		if a.Hash = d.text(at, "hash"); !isHash(a.Hash) && a.Hash != "" {
			d.report(at, "hash must be the SHA-256 of the value, 64 hex digits in lower case: countersign policy mask-hash prints it")
		}
	}
	if at := f["detector"]; at != nil {
		switch a.Detector = d.text(at, "detector"); {
		case a.Detector == "known":
			d.report(at, "known values, which were minted, are always masked")
		case strings.HasPrefix(a.Detector, "field:"):
			d.report(at, "for what a field rule masks, write a field rule with action: keep")
		case a.Detector != "":
			l.policy.allowed = append(l.policy.allowed, Problem{d.file, at.Line, at.Column, a.Detector})
		}
	}
	if at := f["server"]; at != nil {
		a.Servers = l.maskServers(d, n, at)
	}
	if at := f["tool"]; at != nil {
		a.Tools = d.patterns(at, "tool")
	}
	if at := f["path"]; at != nil {
		if a.Path = d.text(at, "path"); len(a.Path) > 256 || strings.ContainsFunc(a.Path, func(r rune) bool { return r < ' ' || r == utf8.RuneError }) {
			d.report(at, "path must be a place as countersign audit masks shows it, such as result.content[*].text")
		} else if strings.HasPrefix(a.Path, "$") {
			d.report(at, "path begins with the message's own member, such as result.content[*].text, not with $")
		}
	}
	if at := f["expires"]; at != nil {
		var err error
		if a.Expires, err = parseDay(at); err != nil {
			d.report(at, "%v", err)
		}
	}
	l.policy.masks.Allow = append(l.policy.masks.Allow, a)
	at := n
	if f["expires"] != nil {
		at = f["expires"]
	}
	l.policy.ends = append(l.policy.ends, Problem{File: d.file, Line: at.Line, Column: at.Column})
}

// Expired names the entries under allow that do not hold any more: hints, since
// nothing is wrong with them but that they have no effect.
func (p *Policy) Expired(now time.Time) (ps Problems) {
	for i, a := range p.masks.Allow {
		if at := p.ends[i]; !a.Expires.IsZero() && !now.Before(a.Expires) {
			at.Msg = "this entry under allow has expired, and lets nothing through any more: take it out, or set a later day"
			ps = append(ps, at)
		}
	}
	return ps.sorted()
}

func isHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && s == strings.ToLower(s)
}

// parseDay reads a day, which has passed when it is over (UTC), or a moment.
func parseDay(n *yaml.Node) (time.Time, error) {
	if n.Kind == yaml.ScalarNode && (n.Tag == "!!timestamp" || n.Tag == "!!str") {
		if t, err := time.Parse(time.DateOnly, n.Value); err == nil {
			return t.AddDate(0, 0, 1), nil
		}
		if t, err := time.Parse(time.RFC3339, n.Value); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("expires must be a day such as 2027-01-31, or a time such as 2027-01-31T12:00:00Z")
}

// unknownAllowed reports what entries under allow name although it is none of
// the detectors that exist.
func (p *Policy) unknownAllowed(known []string) (ps Problems) {
	for _, at := range p.allowed {
		if at.Msg != "key" && !p.isOwn(at.Msg) && !slices.Contains(known, at.Msg) {
			at.Msg = noDetector(at.Msg, known)
			ps = append(ps, at)
		}
	}
	return ps
}

// noDetector does not list them all: they are hundreds.
func noDetector(name string, known []string) string {
	return fmt.Sprintf("there is no detector %q%s; docs/masking.md lists all", name, nearest(name, known))
}
