package rules

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/exposures.md anew")

const cataloguePage = "../docs/exposures.md"

// The page is made from the catalogue: after a change, go test ./rules -run Catalogue -update.
func TestTheCataloguesPage(t *testing.T) {
	want := page()
	if *update {
		if err := os.WriteFile(cataloguePage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(cataloguePage)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/exposures.md is not what the catalogue says: go test ./rules -run Catalogue -update")
	}
}

func page() string {
	var b strings.Builder
	b.WriteString(`# What counts as showing a credential

The catalogue behind [exposes_credentials(request)](policy.md#exposes_credentialsrequest). This page is
made from it by a test. Each entry has an id and a kind, for rules, and words, for people. Everything
is compared in lower case. It grows with versions of the program: after an update a rule that asks it
may find more.

- **SQL**: relations that are read or changed, functions that are called, and phrases of other dialects.
- **Commands**: a program and its words in their order, others between them. ` + "`$`" + ` is without operands,
  ` + "`.`" + ` without any word, ` + "`%`" + ` without a command to run, ` + "`!x`" + ` not with x. Programs that run others are looked
  through first, so ` + "`sudo env`" + ` is ` + "`env`" + `.
- **Files**: ends of paths, however they are spelled. ` + "`/`" + ` at the end is a folder as a whole, ` + "`/**`" + ` all in it.
- **Hosts**: in any spelling of the address: decimal, octal, hexadecimal, inside of IPv6, under nip.io.
- **URLs**: host and path; ` + "`**`" + ` is any number of components.
- **Operations**: of APIs, as the whole value of an argument.

`)
	list := slices.Clone(catalogue)
	slices.SortFunc(list, func(a, b *exposure) int { return strings.Compare(a.kind+" "+a.id, b.kind+" "+b.id) })
	kind := ""
	for _, e := range list {
		if e.kind != kind {
			kind = e.kind
			fmt.Fprintf(&b, "## %s\n\n", kind)
		}
		fmt.Fprintf(&b, "**%s**: it %s ([source](%s)).\n", e.id, e.words, e.source)
		for _, part := range []struct {
			name string
			list []string
		}{{"Relations", e.relations}, {"Functions", e.functions}, {"Phrases", e.phrases}, {"Commands", e.commands}, {"Files", e.files}, {"Hosts", e.hosts}, {"URLs", e.urls}, {"Operations", e.calls}} {
			if len(part.list) > 0 {
				fmt.Fprintf(&b, "%s: `%s`.\n", part.name, strings.Join(part.list, "`, `"))
			}
		}
		b.WriteString("\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func TestCatalogueEntries(t *testing.T) {
	id := regexp.MustCompile(`^[a-z][a-z0-9-]{2,39}$`)
	kinds := []string{"address", "cloud", "file", "git", "kubernetes", "shell", "sql", "vault"}
	seen := map[string]bool{}
	for _, e := range catalogue {
		if !id.MatchString(e.id) || seen[e.id] || !slices.Contains(kinds, e.kind) {
			t.Errorf("%s: id or kind (%s), or twice", e.id, e.kind)
		}
		seen[e.id] = true
		if len(e.words) < 10 || len(e.words) > 90 || strings.ContainsAny(e.words, ";()`<>") || strings.HasSuffix(e.words, ".") {
			t.Errorf("%s: words %q", e.id, e.words)
		}
		if u, err := url.Parse(e.source); err != nil || u.Scheme != "https" || u.Host == "" {
			t.Errorf("%s: source %q", e.id, e.source)
		}
		for _, names := range [][]string{e.relations, e.functions, e.phrases, e.commands, e.files, e.urls, e.calls} {
			for i, name := range names {
				if low := strings.ToLower(name); name == "" || slices.Contains(names[:i], name) || low != name && !strings.Contains(name, " -") {
					t.Errorf("%s: %q is empty, twice, or not in lower case", e.id, name)
				}
			}
		}
	}
}

// Each thing that the catalogue names is found where it stands by itself: no
// line of it is dead.
func TestCatalogueIsFound(t *testing.T) {
	plain := strings.NewReplacer("*", "x", "?", "x")
	met := func(list []*exposure, e *exposure) bool { return slices.Contains(list, e) }
	for _, e := range catalogue {
		for _, name := range e.relations {
			if !met(parseSQL(`SELECT * FROM `+name).exposuresOf(), e) || !met(scanSQL("SELECT `a` FROM "+name+" LIMIT 1, 2", true), e) {
				t.Errorf("%s: relation %s", e.id, name)
			}
		}
		for _, name := range e.functions {
			if name = plain.Replace(name); !met(parseSQL(`SELECT `+name+`(1)`).exposuresOf(), e) {
				t.Errorf("%s: function %s", e.id, name)
			}
		}
		for _, phrase := range e.phrases {
			text := strings.TrimPrefix(phrase, "^") + " `x`"
			if !met(scanSQL(text, true), e) {
				t.Errorf("%s: phrase %s", e.id, phrase)
			}
		}
		for _, text := range e.files {
			p := "/srv/" + plain.Replace(strings.Replace(strings.TrimPrefix(text, "/"), "**", "a/b", 1))
			if !met(file(p), e) || !met(file(strings.ToUpper(p)), e) {
				t.Errorf("%s: file %s as %s", e.id, text, p)
			}
		}
		for _, h := range e.hosts {
			if strings.Contains(h, ":") {
				h = "[" + h + "]"
			}
			if !met(address("http://"+h+"/x"), e) {
				t.Errorf("%s: host %s", e.id, h)
			}
		}
		for _, u := range e.urls {
			text := "https://" + strings.ReplaceAll(strings.ReplaceAll(u, "**", "a/b"), "*", "x")
			if !met(address(text), e) {
				t.Errorf("%s: url %s as %s", e.id, u, text)
			}
		}
		for _, text := range e.commands {
			words := strings.Fields(text)
			for _, program := range strings.Split(words[0], "|") {
				line := []string{plain.Replace(program)}
				for _, w := range words[1:] {
					if w != "$" && w != "." && w != "%" && w[0] != '!' {
						first, _, _ := strings.Cut(w, "|")
						line = append(line, plain.Replace(first))
					}
				}
				if cmd := strings.Join(line, " "); !met(parseShell(cmd).exposuresOf(parseSQL), e) {
					t.Errorf("%s: command %s as %s: %s", e.id, text, cmd, shellIDs(cmd))
				}
			}
		}
	}
}
