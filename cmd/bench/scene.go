package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"countersign/fixtures/stage"
)

// What is measured: ways to get to the server, and kinds of its answers.
var (
	ways  = []string{"direct", "bare", "countersign"}
	kinds = []string{"json", "sse"}
)

// scene is everything that runs during the benchmark.
type scene struct {
	dir     string
	stage   *stage.Stage
	bases   map[string]string // URL by way
	clients map[string]*http.Client
	token   string
	parts   []*part          // the product last
	between map[string]*part // by way
}

// part is a process of the scene.
type part struct {
	cmd  *exec.Cmd
	in   io.Closer // ends it, if not nil; a signal does otherwise
	out  *bytes.Buffer
	done chan error
}

// setScene starts server, proxy and product, and waits until all answer.
func setScene(ctx context.Context, o options, dir string) (s *scene, err error) {
	s = &scene{dir: dir, bases: map[string]string{}, clients: map[string]*http.Client{}, between: map[string]*part{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	for _, w := range ways {
		s.clients[w] = newClient()
	}
	server, err := s.role("server", "")
	if err != nil {
		return s, err
	}
	s.bases["direct"] = "http://" + server
	bare, err := s.role("bare", s.bases["direct"])
	if err != nil {
		return s, err
	}
	s.bases["bare"], s.between["bare"] = "http://"+bare, s.parts[len(s.parts)-1]
	if s.stage, err = stage.Set(dir); err != nil {
		return s, err
	}
	if err := s.writePolicy(o.sizes); err != nil {
		return s, err
	}
	if s.token, err = s.stage.Token("alice", []string{"support"}, nil); err != nil {
		return s, err
	}
	s.bases["countersign"] = s.stage.URL + "/mcp"
	if err := s.startProduct(ctx, o); err != nil {
		return s, err
	}
	return s, s.settle(ctx)
}

// settle waits until the product is done with what it does after it is ready,
// in the background: the SQL parser is compiled then, for seconds of CPU time
// that would fall on whoever takes the first turn. It is done when it took next
// to nothing for a second; half a minute must do.
func (s *scene) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for before, calm := time.Duration(-1), 0; calm < 4; {
		now := s.cpu("countersign")
		if calm++; before < 0 || now-before > 20*time.Millisecond {
			calm = 0
		}
		before = now
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil
			}
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// target is where a way begins.
func (s *scene) target(way, kind string, size int) target {
	path := fmt.Sprintf("%s/%d", kind, size)
	if way == "countersign" {
		path = serverName(kind, size)
	}
	return target{url: s.bases[way] + "/" + path, token: s.token, client: s.clients[way], size: size}
}

// role starts a part of this very program, and returns its address.
func (s *scene) role(role, server string) (addr string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleVar+"="+role, serverVar+"="+server)
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	p, err := s.start(cmd)
	if err != nil {
		return "", err
	}
	p.in = in
	addr, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s did not start: %w", role, err)
	}
	go func() { p.done <- cmd.Wait() }()
	return strings.TrimSpace(addr), nil
}

func (s *scene) start(cmd *exec.Cmd) (*part, error) {
	p := &part{cmd: cmd, out: &bytes.Buffer{}, done: make(chan error, 1)}
	cmd.Stderr = p.out
	// A Ctrl-C is for the benchmark, which then stops the parts in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.parts = append(s.parts, p)
	return p, nil
}

// product is the path of countersign.
func (o options) product() (string, error) {
	program := o.program
	if program == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		program = filepath.Join(filepath.Dir(self), "countersign")
	}
	if _, err := os.Stat(program); err != nil {
		return "", fmt.Errorf("the program itself is not there: run `make bench` (%w)", err)
	}
	return program, nil
}

// startProduct starts countersign as an operator would.
func (s *scene) startProduct(ctx context.Context, o options) error {
	program, err := o.product()
	if err != nil {
		return err
	}
	env := map[string]string{
		"COUNTERSIGN_AUDIT_WINDOW": "10s", "COUNTERSIGN_POLICY_POLL": "15s", // as by default
		"COUNTERSIGN_AUDIT_JOURNAL_MAX": "8589934592", // a run of -duration 1m must not fill it
	}
	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return err
		}
		path, err := filepath.Abs(filepath.Join(o.profile, "countersign.cpu.pprof"))
		if err != nil {
			return err
		}
		env["COUNTERSIGN_CPU_PROFILE"] = path
	}
	cmd := exec.Command(program, "serve")
	cmd.Env = s.stage.Env(env)
	p, err := s.start(cmd)
	if err != nil {
		return err
	}
	s.between["countersign"] = p
	go func() { p.done <- cmd.Wait() }()
	return s.awaitReady(ctx, p)
}

// cpu is the CPU time that the process between has taken so far, user and
// system: fields 14 and 15 of proc_pid_stat(5), in hundredths of a second.
// Zero where there is none, or no /proc.
func (s *scene) cpu(way string) time.Duration {
	p := s.between[way]
	if p == nil {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, after, _ := bytes.Cut(b, []byte(") ")) // the name may hold spaces
	fields := strings.Fields(string(after))
	if len(fields) < 13 {
		return 0
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func (s *scene) awaitReady(ctx context.Context, p *part) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.stage.URL+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := s.clients["countersign"].Do(req); err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			if err = errors.Join(err, resp.Body.Close()); err == nil && resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-p.done:
			p.done <- err
			return fmt.Errorf("countersign did not start: %v\n%s", err, p.out)
		case <-ctx.Done():
			return fmt.Errorf("countersign is not ready: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// close stops the parts, the newest first, and takes the stage down. A
// product that does not stop in order is an error.
func (s *scene) close() error {
	var errs []error
	for i := len(s.parts) - 1; i >= 0; i-- {
		errs = append(errs, s.parts[i].stop())
	}
	for _, c := range s.clients {
		c.CloseIdleConnections()
	}
	if s.stage != nil {
		errs = append(errs, s.stage.Close())
	}
	return errors.Join(errs...)
}

func (p *part) stop() error {
	if p.in != nil {
		if err := p.in.Close(); err != nil {
			return err
		}
	} else if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-p.done:
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", p.cmd.Path, err, p.out)
		}
		return nil
	case <-time.After(60 * time.Second):
		return errors.Join(fmt.Errorf("%s does not stop", p.cmd.Path), p.cmd.Process.Kill())
	}
}

// checkRecord makes sure that what was measured did happen: each call through
// the product has its intent and its outcome in the journal.
func (s *scene) checkRecord(r *results) error {
	want := r.calls("countersign")
	files, err := filepath.Glob(filepath.Join(s.stage.Path("state"), "journal", "*", "*.jsonl"))
	if err != nil {
		return err
	}
	have := map[string]int{}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for _, kind := range []string{"intent", "outcome"} {
			have[kind] += bytes.Count(b, []byte(`"kind":"`+kind+`"`))
		}
	}
	if have["intent"] != want || have["outcome"] != want {
		return fmt.Errorf("the record has %d intents and %d outcomes of %d calls", have["intent"], have["outcome"], want)
	}
	return nil
}
