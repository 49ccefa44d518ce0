package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"countersign/audit"
)

// bearer adds the token to each request of the agent.
type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

// called is a call, and what the system says of it.
type called struct {
	result *mcp.CallToolResult
	text   string
	begin  audit.Entry // the intent or the refusal
	end    audit.Entry // the outcome or the refusal
	took   time.Duration
}

// call makes one call of the agent and reads its entries back.
func (t *teller) call(ctx context.Context, tool, sql string) (c called, err error) {
	mark, began := t.journal.end(), time.Now()
	for {
		c.result, err = t.agent.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: map[string]any{"sql": sql}})
		if err != nil {
			return c, err
		}
		if !pending(c.result) {
			break
		}
		// A person took longer than the caller is held: an agent that repeats
		// the identical call attaches to the same approval.
		mark = t.journal.end()
		t.out.aside("still pending; the agent repeats the identical call")
	}
	c.took = time.Since(began)
	for _, part := range c.result.Content {
		if text, ok := part.(*mcp.TextContent); ok {
			c.text += text.Text
		}
	}
	of := func(kinds ...audit.Kind) (audit.Entry, error) {
		return t.journal.findAfter(mark, func(e audit.Entry) bool {
			for _, k := range kinds {
				if e.Kind == k && e.Tool == tool {
					return true
				}
			}
			return false
		})
	}
	if c.begin, err = of(audit.KindIntent, audit.KindRefused); err != nil {
		return c, fmt.Errorf("the call is not in the record: %w", err)
	}
	c.end, err = of(audit.KindOutcome, audit.KindRefused)
	return c, err
}

// pending tells whether the answer is that a person has yet to decide.
func pending(r *mcp.CallToolResult) bool {
	for _, part := range r.Content {
		if text, ok := part.(*mcp.TextContent); ok && r.IsError && strings.HasPrefix(text.Text, "approval pending") {
			return true
		}
	}
	return false
}

func (c called) ms() string { return duration(time.Duration(c.end.Millis * float64(time.Millisecond))) }

func duration(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", max(1, d.Milliseconds()))
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
