package kv_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign/enforcer/kv"

	"countersign/fixtures/port"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The same suite runs over both kinds of store.
func TestStore(t *testing.T) {
	t.Run("embedded", func(t *testing.T) {
		s, err := kv.OpenEmbedded(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer closeIt(t, s)
		suite(t, s)
	})
	t.Run("external", func(t *testing.T) {
		ns := listen(t, t.TempDir())
		s, err := kv.Connect(ns.ClientURL(), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer closeIt(t, s)
		suite(t, s)
	})
	t.Run("cluster", func(t *testing.T) {
		s, err := kv.Connect(cluster(t), 3)
		if err != nil {
			t.Fatal(err)
		}
		defer closeIt(t, s)
		suite(t, s)
	})
}

// cluster runs three NATS servers, and returns their URLs once they have a
// leader for what they keep together.
func cluster(t *testing.T) string {
	t.Helper()
	// JetStream asks each server to know the routes from the start, so their
	// ports must be chosen before anybody listens on them.
	var routes []*url.URL
	for range 3 {
		addr, err := port.Address()
		if err != nil {
			t.Fatal(err)
		}
		routes = append(routes, &url.URL{Scheme: "nats", Host: addr})
	}
	var servers []*server.Server
	var urls []string
	for i, route := range routes {
		n, err := strconv.Atoi(route.Port())
		if err != nil {
			t.Fatal(err)
		}
		ns, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: n}, Routes: routes,
			JetStream: true, StoreDir: t.TempDir(),
		})
		if err != nil {
			t.Fatal(err)
		}
		ns.Start()
		t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
		servers = append(servers, ns)
	}
	for _, ns := range servers {
		if !ns.ReadyForConnections(time.Minute) {
			t.Fatal("a NATS server did not start")
		}
		urls = append(urls, ns.ClientURL())
	}
	conn, err := nats.Connect(strings.Join(urls, ","))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	for {
		// Answers when the servers have found each other and a leader.
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ready", Subjects: []string{"ready"}, Replicas: len(servers)}); err == nil {
			return strings.Join(urls, ",")
		} else if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

