package upstream

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shell is a server in the words of a shell: it answers each line with what the
// script says, or with how it failed.
func shell(t *testing.T, script string, r Resources) *stdio {
	t.Helper()
	loop := `while read -r line; do
	out=$( (` + script + `) 2>/dev/null ) && out="ok $out" || out="failed $out"
	printf '{"jsonrpc":"2.0","id":1,"result":{"out":"%s"}}\n' "$out"
done`
	u := Stdio(StdioConfig{Command: []string{"sh", "-c", loop}, Env: []string{"PATH=" + os.Getenv("PATH")}, Resources: r}).(*stdio)
	t.Cleanup(func() { closeUpstream(t, u) })
	return u
}

// Each limit binds the server and what it starts, and nobody else: what goes
// beyond it fails there, and the server goes on.
func TestStdioResources(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	for name, tt := range map[string]struct {
		r      Resources
		script string
		shown  string // by ulimit
		show   string
	}{
		"memory":    {Resources{Memory: 32 << 20}, "head -c 200000000 /dev/zero | tail -c 150000000 | wc -c | grep 150000000", "32768", "ulimit -d"},
		"files":     {Resources{Files: 16}, "bash -c 'exec 20</dev/null'", "16", "ulimit -n"},
		"filesize":  {Resources{FileSize: 4096}, "rm -f " + file + "; head -c 100000 /dev/zero > " + file, "8", "ulimit -f"},
		"processes": {Resources{Processes: 7000}, "false", "7000", "cat /proc/self/limits | grep processes | tr -s ' ' | cut -d' ' -f3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := answer(t, shell(t, tt.show, tt.r), modern(1, "x"))
			if err != nil || !strings.Contains(got, `"ok `+tt.shown+`"`) {
				t.Errorf("%s gives %s, %v; want %s", tt.show, got, err, tt.shown)
			}
			u := shell(t, tt.script, tt.r)
			for range 2 { // the second finds it alive
				if got, err := answer(t, u, modern(1, "x")); err != nil || !strings.Contains(got, `"failed`) {
					t.Errorf("beyond the limit: %s, %v", got, err)
				}
			}
			if name == "processes" { // counts all of the machine's user: no more can be shown of it here
				return
			}
			if got, err := answer(t, shell(t, tt.script, Resources{}), modern(1, "x")); err != nil || !strings.Contains(got, `"ok`) {
				t.Errorf("without a limit: %s, %v", got, err)
			}
		})
	}
}

// Time on the processor is for a process's whole life: then it dies, alone,
// and the error says of what.
func TestStdioCPU(t *testing.T) {
	u := shell(t, "true", Resources{})
	busy := Stdio(StdioConfig{Command: []string{"sh", "-c", "read line; while :; do :; done"}, Resources: Resources{CPU: time.Second}})
	t.Cleanup(func() { closeUpstream(t, busy) })
	if _, err := answer(t, busy, modern(1, "x")); !errors.Is(err, ErrDead) || !strings.Contains(err.Error(), "resources.cpu") {
		t.Errorf("it says: %v", err)
	}
	if _, err := answer(t, u, modern(1, "x")); err != nil {
		t.Errorf("another server: %v", err)
	}
}

// A start that fails within its limits says why, as one without does.
func TestStdioDoesNotStart(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]StdioConfig{
		"no such file":      {Command: []string{"/no/such/program"}},
		"permission denied": {Command: []string{plain}},
		"no such directory": {Command: []string{"/bin/sh"}, Dir: "/no/such/folder"},
	} {
		for _, r := range []Resources{{}, {Files: 64}} {
			cfg.Resources = r
			u := Stdio(cfg)
			_, err := answer(t, u, modern(1, "x"))
			if says, _, _ := strings.Cut(name, " dir"); !errors.Is(err, ErrDead) || !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), says) {
				t.Errorf("%s, %+v: %v", name, r, err)
			}
			closeUpstream(t, u)
		}
	}
}

// A guard that is killed takes the server with it.
func TestStdioGuardIsKilled(t *testing.T) {
	path, connected := listenAt(t)
	u := open(t, "hang", func(c *StdioConfig) { c.Env = append(c.Env, "PEER_SOCKET="+path) })
	ended := make(chan error, 1)
	go func() {
		_, err := u.Send(t.Context(), modern(1, "x"))
		ended <- err
	}()
	child := connected()
	waitFor(t, u, func() bool { return len(u.procs) == 1 })
	u.mu.Lock()
	for p := range u.procs {
		if err := p.guard.cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
	}
	u.mu.Unlock()
	awaitDeath(t, child)
	if err := <-ended; !errors.Is(err, ErrDead) || !strings.Contains(fmt.Sprint(err), "its guard was killed") {
		t.Errorf("the call ended with %v", err)
	}
}
