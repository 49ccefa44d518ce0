package audit

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The message of a commit of the record is written for people, and is a
// function of its entries and its signed checkpoint alone (commitMessage), so
// that a message that lies is found like a line that does:
//
//	14 calls · 2 denied · 1 approved by dana · policy 3f9c2e1
//
//	denied       alice@example.com by ide → postgres query: “These tables hold password hashes” (2×)
//	approved     alice@example.com by ide → postgres query, by dana
//	credentials  mint pg-admin, revoke pg-admin
//	calls        alice@example.com by ide: postgres query (11), github list_issues (2)
//
//	prod-1/r4kq2m7
//	8431
//	CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
//
//	— prod-1/r4kq2m7 Az3grl…
//
//	Policy: 3f9c2e1aa05d5bd3a5cd1ed7f9b3b8a0f2f6f3f1
//	Entries: 8403-8430
//	Calls: 14
//	Denied: 2
//	Approved-By: dana
//
// A subject; what happened, a line each, what needs a person's eye first, at
// most maxStory lines; the note (c2sp.org/signed-note), which is two
// paragraphs; and a last paragraph of trailers, as git-interpret-trailers(1)
// reads them:
//
//	Policy       commit of a policy that decided, or was put in force; one each
//	Entries      numbers of the first and the last entry
//	Calls, Denied, Blocked, Rejected, Frozen, Unfrozen   counts; those after Denied only if there are any
//	Anchors                                              how many entries say no more than that another log was seen
//	Approved-By, Broke-Glass                             who; one each
//
// Messages of earlier versions are the subject and the note.
//
// Whatever others have a say in (names of tools, of subjects, reasons) stands
// inside a line that begins with a word of ours, and safe shows what could end
// the line, hide, or reorder text. So no name can look like a paragraph, a
// trailer or a checkpoint; and who looks for the note, looks from the end.
const (
	maxStory    = 40 // lines
	maxTrailers = 16 // of one name; the rest is counted in the last
	maxTargets  = 6  // of one caller
)

// commitMessage gives the message of the commit that adds the entries, which
// follow each other, with the signed checkpoint after the last.
func commitMessage(entries []Entry, note string) string {
	var s story
	for i := range entries {
		s.count(glanceOf(&entries[i]))
	}
	return s.message(note)
}

// messageNote finds the signed checkpoint in a commit's message, whether of
// today's form or of that of earlier versions: the last two paragraphs before
// the trailers. What it says is a claim still.
func messageNote(message string) (note string, ok bool) {
	parts := strings.Split(strings.TrimSuffix(message, "\n"), "\n\n")
	if strings.Contains("\n"+parts[len(parts)-1], "\nEntries: ") {
		parts = parts[:len(parts)-1]
	}
	n := len(parts)
	if n < 3 {
		return "", false
	}
	for l := range strings.SplitSeq(parts[n-1], "\n") {
		if !strings.HasPrefix(l, "— ") {
			return "", false
		}
	}
	note = parts[n-2] + "\n\n" + parts[n-1] + "\n"
	_, err := ReadCheckpoint(note)
	return note, err == nil
}

// glance is the part of a line that a message needs.
type glance struct {
	Seq        uint64          `json:"seq"`
	Time       time.Time       `json:"time"`
	Kind       Kind            `json:"kind"`
	Policy     string          `json:"policy"`
	Sub        string          `json:"sub"`
	Client     string          `json:"client"`
	Server     string          `json:"server"`
	Method     string          `json:"method"`
	Tool       string          `json:"tool"`
	Resource   string          `json:"resource"`
	Effect     string          `json:"effect"`
	Reason     string          `json:"reason"`
	Credential string          `json:"credential"`
	Status     string          `json:"status"`
	Detail     json.RawMessage `json:"detail"`
}

func glanceOf(e *Entry) glance {
	return glance{
		Seq: e.Seq, Time: e.Time, Kind: e.Kind, Policy: e.Policy, Sub: e.Sub, Client: e.Client, Server: e.Server, Method: e.Method,
		Tool: e.Tool, Resource: e.Resource, Effect: e.Effect, Reason: e.Reason, Credential: e.Credential, Status: e.Status, Detail: e.Detail,
	}
}

