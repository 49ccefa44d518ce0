package witness_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"

	"countersign/audit"
	"countersign/audit/witness"
)

// policy demands n of the witnesses, which are given as vkey and URL in turn.
func policy(t testing.TB, n int, keysAndURLs ...string) *audit.Quorum {
	t.Helper()
	var b, names strings.Builder
	for i := 0; i < len(keysAndURLs); i += 2 {
		fmt.Fprintf(&b, "witness w%d %s %s\n", i/2+1, keysAndURLs[i], keysAndURLs[i+1])
		fmt.Fprintf(&names, " w%d", i/2+1)
	}
	fmt.Fprintf(&b, "group g %d%s\nquorum g\n", n, names.String())
	q, err := audit.ParseQuorum([]byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func client(t testing.TB, q *audit.Quorum, limit time.Duration) *witness.Client {
	t.Helper()
	c, err := witness.NewClient(witness.ClientConfig{Quorum: q, Limit: limit, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// vkey is the witness's own, for a name and a key.
func vkey(t testing.TB, name string, key ed25519.PrivateKey) string {
	t.Helper()
	s, err := torchwood.NewCosignatureSigner(name, key)
	if err != nil {
		t.Fatal(err)
	}
	return s.Verifier().String()
}

func TestCosign(t *testing.T) {
	dir := t.TempDir()
	w, srv := open(t, dir)
	q := policy(t, 1, w.Key(), srv.URL+"/")
	c := client(t, q, time.Minute)
	log := newLogAt(t, "prod-1/r_a", 50)
	for _, size := range []uint64{7, 7, 8, 31, 32} {
		ask := log.cosigning(t, size)
		note, err := c.Cosign(t.Context(), ask)
		if err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		if rest, ok := strings.CutPrefix(note, ask.Signed); !ok || strings.Count(rest, "\n") != 1 {
			t.Errorf("size %d: %q", size, note)
		}
		if _, err := audit.OpenCheckpoint(note, []ed25519.PublicKey{public(logKey)}); err != nil {
			t.Errorf("size %d: the log's own signature is gone: %v", size, err)
		}
		if by, err := q.Check(note); err != nil || len(by) != 1 || by[0].Witness != "w1" || time.Since(by[0].Time).Abs() > time.Hour {
			t.Errorf("size %d: %+v, %v", size, by, err)
		}
	}
	// Another client, which knows nothing, learns from the witness what it has.
	c = client(t, q, time.Minute)
	if _, err := c.Cosign(t.Context(), log.cosigning(t, 40)); err != nil {
		t.Errorf("knowing nothing: %v", err)
	}
	if s := c.Standings(); len(s) != 1 || s[0].Size != 40 || s[0].Cosigned.IsZero() || s[0].Failed != 0 || s[0].Err != "" {
		t.Errorf("standings: %+v", s)
	}
	// Another tree of 40 entries, and a smaller one: the state directory was
	// restored, or somebody else has the key.
	fork := newLog("prod-1/r_a", logKey)
	fork.grow(t, 40, "another")
	for what, ask := range map[string]audit.Cosigning{"fork": fork.cosigning(t, 40), "rollback": log.cosigning(t, 39)} {
		c := client(t, q, time.Minute)
		if note, err := c.Cosign(t.Context(), ask); !errors.Is(err, witness.ErrForked) || note != ask.Signed {
			t.Errorf("%s: %q, %v", what, note, err)
		}
		if s := c.Standings(); !s[0].Forked || s[0].Failed != 1 {
			t.Errorf("%s: %+v", what, s)
		}
	}
}

// A witness that lost its state cosigns again; that it forgot is said loudly.
func TestCosignByOneWhoForgot(t *testing.T) {
	dir := t.TempDir()
	w, err := witness.Open(config(dir))
	if err != nil {
		t.Fatal(err)
	}
	var now http.Handler = w
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { now.ServeHTTP(rw, r) }))
	t.Cleanup(srv.Close)
	logs := &lines{}
	c, err := witness.NewClient(witness.ClientConfig{Quorum: policy(t, 1, w.Key(), srv.URL), Limit: time.Minute, Now: time.Now, Log: logs.logger()})
	if err != nil {
		t.Fatal(err)
	}
	log := newLogAt(t, "prod-1/r_a", 50)
	if _, err := c.Cosign(t.Context(), log.cosigning(t, 20)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), os.RemoveAll(dir)); err != nil {
		t.Fatal(err)
	}
	again, err := witness.Open(config(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close() })
	now = again
	if _, err := c.Cosign(t.Context(), log.cosigning(t, 30)); err != nil {
		t.Errorf("%v", err)
	}
	if !strings.Contains(logs.String(), "has forgotten what it cosigned") {
		t.Errorf("the log says %q", logs)
	}
}

// liar answers as it likes.
func liar(t testing.TB, answer func(signed string) (int, string)) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		_, signed, _ := strings.Cut(string(body), "\n\n")
		status, text := answer(signed)
		rw.WriteHeader(status)
		io.WriteString(rw, text)
	}))
	t.Cleanup(srv.Close)
	return srv
}

