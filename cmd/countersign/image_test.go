//go:build image

package main

import (
	"context"
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"countersign/fixtures/githost"
	"countersign/fixtures/stage"
)

// These run what .ci/image has built (localhost/countersign:ci and its twin
// with Node), as docs/operate.md says: as nobody, without capabilities, on a
// read-only root.

func podman(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("podman", append([]string{"--runtime", "runc", "--cgroup-manager", "cgroupfs"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// confined is how the containers run, before the image.
var confined = []string{"--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
	"--network", "host", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"}

// contained starts the program in its container on a stage, and waits until it
// is ready.
func contained(t *testing.T, s *stage.Stage) (*program, string) {
	t.Helper()
	// The image's user reads and writes what the stage keeps on disk.
	if err := os.Mkdir(s.Path("state"), 0o700); err != nil {
		t.Fatal(err)
	}
	for dir := s.Dir; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := filepath.WalkDir(s.Dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".git") {
			return fs.SkipDir // served by Git as who we are
		}
		return os.Lchown(path, 65532, 65532)
	}); err != nil {
		t.Fatal(err)
	}
	// There is no Git in the image: it needs one for repositories on disk only.
	host, err := githost.ServeHTTP(s.Dir, "x-access-token", "t0ken")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Close)
	name := "countersign-test-" + filepath.Base(s.Dir)
	args := append([]string{"run", "--detach", "--name", name}, confined...)
	args = append(args, "--volume", s.Path("state")+":/var/lib/countersign", "--volume", s.Dir+":"+s.Dir)
	for _, v := range s.Env(map[string]string{
		"COUNTERSIGN_STATE_DIR": "", "PATH": "", "HOME": "", "COUNTERSIGN_GIT_TOKEN": "t0ken",
		"COUNTERSIGN_POLICY_REPO": host.URL + "/" + filepath.Base(s.Policy.Dir), "COUNTERSIGN_AUDIT_REPO": host.URL + "/" + filepath.Base(s.Audit),
	}) {
		args = append(args, "--env", v)
	}
	podman(t, append(args, "localhost/countersign:ci")...)
	p := &program{t: t, stage: s, log: &buffer{}, done: make(chan struct{})}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(podman(t, "logs", name))
		}
		podman(t, "rm", "--force", "--time", "1", name)
	})
	p.await("ready", func() bool {
		status, _ := p.get("/readyz")
		return status == http.StatusOK
	})
	return p, name
}

func TestTheImage(t *testing.T) {
	s := newStage(t)
	p, name := contained(t, s)

	if out := podman(t, "exec", name, "/usr/bin/countersign", "health"); !strings.Contains(out, `"ready":true`) && !strings.Contains(out, `"ready": true`) {
		t.Errorf("health says %s", out)
	}
	podman(t, "healthcheck", "run", name) // the image's own
	if out := podman(t, "exec", name, "/usr/bin/countersign", "--version"); !strings.Contains(out, "ci") {
		t.Errorf("version %s", out)
	}
	text, isErr := call(t, p.client("customers", p.token("alice", "support")), "query", "SELECT name, api_key FROM customers LIMIT 1")
	if isErr || !strings.Contains(text, "[masked: ") {
		t.Errorf("got %v %s", isErr, text)
	}
	var of []struct {
		Config struct{ User string }
		State  struct{ Pid int }
	}
	if err := json.Unmarshal([]byte(podman(t, "inspect", name)), &of); err != nil || len(of) != 1 || of[0].Config.User != "65532:65532" {
		t.Fatalf("%+v, %v", of, err)
	}
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(of[0].State.Pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65532\t65532", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("it runs without %q:\n%s", want, status)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "podman", "stop", "--time", "60", name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if code := strings.TrimSpace(podman(t, "inspect", "--format", "{{.State.ExitCode}}", name)); code != "0" {
		t.Errorf("it stopped with %s", code)
	}
	if left := s.Vault.Leases(); len(left) != 0 {
		t.Errorf("leases left: %v", left)
	}
	if out, errs, code := command(t, nil, "audit", "verify", "--repo", s.Audit,
		"--commit-signers", s.Path("audit_signers"), "--checkpoint-key", s.Path("checkpoint.pub")); code != 0 {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
}

// The twin runs the same program, and has a Node that servers can be spawned
// with.
func TestTheImageWithNode(t *testing.T) {
	run := func(args ...string) string {
		return podman(t, append(append([]string{"run", "--rm", "--no-healthcheck"}, confined...), args...)...)
	}
	if out := run("localhost/countersign-node:ci", "--version"); !strings.Contains(out, "ci") {
		t.Errorf("version %s", out)
	}
	if out := run("--entrypoint", "/usr/local/bin/node", "localhost/countersign-node:ci", "-p", "process.getuid()"); !strings.HasSuffix(strings.TrimSpace(out), "65532") {
		t.Errorf("Node runs as %s", out)
	}
	out, err := exec.Command("podman", append(append([]string{"--runtime", "runc", "--cgroup-manager", "cgroupfs", "run", "--rm"}, confined...),
		"--entrypoint", "/usr/local/bin/node", "localhost/countersign-node:ci", "-e", "fs.writeFileSync('/x','')")...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "EROFS") && !strings.Contains(string(out), "EACCES") {
		t.Errorf("the root can be written to: %v\n%s", err, out)
	}
}
