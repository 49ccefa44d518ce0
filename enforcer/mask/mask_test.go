package mask

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// knowing returns a Mask that knows the values, as v0, v1, …
func knowing(t testing.TB, values ...string) *Mask {
	t.Helper()
	m := New(Options{})
	for i, v := range values {
		if _, err := m.Add(fmt.Sprintf("v%d", i), v); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// clean fails unless out is valid JSON without a known value in any decoding
// that this test can think of.
func clean(t testing.TB, out []byte, value string) {
	t.Helper()
	if !json.Valid(out) {
		t.Errorf("not JSON: %s", out)
	}
	var all strings.Builder
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			all.WriteString(v)
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			for k, e := range v {
				if strings.Contains(k, value) {
					t.Errorf("in key: %s", out)
				}
				walk(e)
			}
		}
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(out))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Error(err)
	}
	walk(v)
	if strings.Contains(all.String(), value) || bytes.Contains(out, []byte(value)) {
		t.Errorf("value remains: %s", out)
	}
}

func TestAddRefusesWhatCannotBeMasked(t *testing.T) {
	m := New(Options{})
	for value, want := range map[string]error{
		"":                              ErrTooShort,
		"12345":                         ErrTooShort,
		"  12345\n":                     ErrTooShort,
		strings.Repeat("x", maxValue+1): ErrTooLong,
		"123456":                        nil,
	} {
		if _, err := m.Add("l", value); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v, want %v", len(value), err, want)
		}
	}
}

func TestNothingMaskedReturnsTheSlice(t *testing.T) {
	m := knowing(t, "correct horse battery")
	msg := []byte(` {"a" : [1.0e5, "x\u0041\n", true ,null], "b":{}} `)
	out, r, err := m.Message(msg)
	if err != nil || r.Masked() || &out[0] != &msg[0] || len(out) != len(msg) {
		t.Errorf("%s %v %v", out, r, err)
	}
}

func TestBytesOutsideSpansAreKept(t *testing.T) {
	m := knowing(t, "s3cret-pa55word")
	msg := []byte("{ \"n\":1.00,\"a\\u0041\":\"pre\\u00e9 s3cret\\u002dpa55word \\u0041post\",\"n\":2E+5 }\n")
	want := "{ \"n\":1.00,\"a\\u0041\":\"pre\\u00e9 [masked: v0] \\u0041post\",\"n\":2E+5 }\n"
	out, r, err := m.Message(msg)
	if err != nil || string(out) != want {
		t.Errorf("%s %v", out, err)
	}
	if len(r.Hits) != 1 || r.Hits[0] != (Hit{"known", "v0", "aA", 1}) {
		t.Errorf("%+v", r)
	}
}

func TestPlaces(t *testing.T) {
	m := knowing(t, "s3cret-pa55word", "20250101123456")
	msg := `{"result":{"content":[{"type":"text","text":"a s3cret-pa55word b s3cret-pa55word"}],
		"structuredContent":{"s3cret-pa55word":{"x y":["s3cret-pa55word"]},"id":20250101123456,
		"json":"{\"rows\":[{\"pw\":\"s3cret-pa55word\",\"id\":20250101123456}]}"}}}`
	out, r, err := m.Message([]byte(msg))
	if err != nil {
		t.Fatal(err)
	}
	clean(t, out, "s3cret-pa55word")
	clean(t, out, "20250101123456")
	want := []Hit{
		{"known", "v0", "result.content[0].text", 2},
		{"known", "v0", "result.structuredContent[masked: v0](key)", 1},
		{"known", "v0", `result.structuredContent[masked: v0]["x y"][0]`, 1},
		{"known", "v1", "result.structuredContent.id", 1},
		{"known", "v0", "result.structuredContent.json|rows[0].pw", 1},
		{"known", "v1", "result.structuredContent.json|rows[0].id", 1},
	}
	if fmt.Sprint(r.Hits) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v\n%s", r.Hits, want, out)
	}
	var v struct {
		Result struct{ StructuredContent struct{ JSON string } }
	}
	if err := json.Unmarshal(out, &v); err != nil || !json.Valid([]byte(v.Result.StructuredContent.JSON)) {
		t.Errorf("inner JSON broken: %s", out)
	}
}

func TestRetiredValuesAreKeptThenForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Options{Keep: time.Hour})
		a, _ := m.Add("a", "s3cret-pa55word")
		b, _ := m.Add("b", "s3cret-pa55word")
		other, _ := m.Add("c", "an0ther-pa55word")
		m.Retire(a)
		m.Retire(a) // twice is once
		m.Retire(99)
		masked := func() bool {
			m.Text("") // finds out what is due, and lets it go beside itself
			synctest.Wait()
			out, _ := m.Text("x s3cret-pa55word")
			return out == "x [masked: a]"
		}
		time.Sleep(2 * time.Hour)
		if !masked() {
			t.Error("forgotten while one id lives")
		}
		m.Retire(b)
		time.Sleep(59 * time.Minute)
		if !masked() {
			t.Error("forgotten too early")
		}
		time.Sleep(2 * time.Hour)
		if masked() {
			t.Error("never forgotten")
		}
		if out, _ := m.Text("an0ther-pa55word"); out != "[masked: c]" {
			t.Errorf("lost a live value: %s", out)
		}
		m.Retire(other)
		time.Sleep(2 * time.Hour)
		m.Text("")
		synctest.Wait()
		if len(m.secrets) != 0 || !m.index.Load().empty() {
			t.Error("idle mask still holds secrets")
		}
	})
}

func TestAddIsActiveWhenItReturns(t *testing.T) {
	m := New(Options{})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				v := fmt.Sprintf("value-%d-%d-%x", g, i, i*7919)
				id, err := m.Add("l", v)
				if err != nil {
					t.Error(err)
				}
				if out, _ := m.Text("(" + v + ")"); out != "([masked: l])" {
					t.Errorf("%s passed", v)
				}
				if i%3 == 0 {
					m.Retire(id)
				}
			}
		})
	}
	wg.Wait()
	for g := range 8 {
		for i := range 100 {
			if v := fmt.Sprintf("value-%d-%d-%x", g, i, i*7919); !strings.Contains(first(m.Text(v)), "masked") {
				t.Errorf("%s lost", v)
			}
		}
	}
}

func first(s string, _ Report) string { return s }

