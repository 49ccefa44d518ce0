package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"countersign/audit"
	"countersign/enforcer"
	"countersign/enforcer/mask"
)

// process is what `serve` and `bot` have in common: one policy followed, one
// record kept, the approvals, one listener, and work that goes on until the
// end. Its parts are opened in the order of its methods, and closed in the
// reverse order by end.
type process struct {
	config config
	log    *slog.Logger
	mask   *mask.Mask
	down   teardown

	policy   *policyFollower
	key      []byte // of digests, and of what is sealed; over NATS the one that all share
	front    *front
	server   *http.Server
	listener net.Listener
	served   chan error

	record    *record
	approvals *approvals

	workers context.Context
	group   sync.WaitGroup
	failed  chan error
}

// names are how the record names holders, sessions and subjects.
func (p *process) names() enforcer.Names {
	return enforcer.NewNames(p.key, []byte(p.config.PseudonymKey))
}

// prepare opens what is on this machine. What can be wrong with the
// configuration comes first: a start that fails leaves no run behind in the
// record.
func (p *process) prepare() (err error) {
	// A file at its limit (ulimit -f) is an error of the write, as a full disk
	// is, and no death of the process.
	signal.Ignore(syscall.SIGXFSZ)
	// A core file, of ours or of a spawned server, would hold credentials.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("core files cannot be switched off: %w", err)
	}
	if p.mask, p.log, err = newMask(p.config); err != nil {
		return err
	}
	for _, name := range unknownVariables(os.Environ()) {
		p.log.Warn("this variable is none of ours: is it misspelt?", "variable", name)
	}
	lock, err := audit.Lock(p.config.StateDir)
	if err != nil {
		return err
	}
	p.down.add(lock.Close)
	p.policy = &policyFollower{config: p.config, log: p.log}
	if err := p.policy.open(p.mask); err != nil {
		return err
	}
	p.down.add(p.policy.close)
	p.key, err = digestKey(p.config.StateDir)
	return err
}

// listen makes the process alive, though not ready: a start waits for a Vault
// that is sealed or away, and health can be asked meanwhile.
func (p *process) listen() (err error) {
	if p.listener, err = net.Listen("tcp", p.config.Listen); err != nil {
		return fmt.Errorf("COUNTERSIGN_LISTEN: %w", err)
	}
	p.front, p.served = &front{}, make(chan error, 1)
	p.server = httpServer(p.front, p.log)
	go func() { p.served <- serveHTTP(p.server, p.listener, p.config) }()
	p.down.add(p.server.Close)
	return nil
}

// open begins this run's record, and opens the approvals.
func (p *process) open(ctx context.Context) (err error) {
	if p.record, err = openRecord(ctx, p.config, p.mask, p.names(), p.log); err != nil {
		return err
	}
	p.down.add(p.record.close)
	p.record.policy, p.record.names = p.policy.latest, p.names
	if p.approvals, err = openApprovals(ctx, p.config, p.record, p.mask, p.names, p.policy, p.log); err != nil {
		return err
	}
	p.down.add(p.approvals.close)
	if p.config.NATSURL != "" {
		if p.key, err = p.approvals.sharedKey(ctx, p.key); err != nil {
			return fmt.Errorf("COUNTERSIGN_NATS_URL: %w", err)
		}
	}
	return nil
}

// begin starts the work that every process does.
func (p *process) begin(ctx context.Context) {
	workers, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.workers, p.failed = workers, make(chan error, 16)
	p.down.add(func() error { stop(); p.group.Wait(); return nil })
	p.work("policy", p.policy.follow)
	p.work("record", p.record.publish)
	p.work("journal", p.record.prune)
	p.work("approvals", func(ctx context.Context) error { return p.approvals.expire(ctx, p.policy.current) })
}

// work runs f until the end. Its error, before that, ends the process.
func (p *process) work(name string, f func(context.Context) error) {
	p.group.Go(func() {
		if err := f(p.workers); err != nil && p.workers.Err() == nil {
			p.failed <- fmt.Errorf("%s: %w", name, err)
		}
	})
}

// wait returns when the process is to end, or cannot go on.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		p.log.Info("countersign stops: nothing new; what is under way may finish", "grace", p.config.ShutdownGrace.String())
		return nil
	case err := <-p.failed:
		return err
	case err := <-p.served:
		return fmt.Errorf("http: %w", err)
	}
}

// end takes down what is up, and returns why the process ended, masked: it goes
// to a terminal, or a container's log.
func (p *process) end(ctx context.Context, err error) error {
	err = errors.Join(err, p.down.run(ctx, p.config.ShutdownGrace))
	if err != nil && p.mask != nil {
		text, _ := p.mask.Text(err.Error())
		return errors.New(text)
	}
	return err
}

// teardown is what has been opened, to be closed in the reverse order. Each
// step has the whole grace for itself, so that a peer that hangs does not keep
// the others from being told.
type teardown []func(context.Context) error

func (t *teardown) add(f func() error)                       { *t = append(*t, func(context.Context) error { return f() }) }
func (t *teardown) addCtx(f func(ctx context.Context) error) { *t = append(*t, f) }

func (t teardown) run(ctx context.Context, grace time.Duration) (err error) {
	for i := len(t) - 1; i >= 0; i-- {
		step, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		err = errors.Join(err, t[i](step))
		cancel()
	}
	return err
}
