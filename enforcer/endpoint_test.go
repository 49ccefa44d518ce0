package enforcer

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"countersign/enforcer/hub"
	"countersign/enforcer/upstream"
	"countersign/enforcer/wire"
)

// told is what a client gets for a refusal.
func told(t *testing.T, x *exchange, message string, ref *refusal) (status int, body string) {
	t.Helper()
	var err error
	if x.msg, err = wire.Parse([]byte(message), wire.Limits{}); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	x.w, x.r = w, httptest.NewRequest(http.MethodPost, "/mcp", nil)
	x.out.w, x.out.r = x.w, x.r
	x.tell(ref, ref.Error())
	return w.Code, w.Body.String()
}

// Whoever repeats a request has to know whether it may have run: not if the
// session was unknown, possibly if it was ended meanwhile.
func TestASessionThatIsGoneSaysWhetherItRan(t *testing.T) {
	const call = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`
	gone := func(more ...error) error { return errors.Join(append(more, upstream.ErrSessionGone)...) }
	for name, c := range map[string]struct {
		err error
		ran bool
	}{
		"unknown there":         {gone(), false},
		"unknown here":          {gone(upstream.ErrNotSent), false},
		"ended while it ran":    {gone(upstream.ErrSessionEnd), true},
		"ended before it began": {gone(upstream.ErrSessionEnd, upstream.ErrNotSent), false},
	} {
		status, body := told(t, &exchange{id: "c_1"}, call, (&exchange{}).upstreamFailed(c.err))
		if status != http.StatusNotFound || !strings.Contains(body, `"status":"no-session"`) || strings.Contains(body, `"ran":"unknown"`) != c.ran {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
}

// A refusal of the hub is told in the form of its era, and never by a status
// that makes a client of the older one drop its session.
func TestRefusalsOfTheHub(t *testing.T) {
	const legacy, modern = `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`
	for _, c := range []struct {
		kind           hub.Kind
		message        string
		status, code   int
		word, moreData string
	}{
		{hub.BadRequest, legacy, 400, -32600, "bad-request", ""},
		{hub.NoSession, legacy, 404, -32000, "no-session", ""},
		{hub.Unknown, legacy, 200, -32602, "bad-request", ""},
		{hub.Unknown, modern, 400, -32602, "bad-request", ""},
		{hub.NoMethod, legacy, 200, -32601, "bad-request", ""},
		{hub.NoMethod, modern, 404, -32601, "bad-request", ""},
		{hub.Version, modern, 400, -32022, "bad-request", `"supported":["2026-07-28"]`},
		{hub.Unavailable, legacy, 200, -32603, "unavailable", ""},
		{hub.Broken, modern, 200, -32603, "error", ""},
		{hub.Cancelled, legacy, 200, -32000, "cancelled", ""},
	} {
		ref := &hub.Refusal{Kind: c.kind, Reason: "so it is"}
		if c.moreData != "" {
			ref.Data = map[string]any{"supported": []string{"2026-07-28"}}
		}
		var inner *refusal
		if !errors.As(hubRefusal(ref), &inner) {
			t.Fatalf("%d: no refusal", c.kind)
		}
		status, body := told(t, &exchange{id: "c_1"}, c.message, inner)
		if status != c.status || !strings.Contains(body, fmt.Sprintf(`"code":%d,`, c.code)) || !strings.Contains(body, `so it is (countersign record c_1)`) ||
			!strings.Contains(body, `"status":"`+c.word+`"`) || !strings.Contains(body, c.moreData) {
			t.Errorf("%d: %d %s", c.kind, status, body)
		}
	}
	if err := errors.New("other"); hubRefusal(err) != err || hubRefusal(nil) != nil {
		t.Error("what is no refusal of the hub was changed")
	}
}
