package bot_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"countersign/bot"
	"countersign/fixtures/github"
)

// A check run carries the checkpoint, what happened since the last one, and how
// to check it; whatever a name holds, it stays in its cell.
func TestChecksShowTheRecord(t *testing.T) {
	checks, host, c, _ := checked(t)
	at := time.Date(2026, 3, 1, 13, 58, 0, 0, time.UTC)
	checks.InForce(one, "dana@example.com")
	checks.Count(bot.Counts{Entries: 30, Calls: 14, Denied: 2, Blocked: 1, Approved: 1, ApprovedBy: []string{"dana"}, First: at, Last: at.Add(time.Minute)})
	checks.Checkpoint("prod/abc\n30\nroot=\n\n— prod/abc sig\n")
	has := func(parts ...string) func(github.Run) bool {
		return func(r github.Run) bool {
			for _, p := range parts {
				if !strings.Contains(*r.Output.Summary, p) {
					return false
				}
			}
			return true
		}
	}
	until(t, c, host, one, has("| calls | 14 | 14 |", "| denied | 2 | 2 |", "| approved | 1, by `dana` | 1, by `dana` |", "| blocked by the mask | 1 | 1 |",
		"| time (UTC) | 2026-03-01 13:58:00 to 13:59:00 |", "    prod/abc\n    30\n    root=\n    \n    — prod/abc sig\n", "countersign audit verify"))
	checks.Count(bot.Counts{Entries: 3, Calls: 1, Approved: 2, ApprovedBy: []string{"erin", "@octo|cat`[x](http://x)\n| 9 | 9 |"}, First: at.Add(time.Hour), Last: at.Add(30 * time.Hour)})
	checks.Checkpoint("prod/abc\n33\nroot=\n")
	r := until(t, c, host, one, has("| calls | 1 | 15 |", "    33\n", "2026-03-01 13:58 to 2026-03-02 19:58"))
	for l := range strings.SplitSeq(*r.Output.Summary, "\n") {
		if strings.HasPrefix(l, "| approved |") && (strings.Count(l, "|") != 4 || strings.Count(l, "`")%2 != 0 || !strings.Contains(l, "`@octo¦cat'")) {
			t.Errorf("%q", l)
		}
	}
	// Under the next policy the counts begin anew.
	checks.Count(bot.Counts{Entries: 5, Calls: 5, First: at, Last: at})
	checks.InForce(two, "")
	checks.Count(bot.Counts{Entries: 1, Calls: 1, First: at.Add(40 * time.Hour), Last: at.Add(40 * time.Hour)})
	checks.Checkpoint("prod/abc\n39\nroot=\n")
	until(t, c, host, two, has("| calls | 1 | 1 |", "    39\n"))
}

// However many people approve, and whatever they are called, GitHub's bound on
// a summary holds.
func TestChecksFitGitHub(t *testing.T) {
	checks, host, c, _ := checked(t)
	checks.InForce(one, strings.Repeat("d\u202e", 30_000))
	var names []string
	for i := range 5000 {
		names = append(names, strings.Repeat("\u202e", 100)+fmt.Sprint(i))
	}
	checks.Count(bot.Counts{Entries: 1, Calls: 1, Approved: 5000, ApprovedBy: names, First: c.Now(), Last: c.Now()})
	checks.Checkpoint(strings.Repeat("— witness.example AAAA\n", 3000))
	r := until(t, c, host, one, func(r github.Run) bool { return strings.Contains(*r.Output.Summary, "and 990 more") })
	if n := utf8.RuneCountInString(*r.Output.Summary); n > 65535 {
		t.Errorf("%d characters", n)
	}
}
