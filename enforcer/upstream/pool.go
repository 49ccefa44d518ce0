package upstream

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// Pool bounds the processes of several spawned servers together. The zero
// value is not of use: see NewPool.
type Pool struct {
	clock atomic.Uint64 // one for all members, so that idleness compares

	mu      sync.Mutex
	max     int
	running int
	members map[*stdio]struct{}
	freed   chan struct{} // closed and replaced when a place became free
}

// NewPool returns a pool for at most max processes at once; without a bound if
// max is not positive.
func NewPool(max int) *Pool {
	p := &Pool{members: map[*stdio]struct{}{}, freed: make(chan struct{})}
	p.SetMax(max)
	return p
}

// SetMax changes the bound. What runs beyond it is left alone.
func (p *Pool) SetMax(max int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max = max
	p.wake()
}

// wake needs p.mu.
func (p *Pool) wake() {
	close(p.freed)
	p.freed = make(chan struct{})
}

func (p *Pool) join(u *stdio) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.members[u] = struct{}{}
}

func (p *Pool) leave(u *stdio) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.members, u)
}

// take waits for a place. If there is none, a modern process that has nothing
// to do makes room, the one of all members that is idle for longest; a
// session's process may hold state and is left alone.
func (p *Pool) take(ctx context.Context) error {
	for {
		p.mu.Lock()
		if p.max <= 0 || p.running < p.max {
			p.running++
			p.mu.Unlock()
			return nil
		}
		max, freed := p.max, p.freed
		members := make([]*stdio, 0, len(p.members))
		for u := range p.members {
			members = append(members, u)
		}
		p.mu.Unlock()

		var idle *process
		var used uint64
		leaving := false
		for _, u := range members {
			one, at, ends := u.idlest()
			leaving = leaving || ends
			if one != nil && (idle == nil || at < used) {
				idle, used = one, at
			}
		}
		switch {
		case leaving: // room comes
		case idle != nil:
			idle.evict()
		default:
			return fmt.Errorf("%w: %d of all MCP servers together, the bound", ErrBusy, max)
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *Pool) give() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running--
	p.wake()
}
