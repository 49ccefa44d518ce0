package audit

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"countersign/rules"
)

// approvalDoc is an approval as the detail of its entries has it: the members
// by which a use of it is judged. Package approval, which writes it, says what
// they mean; that they are read here a second time is on purpose: who checks
// does not use the code that is checked.
type approvalDoc struct {
	ID          string    `json:"id"`
	Subject     identity  `json:"subject"`
	Client      string    `json:"client"`
	Server      string    `json:"server"`
	Method      string    `json:"method"`
	Tool        string    `json:"tool"`
	Digest      string    `json:"digest"`
	Asks        []ask     `json:"asks"`
	RulesDigest string    `json:"rules_digest"`
	Policy      string    `json:"policy"`
	Expires     time.Time `json:"expires"`
	Grant       struct {
		For   time.Duration `json:"for_ns"`
		Scope string        `json:"scope"`
	} `json:"grant"`
	State   string    `json:"state"`
	Created time.Time `json:"created"`
	Ended   time.Time `json:"ended"`
	Votes   []vote    `json:"votes"`
	SpentBy string    `json:"spent_by"`
	Until   time.Time `json:"until"`
	Calls   []struct {
		Call string    `json:"call"`
		At   time.Time `json:"at"`
	} `json:"calls"`
}

type identity struct{ Issuer, Sub string }

type ask struct {
	Rule       string `json:"rule"`
	Approvers  string `json:"approvers"`
	Quorum     int    `json:"quorum"`
	BreakGlass string `json:"break_glass"`
}

type vote struct {
	Person     string    `json:"person"`
	Issuer     string    `json:"issuer"`
	Sub        string    `json:"sub"`
	Sets       []string  `json:"sets"`
	Approve    bool      `json:"approve"`
	BreakGlass bool      `json:"break_glass"`
	At         time.Time `json:"at"`
}

// who tells one voter from another: by the policy's name, since one person may
// have several identities.
func (v vote) who() string {
	if v.Person != "" {
		return "person " + v.Person
	}
	return "subject " + v.Issuer + "#" + v.Sub
}

// key names a vote, in whatever entry it stands.
func (v vote) key() string { return v.who() + " at " + v.At.UTC().Format(time.RFC3339Nano) }

// clocks is how far the clocks of two enforcers that share approvals may differ.
const clocks = time.Minute

// use is a call that an approval was spent or used for.
type use struct {
	Approval string   `json:"approval"`
	Entry    uint64   `json:"entry"`
	Holder   identity `json:"subject"`
	Client   string   `json:"client"`
	Server   string   `json:"server"`
	Method   string   `json:"method"`
	Tool     string   `json:"tool"`
	Digest   string   `json:"digest"`
	Scope    string   `json:"scope"` // of a window; "": one call
}

// ballots checks approvals: what a call ran on had, by then, the votes of enough
// different people, was asked for this, was in time, and was used once.
type ballots struct {
	calls  *conduct
	cast   map[string]map[string]string // by approval: the votes that have an entry, with the policy that they counted under
	spent  map[string]string            // by approval for one call: the call
	used   map[string]usedApproval
	groups map[string][]string // of a subject, as it last signed in
}

// usedApproval is one that calls ran on, to be held against the policy when all
// logs are read.
type usedApproval struct {
	At     Problem     `json:"at"`
	Policy string      `json:"policy"` // in force when it was used
	Doc    approvalDoc `json:"doc"`
}

func newBallots(c *conduct) ballots {
	return ballots{c, map[string]map[string]string{}, map[string]string{}, map[string]usedApproval{}, map[string][]string{}}
}

// login notes what a sign-in showed.
func (b *ballots) login(e *Entry) {
	var d struct {
		Event string
		Login struct {
			Issuer, Sub string
			Groups      []string
		}
	}
	if json.Unmarshal(e.Detail, &d) == nil && d.Event == "signed-in" {
		b.groups[d.Login.Issuer+"#"+d.Login.Sub] = d.Login.Groups
	}
}

