package audit

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// conduct checks what the entries say of requests: each that was forwarded has an
// intent and, once, an outcome after it; what is open when an incarnation ends,
// the next one closes before it does anything else; an id means one request; an
// approved call has its approval. Logs are looked at in the order in which they
// are walked; what concerns two of them waits for settle.
type conduct struct {
	Checked
	problem func(Problem)
	seen    map[uint64]struct{} // of each call that was forwarded, or answered here: see idHash
	votes   ballots
	policy  *policies
	told    map[string]int // problems of what the entries say, by log
}

// maxTold bounds what is told of one log: a fault that every call shows is told
// often enough by so many.
const maxTold = 50

func newConduct(problem func(Problem), policy *policies) *conduct {
	c := &conduct{seen: map[uint64]struct{}{}, policy: policy, told: map[string]int{}}
	c.problem = func(p Problem) {
		switch n := c.told[p.Origin]; {
		case n < maxTold:
			problem(p)
		case n == maxTold:
			p.Text, p.Commit, p.Branch = "more of what its entries say does not hold; the first "+fmt.Sprint(maxTold)+" are told", "", ""
			problem(p)
		}
		c.told[p.Origin]++
	}
	c.votes = newBallots(c)
	return c
}

// logCalls is what one log leaves to be settled.
type logCalls struct {
	Open      map[string]openCall `json:"open,omitempty"`      // intents without an outcome
	Recovered map[string]uint64   `json:"recovered,omitempty"` // closed here, opened in an earlier incarnation: the entry
	// Served is the first entry that says that this incarnation did something
	// else than take up what the one before left; 0: none does.
	Served uint64 `json:"served,omitempty"`
	// Continued: earlier entries are in a repository that was not read, so that
	// what is closed here may have been opened there.
	Continued bool            `json:"continued,omitempty"`
	Policies  map[string]bool `json:"policies,omitempty"` // commits that were put in force
	Spent     map[string]use  `json:"spent,omitempty"`    // by call: the use of an approval whose intent has not come yet
	// Streams are those that are open, by call: the entry that opened it.
	Streams map[string]uint64 `json:"streams,omitempty"`
}

type openCall struct {
	Entry uint64    `json:"entry"`
	Time  time.Time `json:"time"`
	What  string    `json:"what"` // server and tool, or method
}

func newLogCalls() logCalls {
	return logCalls{Open: map[string]openCall{}, Recovered: map[string]uint64{}, Policies: map[string]bool{}, Spent: map[string]use{}, Streams: map[string]uint64{}}
}

// take looks at one entry of a log, at is where it stands.
func (c *conduct) take(l *logCalls, at Problem, e *Entry) {
	switch e.Kind {
	case KindStart, KindRecovered, "key":
	default:
		if l.Served == 0 && e.Seq > 0 {
			l.Served = e.Seq
		}
	}
	at.Entry, at.Class = int64(e.Seq), ClassCall
	bad := func(format string, args ...any) {
		at.Text = fmt.Sprintf("entry %d: ", e.Seq) + fmt.Sprintf(format, args...)
		c.problem(at)
	}
	switch e.Kind {
	case KindIntent:
		c.intent(l, at, e, bad)
	case KindOutcome:
		switch _, open := l.Open[e.Call]; {
		case e.Call == "":
		case open:
			delete(l.Open, e.Call)
			c.Closed++
		case answeredHere(e):
			c.Answered++
			c.seen[idHash(answeredMark+e.Call)] = struct{}{}
		case c.was(e.Call):
			bad("call %s has an outcome already", e.Call)
		case l.Continued:
			c.Before++
		default:
			bad("call %s has an outcome, and no intent before it: it was forwarded before that was recorded, or the intent is gone", e.Call)
		}
	case KindOpen, KindSegment, KindClose:
		c.stream(l, e, bad)
	case KindRecovered:
		if _, here := l.Open[e.Call]; here {
			bad("call %s is closed as one of an earlier incarnation, and it is one of this", e.Call)
			delete(l.Open, e.Call)
		} else if _, twice := l.Recovered[e.Call]; twice {
			bad("call %s is closed twice", e.Call)
		}
		l.Recovered[e.Call] = e.Seq
	case KindRefused:
		if serverAsks(e) {
			c.Asked++
			return
		}
		c.Refused++
		if _, open := l.Open[e.Call]; open && e.Call != "" {
			bad("call %s is refused, and was forwarded before", e.Call)
		}
		c.policy.decide(at, e)
	case KindPolicy:
		if e.Status == "accepted" || e.Status == "reset" || e.Status == "resumed" {
			l.Policies[e.Policy] = true
			if e.Status == "reset" {
				c.policy.wasReset(at, e)
			}
		}
	case KindApproval:
		c.votes.take(l, at, e)
	case KindLogin:
		c.votes.login(e)
	case KindUnrecorded:
		var d Unrecorded
		if json.Unmarshal(e.Detail, &d) != nil {
			bad("it counts what was refused, and does not read")
			return
		}
		c.Unrecorded += int(d.Refused + d.AuthFailed)
	}
}

