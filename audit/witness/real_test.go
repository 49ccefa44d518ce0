package witness_test

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"countersign/audit"
	"countersign/audit/witness"
	"countersign/fixtures/peer"
)

// Our client and somebody else's witness: torchwood's litewitness. And the two
// witnesses side by side, asked the same.
func TestCosignByLitewitness(t *testing.T) {
	lite := peer.StartLitewitness(t, "lite.example/w", newKey(5))
	ours, srv := open(t, t.TempDir())
	log := newLogAt(t, "prod-1/r_a", 120)
	key, err := note.NewEd25519VerifierKey(log.origin, public(logKey))
	if err != nil {
		t.Fatal(err)
	}
	q := policy(t, 2, lite.Key, lite.URL, ours.Key(), srv.URL)
	c := client(t, q, time.Minute)
	if _, err := c.Cosign(t.Context(), log.cosigning(t, 3)); err == nil || !strings.Contains(err.Error(), "it answers 404") {
		t.Errorf("a log that it does not know: %v", err)
	}
	lite.AddLog(t, log.origin, key)
	for _, size := range []uint64{5, 5, 6, 64, 65, 119} {
		note, err := c.Cosign(t.Context(), log.cosigning(t, size))
		if err != nil {
			t.Errorf("size %d: %v", size, err)
		}
		if by, err := q.Check(note); err != nil || len(by) != 2 {
			t.Errorf("size %d: %+v, %v", size, by, err)
		}
		if _, err := audit.OpenCheckpoint(note, []ed25519.PublicKey{public(logKey)}); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
	}
	if _, err := client(t, q, time.Minute).Cosign(t.Context(), log.cosigning(t, 120)); err != nil {
		t.Errorf("knowing nothing: %v", err)
	}
	for what, size := range map[string]uint64{"a smaller tree": 80, "none": 1} {
		if _, err := client(t, q, time.Minute).Cosign(t.Context(), log.cosigning(t, size)); !errors.Is(err, witness.ErrForked) {
			t.Errorf("%s: %v", what, err)
		}
	}
	fork := newLog(log.origin, logKey)
	fork.grow(t, 100, "entry")
	fork.grow(t, 140, "another")
	// The two differ for a tree of the size that was cosigned: the specification
	// wants 409 here, and litewitness says 422, that the proof does not hold.
	for what, c := range map[string]struct {
		body        string
		lite, other int
	}{
		"the same again":               {log.body(t, 120, 120), 200, 200},
		"another tree of that size":    {fork.body(t, 120, 120), 422, 409},
		"a fork":                       {fork.body(t, 120, 130), 422, 422},
		"old beyond the tree":          {strings.Replace(log.body(t, 120, 120), "old 120", "old 121", 1), 400, 400},
		"an old size that it has not":  {log.body(t, 90, 120), 409, 409},
		"nonsense":                     {"old\n", 400, 400},
		"signed by nobody that counts": {strings.Replace(log.body(t, 120, 120), "— prod-1/r_a ", "— prod-1/r_b ", 1), 403, 403},
	} {
		there, _, _ := post(t, lite.URL, c.body)
		here, _, _ := post(t, srv.URL, c.body)
		if there != c.lite || here != c.other {
			t.Errorf("%s: litewitness answers %d, ours %d", what, there, here)
		}
	}
}
