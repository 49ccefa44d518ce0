package witness_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"countersign/audit"
	"countersign/audit/witness"
)

// fakeLog is a log whose tree is made with golang.org/x/mod, not with our code.
type fakeLog struct {
	origin string
	key    ed25519.PrivateKey
	stored []tlog.Hash
	size   uint64
}

func newKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func newLog(origin string, key ed25519.PrivateKey) *fakeLog {
	return &fakeLog{origin: origin, key: key}
}

func (l *fakeLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = l.stored[x]
	}
	return out, nil
}

// grow adds entries until there are n; what tells two histories apart.
func (l *fakeLog) grow(t testing.TB, n uint64, what string) {
	t.Helper()
	for ; l.size < n; l.size++ {
		hs, err := tlog.StoredHashes(int64(l.size), fmt.Appendf(nil, "%s %d", what, l.size), l)
		if err != nil {
			t.Fatal(err)
		}
		l.stored = append(l.stored, hs...)
	}
}

func (l *fakeLog) at(t testing.TB, size uint64) audit.Checkpoint {
	t.Helper()
	root, err := tlog.TreeHash(int64(size), l)
	if err != nil {
		t.Fatal(err)
	}
	return audit.Checkpoint{Origin: l.origin, Size: size, Root: root}
}

func (l *fakeLog) signed(t testing.TB, size uint64) string {
	t.Helper()
	s, err := l.at(t, size).Sign(l.key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (l *fakeLog) proof(t testing.TB, old, size uint64) tlog.TreeProof {
	t.Helper()
	if old == 0 || old >= size {
		return nil
	}
	p, err := tlog.ProveTree(int64(size), int64(old), l)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// body is a request as the specification shows it.
func (l *fakeLog) body(t testing.TB, old, size uint64) string {
	t.Helper()
	b := fmt.Sprintf("old %d\n", old)
	for _, h := range l.proof(t, old, size) {
		b += base64.StdEncoding.EncodeToString(h[:]) + "\n"
	}
	return b + "\n" + l.signed(t, size)
}

// cosigning is what the publisher would ask for.
func (l *fakeLog) cosigning(t testing.TB, size uint64) audit.Cosigning {
	return audit.Cosigning{Checkpoint: l.at(t, size), Signed: l.signed(t, size), Proof: func(_ context.Context, old uint64) (tlog.TreeProof, error) {
		if old > size {
			return nil, errors.New("no such tree")
		}
		return l.proof(t, old, size), nil
	}}
}

var logKey, otherKey, witnessKey = newKey(1), newKey(2), newKey(3)

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func config(dir string) witness.Config {
	return witness.Config{Name: "witness.example/w1", Key: witnessKey, Dir: dir, Logs: audit.LogKeys{"prod-1": {public(logKey)}}}
}

// open starts a witness in dir; its server stops with the test.
func open(t testing.TB, dir string) (*witness.Witness, *httptest.Server) {
	t.Helper()
	w, err := witness.Open(config(dir))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(w)
	t.Cleanup(func() {
		srv.Close()
		if err := w.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return w, srv
}

func post(t testing.TB, url, body string) (status int, kind, answer string) {
	t.Helper()
	resp, err := http.Post(url+"/add-checkpoint", "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(b)
}

// cosigned holds an answer against torchwood's reading of the specification.
func cosigned(t testing.TB, vkey, signed, answer string) {
	t.Helper()
	v, err := torchwood.NewCosignatureVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open([]byte(signed+answer), note.VerifierList(v))
	if err != nil || len(n.Sigs) != 1 {
		t.Fatalf("cosignature %q: %v", answer, err)
	}
}

func TestWitnessAnswers(t *testing.T) {
	w, srv := open(t, t.TempDir())
	log := newLog("prod-1/r_a", logKey)
	log.grow(t, 40, "entry")
	fork := newLog("prod-1/r_a", logKey)
	fork.grow(t, 7, "entry")
	fork.grow(t, 40, "another")
	stranger := newLog("prod-1/r_a", otherKey)
	stranger.grow(t, 20, "entry")
	unknown := newLog("prod-2/r_a", logKey)
	unknown.grow(t, 3, "entry")
	extended := strings.Replace(log.body(t, 0, 3), "\n\n— ", "\nextension\n\n— ", 1)
	empty := newLog("prod-1/r_e", logKey)
	wrong := empty.at(t, 0)
	wrong.Root[0]++
	wrongEmpty, err := wrong.Sign(logKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, body string
		status     int
		answer     string // for 409
	}{
		{"an unknown enforcer", unknown.body(t, 0, 3), 404, ""},
		{"a log of another kind", "old 0\n\nexample.com/sofa\n1\nAAAA\n\n— example.com/sofa AAAAAAAA\n", 404, ""},
		{"another key", stranger.body(t, 0, 3), 403, ""},
		{"an extension line", extended, 403, ""},
		{"no request", "hello", 400, ""},
		{"old size with a zero before it", strings.Replace(log.body(t, 0, 3), "old 0", "old 00", 1), 400, ""},
		{"old size beyond the tree", strings.Replace(log.body(t, 0, 3), "old 0", "old 4", 1), 400, ""},
		{"a proof from nothing", strings.Replace(log.body(t, 3, 9), "old 3", "old 0", 1), 422, ""},
		{"an empty tree with a root", "old 0\n\n" + wrongEmpty, 422, ""},
		{"an old size that was not cosigned", log.body(t, 3, 9), 409, "0\n"},
		{"the first", log.body(t, 0, 9), 200, ""},
		{"the same again", log.body(t, 9, 9), 200, ""},
		{"from nothing again", log.body(t, 0, 9), 409, "9\n"},
		{"a smaller one", log.body(t, 3, 5), 409, "9\n"},
		{"another of the same size", fork.body(t, 9, 9), 409, "9\n"},
		{"a fork", fork.body(t, 9, 20), 422, ""},
		{"the tree, with the fork's proof", strings.Replace(fork.body(t, 9, 20), fork.signed(t, 20), log.signed(t, 20), 1), 422, ""},
		{"a longer one without proof", "old 9\n\n" + log.signed(t, 20), 422, ""},
		{"a longer one", log.body(t, 9, 20), 200, ""},
		{"64 lines of proof", "old 20\n" + strings.Repeat(base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n", 64) + "\n" + log.signed(t, 30), 400, ""},
		{"too long", log.body(t, 20, 30) + strings.Repeat("— x AAAAAAAA\n", 4000), 413, ""},
		{"another run of the enforcer", newLogAt(t, "prod-1/r_b", 4).body(t, 0, 4), 200, ""},
	} {
		status, kind, answer := post(t, srv.URL, c.body)
		if status != c.status || c.status == 409 && (answer != c.answer || kind != "text/x.tlog.size") {
			t.Errorf("%s: %d (%s) %q, want %d %q", c.what, status, kind, answer, c.status, c.answer)
		}
		if status == 200 {
			cosigned(t, w.Key(), c.body[strings.Index(c.body, "\n\n")+2:], answer)
		}
	}
	if resp, err := http.Get(srv.URL + "/add-checkpoint"); err != nil || resp.StatusCode != 405 {
		t.Errorf("GET: %v, %v", resp.StatusCode, err)
	}
	if resp, err := http.Get(srv.URL + "/healthz"); err != nil || resp.StatusCode != 200 {
		t.Errorf("healthz: %v, %v", resp.StatusCode, err)
	}
}

func newLogAt(t testing.TB, origin string, n uint64) *fakeLog {
	l := newLog(origin, logKey)
	l.grow(t, n, "entry")
	return l
}

// What was cosigned outlives the process, and one that was not cannot be made
// to count; the file that is kept is an anchor.
func TestWitnessRemembers(t *testing.T) {
	dir := t.TempDir()
	log := newLogAt(t, "prod-1/r_a", 30)
	w, srv := open(t, dir)
	if status, _, _ := post(t, srv.URL, log.body(t, 0, 12)); status != 200 {
		t.Fatal(status)
	}
	if _, err := witness.Open(config(dir)); !errors.Is(err, audit.ErrInUse) {
		t.Errorf("a second witness on the same directory: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := post(t, srv.URL, log.body(t, 12, 20)); status != 503 {
		t.Errorf("closed, it answers %d", status)
	}
	file := filepath.Join(dir, "logs", "prod-1", "r_a")
	if err := os.WriteFile(file+".new+", []byte("half a no"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, srv = open(t, dir)
	if status, _, answer := post(t, srv.URL, log.body(t, 0, 12)); status != 409 || answer != "12\n" {
		t.Errorf("after a restart: %d %q", status, answer)
	}
	if _, err := os.Stat(file + ".new+"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a crash left is still there: %v", err)
	}
	kept, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := audit.OpenCheckpoint(string(kept), []ed25519.PublicKey{public(logKey)}); err != nil || c != log.at(t, 12) {
		t.Errorf("kept: %+v, %v", c, err)
	}
}

// A witness whose memory is damaged does not start: what it would cosign could
// contradict what it forgot.
func TestWitnessRefusesDamage(t *testing.T) {
	log := newLogAt(t, "prod-1/r_a", 3)
	for what, content := range map[string]string{"empty": "", "another log": newLogAt(t, "prod-1/r_b", 3).signed(t, 3), "cut": log.signed(t, 3)[:40]} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "logs", "prod-1"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "logs", "prod-1", "r_a"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := witness.Open(config(dir)); err == nil || !strings.Contains(err.Error(), "does not read any more") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// What cannot be kept is not cosigned.
func TestWitnessWithoutDisk(t *testing.T) {
	dir := t.TempDir()
	_, srv := open(t, dir)
	log := newLogAt(t, "prod-1/r_a", 20)
	if status, _, _ := post(t, srv.URL, log.body(t, 0, 5)); status != 200 {
		t.Fatal(status)
	}
	blocked := filepath.Join(dir, "logs", "prod-1", "r_a.new+")
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	status, _, answer := post(t, srv.URL, log.body(t, 5, 9))
	if status != 500 || strings.Contains(answer, "—") || strings.Contains(answer, dir) {
		t.Errorf("%d %q", status, answer)
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	if status, _, answer := post(t, srv.URL, log.body(t, 5, 9)); status != 200 {
		t.Errorf("%d %q", status, answer)
	}
}

// Requests that race never take a log back: what was cosigned is a line of
// trees, and the last of them is what is kept.
func TestWitnessRace(t *testing.T) {
	_, srv := open(t, t.TempDir())
	log := newLogAt(t, "prod-1/r_a", 60)
	bodies := map[uint64]map[uint64]string{}
	for old := range uint64(60) {
		bodies[old] = map[uint64]string{}
		for step := uint64(1); step < 5 && old+step < 60; step++ {
			bodies[old][step] = log.body(t, old, old+step)
		}
	}
	var mu sync.Mutex
	newest := uint64(0)
	var all sync.WaitGroup
	for step := uint64(1); step < 5; step++ {
		all.Go(func() {
			old := uint64(0)
			for {
				body, ok := bodies[old][step]
				if !ok {
					return
				}
				status, _, answer := post(t, srv.URL, body)
				switch status {
				case 200:
					old += step
					mu.Lock()
					newest = max(newest, old)
					mu.Unlock()
				case 409:
					before := old
					if _, err := fmt.Sscan(answer, &old); err != nil || old < before {
						t.Errorf("from %d: %q", before, answer)
						return
					}
				default:
					t.Errorf("%d %q", status, answer)
					return
				}
			}
		})
	}
	all.Wait()
	if status, _, answer := post(t, srv.URL, log.body(t, 0, 60)); status != 409 || answer != fmt.Sprintf("%d\n", newest) {
		t.Errorf("it keeps %d %q; the newest cosigned is %d", status, answer, newest)
	}
}

// lines collects a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// A key that nobody is named for may have every log cosigned: that is said.
func TestAWitnessOfKeysWithoutNames(t *testing.T) {
	for what, c := range map[string]struct {
		logs audit.LogKeys
		says bool
	}{
		"named":   {audit.LogKeys{"prod-1": {public(logKey)}}, false},
		"unnamed": {audit.LogKeys{"": {public(logKey)}}, true},
	} {
		said := &lines{}
		cfg := config(t.TempDir())
		cfg.Logs, cfg.Log = c.logs, said.logger()
		w, err := witness.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(said.String(), "may sign the logs of every enforcer"); got != c.says {
			t.Errorf("%s: it says %q", what, said)
		}
	}
}
