package audit

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// allKept reads the kept bodies of entries before until.
func allKept(t *testing.T, i *incarnation, until uint64) []Kept {
	t.Helper()
	var all []Kept
	c := i.bodiesFrom(0, 0, 0)
	for {
		k, err := c.next(until)
		if err == io.EOF {
			if err := c.close(); err != nil || c.seq != until {
				t.Fatalf("ended at %d of %d: %v", c.seq, until, err)
			}
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, err := Decode(c.line); err != nil || e.Seq != k.Seq || e.Bodies[k.Index] != k.Ref() {
			t.Errorf("body %d of entry %d: %v, it says %+v, the body is %+v", k.Index, k.Seq, err, e.Bodies, k.Ref())
		}
		all = append(all, k)
	}
}

// A body is kept beside its entry, byte for byte, in files of any size, and
// whoever reads entries does not see it.
func TestBodiesAreKept(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, Config{Dir: dir, SegmentBytes: 100_000})
	texts := []string{
		`{"jsonrpc":"2.0"}`, "", "\n {\"group\":{\"first\":0}}\n{\"seq\":9}\n{\"body\":{}}", "\x00\x00", "\xff\xfe not UTF-8 \n",
		strings.Repeat("\x01", 100), strings.Repeat("long \" ", 60_000), "last",
	}
	for _, text := range texts {
		e, err := j.Append(t.Context(), Entry{Kind: KindOutcome},
			Body{Of: "request", Text: []byte(text), Digest: true}, Body{Of: "response", Text: []byte(text)}, Body{Of: "segment", Text: []byte(text + "2")})
		if err != nil {
			t.Fatal(err)
		}
		if b := e.Bodies; len(b) != 3 || b[0].Kept != KeptDigest || b[1].Kept != KeptFull || b[0].Digest == b[1].Digest || b[1].Size != int64(len(text)) {
			t.Errorf("%+v", b)
		}
		add(t, j, Entry{Kind: KindIntent})
	}
	e, err := j.Append(t.Context(), Entry{Kind: KindOutcome},
		Body{Of: "request", Text: make([]byte, MaxBody+1)}, Body{Of: "response", Size: 1 << 40})
	if b := e.Bodies; err != nil || b[0].Kept != KeptOver || b[0].Size != MaxBody+1 || b[0].Digest == "" ||
		b[1] != (BodyRef{Of: "response", Size: 1 << 40, Kept: KeptOver}) {
		t.Errorf("%+v, %v", b, err)
	}
	check := func(i *incarnation) {
		t.Helper()
		got := allKept(t, i, e.Seq+1)
		if len(got) != 2*len(texts) {
			t.Fatalf("%d bodies of %d", len(got), 2*len(texts))
		}
		for n, k := range got {
			text := texts[n/2]
			if n%2 == 1 {
				text += "2"
			}
			if string(k.Text) != text || k.Index != 1+n%2 || k.Seq != uint64(1+n/2*2) {
				t.Errorf("body %d: of entry %d, index %d, %.80q", n, k.Seq, k.Index, k.Text)
			}
		}
	}
	check(j.inc)
	held := j.State().Bytes
	var lines int64
	for _, k := range allKept(t, j.inc, e.Seq+1) {
		lines += k.Bytes
	}
	if j.bodiesPublished(e.Seq+1, lines); j.State().Bytes != held-lines || lines < 840_000 {
		t.Errorf("held %d, then %d; %d in bodies", held, j.State().Bytes, lines)
	}
	// A cursor that came as far goes on where it was.
	c := j.inc.bodiesFrom(0, 0, 0)
	for range 7 {
		if _, err := c.next(e.Seq); err != nil {
			t.Fatal(err)
		}
	}
	again := j.inc.bodiesFrom(c.seq, c.first, c.off)
	if k, err := again.next(e.Seq); err != nil || k.Seq != 9 { // the next after entry 8, which has none
		t.Errorf("%d: body of %d, %v", c.seq, k.Seq, err)
	}
	if err := errors.Join(c.close(), again.close(), j.Close()); err != nil {
		t.Fatal(err)
	}
	p := onlyPast(t, dir)
	if p.Entries != e.Seq+1 {
		t.Errorf("%d entries of %d", p.Entries, e.Seq+1)
	}
	check(p.inc)
	n := uint64(0)
	for _, s := range p.inc.files() {
		b, err := os.ReadFile(p.inc.path(s))
		if err != nil {
			t.Fatal(err)
		}
		for e, err := range ReadEntries(bytes.NewReader(b)) {
			if err != nil || e.Seq != n {
				t.Fatalf("%s, entry %d: %v", s.name(), n, err)
			}
			n++
		}
	}
	if n != p.Entries || len(p.inc.files()) < 2 {
		t.Errorf("%d entries in %d files", n, len(p.inc.files()))
	}
}

// Bodies that nobody has published hold the files, and their age, as lines do.
func TestUnpublishedBodiesStay(t *testing.T) {
	c := &clockAt{t: noon}
	j := openJournal(t, Config{SegmentBytes: 500, Now: c.Now})
	if _, err := j.Append(t.Context(), Entry{Kind: KindCredential}, Body{Of: "request", Text: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	fill(t, j, 3)
	if left := pruned(t, j); left != 0 {
		t.Errorf("left from %d on", left)
	}
	if s := j.State(); s.Oldest != noon {
		t.Errorf("%+v", s)
	}
	k := allKept(t, j.inc, j.durableEntries())
	j.bodiesPublished(j.durableEntries(), k[0].Bytes)
	if left := pruned(t, j); left == 0 {
		t.Error("all is left")
	}
	if s := j.State(); !s.Oldest.IsZero() {
		t.Errorf("%+v", s)
	}
}
