package enforcer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"countersign/enforcer/budget"
	"countersign/enforcer/upstream"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// What a server may answer when it is asked for its tools; more is a mistake or
// an attack.
const (
	maxPages     = 100
	maxListBytes = 32 << 20 // of all pages, with whatever comes beside them
	maxTools     = 10_000   // on all pages
)

// Offered is a tool as a server offers it.
type Offered struct {
	wire.Tool
	Pin rules.Pin
}

// offered fingerprints a tool.
func offered(t wire.Tool) Offered {
	digest := func(part []byte) string {
		if part == nil {
			return ""
		}
		sum := sha256.Sum256(part)
		return "sha256:" + hex.EncodeToString(sum[:])
	}
	return Offered{t, rules.Pin{
		Title: digest(t.Title), Description: digest(t.Description), Input: digest(t.Input), Output: digest(t.Output),
		Annotations: digest(t.Annotations), Other: digest(t.Other), Required: t.Required,
	}}
}

// asking is how a server is asked something by us: on whose behalf, in which
// era, with what.
type asking struct {
	up      upstream.Upstream
	id      string // of the JSON-RPC requests; a number makes each its own
	meta    string // params._meta as JSON, of the stateless era; "" in the legacy one
	version string // the legacy era's MCP-Protocol-Version; "" to say none
	session string
	holder  string
	inject  upstream.Injection
	live    func() bool               // see upstream.Request
	limits  wire.Limits               // of one message
	room    *budget.Share             // what its messages are counted in; nil: they are not
	works   func(bytes int, f func()) // lets f work on a message when it is its turn

	sent, bytes int
}

// tools asks for every page of tools/list. The error says why the answer cannot
// be relied on; it quotes nothing of it.
func (a *asking) tools(ctx context.Context, each func(Offered)) error {
	cursor := ""
	count := 0
	for range maxPages {
		params := ""
		if a.meta != "" {
			params = `"_meta":` + a.meta
		}
		if cursor != "" {
			params += strings.Repeat(",", min(len(params), 1)) + `"cursor":` + cursor
		}
		err := a.request(ctx, "tools/list", "{"+params+"}", func(m *wire.Message) error {
			list, _ := m.Member(m.Result, "tools")
			if b := m.Bytes(list); len(b) == 0 || b[0] != '[' {
				return fmt.Errorf("%w: its result has no list of tools", errAnswer)
			}
			places := m.Tools()
			if count += len(places); count > maxTools {
				return errTools
			}
			for _, at := range places {
				each(offered(m.Tool(at)))
			}
			next, _ := m.Member(m.Result, "nextCursor")
			if cursor = string(m.Bytes(next)); cursor == "null" {
				cursor = ""
			} else if cursor != "" && cursor[0] != '"' {
				return fmt.Errorf("%w: nextCursor is not a string", errAnswer)
			}
			return nil
		})
		if err != nil || cursor == "" {
			return err
		}
	}
	return fmt.Errorf("%w: its list of tools has more than %d pages", errAnswer, maxPages)
}

var (
	errAnswer = errors.New("the server's answer cannot be used")
	errTools  = fmt.Errorf("%w: it lists more than %d tools", errAnswer, maxTools)
)

// errRefused is a JSON-RPC error as the answer.
type errRefused struct{ code string }

func (e errRefused) Error() string { return "the server answered with error " + e.code }

// request sends one request and has use look at its response, which is held
// until it returns.
func (a *asking) request(ctx context.Context, method, params string, use func(*wire.Message) error) error {
	a.sent++
	id := strconv.Quote(a.id + ":" + strconv.Itoa(a.sent))
	reply, err := a.send(ctx, `{"jsonrpc":"2.0","id":`+id+`,"method":"`+method+`","params":`+params+`}`)
	if err != nil {
		return err
	}
	if method == "initialize" {
		a.session = reply.Session
	}
	if reply.Status == http.StatusUnauthorized || reply.Status == http.StatusForbidden {
		err = fmt.Errorf("%w: HTTP status %d, so it wants another credential", errAnswer, reply.Status)
	} else {
		err = a.response(reply, []byte(id), use)
	}
	if cerr := reply.Close(); err == nil {
		err = cerr
	}
	return err
}

// send sends one message of ours.
func (a *asking) send(ctx context.Context, body string) (*upstream.Reply, error) {
	m, err := wire.Parse([]byte(body), wire.Limits{Bytes: len(body)})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAnswer, err) // by the cursor: the rest is ours, or the caller's as scanned
	}
	header := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	if a.version != "" {
		header.Set("Mcp-Protocol-Version", a.version)
	}
	wire.MirrorHeaders(header, m)
	return a.up.Send(ctx, &upstream.Request{
		Verb: http.MethodPost, Header: header, Body: m.Raw, Message: m, Session: a.session, Holder: a.holder, Inject: a.inject,
		Room: a.room, Live: a.live, Quiet: true,
	})
}

// response reads up to the response to the request of that id. What comes
// before it is dropped: notifications, and requests, which nobody here answers.
func (a *asking) response(reply *upstream.Reply, id []byte, use func(*wire.Message) error) error {
	for {
		ev, err := reply.Next()
		switch {
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%w: it ended without a response (status %d)", errAnswer, reply.Status)
		case err != nil:
			return err
		}
		if a.bytes += len(ev.Raw); a.bytes > maxListBytes {
			return fmt.Errorf("%w: it has more than %d bytes", errAnswer, maxListBytes)
		}
		if len(bytes.TrimSpace(ev.Data)) == 0 {
			reply.Done()
			continue
		}
		var m *wire.Message
		a.works(len(ev.Data), func() {
			if m, err = wire.Parse(ev.Data, a.limits); err != nil {
				err = fmt.Errorf("%w: %w", errAnswer, err)
			} else if m.Kind == wire.Response {
				err = answered(m, id, use)
			}
		})
		reply.Done()
		if err != nil || m.Kind == wire.Response {
			return err
		}
	}
}

// answered has use look at a response that can be used.
func answered(m *wire.Message, id []byte, use func(*wire.Message) error) error {
	if m.ErrorObj.Present() {
		code, _ := m.Member(m.ErrorObj, "code")
		return errRefused{clip(string(m.Bytes(code)), 16)}
	}
	if !sameID(m.ID, id) {
		return fmt.Errorf("%w: it answers another request", errAnswer)
	}
	if kind, ok := m.Member(m.Result, "resultType"); ok {
		if text, _ := m.Text(kind); text != "complete" {
			return fmt.Errorf("%w: its result is not complete", errAnswer)
		}
	}
	return use(m)
}
