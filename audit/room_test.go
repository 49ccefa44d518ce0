package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// groups builds a file of format 1: entries from 0 on, so many in each group.
func groups(t *testing.T, sizes ...int) (file []byte, starts []int) {
	t.Helper()
	seq := uint64(0)
	for _, n := range sizes {
		starts = append(starts, len(file))
		file = append(file, spaceMark)
		for range n {
			b, err := Entry{Seq: seq, Kind: KindIntent, Time: noon, Reason: strings.Repeat("r", 100+int(seq*37%500))}.Encode()
			if err != nil {
				t.Fatal(err)
			}
			file = append(append(file, b...), '\n')
			seq++
		}
	}
	return file, starts
}

// closed makes a state directory whose journal, of format 1, has these bytes.
func closed(t *testing.T) (dir string, put func([]byte)) {
	t.Helper()
	dir = t.TempDir()
	j := openJournal(t, Config{Dir: dir})
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	m := j.inc.meta
	m.Format = 1
	b, err := json.Marshal(m)
	if err == nil {
		err = writeDurably(osDisk{}, filepath.Join(j.inc.dir, metaFile), b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir, func(b []byte) {
		if err := os.WriteFile(j.inc.path(segment{}), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A power cut leaves of the last group whichever pages the disk had taken.
// What was acknowledged before it is there, and nothing stands in the way of
// the next start.
func TestAnyPagesOfTheLastGroupMayBeLost(t *testing.T) {
	dir, put := closed(t)
	whole, starts := groups(t, 1, 3, 40)
	last := starts[2]
	const block = 512
	rnd := rand.New(rand.NewPCG(1, 2))
	for try := range 300 {
		b := append(bytes.Clone(whole), make([]byte, roomAfter)...)
		for at := last; at < len(whole); at = at/block*block + block {
			if rnd.IntN(4) < 1+try%3 {
				clear(b[at:min(len(whole), at/block*block+block)])
			}
		}
		put(b)
		p := onlyPast(t, dir)
		n := uint64(0)
		for e, err := range p.Read() {
			if err != nil || e.Seq != n {
				t.Fatalf("try %d: entry %d: %v", try, n, err)
			}
			n++
		}
		good := bytes.Count(b[:bytes.IndexByte(b, 0)], []byte("\n"))
		left := len(bytes.TrimRight(b, "\x00")) - (bytes.LastIndexByte(b[:bytes.IndexByte(b, 0)], '\n') + 1)
		if p.Entries != uint64(good) || n != p.Entries || n < 4 || p.Torn != int64(max(0, left)) {
			t.Fatalf("try %d: %d entries, %d read, of %d; torn %d of %d", try, p.Entries, n, good, p.Torn, left)
		}
	}
}

const roomAfter = 5000

// What was acknowledged and is not there any more is damage, whatever it
// looks like: a group after it proves that it was durable.
func TestLostPagesBeforeTheLastGroupAreDamage(t *testing.T) {
	dir, put := closed(t)
	whole, starts := groups(t, 1, 20, 20)
	flip := func(b []byte) { b[bytes.IndexByte(b, '{')] ^= 4 }
	for name, spoil := range map[string]func(b []byte){
		"pages":              func(b []byte) { clear(b[starts[1]+1000 : starts[1]+2000]) },
		"a whole group":      func(b []byte) { clear(b[starts[1]:starts[2]]) },
		"its last line feed": func(b []byte) { b[starts[2]-1] = 0 },
		"a bit":              func(b []byte) { flip(b[starts[1]+1000:]) },
		// Of the last group it is not known; but no write cut short makes this.
		"a bit of the last group": func(b []byte) { flip(b[starts[2]+1000:]) },
	} {
		b := append(bytes.Clone(whole), make([]byte, roomAfter)...)
		spoil(b)
		put(b)
		if ps, err := Previous(dir); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, %v", name, ps, err)
		}
	}
}

func TestTornLinesAreLeftBehind(t *testing.T) {
	dir, put := closed(t)
	whole, _ := groups(t, 1, 1, 1)
	start := strings.LastIndex(strings.TrimSuffix(string(whole), "\n"), "\n") + 1
	tails := map[string][]byte{}
	for n := start; n < len(whole); n++ {
		tails[fmt.Sprintf("cut at %d", n)] = whole[:n]
	}
	tails["zeroes"] = append(append([]byte{}, whole[:start]...), make([]byte, 300)...)
	tails["garbage"] = append(append([]byte{}, whole[:start]...), "{\"seq\":2,\x00\x00\nxx\n"...)
	for name, b := range tails {
		put(b)
		p := onlyPast(t, dir)
		n := 0
		for e, err := range p.Read() {
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if e.Seq != uint64(n) {
				t.Errorf("%s: entry %d", name, e.Seq)
			}
			n++
		}
		torn := len(bytes.TrimRight(b[start:], "\x00")) // the rest is room
		if p.Entries != 2 || n != 2 || p.Torn != int64(torn) {
			t.Errorf("%s: %d entries, %d read, %d torn of %d", name, p.Entries, n, p.Torn, torn)
		}
	}
	// Damage before whole entries is not a torn tail, and is not passed over.
	b := []byte(string(whole))
	b[start-3] ^= 1 // a quotation mark
	put(b)
	if _, err := Previous(dir); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "entry 1") {
		t.Errorf("got %v", err)
	}
}

// While it is written a file may have room; closed or followed by another, it
// holds lines and nothing else.
func TestRoomIsGivenBack(t *testing.T) {
	j := openJournal(t, Config{SegmentBytes: 500})
	for range 20 {
		add(t, j, Entry{Kind: KindIntent, Reason: "some reason or other"})
	}
	files := j.inc.files()
	if len(files) < 3 {
		t.Fatalf("%d files", len(files))
	}
	lines := func(f segment) int {
		b, err := os.ReadFile(j.inc.path(f))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(b, 0) >= 0 || !bytes.HasSuffix(b, []byte("\n")) {
			t.Errorf("file %d has %d bytes, not all of them lines", f.first, len(b))
		}
		n := 0
		for _, err := range ReadEntries(bytes.NewReader(b)) {
			if err != nil {
				t.Error(err)
			}
			n++
		}
		return n
	}
	last := len(files) - 1
	for i, file := range files[:last] {
		if n := lines(file); uint64(n) != files[i+1].first-file.first {
			t.Errorf("file %d: %d entries", file.first, n)
		}
	}
	// The file being written reads as far as it is written.
	f, err := os.Open(j.inc.path(files[last]))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for _, err := range ReadEntries(f) {
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
		n++
	}
	if uint64(n) != 21-files[last].first {
		t.Errorf("%d entries in the last file", n)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	lines(files[last])
}
