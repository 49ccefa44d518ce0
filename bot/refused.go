package bot

import (
	"context"
	"fmt"
	"time"

	"countersign/enforcer/approval"
)

// refusalPace is how often one Slack user's refused presses are reported.
const refusalPace = time.Second

// Repeated is why several presses of one user were refused that came too fast
// to be reported one by one. Approval and vote are those of the last.
type Repeated struct {
	Count int
	Why   error // of the last
}

func (r *Repeated) Error() string {
	return fmt.Sprintf("%d more presses within a second or so were refused; the last: %s", r.Count, r.Why)
}

func (r *Repeated) Unwrap() error { return r.Why }

// presser is a Slack user, within a workspace.
type presser struct{ team, user string }

// refusals are those of one user that wait to be reported together.
type refusals struct {
	count int
	id    string
	vote  approval.Vote
	why   error
}

// report has a refused press recorded: a user's first at once, those that
// follow it too fast together.
func (b *Bot) report(ctx context.Context, id string, v approval.Vote, why error) {
	if b.Refused == nil {
		return
	}
	who := presser{v.Slack.Team, v.Slack.User}
	b.mu.Lock()
	if waiting, ok := b.refusals[who]; ok {
		*waiting = refusals{waiting.count + 1, id, v, why}
		b.mu.Unlock()
		return
	}
	b.refusals[who] = &refusals{}
	b.jobs++ // a stop waits for what is not reported yet
	b.mu.Unlock()
	go b.reportMore(who)
	b.Refused(ctx, id, v, why)
}

// reportMore reports what one user's presses added up to, as long as there are
// any.
func (b *Bot) reportMore(who presser) {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), jobLimit)
		err := b.Sleep(ctx, refusalPace)
		b.mu.Lock()
		waiting := *b.refusals[who]
		if waiting.count == 0 {
			delete(b.refusals, who)
			b.finished()
			b.mu.Unlock()
			cancel()
			return
		}
		b.refusals[who] = &refusals{}
		b.mu.Unlock()
		if err != nil {
			b.Log.WarnContext(ctx, "slack: refused presses are reported early", "error", err)
		}
		b.Refused(ctx, waiting.id, waiting.vote, &Repeated{waiting.count, waiting.why})
		cancel()
	}
}
