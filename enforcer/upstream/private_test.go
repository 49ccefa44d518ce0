package upstream

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func withPrivate(dir string) func(*StdioConfig) {
	return func(cfg *StdioConfig) { cfg.Private = dir }
}

func withFile(id int, key string) *Request {
	r := modern(id, "tools/list")
	r.Inject = Injection{Key: key, Files: []File{{Env: "KEY", Content: "hunter2 of " + key + "\n"}, {Env: "OTHER", Content: ""}}}
	return r
}

// A process finds its files where its environment says, nobody else may read
// them, and they go with the process, or with the lease.
func TestStdioPrivateFiles(t *testing.T) {
	t.Chdir(t.TempDir()) // where a relative state directory would be
	if err := os.MkdirAll("private/of-a-crash", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := ClearPrivate("private"); err != nil {
		t.Fatal(err)
	}
	dir := "private"
	u := open(t, "mirror", withPrivate(dir), func(cfg *StdioConfig) { cfg.Dir = "/" })
	files := func() []string {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(dir, "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if rest, err := os.ReadDir(dir); err != nil || len(rest) != 0 {
		t.Errorf("left of a crash: %v %v", rest, err)
	}
	paths := map[string]string{}
	for i, key := range []string{"one", "two"} {
		path := mirror(t, u, withFile(i, key)).Result.Key
		if again := mirror(t, u, withFile(i, key)).Result.Key; again != path {
			t.Errorf("the same process has %s and %s", path, again)
		}
		b, err := os.ReadFile(path)
		if err != nil || string(b) != "hunter2 of "+key+"\n" {
			t.Errorf("%s holds %q, %v", path, b, err)
		}
		for at, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700 | os.ModeDir, dir: 0o700 | os.ModeDir} {
			if info, err := os.Stat(at); err != nil || info.Mode() != want {
				t.Errorf("%s: %v, %v", at, info.Mode(), err)
			}
		}
		paths[key] = path
	}
	if paths["one"] == paths["two"] || len(files()) != 4 {
		t.Errorf("two leases have %v", files())
	}
	u.EndKey("one")
	if _, err := os.Stat(paths["one"]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the lease: %v", err)
	}
	if _, err := os.Stat(paths["two"]); err != nil {
		t.Errorf("another's: %v", err)
	}
	u.mu.Lock()
	var other *process
	for p := range u.procs {
		if p.slot.key == "two" {
			other = p
		}
	}
	u.mu.Unlock()
	other.kill(ErrDead)
	<-other.gone
	if left := files(); len(left) != 0 {
		t.Errorf("after the processes: %v", left)
	}
	mirror(t, u, withFile(1, "three"))
	closeUpstream(t, u)
	if rest, err := os.ReadDir(dir); err != nil || len(rest) != 0 {
		t.Errorf("after the end: %v %v", rest, err)
	}
}

// A lease may end while a message that needs it waits for room for its process:
// none is started with it then, since nobody would end it again.
func TestStdioStartsNothingWithALeaseThatEnded(t *testing.T) {
	dir := t.TempDir()
	u := open(t, "stubborn", withPrivate(dir), func(cfg *StdioConfig) { cfg.MaxProcesses, cfg.Grace = 1, time.Hour })
	first := withFile(1, "one")
	first.Message, first.Body = modern(1, "ping").Message, modern(1, "ping").Body
	if _, err := answer(t, u, first); err != nil {
		t.Fatal(err)
	}
	var one *process
	u.mu.Lock()
	for p := range u.procs {
		one = p
	}
	u.mu.Unlock()
	u.EndKey("one")
	ended := make(chan error, 1)
	go func() {
		_, err := u.Send(t.Context(), withFile(2, "two"))
		ended <- err
	}()
	waitFor(t, u, func() bool { return u.leases["two"] != nil })
	u.EndKey("two")
	one.kill(ErrDead)
	if err := <-ended; !errors.Is(err, errKeyEnded) || !errors.Is(err, ErrNotSent) {
		t.Errorf("got %v", err)
	}
	waitFor(t, u, func() bool { return len(u.procs) == 0 })
	if rest, err := os.ReadDir(dir); err != nil || len(rest) != 0 || len(u.leases) != 0 {
		t.Errorf("left: %v %v %v", rest, u.leases, err)
	}
}

func TestStdioPrivateFilesCannotBeMade(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		private string
		command string
		want    string
	}{
		"no folder":        {"", "", "no folder for its private files"},
		"a folder is gone": {filepath.Join(dir, "gone"), "", "private files cannot be written: no such file"},
		"no server":        {dir, "/nonexistent", "cannot start it"},
	} {
		t.Run(name, func(t *testing.T) {
			u := open(t, "mirror", withPrivate(tt.private), func(cfg *StdioConfig) {
				if tt.command != "" {
					cfg.Command = []string{tt.command}
				}
			})
			_, err := answer(t, u, withFile(1, "one"))
			if !errors.Is(err, ErrNotSent) || !errors.Is(err, ErrDead) || !strings.Contains(err.Error(), tt.want) ||
				strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v", err)
			}
			if rest, err := os.ReadDir(dir); err != nil || len(rest) != 0 {
				t.Errorf("left: %v %v", rest, err)
			}
		})
	}
}