// take looks at an entry of an approval.
func (b *ballots) take(l *logCalls, at Problem, e *Entry) {
	at.Class = ClassApproval
	bad := func(format string, args ...any) {
		at.Text = fmt.Sprintf("entry %d: approval %s ", e.Seq, e.Approval) + fmt.Sprintf(format, args...)
		b.calls.problem(at)
	}
	var a approvalDoc
	if err := json.Unmarshal(e.Detail, &a); err != nil {
		bad("does not read: %v", err)
		return
	}
	if a.ID != e.Approval {
		bad("has the document of %s", a.ID)
		return
	}
	switch e.Status {
	case "voted", "approved", "break-glass":
		if n := len(a.Votes); n > 0 { // the newest is the one that this is about; earlier ones had an entry
			v := a.Votes[n-1]
			if b.cast[a.ID] == nil {
				b.cast[a.ID] = map[string]string{}
			}
			b.cast[a.ID][v.key()] = e.Policy
		}
	case "spent", "used":
		b.use(l, at, e, &a, bad)
	}
}

// use judges the spending of an approval, or one use of a window, by what the
// entry itself holds.
func (b *ballots) use(l *logCalls, at Problem, e *Entry, a *approvalDoc, bad func(string, ...any)) {
	if e.Call == "" {
		bad("was used, for no call")
		return
	}
	u := use{Approval: a.ID, Entry: e.Seq, Holder: a.Subject, Client: a.Client, Server: a.Server, Method: a.Method, Tool: a.Tool, Digest: a.Digest}
	var when, until time.Time
	if e.Status == "spent" {
		when, until = a.Ended, a.Expires
		if a.State != "spent" || a.SpentBy != e.Call {
			bad("was spent for call %s, and its document does not say so", e.Call)
		}
		if other, ok := b.spent[a.ID]; ok && other != e.Call {
			bad("was spent for call %s, and before for call %s", e.Call, other)
		}
		b.spent[a.ID] = e.Call
	} else {
		u.Scope, until = a.Grant.Scope, a.Until
		for _, c := range a.Calls {
			if c.Call == e.Call {
				when = c.At
			}
		}
		switch {
		case a.Grant.For <= 0 || a.Until.IsZero():
			bad("was used by call %s as a window, and grants none", e.Call)
		case when.IsZero():
			bad("was used by call %s, and its document does not say so", e.Call)
		case a.Until.Sub(when) > a.Grant.For:
			bad("is open until %s, longer than its %v", clock(a.Until), a.Grant.For)
		}
	}
	if !when.Before(until) || e.Time.Before(when.Add(-clocks)) {
		bad("was used at %s, and was good until %s", clock(when), clock(until))
	}
	var own []string
	for _, v := range a.Votes {
		switch {
		case !v.Approve:
			bad("was used, and %s had denied it", strings.TrimPrefix(v.who(), "person "))
		case v.Issuer == a.Subject.Issuer && v.Sub == a.Subject.Sub:
			own = append(own, v.Sub)
		case v.At.After(when.Add(clocks)):
			bad("was used at %s, before the vote of %s", clock(when), strings.TrimPrefix(v.who(), "person "))
		}
	}
	if len(own) > 0 {
		bad("was approved by %s, who had asked for it", own[0])
	}
	if !quorate(a.Asks, a.Votes) {
		bad("was used with %s, and needs %s", votesOf(a.Votes), needs(a.Asks))
	}
	if _, ok := b.used[a.ID]; !ok {
		b.used[a.ID] = usedApproval{at, e.Policy, *a}
	}
	l.Spent[e.Call] = u
}

func votesOf(votes []vote) string {
	if len(votes) == 0 {
		return "nobody's vote"
	}
	var names []string
	for _, v := range votes {
		_, name, _ := strings.Cut(v.who(), " ")
		names = append(names, name)
	}
	return "the votes of " + strings.Join(names, ", ")
}

func needs(asks []ask) string {
	var sets []string
	for _, a := range asks {
		sets = append(sets, fmt.Sprintf("%d of %s", a.Quorum, a.Approvers))
	}
	if len(sets) == 0 {
		return "somebody to have been asked"
	}
	return strings.Join(sets, " and ")
}

