package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// programs builds the demo and the product beside each other, as `make demo`
// does.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, pkg := range map[string]string{"countersign": "countersign/cmd/countersign", "countersign-demo": "countersign/cmd/demo"} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return filepath.Join(dir, "countersign-demo")
}

// told is what every run has to say, in this order.
var told = []string{
	`policy +git +[0-9a-f]{7} "Role changes need a DBA" +signed by dana@example.com, verified`,
	`identity +oidc +alice \(support\), by way of the agent "desk-assistant"`,
	`upstream +customers, .* credentials from Vault: customers-ro, customers-rw`,
	`1  The agent reads customers, for alice +allowed +\d+ ms`,
	`rule support-reads-customers \(rules/customers.yaml:\d+\)`,
	`credential customers-ro minted as v-customers-ro-`,
	`\[masked: stripe\]`,
	`2  It tries the table with the password hashes +denied`,
	`3  It tries to slip out of the read-only transaction +denied`,
	`4  It wants to upgrade a plan +waiting for a DBA`,
	`sql: UPDATE customers SET plan = 'pro' WHERE id = 7`,
	`\[Approve\] \[Deny\]`,
	`bob pressed Approve; it ran once +allowed`,
	`customers-rw was minted for this one call and revoked after it`,
	`5  It asks for something bob does not like +waiting for a DBA`,
	`bob denied this call: "Ask billing first" +denied`,
	`6  Somebody replays alice's token for another service +refused`,
	`HTTP 401: invalid_token: its audience is not`,
	`(?m)^  [0-9a-f]{7} .*1 approved by bob`,
	`git verify-commit [0-9a-f]{7} +Good "git" signature for demo@countersign.invalid`,
	`audit verify +\d+ entries, \d+ checkpoints?, all links hold`,
	// Where the newest commit has one entry only, no line of it is left to tell when.
	`one byte changed in a copy → +entry \d+ does not match the (tree signed|signed tree)`,
	`All of it came out as told`,
}

func isTold(t *testing.T, out string) {
	t.Helper()
	rest := out
	for _, want := range told {
		at := regexp.MustCompile(want).FindStringIndex(rest)
		if at == nil {
			t.Fatalf("it does not tell (in its place): %s\n%s", want, out)
		}
		rest = rest[at[1]:]
	}
	if strings.Contains(out, "\x1b") {
		t.Errorf("colours, though this is no terminal:\n%q", out)
	}
	for line := range strings.Lines(out) {
		// The lines that connect a client are for copying, and stay whole.
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > plainWidth+30 && !strings.Contains(line, "COUNTERSIGN_DEMO_TOKEN") && !strings.Contains(line, " --repo ") {
			t.Errorf("a line of %d characters: %s", n, line)
		}
	}
}

// running is a demo under way.
type running struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string
	out   strings.Builder
	tmp   string
}

func run(t *testing.T, program string, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // one that hangs
	t.Cleanup(cancel)
	r := &running{t: t, cmd: exec.CommandContext(ctx, program, args...), lines: make(chan string, 1000), tmp: t.TempDir()}
	r.cmd.Env = append(os.Environ(), "TMPDIR="+r.tmp)
	pipe, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.cmd.Stderr = r.cmd.Stdout
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for s := bufio.NewScanner(pipe); s.Scan(); {
			r.lines <- s.Text()
		}
		close(r.lines)
	}()
	return r
}

// until reads on until a line matches, and gives its first group.
func (r *running) until(pattern string) string {
	r.t.Helper()
	re := regexp.MustCompile(pattern)
	for line := range r.lines {
		r.out.WriteString(line + "\n")
		if m := re.FindStringSubmatch(line); m != nil {
			return m[1]
		}
	}
	r.t.Fatalf("it never says %s:\n%s", pattern, r.out.String())
	return ""
}

// end waits for a good end, and looks for what was left behind.
func (r *running) end() string {
	r.t.Helper()
	for line := range r.lines {
		r.out.WriteString(line + "\n")
	}
	if err := r.cmd.Wait(); err != nil {
		r.t.Fatalf("%v\n%s", err, r.out.String())
	}
	if left, err := os.ReadDir(r.tmp); err != nil || len(left) > 0 {
		r.t.Errorf("left behind: %v, %v", left, err)
	}
	return r.out.String()
}