func (c *conduct) intent(l *logCalls, at Problem, e *Entry, bad func(string, ...any)) {
	switch {
	case e.Call == "":
		return
	case serverAsks(e):
		c.Asked++
		return
	}
	if _, open := l.Open[e.Call]; open {
		if e.Method != "notifications/cancelled" || e.Digest != "" { // the server is told that the call is cancelled
			bad("call %s is forwarded a second time", e.Call)
		}
		return
	}
	if c.was(e.Call) {
		bad("the id %s is that of an earlier call", e.Call)
	}
	c.seen[idHash(e.Call)] = struct{}{}
	c.Calls++
	l.Open[e.Call] = openCall{e.Seq, e.Time, strings.TrimSpace(e.Server + " " + cmp.Or(e.Tool, e.Method))}
	switch e.Effect {
	case "approve":
		c.Approved++
		c.votes.intent(l, at, e)
	case "allow":
	case "":
		if e.Tool != "" || e.Method == "tools/call" {
			bad("call %s was forwarded, and names no decision", e.Call)
		}
	default:
		bad("call %s was forwarded, and its decision was %s", e.Call, e.Effect)
	}
	if e.Policy != "" && len(l.Policies) > 0 && !l.Continued && !l.Policies[e.Policy] {
		at.Class = ClassPolicy
		at.Text = fmt.Sprintf("entry %d: call %s was decided by policy %s, which no entry of this log before it puts in force", e.Seq, e.Call, short(e.Policy))
		c.problem(at)
	}
	c.policy.decide(at, e)
}

// stream looks at a part of a stream: it belongs to a request that is in the
// record already, and is open once at a time. That it ends without close is no
// fault, since a crash may end it; nor is a close of one that had no open, which
// what lasts a moment does without; nor one after the outcome, since a response
// may come before the end of its stream.
func (c *conduct) stream(l *logCalls, e *Entry, bad func(string, ...any)) {
	_, answered := c.seen[idHash(answeredMark+e.Call)]
	switch {
	case e.Call == "":
		bad("it is part of a stream (%s), and of no call", e.Kind)
		return
	case !answered && !c.was(e.Call) && !l.Continued:
		bad("call %s has part of a stream (%s), and no intent before it", e.Call, e.Kind)
	}
	switch opened, open := l.Streams[e.Call]; {
	case e.Kind == KindOpen && open:
		bad("the stream of call %s is opened again; entry %d has it open", e.Call, opened)
	case e.Kind == KindOpen:
		l.Streams[e.Call] = e.Seq
	case e.Kind == KindClose:
		delete(l.Streams, e.Call)
	}
}

// answeredMark tells the ids of what was answered here from those of calls.
const answeredMark = "answered "

// idHash stands for an id in memory and in the state of a run: a year has
// millions. Two of them are equal by chance once in many thousand such years.
func idHash(id string) uint64 {
	sum := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint64(sum[:])
}

func (c *conduct) was(call string) bool {
	_, ok := c.seen[idHash(call)]
	return ok
}

