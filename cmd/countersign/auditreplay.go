package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"countersign/audit"
	"countersign/enforcer/approval"
)

func auditReplayCommand() *cobra.Command {
	var from readFlags
	var speed float64
	var maxGap time.Duration
	var transcript bool
	cmd := &cobra.Command{
		Use:   "replay <session, holder or call>",
		Short: "Play a session in its own time, or write its transcript",
		Long: `Plays what happened in a session, for a holder, or about one call: what the agent
asked, what it was told, who approved. It plays in the session's own time, or as
many times faster as --speed says, and waits no longer than --max-gap; --transcript
prints all at once, as plain text for a ticket.

To decide recorded requests again under another policy, use countersign policy simulate.`,
		Example: `  countersign audit replay --repo ./audit --speed 10 --max-gap 2s 5f0c…
  countersign audit replay --repo ./audit --transcript c_4kq2m7…`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if fi, err := os.Stat(args[0]); err == nil && fi.IsDir() {
				return fmt.Errorf("audit replay plays a session; to decide the recorded requests again under the policy in %s: countersign policy simulate %s --record %s",
					args[0], args[0], cmp.Or(strings.Join(from.repos, " --record "), "."))
			}
			if !(speed > 0) {
				return fmt.Errorf("--speed: %v; want a number above 0, 1 for the session's own time", speed)
			}
			if maxGap < 0 {
				return fmt.Errorf("--max-gap: %s; want a time of 0 or more", maxGap)
			}
			return from.read(cmd, func(r *reading) error {
				s, err := r.tell(cmd.Context(), args[0])
				if err != nil {
					return refusedID(err, func(said string) { fmt.Fprintln(cmd.ErrOrStderr(), "countersign:", safe(said)) })
				}
				wait := func(ctx context.Context, d time.Duration) bool {
					return paused(ctx, min(time.Duration(float64(d)/speed), maxGap))
				}
				if transcript {
					wait = func(context.Context, time.Duration) bool { return true }
				}
				return s.play(cmd.Context(), cmd.OutOrStdout(), wait)
			})
		},
	}
	from.add(cmd)
	cmd.Flags().Float64Var(&speed, "speed", 1, "how many times faster than it happened")
	cmd.Flags().DurationVar(&maxGap, "max-gap", 5*time.Second, "wait no longer than this")
	cmd.Flags().BoolVar(&transcript, "transcript", false, "print all at once")
	return cmd
}

