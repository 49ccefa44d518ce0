package enforcer

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
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
}

func (d *deadlines) SetWriteDeadline(t time.Time) error { d.set, d.last = d.set+1, t; return nil }
func (d *deadlines) SetReadDeadline(time.Time) error    { return nil }

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
