package budget

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

const mb = 1 << 20

func TestShareTakesAndGives(t *testing.T) {
	p := New(4*mb, time.Millisecond)
	a, b := p.Share(), p.Share()
	if err := a.Set(t.Context(), 3*mb); err != nil {
		t.Fatal(err)
	}
	if err := b.Set(t.Context(), small); err != nil || p.Used() != 3*mb {
		t.Errorf("what is small is not counted: %v, %d", err, p.Used())
	}
	if err := b.Set(t.Context(), 2*mb); !errors.Is(err, ErrFull) {
		t.Errorf("more than there is: %v", err)
	}
	if b.Try(2 * mb) {
		t.Error("Try took more than there is")
	}
	if err := a.Set(t.Context(), 2*mb); err != nil || p.Used() != 2*mb {
		t.Errorf("%v, %d", err, p.Used())
	}
	if !b.Try(2 * mb) {
		t.Error("what was given back is not there")
	}
	b.Keep(3 * mb) // masking has made it larger
	if p.Used() != 5*mb {
		t.Errorf("used %d", p.Used())
	}
	a.Adopt(b)
	b.Free()
	if p.Used() != 5*mb {
		t.Errorf("used %d after Adopt", p.Used())
	}
	a.Free()
	a.Free()
	if p.Used() != 0 {
		t.Errorf("used %d at the end", p.Used())
	}
}

func TestNilIsUnbounded(t *testing.T) {
	var p *Pool
	var s *Share
	if err := p.Share().Set(t.Context(), 1<<40); err != nil {
		t.Error(err)
	}
	if err := s.Set(t.Context(), 1<<40); err != nil || !s.Try(1) {
		t.Error(err)
	}
	s.Keep(1)
	s.Adopt(New(mb, 0).Share())
	s.Free()
}

// Who waits is served in order, as soon as bytes are given back, and a call
// that gives up holds up nobody behind it.
func TestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(4*mb, 2*time.Second)
		holder := p.Share()
		holder.Keep(4 * mb)
		got := make(chan string, 3)
		wait := func(name string, ctx context.Context, n int) *Share {
			s := p.Share()
			go func() {
				if err := s.Set(ctx, n); err != nil {
					name += ": " + err.Error()
				}
				got <- name
			}()
			synctest.Wait()
			return s
		}
		ctx, cancel := context.WithCancel(t.Context())
		wait("large", ctx, 4*mb)
		wait("small", t.Context(), mb)
		holder.Keep(2 * mb)
		synctest.Wait()
		if len(got) > 0 {
			t.Errorf("%s passed who came first", <-got)
		}
		cancel()
		if first, second := <-got, <-got; first+second != "large: context canceledsmall" && first+second != "smalllarge: context canceled" {
			t.Errorf("%s, %s", first, second)
		}
		start := time.Now()
		wait("late", t.Context(), 3*mb)
		if s := <-got; !strings.Contains(s, "late: no room") || time.Since(start) != 2*time.Second {
			t.Errorf("%s after %v", s, time.Since(start))
		}
		if err := p.Await(t.Context(), mb); err != nil || p.Used() != 3*mb {
			t.Errorf("Await: %v, %d", err, p.Used())
		}
		// Its patience is for all that it takes, step by step.
		holder.Free()
		slow, other := p.Share(), p.Share()
		start = time.Now()
		for n := 1; n <= 4; n++ {
			all := p.Share()
			all.Keep(4 * mb)
			go func() { time.Sleep(1500 * time.Millisecond); all.Free() }()
			if err := slow.Set(t.Context(), n*small+1); err != nil {
				if n != 2 || !errors.Is(err, ErrFull) {
					t.Errorf("step %d: %v", n, err)
				}
				break
			}
		}
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("it waited %v", d)
		}
		if err := other.Set(t.Context(), small+1); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		slow.Free()
		other.Free()
		holder.Keep(2 * mb)
		p.Resize(2 * mb)
		if err := p.Await(t.Context(), 1); !errors.Is(err, ErrFull) {
			t.Errorf("after Resize: %v", err)
		}
		p.Resize(4 * mb)
		if err := p.Await(t.Context(), mb); err != nil {
			t.Error(err)
		}
	})
}

func TestReadAll(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789"), 100_000)
	for _, c := range []struct {
		name           string
		announced, max int64
		want           error
	}{
		{"announced", int64(len(text)), 2 * mb, nil}, {"not announced", -1, 2 * mb, nil},
		{"announced too little", 10, 2 * mb, nil}, {"announced too much", 2 * mb, 2 * mb, nil},
		{"announced beyond reason", 1 << 60, 2 * mb, nil}, {"just fits", -1, int64(len(text)), nil},
		{"too large", -1, int64(len(text)) - 1, ErrTooLarge}, {"too large, as announced", int64(len(text)), 100, ErrTooLarge},
		{"no room", -1, 64 * mb, ErrFull},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := New(4*mb, time.Millisecond)
			if c.want == ErrFull {
				p.Resize(mb)
			}
			s := p.Share()
			got, err := s.ReadAll(t.Context(), iotest.HalfReader(bytes.NewReader(text)), c.announced, c.max)
			if !errors.Is(err, c.want) || err == nil && !bytes.Equal(got, text) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if err == nil && p.Used() != int64(cap(got)) {
				t.Errorf("holds %d, and %d are counted", cap(got), p.Used())
			}
			s.Free()
			if p.Used() != 0 {
				t.Errorf("%d stay counted", p.Used())
			}
		})
	}
}

// A size that is announced and does not come takes no room.
func TestAnnouncedIsNotBelieved(t *testing.T) {
	p := New(64*mb, 0)
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := p.Share().ReadAll(t.Context(), r, 32*mb, 64*mb)
		done <- err
	}()
	if _, err := w.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if n := p.Used(); n != 0 {
		t.Errorf("%d bytes are reserved for 100", n)
	}
	w.CloseWithError(io.ErrUnexpectedEOF)
	if err := <-done; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// Many that grow at once never hold more than there is, and nobody waits for
// ever.
func TestManyGrow(t *testing.T) {
	p := New(2*mb, 5*time.Millisecond)
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 0))
			for range 50 {
				s := p.Share()
				for n := range 4 {
					if s.Set(t.Context(), (n+1)*r.IntN(mb/4)) != nil {
						break
					}
					if p.Used() > 2*mb {
						t.Error("more is held than there is")
					}
				}
				s.Free()
			}
		})
	}
	all.Wait()
	if p.Used() != 0 || p.queue.Len() != 0 {
		t.Errorf("%d held, %d in line at the end", p.Used(), p.queue.Len())
	}
}