// ids are the hashes of all ids so far, eight bytes each, for the next run.
func (c *conduct) ids() []byte {
	b := make([]byte, 0, 8*len(c.seen))
	for _, h := range slices.Sorted(maps.Keys(c.seen)) {
		b = binary.BigEndian.AppendUint64(b, h)
	}
	return b
}

// know takes up what ids gave.
func (c *conduct) know(ids []byte) {
	for ; len(ids) >= 8; ids = ids[8:] {
		c.seen[binary.BigEndian.Uint64(ids)] = struct{}{}
	}
}

// serverAsks marks the entry of something that a server asked of a client: it
// has the id of the call on whose stream it was asked, and no outcome of its own.
func serverAsks(e *Entry) bool { return strings.HasPrefix(e.Method, "server:") }

// answeredHere tells whether an outcome is that of a request which the enforcer
// answered itself, so that it has no intent: at the endpoint for all servers;
// about tasks; or with an answer kept for a client that had left. The outcome of
// what was forwarded leaves decision, digest and facts to its intent.
func answeredHere(e *Entry) bool {
	if e.Server == "*" || e.Effect != "" || e.Digest != "" {
		return true
	}
	var d struct{ Facts json.RawMessage }
	return len(e.Detail) > 0 && json.Unmarshal(e.Detail, &d) == nil && d.Facts != nil
}

// settle checks what concerns several logs: incarnations of one enforcer, in
// their order, and approvals.
func (c *conduct) settle(logs []*logState) (notes []string) {
	next := map[string][]*logState{} // by the origin that they follow
	known, partial := map[string]bool{}, map[string]bool{}
	for _, l := range logs {
		known[l.origin()], partial[l.origin()] = true, l.calls.Continued
	}
	for _, l := range logs {
		previous := l.Previous
		if !known[previous] {
			previous = ""
		}
		next[previous] = append(next[previous], l)
	}
	var walk func(l *logState, carried map[string]openCall)
	walk = func(l *logState, carried map[string]openCall) {
		carried = maps.Clone(carried)
		at := Problem{Class: ClassCall, Origin: l.origin(), Branch: "", Entry: -1}
		for call, seq := range l.calls.Recovered {
			if _, ok := carried[call]; ok {
				delete(carried, call)
				c.Recovered++
				continue
			}
			if l.calls.Continued || l.Previous != "" && (!known[l.Previous] || partial[l.Previous]) {
				continue // opened in a log that is not here
			}
			at.Entry, at.Text = int64(seq), fmt.Sprintf("entry %d: it closes call %s, which no earlier incarnation left open", seq, call)
			c.problem(at)
		}
		if l.calls.Served > 0 {
			for _, call := range sortedCalls(carried) {
				at.Entry, at.Text = int64(l.calls.Served), fmt.Sprintf("entry %d: call %s (%s), left open by an earlier incarnation, is not closed before it", l.calls.Served, call, carried[call].What)
				c.problem(at)
			}
			c.Open += len(carried) // reported, and not to be asked for again
			clear(carried)
		}
		maps.Copy(carried, l.calls.Open)
		if len(next[l.origin()]) == 0 && !l.broken {
			c.Open += len(carried)
			for i, call := range sortedCalls(carried) {
				if i == 8 {
					notes = append(notes, fmt.Sprintf("and %d more calls are open at the end of %s", len(carried)-i, l.origin()))
					break
				}
				o := carried[call]
				notes = append(notes, fmt.Sprintf("call %s (%s, entry %d) is open at the end of %s: no outcome, %v after its intent", call, o.What, o.Entry, l.origin(), l.Last.Sub(o.Time).Round(time.Millisecond)))
			}
		}
		for _, n := range next[l.origin()] {
			walk(n, carried)
		}
	}
	for _, l := range next[""] {
		walk(l, map[string]openCall{})
	}
	notes = append(notes, c.votes.settle()...)
	return append(notes, c.policy.settle()...)
}

func sortedCalls(m map[string]openCall) []string {
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		return cmp.Or(cmp.Compare(m[a].Entry, m[b].Entry), strings.Compare(a, b))
	})
}
