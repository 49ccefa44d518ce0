package tell

import (
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"countersign/enforcer/approval"
	"countersign/rules"
)

// A Reason is why one rule asks.
type Reason struct {
	Why   string // the rule's own words
	Rule  string // its id
	Place string // file:line
	At    string // the policy commit, 7 digits of it
	Link  string // to that line at that commit; "" if there is none to be had
}

// Reasons lists why policy asks, a Reason for each asking rule, most of which
// share their words. The link's template is that of PolicyLink.
func Reasons(a approval.Approval, template string) []Reason {
	var all []Reason
	for _, ask := range a.Asks {
		file, _ := Visible(ask.File, false, 2*MaxName)
		all = append(all, Reason{Why: reason(ask.Reason), Rule: name(ask.Rule), Place: fmt.Sprintf("%s:%d", file, ask.Line),
			At: short(a.Policy), Link: PolicyLink(template, a.Policy, ask.File, ask.Line)})
	}
	return all
}

// short is the beginning of a commit's id, by which people name it.
func short(commit string) string {
	if commitID.MatchString(commit) {
		return commit[:7]
	}
	return name(commit)
}

// A Fact is one exact value, made visible and uncut.
type Fact struct{ Name, Value string }

// Facts lists the exact identities and digests of an approval.
func Facts(a approval.Approval) []Fact {
	all := []Fact{
		{"subject", a.Subject.Issuer + "#" + a.Subject.Sub}, {"client", a.Client}, {"server", a.Server}, {"method", a.Method},
		{"tool", a.Tool}, {"resource", a.Resource}, {"digest", a.Digest}, {"rules", a.RulesDigest}, {"policy", a.Policy},
		{"holder", a.Holder}, {"call", a.Call}, {"used by", a.SpentBy}, {"approval", a.ID},
	}
	if !a.Created.IsZero() {
		all = append(all, Fact{"asked", exact(a.Created)})
	}
	var out []Fact
	for _, f := range all {
		if f.Value == "" {
			continue
		}
		f.Value, _ = Visible(f.Value, false, 1<<20)
		out = append(out, f)
	}
	return out
}

// Trace lists what every rule that was looked at said, one a line. Without a
// trace the asking rules are all that is known.
func Trace(a approval.Approval) []string {
	matches := a.Trace
	if len(matches) == 0 {
		for _, ask := range a.Asks {
			matches = append(matches, rules.Match{Rule: ask.Rule, File: ask.File, Line: ask.Line, Effect: rules.Approve, Matched: true, Reason: ask.Reason})
		}
	}
	var out []string
	for _, m := range matches {
		verdict := "did not match"
		if m.Matched {
			verdict = "matched: " + string(m.Effect)
		}
		s := fmt.Sprintf("%s (%s:%d) %s", m.Rule, m.File, m.Line, verdict)
		if m.Matched && m.Reason != "" {
			s += ": " + m.Reason
		}
		if m.Err != "" {
			s += " [its condition could not be evaluated: " + m.Err + "]"
		}
		s, _ = Visible(s, false, 2*MaxReason)
		out = append(out, s)
	}
	return out
}

// Proofs says how each vote came about, one a line: who exactly, by which door,
// how they were linked, and when to the second.
func Proofs(a approval.Approval) []string {
	var out []string
	for _, v := range a.Votes {
		verdict := "denied"
		if v.Approve {
			verdict = "approved"
		}
		s := fmt.Sprintf("%s %s at %s as %s#%s, for %s, by %s", v.Who(), verdict, exact(v.At), v.Issuer, v.Sub, strings.Join(v.Sets, " and "), v.Via)
		if p := v.Slack; p != nil {
			s += fmt.Sprintf(": user %s of team %s", p.User, p.Team)
		}
		if v.Linked != "" {
			s += ", linked by " + v.Linked
		}
		if l := v.Login; l != nil {
			s += fmt.Sprintf("; signed in at %s, authenticated at %s, acr %s, amr %s", exact(l.At), exact(l.AuthTime), orElse(l.ACR, "none"), orElse(strings.Join(l.AMR, " "), "none"))
		}
		s, _ = Visible(s, false, 2*MaxReason)
		out = append(out, s)
	}
	return out
}

func exact(t time.Time) string { return t.UTC().Format(time.RFC3339) }

const maxLink = 2000

var (
	commitID = regexp.MustCompile(`^[0-9a-f]{7,64}$`)
	callID   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
)

// PolicyLink fills a template, "https://…/{commit}/{file}#L{line}", and returns
// "" where no link comes of it that is safe to show: without a template, or
// where the result is no web address on the template's own host.
func PolicyLink(template, commit, file string, line int) string {
	if !commitID.MatchString(commit) {
		return ""
	}
	parts := strings.Split(file, "/")
	for i, p := range parts {
		if p == "." || p == ".." {
			return ""
		}
		parts[i] = url.PathEscape(p)
	}
	return fill(template, "{commit}", commit, "{file}", strings.Join(parts, "/"), "{line}", strconv.Itoa(line))
}

// AuditLink fills a template, "https://…{call}…", in the way of PolicyLink.
func AuditLink(template, call string) string {
	if !callID.MatchString(call) {
		return ""
	}
	return fill(template, "{call}", call)
}

// PageLink is where the approval is on the approval page, or "" without a page.
func PageLink(public, id string) string {
	if public == "" || !callID.MatchString(id) {
		return ""
	}
	return strings.TrimSuffix(public, "/") + "/approvals/" + id
}

func fill(template string, pairs ...string) string {
	link := strings.NewReplacer(pairs...).Replace(template)
	for i := 1; i < len(pairs); i += 2 {
		pairs[i] = "x"
	}
	whole, err := url.Parse(link)
	if err != nil || template == "" || len(link) > maxLink {
		return ""
	}
	own, err := url.Parse(strings.NewReplacer(pairs...).Replace(template))
	if err != nil || whole.Scheme != "https" && whole.Scheme != "http" || whole.Scheme != own.Scheme || whole.Host == "" || whole.Host != own.Host || whole.User != nil || strings.ContainsAny(link, "{}<>\"'`| \\") {
		return ""
	}
	return link
}
