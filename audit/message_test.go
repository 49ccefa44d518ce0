package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestSubject(t *testing.T) {
	s := func(gs ...glance) string {
		var s story
		for _, g := range gs {
			s.count(g)
		}
		return s.subject()
	}
	votes := func(names ...string) json.RawMessage {
		var b bytes.Buffer
		for _, n := range names {
			fmt.Fprintf(&b, `,{"Person":%q,"Approve":true}`, n)
		}
		return json.RawMessage(`{"event":"decided","approval":{"State":"approved","Votes":[` + strings.TrimPrefix(b.String(), ",") + `]}}`)
	}
	for want, got := range map[string]string{
		"1 entry":                             s(glance{Kind: KindStart}),
		"2 entries":                           s(glance{Kind: KindStart}, glance{Kind: KindPolicy}),
		"1 call · 1 blocked · policy abcdef0": s(glance{Kind: KindOutcome, Status: StatusBlocked, Policy: "abcdef0123"}),
		"5 entries · policy abcdef0": s(glance{Kind: KindPolicy, Status: "accepted", Policy: "abcdef0123"}, glance{Kind: KindPolicy, Status: "rejected", Policy: "bad"},
			glance{Kind: KindApproval, Policy: "old"}, glance{Kind: KindRecovered, Policy: "old"}, glance{Kind: KindCredential, Policy: "old"}),
		"1 entry · policy 1":                           s(glance{Kind: KindIntent, Policy: "1"}),
		"1 call · policy 2":                            s(glance{Kind: KindRefused, Policy: "2"}),
		"1 entry · policy 3":                           s(glance{Kind: KindPolicy, Status: "reset", Policy: "3"}),
		"1 entry · policy 4":                           s(glance{Kind: KindPolicy, Status: "resumed", Policy: "4"}),
		"1 entry · 1 approved by bob, dana":            s(glance{Kind: KindApproval, Detail: votes("bob", "dana")}),
		"1 entry · 1 approved by 4 people":             s(glance{Kind: KindApproval, Detail: votes("a", "b", "c", "d")}),
		"1 entry · 1 approved by fay@example.com":      s(glance{Kind: KindApproval, Status: "approved", Detail: json.RawMessage(`{"state":"approved","votes":[{"person":"","email":"fay@example.com","sub":"u-1","approve":true}]}`)}),
		"2 entries · 1 broke the glass (olga)":         s(glance{Kind: KindApproval, Status: "break-glass", Detail: votes("bob", "olga")}, glance{Kind: KindApproval, Status: "used", Detail: votes("bob", "olga")}),
		"3 entries · 1 freeze · 1 unfrozen":            s(glance{Kind: KindFreeze, Status: StatusFrozen}, glance{Kind: KindFreeze, Status: StatusStanding}, glance{Kind: KindFreeze, Status: StatusUnfrozen}),
		"1 entry · 1 rejected by an approver":          s(glance{Kind: KindApproval, Detail: json.RawMessage(`{"state":"denied"}`)}),
		`1 entry · 1 approved by eve Signed-off-by: x`: s(glance{Kind: KindApproval, Detail: votes("eve\nSigned-off-by: x")}),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
