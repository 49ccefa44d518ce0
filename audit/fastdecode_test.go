package audit

import (
	"bytes"
	"os"
	"reflect"
	"testing"
	"time"
)

// lineSamples are lines as they are written, of every member and both versions.
func lineSamples(t testing.TB) [][]byte {
	t.Helper()
	b, err := os.ReadFile("testdata/lines-1.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	lines := trimLines(b)
	e := full()
	e.Reason = "a \"quoted\" \\ word, a } brace\n\tand \u202ehidden\u0007 ü 漢 🙂 \ufffd"
	for _, e := range []Entry{e, full(), {Seq: 7, Kind: KindStart, Time: noon}, {Kind: KindIntent, Millis: 0.25, Time: noon.Add(time.Microsecond)},
		{Kind: KindOutcome, Millis: 1e9, Time: noon, Bytes: 1, Timings: []Timing{{"wait", 0}, {"mask", 0.001}}}} {
		l, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	return lines
}

// What the fast reader takes, the strict one takes, and reads the same in it.
func FuzzFastDecode(f *testing.F) {
	for _, l := range lineSamples(f) {
		f.Add(l)
	}
	head := `{"seq":0,"time":"2026-11-23T12:00:00.000000Z","kind":"k"`
	for _, s := range []string{
		`{"seq":01,"time":"2026-11-23T12:00:00.000000Z","kind":"k"}`, `{"seq":0,"time":"2026-02-29T12:00:00.000000Z","kind":"k"}`,
		`{"seq":0,"time":"2026-11-23T24:00:00.000000Z","kind":"k"}`, `{"seq":0,"time":"0000-01-01T00:00:00.000000Z","kind":"k"}`,
		head + `,"call":""}`, head + `,"ms":1.50}`, head + `,"ms":0}`, head + `,"ms":-1}`, head + `,"ms":1.0005}`, head + `,"ms":99999999999.999}`, head + `,"ms":1000000000000}`,
		head + `,"rules":[]}`, head + `,"rules":[""]}`, head + `,"args":"\u000a"}`, head + `,"args":"\u0041"}`, head + `,"args":"\u202E"}`, head + `,"args":"\/"}`,
		head + `,"args":"` + "\xff" + `"}`, head + `,"args":"` + "\u200b" + `"}`, head + `,"args":"\ud800"}`, head + `,"bytes":0}`, head + `,"bytes":-1}`,
		head + `,"detail":{"a":1,"a":2}}`, head + `,"detail":{"a": 1}}`, head + `,"detail":{}}`, head + `,"detail":[]}`, head + `,"detail":{"a":"` + "\xff" + `"}}`, head + `,"detail":{"a":{}}}}`,
		head + `,"detail":{"a":"\ud800"}}`, head + `,"policy":"p","call":"c"}`, head + `} `, head + `,"masked":[{"detector":"","place":"","count":00}]}`, head + `,"Call":"c"}`,
		head + `,"detail":{"\u0061":1,"a":2}}`, head + `,"timings":[{"part":"x","ms":0}]}`, head + `,"timings":[]}`, head + `,"bodies":[{"of":"x","size":-1,"kept":""}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var fast Entry
		if !fastDecode(string(line), &fast) {
			return
		}
		slow, err := slowDecode(line)
		if err != nil {
			t.Fatalf("%q: taken; %v", line, err)
		}
		if !reflect.DeepEqual(fast, slow) {
			t.Fatalf("%q:\n%+v\n%+v", line, fast, slow)
		}
		again, err := fast.Encode()
		if err != nil || !bytes.Equal(again, line) {
			t.Fatalf("%q: %v, written again %q", line, err, again)
		}
	})
}

// The lines that are written are those that the fast reader takes.
func TestFastDecodeTakesWhatIsWritten(t *testing.T) {
	for _, l := range lineSamples(t) {
		var e Entry
		if !fastDecode(string(l), &e) {
			t.Errorf("left to the slow one: %s", l)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	e := full()
	line, err := e.Encode()
	if err != nil {
		b.Fatal(err)
	}
	for name, decode := range map[string]func([]byte) (Entry, error){"fast": Decode, "strict": slowDecode} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				if _, err := decode(line); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
