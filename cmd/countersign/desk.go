package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"countersign/audit"
	"countersign/bot"
	"countersign/enforcer"
	"countersign/enforcer/approval"
	"countersign/enforcer/freeze"
	"countersign/rules"
)

// desk does for /countersign in Slack what the command line does by way of the
// control socket, through the same handlers: the same checks, the same record.
// The operator is the person whom the bot found, and how they came.
type desk struct {
	p       *process
	gate    http.Handler // what everybody may ask
	control http.Handler // what the operator in the context may ask
}

type operatorKey struct{}

// newDesk is what the bot of this process may ask of it. A bot without an
// enforcer has no gate: then it links people, and freezes nothing.
func newDesk(p *process, gate *enforcer.Enforcer) (bot.Desk, error) {
	d := &desk{p: p}
	out := bot.Desk{Refused: d.refused}
	if gate != nil {
		d.gate = gate.Handler()
		d.control = gate.Control(func(r *http.Request) freeze.Operator {
			by, _ := r.Context().Value(operatorKey{}).(freeze.Operator)
			return by
		})
		out.Status, out.Freeze, out.Unfreeze, out.Frozen = d.status, d.freeze, d.unfreeze, d.frozen
	}
	if p.config.ApprovalsClientID == "" {
		return out, nil // nowhere to sign in
	}
	seal, err := approval.NewSeal(p.key)
	if err != nil {
		return out, err
	}
	inForce := p.policy.current // a bot's own is none while it is too old
	if gate != nil {
		inForce = gate.VotesUnder
	}
	linking := &approval.Linking{Logins: p.approvals.book.Logins, Seal: seal}
	out.Link = func(_ context.Context, team, user, name string) (string, error) {
		token, err := linking.Begin(inForce(), approval.SlackUser{Team: team, User: user, Name: name})
		return p.config.PublicURL + "/approvals/link?token=" + url.QueryEscape(token), err
	}
	out.Linked = func(ctx context.Context, team, user, code string) (string, error) {
		policy := inForce()
		l, err := linking.Accept(ctx, policy, team, user, code)
		if err != nil {
			return "", err
		}
		if person, ok := policy.Person(l.Issuer, l.Sub); ok {
			return person.Name, nil
		}
		return orElse(l.Email, l.Sub), nil
	}
	return out, nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// answered is an http.ResponseWriter that keeps what it is given.
type answered struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answered) Header() http.Header         { return a.header }
func (a *answered) WriteHeader(status int)      { a.status = status }
func (a *answered) Write(b []byte) (int, error) { return a.body.Write(b) }

// ask has a handler answer within this process, and reads its JSON into out. An
// error says what the answer's "error" says.
func ask(ctx context.Context, h http.Handler, method, address string, body, out any) (status int, err error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	r, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(raw))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	w := &answered{header: http.Header{}, status: http.StatusOK}
	h.ServeHTTP(w, r)
	var said struct{ Error string }
	if err := json.Unmarshal(w.body.Bytes(), &said); err != nil {
		return w.status, fmt.Errorf("unreadable answer (%d): %w", w.status, err)
	}
	if said.Error != "" {
		return w.status, errors.New(said.Error)
	}
	return w.status, json.Unmarshal(w.body.Bytes(), out)
}

func (d *desk) status(ctx context.Context) []string {
	var ready struct {
		Ready    bool
		Policy   string
		Rejected string `json:"policy_rejected"`
		Checks   map[string]string
	}
	if _, err := ask(ctx, d.gate, http.MethodGet, d.p.config.PublicURL+"/readyz", nil, &ready); err != nil {
		return []string{"whether it is ready cannot be told: " + err.Error()}
	}
	lines := []string{"ready: calls are served"}
	if !ready.Ready {
		lines = []string{"not ready: calls are refused"}
		for name, state := range ready.Checks {
			if state != "ok" {
				lines = append(lines, name+": "+state)
			}
		}
		slices.Sort(lines[1:])
	}
	lines = append(lines, "policy: "+orElse(ready.Policy, "none in force"))
	if ready.Rejected != "" {
		lines = append(lines, "a newer policy was rejected: "+ready.Rejected)
	}
	frozen := d.frozen()
	if len(frozen) == 0 {
		return append(lines, "nothing is frozen")
	}
	return append(append(lines, "frozen:"), frozen...)
}

