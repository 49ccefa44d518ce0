package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"countersign/audit"
	"countersign/enforcer"
	"countersign/enforcer/freeze"
	"countersign/rules"
)

// openFreezes loads what is frozen, before anything is served. The embedded
// store is held against the journal, which is the authority there; an external
// cluster is its own.
func openFreezes(ctx context.Context, c config, a *approvals, r *record, names enforcer.Names, policy *policyFollower, log *slog.Logger) (*freeze.Board, error) {
	bucket, err := a.store.Bucket(ctx, "freezes")
	if err != nil {
		return nil, err
	}
	board := freeze.New(freeze.Config{Bucket: bucket, Now: time.Now, Log: log, Record: func(ctx context.Context, f freeze.Freeze, event string, by freeze.Operator) error {
		return recordFreeze(ctx, r.journal, f, event, by, names, policy.current())
	}})
	if c.NATSURL != "" {
		err = board.Load(ctx)
	} else {
		err = board.Restore(ctx, r.recovery.Standing, r.recovery.Lifted)
	}
	if err != nil {
		return nil, err
	}
	for _, f := range board.List() {
		log.Warn("frozen", "freeze", f.ID, "what", f.Target.String(), "by", f.By, "since", f.Since, "reason", f.Reason)
	}
	return board, nil
}

// recordFreeze writes what became of a freeze, the whole of it in the detail:
// next to the embedded store, freezes are rebuilt from these entries. Its words
// were masked before it was set.
func recordFreeze(ctx context.Context, journal *audit.Journal, f freeze.Freeze, event string, by freeze.Operator, names enforcer.Names, now *rules.Policy) error {
	f, sealed, err := names.Frozen(now, f)
	if err != nil {
		return err
	}
	en := audit.Entry{
		Kind: audit.KindFreeze, Call: f.ID, Policy: commitOf(now), Issuer: by.Issuer, Sub: by.Sub, Server: f.Server, Tool: f.Tool, Status: event,
	}
	since := f.Since.UTC().Format("2006-01-02 15:04:05 MST")
	switch {
	case f.ID == "":
		en.Reason = by.Name + " discarded freezes that could not be read"
	case event == freeze.EventUnfrozen:
		why := ""
		if by.Why != "" {
			why = " (" + by.Why + ")"
		}
		en.Reason = fmt.Sprintf("%s unfroze %s%s, frozen by %s since %s: %s", by.Name, f.Target, why, f.By, since, f.Reason)
	case event == freeze.EventStanding:
		en.Reason = fmt.Sprintf("%s, frozen by %s since %s: %s", f.Target, f.By, since, f.Reason)
	default:
		en.Reason = fmt.Sprintf("%s froze %s: %s", f.By, f.Target, f.Reason)
	}
	detail := map[string]any{"by": by.Name}
	if by.Why != "" {
		detail["why"] = by.Why
	}
	if f.ID != "" {
		detail["freeze"] = json.RawMessage(f.Encode())
		if sealed != "" {
			detail["sealed"] = sealed
		}
	}
	if en.Detail, err = audit.Detail(detail); err != nil {
		return err
	}
	_, err = journal.Append(context.WithoutCancel(ctx), en)
	return err
}

// forMCP tells whether a token for that audience may call MCP, or might one day:
// whatever is below our URL.
func (c config) forMCP(audience string) bool {
	return audience != c.operateAudience() &&
		(audience == c.OIDCAudience || audience == c.PublicURL || strings.HasPrefix(audience, c.PublicURL+"/"))
}

// operateAudience is what a token that may freeze must name in aud.
func (c config) operateAudience() string { return strings.TrimSuffix(c.OIDCAudience, "/") + "/operate" }
