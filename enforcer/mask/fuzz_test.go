package mask

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// FuzzMessage: the output is JSON; no form of a known value is in it, raw or
// decoded; what is not masked comes back as it is; masking twice is masking
// once; refused is what encoding/json refuses (or its leniency to UTF-8).
func FuzzMessage(f *testing.F) {
	const a, b = "A1a-xT7qB2mZ9pKc4wVn", `q"u'o\te/d`
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"A1a-xT7qB2mZ9pKc4wVn"}]}}`,
		`["A1a-xT7q","B2mZ9pKc4wVn"]`, `{"A1a-xT7qB2mZ9":1,"pKc4wVn":1e5}`,
		`"q\"u'o\\te\/d q\\\"u'o\\\\te/d"`, `"{\"x\":\"A1a-xT7qB2mZ9pKc\\u0034wVn\"}"`, `"%41%31a-xT7qB2mZ9pKc4wVn \u0041"`,
		`"QTFhLXhUN3FCMm1aOXBLYzR3Vm4="`, `"x\\u0041\\\\u0031a-"`, `[[],{},"",-0.0E+1,null]`, `"\ud800"`, `"é\u00e9😀"`,
	} {
		f.Add([]byte(s))
	}
	m := New(Options{Keys: []string{"pw"}})
	for _, v := range []string{a, b, "12345678"} {
		if _, err := m.Add("v", v); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		in := bytes.Clone(msg)
		out, r, err := m.Message(msg)
		if !bytes.Equal(in, msg) {
			t.Fatal("input changed")
		}
		if err != nil {
			if out != nil {
				t.Fatal("output beside an error")
			}
			return
		}
		if !json.Valid(msg) || !json.Valid(out) {
			t.Fatalf("not JSON: %q", out)
		}
		if !r.Masked() {
			if len(out) != len(msg) || &out[0] != &msg[0] {
				t.Fatal("nothing masked, but another slice")
			}
		}
		clean(t, out, a)
		clean(t, out, "12345678")
		var all strings.Builder
		d := json.NewDecoder(bytes.NewReader(out))
		for {
			tok, err := d.Token()
			if err != nil {
				break
			}
			if s, ok := tok.(string); ok {
				all.WriteString(s + "\n")
			}
		}
		for _, form := range wireForms(a) {
			if strings.Contains(all.String(), form.text) {
				t.Fatalf("%q remains in %q", form.text, out)
			}
		}
		for _, h := range r.Hits {
			if strings.Contains(h.Place, a) || h.Count < 1 {
				t.Fatalf("%+v", h)
			}
		}
		again, r2, err := m.Message(bytes.Clone(out))
		if err != nil {
			t.Fatalf("second time: %v", err)
		}
		if len(r2.Hits) > 0 && r2.Hits[0].Detector == known {
			t.Fatalf("%q then %q", out, again)
		}
	})
}

func FuzzText(f *testing.F) {
	const a = "A1a-xT7qB2mZ9pKc4wVn"
	for _, s := range []string{a, "x " + a + "\ny", `A1a\x2dxT7qB2mZ9pKc4wVn`, "A1a%2dxT7q&#66;2mZ9pKc4wVn", "\xff\\", "-----BEGIN PRIVATE KEY-----\n", "://a:b@"} {
		f.Add(s)
	}
	m := New(Options{})
	if _, err := m.Add("v", a); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out, r := m.Text(s)
		if !r.Masked() && out != s {
			t.Fatalf("%q became %q without a report", s, out)
		}
		for _, form := range wireForms(a) {
			if strings.Contains(out, form.text) {
				t.Fatalf("%q remains in %q", form.text, out)
			}
		}
	})
}

// FuzzDetectors: what is remembered of runs and stretches changes nothing. A
// reference looks at every position, for every prefix, with an empty memory.
func FuzzDetectors(f *testing.F) {
	for _, s := range slowInputs(f) {
		f.Add([]byte(s.text(600)), uint16(100), uint16(300))
	}
	for _, s := range ordinaryTexts {
		f.Add([]byte(s), uint16(3), uint16(9))
	}
	r := rand.New(rand.NewPCG(51, 52))
	for i := range detectors {
		if d := &detectors[i]; len(d.prefixes) > 0 {
			s := "x " + sample(r, d, d.prefixes[0]).text + " y"
			f.Add([]byte(s), uint16(len(s)/2), uint16(len(s)))
		}
	}
	ds := newDetectorSet(nil, nil)
	f.Fuzz(func(t *testing.T, buf []byte, a, b uint16) {
		if len(buf) > 2000 {
			return
		}
		cuts := []int{0}
		for _, c := range []int{int(min(a, b)), int(max(a, b))} {
			if c <= len(buf) {
				cuts = append(cuts, c)
			}
		}
		c := New(Options{Budget: time.Hour}).search().clock
		got := ds.scan(buf, cuts, true, &c, nil)
		want := referenceScan(ds, buf, cuts)
		if !slices.Equal(got, want) {
			t.Fatalf("%q cut at %v\n got %v\nwant %v", buf, cuts, got, want)
		}
		for _, f := range got {
			if f.start < 0 || f.start >= f.end || f.end > len(buf) {
				t.Fatalf("%q: %+v", buf, f)
			}
		}
	})
}

func referenceScan(ds *detectorSet, buf []byte, cuts []int) (found []finding) {
	skip, softly := 0, 0
	for i := 0; i+probeSize <= len(buf); i++ {
		best := finding{end: -1}
		h := probeHash(binary.LittleEndian.Uint32(buf[i:]))
		if i < skip || ds.slots[h] == 0 {
			continue
		}
		for _, k := range ds.buckets[ds.slots[h]-1] {
			start, soft := i-k.probe, detectors[k.number].soft
			if start < 0 || len(buf)-start < len(k.prefix) || soft && start < softly || !begins(buf[start:], &k) {
				continue
			}
			cut := 0
			for cut < len(cuts) && cuts[cut] <= start {
				cut++
			}
			f, ok := ds.try(new(look), buf, start, &k, cuts, cut)
			switch {
			case !ok:
			case soft:
				found = append(found, f)
				softly = f.end
			case f.end > best.end:
				best = f
			}
		}
		if best.end < 0 {
			continue
		}
		skip = best.end
		if n := len(found) - 1; n >= 0 && found[n].start <= best.start && best.end <= found[n].end {
			found[n].cause = best.cause
		} else {
			found = append(found, best)
		}
	}
	return found
}
