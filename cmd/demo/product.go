package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"countersign/fixtures/stage"
)

// product is the running `countersign serve`.
type product struct {
	path string // of the program
	cmd  *exec.Cmd
	done chan error
	mu   sync.Mutex
	log  bytes.Buffer
	once sync.Once
	err  error
}

// Write collects the product's log, for when something goes wrong.
func (p *product) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

// tail is the end of the product's log.
func (p *product) tail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.log.Bytes()
	return string(b[max(0, len(b)-2000):])
}

// startProduct starts the program that `make demo` built beside this one, and
// waits until it is ready.
func startProduct(ctx context.Context, s *stage.Stage) (*product, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &product{path: filepath.Join(filepath.Dir(self), "countersign"), done: make(chan error, 1)}
	if _, err := os.Stat(p.path); err != nil {
		return nil, fmt.Errorf("the program itself is not beside the demo: run `make demo` (%w)", err)
	}
	p.cmd = exec.Command(p.path, "serve")
	p.cmd.Env = s.Env(nil)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	// A Ctrl-C is for the demo, which then stops the product in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.done <- p.cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ready(ctx, s.URL) {
			return p, nil
		}
		select {
		case err := <-p.done:
			return nil, fmt.Errorf("the product did not start: %v\n%s", err, p.tail())
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("the product is not ready: %w\n%s", ctx.Err(), p.tail()), p.stop())
		case <-tick.C:
		}
	}
}

func ready(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}

// stop ends the product in order: credentials revoked, record flushed.
func (p *product) stop() error {
	p.once.Do(func() {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			p.err = err
			return
		}
		select {
		case p.err = <-p.done:
		case <-time.After(30 * time.Second):
			p.err = errors.Join(errors.New("the product does not stop"), p.cmd.Process.Kill())
		}
	})
	return p.err
}

// run runs the product's command line, and returns what it printed.
func (p *product) run(ctx context.Context, args ...string) (string, int, error) {
	out, err := exec.CommandContext(ctx, p.path, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(out), exit.ExitCode(), nil
	}
	return string(out), 0, err
}
