package freeze

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

var alice = Call{Issuer: "https://id.example", Sub: "alice", Client: "desk", Server: "customers", Tool: "query"}

func TestWhatATargetStops(t *testing.T) {
	with := func(edit func(*Call)) Call { c := alice; edit(&c); return c }
	for name, c := range map[string]struct {
		target Target
		call   Call
		stops  bool
	}{
		"everything":            {Target{All: true}, alice, true},
		"everything, of nobody": {Target{All: true}, Call{}, true},
		"the subject":           {Target{Issuer: "https://id.example", Sub: "alice"}, alice, true},
		"another issuer's":      {Target{Issuer: "https://other.example", Sub: "alice"}, alice, false},
		"another subject":       {Target{Issuer: "https://id.example", Sub: "alic"}, alice, false},
		"the client":            {Target{Client: "desk"}, alice, true},
		"the server":            {Target{Server: "customers"}, alice, true},
		"the tool":              {Target{Tool: "query"}, alice, true},
		"the tool elsewhere":    {Target{Tool: "query"}, with(func(c *Call) { c.Server = "files" }), true},
		"the tool of a server":  {Target{Server: "files", Tool: "query"}, alice, false},
		"all parts":             {Target{Issuer: "https://id.example", Sub: "alice", Client: "desk", Server: "customers", Tool: "query"}, alice, true},
		"all parts but one":     {Target{Issuer: "https://id.example", Sub: "alice", Client: "desk", Server: "customers", Tool: "query"}, with(func(c *Call) { c.Tool = "" }), false},
		"a listing, by a tool":  {Target{Tool: "query"}, with(func(c *Call) { c.Tool = "" }), false},
		"nothing":               {Target{}, alice, false},
	} {
		if got := c.target.Stops(c.call); got != c.stops {
			t.Errorf("%s: stops %v", name, got)
		}
	}
}

func TestTargetsThatAreNotClear(t *testing.T) {
	for name, target := range map[string]Target{
		"nothing": {}, "everything and more": {All: true, Server: "s"}, "half a subject": {Sub: "alice"}, "an issuer": {Issuer: "https://id.example"},
		"an issuer and a server": {Issuer: "https://id.example", Server: "s"}, "too long": {Tool: strings.Repeat("x", maxPart+1)},
		"a line feed": {Tool: "a\nb"}, "an escape": {Client: "\x1b[2J"}, "reordered": {Server: "a\u202eb"}, "no UTF-8": {Server: "\xff"},
	} {
		if err := target.check(); !errors.Is(err, ErrTarget) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheWordsForAFreeze(t *testing.T) {
	f := Freeze{ID: "fz_1", Target: Target{Issuer: "https://id.example", Sub: "alice", Tool: "query"}, Reason: "laptop stolen", By: "dana", Since: time.Date(2026, 11, 27, 18, 4, 5, 0, time.UTC)}
	if got := f.Target.String(); got != "subject https://id.example#alice, tool query" {
		t.Error(got)
	}
	if got := (&Stopped{f}).Error(); got != "frozen by dana since 2026-11-27 18:04 UTC: laptop stolen (fz_1)" {
		t.Error(got)
	}
	back, err := Decode(f.Encode())
	if err != nil || !reflect.DeepEqual(back, f) {
		t.Errorf("%+v %v", back, err)
	}
}

const whole = `{"id":"fz_1","all":true,"reason":"r","by":"b","since":"2026-11-27T18:00:00Z"}`

func TestTheDocumentIsReadStrictly(t *testing.T) {
	list, err := decode([]byte(`{"format":1,"freezes":[` + whole + `]}`))
	if err != nil || len(list) != 1 || !list[0].All {
		t.Fatalf("%+v %v", list, err)
	}
	for name, doc := range map[string]string{
		"empty": ``, "no object": `[]`, "no list": `{"format":1}`, "null": `{"format":1,"freezes":null}`, "another format": `{"format":2,"freezes":[]}`,
		"unknown member":         `{"format":1,"freezes":[],"more":1}`,
		"unknown member, inside": `{"format":1,"freezes":[` + strings.Replace(whole, `"all"`, `"host":"x","all"`, 1) + `]}`,
		"a member twice":         `{"format":1,"freezes":[],"freezes":[` + whole + `]}`,
		"another case":           `{"format":1,"freezes":[` + strings.Replace(whole, `"all"`, `"All"`, 1) + `]}`,
		"an id twice":            `{"format":1,"freezes":[` + whole + `,` + whole + `]}`,
		"no target":              `{"format":1,"freezes":[` + strings.Replace(whole, `"all":true,`, ``, 1) + `]}`,
		"no reason":              `{"format":1,"freezes":[` + strings.Replace(whole, `"reason":"r",`, ``, 1) + `]}`,
		"no time":                `{"format":1,"freezes":[` + strings.Replace(whole, `,"since":"2026-11-27T18:00:00Z"`, ``, 1) + `]}`,
		"no id":                  `{"format":1,"freezes":[` + strings.Replace(whole, `fz_1`, `1`, 1) + `]}`,
		"trailing":               `{"format":1,"freezes":[]} {}`,
		"too large":              `{"format":1,"freezes":[]` + strings.Repeat(" ", documents) + `}`,
	} {
		if list, err := decode([]byte(doc)); err == nil {
			t.Errorf("%s was read: %+v", name, list)
		}
	}
}

// Whatever is read says what it stops, and is written as it is read.
func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"format":1,"freezes":[` + whole + `]}`))
	f.Add([]byte(`{"format":1,"freezes":[{"id":"fz_a","issuer":"i","sub":"s","client":"c","server":"v","tool":"t","reason":"r","by":"b","since":"2026-11-27T18:00:00.5+01:00"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := decode(b)
		if err != nil {
			return
		}
		for _, x := range list {
			if !x.Stops(Call{Issuer: x.Issuer, Sub: x.Sub, Client: x.Client, Server: x.Server, Tool: x.Tool}) {
				t.Errorf("a freeze that stops nothing: %+v", x)
			}
		}
		again, err := decode(encode(list))
		if err != nil || len(again) != len(list) {
			t.Fatalf("written as\n%s\nread: %v", encode(list), err)
		}
		for i := range list {
			if !reflect.DeepEqual(again[i], list[i]) {
				t.Errorf("%+v, again %+v", list[i], again[i])
			}
		}
	})
}

// A subject can be frozen by the name that the record has for it.
func TestAnAliasIsFrozen(t *testing.T) {
	c := Call{Issuer: "https://i", Sub: "alice", Client: "c", Server: "v", Alias: "pseudonym:1"}
	for _, x := range []struct {
		target Target
		stops  bool
	}{
		{Target{Issuer: "https://i", Sub: "pseudonym:1"}, true}, {Target{Issuer: "https://i", Sub: "alice"}, true},
		{Target{Issuer: "https://j", Sub: "pseudonym:1"}, false}, {Target{Issuer: "https://i", Sub: "pseudonym:2"}, false},
		{Target{Issuer: "https://i", Sub: "pseudonym:1", Server: "w"}, false},
	} {
		if got := x.target.Stops(c); got != x.stops {
			t.Errorf("%+v: %v", x.target, got)
		}
	}
	if (Target{Issuer: "https://i", Sub: "bob"}).Stops(Call{Issuer: "https://i", Sub: "alice"}) {
		t.Error("no alias is everybody's")
	}
}
