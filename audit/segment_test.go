package audit

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// written makes a journal of one file, with groups of so many entries, and
// tells where each group begins. The file has no room.
func written(t testing.TB, sizes ...int) (dir, path string, file []byte, starts []int) {
	t.Helper()
	dir = memoryDir(t)
	inc, err := createIncarnation(calm{}, dir, "demo", "i1", noon)
	if err != nil {
		t.Fatal(err)
	}
	file, err = segmentHead{Format: 2, Origin: "demo/i1"}.line()
	if err != nil {
		t.Fatal(err)
	}
	seq := uint64(0)
	for _, n := range sizes {
		starts = append(starts, len(file))
		g := group{first: seq, entries: uint64(n)}
		var lines []byte
		for range n {
			kept := Kept{Of: "request", Salt: make([]byte, saltBytes), Text: []byte(`{"group":{"first":9}}` + "\n")}
			b, err := Entry{Seq: seq, Kind: KindIntent, Time: noon, Reason: strings.Repeat("r", 100+int(seq*37%500)), Bodies: []BodyRef{kept.Ref()}}.Encode()
			if err != nil {
				t.Fatal(err)
			}
			lines = append(append(lines, b...), '\n')
			tail, err := appendKeptTail(nil, 0, kept.Of, []string{}, kept.Salt, kept.Text)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(appendKeptHead(lines, seq), tail...)
			seq++
		}
		g.bytes, g.sum = int64(len(lines)), crc32.Checksum(lines, castagnoli)
		file = append(g.appendTo(file), lines...)
	}
	return dir, inc.path(segment{}), file, append(starts, len(file))
}

func put(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Whatever of the last group is lost, sectors anywhere or all from some byte
// on, the rest is there, and the group counts as a whole or not at all.
func TestAnythingOfTheLastGroupMayBeLost(t *testing.T) {
	dir, path, whole, starts := written(t, 1, 3, 40)
	last := starts[2]
	rnd := rand.New(rand.NewPCG(3, 4))
	for try := range 400 {
		b := append(bytes.Clone(whole), make([]byte, roomAfter)...)
		lost := 0
		switch {
		case try < 100: // cut: by the end of the file, or zeroes
			at := last + rnd.IntN(len(whole)-last)
			if lost = len(whole) - at; try%2 == 0 {
				b = b[:at]
			} else {
				clear(b[at:])
			}
		default:
			for at := last; at < len(whole); at = at/sectorBytes*sectorBytes + sectorBytes {
				if end := min(len(whole), at/sectorBytes*sectorBytes+sectorBytes); rnd.IntN(8) < 1+try%7 {
					clear(b[at:end])
					lost += end - at
				}
			}
		}
		put(t, path, b)
		p := onlyPast(t, dir)
		want, left := uint64(4), len(bytes.TrimRight(b[last:], "\x00"))
		if lost == 0 {
			want, left = 44, 0
		}
		n := uint64(0)
		for e, err := range p.Read() {
			if err != nil || e.Seq != n {
				t.Fatalf("try %d: entry %d: %v", try, n, err)
			}
			n++
		}
		if p.Entries != want || n != want || p.Torn != int64(left) {
			t.Fatalf("try %d: %d entries, %d read, want %d; torn %d of %d", try, p.Entries, n, want, p.Torn, left)
		}
		if got := len(allKept(t, p.inc, p.Entries)); got != int(want) {
			t.Errorf("try %d: %d bodies", try, got)
		}
	}
}

// Every bit counts: whatever is changed in what was acknowledged is damage,
// and the error says where and what to do.
func TestDamageIsRefused(t *testing.T) {
	dir, path, whole, starts := written(t, 1, 2, 2)
	room := append(bytes.Clone(whole), make([]byte, roomAfter)...)
	refused := func(what string, b []byte) {
		t.Helper()
		put(t, path, b)
		ps, err := Previous(dir)
		if !errors.Is(err, ErrDamaged) {
			t.Fatalf("%s: %v, %v", what, ps, err)
		}
		if !strings.Contains(err.Error(), path+", byte ") || !strings.Contains(err.Error(), "from a copy") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for at := range whole { // also of the last group: no write that was cut short makes that
		b := bytes.Clone(room)
		if b[at] ^= 1 << (at % 8); b[at] == 0 {
			b[at] = 'x'
		}
		refused(fmt.Sprintf("bit of byte %d", at), b)
	}
	for what, change := range map[string]func(b []byte) []byte{
		"a group is gone": func(b []byte) []byte { return append(b[:starts[1]:starts[1]], b[starts[2]:]...) },
		"twice":           func(b []byte) []byte { return append(b[:starts[2]:starts[2]], b[starts[1]:]...) },
		"swapped": func(b []byte) []byte {
			return bytes.Join([][]byte{b[:starts[0]], b[starts[1]:starts[2]], b[starts[0]:starts[1]], b[starts[2]:]}, nil)
		},
		"a group's sectors":  func(b []byte) []byte { clear(b[starts[1]:starts[2]]); return b },
		"a group's last one": func(b []byte) []byte { clear(b[starts[2]-10 : starts[2]]); return b },
		"the file's head":    func(b []byte) []byte { clear(b[:starts[0]]); return b },
		"its head cut off":   func(b []byte) []byte { return b[starts[0]:] },
	} {
		refused(what, change(bytes.Clone(room)))
	}
	// A whole file, in the midst of others.
	j := openJournal(t, Config{Dir: dir, Incarnation: "i2", SegmentBytes: 500})
	put(t, path, whole)
	fill(t, j, 3)
	files := j.inc.files()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(j.inc.path(files[1]))
	if err != nil {
		t.Fatal(err)
	}
	for what, now := range map[string][]byte{"cut": b[:len(b)-1], "empty": nil, "room": make([]byte, len(b)), "another's": whole} {
		put(t, j.inc.path(files[1]), now)
		if _, err := Previous(dir); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), files[1].name()) && !strings.Contains(err.Error(), files[2].name()) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := os.Remove(j.inc.path(files[1])); err != nil {
		t.Fatal(err)
	}
	if _, err := Previous(dir); !errors.Is(err, ErrDamaged) {
		t.Errorf("gone: %v", err)
	}
}

// The writer never reads damage over either: what is to be published is
// checked again.
func TestDamageIsNotPublished(t *testing.T) {
	j := openJournal(t, Config{})
	for range 3 {
		add(t, j, Entry{Kind: KindIntent, Reason: "some reason or other"})
	}
	path := j.inc.path(segment{})
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("other"))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("Other"), int64(at)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := newPublisher(t, PublisherConfig{Journal: j, Store: newStore()}).Flush(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v", err)
	}
	for _, err := range j.Read() {
		if errors.Is(err, ErrDamaged) {
			return
		}
	}
	t.Error("it was read")
}

