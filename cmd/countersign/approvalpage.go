package main

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"countersign/audit"
	"countersign/enforcer"
	"countersign/enforcer/approval"
	"countersign/enforcer/approval/api"
	"countersign/enforcer/approval/page"
	"countersign/enforcer/approval/signin"
	"countersign/rules"
)

// checkApprovals holds what makes a sign-in to the approval page worth
// something: a client of its own, whose tokens are good for nothing else.
func (c config) checkApprovals(bad func(name, format string, args ...any)) {
	if c.ApprovalsClientID == "" {
		if c.ApprovalsClientSecret != "" || c.ApprovalsIssuer != "" {
			bad("COUNTERSIGN_APPROVALS_CLIENT_ID", "missing: there is no approval page without it, and the other COUNTERSIGN_APPROVALS_* do nothing")
		}
		return
	}
	if c.OIDCAudience == "" { // as loadConfig will have it
		c.OIDCAudience = c.PublicURL
	}
	if id := c.ApprovalsClientID; c.forMCP(id) || id == c.operateAudience() {
		bad("COUNTERSIGN_APPROVALS_CLIENT_ID", "%q is an audience that tokens for MCP, or for operating, name: register a client of its own, so that no such token is good for a vote", id)
	}
	if c.ApprovalsIssuer == "" && len(c.OIDCIssuers) != 1 {
		bad("COUNTERSIGN_APPROVALS_ISSUER", "missing: say which of the %d issuers people sign in at", len(c.OIDCIssuers))
	}
	// Who asks and who approves are compared as issuer and sub: at an issuer of
	// which no agent has a token, everybody would be somebody else.
	if c.ApprovalsIssuer != "" && !slices.Contains(c.OIDCIssuers, c.ApprovalsIssuer) {
		bad("COUNTERSIGN_APPROVALS_ISSUER", "%q: want one of COUNTERSIGN_OIDC_ISSUERS, or nobody's own request could be told from others'", c.ApprovalsIssuer)
	}
	if u, err := url.Parse(c.PublicURL); err == nil && u.Scheme != "https" && u.Hostname() != "localhost" && !net.ParseIP(u.Hostname()).IsLoopback() {
		bad("COUNTERSIGN_PUBLIC_URL", "%q: browsers keep the cookies of the approval page (COUNTERSIGN_APPROVALS_CLIENT_ID) over https only", c.PublicURL)
	}
}

// votes is the client as which people sign in to vote.
func (c config) votes() (*signin.Client, error) {
	issuer := c.ApprovalsIssuer
	if issuer == "" {
		issuer = c.OIDCIssuers[0]
	}
	return signin.New(signin.Config{Issuer: issuer, ID: c.ApprovalsClientID, Secret: c.ApprovalsClientSecret, Scopes: c.ApprovalsScopes,
		GroupsClaim: c.OIDCGroupsClaim, AllowHTTP: true, Now: time.Now})
}

// newPage makes the approval page, whose votes count under policy; nil where
// none is configured.
func newPage(p *process, policy func() *rules.Policy) (*page.Page, error) {
	if p.config.ApprovalsClientID == "" {
		return nil, nil
	}
	client, err := p.config.votes()
	if err != nil {
		return nil, err
	}
	seal, err := approval.NewSeal(p.key)
	if err != nil {
		return nil, err
	}
	return page.New(page.Config{
		PublicURL: p.config.PublicURL, SignIn: client, Book: p.approvals.book, Logins: p.approvals.book.Logins, Seal: seal, Policy: policy,
		Source: func(r *http.Request) string { return enforcer.Source(r, p.config.TrustedProxies) }, Now: time.Now, Log: p.log,
		Refused: p.refusedVote,
		Failed: func(ctx context.Context, source string, why error) {
			if err := recordFailedSignIn(ctx, p, source, why); err != nil {
				p.log.Error("a failed sign-in could not be recorded", "err", err)
			}
		},
	})
}

// newBallots is what the gate's API for the command line needs; without a client
// to sign in as, nobody votes there.
func newBallots(p *process) (api.Config, error) {
	b := api.Config{Logins: p.approvals.book.Logins, Refused: p.refusedVote}
	var err error
	if b.Seal, err = approval.NewSeal(p.key); err != nil || p.config.ApprovalsClientID == "" {
		return b, err
	}
	b.Page = p.config.PublicURL
	b.SignIn, err = p.config.votes()
	return b, err
}

// refusedVote records a vote that did not count.
func (p *process) refusedVote(ctx context.Context, id string, v approval.Vote, why error) {
	if err := recordRefusedVote(ctx, p.record.journal, p.mask, id, v, why, p.policy.commit()); err != nil {
		p.log.Error("a vote that did not count could not be recorded", "approval", id, "err", err)
	}
}

// recordFailedSignIn writes that somebody did not get into the approval page.
// The page sees to it that these do not fill the journal.
func recordFailedSignIn(ctx context.Context, p *process, source string, why error) error {
	detail, err := audit.Detail(map[string]any{"source": source, "door": "page"})
	if err != nil {
		return err
	}
	reason, _ := p.mask.Text(brief(why.Error()))
	_, err = p.record.journal.Append(context.WithoutCancel(ctx), audit.Entry{
		Kind: audit.KindLogin, Policy: p.policy.commit(), Status: audit.StatusRefused, Reason: reason, Detail: detail,
	})
	return err
}
