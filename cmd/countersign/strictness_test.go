package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/strictness.md anew")

// The page lists every row of the hostile tests as they ran.
func strictnessPage(t *testing.T, url string, requests []hostile) {
	path := filepath.Join("..", "..", "docs", "strictness.md")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	port := url[strings.LastIndex(url, ":"):]
	words := strings.NewReplacer(url, "https://gate.example", port, ":443", "|", `\|`, "<", "&lt;", `\"`, `"`)
	var r, h, w, a strings.Builder
	group := ""
	for _, row := range requests {
		if row.group != group {
			group = row.group
			fmt.Fprintf(&r, "\n### %s\n\n| sent | status | code | words |\n|---|---|---|---|\n", group)
		}
		fmt.Fprintf(&r, "| %s | %d | %d | %s |\n", row.name, row.status, row.code, words.Replace(row.words))
	}
	h.WriteString("\n| sent | status | words |\n|---|---|---|\n")
	for _, row := range rawRequests {
		status := fmt.Sprint(row.status)
		switch {
		case row.status == 0:
			status = "none, or 4xx"
		case row.ran:
			status += ", the first call only"
		}
		fmt.Fprintf(&h, "| %s | %s | %s |\n", row.name, status, words.Replace(row.words))
	}
	var names []string
	for _, row := range noEffect {
		names = append(names, "`"+row.name+"`")
	}
	w.WriteString("\n" + strings.Join(names, ", ") + "\n")
	a.WriteString("\n| answered | code | words |\n|---|---|---|\n")
	for _, row := range hostileAnswers(url) {
		code := "–"
		if row.code != 0 {
			code = fmt.Sprint(row.code)
		}
		fmt.Fprintf(&a, "| %s | %s | %s |\n", row.name, code, words.Replace(strings.TrimRight(row.words, " :")))
	}
	for name, text := range map[string]string{"requests": r.String(), "http": h.String(), "headers": w.String(), "answers": a.String()} {
		open, end := "<!-- "+name+" -->\n", "\n<!-- /"+name+" -->"
		before, rest, ok := strings.Cut(page, open)
		_, after, ok2 := strings.Cut(rest, strings.TrimPrefix(end, "\n"))
		if !ok || !ok2 {
			t.Fatalf("the page has no place for %s", name)
		}
		page = before + open + text + end + after
	}
	if *update {
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if page != string(b) && !*update {
		t.Error("docs/strictness.md does not list what is tested: go test ./cmd/countersign -run TestHostileRequests -update")
	}
}