// cosignature makes a line by hand, as the specification says, at any time.
func cosignature(t testing.TB, name string, key ed25519.PrivateKey, signed string, at time.Time) string {
	t.Helper()
	v, err := torchwood.NewCosignatureVerifier(vkey(t, name, key))
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(signed, "\n\n")
	sig := binary.BigEndian.AppendUint32(nil, v.KeyHash())
	sig = binary.BigEndian.AppendUint64(sig, uint64(at.Unix()))
	sig = append(sig, ed25519.Sign(key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s\n", at.Unix(), text))...)
	return "— " + name + " " + base64.StdEncoding.EncodeToString(sig) + "\n"
}

// Nothing that a witness says gets into the note, but its own cosignature of
// this checkpoint, now; and one that lies takes nothing from those that do not.
func TestCosignAmongLiars(t *testing.T) {
	w, honest := open(t, t.TempDir())
	log := newLogAt(t, "prod-1/r_a", 50)
	const name = "liar.example"
	for what, c := range map[string]struct {
		answer func(signed string) (int, string)
		err    string
	}{
		"by hand, all is well": {func(s string) (int, string) { return 200, cosignature(t, name, otherKey, s, time.Now()) }, ""},
		"with another line beside it": {func(s string) (int, string) {
			return 200, "— x.example AAAAAAAAAAAA\n" + cosignature(t, name, otherKey, s, time.Now())
		}, ""},
		"another key":        {func(s string) (int, string) { return 200, cosignature(t, name, newKey(9), s, time.Now()) }, "no verifiable signatures"},
		"another name":       {func(s string) (int, string) { return 200, cosignature(t, "x.example", otherKey, s, time.Now()) }, "no verifiable signatures"},
		"another checkpoint": {func(string) (int, string) { return 200, cosignature(t, name, otherKey, log.signed(t, 3), time.Now()) }, "invalid signature"},
		"of last year": {func(s string) (int, string) {
			return 200, cosignature(t, name, otherKey, s, time.Now().AddDate(-1, 0, 0))
		}, "its clock, or ours, is wrong"},
		"of tomorrow": {func(s string) (int, string) {
			return 200, cosignature(t, name, otherKey, s, time.Now().AddDate(0, 0, 1))
		}, "its clock, or ours, is wrong"},
		"nothing": {func(string) (int, string) { return 200, "" }, "malformed note"},
		"a paragraph": {func(s string) (int, string) {
			return 200, "so it is\n\n" + cosignature(t, name, otherKey, s, time.Now())
		}, "invalid signature"},
		"without end":          {func(string) (int, string) { return 200, strings.Repeat("— x.example AAAAAAAAAAAA\n", 9000) }, "malformed note"},
		"a size that is none":  {func(string) (int, string) { return 409, "many\n" }, "409 without a size"},
		"never the same size":  {func(string) (int, string) { return 409, "4\n" }, "it has cosigned 4 entries"},
		"more than there are":  {func(string) (int, string) { return 409, "99\n" }, "another history"},
		"unknown":              {func(string) (int, string) { return 404, "who\x1b[2J?" }, `it answers 404: "who\x1b[2J?"`},
		"trouble":              {func(string) (int, string) { return 500, "" }, "it answers 500"},
		"a cosignature in 409": {func(s string) (int, string) { return 409, cosignature(t, name, otherKey, s, time.Now()) }, "409 without a size"},
	} {
		t.Run(what, func(t *testing.T) {
			srv := liar(t, c.answer)
			q := policy(t, 2, vkey(t, name, otherKey), srv.URL, w.Key(), honest.URL)
			ask := log.cosigning(t, 20)
			note, err := client(t, q, time.Minute).Cosign(t.Context(), ask)
			rest, _ := strings.CutPrefix(note, ask.Signed)
			want := 1
			if c.err == "" {
				want = 2
			}
			by, qerr := q.Check(note)
			if strings.Count(rest, "\n") != want || len(by) != want || (qerr == nil) != (want == 2) {
				t.Errorf("note %q, by %v: %v", rest, by, qerr)
			}
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
}

// Witnesses that are down or hang cost no more than the limit, and the others'
// cosignatures are there.
func TestCosignInTime(t *testing.T) {
	w, honest := open(t, t.TempDir())
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	t.Cleanup(hangs.Close)
	log := newLogAt(t, "prod-1/r_a", 9)
	q := policy(t, 1, vkey(t, "down.example", newKey(7)), down.URL, vkey(t, "hangs.example", newKey(8)), hangs.URL, w.Key(), honest.URL)
	c := client(t, q, time.Hour)
	ctx, limit := context.WithCancel(t.Context()) // comes when the two others are through
	defer limit()
	go func() {
		for range time.Tick(time.Millisecond) {
			if s := c.Standings(); s[0].Failed == 1 && !s[2].Cosigned.IsZero() || ctx.Err() != nil {
				limit()
				return
			}
		}
	}()
	note, err := c.Cosign(ctx, log.cosigning(t, 9))
	if !errors.Is(err, context.Canceled) || errors.Is(err, audit.ErrQuorum) {
		t.Errorf("%v", err)
	}
	if by, err := q.Check(note); err != nil || len(by) != 1 || by[0].Witness != "w3" {
		t.Errorf("%v, %v", by, err)
	}
	for i, failed := range []uint64{1, 1, 0} {
		if s := c.Standings()[i]; s.Failed != failed || (s.Err != "") != (failed > 0) || s.Forked {
			t.Errorf("%+v", s)
		}
	}
	c = client(t, policy(t, 1, vkey(t, "hangs.example", newKey(8)), hangs.URL), 50*time.Millisecond)
	if _, err := c.Cosign(t.Context(), log.cosigning(t, 9)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the limit alone: %v", err)
	}
}

func TestClientNeedsSomebodyToAsk(t *testing.T) {
	q, err := audit.NewQuorum([]string{vkey(t, "w.example", witnessKey)}, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []witness.ClientConfig{{}, {Quorum: q}, {Quorum: q, Now: time.Now}} {
		if _, err := witness.NewClient(cfg); err == nil {
			t.Errorf("%+v: no error", cfg)
		}
	}
}
