// Package budget bounds the bytes that are held at one moment, over all calls.
//
// A Pool is so many bytes; a Share is what one call holds of them. Who needs
// more than is free waits in line, for a short while, and is then refused: it
// may hold bytes itself that others wait for, and no two may wait for each
// other for long. That is why requests and answers have a Pool each, too: what
// a call holds of one never keeps the other from being given back.
//
// A Share's first 8 KB are not counted: a connection costs more than that by
// itself, and a small call has nothing to wait for.
package budget

import (
	"container/list"
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// ErrFull is returned when no room came free in time.
var ErrFull = errors.New("no room: the messages of other calls take up the memory that the policy gives to all (limits.memory)")

// ErrTooLarge is returned by ReadAll.
var ErrTooLarge = errors.New("more bytes than the limit")

// small is what a Share may hold without being counted.
const small = 8 << 10

// Pool is a number of bytes. It is safe for concurrent use. A nil Pool has no
// bound.
type Pool struct {
	patience time.Duration

	mu    sync.Mutex
	max   int64
	used  int64
	queue list.List // of *waiter, in the order in which they came
}

type waiter struct {
	n     int64
	takes bool // or only waits until so much is free
	ready chan struct{}
}

// New makes a Pool of max bytes for which no Share waits longer than patience, in
// all, from when it holds something until it holds nothing again.
func New(max int64, patience time.Duration) *Pool { return &Pool{max: max, patience: patience} }

// Resize changes how many bytes there are. Where more are held, nothing is
// taken away: newcomers wait.
func (p *Pool) Resize(max int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max = max
	p.serve()
}

// Used is how many bytes are held.
func (p *Pool) Used() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

// Max is how many bytes there are.
func (p *Pool) Max() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.max
}

// Await waits until n bytes are free and nobody else is in line for them, and
// takes nothing. The error is ErrFull, or that of ctx.
func (p *Pool) Await(ctx context.Context, n int64) error {
	_, err := p.wait(ctx, n, false, 0)
	return err
}

// Share begins a call's part, which holds nothing yet.
func (p *Pool) Share() *Share { return &Share{pool: p} }

// wait has spent so much of its patience already, and returns how much of it
// went on this.
func (p *Pool) wait(ctx context.Context, n int64, takes bool, spent time.Duration) (time.Duration, error) {
	if p == nil || n <= 0 {
		return 0, nil
	}
	p.mu.Lock()
	if p.queue.Len() == 0 && p.used+n <= p.max {
		if takes {
			p.used += n
		}
		p.mu.Unlock()
		return 0, nil
	}
	w := &waiter{n: n, takes: takes, ready: make(chan struct{})}
	at := p.queue.PushBack(w)
	p.mu.Unlock()
	began := time.Now()
	late := time.NewTimer(p.patience - spent)
	defer late.Stop()
	var err error
	select {
	case <-w.ready:
		return time.Since(began), nil
	case <-late.C:
		err = ErrFull
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-w.ready: // at the same moment
		return time.Since(began), nil
	default:
		p.queue.Remove(at)
		p.serve() // who comes next may need less
		return time.Since(began), err
	}
}

// try takes n bytes if they are free.
func (p *Pool) try(n int64) bool {
	if p == nil || n <= 0 {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queue.Len() > 0 || p.used+n > p.max {
		return false
	}
	p.used += n
	return true
}

// force takes n bytes, or gives them back if n is negative.
func (p *Pool) force(n int64) {
	if p == nil || n == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used += n
	if n < 0 {
		p.serve()
	}
}

// serve gives what is free to those in line; p.mu is held.
func (p *Pool) serve() {
	for e := p.queue.Front(); e != nil; e = p.queue.Front() {
		w := e.Value.(*waiter)
		if p.used+w.n > p.max {
			return
		}
		if w.takes {
			p.used += w.n
		}
		p.queue.Remove(e)
		close(w.ready)
	}
}

// Share is what one call holds of a Pool. It has one user at a time. A nil Share
// has no bound.
type Share struct {
	pool *Pool
	n    int64         // counted
	wait time.Duration // how long it has waited since it held nothing
}

func counted(n int) int64 {
	if n <= small {
		return 0
	}
	return int64(n)
}

// Set makes the share n bytes. For more than it has it may have to wait; on an
// error, ErrFull or that of ctx, it stays as it was.
func (s *Share) Set(ctx context.Context, n int) error {
	if s == nil {
		return nil
	}
	want := counted(n)
	if want > s.n {
		waited, err := s.pool.wait(ctx, want-s.n, true, s.wait)
		s.wait += waited
		if err != nil {
			return err
		}
		s.n = want
		return nil
	}
	s.Keep(n)
	return nil
}

// Try is Set that does not wait.
func (s *Share) Try(n int) bool {
	if s == nil {
		return true
	}
	if want := counted(n); want > s.n {
		if !s.pool.try(want - s.n) {
			return false
		}
		s.n = want
		return true
	}
	s.Keep(n)
	return true
}

// Keep makes the share n bytes, which are held already, whether there is room
// for them or not.
func (s *Share) Keep(n int) {
	if s == nil {
		return
	}
	want := counted(n)
	s.pool.force(want - s.n)
	if s.n = want; want == 0 {
		s.wait = 0
	}
}

// Adopt moves what another share of the same pool holds into this one.
func (s *Share) Adopt(o *Share) {
	if s == nil {
		o.Free()
		return
	}
	if o != nil {
		s.n, o.n = s.n+o.n, 0
	}
}

// Held is how many bytes of it are counted.
func (s *Share) Held() int64 {
	if s == nil {
		return 0
	}
	return s.n
}

// Free gives everything back.
func (s *Share) Free() { s.Keep(0) }

// ReadAll reads r to its end. The share grows with what has come, whatever size
// was announced (-1 if none was): it says only where to stop growing. More than
// max bytes are ErrTooLarge; else the error is that of r, or of Set.
func (s *Share) ReadAll(ctx context.Context, r io.Reader, announced, max int64) ([]byte, error) {
	// One byte more than there is, so that the end is seen without growing.
	most := max + 1
	target := int64(-1)
	if announced >= 0 {
		target = min(announced+1, most)
	}
	size := int64(4096)
	if target >= 0 {
		size = min(target, small)
	}
	buf := make([]byte, 0, min(size, most))
	for {
		if len(buf) == cap(buf) {
			if int64(len(buf)) >= most {
				return nil, ErrTooLarge
			}
			size := min(2*int64(cap(buf)), most)
			if target > int64(cap(buf)) {
				size = min(4*int64(cap(buf)), target)
			}
			if err := s.Set(ctx, cap(buf)+int(size)); err != nil { // both, while one is copied to the other
				return nil, err
			}
			grown := make([]byte, len(buf), size)
			copy(grown, buf)
			buf = grown
			s.Keep(cap(buf))
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > max {
			return nil, ErrTooLarge
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
