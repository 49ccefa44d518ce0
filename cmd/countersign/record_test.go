package main

import (
	"testing"

	"countersign/audit"
)

// The time between two pushes grows with the writers. Were every earlier run
// one, an enforcer that died forty times would push every seven minutes, and
// never, if it dies again before.
func TestEarlierRunsAreWritersOnlyWhileTheyArePublished(t *testing.T) {
	r := &record{past: make([]*audit.Publisher, 40)}
	if n := r.writers(); n != 1 {
		t.Errorf("%d writers before anything is published", n)
	}
	r.publishing.Store(pastAtOnce)
	if n := r.writers(); n > 6 { // pushes a minute are what a host allows for all
		t.Errorf("%d writers at most: an enforcer pushes once in %d s", n, 10*n)
	}
}
