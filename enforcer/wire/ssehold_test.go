package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// Whatever the sizes, no byte is lost, what is handed out never changes again,
// and what is held is told before it is.
func TestEventReaderHolds(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var stream bytes.Buffer
	for range 300 {
		size := []int{10, 1000, 9000, 200_000}[r.IntN(4)]
		for range 1 + r.IntN(3) {
			fmt.Fprintf(&stream, "data: %s\n", strings.Repeat(string(rune('a'+r.IntN(26))), r.IntN(size)))
		}
		stream.WriteString("\n")
	}
	for name, in := range map[string]io.Reader{"at once": bytes.NewReader(stream.Bytes()), "by halves": iotest.HalfReader(bytes.NewReader(stream.Bytes()))} {
		told := 0
		er := NewEventReader(in, 0)
		er.Hold = func(n int) error { told = n; return nil }
		var events []Event
		for {
			e, err := er.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if told < len(e.Raw) || told > 16*len(e.Raw)+1<<20 {
				t.Fatalf("%s: an event of %d bytes, and %d are held", name, len(e.Raw), told)
			}
			if err := er.Done(); err != nil {
				t.Fatal(err)
			}
			events = append(events, e)
		}
		var all []byte
		for _, e := range events {
			all = append(all, e.Raw...)
		}
		if !bytes.Equal(all, stream.Bytes()) {
			t.Errorf("%s: the stream is not what its events are", name)
		}
	}
}

// An idle stream does not keep what its last event needed.
func TestEventReaderLetsGo(t *testing.T) {
	told := 0
	pr, pw := io.Pipe()
	er := NewEventReader(pr, 0)
	er.Hold = func(n int) error { told = n; return nil }
	go func() {
		io.WriteString(pw, "data: "+strings.Repeat("x", 1<<20)+"\n\n") // a pipe that nobody reads is closed below
	}()
	if _, err := er.Next(); err != nil || told < 1<<20 {
		t.Fatalf("%v, %d held", err, told)
	}
	if err := er.Done(); err != nil || told > minBuffer {
		t.Errorf("%v, %d are held of nothing", err, told)
	}
	if err := pr.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestEventReaderWithoutRoom(t *testing.T) {
	full := errors.New("full")
	er := NewEventReader(strings.NewReader("data: a\n\ndata: "+strings.Repeat("x", 1<<20)+"\n\n"), 0)
	er.Hold = func(n int) error {
		if n > 1<<16 {
			return full
		}
		return nil
	}
	if e, err := er.Next(); err != nil || string(e.Data) != "a" {
		t.Fatalf("%q, %v", e.Data, err)
	}
	for range 2 {
		if _, err := er.Next(); !errors.Is(err, full) {
			t.Errorf("got %v", err)
		}
	}
}
