package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"countersign/audit"
	"countersign/enforcer"
	"countersign/enforcer/mask"
	"countersign/rules"
)

func botCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "bot",
		Short: "Run the Slack bot by itself, beside several enforcers",
		Long: `Runs what asks people and takes their votes, without an enforcer: beside several
enforcers that share COUNTERSIGN_NATS_URL. Give those COUNTERSIGN_BOT=off, so that
they leave the asking to it. Several bots may run; a request has one card.

It reads the same environment as "countersign serve" (see its help), of which it
needs COUNTERSIGN_NATS_URL, SLACK_BOT_TOKEN or the approval page's variables, and a
COUNTERSIGN_ID and a COUNTERSIGN_STATE_DIR of its own: it follows the policy and
keeps a record as an enforcer does. COUNTERSIGN_PUBLIC_URL is where Slack, and
people, reach it. What concerns calls only (Vault, say) it does not use.

GET /readyz says how each part stands, GET /metrics is for Prometheus. SIGTERM
stops it in order.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadConfig(os.Environ())
			if err == nil {
				err = c.checkBot()
			}
			if err != nil {
				return err
			}
			return runBot(cmd.Context(), c)
		},
	}
}

// checkBot holds what a bot needs and an enforcer does not.
func (c config) checkBot() error {
	switch {
	case c.NATSURL == "":
		return errors.New("COUNTERSIGN_NATS_URL is missing: the bot and the enforcers that it works for meet there; without it, an enforcer runs the bot itself")
	case c.SlackBotToken == "" && c.ApprovalsClientID == "":
		return errors.New("SLACK_BOT_TOKEN and COUNTERSIGN_APPROVALS_CLIENT_ID are missing: without either there is nobody to ask")
	}
	return nil
}

// runBot puts the parts together as serve does, without a gate.
func runBot(ctx context.Context, c config) (err error) {
	p := &process{config: c}
	defer func() { err = p.end(ctx, err) }()
	if err := p.prepare(); err != nil {
		return err
	}
	if err := p.listen(); err != nil {
		return err
	}
	if err := p.open(ctx); err != nil {
		return err
	}
	chat, err := newChat(c, p.approvals.book, p.policy, p.record.journal, p.mask, p.log)
	if err != nil {
		return err
	}
	if chat.bot != nil {
		if chat.bot.Desk, err = newDesk(p, nil); err != nil {
			return err
		}
	}
	bots, err := p.approvals.bots(ctx, c, p.mask)
	if err != nil {
		return err
	}
	held := &upheld{config: c, journal: p.record.journal, mask: p.mask}
	p.policy.begin(ctx, held)

	p.begin(ctx)
	p.work("slack", chat.run)
	p.work("alive", func(ctx context.Context) error { return bots.tell(ctx, chat) })

	registry := prometheus.NewRegistry()
	held.metrics(registry)
	p.record.metrics(registry)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", p.readyOf(held, chat))
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	votes, err := newPage(p, p.policy.current)
	if err != nil {
		return err
	}
	p.front.open(mux, votes, chat)
	p.down.addCtx(func(ctx context.Context) error { return errors.Join(p.server.Shutdown(ctx), p.server.Close()) })
	p.log.Info("countersign asks", "url", c.PublicURL, "listen", p.listener.Addr().String(), "incarnation", p.record.journal.Incarnation(), "version", version)
	return p.wait(ctx)
}

// upheld is the policy as a bot holds it: votes are checked under it, and cards
// drawn. One that is too old counts as none.
type upheld struct {
	enforcer.Standing
	config  config
	journal *audit.Journal
	mask    *mask.Mask
	policy  atomic.Pointer[rules.Policy]
}

func (u *upheld) Policy() *rules.Policy {
	if u.Check(time.Now(), u.config.PolicyMaxAge) != nil {
		return nil
	}
	return u.policy.Load()
}

func (u *upheld) Install(p *rules.Policy, confirmed time.Time) {
	u.policy.Store(p)
	u.Confirm(confirmed)
}

func (u *upheld) Confirm(t time.Time) { u.Standing.Confirm(time.Now(), t) }

func (u *upheld) Rejected(reason string) bool { return u.Reject(reason) }

func (u *upheld) RecordPolicy(ctx context.Context, commit, status, reason string, detail any) error {
	en := audit.Entry{Kind: audit.KindPolicy, Policy: commit, Status: status}
	en.Reason, _ = u.mask.Text(reason)
	if detail != nil {
		var err error
		if en.Detail, err = audit.Detail(detail); err != nil {
			return err
		}
	}
	_, err := u.journal.Append(context.WithoutCancel(ctx), en)
	return err
}

// metrics are those of an enforcer that a bot has as well.
func (u *upheld) metrics(reg prometheus.Registerer) {
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	gauge("countersign_policy_age_seconds", "Seconds since a fetch last confirmed the policy's tip.", func() float64 { return u.Age(time.Now()).Seconds() })
	gauge("countersign_policy_rejected", "1 while the newest policy commit is refused and an older one is in force.", func() float64 {
		if u.Standing.Rejected() != "" {
			return 1
		}
		return 0
	})
}

// readyOf answers as an enforcer's /readyz does. That Slack refuses us does not
// make a bot unready: nothing else would reach it that is not there to be
// asked. It is said, under "slack".
func (p *process) readyOf(held *upheld, chat *chat) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		checks, ready := map[string]string{}, true
		check := func(name string, err error) {
			checks[name] = "ok"
			if err != nil {
				checks[name], _ = p.mask.Text(err.Error())
				ready = false
			}
		}
		out := map[string]any{}
		err := held.Check(time.Now(), p.config.PolicyMaxAge)
		if policy := held.policy.Load(); policy != nil {
			out["policy"] = policy.Commit()
		} else {
			err = errors.New("no policy is in force: see policy_rejected, and the log")
		}
		check("policy", err)
		check("journal", p.record.journal.Err())
		check("record", p.record.ready(r.Context()))
		out["ready"], out["checks"] = ready, checks
		if why := held.Standing.Rejected(); why != "" {
			out["policy_rejected"], _ = p.mask.Text(why)
		}
		if err := chat.cardError(""); err != nil && chat.bot != nil {
			out["slack"], _ = p.mask.Text(err.Error())
		}
		w.Header().Set("Content-Type", "application/json")
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		if err := enc.Encode(out); err != nil {
			p.log.Debug("readiness answer not delivered", "err", err)
		}
	}
}
