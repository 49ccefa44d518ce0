package enforcer

import "sync"

// inside counts the exchanges under way, so that a stop can wait for them. It
// counts nobody who comes after the door has begun to close.
type inside struct {
	mu      sync.Mutex
	n       int
	closing bool
	empty   chan struct{} // closed when the last has left
}

// enter counts one in, unless the door is closing.
func (i *inside) enter() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closing {
		return false
	}
	i.n++
	return true
}

func (i *inside) leave() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.n--
	if i.closing && i.n == 0 {
		close(i.empty)
	}
}

// close closes the door; the channel is closed when nobody is inside.
func (i *inside) close() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.closing {
		i.closing, i.empty = true, make(chan struct{})
		if i.n == 0 {
			close(i.empty)
		}
	}
	return i.empty
}