// A journal that the version before this one left, as a crash left it, is
// read, published and removed as ever.
func TestFormat1IsRead(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/format1")); err != nil {
		t.Fatal(err)
	}
	p := onlyPast(t, dir)
	n := uint64(0)
	for e, err := range p.Read() {
		if err != nil || e.Seq != n {
			t.Fatalf("entry %d: %v", n, err)
		}
		n++
	}
	if p.Entries != 19 || n != 19 || p.Torn == 0 || len(p.inc.files()) != 3 || p.inc.Format != 1 {
		t.Errorf("%d entries, %d read, torn %d, files %v", p.Entries, n, p.Torn, p.inc.files())
	}
	if got := allKept(t, p.inc, 19); len(got) != 0 {
		t.Errorf("%d bodies", len(got))
	}
	j := openJournal(t, Config{Dir: dir, Previous: []*Past{p}})
	m := newStore()
	flush(t, newPublisher(t, PublisherConfig{Past: p, Store: m}))
	flush(t, newPublisher(t, PublisherConfig{Journal: j, Store: m}))
	verifyStore(t, m)
	again, err := Previous(dir) // its mark is in the middle of a file of lines
	if err != nil || len(again) != 2 || !again[0].Published() || again[0].Entries != 19 {
		t.Errorf("%+v, %v", again, err)
	}
	if left, err := Prune([]*Past{p}, 0, noon.Add(48*time.Hour)); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "journal", "r1")); !os.IsNotExist(err) {
		t.Errorf("it is there: %v", err)
	}
}

// A file of a journal, of whatever bytes, is read to an end, an error or
// damage, and never to entries that are not in order.
func FuzzSegment(f *testing.F) {
	_, _, whole, starts := written(f, 1, 2, 3)
	f.Add(whole)
	f.Add(whole[:len(whole)-5])
	f.Add(append(bytes.Clone(whole), make([]byte, 600)...))
	torn := append(bytes.Clone(whole), make([]byte, 600)...)
	clear(torn[starts[2]/sectorBytes*sectorBytes+sectorBytes:][:sectorBytes])
	f.Add(torn)
	f.Add(whole[:starts[0]])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		streamed, failed := uint64(0), false
		for _, err := range ReadEntries(bytes.NewReader(b)) {
			if err != nil {
				failed = true
				break
			}
			streamed++
		}
		dir := memoryDir(t)
		inc, err := createIncarnation(calm{}, dir, "demo", "i1", noon)
		if err != nil {
			t.Fatal(err)
		}
		put(t, inc.path(segment{}), b)
		ps, err := Previous(dir)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Error(err)
			}
			return
		}
		p := ps[0]
		n := uint64(0)
		for e, err := range p.Read() {
			if err != nil || e.Seq != n {
				t.Fatalf("entry %d: %v", n, err)
			}
			n++
		}
		c := p.inc.bodiesFrom(0, 0, 0)
		for {
			if _, err := c.next(n); err == io.EOF || errors.Is(err, ErrEntry) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if err := c.close(); err != nil {
			t.Error(err)
		}
		if n != p.Entries || n > 0 && p.Torn == 0 && (failed || streamed != n) {
			t.Errorf("%d entries of %d; as a stream %d, failed: %v", n, p.Entries, streamed, failed)
		}
	})
}