// intent holds the intent of an approved call against the use that it rests on.
func (b *ballots) intent(l *logCalls, at Problem, e *Entry) {
	at.Class = ClassApproval
	bad := func(format string, args ...any) {
		at.Text = fmt.Sprintf("entry %d: call %s ", e.Seq, e.Call) + fmt.Sprintf(format, args...)
		b.calls.problem(at)
	}
	if e.Approval == "" {
		bad("needed approval, and names none")
		return
	}
	u, ok := l.Spent[e.Call]
	delete(l.Spent, e.Call)
	switch {
	case !ok && l.Continued:
		b.calls.Before++
	case !ok:
		bad("ran on approval %s, and no entry before it says that this was spent or used for it", e.Approval)
	case u.Approval != e.Approval:
		bad("names approval %s, and %s was used for it", e.Approval, u.Approval)
	case u.Holder != identity{e.Issuer, e.Sub} || u.Client != e.Client || u.Server != e.Server:
		bad("ran on approval %s, which was asked for somebody else, or another server", e.Approval)
	case u.Scope != rules.ScopeServer && (u.Method != e.Method || u.Tool != e.Tool):
		bad("ran on approval %s, which was asked for %s", e.Approval, strings.TrimSpace(u.Method+" "+u.Tool))
	case (u.Scope == "" || u.Scope == rules.ScopeExact) && u.Digest != e.Digest:
		if !b.calls.policy.bindsCredential(at, e) {
			bad("ran on approval %s, which was given for other arguments", e.Approval)
			return
		}
		b.calls.Bound++
	}
}

// settle holds each approval that calls ran on against all entries of votes,
// whichever enforcer wrote them, and against the policy.
func (b *ballots) settle() []string {
	for _, id := range slices.Sorted(maps.Keys(b.used)) {
		u := b.used[id]
		b.calls.Approvals++
		for _, v := range u.Doc.Votes {
			if !v.Approve {
				continue
			}
			b.calls.Votes++
			under, cast := b.cast[id][v.key()]
			if !cast {
				b.calls.Elsewhere++
				under = u.Doc.Policy
			}
			b.calls.policy.voter(u, v, under, b.groups[v.Issuer+"#"+v.Sub])
		}
		b.calls.policy.asked(u)
	}
	if n := b.calls.Elsewhere; n > 0 {
		return []string{fmt.Sprintf("%d %s no entry in the logs read: cast at an enforcer whose record is elsewhere, or not cast", n, plural(n, "vote has", "votes have"))}
	}
	return nil
}

// quorate tells whether the approving votes fill every set's quorum with
// different people; who is of two sets fills a place of one of them. What a
// broken glass stands in for asks nobody. The most demanding of several rules
// that ask one set counts.
func quorate(asks []ask, votes []vote) bool {
	var places []string
	quorum, covered := map[string]int{}, false
	for _, a := range asks {
		if a.BreakGlass != "" && slices.ContainsFunc(votes, func(v vote) bool {
			return v.Approve && v.BreakGlass && slices.Contains(v.Sets, a.BreakGlass)
		}) {
			covered = true
			continue
		}
		if a.Quorum < 1 || a.Quorum > len(votes) {
			return false
		}
		quorum[a.Approvers] = max(quorum[a.Approvers], a.Quorum)
	}
	for set, n := range quorum {
		for range n {
			places = append(places, set)
		}
	}
	if len(places) == 0 {
		return covered
	}
	people := map[string][]string{} // whom a place may go to, and the sets they are of
	for _, v := range votes {
		if v.Approve && !v.BreakGlass {
			people[v.who()] = append(people[v.who()], v.Sets...)
		}
	}
	sits := make([]string, len(places))
	var seat func(who string, tried map[int]bool) bool
	seat = func(who string, tried map[int]bool) bool {
		for i, set := range places {
			if tried[i] || !slices.Contains(people[who], set) {
				continue
			}
			tried[i] = true
			if sits[i] == "" || seat(sits[i], tried) {
				sits[i] = who
				return true
			}
		}
		return false
	}
	seated := 0
	for who := range people {
		if seat(who, map[int]bool{}) {
			seated++
		}
	}
	return seated == len(places)
}
