package bot

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"countersign/enforcer/approval/tell"
)

// Counts are what happened, in numbers.
type Counts struct {
	Entries, Calls, Denied, Blocked, Approved, Rejected int
	ApprovedBy                                          []string // names, each once
	First, Last                                         time.Time
}

// maxNames bounds who is named; the rest is counted.
const maxNames = 10

func (c Counts) plus(n Counts) Counts {
	c.Entries, c.Calls, c.Denied, c.Blocked = c.Entries+n.Entries, c.Calls+n.Calls, c.Denied+n.Denied, c.Blocked+n.Blocked
	c.Approved, c.Rejected = c.Approved+n.Approved, c.Rejected+n.Rejected
	if c.First.IsZero() || !n.First.IsZero() && n.First.Before(c.First) {
		c.First = n.First
	}
	if n.Last.After(c.Last) {
		c.Last = n.Last
	}
	by := slices.Clone(c.ApprovedBy)
	for _, name := range n.ApprovedBy {
		if !slices.Contains(by, name) && len(by) < 1000 {
			by = append(by, name)
		}
	}
	c.ApprovedBy = by
	return c
}

// minus takes away what was told. Names are those of what came since only if
// nothing else did; otherwise some may be named again, which says no wrong.
func (c Counts) minus(n Counts) Counts {
	c.Entries, c.Calls, c.Denied, c.Blocked = c.Entries-n.Entries, c.Calls-n.Calls, c.Denied-n.Denied, c.Blocked-n.Blocked
	c.Approved, c.Rejected = c.Approved-n.Approved, c.Rejected-n.Rejected
	if c.Entries <= 0 {
		return Counts{}
	}
	c.First = n.Last
	return c
}

// published is what a check run shows of the record.
type published struct {
	checkpoint string // a signed note; empty: nothing yet
	sum, news  Counts
}

// told notes that GitHub has what was shown.
func (c *Checks) told(p published) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.checkpoint != "" && p.sum.First.Equal(c.sum.First) { // still the same policy
		c.news = c.news.minus(p.news)
	}
}

// markdown is the part of a summary about the record: a table, the checkpoint,
// and how to check both.
func (p published) markdown() string {
	if p.checkpoint == "" {
		return ""
	}
	var s strings.Builder
	s.WriteString("\n### The record\n\n")
	if p.sum.Entries > 0 {
		s.WriteString("| | since the last update | under this policy, by this run |\n|---|---|---|\n")
		row := func(what, news, sum string) { fmt.Fprintf(&s, "| %s | %s | %s |\n", what, news, sum) }
		n := func(i int) string { return fmt.Sprint(i) }
		row("time (UTC)", span(p.news), span(p.sum))
		row("calls", n(p.news.Calls), n(p.sum.Calls))
		row("denied", n(p.news.Denied), n(p.sum.Denied))
		row("approved", approved(p.news), approved(p.sum))
		row("rejected by an approver", n(p.news.Rejected), n(p.sum.Rejected))
		row("blocked by the mask", n(p.news.Blocked), n(p.sum.Blocked))
		row("entries", n(p.news.Entries), n(p.sum.Entries))
		s.WriteString("\n")
	}
	fmt.Fprintf(&s, "Newest checkpoint: all entries before it are in the tree that it signs.\n\n%s\n", code(p.checkpoint, 10_000))
	s.WriteString("To check the record against it: save the checkpoint, without the indent, as a file, then, on a clone of the record,\n\n" +
		"    countersign audit verify --repo . --commit-signers audit_signers --checkpoint-key checkpoint_key.pub --anchor file\n\n" +
		"This is a pointer, and may be deleted; the record is in Git.\n")
	return s.String()
}

func span(c Counts) string {
	if c.First.IsZero() {
		return ""
	}
	const day, clock = "2006-01-02 15:04", "15:04:05"
	first, last := c.First.UTC(), c.Last.UTC()
	if first.Format(time.DateOnly) == last.Format(time.DateOnly) {
		return first.Format("2006-01-02 "+clock) + " to " + last.Format(clock)
	}
	return first.Format(day) + " to " + last.Format(day)
}

// approved names who did, as code: no name becomes a mention, a link or a cell.
func approved(c Counts) string {
	text := fmt.Sprint(c.Approved)
	if c.Approved == 0 || len(c.ApprovedBy) == 0 {
		return text
	}
	var names []string
	for i, name := range c.ApprovedBy {
		if i == maxNames {
			names = append(names, fmt.Sprintf("and %d more", len(c.ApprovedBy)-i))
			break
		}
		shown, _ := tell.Visible(name, true, 80)
		names = append(names, "`"+strings.NewReplacer("`", "'", "|", "¦", "\n", " ").Replace(shown)+"`")
	}
	return text + ", by " + strings.Join(names, ", ")
}
