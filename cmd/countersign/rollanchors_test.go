package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign/audit"
)

// Two enforcers whose records roll over the same repositories hold each other's
// checkpoints in whichever they are, also over a restart.
func TestAnchorsFollowTheRecord(t *testing.T) {
	t.Parallel()
	east := newRolling(t, "log-{n}.git", "log-1.git", "log-2.git", "log-3.git")
	west := &rolling{t: t, c: recordConfig(t), dir: east.dir, keys: east.keys}
	west.c.ID, west.c.AuditRepo, west.c.AuditRollBytes = "west", east.c.AuditRepo, 1<<30
	west.c.AuditCommitKey, _ = recordKey(t)
	key, pub := recordKey(t)
	west.c.AuditCheckpointKey = key
	east.c.AuditPeerKeys = filepath.Join(t.TempDir(), "peers")
	if err := os.WriteFile(east.c.AuditPeerKeys, []byte("west "+pub+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// looks is what a look every five minutes does; the repositories that the
	// enforcer's anchors of this run say.
	looks := func(rec *record) string {
		t.Helper()
		if err := rec.outside.neighbours.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		if forked := rec.outside.neighbours.Forked(); len(forked) > 0 {
			t.Errorf("%v", forked)
		}
		var in []string
		for e, err := range rec.journal.Read() {
			if err != nil {
				t.Fatal(err)
			}
			var a audit.Anchor
			if e.Kind == audit.KindAnchor && json.Unmarshal(e.Detail, &a) == nil {
				in = append(in, filepath.Base(a.Repo))
			}
		}
		return strings.Join(in, " ")
	}
	move := func(r *rolling, rec *record) {
		t.Helper()
		rec.config.AuditRollBytes = 1
		for n := 0; rec.current.Load().name != r.c.repoAt(time.Now(), 2); n++ {
			if !r.work(rec, time.Now()) || n == 3 {
				t.Fatalf("it is in %s: %s", rec.current.Load().name, r.said.take())
			}
			if rec.target == r.c.repoAt(time.Now(), 2) {
				rec.config.AuditRollBytes = 1 << 30
			}
		}
	}
	rec, other := east.start(), west.start()
	rec.config.AuditRollBytes = 1 << 30
	west.work(other, time.Now())
	if in := looks(rec); in != "log-1.git" {
		t.Errorf("anchors in %s", in)
	}
	move(east, rec)
	if in := looks(rec); in != "log-1.git" { // the other has not come yet
		t.Errorf("anchors in %s", in)
	}
	move(west, other)
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	rec = east.start()
	looks(rec) // within five minutes nothing is recorded
	if in := rec.current.Load().name; in != east.c.repoAt(time.Now(), 2) {
		t.Errorf("it looks at %s", in)
	}
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	if err := other.close(); err != nil {
		t.Fatal(err)
	}
}
