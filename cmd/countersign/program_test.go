package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"countersign/fixtures/stage"
)

// The tests of this package run the whole program as a process of its own: the
// test binary, told by an environment variable to be countersign.
const asProgram = "COUNTERSIGN_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// command runs countersign to its end and returns what it printed.
func command(t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(append(os.Environ(), asProgram+"=1"), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// program is a running `countersign serve`.
type program struct {
	t     *testing.T
	stage *stage.Stage
	cmd   *exec.Cmd
	log   *buffer
	done  chan struct{}
	err   error // of the process, once done
}

// buffer collects output that is written and read at once.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// newStage sets a stage that the test takes down.
func newStage(t *testing.T) *stage.Stage {
	t.Helper()
	s, err := stage.Set(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// serving starts the program and waits until it is ready.
func serving(t *testing.T, s *stage.Stage, more map[string]string) *program {
	t.Helper()
	p := starting(t, s, more)
	p.await("ready", func() bool {
		status, _ := p.get("/readyz")
		return status == http.StatusOK
	})
	return p
}

// starting starts the program, and waits for nothing.
func starting(t *testing.T, s *stage.Stage, more map[string]string) *program {
	t.Helper()
	return running(t, s, "serve", more)
}

// running is starting, of another subcommand.
func running(t *testing.T, s *stage.Stage, subcommand string, more map[string]string) *program {
	t.Helper()
	p := &program{t: t, stage: s, log: &buffer{}, done: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], subcommand)
	p.cmd.Env = append(s.Env(more), asProgram+"=1")
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("log of the program:\n%s", p.log)
		}
	})
	return p
}

// patience is how long a test waits for what must come: far longer than it
// takes, so that a machine under load, or the race detector, fails nothing.
const patience = 2 * time.Minute

// await polls until cond holds; it fails with the log after a while.
func (p *program) await(what string, cond func() bool) {
	p.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-p.done:
			p.t.Fatalf("the program ended while waiting for %q: %v\n%s", what, p.err, p.log)
		case <-deadline:
			p.t.Fatalf("waited too long for %q", what)
		case <-tick.C:
		}
	}
}

// within takes what comes next by a channel; it fails the test if nothing comes.
func within[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(2 * patience):
		t.Fatalf("waited too long for %s", what)
		panic("unreachable")
	}
}

// stop ends the program in order, and checks that it ended well.
func (p *program) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("the program does not stop")
	}
	if p.err != nil {
		p.t.Fatalf("the program stopped badly: %v\n%s", p.err, p.log)
	}
}

// kill ends the program as a crash would.
func (p *program) kill() {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Error(err)
	}
	<-p.done
}

func (p *program) get(path string) (int, string) {
	// As long as the program opens what it needs, its port is open and nobody
	// answers: a probe that waits for long is one that failed.
	client := http.Client{Timeout: time.Minute}
	resp, err := client.Get(p.stage.URL + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// token is a support agent's, or fails the test.
func (p *program) token(sub string, groups ...string) string {
	p.t.Helper()
	tok, err := p.stage.Token(sub, groups, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return tok
}

// bearer adds a token to each request.
type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

// client connects the official Go SDK's client.
func (p *program) client(server, token string) *mcp.ClientSession {
	p.t.Helper()
	c := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	s, err := c.Connect(p.t.Context(), &mcp.StreamableClientTransport{
		Endpoint: p.stage.URL + "/mcp/" + server, HTTPClient: &http.Client{Transport: bearer(token)}, MaxRetries: -1,
	}, nil)
	if err != nil {
		p.t.Fatalf("connect: %v", err)
	}
	p.t.Cleanup(func() { _ = s.Close() }) // the program may have been killed under it
	return s
}

// call calls a tool with one sql argument and returns the text of its result.
func call(t *testing.T, s *mcp.ClientSession, tool, sql string) (text string, isError bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	res, err := s.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: map[string]any{"sql": sql}})
	if err != nil {
		t.Fatalf("%s %q: %v", tool, sql, err)
	}
	var b strings.Builder
	for _, c := range res.Content {
		if tc, ok := c.(*mcp.TextContent); ok {
			b.WriteString(tc.Text)
		}
	}
	if res.StructuredContent != nil {
		j, err := json.Marshal(res.StructuredContent)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(j)
	}
	return b.String(), res.IsError
}

// post sends one raw body, as a client of the legacy era without a session.
func (p *program) post(server, token, body string, header map[string]string) (int, http.Header, string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.stage.URL+"/mcp/"+server, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for k, v := range header {
		if k == "Host" {
			req.Host = v
		} else {
			req.Header.Set(k, v)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// git runs stock Git on a repository.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// recorded reads every entry of the record from the remote repository.
func recorded(t *testing.T, s *stage.Stage) []map[string]any {
	t.Helper()
	var entries []map[string]any
	for _, branch := range strings.Fields(git(t, s.Audit, "for-each-ref", "--format=%(refname)", "--sort=creatordate", "refs/heads/audit")) {
		for _, file := range strings.Fields(git(t, s.Audit, "ls-tree", "-r", "--name-only", branch)) {
			if !strings.HasSuffix(file, ".jsonl") {
				continue
			}
			for line := range strings.Lines(git(t, s.Audit, "cat-file", "blob", fmt.Sprintf("%s:%s", branch, file))) {
				var en map[string]any
				if err := json.Unmarshal([]byte(line), &en); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				entries = append(entries, en)
			}
		}
	}
	return entries
}
