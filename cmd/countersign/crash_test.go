package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"countersign/audit"
	"countersign/fixtures/slack"
	"countersign/fixtures/stage"
)

// killed ends the program as a crash does, and checks that this run did not
// get to say so in its record.
func (p *program) killed() (run []audit.Entry) {
	p.t.Helper()
	p.kill()
	run = p.journal()
	if last := run[len(run)-1]; last.Kind == audit.KindStop {
		p.t.Fatalf("the run ended in order: %+v", last)
	}
	return run
}

// linked checks that a run's first entry names the last checkpoint of the run
// before, and that all of that one is published.
func linked(t *testing.T, s *stage.Stage, dead []audit.Entry, after *program) {
	t.Helper()
	var starts []audit.Start
	for _, en := range after.entries(func(en audit.Entry) bool { return en.Kind == audit.KindStart }) {
		var d audit.Start
		if err := json.Unmarshal(en.Detail, &d); err != nil {
			t.Fatal(err)
		}
		starts = append(starts, d)
	}
	last := starts[len(starts)-1]
	before := starts[len(starts)-2]
	if !strings.HasPrefix(last.Previous, before.Enforcer+"/"+before.Incarnation+"\n") {
		t.Errorf("the run after the crash does not name the checkpoint of the one before: %+v", last)
	}
	after.await("the dead run's record in Git", func() bool {
		n := 0
		branches := strings.Fields(git(t, s.Audit, "for-each-ref", "--format=%(refname)", "refs/heads/audit/"+before.Enforcer+"/"+before.Incarnation))
		for _, branch := range branches {
			for _, file := range strings.Fields(git(t, s.Audit, "ls-tree", "-r", "--name-only", branch)) {
				if strings.HasSuffix(file, ".jsonl") {
					n += strings.Count(git(t, s.Audit, "cat-file", "blob", branch+":"+file), "\n")
				}
			}
		}
		return n == len(dead)
	})
}

// runTokens counts the Vault tokens of runs of enforcers.
func runTokens(s *stage.Stage) (n int) {
	for _, name := range s.Vault.Tokens() {
		if strings.Contains(name, "countersign-run") {
			n++
		}
	}
	return n
}

// A crash while a caller waits loses nothing: the same card decides the same
// approval after the restart, and an identical call runs on it.
func TestCrashWhileWaiting(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waiting := p.asking(ctx, "probe", alice, toolCall("risky", "crash"))
	card := awaitCard(t, s, "crash")
	p.await("the card in the record", func() bool { // claimed, then posted
		return len(p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindApproval && en.Status == "card" })) >= 2
	})
	id, _ := p.event("risky", "asked")
	dead := p.killed()
	<-waiting

	again := serving(t, s, nil)
	// Until the bot has learnt from Slack who it is, a press is refused in
	// Slack's sight, and a person presses again. None is taken and lost.
	again.await("a press that is taken", func() bool {
		err := s.Slack.Press(t.Context(), card, button(t, card, "approve"), stage.SlackBob)
		var status *slack.Status
		if errors.As(err, &status) && status.Code == http.StatusServiceUnavailable {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	})
	if got := again.awaitEvent("risky", "approved"); got != id {
		t.Errorf("approved %s, asked %s", got, id)
	}
	if u.ran("risky") != 0 {
		t.Error("it ran though nobody waits")
	}
	if a := again.ask("probe", alice, toolCall("risky", "crash")); a.text != "ran risky" || u.ran("risky") != 1 {
		t.Errorf("got %+v after %d runs", a, u.ran("risky"))
	}
	if got := again.awaitEvent("risky", "spent"); got != id {
		t.Errorf("spent %s, asked %s", got, id)
	}
	if n := len(s.Slack.Cards(stage.Channel)); n != 1 {
		t.Errorf("%d cards for one approval", n)
	}
	if dangling := again.entries(func(en audit.Entry) bool { return en.Kind == audit.KindRecovered }); len(dangling) != 0 {
		t.Errorf("nothing was under way, yet: %+v", dangling)
	}
	linked(t, s, dead, again)
	again.stop()
	verified(t, s)
}

