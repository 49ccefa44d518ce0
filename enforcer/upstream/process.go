package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"countersign/enforcer/budget"
	"countersign/enforcer/wire"
)

// process is one spawned server, leader of a process group of its own.
//
// Its end always takes the same way, whoever caused it: the leader exits; the
// group is killed while the leader still is a zombie, so that its number
// cannot belong to somebody else; what was written is read to the end; the
// leader is reaped; the calls in flight fail; gone is closed.
type process struct {
	owner *stdio
	cmd   *exec.Cmd
	stdin *os.File
	in    chan []byte   // lines for the writer
	quit  chan struct{} // closed when the process is asked to end
	gone  chan struct{} // closed when it has ended

	life    sync.Mutex // guards the fields below, and signals against reaping
	reaped  bool
	cause   error // why it was ended, if we did it
	endOnce sync.Once

	// guarded by owner.mu
	session *session // nil: modern
	slot    slot
	calls   map[string]*call // in flight, by id
	leaving bool             // takes no more calls
	used    uint64           // when it took its last call, in calls
	ended   bool
}

// start spawns a process; its goroutines run until it has ended.
func (u *stdio) start(s *session, at slot, inject Injection) (*process, error) {
	path := u.cfg.Command[0]
	if !strings.ContainsRune(path, '/') {
		found, err := exec.LookPath(path)
		if err != nil {
			return nil, fmt.Errorf("%w: cannot find %q on the enforcer's PATH", ErrDead, path)
		}
		path = found
	}
	files, err := pipes(3)
	if err != nil {
		return nil, fmt.Errorf("%w: cannot make pipes: %w", ErrDead, err)
	}
	p := &process{
		owner: u, session: s, slot: at,
		in:    make(chan []byte),
		quit:  make(chan struct{}),
		gone:  make(chan struct{}),
		calls: map[string]*call{},
		cmd: &exec.Cmd{
			Path:        path,
			Args:        u.cfg.Command,
			Env:         append(append([]string{}, u.cfg.Env...), inject.Env...), // never nil: nil would be ours
			Dir:         u.cfg.Dir,
			Stdin:       files[0].r,
			Stdout:      files[1].w,
			Stderr:      files[2].w,
			SysProcAttr: groupLeader(),
		},
		stdin: files[0].w,
	}
	err = u.spawner.run(p.cmd.Start)
	ours := []*os.File{files[0].r, files[1].w, files[2].w}
	if err != nil {
		ours = append(ours, files[0].w, files[1].r, files[2].r)
	}
	for _, f := range ours {
		if cerr := f.Close(); cerr != nil && err == nil {
			err = cerr
			p.signal(syscall.SIGKILL)
		}
	}
	if p.cmd.Process == nil {
		return nil, fmt.Errorf("%w: cannot start it: %w", ErrDead, err)
	}
	go p.write()
	go p.reap(files[1].r, files[2].r)
	return p, nil
}

type pipe struct{ r, w *os.File }

func pipes(n int) ([]pipe, error) {
	var all []pipe
	for range n {
		r, w, err := os.Pipe()
		if err != nil {
			for _, p := range all {
				err = errors.Join(err, p.r.Close(), p.w.Close())
			}
			return nil, err
		}
		all = append(all, pipe{r, w})
	}
	return all, nil
}