// inForce tells whether the entry's policy is one that decided something, or
// that was put in force; others name one that was rejected, or that an earlier
// run or an old approval had.
func inForce(g glance) bool {
	switch g.Kind {
	case KindIntent, KindOutcome, KindRefused:
		return true
	case KindPolicy:
		return g.Status == "accepted" || g.Status == "reset" || g.Status == "resumed"
	}
	return false
}

// The order in which a message tells.
const (
	rankAlarm    = iota // the kill switch, broken glass, keys
	rankRefusal         // what was not let through
	rankApproval        // what people decided
	rankPolicy
	rankOther // start, stop, sign-ins, votes that did not count
	rankCredential
	rankCalls
	ranks
)

// story is what a message tells of a batch.
type story struct {
	entries, calls, denied, blocked int
	approved                        []string // by whom
	approvals, rejections           int
	glasses                         []string // who approved alone, by a break-glass set
	frozen, unfrozen                int
	anchors                         int      // and nothing wrong with them
	policies                        []string // in the order in which they came into force; the last is in force

	first, last uint64
	told        [ranks][]*told
	index       map[string]*told
}

// told is a line of a message: its text and how often that happened, or what
// it lists, each with a count.
type told struct {
	verb, text string
	n          int
	items      []*told
}

// tell counts something under rank, verb and text.
func (s *story) tell(rank int, verb, text string) *told {
	text = strings.TrimLeft(text, " ,:") // nobody, or nothing, is named
	return s.at(&s.told[rank], strconv.Itoa(rank)+"\x00"+verb+"\x00"+text, verb, text)
}

func (s *story) at(list *[]*told, key, verb, text string) *told {
	if s.index == nil {
		s.index = map[string]*told{}
	}
	t := s.index[key]
	if t == nil {
		t = &told{verb: verb, text: text}
		s.index[key] = t
		*list = append(*list, t)
	}
	t.n++
	return t
}

// list counts an item of a line that lists.
func (s *story) list(rank int, verb, text, item string) {
	text = strings.TrimLeft(text, " ,:")
	t := s.tell(rank, verb, text)
	s.at(&t.items, strconv.Itoa(rank)+"\x00"+verb+"\x00"+text+"\x00\x00"+item, "", item)
}

func (s *story) count(g glance) {
	if s.entries == 0 {
		s.first = g.Seq
	}
	s.last = g.Seq
	s.entries++
	if g.Policy != "" && inForce(g) && (len(s.policies) == 0 || s.policies[len(s.policies)-1] != g.Policy) {
		s.policies = append(slices.DeleteFunc(s.policies, func(p string) bool { return p == g.Policy }), g.Policy)
	}
	switch g.Kind {
	case KindIntent, KindOpen, KindSegment, KindClose: // part of a call
	case KindAnchor:
		s.anchor(g)
	case KindOutcome, KindRefused:
		s.call(g)
	case KindApproval:
		s.approval(g)
	case KindFreeze:
		switch g.Status {
		case StatusFrozen:
			s.frozen++
		case StatusUnfrozen:
			s.unfrozen++
		case StatusStanding:
			return
		}
		s.tell(rankAlarm, safe(cmp.Or(g.Status, "freeze"), 20), cmp.Or(safe(g.Reason, 160), sentence(g)))
	case KindStart:
		s.tell(rankOther, "started", "")
	case KindStop:
		s.tell(rankOther, "stopped", "")
	case KindPolicy:
		s.tell(rankPolicy, "policy", strings.TrimSpace(g.Status+" "+safe(short(g.Policy), 7)+because(g)))
	case KindCredential:
		s.list(rankCredential, "credentials", "", strings.TrimSpace(g.Status+" "+safe(g.Credential, 60)+because(g)))
	case KindRecovered:
		s.tell(rankOther, "unknown", who(g)+target(g)+": an earlier run died; it may have run")
	case KindAuthFailed:
		s.tell(rankRefusal, "no token", "at "+cmp.Or(safe(g.Server, 60), "an endpoint of ours")+because(g))
	case KindUnrecorded:
		s.tell(rankRefusal, "unrecorded", strings.TrimPrefix(because(g), ": "))
	default:
		s.tell(rankOther, safe(string(g.Kind), 20), sentence(g))
	}
}