// A crash while the upstream works on an approved call: it may have run, the
// record says so, its credential is gone before the next run is ready, and the
// approval is spent.
func TestCrashDuringASpentCall(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	hang := make(chan struct{})
	t.Cleanup(sync.OnceFunc(func() { close(hang) }))
	arrived := make(chan struct{}, 1)
	u.answerWith(func(w http.ResponseWriter, r *http.Request, _ json.RawMessage, _, tool string) bool {
		if tool != "spend" {
			return false
		}
		arrived <- struct{}{}
		select {
		case <-hang:
		case <-r.Context().Done():
		}
		return true
	})
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waiting := p.asking(ctx, "probe", alice, toolCall("spend", "crash"))
	card := awaitCard(t, s, "crash")
	if err := s.Slack.Press(t.Context(), card, button(t, card, "approve"), stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	within(t, arrived, "the call at the server")
	left := s.Vault.Leases()
	if len(left) != 1 {
		t.Fatalf("leases: %v", left)
	}
	dead := p.killed()
	<-waiting
	id, _ := p.event("spend", "spent")
	intent := p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindIntent && en.Tool == "spend" })
	if id == "" || len(intent) != 1 {
		t.Fatalf("approval %q, intents %+v", id, intent)
	}

	again := serving(t, s, nil)
	if now := s.Vault.Leases(); len(now) != 0 || runTokens(s) != 1 {
		t.Errorf("ready with leases %v, run tokens %d", now, runTokens(s))
	}
	recovered := func() []audit.Entry {
		return again.entries(func(en audit.Entry) bool { return en.Kind == audit.KindRecovered })
	}
	r := recovered()
	if len(r) != 1 || r[0].Call != intent[0].Call || r[0].Status != audit.StatusUnknown || r[0].Approval != id || !strings.Contains(r[0].Reason, "may have run") {
		t.Errorf("recovered: %+v", r)
	}
	// The caller's next identical call hears that; the one after asks again: the
	// spent approval never runs twice.
	u.answerWith(nil)
	if got := again.ask("probe", alice, toolCall("spend", "crash")); !strings.Contains(got.text, "may have run") {
		t.Errorf("after the crash its caller is told %+v", got)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	retry := again.asking(ctx, "probe", alice, toolCall("spend", "crash"))
	again.await("another question", func() bool {
		asked := again.entries(func(en audit.Entry) bool { return en.Kind == audit.KindApproval && en.Status == "asked" })
		return len(asked) == 2 && asked[1].Approval != id
	})
	if err := s.Slack.Press(t.Context(), card, button(t, card, "approve"), stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	told(t, s, stage.SlackBob, "This is decided already")
	if u.ran("spend") != 1 {
		t.Errorf("it ran %d times", u.ran("spend"))
	}
	cancel()
	<-retry
	linked(t, s, dead, again)
	again.stop()
	third := serving(t, s, nil)
	if r := recovered(); len(r) != 1 {
		t.Errorf("closed again by the run after: %+v", r)
	}
	third.stop()
	if out := verified(t, s); !strings.Contains(out, "all links hold") {
		t.Errorf("three runs are not linked:\n%s", out)
	}
}

// A crash of an idle enforcer leaves a holder's lease, which the next run ends
// before it is ready.
func TestCrashIdleWithALease(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	if a := p.ask("probe", alice, toolCall("leak", "x")); a.text != "ran leak" {
		t.Fatalf("got %+v", a)
	}
	old := s.Vault.Leases()
	if len(old) != 1 {
		t.Fatalf("leases: %v", old)
	}
	dead := p.killed()
	if now := s.Vault.Leases(); !slices.Equal(now, old) {
		t.Fatalf("leases after the crash: %v", now)
	}
	again := serving(t, s, nil)
	if now := s.Vault.Leases(); len(now) != 0 || runTokens(s) != 1 {
		t.Errorf("ready with leases %v, run tokens %d", now, runTokens(s))
	}
	if got := again.entries(func(en audit.Entry) bool { return en.Kind == audit.KindCredential && en.Status == "recover" }); len(got) == 0 {
		t.Error("the record does not say that credentials were taken back")
	}
	if a := again.ask("probe", alice, toolCall("leak", "x")); a.text != "ran leak" {
		t.Errorf("got %+v", a)
	}
	if now := s.Vault.Leases(); len(now) != 1 || now[0] == old[0] {
		t.Errorf("leases: %v", now)
	}
	linked(t, s, dead, again)
	again.stop()
	if now := s.Vault.Leases(); len(now) != 0 || runTokens(s) != 0 {
		t.Errorf("stopped with leases %v, run tokens %d", now, runTokens(s))
	}
	verified(t, s)
}

// With Vault away at the restart, the enforcer is not ready until it has taken
// the last run's credentials back.
func TestCrashThenVaultSealed(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	p := serving(t, s, nil)
	if a := p.ask("probe", p.token("alice", "support"), toolCall("leak", "x")); a.text != "ran leak" {
		t.Fatalf("got %+v", a)
	}
	p.killed()
	s.Vault.Seal(true)
	again := starting(t, s, nil)
	again.await("a try", func() bool { return s.Vault.Hits("auth/approle/login") >= 2 })
	if status, _ := again.get("/readyz"); status == http.StatusOK {
		t.Error("ready though the last run's credentials live")
	}
	s.Vault.Seal(false)
	again.await("readiness", func() bool { status, _ := again.get("/readyz"); return status == http.StatusOK })
	if now := s.Vault.Leases(); len(now) != 0 {
		t.Errorf("ready with leases %v", now)
	}
	again.stop()
}

// A stop in order lets the call under way finish, sends who waits for a person
// home, ends streams that have no end, and leaves no credential.
func TestStopWhileCallsAreUnderWay(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	arrived, release := make(chan string, 2), make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	t.Cleanup(free)
	u.answerWith(func(w http.ResponseWriter, r *http.Request, _ json.RawMessage, _, tool string) bool {
		switch {
		case tool == "once":
			arrived <- tool
			<-release
			return false
		case r.Method == http.MethodGet:
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(http.StatusOK)
			if err := http.NewResponseController(w).Flush(); err != nil {
				return true
			}
			arrived <- "stream"
			<-r.Context().Done()
			return true
		}
		return false
	})
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	init, err := p.send(t.Context(), "probe", alice, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	stream := make(chan error, 1)
	go func() {
		_, err := p.send(t.Context(), "probe", alice, "", func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = http.MethodGet, http.NoBody, 0
			r.Header.Set("Mcp-Session-Id", init.header.Get("Mcp-Session-Id"))
		})
		stream <- err
	}()
	within(t, arrived, "the call at the server")
	waiting := p.asking(t.Context(), "probe", alice, toolCall("risky", "stop"))
	awaitCard(t, s, "stop")
	working := p.asking(t.Context(), "probe", alice, toolCall("once", "stop"))
	within(t, arrived, "the call at the server")
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if a := <-waiting; !a.failed || !strings.Contains(a.text, "the enforcer is restarting; approval ap_") || !strings.Contains(a.text, "repeat the identical call") {
		t.Errorf("who waited got %+v", a)
	}
	if err := <-stream; err != nil {
		t.Errorf("the stream broke: %v", err)
	}
	late := p.ask("probe", alice, toolCall("echo", "late"))
	if late.code != -32603 || !strings.Contains(late.text, "the enforcer is stopping") {
		t.Errorf("who came late got %+v", late)
	}
	free()
	done := <-working
	if done.text != "ran once" {
		t.Errorf("who was under way got %+v", done)
	}
	<-p.done
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit %d\n%s", code, p.log)
	}
	if now := s.Vault.Leases(); len(now) != 0 || runTokens(s) != 0 {
		t.Errorf("stopped with leases %v, run tokens %d", now, runTokens(s))
	}
	run := p.journal()
	if last := run[len(run)-1]; last.Kind != audit.KindStop {
		t.Errorf("the last entry is %+v", last)
	}
	p.wants(late.record, audit.KindRefused, "unavailable")
	if n := len(recorded(t, s)); n != len(run) {
		t.Errorf("%d entries published, %d in the journal", n, len(run))
	}
	verified(t, s)
}

