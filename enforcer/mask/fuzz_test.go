package mask

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
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
