package enforcer

import (
	"encoding/json"
	"sync"
	"time"

	"countersign/audit"
	"countersign/enforcer/wire"
)

// A call that a freeze has ended got its answer: that it is frozen. A server of
// the legacy era that does not heed the cancellation may answer it later, and a
// client could fetch that on a stream that it resumes, where nothing tells which
// tool a response is of. So it is remembered which ids these were, and what
// answers one of them on a GET's stream is withheld, for as long as the session
// can last. (A new call of the same id is not concerned: its answer comes on the
// stream of its own POST.)

// maxSevered is how many ids are remembered of a session. Of one with more, no
// response gets through on a GET's stream any more.
const maxSevered = 256

type severed struct {
	mu sync.Mutex
	m  map[string]*cutOff // by owner and session
}

type cutOff struct {
	ids  map[string]bool
	all  bool
	last time.Time
}

func (x *exchange) severedKey() string { return x.ownerKey() + "\x00" + x.session }

// add remembers the exchange's id, if its answer can come elsewhere than on its
// own stream.
func (s *severed) add(x *exchange) {
	if x.msg == nil || x.msg.Kind != wire.Request || x.msg.Modern() || x.server == every {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[string]*cutOff{}
	}
	key := x.severedKey()
	c := s.m[key]
	if c == nil {
		c = &cutOff{ids: map[string]bool{}}
		s.m[key] = c
	}
	c.last = x.e.Now()
	if c.all = c.all || len(c.ids) >= maxSevered; c.all {
		c.ids = nil
		return
	}
	c.ids[idText(x.msg.ID)] = true
}

// has tells whether a response on the exchange's stream answers such a call.
func (s *severed) has(x *exchange, id []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.m[x.severedKey()]
	return c != nil && (c.all || c.ids[idText(id)])
}

// prune forgets what no session can be left of.
func (s *severed) prune(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, c := range s.m {
		if now.Sub(c.last) > sessionTotal {
			delete(s.m, key)
		}
	}
}

// idText is an id as it is meant; see sameID.
func idText(literal []byte) string {
	var s string
	if len(literal) > 0 && literal[0] == '"' && json.Unmarshal(literal, &s) == nil {
		return `"` + s
	}
	return string(literal)
}

// withhold keeps the late answer of a call that a freeze has ended from the
// client, on record.
func (x *exchange) withhold() error {
	en := x.entry(audit.KindSegment)
	en.Status, en.Masked, en.Reason = audit.StatusFrozen, x.masked, "a late response to a call that a freeze has ended: it is withheld"
	if err := x.append(en); err != nil {
		return refuse(kindUnavailable, "the record cannot be written: %w", err)
	}
	return nil
}
