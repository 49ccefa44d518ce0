package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 123456000, time.UTC)

func full() Entry {
	return Entry{
		Seq: 9, Time: noon, Kind: KindRefused, Call: "c_abc", Policy: "3f9c2e1", Issuer: "https://idp.example", Sub: "alice",
		Client: "desk-assistant", Server: "customers", Method: "tools/call", Tool: "query", Resource: "db://x",
		Effect: "deny", Rules: []string{"no-credential-tables"}, Reason: "These tables hold password hashes",
		Approval: "a_1", Credential: "customers-ro", Args: `{"sql":"SELECT 1"}`, Digest: "d1", Status: StatusRefused,
		Holder: "h:0a", Session: "s:0b", Trace: []Step{{"no-credential-tables", "deny", "reads pg_shadow"}, {Rule: "ro", Effect: "allow"}},
		Lease: "acc.1", Result: `{"content":[]}`, Timings: []Timing{{"credential", 0}, {"upstream", 0.5}},
		Splices: []Splice{{"credential", "header Authorization"}},
		Bodies:  []BodyRef{{"request", 0, "sha256:00", KeptFull}, {Of: "response", Size: 1 << 33, Kept: KeptOver}},
		Millis:  1.2345, Masked: []Masked{{"stripe-key", "result.content[0].text", 3}}, Bytes: 12, Detail: json.RawMessage(`{ "x": 1.0 }`),
	}
}

