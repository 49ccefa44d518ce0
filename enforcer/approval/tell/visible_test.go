package tell

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestVisible(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"SELECT 1", "SELECT 1"},
		{"a\u202Eb", `a\u{202E}b`},
		{"a\u200Bb\u2060\uFEFF", `a\u{200B}b\u{2060}\u{FEFF}`},
		{"nul\x00esc\x1b[2J", `nul\u{00}esc\u{1B}[2J`},
		{"no\u00A0break\u3000", `no\u{A0}break\u{3000}`},
		{"tag\U000E0041\U000E0001", `tag\u{E0041}\u{E0001}`},
		{"fill\u3164\u2800\u115F", `fill\u{3164}\u{2800}\u{115F}`},
		{"variation\uFE0F", `variation\u{FE0F}`},
		{"sep\u2028\u2029", `sep\u{2028}\u{2029}`},
		{"crlf\r\n\tx", "crlf\\u{0D}\n\tx"},
		{`pretend \u{202E}`, `pretend \u{5C}u{202E}`},
		{`\n is no escape of ours`, `\n is no escape of ours`},
		{"bad \xff\xfe", `bad \u{xFF}\u{xFE}`},
		{"true \uFFFD", "true \uFFFD"},
		{"naïve Ωmega 日本 é", "naïve Ωmega 日本 é"},
	} {
		if got, whole := Visible(test.in, true, 1000); got != test.want || !whole {
			t.Errorf("Visible(%q) = %q, want %q", test.in, got, test.want)
		}
	}
	if got, _ := Visible("a\nb\tc", false, 100); got != `a\u{0A}b\u{09}c` {
		t.Errorf("in one line: %q", got)
	}
}

func TestVisibleCuts(t *testing.T) {
	got, whole := Visible(strings.Repeat("\u202e", 500), true, 200)
	if whole || Cost(got) > 200 || !strings.HasSuffix(got, "more characters]") || strings.Contains(strings.ReplaceAll(got, `\u{202E}`, ""), `\u`) {
		t.Errorf("%v %q", whole, got)
	}
	if got, whole := Visible(strings.Repeat("&", 100), true, 400); whole || Cost(got) > 400 {
		t.Errorf("ampersands are counted as Slack keeps them: %v %q", whole, got)
	}
}

func FuzzVisible(f *testing.F) {
	f.Add("SELECT 1", 100)
	f.Add("a\u202Eb\\u{202E}\xff", 50)
	f.Add(strings.Repeat("<&>\u200b", 100), 120)
	f.Fuzz(func(t *testing.T, in string, limit int) {
		limit = 100 + (limit%3000+3000)%3000
		out, whole := Visible(in, true, limit)
		if !utf8.ValidString(out) || Cost(out) > limit {
			t.Fatalf("Visible(%q, %d) = %q", in, limit, out)
		}
		for _, r := range out {
			if hidden(r) && r != '\n' && r != '\t' {
				t.Fatalf("%q leaves %U", in, r)
			}
		}
		if again, ok := Visible(out, true, 1<<30); whole && ok && strings.Count(again, `\u{5C}u{`) < strings.Count(out, `\u{`) {
			t.Fatalf("an escape of %q can be spelled: %q", out, again)
		}
	})
}
