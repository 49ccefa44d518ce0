package audit

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// What the fast reader takes, encoding/json reads in the same way.
func FuzzLook(f *testing.F) {
	e := full()
	e.Reason = "a \"quoted\" \\ word, a } brace\n"
	for _, e := range []Entry{e, {Seq: 7, Kind: KindStart, Time: noon}, {Kind: KindIntent, Status: "\u202e", Millis: 0.25, Time: noon.Add(time.Microsecond)}} {
		b, err := e.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, s := range []string{`{}`, `{"seq":1,"seq":2}`, `{"Seq":5,"kind":"x"}`, `{"seq":-1}`, `{"seq":1}x`, `{"seq":1,}`, `{"seq":01}`, `{"detail":{"a":[}]}}`,
		`{"kind":null}`, `{"kind":"\ud800"}`, `{"args":"\x","kind":"k"}`, `{"args":"é` + "\xff" + `","kind":"` + "\xff" + `"}`, `{"time":"2026-01-02T03:04:05Z"}`, ` {"seq":1}`, `{"seq":1`, `{"masked":[1,"]"],"seq":3}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		got, ok := fastLook(line)
		if !ok {
			return
		}
		var want glance
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatalf("%q: taken as %+v; %v", line, got, err)
		}
		got.Time, want.Time = got.Time.UTC(), want.Time.UTC()
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: %+v, want %+v", line, got, want)
		}
	})
}

// The lines that are written are those that the fast reader takes.
func TestLookTakesWhatIsWritten(t *testing.T) {
	b, err := full().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := fastLook(b); !ok {
		t.Errorf("left to the slow one: %s", b)
	}
}

func BenchmarkLook(b *testing.B) {
	line, err := full().Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := look(line); err != nil {
			b.Fatal(err)
		}
	}
}