func suite(t *testing.T, s *kv.Store) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	open := func(t *testing.T, name string) *kv.Bucket {
		b, err := s.Bucket(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}

	t.Run("compare and swap", func(t *testing.T) {
		b := open(t, "cas")
		if _, _, err := b.Get(ctx, "a.1"); !errors.Is(err, kv.ErrNotFound) {
			t.Fatalf("get of a missing key: %v", err)
		}
		rev, err := b.Create(ctx, "a.1", []byte("one"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Create(ctx, "a.1", []byte("again")); !errors.Is(err, kv.ErrExists) {
			t.Fatalf("second create: %v", err)
		}
		next, err := b.Update(ctx, "a.1", []byte("two"), rev)
		if err != nil {
			t.Fatal(err)
		}
		for _, stale := range []uint64{0, rev, next + 1} {
			if _, err := b.Update(ctx, "a.1", []byte("lost"), stale); !errors.Is(err, kv.ErrConflict) {
				t.Fatalf("update at revision %d: %v", stale, err)
			}
		}
		if _, err := b.Update(ctx, "never", nil, 0); !errors.Is(err, kv.ErrConflict) {
			t.Fatalf("an update made a key: %v", err)
		}
		value, got, err := b.Get(ctx, "a.1")
		if err != nil || string(value) != "two" || got != next {
			t.Fatalf("got %q at %d, %v; want two at %d", value, got, err, next)
		}
	})

	t.Run("delete and create again", func(t *testing.T) {
		b := open(t, "del")
		if err := b.Delete(ctx, "never", 0); err != nil {
			t.Fatal(err)
		}
		rev, err := b.Create(ctx, "k", []byte("v"))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Delete(ctx, "k", rev+7); !errors.Is(err, kv.ErrConflict) {
			t.Fatalf("delete at another revision: %v", err)
		}
		if err := b.Delete(ctx, "k", rev); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Get(ctx, "k"); !errors.Is(err, kv.ErrNotFound) {
			t.Fatalf("get after delete: %v", err)
		}
		if _, err := b.Update(ctx, "k", []byte("ghost"), rev); !errors.Is(err, kv.ErrConflict) {
			t.Fatalf("update of a deleted key: %v", err)
		}
		again, err := b.Create(ctx, "k", []byte("v2"))
		if err != nil || again <= rev {
			t.Fatalf("created again at %d (was %d): %v", again, rev, err)
		}
	})

	t.Run("one of many wins", func(t *testing.T) {
		b := open(t, "race")
		rev, err := b.Create(ctx, "spent", []byte("no"))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		won := make(chan int, 16)
		for i := range 16 {
			wg.Go(func() {
				_, err := b.Update(ctx, "spent", fmt.Appendf(nil, "by %d", i), rev)
				switch {
				case err == nil:
					won <- i
				case !errors.Is(err, kv.ErrConflict):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		close(won)
		winner, ok := <-won
		if _, second := <-won; !ok || second {
			t.Fatalf("want one winner (first: %v, second: %v)", ok, second)
		}
		value, _, err := b.Get(ctx, "spent")
		if err != nil || string(value) != fmt.Sprintf("by %d", winner) {
			t.Fatalf("%q, %v: want by %d", value, err, winner)
		}
	})

	t.Run("keys", func(t *testing.T) {
		b := open(t, "keys")
		if keys, err := b.Keys(ctx, ""); err != nil || len(keys) != 0 {
			t.Fatalf("keys of an empty bucket: %v, %v", keys, err)
		}
		for _, k := range []string{"p.b", "p.a", "p.ab", "q.a", "pa", "p.gone"} {
			if _, err := b.Create(ctx, k, []byte(k)); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Delete(ctx, "p.gone", 0); err != nil {
			t.Fatal(err)
		}
		for prefix, want := range map[string][]string{
			"":    {"p.a", "p.ab", "p.b", "pa", "q.a"},
			"p.":  {"p.a", "p.ab", "p.b"},
			"p.a": {"p.a", "p.ab"},
			"p":   {"p.a", "p.ab", "p.b", "pa"},
			"z.":  nil,
		} {
			got, err := b.Keys(ctx, prefix)
			tick := time.NewTicker(20 * time.Millisecond)
			for n := 0; n < 3000 && err == nil && !slices.Equal(got, want); n++ { // a replica may lag
				<-tick.C
				got, err = b.Keys(ctx, prefix)
			}
			tick.Stop()
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("keys %q = %v, %v; want %v", prefix, got, err, want)
			}
		}
	})

	t.Run("hostile keys", func(t *testing.T) {
		b := open(t, "bad")
		for _, k := range []string{"", "*", ">", "a.*", "a b", "a\r\nPUB x", ".a", "a.", "a..b", "ä", "a\x00"} {
			_, _, get := b.Get(ctx, k)
			_, create := b.Create(ctx, k, nil)
			_, update := b.Update(ctx, k, nil, 1)
			for _, err := range []error{get, create, update, b.Delete(ctx, k, 0)} {
				if !errors.Is(err, kv.ErrBadKey) {
					t.Errorf("key %q: %v", k, err)
				}
			}
		}
		if _, err := b.Keys(ctx, "*"); !errors.Is(err, kv.ErrBadKey) {
			t.Errorf("keys *: %v", err)
		}
		if _, err := b.Watch(ctx, "a.*."); !errors.Is(err, kv.ErrBadKey) {
			t.Errorf("watch a.*.: %v", err)
		}
		if _, err := s.Bucket(ctx, "no.dots"); err == nil {
			t.Error("a bucket name with a dot was taken")
		}
	})

	t.Run("watch", func(t *testing.T) {
		b := open(t, "watch")
		for _, k := range []string{"w.old", "x.other"} {
			if _, err := b.Create(ctx, k, []byte("1")); err != nil {
				t.Fatal(err)
			}
		}
		wctx, stop := context.WithCancel(ctx)
		defer stop()
		updates, err := b.Watch(wctx, "w.")
		if err != nil {
			t.Fatal(err)
		}
		next := func() string {
			select {
			case u, ok := <-updates:
				if !ok {
					t.Fatal("the watch ended early")
				}
				return fmt.Sprintf("%s=%s %v", u.Key, u.Value, u.Deleted)
			case <-ctx.Done():
				t.Fatal("no update came")
			}
			return ""
		}
		if got := next(); got != "w.old=1 false" {
			t.Fatal(got)
		}
		if _, err := b.Create(ctx, "w.new", []byte("2")); err != nil {
			t.Fatal(err)
		}
		if got := next(); got != "w.new=2 false" {
			t.Fatal(got)
		}
		if err := b.Delete(ctx, "w.new", 0); err != nil {
			t.Fatal(err)
		}
		if got := next(); got != "w.new= true" {
			t.Fatal(got)
		}
		// A watcher that stopped reading with a full pipe must still end.
		for i := range 600 {
			if _, err := b.Create(ctx, fmt.Sprintf("w.flood%d", i), nil); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		for range updates {
		}
	})

	t.Run("cancelled", func(t *testing.T) {
		b := open(t, "cancelled")
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := b.Create(gone, "k", nil); !errors.Is(err, context.Canceled) {
			t.Errorf("create: %v", err)
		}
		if keys, err := b.Keys(gone, ""); err == nil {
			t.Errorf("a cancelled list passed for an empty one: %v", keys)
		}
	})
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	first, err := kv.OpenEmbedded(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.OpenEmbedded(dir); !errors.Is(err, kv.ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("second open: %v", err)
	}
	closeIt(t, first)
	again, err := kv.OpenEmbedded(dir)
	if err != nil {
		t.Fatal(err)
	}
	closeIt(t, again)
}

func TestUnusableDirectory(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.OpenEmbedded(file); err == nil {
		t.Fatal("a file passed for a directory")
	}
}

func TestExternalDown(t *testing.T) {
	ns := listen(t, t.TempDir())
	s, err := kv.Connect(ns.ClientURL(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, s)
	b, err := s.Bucket(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	ns.Shutdown()
	ns.WaitForShutdown()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for _, known := range []error{kv.ErrConflict, kv.ErrExists, kv.ErrNotFound} {
		if _, err := b.Update(ctx, "k", nil, 1); err == nil || errors.Is(err, known) {
			t.Fatalf("update with the server gone: %v", err)
		}
		if _, _, err := b.Get(ctx, "k"); err == nil || errors.Is(err, known) {
			t.Fatalf("get with the server gone: %v", err)
		}
	}
	if _, err := kv.Connect(ns.ClientURL(), 1); err == nil {
		t.Fatal("connected to a server that is gone")
	}
}

// A process that dies without a word loses nothing that it was told is
// written, and leaves no lock behind.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(exe, "-test.run=^TestCrashingWriter$")
	child.Env = append(os.Environ(), "KV_CRASH_DIR="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	acked := map[string]bool{}
	for lines := bufio.NewScanner(out); len(acked) < 50 && lines.Scan(); {
		if key, ok := strings.CutPrefix(lines.Text(), "acked "); ok {
			acked[key] = true
		}
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err == nil || len(acked) < 50 {
		t.Fatalf("the writer ended by itself (%v) after %d writes", err, len(acked))
	}
	s, err := kv.OpenEmbedded(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, s)
	b, err := s.Bucket(t.Context(), "crash")
	if err != nil {
		t.Fatal(err)
	}
	for key := range acked {
		if value, _, err := b.Get(t.Context(), key); err != nil || string(value) != key {
			t.Errorf("%s: %q, %v", key, value, err)
		}
	}
}

// TestCrashingWriter is the process that TestCrash kills; by itself it has
// nothing to do.
func TestCrashingWriter(t *testing.T) {
	dir, ok := os.LookupEnv("KV_CRASH_DIR")
	if !ok {
		return
	}
	s, err := kv.OpenEmbedded(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Bucket(t.Context(), "crash")
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		key := fmt.Sprintf("k%d", i)
		if _, err := b.Create(t.Context(), key, []byte(key)); err != nil {
			t.Fatal(err)
		}
		fmt.Println("acked", key)
	}
}

func closeIt(t *testing.T, s *kv.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// listen runs a NATS server on loopback, as an operator's cluster would be.
func listen(t *testing.T, dir string) *server.Server {
	t.Helper()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(time.Minute) {
		t.Fatal("the NATS server did not start")
	}
	return ns
}
