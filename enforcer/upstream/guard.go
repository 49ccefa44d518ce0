package upstream

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Each spawned server runs under a guard: a process of our own program, under
// another name, which does nothing else. It is there for what nobody can do
// from here:
//
//   - it is the parent of all that the server starts, also of what left the
//     server's group and session, or was left behind by its own parent (on
//     Linux: a child subreaper), and kills all of it when the server has ended;
//   - it learns of our death by the end of a pipe, even of a SIGKILL, and then
//     kills the server and all its children;
//   - it is never reaped before it is done, so that no signal can go to a
//     stranger that got the number of a process that is gone.
//
// The server's pipes are handed through: the guard sees no byte of them.
//
// It reads from descriptor 3 one JSON line, a task, and then bytes: orderTerm
// sends SIGTERM to the server's group; the end of the pipe kills. It writes to
// descriptor 4 a JSON line when the server has started, or not, and one when
// all has ended.
const (
	guardName = "countersign-guard"
	limitName = "countersign-limit"

	guardOrders  = 3
	guardReports = 4
	orderTerm    = 't'
)

// task is what a guard runs. Env is bytes: JSON would change what is not UTF-8.
type task struct {
	Path   string
	Args   []string
	Env    [][]byte
	Dir    string
	Limits []limit
}

// report is a line of a guard.
type report struct {
	Err    string `json:",omitempty"` // why the server did not start
	Ended  bool   `json:",omitempty"`
	Status int    `json:",omitempty"` // the server's wait status
}

// Our program becomes a guard before it becomes anything else.
func init() {
	if len(os.Args) == 0 {
		return
	}
	switch os.Args[0] {
	case guardName:
		runtime.LockOSThread() // the server's life hangs on the thread that starts it
		os.Exit(guard())
	case limitName:
		limited()
		os.Exit(127)
	}
}

func guard() (exit int) {
	syscall.CloseOnExec(guardOrders)
	syscall.CloseOnExec(guardReports)
	orders, reports := bufio.NewReader(os.NewFile(guardOrders, "orders")), json.NewEncoder(os.NewFile(guardReports, "reports"))
	var t task
	line, err := orders.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &t)
	}
	if err != nil {
		return 2 // nobody there
	}
	s := &guarded{}
	if err = adopt(); err == nil {
		s.pid, err = t.start()
	}
	if err != nil {
		return exitCode(reports.Encode(report{Err: err.Error()}))
	}
	s.letGo()
	// An error means that we are alone: the end of the orders says it, too.
	_ = reports.Encode(report{})
	go s.obey(orders)
	status := s.wait()
	s.killLeftovers()
	return exitCode(reports.Encode(report{Ended: true, Status: int(status)}))
}

func exitCode(err error) int {
	if err != nil {
		return 2
	}
	return 0
}

// start runs the server, within its limits.
func (t task) start() (pid int, err error) {
	env := make([]string, len(t.Env))
	for i, v := range t.Env {
		env[i] = string(v)
	}
	attr := &syscall.ProcAttr{Dir: t.Dir, Env: env, Files: []uintptr{0, 1, 2}, Sys: sessionLeader()}
	if len(t.Limits) == 0 {
		return syscall.ForkExec(t.Path, t.Args, attr)
	}
	return t.startLimited(attr)
}

// guarded is the server, as its guard knows it.
type guarded struct {
	pid   int
	mu    sync.Mutex
	ended bool // its number may be somebody else's
}

// letGo gives up the server's pipes: who reads them has to see their end.
func (s *guarded) letGo() {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	for fd := range 3 {
		if err == nil {
			err = dup(int(null.Fd()), fd)
		}
		if err != nil {
			_ = syscall.Close(fd) // as good, as long as nothing else is opened
		}
	}
}

func (s *guarded) obey(orders *bufio.Reader) {
	for {
		order, err := orders.ReadByte()
		if err != nil {
			s.signal(syscall.SIGKILL)
			return
		}
		if order == orderTerm {
			s.signal(syscall.SIGTERM)
		}
	}
}

// signal sends to the server's group, and to the server, should it have left
// it. That they are gone is no error.
func (s *guarded) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		_ = syscall.Kill(-s.pid, sig)
		_ = syscall.Kill(s.pid, sig)
	}
}

// wait returns when the server has ended. What else ends meanwhile is reaped:
// it was left to us.
func (s *guarded) wait() syscall.WaitStatus {
	for {
		pid, err := nextExit()
		if err != nil {
			return 0
		}
		if pid == s.pid {
			// While it is a zombie its group's number is nobody else's. A group
			// is killed at once, however fast it forks.
			s.signal(syscall.SIGKILL)
			s.mu.Lock()
			s.ended = true
			s.mu.Unlock()
		}
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(pid, &status, 0, nil); err == nil && pid == s.pid {
			return status
		}
	}
}