// send hands one message to the process as one line. White space between
// tokens may contain line ends, strings cannot: they become spaces.
func (p *process) send(ctx context.Context, message []byte) error {
	line := make([]byte, len(message)+1)
	for i, c := range message {
		if c == '\n' || c == '\r' {
			c = ' '
		}
		line[i] = c
	}
	line[len(message)] = '\n'
	select { // several may be ready: do not leave it to chance
	case <-p.quit:
		return p.why()
	case <-ctx.Done():
		return ctx.Err()
	default:
	}
	select {
	case p.in <- line:
		return nil
	case <-p.quit:
		return p.why()
	case <-p.gone:
		return p.why()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// post sends a message of ours without holding up the caller. A server that
// does not read its input within the grace is ended.
func (p *process) post(message []byte) {
	go func() {
		ctx, stop := context.WithTimeout(context.Background(), p.owner.cfg.Grace)
		defer stop()
		if err := p.send(ctx, message); err != nil && ctx.Err() != nil {
			p.end(fmt.Errorf("%w: it does not read its standard input", ErrDead))
		}
	}()
}

// write owns stdin. A server that reads nothing blocks only this goroutine.
func (p *process) write() {
	for {
		select {
		case line := <-p.in:
			if _, err := p.stdin.Write(line); err != nil {
				p.end(nil) // it closed its input: most likely it is exiting
			}
		case <-p.quit:
			return
		case <-p.gone:
			return
		}
	}
}

// read gives each line of stdout to the router, until something that is not a
// message comes: from there on nothing can be believed.
func (p *process) read(stdout *os.File) {
	r := bufio.NewReaderSize(stdout, 64<<10)
	for {
		room := p.owner.cfg.Room.Share()
		line, err := readLine(r, p.owner.max, func(n int) error { return room.Set(context.Background(), n) })
		max := p.owner.max()
		switch {
		case errors.Is(err, budget.ErrFull):
			room.Free()
			p.owner.unread(p, err)
			continue
		case errors.Is(err, errLongLine):
			room.Free()
			p.kill(fmt.Errorf("%w: it wrote a line of more than %d bytes", ErrTooLarge, max))
			return
		case err != nil:
			room.Free()
			// It closed its output, or is gone: either way it says no more. How
			// it ends is known to reap.
			p.end(nil)
			return
		case len(strings.TrimSpace(string(line[:min(len(line), 64)]))) == 0 && len(line) <= 64:
			continue
		}
		m, err := wire.Parse(line, wire.Limits{Bytes: max, Depth: int(p.owner.depth.Load())})
		if err != nil {
			room.Free()
			// The text only: as a *wire.Error it would pass for one about the
			// caller's message.
			p.kill(fmt.Errorf("%w: it wrote something to its standard output that is not one strict JSON-RPC message: %s", ErrNotMCP, err))
			return
		}
		l := letter{line: m.Raw}
		if room.Held() > 0 { // others are counted together, in the mailbox that they wait in
			l.room = room
		}
		p.owner.route(p, m, &l)
		l.room.Free() // if nobody took it
	}
}

var errLongLine = errors.New("line too long")

// readLine returns the next line without its end. Bytes after the last line
// end are a message that was cut off: they are not returned. Grow is told how
// many bytes the line takes before it does; where that fails, the line is read
// to its end all the same, and left out.
func readLine(r *bufio.Reader, most func() int, grow func(int) error) ([]byte, error) {
	var line []byte
	var full error
	length := 0
	for {
		part, err := r.ReadSlice('\n')
		if length += len(part); length > most()+2 {
			return nil, errLongLine
		}
		if size := len(line) + len(part); size > cap(line) && full == nil {
			size = max(size, 2*cap(line))
			if full = grow(cap(line) + size); full == nil { // both, while one is copied to the other
				line = append(make([]byte, 0, size), line...)
				full = grow(size)
			}
		}
		if full == nil {
			line = append(line, part...)
		} else {
			line = nil
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if full != nil {
			return nil, full
		}
		line = line[:len(line)-1]
		if n := len(line); n > 0 && line[n-1] == '\r' {
			line = line[:n-1]
		}
		return line, nil
	}
}

// A line of stderr longer than this is left out, not cut: half of a secret
// would pass the mask.
const maxLogLine = 64 << 10

func (p *process) log(stderr *os.File) {
	say := p.owner.cfg.Stderr
	if say == nil {
		say = func(string) {}
	}
	r := bufio.NewReaderSize(stderr, maxLogLine)
	long := false
	for {
		part, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			long = true
			continue
		case long:
			say("(a line of more than 64 KiB was left out)")
		case len(part) > 0:
			say(strings.TrimRight(string(part), "\r\n"))
		}
		long = false
		if err != nil {
			return
		}
	}
}

// drain is how long the pipes of a server that has exited are read: what it
// wrote is there already; only a grandchild that left the group can add more.
const drain = time.Second

func (p *process) reap(stdout, stderr *os.File) {
	var readers sync.WaitGroup
	readers.Go(func() { p.read(stdout) })
	readers.Go(func() { p.log(stderr) })

	waited := waitExit(p.cmd.Process.Pid)
	p.signal(syscall.SIGKILL)
	deadline := time.Now().Add(drain)
	problems := []error{waited, stdout.SetReadDeadline(deadline), stderr.SetReadDeadline(deadline)}
	readers.Wait()
	problems = append(problems, stdout.Close(), stderr.Close())

	p.life.Lock()
	p.reaped = true
	var status *exec.ExitError
	if err := p.cmd.Wait(); err != nil && !errors.As(err, &status) && !errors.Is(err, syscall.ECHILD) {
		problems = append(problems, err)
	}
	p.life.Unlock()

	p.end(nil) // closes stdin, if nobody has
	state := "unknown"
	if p.cmd.ProcessState != nil {
		state = p.cmd.ProcessState.String()
	}
	died := fmt.Errorf("%w: its process ended (%s)", ErrDead, state)
	if err := errors.Join(problems...); err != nil {
		died = fmt.Errorf("%w; and: %w", died, err)
	}
	p.life.Lock()
	if p.cause == nil {
		p.cause = died
	}
	p.life.Unlock()
	p.owner.ended(p, died)
	close(p.gone)
}

// signal sends to the whole group, unless the leader was reaped: then the
// number may be somebody else's.
func (p *process) signal(sig syscall.Signal) {
	p.life.Lock()
	defer p.life.Unlock()
	if p.reaped || p.cmd.Process == nil {
		return
	}
	if err := syscall.Kill(-p.cmd.Process.Pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		// EPERM: a member that runs as somebody else. At least the leader.
		if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			p.cause = errors.Join(p.cause, err)
		}
	}
}

// end asks the process to end, as MCP's stdio transport says: its input is
// closed, then the group gets SIGTERM, then SIGKILL, a grace apart. It does
// not wait. With a cause the calls in flight fail with it at once, without one
// they may still be answered until the process is gone.
func (p *process) end(cause error) {
	p.endOnce.Do(func() {
		p.life.Lock()
		p.cause = cause
		p.life.Unlock()
		close(p.quit)
		if err := p.stdin.Close(); err != nil && cause == nil {
			cause = err
		}
		p.owner.abandon(p, cause)
		go func() {
			grace := p.owner.cfg.Grace
			for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
				timer := time.NewTimer(grace)
				select {
				case <-p.gone:
					timer.Stop()
					return
				case <-timer.C:
					p.signal(sig)
				}
			}
		}()
	})
}

// kill ends a process that broke the protocol: nothing it says is awaited.
func (p *process) kill(cause error) {
	p.end(cause)
	p.signal(syscall.SIGKILL)
}

func (p *process) why() error {
	p.life.Lock()
	defer p.life.Unlock()
	if p.cause != nil {
		return p.cause
	}
	return fmt.Errorf("%w: its process is ending", ErrDead)
}