func (s *story) call(g glance) {
	s.calls++
	if g.Effect == "deny" {
		s.denied++
	}
	if g.Status == StatusBlocked {
		s.blocked++
	}
	switch {
	case g.Kind == KindRefused && g.Effect == "deny":
		s.tell(rankRefusal, "denied", who(g)+target(g)+because(g))
	case g.Kind == KindRefused && g.Status == StatusFrozen, g.Kind == KindOutcome && g.Status == StatusFrozen:
		s.tell(rankRefusal, StatusFrozen, who(g)+target(g)+because(g))
	case g.Kind == KindRefused:
		s.tell(rankRefusal, "refused", who(g)+target(g)+because(g))
	case g.Status == StatusOK, g.Status == "":
		s.list(rankCalls, "calls", who(g), strings.TrimPrefix(target(g), arrow))
	default:
		s.tell(rankRefusal, safe(g.Status, 20), who(g)+target(g)+because(g))
	}
}

// approval takes in what happened to one: the detail is the approval as it
// stands, again and again; the status is what happened just now.
func (s *story) approval(g glance) {
	state, by := approvalOf(g.Detail)
	if g.Status != "" {
		state = g.Status
	}
	names := make([]string, 0, len(by))
	for _, n := range by {
		names = append(names, safe(n, 80))
	}
	about := who(g) + target(g)
	switch state {
	case "approved":
		s.approvals++
		for _, name := range names {
			if !slices.Contains(s.approved, name) {
				s.approved = append(s.approved, name)
			}
		}
		s.tell(rankApproval, "approved", about+byThem(names))
	case "denied":
		s.rejections++
		s.tell(rankApproval, "rejected", about+because(g))
	case "break-glass":
		s.glasses = append(s.glasses, names[max(0, len(names)-1):]...)
		s.tell(rankAlarm, "broke glass", about+byThem(names[max(0, len(names)-1):]))
	case "expired", "withdrawn", "revoked", "reviewed":
		s.tell(rankApproval, state, about+because(g))
	case "asked":
		s.tell(rankApproval, "asked", about)
	}
}

// anchor tells what was seen of another log.
func (s *story) anchor(g glance) {
	var a Anchor
	what := "an unreadable checkpoint"
	if json.Unmarshal(g.Detail, &a) == nil {
		if c, err := ReadCheckpoint(a.Checkpoint); err == nil {
			what = fmt.Sprintf("%s with %d %s", c.Origin, c.Size, plural(int(c.Size), "entry", "entries"))
		}
	}
	if g.Status != "" {
		s.tell(rankAlarm, safe(g.Status, 20), what+because(g))
		return
	}
	s.anchors++
	s.list(rankOther, "anchored", "", what)
}

func byThem(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return ", by " + strings.Join(names[:min(len(names), 6)], ", ")
}

// sentence is what a line says of an entry that is told by itself.
func sentence(g glance) string {
	text := who(g) + target(g)
	if g.Status != "" && g.Kind != KindFreeze {
		text = strings.TrimSpace(safe(g.Status, 20) + " " + text)
	}
	if text == "" {
		return strings.TrimPrefix(because(g), ": ")
	}
	return text + because(g)
}

const arrow = " → "

// who names the caller.
func who(g glance) string {
	sub, client := safe(g.Sub, 80), safe(g.Client, 60)
	if sub != "" && client != "" {
		return sub + " by " + client
	}
	return sub + client
}

// target names what was called.
func target(g glance) string {
	var parts []string
	for _, p := range []string{g.Server, g.Tool, g.Resource} {
		if p = safe(p, 80); p != "" {
			parts = append(parts, p)
		}
	}
	if g.Tool == "" && g.Resource == "" && g.Method != "" {
		parts = append(parts, safe(g.Method, 60))
	}
	if len(parts) == 0 {
		return ""
	}
	return arrow + strings.Join(parts, " ")
}

func because(g glance) string {
	if r := safe(g.Reason, 120); r != "" {
		return ": “" + r + "”"
	}
	return ""
}

// Tally is what a commit holds, in numbers.
type Tally struct {
	Entries, Calls, Denied, Blocked, Approved, Rejected int
	ApprovedBy                                          []string // names, each once
	First, Last                                         time.Time
}

func (s *story) tally(first, last time.Time) Tally {
	return Tally{
		Entries: s.entries, Calls: s.calls, Denied: s.denied, Blocked: s.blocked, Approved: s.approvals, Rejected: s.rejections,
		ApprovedBy: slices.Clone(s.approved), First: first, Last: last,
	}
}

