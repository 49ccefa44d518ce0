package audit

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// The page has every class, and every member of the JSON, and no other class.
func TestThePageHasTheReport(t *testing.T) {
	page, err := os.ReadFile("../docs/record.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n### Exit codes and JSON\n")
	section, _, ok := strings.Cut(section, "\n`--state <file>`")
	if !ok {
		t.Fatal("the page has no such section")
	}
	for _, v := range []any{Report{}, Log{}, Checkpoint{}, Problem{}, Checked{}} {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			want := "`" + name + "`"
			if options != "" && options != "omitzero" && options != "omitempty" {
				t.Errorf("%s: %s", f.Name, options)
			}
			if options != "" {
				want += `\*`
			}
			if !strings.Contains(section, want) {
				t.Errorf("%T: the page does not have %s", v, want)
			}
		}
	}
	src, err := os.ReadFile("report.go")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	_, classes, _ := strings.Cut(section, "| class |")
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\|").FindAllStringSubmatch(classes, -1) {
		listed[m[1]] = true
	}
	known := regexp.MustCompile(`Class = "(\w+)"`).FindAllStringSubmatch(string(src), -1)
	for _, m := range known {
		if !listed[m[1]] {
			t.Errorf("the page does not have class %s", m[1])
		}
	}
	if len(known) != len(listed) || len(known) < 19 {
		t.Errorf("%d classes, and %d on the page", len(known), len(listed))
	}
}