func TestEncodeIsAsDocumented(t *testing.T) {
	b, err := full().Encode()
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"seq":9,"time":"2026-11-23T12:00:00.123456Z","kind":"refused","call":"c_abc","policy":"3f9c2e1","issuer":"https://idp.example","sub":"alice","client":"desk-assistant","holder":"h:0a","session":"s:0b","server":"customers","method":"tools/call","tool":"query","resource":"db://x","effect":"deny","rules":["no-credential-tables"],"trace":[{"rule":"no-credential-tables","effect":"deny","why":"reads pg_shadow"},{"rule":"ro","effect":"allow"}],"reason":"These tables hold password hashes","approval":"a_1","credential":"customers-ro","lease":"acc.1","args":"{\"sql\":\"SELECT 1\"}","result":"{\"content\":[]}","digest":"d1","status":"refused","ms":1.235,"timings":[{"part":"credential","ms":0},{"part":"upstream","ms":0.5}],"masked":[{"detector":"stripe-key","place":"result.content[0].text","count":3}],"splices":[{"what":"credential","where":"header Authorization"}],"bytes":12,"bodies":[{"of":"request","size":0,"digest":"sha256:00","kept":"full"},{"of":"response","size":8589934592,"kept":"over"}],"detail":{"x":1.0}}`
	if string(b) != want && string(b) != strings.Replace(want, "1.235", "1.234", 1) {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	e, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := e.Encode(); err != nil || string(again) != string(b) {
		t.Errorf("encoding again: %v, %s", err, again)
	}
}

// What earlier versions wrote reads as it did, and encodes as the same bytes.
func TestLinesOfEarlierVersions(t *testing.T) {
	b, err := os.ReadFile("testdata/lines-1.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[Kind]bool{}
	for line := range bytes.Lines(b) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		e, err := Decode(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		kinds[e.Kind] = true
		if again, err := e.Encode(); err != nil || !bytes.Equal(again, line) {
			t.Errorf("%s\nencodes again as\n%s (%v)", line, again, err)
		}
		if e.Holder+e.Session+e.Lease+e.Result != "" || e.Trace != nil || e.Timings != nil || e.Splices != nil || e.Bodies != nil {
			t.Errorf("%s has members of a later version", line)
		}
	}
	for _, k := range []Kind{KindStart, KindStop, KindIntent, KindOutcome, KindRefused, KindAuthFailed, KindApproval, KindVote, KindLogin,
		KindCredential, KindPolicy, KindSegment, KindRecovered, KindFreeze, KindToolChanged} {
		if !kinds[k] {
			t.Errorf("no line of kind %s", k)
		}
	}
}

func TestHiddenCharactersAreVisibleInTheLine(t *testing.T) {
	e := Entry{Kind: KindIntent, Time: noon, Args: "a\x1b[2J\u202eb\u200b\n\"\\\xff\u2028\ufeff\u009bü"}
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := `"args":"a\u001b[2J\u202eb\u200b\n\"\\` + "\ufffd" + `\u2028\ufeff\u009bü"`
	if !strings.Contains(string(b), want) {
		t.Errorf("got %s, want %s in it", b, want)
	}
	if _, err := Decode(b); err != nil {
		t.Error(err)
	}
	for _, view := range []string{e.Line(), e.Show()} {
		if strings.ContainsAny(strings.ReplaceAll(view, "\n", ""), "\x1b\u202e\u200b\u2028\ufeff\u009b") {
			t.Errorf("%q can steer a terminal", view)
		}
	}
}

func TestDecodeRefusesWhatEncodeWouldNotWrite(t *testing.T) {
	good := `{"seq":1,"time":"2026-11-23T12:00:00.000000Z","kind":"stop"}`
	if _, err := Decode([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", "{}", "null", "[]", good + " ", good + "\n", " " + good, good + good,
		strings.Replace(good, `"seq":1`, `"seq":1.0`, 1),
		strings.Replace(good, `"seq":1`, `"seq":01`, 1),
		strings.Replace(good, `"seq":1`, `"seq":-1`, 1),
		strings.Replace(good, `"seq"`, `"Seq"`, 1),
		strings.Replace(good, `"seq":1,`, `"seq":1,"seq":1,`, 1),
		strings.Replace(good, `.000000Z`, `Z`, 1),
		strings.Replace(good, `.000000Z`, `.000000+00:00`, 1),
		strings.Replace(good, `"stop"`, `""`, 1),
		strings.Replace(good, `"stop"`, `"\u0073top"`, 1),
		strings.Replace(good, `}`, `,"call":""}`, 1),
		strings.Replace(good, `}`, `,"extra":1}`, 1),
		strings.Replace(good, `}`, `,"rules":[]}`, 1),
		strings.Replace(good, `}`, `,"rules":null}`, 1),
		strings.Replace(good, `}`, `,"detail":null}`, 1),
		strings.Replace(good, `}`, `,"detail":{"a":1,"a":2}}`, 1),
		strings.Replace(good, `}`, `,"detail":{"a": 1}}`, 1),
		strings.Replace(good, `}`, `,"ms":1.2345}`, 1),
		strings.Replace(good, `}`, `,"ms":1e3}`, 1),
		strings.Replace(good, `}`, `,"ms":-1}`, 1),
		strings.Replace(good, `}`, `,"masked":[{"place":"p","detector":"d","count":1}]}`, 1),
		strings.Replace(good, `}`, `,"trace":[]}`, 1),
		strings.Replace(good, `}`, `,"trace":[null]}`, 1),
		strings.Replace(good, `}`, `,"trace":[{"rule":"r","effect":"deny","why":""}]}`, 1),
		strings.Replace(good, `}`, `,"trace":[{"rule":"r"}]}`, 1),
		strings.Replace(good, `}`, `,"trace":[{"effect":"deny","rule":"r"}]}`, 1),
		strings.Replace(good, `}`, `,"trace":[{"rule":"r","effect":"deny","line":1}]}`, 1),
		strings.Replace(good, `}`, `,"timings":[{"part":"wait"}]}`, 1),
		strings.Replace(good, `}`, `,"timings":[{"part":"wait","ms":-0}]}`, 1),
		strings.Replace(good, `}`, `,"timings":[{"part":"wait","ms":-1}]}`, 1),
		strings.Replace(good, `}`, `,"timings":[{"part":"wait","ms":0.0001}]}`, 1),
		strings.Replace(good, `}`, `,"splices":[{"what":"prefix"}]}`, 1),
		strings.Replace(good, `}`, `,"bodies":[{"of":"request","size":-1,"kept":"full"}]}`, 1),
		strings.Replace(good, `}`, `,"bodies":[{"of":"request","size":1,"digest":"","kept":"full"}]}`, 1),
		strings.Replace(good, `}`, `,"bodies":[{"of":"request","kept":"full"}]}`, 1),
		strings.Replace(good, `}`, `,"holder":""}`, 1),
		strings.Replace(good, `}`, `,"result":"a","args":"b"}`, 1),
		strings.Replace(good, `}`, `,"result":"`+strings.Repeat("x", MaxArgs+1)+`"}`, 1),
		strings.Replace(good, `}`, `,"args":"`+strings.Repeat("x", MaxArgs+1)+`"}`, 1),
		strings.Replace(good, `}`, `,"reason":"`+strings.Repeat("x", MaxLine)+`"}`, 1),
		`{"kind":"stop","seq":1,"time":"2026-11-23T12:00:00.000000Z"}`,
	} {
		if _, err := Decode([]byte(bad)); !errors.Is(err, ErrEntry) {
			t.Errorf("%.80q: %v", bad, err)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, e := range map[string]Entry{
		"no kind":              {},
		"endless":              {Kind: KindStop, Millis: math.Inf(1)},
		"not a number":         {Kind: KindStop, Millis: math.NaN()},
		"backwards":            {Kind: KindStop, Millis: -1},
		"endless part":         {Kind: KindStop, Timings: []Timing{{"wait", math.Inf(1)}}},
		"negative body":        {Kind: KindStop, Bodies: []BodyRef{{Of: "request", Size: -1}}},
		"trace too long":       {Kind: KindStop, Trace: make([]Step, MaxTrace+1)},
		"detail no object":     {Kind: KindStop, Detail: json.RawMessage(`[1]`)},
		"detail no JSON":       {Kind: KindStop, Detail: json.RawMessage(`{`)},
		"detail with doubles":  {Kind: KindStop, Detail: json.RawMessage(`{"a":1,"a":1}`)},
		"detail with bad UTF8": {Kind: KindStop, Detail: json.RawMessage("{\"a\":\"\xff\"}")},
		"too long":             {Kind: KindStop, Reason: strings.Repeat("x", MaxLine)},
	} {
		if b, err := e.Encode(); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %v, %.50s", name, err, b)
		}
	}
}

func TestPreviewIsCutBetweenCharacters(t *testing.T) {
	for n := MaxArgs - 8; n < MaxArgs+8; n++ {
		s := cutPreview(strings.Repeat("a", n) + "üüüü")
		if len(s) > MaxArgs || strings.ContainsRune(s, '\ufffd') {
			t.Errorf("%d: %d bytes, ends in %q", n, len(s), s[len(s)-6:])
		}
		e := Entry{Kind: KindIntent, Time: noon, Args: s}
		b, err := e.Encode()
		if err == nil {
			_, err = Decode(b)
		}
		if err != nil {
			t.Errorf("%d: %v", n, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, e := range []Entry{full(), {Kind: KindStop, Time: noon}, {Kind: KindIntent, Time: noon, Args: "\x1b\u202e\n\"\\"}} {
		b, err := e.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Decode(b)
		if err != nil {
			return
		}
		if strings.ContainsAny(string(b), "\n\r\x00\x1b") {
			t.Errorf("a line with control characters: %q", b)
		}
		if again, err := e.Encode(); err != nil || string(again) != string(b) {
			t.Errorf("%q encodes again as %q (%v)", b, again, err)
		}
		if strings.Contains(e.Line(), "\n") {
			t.Errorf("Line has several: %q", e.Line())
		}
		_ = e.Show()
	})
}

// What an entry is made of comes from strangers: whatever it is, it is
// recorded, and reads.
func FuzzEncode(f *testing.F) {
	f.Add("alice", "rm -rf \u202e", "reason", 1.5, []byte(`{"a":[1]}`))
	f.Fuzz(func(t *testing.T, sub, args, reason string, ms float64, detail []byte) {
		e := Entry{Kind: KindOutcome, Time: noon, Sub: sub, Args: args, Reason: reason, Rules: []string{sub}, Millis: ms, Detail: detail,
			Holder: sub, Session: args, Trace: []Step{{sub, args, reason}, {}}, Lease: reason, Result: args,
			Timings: []Timing{{sub, ms}, {}}, Splices: []Splice{{args, reason}}, Bodies: []BodyRef{{sub, int64(len(args)), args, reason}}}
		b, err := e.Encode()
		if errors.Is(err, ErrEntry) {
			return
		}
		if err == nil {
			_, err = Decode(b)
		}
		if err != nil {
			t.Errorf("%q: %v", b, err)
		}
	})
}
