package mask

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestOwnPatterns(t *testing.T) {
	m := New(Options{})
	m.Configure(nil, nil, Pattern{ID: "acme-token", Expression: regexp.MustCompile(`\bacme_([0-9a-z]{20})\b`), Group: 1, MinEntropy: 2.5},
		Pattern{ID: "ticket", Expression: regexp.MustCompile(`TCK-\d{6}`)})
	token := "0123456789abcdefghij"
	for text, want := range map[string]string{
		"a acme_" + token + ", TCK-123456": "a acme_[masked: acme-token], [masked: ticket]",
		"acme_aaaaaaaaaaaaaaaaaaaa":        "acme_aaaaaaaaaaaaaaaaaaaa", // entropy
		"%54CK-123456":                     "[masked: ticket]",
		strings.Repeat("x ", 40_000) + "TCK-123456" + strings.Repeat(" y", 40_000): strings.Repeat("x ", 40_000) + "[masked: ticket]" + strings.Repeat(" y", 40_000),
	} {
		if got, _ := m.Text(text); got != want {
			t.Errorf("%.80s\n got %.80s\nwant %.80s", text, got, want)
		}
	}
	out, r, err := m.Message([]byte(`["acme_` + token + `","TCK-12","3456"]`))
	if err != nil || string(out) != `["acme_[masked: acme-token]","TCK-12","3456"]` || r.Hits[0].Detector != "acme-token" {
		t.Errorf("%s %v %v", out, r, err)
	}
	m.Configure(nil, nil)
	if got, _ := m.Text("TCK-123456"); got != "TCK-123456" {
		t.Errorf("withdrawn, and masks: %s", got)
	}
}

// An expression that takes long is stopped by the clock, between two windows.
func TestOwnPatternsKeepTheBudget(t *testing.T) {
	now := time.Unix(0, 0)
	m := New(Options{Now: func() time.Time { now = now.Add(time.Second); return now }, Budget: 3 * time.Second})
	m.Configure(nil, nil, Pattern{ID: "slow", Expression: regexp.MustCompile(`(a|b)*c`)})
	if _, _, err := m.Message([]byte(`"` + strings.Repeat("ab", 1<<19) + `"`)); !errors.Is(err, ErrBudget) {
		t.Errorf("%v", err)
	}
}
