package mask

import (
	"strings"
	"testing"
)

// What is split over several messages is masked in each of them, and nothing
// else is touched.
func TestMessages(t *testing.T) {
	m := New(Options{Keys: []string{"pw"}})
	if _, err := m.Add("db", "hunter2-hunter2-99"); err != nil {
		t.Fatal(err)
	}
	msg := func(text string) []byte {
		return []byte(`{"jsonrpc":"2.0","method":"notifications/progress","params":{ "message":"` + text + `","pw":"[masked: pw]","n":1.0}}`)
	}
	in := [][]byte{msg("a hunt"), msg("er2-hu"), []byte(`{"jsonrpc":"2.0","method":"x"}`), msg("nter2-99 b"), msg("c")}
	out, r, err := m.Messages(in, Site{})
	if err != nil || len(out) != len(in) {
		t.Fatalf("%v %d", err, len(out))
	}
	for i, want := range []string{"a [masked: db]", "[masked: db]", "", "[masked: db] b", "c"} {
		if want != "" && string(out[i]) != string(msg(want)) || want == "" && string(out[i]) != string(in[i]) {
			t.Errorf("%d: %s", i, out[i])
		}
	}
	if len(r.Hits) != 1 || r.Hits[0].Place != "params.message" || r.Hits[0].Count != 3 || r.Hits[0].Detector != "known" {
		t.Errorf("%+v", r)
	}
	clean := [][]byte{msg("a"), msg("b")}
	if out, r, err := m.Messages(clean, Site{}); err != nil || r.Masked() || &out[0][0] != &clean[0][0] {
		t.Errorf("%v %+v", err, r)
	}
	m.maxMessage = 100
	if out, _, err := m.Messages(in, Site{}); err == nil {
		t.Error("too large together, and not an error:", len(out))
	}
	if _, _, err := New(Options{}).Messages([][]byte{[]byte("{}"), []byte(strings.Repeat("[", 9))}, Site{}); err == nil {
		t.Error("what is no JSON was masked")
	}
}

// What policy lets through in a message is let through among several, at the
// same place and at no other.
func TestMessagesAllowed(t *testing.T) {
	m := New(Options{})
	m.ConfigureAllowed([]Allowance{{Path: "params.message"}, {Path: "params.x[0].text|a.b[0].c"}})
	in := [][]byte{
		[]byte(`{"params":{"message":"` + gitlabToken('a') + `"}}`),
		[]byte(`{"params":{"x":[{"text":"{\"a\":{\"b\":[{\"c\":\"` + gitlabToken('b') + `\"}]}}"}]}}`),
		[]byte(`{"params":{"data":"` + gitlabToken('c') + `"}}`),
	}
	for i, msg := range in[:2] {
		if out, _, err := m.Message(msg); err != nil || string(out) != string(msg) {
			t.Fatalf("%d by itself: %s %v", i, out, err)
		}
	}
	out, _, err := m.Messages(in, Site{})
	if err != nil {
		t.Fatal(err)
	}
	for i, msg := range out[:2] {
		if string(msg) != string(in[i]) {
			t.Errorf("%d: %s", i, msg)
		}
	}
	if strings.Contains(string(out[2]), gitlabToken('c')) {
		t.Errorf("%s", out[2])
	}
}

// A finding that begins where policy lets it through and ends elsewhere is not
// let through.
func TestAllowedPlaceEnds(t *testing.T) {
	m := New(Options{})
	m.ConfigureAllowed([]Allowance{{Path: "a"}})
	token := gitlabToken('a')
	out, r, err := m.Message([]byte(`{"a":"` + token[:12] + `","b":"` + token[12:] + `"}`))
	if err != nil || !r.Masked() || strings.Contains(string(out), token[12:]) {
		t.Errorf("%s %v", out, err)
	}
}

func TestEnd(t *testing.T) {
	for in, want := range map[string]string{
		`{ "a":"0123456789","b":["x",1.0],"0123456789":"ab"}`: `{ "a":"6789","b":["x",1.0],"0123456789":"ab"}`,
		`["xxxx\u00e4\ud83d\ude00"]`:                          `["😀"]`,
		`["xxxxxx\n\"ä"]`:                                     `["\n\"ä"]`,
		`["xxxxxxx`:                                           `["xxxxxxx`,
	} {
		if got := string(End([]byte(in), 4)); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
