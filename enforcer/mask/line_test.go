package mask

import (
	"strings"
	"testing"
)

// A token ends where its line ends: what stands on the next line is no part of it.
func TestATokenEndsWithItsLine(t *testing.T) {
	m := New(Options{})
	token := "sk_" + "live_" + strings.Repeat("a1B2", 7)
	out, _, err := m.Message([]byte(`{"text":"Ada Osei │ ` + token + `\nBruno Keller │ ` + token + `\n(2 rows)"}`))
	if want := `{"text":"Ada Osei │ [masked: stripe]\nBruno Keller │ [masked: stripe]\n(2 rows)"}`; err != nil || string(out) != want {
		t.Errorf("got  %s %v\nwant %s", out, err, want)
	}
	text, _ := m.Text(token + "\nBruno")
	if text != "[masked: stripe]\nBruno" {
		t.Errorf("text: %q", text)
	}
}
