package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"countersign/enforcer/budget"
	"countersign/enforcer/wire"
)

// process is one spawned server under its guard.
//
// Its end always takes the same way, whoever caused it: the server exits; its
// guard kills what it has started; what was written is read to the end; the
// calls in flight fail; gone is closed.
type process struct {
	owner   *stdio
	guard   *guardian
	stdin   *os.File
	in      chan []byte   // lines for the writer
	quit    chan struct{} // closed when the process is asked to end
	gone    chan struct{} // closed when it has ended
	private string        // the folder of its private files, "" if it has none

	life    sync.Mutex // guards cause
	cause   error      // why it was ended, if we did it
	endOnce sync.Once

	// guarded by owner.mu
	session *session // nil: modern
	slot    slot
	calls   map[string]*call // in flight, by id
	leaving bool             // takes no more calls
	used    uint64           // when it took its last call, in calls
	holder  string           // whose restarts it counts in
	worked  bool             // it has answered a caller
	ours    bool             // its end is no fault of its own
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
	limits, err := u.cfg.Resources.limits()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDead, err)
	}
	private, paths, err := u.cfg.private(inject.Files)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDead, err)
	}
	started := false
	defer func() {
		if !started {
			u.forget(private)
		}
	}()
	files, err := pipes(3)
	if err != nil {
		return nil, fmt.Errorf("%w: cannot make pipes: %w", ErrDead, err)
	}
	guard, err := engage(task{
		Path: path, Args: u.cfg.Command, Env: environment(u.cfg.Env, inject.Env, paths), Dir: u.cfg.Dir, Limits: limits,
	}, [3]*os.File{files[0].r, files[1].w, files[2].w})
	err = errors.Join(err, files[0].r.Close(), files[1].w.Close(), files[2].w.Close())
	if err != nil {
		err = errors.Join(err, files[0].w.Close(), files[1].r.Close(), files[2].r.Close())
		if guard != nil {
			err = errors.Join(err, guard.dismiss())
		}
		return nil, fmt.Errorf("%w: cannot start it: %w", ErrDead, err)
	}
	p := &process{
		owner: u, session: s, slot: at, guard: guard, holder: at.holder,
		in:    make(chan []byte),
		quit:  make(chan struct{}),
		gone:  make(chan struct{}),
		calls: map[string]*call{}, used: u.cfg.Pool.clock.Add(1),
		stdin: files[0].w, private: private,
	}
	started = true
	if s != nil {
		p.holder = s.holder
	}
	go p.write()
	go p.reap(files[1].r, files[2].r)
	return p, nil
}

// environment is all that a server gets. Of two values the last one counts.
func environment(lists ...[]string) (out [][]byte) {
	place := map[string]int{}
	for _, v := range slices.Concat(lists...) {
		name, _, _ := strings.Cut(v, "=")
		if i, twice := place[name]; twice {
			out[i] = []byte(v)
			continue
		}
		place[name] = len(out)
		out = append(out, []byte(v))
	}
	return out
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

// drain is how long the pipes of a server that has ended are read: what it
// wrote is there already; only what its guard could not kill can add more.
const drain = time.Second

func (p *process) reap(stdout, stderr *os.File) {
	var readers sync.WaitGroup
	readers.Go(func() { p.read(stdout) })
	readers.Go(func() { p.owner.chatter.read(stderr) })

	state, waited := p.guard.wait()
	deadline := time.Now().Add(drain)
	problems := []error{waited, stdout.SetReadDeadline(deadline), stderr.SetReadDeadline(deadline)}
	readers.Wait()
	problems = append(problems, stdout.Close(), stderr.Close())

	p.end(nil) // closes stdin, if nobody has
	p.owner.forget(p.private)
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

// end asks the process to end, as MCP's stdio transport says: its input is
// closed, then its group gets SIGTERM, then all that it started SIGKILL, a
// grace apart. It does
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
			for _, step := range []func(){p.guard.term, p.guard.kill} {
				timer := time.NewTimer(grace)
				select {
				case <-p.gone:
					timer.Stop()
					return
				case <-timer.C:
					step()
				}
			}
		}()
	})
}

// kill ends a process that broke the protocol: nothing it says is awaited.
func (p *process) kill(cause error) {
	p.end(cause)
	p.guard.kill()
}

// evict ends a process that did nothing wrong.
func (p *process) evict() {
	p.owner.mu.Lock()
	p.ours = true
	p.owner.mu.Unlock()
	p.end(nil)
}

func (p *process) why() error {
	p.life.Lock()
	defer p.life.Unlock()
	if p.cause != nil {
		return p.cause
	}
	return fmt.Errorf("%w: its process is ending", ErrDead)
}
