package audit

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"

	"countersign/rules"
)

// Replayed is what deciding the recorded requests again found.
type Replayed struct {
	Requests int // recorded and decided again
	Same     int
	Changed  []Change
	Skipped  []Skip // cannot be decided from the record alone
}

// Change is a request that would be decided differently.
type Change struct {
	Entry Entry
	Now   rules.Decision
}

// String gives for instance "entry 9: deny → allow (rule reads-only → dba-all)".
func (c Change) String() string {
	return plain(fmt.Sprintf("entry %d: %s → %s (%s → %s)", c.Entry.Seq, c.Entry.Effect, c.Now.Effect,
		orNone(c.Entry.Rules), orNone(c.Now.RuleIDs())))
}

func orNone(rules []string) string {
	if len(rules) == 0 {
		return "no rule"
	}
	return strings.Join(rules, ", ")
}

// Skip is a request that was not decided again, and why.
type Skip struct {
	Seq uint64
	Why string
}

// Replay decides recorded requests again, at the time they were made, and
// reports which come out differently: another effect, or by other rules. It
// decides each call once, from its intent or refusal. The record keeps a
// masked preview of the arguments; where that is not the whole of them, the
// request is skipped: an answer about other arguments would be a guess.
func Replay(entries iter.Seq2[Entry, error], decide func(rules.Request) rules.Decision) (Replayed, error) {
	var r Replayed
	seen := map[string]bool{}
	for e, err := range entries {
		if err != nil {
			return r, err
		}
		if e.Kind != KindIntent && e.Kind != KindRefused || e.Effect == "" || e.Call != "" && seen[e.Call] {
			continue
		}
		seen[e.Call] = true
		req, why := request(e)
		if why != "" {
			r.Skipped = append(r.Skipped, Skip{e.Seq, why})
			continue
		}
		r.Requests++
		now := decide(req)
		if string(now.Effect) == e.Effect && slices.Equal(sorted(now.RuleIDs()), sorted(e.Rules)) {
			r.Same++
		} else {
			r.Changed = append(r.Changed, Change{e, now})
		}
	}
	return r, nil
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

// request rebuilds what was decided; why is not empty if it cannot be.
func request(e Entry) (req rules.Request, why string) {
	var d struct {
		Facts   *Facts
		Params  string
		Unshown bool
	}
	if len(e.Detail) == 0 || json.Unmarshal(e.Detail, &d) != nil || d.Facts == nil {
		return req, "it was recorded without the facts about its subject"
	}
	req = rules.Request{
		Subject: rules.Subject{Issuer: e.Issuer, Sub: e.Sub, Email: d.Facts.Email, Groups: d.Facts.Groups, Claims: d.Facts.Claims},
		Client:  e.Client, Server: e.Server, Method: e.Method, Tool: e.Tool, Resource: e.Resource,
		Source: d.Facts.Source, FromServer: d.Facts.FromServer, Now: e.Time,
	}
	switch {
	case strings.HasPrefix(e.Sub, pseudonym):
		return req, "its subject is a pseudonym"
	case d.Unshown:
		return req, "its arguments are not shown"
	case e.Method == "subscriptions/listen" && (strings.Contains(d.Params, `"resourceSubscriptions"`) || strings.HasSuffix(d.Params, "…")):
		return req, "it was decided for each resource that it names"
	case e.Args == "":
		return req, ""
	case !json.Valid([]byte(e.Args)):
		return req, "its arguments were cut"
	case strings.Contains(e.Args, "[masked: "):
		return req, "its arguments were masked in part"
	}
	req.Args = []byte(e.Args)
	return req, ""
}
