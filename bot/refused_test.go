package bot_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"countersign/bot"
	"countersign/enforcer/approval"
)

// reported collects what a bot says of refused presses.
type reported struct {
	mu  sync.Mutex
	all []report
}

type report struct {
	id  string
	v   approval.Vote
	why error
}

func (r *reported) to(c *bot.Config) {
	c.Refused = func(_ context.Context, id string, v approval.Vote, why error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.all = append(r.all, report{id, v, why})
	}
}

func (r *reported) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all)
}

// A refused press is reported with who pressed, on what and why, before the
// presser is told, and delivered twice it is reported once.
func TestRefusedPressIsReported(t *testing.T) {
	w := newWorld(t)
	var reports reported
	_, stop := w.start(reports.to)
	a := w.ask(w.request("sql: 1"))
	c := w.card(a.ID, "needs 1")
	for i, test := range []struct {
		user, action, person string
		approve              bool
		why                  error
	}{
		{"U0ALICE", approve, "alice", true, approval.ErrOwnRequest},
		{"U0ERIN", deny, "erin", false, approval.ErrNotApprover},
		{"U0EVE", approve, "", true, nil},
	} {
		w.press(c, test.action, test.user)
		w.told(test.user, "")
		if reports.count() != i+1 {
			t.Fatalf("%s was told, but not reported: %+v", test.user, reports.all)
		}
		got := reports.all[i]
		if got.id != a.ID || got.v.Person != test.person || got.v.Sub != test.person || (got.v.Issuer == "") != (test.person == "") ||
			got.v.Approve != test.approve || got.v.Reason != "" || got.v.At.IsZero() || got.v.Slack.Team != team || got.v.Slack.User != test.user ||
			!strings.HasPrefix(got.v.Slack.PayloadHash, "sha256:") || test.why != nil && !errors.Is(got.why, test.why) {
			t.Errorf("reported: %+v", got)
		}
	}
	w.press(c, details, "U0EVE") // everybody in the channel may look
	w.modal("U0EVE", "Details")
	stop()
	if reports.count() != 3 {
		t.Errorf("reported: %+v", reports.all)
	}
}

// A user who presses and presses fills no record: one report a second, with
// the number of the others. Nobody else waits for that, and a stop loses none.
func TestRefusedPressesAreCounted(t *testing.T) {
	w := newWorld(t)
	var reports reported
	var hold atomic.Bool
	release := make(chan struct{})
	_, stop := w.start(reports.to, func(c *bot.Config) {
		c.Sleep = func(ctx context.Context, d time.Duration) error {
			if hold.Load() && d == time.Second {
				<-release
			}
			return w.clock.Sleep(ctx, d)
		}
	})
	a := w.ask(w.request("sql: 1"))
	c := w.card(a.ID, "needs 1")
	hold.Store(true)
	for range 7 {
		w.press(c, approve, "U0EVE")
	}
	w.await("seven answers", func() bool { return len(w.slack.Ephemerals("U0EVE")) == 7 })
	if n := reports.count(); n != 1 {
		t.Errorf("%d reports of one user at once", n)
	}
	w.press(c, approve, "U0ERIN")
	w.told("U0ERIN", "not a member")
	if n := reports.count(); n != 2 {
		t.Errorf("another's press is not reported at once: %d", n)
	}
	close(release)
	stop()
	var more *bot.Repeated
	if len(reports.all) != 3 || !errors.As(reports.all[2].why, &more) || more.Count != 6 || reports.all[2].id != a.ID || reports.all[2].v.Slack.User != "U0EVE" ||
		!strings.Contains(more.Error(), "linked to nobody") {
		t.Errorf("reported: %+v", reports.all)
	}
}
