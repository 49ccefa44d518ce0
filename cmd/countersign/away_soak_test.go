package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"countersign/audit"
	"countersign/fixtures/githost"
	"countersign/fixtures/mishap"
)

// TestAwaySoak has the record's Git host fail, in one way after the other, while
// the program serves calls without a pause: until its journal is full and calls
// are refused, with the reason; and then come back. What is under way at the
// bound ends all the same; calls go on once there is room; and in the end Git
// holds what the journal held, and every call that a client saw succeed.
//
// COUNTERSIGN_SOAK_OUTAGES says how many outages (`make soak`: 40).
func TestAwaySoak(t *testing.T) {
	t.Parallel()
	outages := soakNumber(t, "COUNTERSIGN_SOAK_OUTAGES", 4)
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	hang, hung := make(chan chan struct{}, 1), make(chan struct{}, 1)
	u.answerWith(func(_ http.ResponseWriter, r *http.Request, _ json.RawMessage, _, tool string) bool {
		if tool == "once" { // it ends when the test says so
			end := <-hang
			hung <- struct{}{}
			select {
			case <-end:
			case <-r.Context().Done():
			}
		}
		return false
	})
	host, err := githost.ServeHTTP(s.Dir, "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Close)
	git, err := mishap.Start(host.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := git.Close(); err != nil {
			t.Error(err)
		}
	})
	p := serving(t, s, map[string]string{"COUNTERSIGN_AUDIT_WINDOW": "100ms", "COUNTERSIGN_AUDIT_JOURNAL_MAX": "262144",
		"COUNTERSIGN_AUDIT_REPO": git.URL + "/audit.git"})
	alice := p.token("alice", "support")

	var through, refused atomic.Int64
	var words atomic.Value                   // of the last refusal
	var outage atomic.Pointer[chan struct{}] // closed when it is over
	none := make(chan struct{})
	close(none)
	outage.Store(&none)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var callers sync.WaitGroup
	for range 6 {
		callers.Go(func() {
			for ctx.Err() == nil {
				a, err := p.send(t.Context(), "probe", alice, toolCall("echo", "x"), func(*http.Request) {})
				switch {
				case err != nil:
					t.Errorf("a call: %v", err)
					return
				case a.text == "ran echo":
					through.Add(1)
				case a.code == -32603 && strings.Contains(a.text, "journal is full"):
					words.Store(a.text)
					refused.Add(1)
					select { // one refusal each will do
					case <-*outage.Load():
					case <-ctx.Done():
					}
				default:
					t.Errorf("a call was answered with %+v", a)
					return
				}
			}
		})
	}
	const info, push = "/info/refs", "/git-receive-pack"
	for n := range outages {
		way := []string{"down", "half-open", "refused by a hook", "dies with the pack"}[n%4]
		release, over := make(chan struct{}), make(chan struct{})
		outage.Store(&over)
		end := make(chan struct{})
		hang <- end
		underWay := p.asking(t.Context(), "probe", alice, toolCall("once", "x"))
		select {
		case <-hung:
		case a := <-underWay:
			t.Fatalf("%s: what should be under way was answered with %+v", way, a)
		}
		switch way {
		case "down":
			git.Set(mishap.Fault{Path: info, CutBefore: true})
		case "half-open":
			git.Set(mishap.Fault{Path: info, Held: release})
		case "refused by a hook":
			if err := githost.RefusePushes(s.Audit, "quota exceeded"); err != nil {
				t.Fatal(err)
			}
		case "dies with the pack":
			git.Set(mishap.Fault{Path: push, CutAfter: true})
		}
		before := refused.Load()
		p.await(way+": the alert at half", func() bool { return p.gauge("countersign_journal_alert") == "1" })
		p.await(way+": the bound", func() bool { return refused.Load() > before })
		close(end)
		if a := <-underWay; a.text != "ran once" {
			t.Errorf("%s: what was under way at the bound was answered with %+v", way, a)
		}
		git.Clear()
		close(release)
		if err := githost.RefusePushes(s.Audit, ""); err != nil {
			t.Fatal(err)
		}
		p.await(way+": no alert", func() bool { return p.gauge("countersign_journal_alert") == "0" })
		close(over)
		went := through.Load()
		p.await(way+": calls again", func() bool { return through.Load() > went+10 })
	}
	cancel()
	callers.Wait()
	t.Logf("%d outages: %d calls went through, %d were refused: %v", outages, through.Load(), refused.Load(), words.Load())
	p.stop()
	verified(t, s)
	published, kept := recorded(t, s), p.journal()
	if len(published) != len(kept) {
		t.Errorf("%d entries published, %d in the journal", len(published), len(kept))
	}
	ended := map[string]int{}
	good := 0
	for _, en := range published {
		if en["kind"] == string(audit.KindOutcome) {
			if ended[fmt.Sprint(en["call"])]++; en["status"] == audit.StatusOK && en["tool"] == "echo" {
				good++
			}
		}
	}
	for call, times := range ended {
		if times != 1 {
			t.Errorf("call %s ended %d times", call, times)
		}
	}
	if good != int(through.Load()) || u.ran("echo") != good {
		t.Errorf("%d calls went through, %d reached the server, %d are recorded so", through.Load(), u.ran("echo"), good)
	}
	if segments, err := filepath.Glob(s.Path("state/journal/*")); err != nil || len(segments) != 1 {
		t.Errorf("the program was started once: %v %v", segments, err)
	}
}
