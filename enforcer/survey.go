package enforcer

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"countersign/enforcer/upstream"
	"countersign/enforcer/wire"
)

// Survey asks a server for all its tools, as a client of its own: for whoever
// writes tools.lock. inject is what the server wants to see before it answers.
//
// It opens a session first, since every server of the legacy era answers
// initialize, and one that speaks both eras offers the same in both; a server
// that refuses is asked in the stateless era's way. It says that it can do what
// a client can: some tools are offered only to those who can.
func Survey(ctx context.Context, up upstream.Upstream, inject upstream.Injection) ([]Offered, error) {
	const who = `{"name":"countersign","version":"1"}`
	const can = `{"roots":{"listChanged":true},"sampling":{},"elicitation":{}}`
	var tools []Offered
	keep := func(t Offered) { tools = append(tools, t) }
	ask := asking{up: up, id: "countersign", holder: "survey", inject: inject, limits: wire.Limits{Bytes: 8 << 20}, works: func(_ int, f func()) { f() }}
	err := ask.request(ctx, "initialize", `{"protocolVersion":"2025-11-25","capabilities":`+can+`,"clientInfo":`+who+`}`, func(m *wire.Message) error {
		at, _ := m.Member(m.Result, "protocolVersion")
		if ask.version, _ = m.Text(at); ask.version == "" || len(ask.version) > 32 {
			return fmt.Errorf("%w: it opens a session without a protocol version", errAnswer)
		}
		return nil
	})
	var refused errRefused
	var status *upstream.StatusError
	if errors.As(err, &refused) || errors.As(err, &status) {
		ask.session = ""
		ask.meta = `{"` + wire.MetaVersion + `":"` + wire.ModernVersion + `","io.modelcontextprotocol/clientInfo":` + who +
			`,"io.modelcontextprotocol/clientCapabilities":` + can + `}`
		if merr := ask.tools(ctx, keep); merr != nil {
			return nil, fmt.Errorf("initialize: %w; tools/list without a session: %w", err, merr)
		}
		return tools, nil
	}
	if err != nil {
		return nil, err
	}
	reply, err := ask.send(ctx, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	if err != nil {
		return nil, err
	}
	if err := reply.Close(); err != nil {
		return nil, err
	}
	err = ask.tools(ctx, keep)
	if ask.session != "" {
		ask.leave(ctx)
	}
	return tools, err
}

// leave ends the session. A server need not offer that, and forgets it in time:
// nothing that goes wrong here matters.
func (a *asking) leave(ctx context.Context) {
	reply, err := a.up.Send(ctx, &upstream.Request{
		Verb: http.MethodDelete, Header: http.Header{"Mcp-Protocol-Version": {a.version}}, Session: a.session, Holder: a.holder, Inject: a.inject,
	})
	if err == nil {
		_ = reply.Close()
	}
}
