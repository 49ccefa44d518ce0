package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"countersign/audit"
	cosigning "countersign/audit/witness"
	"countersign/gitsync"
)

// outside is who else holds the record's checkpoints: witnesses, who cosign
// them, and the other enforcers of the same repository, whose checkpoints are
// recorded here, as ours are there. Either may be nil.
type outside struct {
	witnesses  *cosigning.Client
	neighbours *audit.Neighbours
}

// witnessTime is what a push waits for witnesses at most.
const witnessTime = 5 * time.Second

func openOutside(c config, at *atomic.Pointer[site], record func(context.Context, audit.Entry) error, log *slog.Logger) (o outside, err error) {
	if c.AuditWitnesses != "" {
		b, err := os.ReadFile(c.AuditWitnesses)
		if err != nil {
			return o, fmt.Errorf("COUNTERSIGN_AUDIT_WITNESSES: %w", err)
		}
		q, err := audit.ParseQuorum(b)
		if err != nil {
			return o, fmt.Errorf("COUNTERSIGN_AUDIT_WITNESSES: %w", err)
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		o.witnesses, err = cosigning.NewClient(cosigning.ClientConfig{
			Quorum: q, Limit: witnessTime, Now: time.Now, Log: log,
			HTTP: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		})
		if err != nil {
			return o, fmt.Errorf("COUNTERSIGN_AUDIT_WITNESSES: %w", err)
		}
	}
	if c.AuditPeerKeys != "" {
		b, err := os.ReadFile(c.AuditPeerKeys)
		if err != nil {
			return o, fmt.Errorf("COUNTERSIGN_AUDIT_PEER_KEYS: %w", err)
		}
		keys, err := audit.ParseLogKeys(b)
		if err != nil {
			return o, fmt.Errorf("COUNTERSIGN_AUDIT_PEER_KEYS: %w", err)
		}
		o.neighbours, err = audit.NewNeighbours(audit.NeighboursConfig{
			Enforcer: c.ID, Keys: keys, Where: func() string { return at.Load().name }, Look: lookAt(at), Append: record, Now: time.Now, Log: log,
		})
		if err != nil {
			return o, err
		}
	}
	return o, nil
}

// lookTime bounds a look at the others' branches.
const lookTime = 2 * time.Minute

// lookAt is the repository of now as neighbours want to see it.
func lookAt(at *atomic.Pointer[site]) func(context.Context, string, func(map[string]string) map[string]string) ([]audit.Sighting, error) {
	return func(ctx context.Context, name string, choose func(map[string]string) map[string]string) ([]audit.Sighting, error) {
		ctx, cancel := context.WithTimeout(ctx, lookTime)
		defer cancel()
		now := at.Load()
		if now.name != name {
			return nil, fmt.Errorf("the log went on in %s just now", now.name)
		}
		seen, err := now.repo.Peek(ctx, func(tips map[string]string) (wants []gitsync.Want) {
			for branch, since := range choose(tips) {
				wants = append(wants, gitsync.Want{Branch: branch, Since: since})
			}
			return wants
		})
		var all []audit.Sighting
		for _, s := range seen {
			to := audit.Sighting{Branch: s.Branch, Err: s.Err, GoneBack: errors.Is(s.Err, gitsync.ErrRejected)}
			for _, c := range s.Commits {
				to.Hashes = append(to.Hashes, c.Hash)
				to.Commits = append(to.Commits, audit.Commit{Tree: c.Tree, Parents: c.Parents, When: c.When, Message: c.Message, Raw: c.Raw})
			}
			all = append(all, to)
		}
		return all, err
	}
}

// run watches the others until ctx ends.
func (o *outside) run(ctx context.Context) {
	if o.neighbours != nil {
		o.neighbours.Run(ctx)
	}
}

func (o *outside) metrics(reg prometheus.Registerer) {
	if o.witnesses != nil {
		reg.MustRegister(standings{o.witnesses})
	}
	if o.neighbours != nil {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "countersign_anchor_forked", Help: "Logs of other enforcers that are no longer what was recorded of them: a person must look.",
		}, func() float64 { return float64(len(o.neighbours.Forked())) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "countersign_anchor_logs", Help: "Logs of other enforcers of which a checkpoint is recorded here.",
			}, func() float64 { logs, _ := o.neighbours.Recorded(); return float64(logs) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "countersign_anchor_last_timestamp_seconds", Help: "When the last of them was recorded; 0 if none was.",
			}, func() float64 { _, last := o.neighbours.Recorded(); return unixOrZero(last) }))
	}
}

func unixOrZero(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}

// standings are the witnesses' metrics.
type standings struct{ client *cosigning.Client }

var (
	witnessSize   = witnessMetric("countersign_witness_cosigned_entries", "Entries of the tree that the witness cosigned last, in this run.")
	witnessTimes  = witnessMetric("countersign_witness_cosigned_timestamp_seconds", "When that was, by the witness's clock; 0 if it never did.")
	witnessFailed = witnessMetric("countersign_witness_failures_total", "Times that the witness was asked and gave no cosignature.")
	witnessForked = witnessMetric("countersign_witness_forked", "1 when the witness has seen another history of our log: a person must look.")
)

func witnessMetric(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, []string{"witness"}, nil)
}

func (s standings) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{witnessSize, witnessTimes, witnessFailed, witnessForked} {
		ch <- d
	}
}

func (s standings) Collect(ch chan<- prometheus.Metric) {
	for _, w := range s.client.Standings() {
		forked := 0.0
		if w.Forked {
			forked = 1
		}
		for _, m := range []struct {
			desc *prometheus.Desc
			kind prometheus.ValueType
			v    float64
		}{
			{witnessSize, prometheus.GaugeValue, float64(w.Size)}, {witnessTimes, prometheus.GaugeValue, unixOrZero(w.Cosigned)},
			{witnessFailed, prometheus.CounterValue, float64(w.Failed)}, {witnessForked, prometheus.GaugeValue, forked},
		} {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.v, w.Witness)
		}
	}
}