// A call that outlasts the grace of a stop is cut off: its credential is gone,
// and its end is in the record, if only by the next run.
func TestStopCutsOffWhatLasts(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	arrived := make(chan struct{}, 1)
	u.answerWith(func(_ http.ResponseWriter, r *http.Request, _ json.RawMessage, _, tool string) bool {
		if tool == "once" {
			arrived <- struct{}{}
			<-r.Context().Done()
		}
		return tool == "once"
	})
	p := serving(t, s, map[string]string{"COUNTERSIGN_SHUTDOWN_GRACE": "1s"})
	alice := p.token("alice", "support")
	working := p.asking(t.Context(), "probe", alice, toolCall("once", "cut"))
	within(t, arrived, "the call at the server")
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-p.done
	if a := <-working; a.text == "ran once" {
		t.Errorf("got %+v", a)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(p.log.String(), "calls still under way at the end of the grace period") {
		t.Errorf("exit %d", code)
	}
	if now := s.Vault.Leases(); len(now) != 0 {
		t.Errorf("stopped with leases %v", now)
	}
	again := serving(t, s, nil)
	intents := again.entries(func(en audit.Entry) bool { return en.Kind == audit.KindIntent && en.Tool == "once" })
	if len(intents) != 1 {
		t.Fatalf("intents: %+v", intents)
	}
	ends := again.entries(func(en audit.Entry) bool {
		return en.Call == intents[0].Call && (en.Kind == audit.KindOutcome || en.Kind == audit.KindRecovered)
	})
	if len(ends) != 1 || ends[0].Status == "ok" {
		t.Errorf("ends: %+v", ends)
	}
	again.stop()
	verified(t, s)
}

// A crash after an approval is spent, and before the intent is in the record:
// nothing ran, and the next run closes the approval so. The approval is gone.
func TestCrashBetweenSpendingAndIntent(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	hang := make(chan struct{})
	t.Cleanup(sync.OnceFunc(func() { close(hang) }))
	arrived := make(chan struct{}, 1)
	u.answerWith(func(_ http.ResponseWriter, r *http.Request, _ json.RawMessage, _, tool string) bool {
		if tool != "risky" {
			return false
		}
		arrived <- struct{}{}
		select {
		case <-hang:
		case <-r.Context().Done():
		}
		return true
	})
	p := serving(t, s, map[string]string{"COUNTERSIGN_AUDIT_WINDOW": "1m"})
	alice := p.token("alice", "support")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waiting := p.asking(ctx, "probe", alice, toolCall("risky", "between"))
	card := awaitCard(t, s, "between")
	if err := s.Slack.Press(t.Context(), card, button(t, card, "approve"), stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	within(t, arrived, "the call at the server")
	p.killed()
	<-waiting
	// The moment to die at is too short to hit, so its journal is made: cut off
	// before the intent. (The probe did run; the record of that world cannot know.)
	files, err := filepath.Glob(s.Path("state/journal/*/*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	lines, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	end := bytes.Index(lines, []byte(`"kind":"intent"`))
	spent := bytes.Index(lines, []byte(`"status":"spent"`))
	if spent < 0 || end < spent {
		t.Fatalf("spent at %d, intent at %d", spent, end)
	}
	if err := os.Truncate(files[0], int64(bytes.LastIndexByte(lines[:end], '\n')+1)); err != nil {
		t.Fatal(err)
	}

	u.answerWith(nil)
	again := serving(t, s, nil)
	finished := again.entries(func(en audit.Entry) bool { return en.Kind == audit.KindApproval && en.Status == "finished" })
	if len(finished) != 1 || !strings.Contains(string(finished[0].Detail), `"outcome":"`+audit.StatusNotRun+`"`) {
		t.Errorf("finished: %+v", finished)
	}
	if r := again.entries(func(en audit.Entry) bool { return en.Kind == audit.KindRecovered }); len(r) != 0 {
		t.Errorf("recovered: %+v", r)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	retry := again.asking(ctx, "probe", alice, toolCall("risky", "between"))
	again.await("another question", func() bool { return again.happened("risky", "asked") == 2 })
	cancel()
	<-retry
	if u.ran("risky") != 1 {
		t.Errorf("it ran %d times", u.ran("risky"))
	}
	again.stop()
	verified(t, s)
}