// leftovers bounds the killing. What cannot die (a process that waits for a
// disk that is gone) has its signal, and is left to init.
const leftovers = 5 * time.Second

// killLeftovers ends what left the group: all that is alive of it has become,
// or becomes, a child of ours, as soon as its own parent is gone. Only
// children are killed, whose numbers nobody gets before we have reaped them.
func (s *guarded) killLeftovers() {
	pause := 100 * time.Microsecond
	for end := time.Now().Add(leftovers); time.Now().Before(end); {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR), pid > 0:
			continue
		case err != nil:
			return // no more children
		}
		for _, pid := range children() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it cannot be gone, and what it may refuse is bounded
		}
		time.Sleep(pause)
		pause = min(2*pause, 50*time.Millisecond)
	}
}

// guardStart bounds the start of a guard, which takes milliseconds.
const guardStart = 10 * time.Second

// guardian is our end of a guard.
type guardian struct {
	cmd     *exec.Cmd
	orders  *os.File
	reports *os.File
	lines   *json.Decoder
	once    sync.Once
}

// engage starts a guard and with it the server. The files are the server's
// standard streams, still open here.
func engage(t task, files [3]*os.File) (*guardian, error) {
	up, err := pipes(2)
	if err != nil {
		return nil, fmt.Errorf("cannot make pipes: %w", err)
	}
	g := &guardian{orders: up[0].w, reports: up[1].r, lines: json.NewDecoder(up[1].r)}
	g.cmd = &exec.Cmd{
		Path: self(), Args: []string{guardName, t.Path}, Env: []string{}, // never nil: nil would be ours
		Stdin: files[0], Stdout: files[1], Stderr: files[2], ExtraFiles: []*os.File{up[0].r, up[1].w},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = g.cmd.Start()
	if err = errors.Join(err, up[0].r.Close(), up[1].w.Close()); err != nil {
		return nil, errors.Join(err, g.dismiss())
	}
	started := report{}
	line, err := json.Marshal(t)
	if err == nil {
		until := time.Now().Add(guardStart)
		err = errors.Join(g.reports.SetReadDeadline(until), g.orders.SetWriteDeadline(until))
	}
	if err == nil {
		_, err = g.orders.Write(append(line, '\n'))
	}
	if err == nil {
		err = g.lines.Decode(&started)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("its guard did not start it: %w", err)
	case started.Err != "":
		err = errors.New(started.Err)
	default:
		err = errors.Join(g.reports.SetReadDeadline(time.Time{}), g.orders.SetWriteDeadline(time.Time{}))
	}
	if err != nil {
		return nil, errors.Join(err, g.dismiss())
	}
	return g, nil
}

// dismiss ends a guard that guards nothing.
func (g *guardian) dismiss() error {
	g.kill()
	var status *exec.ExitError
	var err error
	if g.cmd.Process != nil {
		err = errors.Join(g.cmd.Process.Kill(), g.cmd.Wait())
		if errors.As(err, &status) || errors.Is(err, os.ErrProcessDone) {
			err = nil
		}
	}
	return errors.Join(err, g.reports.Close())
}

// term sends SIGTERM to the server's group. One that is gone needs none.
func (g *guardian) term() { _, _ = g.orders.Write([]byte{orderTerm}) }

// kill ends the server and all that it started.
func (g *guardian) kill() { g.once.Do(func() { _ = g.orders.Close() }) }

// wait returns how the server ended, in words, once nothing of it is left.
func (g *guardian) wait() (state string, err error) {
	var r report
	if err := g.lines.Decode(&r); err != nil || !r.Ended {
		state = "its guard was killed"
	} else {
		state = ending(syscall.WaitStatus(r.Status))
	}
	g.kill()
	err = g.cmd.Wait()
	var status *exec.ExitError
	if errors.As(err, &status) {
		err = nil
	}
	return state, errors.Join(err, g.reports.Close())
}

func ending(s syscall.WaitStatus) string {
	switch {
	case s.Exited():
		return fmt.Sprintf("exit status %d", s.ExitStatus())
	case s.Signaled() && s.Signal() == syscall.SIGXCPU:
		return "it used up its CPU time, see resources.cpu in the policy"
	case s.Signaled() && s.Signal() == syscall.SIGXFSZ:
		return "it wrote a larger file than it may, see resources.filesize in the policy"
	case s.Signaled():
		return "signal: " + s.Signal().String()
	}
	return fmt.Sprintf("wait status %#x", uint32(s))
}
