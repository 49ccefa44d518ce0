package rules

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

const goodDetector = `detectors:
  - id: acme-token
    pattern: '\bacme_([0-9a-z]{20})\b'
    group: 1
    min_entropy: 2.5
    examples: ["token acme_0123456789abcdefghij end"]
    counterexamples: [acme_short, "acme_aaaaaaaaaaaaaaaaaaaa", "acme_0123456789abcdefghijk"]
`

func TestDetectors(t *testing.T) {
	p, err := try(base(), "masks/own.yaml", goodDetector)
	if err != nil {
		t.Fatal(err)
	}
	ds := p.Masks().Detectors
	if len(ds) != 1 || ds[0].ID != "acme-token" || ds[0].Group != 1 || ds[0].MinEntropy != 2.5 {
		t.Fatalf("%+v", ds)
	}
	if found := ds[0].Find("x acme_0123456789abcdefghij"); fmt.Sprint(found) != "[[7 27]]" {
		t.Errorf("%v", found)
	}
	if ps := p.UnknownDetectors([]string{"e-mail"}); len(ps) != 0 {
		t.Errorf("%v", ps)
	}
	if ps := p.UnknownDetectors([]string{"e-mail", "acme-token"}); len(ps) != 1 || !strings.Contains(ps[0].String(), `masks/own.yaml:2:5: there is a detector "acme-token" already`) {
		t.Errorf("%v", ps)
	}
}

func TestDetectorProblems(t *testing.T) {
	one := func(fields string) string { return "detectors:\n  - " + fields + "\n" }
	for _, c := range []struct{ text, want string }{
		{"detectors: x\n", "masks/own.yaml:1:12: detectors must be a list"},
		{one("{ id: a, pattern: b }"), "masks/own.yaml:2:5: examples is missing"},
		{one("{ pattern: b, examples: b }"), "id is missing"},
		{one("{ id: a, examples: b }"), "pattern is missing"},
		{one("{ id: a, patern: b, examples: b }"), `unknown field "patern"`},
		{one("{ id: A b, pattern: b, examples: b }"), "is not a name"},
		{one("{ id: a, pattern: 'x(', examples: x }"), "masks/own.yaml:2:23: the pattern is not one that RE2 knows"},
		{one("{ id: a, pattern: 'x(?=y)', examples: x }"), "not one that RE2 knows"},
		{one("{ id: a, pattern: '(x)\\1', examples: x }"), "not one that RE2 knows"},
		{one("{ id: a, pattern: 'x*', examples: x }"), "matches nothing at all"},
		{one("{ id: a, pattern: '^|x', examples: x }"), "matches nothing at all"},
		{one("{ id: a, pattern: '.+', examples: x }"), "of an ordinary text"},
		{one("{ id: a, pattern: '\\w{3,}', examples: xyz }"), "of an ordinary text"},
		{one("{ id: a, pattern: '(?s).', examples: x }"), "of an ordinary text"},
		{one("{ id: a, pattern: '" + strings.Repeat("x", 513) + "', examples: x }"), "513 bytes"},
		{one("{ id: a, pattern: 'x(y{30}z{30}){20}', examples: x }"), "instructions"},
		{one("{ id: a, pattern: 'x((y{100}){100}){100}', examples: x }"), "RE2 knows"},
		{one("{ id: a, pattern: xyz, group: 1, examples: xyz }"), "has no groups"},
		{one("{ id: a, pattern: 'x(y)z', group: 2, examples: xyz }"), "group is 2: it must lie between 1 and 1"},
		{one("{ id: a, pattern: xyz, min_entropy: 9, examples: xyz }"), "min_entropy must be a number"},
		{one("{ id: a, pattern: xyz, min_entropy: .nan, examples: xyz }"), "min_entropy must be a number"},
		{one("{ id: a, pattern: xyz, min_entropy: 3, examples: xyz }"), "it has 1.6 bits a character, min_entropy is 3"},
		{one("{ id: a, pattern: xyz, examples: [xyz, abc] }"), "masks/own.yaml:2:44: detector a does not find this example"},
		{one("{ id: a, pattern: xyz, examples: [xyz], counterexamples: [a xyz] }"), "finds this counterexample, at byte 2"},
		{one("{ id: a, pattern: xyz, examples: [] }"), "empty list"},
		{goodDetector + "  - { id: acme-token, pattern: xyz, examples: xyz }\n", `masks/own.yaml:8:5: duplicate id "acme-token"`},
	} {
		_, err := try(base(), "masks/own.yaml", c.text)
		var ps Problems
		if !errors.As(err, &ps) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\ngot  %v\nwant %s", c.text, err, c.want)
		}
	}
	var many strings.Builder
	many.WriteString("detectors:\n")
	for i := range maxDetectors + 1 {
		fmt.Fprintf(&many, "  - { id: d%d, pattern: xyz, examples: xyz }\n", i)
	}
	if _, err := try(base(), "masks/own.yaml", many.String()); err == nil || !strings.Contains(err.Error(), "at most 32 detectors") {
		t.Errorf("%v", err)
	}
}