// paused waits, and tells whether it may go on.
func paused(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// play prints what was said, one after the other; wait is asked to let the time
// between two go by, and ends the play if it says so.
func (s *story) play(ctx context.Context, out io.Writer, wait func(context.Context, time.Duration) bool) error {
	fmt.Fprintf(out, "%s %s, from %s (UTC), as the record of %s has it\n(what is played here is not verified: countersign audit verify does that)\n\n",
		s.What, safe(s.ID), s.Entries[0].Entry.Time.UTC().Format("2006-01-02 15:04:05"), safe(strings.Join(s.originsOf(), ", ")))
	last := s.Entries[0].Entry.Time
	day := last.UTC().Format("2006-01-02")
	for _, f := range s.Entries {
		e := f.Entry
		who, what, quote := utterance(e)
		if what == "" {
			continue
		}
		if !wait(ctx, e.Time.Sub(last)) {
			return nil
		}
		last = e.Time
		if d := e.Time.UTC().Format("2006-01-02"); d != day {
			day = d
			fmt.Fprintf(out, "%s\n", day)
		}
		fmt.Fprintf(out, "%s  %-10s %s\n", e.Time.UTC().Format("15:04:05"), safe(who), safe(what))
		if quote != "" {
			barred(out, safe(quote))
		}
	}
	return nil
}

// utterance is who speaks in an entry, what they say, and text that they bring along;
// "" where nobody does.
func utterance(e audit.Entry) (who, what, quote string) {
	agent := cmp.Or(e.Sub, "agent")
	server := strings.HasPrefix(e.Method, "server:")
	switch e.Kind {
	case audit.KindIntent:
		if server {
			return cmp.Or(e.Server, "server"), "asks of the client: " + strings.TrimPrefix(e.Method, "server:"), ""
		}
		return agent, "→ " + aimedAt(e) + inBrackets(e), e.Args
	case audit.KindRefused:
		if server {
			return "gate", "lets " + e.Server + " not ask " + strings.TrimPrefix(e.Method, "server:") + ": " + e.Reason, ""
		}
		return "gate", "refuses " + agent + "'s " + aimedAt(e) + inBrackets(e) + ": " + cmp.Or(e.Reason, e.Status, e.Effect), e.Args
	case audit.KindOutcome, audit.KindRecovered:
		what = "← " + cmp.Or(e.Status, "ended")
		if e.Millis > 0 {
			what += " after " + took(e)
		}
		what += maskedIn(e)
		if e.Reason != "" && e.Status != audit.StatusOK {
			what += ": " + e.Reason
		}
		return cmp.Or(e.Server, "server"), what, e.Result
	case audit.KindApproval:
		return saidOfApproval(e)
	case audit.KindVote:
		return cmp.Or(e.Sub, "somebody"), "votes, which does not count: " + e.Reason, ""
	case audit.KindFreeze:
		return "operator", e.Verb() + ": " + e.Reason, ""
	case audit.KindSegment:
		return cmp.Or(e.Server, "server"), "… events of the stream" + because(e.Reason), ""
	}
	return "", "", ""
}

// maskedIn adds up what was masked, by detector, in the order of their first places.
func maskedIn(e audit.Entry) string {
	var detectors []string
	times := map[string]int{}
	for _, m := range e.Masked {
		if times[m.Detector] == 0 {
			detectors = append(detectors, m.Detector)
		}
		times[m.Detector] += m.Count
	}
	said := ""
	for _, d := range detectors {
		said += fmt.Sprintf(", %d × %s masked", times[d], d)
	}
	return said
}

func saidOfApproval(e audit.Entry) (who, what, quote string) {
	a, _ := approvalIn(e)
	voter, reason := "somebody", ""
	if n := len(a.Votes); n > 0 {
		voter = a.Votes[n-1].Who()
		reason = because(a.Votes[n-1].Reason) + " (via " + a.Votes[n-1].Via + ")"
	}
	switch e.Status {
	case approval.EventAsked, approval.EventRenewed:
		var sets []string
		for _, ask := range a.Asks {
			sets = append(sets, fmt.Sprintf("%d of %s", max(ask.Quorum, 1), ask.Approvers))
		}
		return "gate", "asks " + cmp.Or(strings.Join(sets, " and "), "people") + " to approve " + aimedAt(e) + ", " + e.Approval, a.Args
	case approval.EventVoted:
		return voter, "approves; others still have to" + reason, ""
	case approval.EventApproved:
		return voter, "approves " + e.Approval + reason, ""
	case approval.EventGlass:
		return voter, "BREAKS THE GLASS for " + e.Approval + reason, ""
	case approval.EventDenied:
		return voter, "denies " + e.Approval + because(e.Reason) + reason, ""
	case approval.EventExpired, approval.EventWithdrawn, approval.EventRevoked, approval.EventReviewed:
		return "gate", "approval " + e.Approval + " is " + e.Status + because(e.Reason), ""
	case approval.EventLeft:
		return cmp.Or(e.Sub, "agent"), "no longer waits for " + e.Approval, ""
	case approval.EventBack:
		return cmp.Or(e.Sub, "agent"), "waits again for " + e.Approval, ""
	}
	return "", "", ""
}

func inBrackets(e audit.Entry) string {
	if e.Call == "" {
		return ""
	}
	return "  [" + e.Call + "]"
}
