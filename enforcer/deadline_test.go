package enforcer

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"countersign/audit"
	"countersign/enforcer/mask"
)

// deadlines is a connection that remembers its write deadline.
type deadlines struct {
	http.ResponseWriter
	set  int
	last time.Time
	read []time.Time
}

func (d *deadlines) SetWriteDeadline(t time.Time) error { d.set, d.last = d.set+1, t; return nil }
func (d *deadlines) SetReadDeadline(t time.Time) error  { d.read = append(d.read, t); return nil }

// A connection is kept for the next exchange: the deadline of this one's last
// write must not be left on it.
func TestNoDeadlineIsLeftOnTheConnection(t *testing.T) {
	journal, err := audit.Open(audit.Config{Dir: t.TempDir(), Enforcer: "test", Incarnation: "r1"})
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(Config{
		PublicURL: "http://gate.example", Journal: journal, Mask: mask.New(mask.Options{}), DigestKey: make([]byte, 32),
		Now: time.Now, ID: func() string { return "c_1" }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &deadlines{ResponseWriter: httptest.NewRecorder()}
	r := httptest.NewRequest(http.MethodPost, "http://elsewhere.example/mcp/x", nil)
	e.serveMCP(w, r)
	if w.set < 2 || !w.last.IsZero() {
		t.Errorf("the deadline was set %d times, and is %v at the end", w.set, w.last)
	}
	if err := journal.Close(); err != nil {
		t.Fatal(err)
	}
}

// stalled is a body whose sender has gone to sleep: what is read of it comes
// at the connection's deadline.
type stalled struct{}

func (stalled) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

// A body must come in time, and is refused as one that did not; a stream that
// follows a body has no such limit.
func TestSlowBody(t *testing.T) {
	g := newGate(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("half a call was forwarded") }), nil)
	for name, c := range map[string]struct {
		body     io.Reader
		status   int
		words    string
		unlocked bool // the deadline is taken back
	}{
		"stalled": {stalled{}, http.StatusBadRequest, "the request's body did not come within 30s", false},
		"whole":   {strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"vendor/x"}`), http.StatusOK, "No rule", true},
	} {
		answer := httptest.NewRecorder()
		w := &deadlines{ResponseWriter: answer}
		r := httptest.NewRequest(http.MethodPost, g.PublicURL+"/mcp/echo", c.body)
		r.SetPathValue("server", "echo")
		r.Header.Set("Authorization", "Bearer "+g.token)
		r.Header.Set("Content-Type", "application/json")
		g.serveMCP(w, r)
		if answer.Code != c.status || !strings.Contains(answer.Body.String(), c.words) {
			t.Errorf("%s: %d %s", name, answer.Code, answer.Body)
		}
		if len(w.read) == 0 || time.Until(w.read[0]) > bodyLimit || time.Until(w.read[0]) < bodyLimit/2 || c.unlocked != w.read[len(w.read)-1].IsZero() {
			t.Errorf("%s: deadlines of the body: %v", name, w.read)
		}
	}
}