func TestBlocked(t *testing.T) {
	deep := strings.Repeat("[", 600) + strings.Repeat("]", 600)
	m := New(Options{MaxMessage: 4096})
	for _, c := range []struct {
		msg  string
		want error
	}{
		{"", ErrNotJSON}, {" ", ErrNotJSON}, {"{", ErrNotJSON}, {`{"a":1}x`, ErrNotJSON}, {`{"a":1,}`, ErrNotJSON},
		{`[1,]`, ErrNotJSON}, {`01`, ErrNotJSON}, {`1.`, ErrNotJSON}, {`-`, ErrNotJSON}, {`1e`, ErrNotJSON}, {`nul`, ErrNotJSON},
		{`"\x"`, ErrNotJSON}, {`"\u12g4"`, ErrNotJSON}, {"\"a\nb\"", ErrNotJSON}, {"\"eight by eight\nbytes at a time\"", ErrNotJSON}, {"\"\xff\"", ErrNotJSON}, {`"a`, ErrNotJSON},
		{`{a:1}`, ErrNotJSON}, {`{"a" 1}`, ErrNotJSON}, {`["a" "b"]`, ErrNotJSON}, {deep, ErrNotJSON}, {`"\`, ErrNotJSON},
		{"data: {}", ErrNotJSON}, {`{}{}`, ErrNotJSON},
		{`"` + strings.Repeat("x", 5000) + `"`, ErrTooLarge},
	} {
		out, _, err := m.Message([]byte(c.msg))
		if !errors.Is(err, c.want) || out != nil {
			t.Errorf("%.40q: %v, %q", c.msg, err, out)
		}
	}
}

func TestTooManyStringsAreBlocked(t *testing.T) {
	msg := []byte("[" + strings.Repeat(`"",`, maxTokens) + `""]`)
	if out, _, err := New(Options{}).Message(msg); !errors.Is(err, ErrTooLarge) || out != nil {
		t.Errorf("%v", err)
	}
}

func TestOutOfTimeIsBlocked(t *testing.T) {
	now := time.Unix(0, 0)
	m := New(Options{Budget: time.Second, Now: func() time.Time { now = now.Add(2 * time.Second); return now }})
	if _, err := m.Add("l", "s3cret-pa55word"); err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("lorem ipsum ", 50_000)
	if out, _, err := m.Message([]byte(`"` + text + `"`)); !errors.Is(err, ErrBudget) || out != nil {
		t.Errorf("%v, %d bytes", err, len(out))
	}
	if out, r := m.Text(text); strings.Contains(out, "lorem") || !r.Masked() {
		t.Errorf("%.80s", out)
	}
}

func TestPanicIsBlocked(t *testing.T) {
	m := knowing(t, "s3cret-pa55word")
	m.rules.Store(nil) // as broken as it gets
	if out, _, err := m.Message([]byte(`{"a":"s3cret-pa55word"}`)); !errors.Is(err, ErrPanic) || out != nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%v %s", err, out)
	}
	if out, _ := m.Text("s3cret-pa55word"); strings.Contains(out, "s3cret") {
		t.Error(out)
	}
}

// A value that structure itself spells cannot be masked: it is blocked.
func TestValueAcrossStructureIsBlocked(t *testing.T) {
	for value, msg := range map[string]string{
		`{"type":"service_account"}`: `{"result":{"type":"service_account"}}`,
		`"a","b","c"`:                `["a","b","c"]`,
		`masked`:                     `["masked"]`,
	} {
		out, _, err := knowing(t, value).Message([]byte(msg))
		if !errors.Is(err, ErrRemains) || out != nil {
			t.Errorf("%s: %v %s", value, err, out)
		}
	}
}

func TestKeys(t *testing.T) {
	m := New(Options{Keys: []string{"api_key", "Pins"}})
	out, r, err := m.Message([]byte(`{"API_KEY":"x","api_ke\u0079":{"v":["y\n",1,true,null]},"pins":[1234],"api_keys":"z","text":"{\"api_key\":7}"}`))
	want := `{"API_KEY":"[masked: api_key]","api_ke\u0079":{"v":["[masked: api_key]","[masked: api_key]",true,null]},"pins":["[masked: Pins]"],"api_keys":"z","text":"{\"api_key\":\"[masked: api_key]\"}"}`
	if err != nil || string(out) != want || len(r.Hits) != 5 {
		t.Errorf("%s %v %v", out, r, err)
	}
	again, r, err := m.Message(out)
	if err != nil || !bytes.Equal(again, out) || r.Masked() {
		t.Errorf("not stable: %s %v", again, err)
	}
	m.Configure(nil, nil)
	if out, _, _ := m.Message([]byte(`{"api_key":"x"}`)); string(out) != `{"api_key":"x"}` {
		t.Error("old rules still in force")
	}
}

// Two keys that hold values of one label must stay two keys.
func TestMaskedKeysStayDistinct(t *testing.T) {
	m := New(Options{})
	for _, v := range []string{"s3cret-one", "s3cret-two"} {
		if _, err := m.Add("l", v); err != nil {
			t.Fatal(err)
		}
	}
	out, _, err := m.Message([]byte(`{"s3cret-one":1,"s3cret-two":2}`))
	var v map[string]int
	if err != nil || json.Unmarshal(out, &v) != nil || len(v) != 2 {
		t.Errorf("%s %v", out, err)
	}
}

func TestLabels(t *testing.T) {
	for label, want := range map[string]string{
		"":                      "[masked: secret]",
		"pg s3cret-pa55word":    "[masked: secret]",
		"a\"]\n{é":              "[masked: a_____]",
		"customers-ro.password": "[masked: customers-ro.password]",
	} {
		m := New(Options{})
		if _, err := m.Add(label, "s3cret-pa55word"); err != nil {
			t.Fatal(err)
		}
		if out, _, err := m.Message([]byte(`"s3cret-pa55word"`)); err != nil || string(out) != `"`+want+`"` {
			t.Errorf("%q: %s %v", label, out, err)
		}
	}
}