func TestTheStory(t *testing.T) {
	program := programs(t)
	t.Run("by itself", func(t *testing.T) {
		t.Parallel()
		isTold(t, run(t, program).end())
	})
	t.Run("a person presses", func(t *testing.T) {
		t.Parallel()
		interactive(t, run(t, program, "--interactive"))
	})
	t.Run("it stays", func(t *testing.T) {
		t.Parallel()
		keep(t, run(t, program, "--keep"))
	})
	t.Run("a word too many", func(t *testing.T) {
		t.Parallel()
		out, err := exec.Command(program, "now").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "usage: make demo") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

var cardTS = regexp.MustCompile(`name="ts" value="([^"]+)"`)

// at reads the page as the person sees it, with the card to press on.
func at(t *testing.T, page string) (text, ts string) {
	t.Helper()
	resp, err := http.Get(page)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if m := cardTS.FindStringSubmatch(string(b)); m != nil {
		ts = m[1]
	}
	return string(b), ts
}

func press(t *testing.T, page, origin, ts, what, reason string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, page+"press", strings.NewReader(url.Values{"ts": {ts}, "what": {what}, "reason": {reason}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", origin)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// interactive plays the person: clumsy, but in the end as the story wants.
func interactive(t *testing.T, r *running) {
	page := r.until(`your turn: (http://127\.0\.0\.1:\d+/)`)
	self := strings.TrimSuffix(page, "/")
	text, ts := at(t, page)
	if ts == "" || !strings.Contains(text, "UPDATE customers SET plan = &#39;pro&#39; WHERE id = 7") {
		t.Fatalf("no card to press on:\n%s", text)
	}
	if code, _ := press(t, page, "http://elsewhere.example", ts, "approve", ""); code != http.StatusForbidden {
		t.Errorf("another page pressed: %d", code)
	}
	if code, body := press(t, page, self, "1.0", "approve", ""); code != http.StatusOK || !strings.Contains(body, "card has changed") {
		t.Errorf("an old card: %d %s", code, body)
	}
	for range 2 { // a double click
		if code, body := press(t, page, self, ts, "approve", ""); code != http.StatusSeeOther && !strings.Contains(body, "It was not accepted") {
			t.Errorf("%d %s", code, body)
		}
	}
	page = r.until(`your turn: (http://127\.0\.0\.1:\d+/)`)
	text, ts = at(t, page)
	if !strings.Contains(text, "DELETE FROM customers") {
		t.Fatalf("not the second card:\n%s", text)
	}
	if code, body := press(t, page, self, ts, "deny", ""); code != http.StatusOK || !strings.Contains(body, "It was not accepted") {
		t.Errorf("a denial without a reason: %d %s", code, body)
	}
	if code, body := press(t, page, self, ts, "deny", "Ask billing first"); code != http.StatusSeeOther {
		t.Errorf("%d %s", code, body)
	}
	isTold(t, r.end())
}

// keep connects as the lines say, and ends it as a person would.
func keep(t *testing.T, r *running) {
	token := r.until(`export COUNTERSIGN_DEMO_TOKEN=(\S+)`)
	endpoint := r.until(`claude mcp add --transport http customers (\S+) --header "Authorization: Bearer \$COUNTERSIGN_DEMO_TOKEN"`)
	r.until(`(code --add-mcp)`)
	r.until(`(npx @modelcontextprotocol/inspector)`)
	log := r.until(`the record +(\S.*)$`)
	proof := r.until(`its proof +(\S.*)$`)
	page := r.until(`the buttons +(\S+)$`)
	if text, _ := at(t, page); !strings.Contains(text, "#db-approvals") {
		t.Errorf("the page: %s", text)
	}
	req, err := http.NewRequest(http.MethodPost, endpoint, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"query","arguments":{"sql":"SELECT 1"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if cerr := resp.Body.Close(); err != nil || cerr != nil || resp.StatusCode != http.StatusOK || strings.Contains(string(b), "isError\":true") {
		t.Errorf("%d %s, %v %v", resp.StatusCode, b, err, cerr)
	}
	// What was called is in the record with the next push.
	for command, want := range map[string]string{log: "query", proof: "all links hold"} {
		words := strings.Fields(command)
		for ctx, cancel := context.WithTimeout(t.Context(), time.Minute); ; {
			out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput()
			if err == nil && strings.Contains(string(out), want) {
				cancel()
				break
			}
			if ctx.Err() != nil {
				t.Errorf("%s: %v\n%s", command, err, out)
				cancel()
				break
			}
		}
	}
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	isTold(t, r.end())
}
