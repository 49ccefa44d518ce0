package upstream

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"countersign/enforcer/budget"
	"countersign/enforcer/wire"
)

const kb = 1 << 10

// An answer over HTTP is counted while it is held, and ends where there is no
// room for it.
func TestHTTPRoom(t *testing.T) {
	u := against(t, HTTPConfig{}, func(w http.ResponseWriter, r *http.Request) {
		size := map[string]int{"small": 100, "large": 200 * kb, "huge": 2000 * kb}[r.Header.Get("Mcp-Name")]
		message := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"result":{"a":"%s"}}`, strings.Repeat("x", size))
		if r.Header.Get("Mcp-Method") == "stream" {
			w.Header().Set("Content-Type", "text/event-stream")
			for range 3 {
				io.WriteString(w, "data: "+message+"\n\n") // the client may be gone
				w.(http.Flusher).Flush()
			}
			return
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, message)
	})
	for _, how := range []string{"whole", "stream"} {
		for _, c := range []struct {
			size        string
			least, most int64
			want        error
		}{{"small", 0, 0, nil}, {"large", 200 * kb, 800 * kb, nil}, {"huge", 0, 0, budget.ErrFull}} {
			t.Run(how+" "+c.size, func(t *testing.T) {
				pool := budget.New(1000*kb, time.Millisecond)
				r := request(ping)
				r.Room, r.Header = pool.Share(), http.Header{"Mcp-Name": {c.size}, "Mcp-Method": {how}}
				reply, err := u.Send(t.Context(), r)
				n := 0
				for err == nil {
					var e wire.Event
					if e, err = reply.Next(); err != nil || len(e.Data) == 0 {
						break
					}
					n++
					held := pool.Used()
					if held < c.least || held > c.most {
						t.Errorf("%d bytes are held, and %d counted", len(e.Raw), held)
					}
					if reply.Done(); how == "stream" && pool.Used() > held-c.least {
						t.Errorf("%d bytes are counted, and %d when the event is done with", held, pool.Used())
					}
				}
				if how == "stream" && err == io.EOF && pool.Used() != 0 {
					t.Errorf("%d bytes are counted at the end of the stream", pool.Used())
				}
				switch {
				case c.want == nil && (err != io.EOF || n != map[string]int{"whole": 1, "stream": 3}[how]):
					t.Errorf("%d events, then %v", n, err)
				case c.want != nil && (!errors.Is(err, c.want) || errors.Is(err, ErrNotSent)):
					t.Errorf("got %v, want %v", err, c.want)
				}
				if reply != nil {
					if err := reply.Close(); err != nil {
						t.Error(err)
					}
				}
				r.Room.Free()
				if pool.Used() != 0 {
					t.Errorf("%d bytes stay counted", pool.Used())
				}
			})
		}
	}
}

// A line of a spawned server for which there is no room fails the call that it
// may have answered, and nothing else.
func TestStdioRoom(t *testing.T) {
	pool := budget.New(1000*kb, 10*time.Millisecond)
	u := open(t, "mirror", func(c *StdioConfig) { c.Room = pool })
	session := initialize(t, u, "")
	call := func(size int) *Request {
		r := legacy(session, "", fmt.Sprintf(`{"jsonrpc":"2.0","id":5,"method":"x","params":{"a":"%s"}}`, strings.Repeat("x", size)))
		r.Room = pool.Share()
		return r
	}
	small := mirror(t, u, call(10))
	large := call(200 * kb)
	if got := mirror(t, u, large); len(got.Result.Got) < 200*kb || pool.Used() < 200*kb || pool.Used() > 500*kb {
		t.Errorf("%d bytes are held, and %d counted", len(got.Result.Got), pool.Used())
	}
	large.Room.Free()
	if _, err := answer(t, u, call(2000*kb)); !errors.Is(err, budget.ErrFull) || errors.Is(err, ErrNotSent) {
		t.Errorf("without room: %v", err)
	}
	if after := mirror(t, u, call(10)); after.Result.PID != small.Result.PID {
		t.Error("the process did not outlive it")
	}
	if pool.Used() != 0 {
		t.Errorf("%d bytes stay counted", pool.Used())
	}
}

// What waits for a slow reader is counted, many small messages, too; and it is
// given back whether they are read or not.
func TestStdioRoomOfWhatWaits(t *testing.T) {
	for _, c := range []struct {
		name string
		max  int64
		read bool
		want error
	}{{"read", 1000 * kb, true, io.EOF}, {"not read", 1000 * kb, false, nil}, {"no room", 100 * kb, true, budget.ErrFull}} {
		t.Run(c.name, func(t *testing.T) {
			pool := budget.New(c.max, time.Millisecond)
			u := open(t, "bulk", func(cfg *StdioConfig) { cfg.Room = pool })
			session := initialize(t, u, "")
			r := legacy(session, "", `{"jsonrpc":"2.0","id":5,"method":"x"}`)
			r.Room = pool.Share()
			reply, err := u.Send(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			waitFor(t, u, func() bool { // all of it is there, or was left out
				for p := range u.procs {
					if len(p.calls) > 0 {
						return false
					}
				}
				return pool.Used() > c.max/2
			})
			for c.read {
				if _, err := reply.Next(); err != nil {
					if !errors.Is(err, c.want) {
						t.Errorf("it ended with %v", err)
					}
					break
				}
			}
			if err := reply.Close(); err != nil {
				t.Error(err)
			}
			u.EndSession(session) // and what came unasked
			r.Room.Free()
			waitFor(t, u, func() bool { return pool.Used() == 0 })
		})
	}
}

// The process of a call that nobody waits for any more gives back all the same.
func TestStdioRoomIsGivenBackAtTheEnd(t *testing.T) {
	pool := budget.New(1000*kb, time.Millisecond)
	u := spawns(t, "bulk", func(c *StdioConfig) { c.Room = pool }).(*stdio)
	session := initialize(t, u, "")
	r := legacy(session, "", `{"jsonrpc":"2.0","id":5,"method":"x"}`)
	reply, err := u.Send(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	stream := request(ping)
	stream.Verb, stream.Message, stream.Session = http.MethodGet, nil, session
	listening, err := u.Send(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, u, func() bool { return pool.Used() > 500*kb })
	closeUpstream(t, u)
	for _, r := range []*Reply{reply, listening} {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if pool.Used() != 0 {
		t.Errorf("%d bytes stay counted", pool.Used())
	}
}