// subject gives for instance "14 calls · 2 denied · 1 approved by dana · policy 3f9c2e1".
func (s *story) subject() string {
	var parts []string
	add := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	switch s.calls {
	case 0:
		add(s.entries, plural(s.entries, "entry", "entries"))
	default:
		add(s.calls, plural(s.calls, "call", "calls"))
	}
	add(s.denied, "denied")
	add(s.blocked, "blocked")
	by := ""
	if n := len(s.approved); n > 0 && n <= 3 {
		by = " by " + strings.Join(s.approved, ", ")
	} else if n > 3 {
		by = fmt.Sprintf(" by %d people", n)
	}
	add(s.approvals, "approved"+by)
	add(len(s.glasses), "broke the glass ("+strings.Join(s.glasses[:min(len(s.glasses), 3)], ", ")+")")
	add(s.rejections, "rejected by an approver")
	add(s.frozen, plural(s.frozen, "freeze", "freezes"))
	add(s.unfrozen, "unfrozen")
	if n := len(s.policies); n > 0 {
		parts = append(parts, "policy "+safe(short(s.policies[n-1]), 7))
	}
	return strings.Join(parts, " · ")
}

// message puts the parts together.
func (s *story) message(note string) string {
	var b strings.Builder
	b.WriteString(s.subject() + "\n")
	lines, more := 0, 0
	for _, rank := range s.told {
		for _, t := range rank {
			if lines == maxStory {
				more++
				continue
			}
			if lines++; lines == 1 {
				b.WriteByte('\n')
			}
			b.WriteString(strings.TrimRight(fmt.Sprintf("%-11s  %s", t.verb, t.line()), " ") + "\n")
		}
	}
	if more > 0 {
		fmt.Fprintf(&b, "and         %d more like these\n", more)
	}
	b.WriteString("\n" + note + "\n")
	s.trailers(&b)
	return b.String()
}

func (t *told) line() string {
	if len(t.items) == 0 {
		return t.text + times(t.n, "×")
	}
	var items []string
	for i, it := range t.items {
		if i == maxTargets {
			items = append(items, fmt.Sprintf("and %d more", len(t.items)-i))
			break
		}
		items = append(items, it.text+times(it.n, ""))
	}
	text := strings.Join(items, ", ")
	if t.text != "" {
		text = t.text + ": " + text
	}
	return text
}

func times(n int, sign string) string {
	if n == 1 {
		return ""
	}
	return fmt.Sprintf(" (%d%s)", n, sign)
}

func (s *story) trailers(b *strings.Builder) {
	line := func(name, value string) {
		if value != "" {
			b.WriteString(name + ": " + value + "\n")
		}
	}
	each := func(name string, values []string) {
		for i, v := range values {
			if i == maxTrailers-1 && len(values) > maxTrailers {
				v = fmt.Sprintf("and %d more", len(values)-i)
				line(name, v)
				return
			}
			line(name, safe(v, 80))
		}
	}
	some := func(name string, n int) {
		if n > 0 {
			line(name, strconv.Itoa(n))
		}
	}
	each("Policy", s.policies)
	line("Entries", fmt.Sprintf("%d-%d", s.first, s.last))
	line("Calls", strconv.Itoa(s.calls))
	line("Denied", strconv.Itoa(s.denied))
	some("Blocked", s.blocked)
	each("Approved-By", s.approved)
	some("Rejected", s.rejections)
	each("Broke-Glass", s.glasses)
	some("Frozen", s.frozen)
	some("Unfrozen", s.unfrozen)
	some("Anchors", s.anchors)
}

// safe makes others' words fit for a line of a message: n characters at most,
// on one line, with nothing in them that hides, reorders or steers.
func safe(s string, n int) string {
	s = clip(s, n)
	if !strings.ContainsFunc(s, unsafe) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unsafe(r) {
			fmt.Fprintf(&b, `\u{%x}`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// unsafe lists, beyond hidden, what shows as nothing: soft hyphens, joiners,
// fillers, selectors and tags. The list is closed, as that one is: what a
// message says must not depend on a version of Unicode.
func unsafe(r rune) bool {
	switch {
	case hidden(r), r == 0xad, r == 0x34f, r == 0x115f, r == 0x1160, r == 0x17b4, r == 0x17b5, r >= 0x180b && r <= 0x180f,
		r == 0x3164, r >= 0xfe00 && r <= 0xfe0f, r == 0xffa0, r >= 0xfff0 && r <= 0xfffd, r >= 0xe0000 && r <= 0xe0fff:
		return true
	}
	return false
}