func (d *desk) frozen() []string {
	var out struct {
		Freezes []freeze.Freeze
		Unknown string
	}
	if _, err := ask(context.Background(), d.control, http.MethodGet, "http://desk/freezes", nil, &out); err != nil {
		return []string{"what is frozen cannot be told: " + err.Error()}
	}
	var lines []string
	for _, f := range out.Freezes {
		lines = append(lines, fmt.Sprintf("%s  %s, by %s since %s: %s", f.ID, f.Target, f.By, f.Since.UTC().Format("2006-01-02 15:04 MST"), f.Reason))
	}
	if out.Unknown != "" {
		lines = append(lines, out.Unknown)
	}
	return lines
}

// operating is a context in which the person operates, by way of Slack.
func operating(ctx context.Context, by rules.Person, from approval.SlackProof) context.Context {
	name := fmt.Sprintf("%s (Slack user %s of %s)", by.Name, from.User, from.Team)
	return context.WithValue(ctx, operatorKey{}, freeze.Operator{Name: name, Issuer: by.Issuer, Sub: by.Sub})
}

func (d *desk) freeze(ctx context.Context, t bot.Target, reason string, by rules.Person, from approval.SlackProof) (string, error) {
	body := struct {
		freeze.Target
		Reason string `json:"reason"`
	}{freeze.Target{All: t.All, Client: t.Client, Server: t.Server, Tool: t.Tool}, reason}
	if t.Subject != "" {
		var ok bool
		if body.Issuer, body.Sub, ok = strings.Cut(t.Subject, "#"); !ok || body.Issuer == "" || body.Sub == "" {
			return "", fmt.Errorf("subject=%s: want ISSUER#SUB, as the record has them", t.Subject)
		}
	}
	var f struct {
		freeze.Freeze
		Warning string
	}
	if _, err := ask(operating(ctx, by, from), d.control, http.MethodPost, "http://desk/freezes", body, &f); err != nil {
		return "", err
	}
	said := fmt.Sprintf("Frozen: %s. /countersign unfreeze %s lifts it.", f.Target, f.ID)
	if f.Warning != "" {
		said += " But: " + f.Warning
	}
	return said, nil
}

func (d *desk) unfreeze(ctx context.Context, id string, by rules.Person, from approval.SlackProof) (string, error) {
	var f freeze.Freeze
	if _, err := ask(operating(ctx, by, from), d.control, http.MethodDelete, "http://desk/freezes/"+url.PathEscape(id), nil, &f); err != nil {
		return "", err
	}
	return fmt.Sprintf("Unfrozen: %s.", f.Target), nil
}

// refused writes what somebody asked for in Slack and did not get.
func (d *desk) refused(ctx context.Context, what string, who approval.Voter, from approval.SlackProof, why error) {
	kind := audit.KindFreeze
	if strings.HasPrefix(what, "link") {
		kind = audit.KindLogin
	}
	asked, _ := d.p.mask.Text(brief(what))
	detail, err := audit.Detail(map[string]any{"asked": asked, "slack": from, "person": who.Person})
	if err == nil {
		reason, _ := d.p.mask.Text(brief(why.Error()))
		_, err = d.p.record.journal.Append(context.WithoutCancel(ctx), audit.Entry{
			Kind: kind, Call: randomID("c_"), Policy: d.p.policy.commit(), Issuer: who.Issuer, Sub: who.Sub, Method: "Slack /countersign",
			Status: audit.StatusRefused, Reason: reason, Detail: detail,
		})
	}
	if err != nil {
		d.p.log.Error("what was refused in Slack could not be recorded", "asked", asked, "err", err)
	}
}
