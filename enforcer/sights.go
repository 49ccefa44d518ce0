package enforcer

import (
	"errors"
	"sync"
	"time"

	"countersign/rules"
)

// sightLife is how long a sight of a tool counts, unless the server says
// meanwhile that its tools have changed.
const sightLife = 5 * time.Minute

// maxSights bounds the tools remembered, of all callers. At the bound all are
// forgotten, which costs each a question.
const maxSights = 100_000

// sight is a tool as a server was last seen to offer it.
type sight struct {
	pin     rules.Pin
	offered bool // false: the whole list did not have it
	at      time.Time
	turn    uint64 // of its server, before the server was asked
}

// sights remembers what was seen, by whom it was shown to and by tool.
type sights struct {
	mu    sync.Mutex
	seen  map[string]map[string]sight
	count int                  // tools in seen
	turn  map[string]uint64    // by server: how often it has said that its tools changed
	asked map[string]*question // under way, by whom it is for
	noted map[[32]byte]bool    // digests of changes that are in the record
}

// question is one asking of a server, which others wait for.
type question struct {
	done  chan struct{}
	tools map[string]sight
	err   error
}

func (s *sights) init() {
	s.seen, s.turn = map[string]map[string]sight{}, map[string]uint64{}
	s.asked, s.noted = map[string]*question{}, map[[32]byte]bool{}
}

// changed voids what was seen of a server.
func (s *sights) changed(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn[server]++
}

func (s *sights) now(server string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.turn[server]
}

// find is the sight of a tool, if it still counts.
func (s *sights) find(whom, server, tool string, now time.Time) (sight, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	is, ok := s.seen[whom][tool]
	age := now.Sub(is.at)
	return is, ok && is.turn == s.turn[server] && age >= 0 && age <= sightLife
}

// keep remembers what was seen.
func (s *sights) keep(whom string, tools map[string]sight, now time.Time) {
	if len(tools) == 0 {
		return // nothing that the bound would count
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count+len(tools) > maxSights {
		s.count = 0
		for k, m := range s.seen {
			for tool, is := range m {
				if now.Sub(is.at) > sightLife {
					delete(m, tool)
				}
			}
			if s.count += len(m); len(m) == 0 {
				delete(s.seen, k)
			}
		}
		if s.count+len(tools) > maxSights {
			s.count = 0
			clear(s.seen)
		}
	}
	have := s.seen[whom]
	if have == nil {
		have = map[string]sight{}
		s.seen[whom] = have
	}
	s.count -= len(have)
	for tool, is := range tools {
		have[tool] = is
	}
	s.count += len(have)
}

// begin joins a question that is under way, or becomes the one who asks it.
func (s *sights) begin(whom string) (q *question, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.asked[whom]; q != nil {
		return q, false
	}
	q = &question{done: make(chan struct{}), err: errors.New("the question failed inside")}
	s.asked[whom] = q
	return q, true
}

func (s *sights) end(whom string, q *question) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.asked, whom)
	close(q.done)
}

// note tells whether a change is news, and remembers it.
func (s *sights) note(change [32]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noted[change] {
		return false
	}
	if len(s.noted) >= 10_000 {
		clear(s.noted)
	}
	s.noted[change] = true
	return true
}

// unnote forgets a change that could not be recorded.
func (s *sights) unnote(change [32]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.noted, change)
}
