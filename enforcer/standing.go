package enforcer

import (
	"fmt"
	"sync"
	"time"
)

// Standing is what is known of the policy in force, beside the policy itself.
// The zero value is that of a policy that nobody has confirmed. It is safe for
// concurrent use.
type Standing struct {
	mu        sync.Mutex
	confirmed time.Time // when a fetch last confirmed the tip
	rejected  string    // why the newest commit was refused, "" if it was not
}

// clockSkew is how far in the future a confirmation may lie before it counts
// as none: a clock that was wrong must not keep a policy in force.
const clockSkew = time.Minute

// Confirm notes, at now, that a fetch saw the policy's tip at t.
func (s *Standing) Confirm(now, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.After(now.Add(clockSkew)) {
		return
	}
	if t.After(s.confirmed) || s.confirmed.After(now.Add(clockSkew)) {
		s.confirmed = t
	}
}

// Reject notes why the newest commit is not in force; "" once all is well. It
// tells whether that is news.
func (s *Standing) Reject(reason string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := s.rejected != reason
	s.rejected = reason
	return news
}

// Rejected is what Reject noted last.
func (s *Standing) Rejected() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rejected
}

// Age is how long ago, at now, the tip was confirmed.
func (s *Standing) Age(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Sub(s.confirmed)
}

// Check tells why the policy is too old to decide at now; 0 is no limit.
func (s *Standing) Check(now time.Time, limit time.Duration) error {
	if age := s.Age(now); limit > 0 && (age > limit || age < -clockSkew) {
		return fmt.Errorf("the policy was last confirmed %s ago, longer than the operator's limit of %s: the policy repository cannot be reached", age.Round(time.Second), limit)
	}
	return nil
}
