package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"countersign/rules"
)

// conductPolicy asks people about one tool, and allows another.
func conductPolicy(t *testing.T) *rules.Policy {
	t.Helper()
	files := fstest.MapFS{}
	for name, text := range map[string]string{
		"countersign.yaml": "version: 1\n",
		"servers/db.yaml":  "server: db\nurl: https://db.example/mcp\n",
		"approvers.yaml": `people:
  dana: { issuer: https://id.example, sub: dana }
  erin: { issuer: https://id.example, sub: erin }
  finn: { issuer: https://id.example, sub: finn }
sets:
  dba: { members: [dana, erin], approve_via: oidc }
  sre: { members: [finn], approve_via: oidc }
`,
		"rules/db.yaml": `- id: drops
  server: db
  tool: drop
  effect: approve
  reason: A DBA looks at it
  approval: { approvers: dba, quorum: 2 }
- id: reads
  server: db
  tool: query
  effect: allow
- id: early
  server: db
  tool: vacuum
  when: now < timestamp("` + noon.Add(-time.Hour).Format(time.RFC3339) + `")
  effect: approve
  reason: A DBA looks at it
  approval: { approvers: dba, quorum: 1 }
`,
	} {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	p, err := rules.Load(files, "c0ffee")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// scene is the entries of one log, as they are told to a conduct.
type scene struct {
	policy  *rules.Policy
	entries []Entry
	knows   []byte // ids of an earlier run
	accepts []string
}

func (s *scene) add(e Entry) { s.entries = append(s.entries, e) }

func (s *scene) drop(i int)         { s.entries = append(s.entries[:i:i], s.entries[i+1:]...) }
func (s *scene) edit(i int) *Entry  { return &s.entries[i] }
func (s *scene) doc(i int) approval { return readApproval(s.entries[i].Detail) }

type approval map[string]any

func readApproval(d json.RawMessage) (a approval) {
	if json.Unmarshal(d, &a) != nil {
		return nil
	}
	return a
}

// set changes the approval that an entry holds.
func (s *scene) set(i int, change func(a approval)) {
	a := s.doc(i)
	change(a)
	s.entries[i].Detail, _ = json.Marshal(a)
}

// goodScene is a call that is allowed (1, 2), one that two people approve
// (asked 3, votes 4 and 5, spent 6, intent 7, outcome 8), and a refusal (9).
func goodScene(t *testing.T) *scene {
	s := &scene{policy: conductPolicy(t)}
	facts := json.RawMessage(`{"facts":{}}`)
	about := Entry{Policy: "c0ffee", Issuer: "https://id.example", Sub: "alice", Client: "ide", Server: "db", Method: "tools/call"}
	call := func(kind Kind, id, tool string) Entry {
		e := about
		e.Kind, e.Call, e.Tool = kind, id, tool
		if kind == KindIntent {
			e.Detail = facts
		}
		return e
	}
	s.add(Entry{Kind: KindPolicy, Policy: "c0ffee", Status: "accepted"})
	read := call(KindIntent, "c_1", "query")
	read.Effect, read.Rules = "allow", []string{"reads"}
	s.add(read)
	s.add(call(KindOutcome, "c_1", "query"))

	asks := []rules.Ask{{Rule: "drops", Approvers: "dba", Quorum: 2}}
	a := approval{
		"id": "ap_1", "subject": map[string]string{"Issuer": about.Issuer, "Sub": "alice"}, "client": "ide", "server": "db", "method": "tools/call", "tool": "drop",
		"digest": "d1", "asks": asks, "policy": "c0ffee", "state": "pending", "created": noon, "expires": noon.Add(time.Hour),
		"rules_digest": s.policy.AsksDigest("db", rules.Subject{Issuer: about.Issuer, Sub: "alice"}, "ide", asks),
	}
	entry := func(status, call string) {
		e := about
		e.Kind, e.Approval, e.Status, e.Call, e.Tool = KindApproval, "ap_1", status, call, "drop"
		e.Detail, _ = json.Marshal(maps.Clone(a))
		s.add(e)
	}
	by := func(name string, at time.Duration) map[string]any {
		return map[string]any{"person": name, "issuer": about.Issuer, "sub": name, "sets": []string{"dba"}, "approve": true, "at": noon.Add(at)}
	}
	entry("asked", "c_2")
	a["votes"] = []any{by("dana", time.Minute)}
	entry("voted", "c_2")
	a["votes"], a["state"] = []any{by("dana", time.Minute), by("erin", 2*time.Minute)}, "approved"
	entry("approved", "c_2")
	a["state"], a["spent_by"], a["ended"] = "spent", "c_2", noon.Add(3*time.Minute)
	entry("spent", "c_2")
	drop := call(KindIntent, "c_2", "drop")
	drop.Effect, drop.Rules, drop.Approval, drop.Digest = "approve", []string{"drops"}, "ap_1", "d1"
	s.add(drop)
	s.add(call(KindOutcome, "c_2", "drop"))
	refused := call(KindRefused, "c_3", "alter")
	refused.Effect, refused.Detail = "deny", facts
	s.add(refused)
	return s
}

// told is what a conduct says of the scene, as one log.
func (s *scene) told(withPolicy bool) (problems []Problem, notes []string, c Checked) {
	pol := &policies{known: map[string]bool{}, accepted: s.accepts}
	if withPolicy {
		pol.load = func(commit string) (*rules.Policy, error) {
			if commit != "c0ffee" {
				return nil, fmt.Errorf("nobody has seen %s", commit)
			}
			return s.policy, nil
		}
	}
	con := newConduct(func(p Problem) { problems = append(problems, p) }, pol)
	pol.calls = con
	con.know(s.knows)
	l := newLog("demo/i1")
	for i := range s.entries {
		e := s.entries[i]
		e.Seq, e.Time = uint64(i)+1, noon.Add(3*time.Minute+time.Duration(i)*time.Second)
		con.take(&l.calls, Problem{Origin: "demo/i1"}, &e)
		l.Last = e.Time
	}
	notes = con.settle([]*logState{l})
	return problems, notes, con.Checked
}

func TestConduct(t *testing.T) {
	s := goodScene(t)
	ps, notes, c := s.told(true)
	if len(ps) > 0 || len(notes) > 0 {
		t.Fatalf("a good record: %v %v", ps, notes)
	}
	want := Checked{Calls: 2, Closed: 2, Refused: 1, Approved: 1, Approvals: 1, Votes: 2, Policies: 1, Decided: 3, Members: 2}
	if fmt.Sprint(c) != fmt.Sprint(want) {
		t.Errorf("counts\n%+v\n%+v", c, want)
	}
	vote := func(a approval, i int) map[string]any { return a["votes"].([]any)[i].(map[string]any) }
	for _, bad := range []struct {
		what   string
		policy bool
		class  Class
		says   string
		change func(s *scene)
	}{
		{"no intent", false, ClassCall, "no intent before it", func(s *scene) { s.drop(1) }},
		{"two outcomes", false, ClassCall, "has an outcome already", func(s *scene) { s.add(s.entries[2]) }},
		{"an id again", false, ClassCall, "that of an earlier call", func(s *scene) { s.add(s.entries[1]) }},
		{"forwarded twice", false, ClassCall, "a second time", func(s *scene) { s.entries[2] = s.entries[1] }},
		{"forwarded, then refused", false, ClassCall, "was forwarded before", func(s *scene) {
			s.edit(9).Call = "c_4"
			s.add(s.entries[9])
			s.edit(9).Kind = KindIntent
			s.edit(9).Effect = "allow"
		}},
		{"denied, and forwarded", false, ClassCall, "its decision was deny", func(s *scene) { s.edit(1).Effect = "deny" }},
		{"no decision", false, ClassCall, "names no decision", func(s *scene) { s.edit(1).Effect = "" }},
		{"closed as another run's", false, ClassCall, "it is one of this", func(s *scene) { s.edit(2).Kind = KindRecovered }},
		{"closes nothing", false, ClassCall, "no earlier incarnation left open", func(s *scene) { s.add(Entry{Kind: KindRecovered, Call: "c_9"}) }},
		{"a policy that was not in force", false, ClassPolicy, "no entry of this log before it puts in force", func(s *scene) { s.edit(1).Policy = "badc0de" }},
		{"a segment of no call", false, ClassCall, "and of no call", func(s *scene) { s.add(Entry{Kind: KindSegment}) }},
		{"a segment without intent", false, ClassCall, "part of a stream (segment), and no intent before it", func(s *scene) { s.add(Entry{Kind: KindSegment, Call: "c_9"}) }},
		{"a stream before its intent", false, ClassCall, "part of a stream (open), and no intent before it", func(s *scene) {
			s.entries = append([]Entry{s.entries[0], {Kind: KindOpen, Call: "c_1"}}, s.entries[1:]...)
		}},
		{"a close without intent", false, ClassCall, "part of a stream (close), and no intent before it", func(s *scene) { s.add(Entry{Kind: KindClose, Call: "c_9"}) }},
		{"a stream opened twice", false, ClassCall, "is opened again; entry 11 has it open", func(s *scene) {
			s.add(Entry{Kind: KindOpen, Call: "c_1"})
			s.add(Entry{Kind: KindOpen, Call: "c_1"})
		}},
		{"no approval named", false, ClassApproval, "names none", func(s *scene) { s.edit(7).Approval = "" }},
		{"not spent", false, ClassApproval, "no entry before it says", func(s *scene) { s.drop(6) }},
		{"spent after", false, ClassApproval, "no entry before it says", func(s *scene) { s.entries[6], s.entries[7] = s.entries[7], s.entries[6] }},
		{"spent for another call", false, ClassApproval, "no entry before it says", func(s *scene) { s.edit(6).Call = "c_9"; s.set(6, func(a approval) { a["spent_by"] = "c_9" }) }},
		{"spent twice", false, ClassApproval, "and before for call c_2", func(s *scene) {
			s.add(s.entries[6])
			s.edit(10).Call = "c_9"
			s.set(10, func(a approval) { a["spent_by"] = "c_9" })
		}},
		{"one vote", false, ClassApproval, "was used with the votes of dana, and needs 2 of dba", func(s *scene) { s.set(6, func(a approval) { a["votes"] = a["votes"].([]any)[:1] }) }},
		{"one person twice", false, ClassApproval, "needs 2 of dba", func(s *scene) { s.set(6, func(a approval) { vote(a, 1)["person"] = "dana" }) }},
		{"votes of another set", false, ClassApproval, "needs 2 of dba", func(s *scene) { s.set(6, func(a approval) { vote(a, 1)["sets"] = []string{"sre"} }) }},
		{"nobody asked", false, ClassApproval, "needs somebody to have been asked", func(s *scene) { s.set(6, func(a approval) { a["asks"] = nil }) }},
		{"a denial", false, ClassApproval, "erin had denied it", func(s *scene) { s.set(6, func(a approval) { vote(a, 1)["approve"] = false }) }},
		{"a vote after", false, ClassApproval, "before the vote of erin", func(s *scene) { s.set(6, func(a approval) { vote(a, 1)["at"] = noon.Add(time.Hour) }) }},
		{"expired", false, ClassApproval, "and was good until", func(s *scene) { s.set(6, func(a approval) { a["expires"] = noon }) }},
		{"their own", false, ClassApproval, "who had asked for it", func(s *scene) { s.set(6, func(a approval) { vote(a, 1)["sub"] = "alice" }) }},
		{"for somebody else", false, ClassApproval, "asked for somebody else", func(s *scene) { s.edit(7).Sub = "bob" }},
		{"for another tool", false, ClassApproval, "was asked for tools/call drop", func(s *scene) { s.edit(7).Tool = "drop-all" }},
		{"for other arguments", true, ClassApproval, "given for other arguments", func(s *scene) { s.edit(7).Digest = "d2" }},
		{"no window", false, ClassApproval, "and grants none", func(s *scene) { s.edit(6).Status = "used" }},
		{"another decision", true, ClassDecision, "decides allow (reads), and the entry says allow (anything)", func(s *scene) { s.edit(1).Rules = []string{"anything"} }},
		{"a refusal by a rule that was over before it came", true, ClassDecision, "and the entry says approve (early)", func(s *scene) {
			s.edit(9).Tool, s.edit(9).Effect, s.edit(9).Rules, s.edit(9).Millis = "vacuum", "approve", []string{"early"}, 1000
		}},
		{"an unknown policy", true, ClassPolicy, "nobody has seen badc0de", func(s *scene) {
			s.edit(0).Policy = "badc0de"
			s.edit(1).Policy = "badc0de"
			s.add(Entry{Kind: KindPolicy, Policy: "c0ffee", Status: "accepted"})
		}},
		{"a lower quorum than the policy's", true, ClassApproval, "under policy c0ffee that is 2 of dba by rule drops", func(s *scene) {
			s.set(6, func(a approval) { a["asks"] = []rules.Ask{{Rule: "drops", Approvers: "dba", Quorum: 1}} })
		}},
		{"an unknown policy, after a reset", true, ClassPolicy, "nobody has seen badc0de", func(s *scene) {
			s.edit(0).Policy, s.edit(0).Status = "badc0de", "reset"
			s.edit(1).Policy = "badc0de"
			s.add(Entry{Kind: KindPolicy, Policy: "c0ffee", Status: "accepted"})
		}},
		{"other rules", true, ClassApproval, "that are not those of policy c0ffee", func(s *scene) { s.set(6, func(a approval) { a["rules_digest"] = "sha256:x" }) }},
		{"a voter who is not of the set", true, ClassApproval, "finn, who is not of dba", func(s *scene) {
			for _, i := range []int{5, 6} {
				s.set(i, func(a approval) { vote(a, 1)["person"], vote(a, 1)["sub"] = "finn", "finn" })
			}
		}},
		{"a voter under a false name", true, ClassApproval, "does not know by that name", func(s *scene) { s.set(6, func(a approval) { vote(a, 1)["sub"] = "finn" }) }},
	} {
		s := goodScene(t)
		bad.change(s)
		ps, _, _ := s.told(bad.policy)
		found := false
		for _, p := range ps {
			found = found || p.Class == bad.class && strings.Contains(p.Text, bad.says)
		}
		if !found {
			t.Errorf("%s: %v", bad.what, ps)
		}
	}
}

// What is no fault is none.
func TestConductLetsPass(t *testing.T) {
	for what, change := range map[string]func(s *scene){
		"an open call": func(s *scene) { s.drop(2) },
		"what a server asks": func(s *scene) {
			e := s.entries[1]
			e.Method = "server:sampling/createMessage"
			s.entries = append(s.entries, e)
		},
		"answered by the enforcer": func(s *scene) { s.add(Entry{Kind: KindOutcome, Call: "c_8", Server: "*"}) },
		"a stream of what the enforcer answers": func(s *scene) {
			s.add(Entry{Kind: KindOutcome, Call: "c_8", Server: "*"})
			s.add(Entry{Kind: KindClose, Call: "c_8", Server: "*"})
		},
		"a stream that goes on after its response": func(s *scene) {
			for _, k := range []Kind{KindOpen, KindSegment, KindClose, KindClose, KindOpen} {
				s.add(Entry{Kind: k, Call: "c_1"})
			}
		},
		"told to the server": func(s *scene) {
			e := s.entries[1]
			e.Method, e.Digest, e.Tool = "notifications/cancelled", "", ""
			s.entries = append(s.entries[:2:2], append([]Entry{e}, s.entries[2:]...)...)
		},
		"a refusal after a long wait, beside a rule that looks at the time": func(s *scene) {
			e := s.entries[9]
			e.Call, e.Tool, e.Effect, e.Rules, e.Millis = "c_4", "vacuum", "approve", []string{"early"}, float64(2*time.Hour/time.Millisecond)
			s.add(e)
		},
		"arguments that are masked": func(s *scene) { s.edit(1).Args, s.edit(1).Rules = `{"a":"[masked: key]"}`, []string{"x"} },
		"a vote of another log":     func(s *scene) { s.drop(4) },
	} {
		s := goodScene(t)
		change(s)
		if ps, _, _ := s.told(true); len(ps) > 0 {
			t.Errorf("%s: %v", what, ps)
		}
	}
	// What was decided before the policy's history was rewritten, on record.
	s := goodScene(t)
	s.edit(0).Policy, s.edit(1).Policy = "badc0de", "badc0de"
	s.entries = append(s.entries[:3:3], append([]Entry{{Kind: KindPolicy, Policy: "c0ffee", Status: "reset"}}, s.entries[3:]...)...)
	if ps, notes, _ := s.told(true); len(ps) != 1 || len(notes) > 0 || ps[0].Class != ClassPolicy || !strings.Contains(ps[0].Text, "nobody has seen badc0de; the policy's history was reset at") || !strings.Contains(ps[0].Text, "to c0ffee, which you have not accepted") {
		t.Errorf("on record alone: %v %q", ps, notes)
	}
	s.accepts = []string{"deadbeef"}
	if ps, _, _ := s.told(true); len(ps) != 1 {
		t.Errorf("another one was accepted: %v", ps)
	}
	s.accepts = []string{"c0ff"}
	if ps, notes, _ := s.told(true); len(ps) > 0 || len(notes) != 1 || !strings.Contains(notes[0], "nobody has seen badc0de; the policy's history was reset at") {
		t.Errorf("%v %q", ps, notes)
	}
	s = goodScene(t)
	s.drop(2)
	if _, notes, c := s.told(true); c.Open != 1 || len(notes) != 1 || !strings.Contains(notes[0], "call c_1 (db query, entry 2) is open at the end of demo/i1: no outcome, 7s after its intent") {
		t.Errorf("%q", notes)
	}
	s = goodScene(t)
	s.edit(7).Digest = "d2"
	if ps, _, c := s.told(false); len(ps) > 0 || c.Bound != 1 {
		t.Errorf("without the policy nobody can tell: %v", ps)
	}
	// A fault that every call shows is told so often, and no more.
	s = goodScene(t)
	for i := range 3 * maxTold {
		s.add(Entry{Kind: KindOutcome, Call: fmt.Sprint("c_x", i)})
	}
	if ps, _, _ := s.told(false); len(ps) != maxTold+1 {
		t.Errorf("%d problems", len(ps))
	}
}

// A reset excuses what its own enforcer decided before it, and nothing that
// another one did, or that came after.
func TestWhatAResetExcuses(t *testing.T) {
	const hour = time.Hour
	for what, c := range map[string]struct {
		uses    map[string][]time.Duration // by enforcer: when entries name a policy that is gone
		resets  map[string]time.Duration   // by enforcer
		accepts string
		notes   int
		says    []string // problems
	}{
		"accepted":              {map[string][]time.Duration{"a": {1, 2 * hour}}, map[string]time.Duration{"a": 3 * hour}, "c0ffee", 1, nil},
		"by its beginning":      {map[string][]time.Duration{"a": {1}}, map[string]time.Duration{"a": 3 * hour}, "c0f", 1, nil},
		"not accepted":          {map[string][]time.Duration{"a": {1}}, map[string]time.Duration{"a": 3 * hour}, "", 0, []string{"to c0ffee, which you have not accepted"}},
		"used after it as well": {map[string][]time.Duration{"a": {1, 4 * hour}}, map[string]time.Duration{"a": 3 * hour}, "c0ffee", 0, []string{"entry 14400: it was decided under policy badc0de"}},
		"used after it alone":   {map[string][]time.Duration{"a": {4 * hour}}, map[string]time.Duration{"a": 3 * hour}, "c0ffee", 0, []string{"entry 14400"}},
		"of another enforcer":   {map[string][]time.Duration{"b": {1}}, map[string]time.Duration{"a": 3 * hour}, "c0ffee", 0, []string{"entry 0: it was decided under policy badc0de, and nobody has it"}},
		"of one of two":         {map[string][]time.Duration{"a": {1}, "b": {2 * hour}}, map[string]time.Duration{"a": 3 * hour}, "c0ffee", 1, []string{"entry 7200"}},
		"of none":               {map[string][]time.Duration{"a": {1}}, nil, "c0ffee", 0, []string{"nobody has it"}},
	} {
		var problems []Problem
		p := &policies{known: map[string]bool{}, accepted: []string{c.accepts}, load: func(string) (*rules.Policy, error) { return nil, errors.New("nobody has it") }}
		p.calls = newConduct(func(at Problem) { problems = append(problems, at) }, p)
		for enforcer, uses := range c.uses {
			for _, after := range uses {
				if p.of(Problem{Origin: enforcer + "/r1", Entry: int64(after / time.Second)}, noon.Add(after), "badc0de") != nil {
					t.Fatal("it loads")
				}
			}
		}
		for enforcer, after := range c.resets {
			p.wasReset(Problem{Origin: enforcer + "/r1"}, &Entry{Policy: "c0ffee", Time: noon.Add(after)})
		}
		notes := p.settle()
		if len(notes) != c.notes || len(problems) != len(c.says) {
			t.Errorf("%s: %q %v", what, notes, problems)
			continue
		}
		for i, says := range c.says {
			if !strings.Contains(problems[i].Text, says) || problems[i].Class != ClassPolicy {
				t.Errorf("%s: %v", what, problems[i])
			}
		}
	}
}
