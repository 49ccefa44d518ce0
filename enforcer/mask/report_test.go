package mask

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The report of docs/masking.md. `make mask-report` runs this test twice: with
// -report-inputs, which writes what is looked through; then gitleaks over the
// same; then with -report-update, which measures ours, and writes the page.
// Without either, the test holds the page to what needs no clock and no gitleaks.
var (
	reportInputs = flag.String("report-inputs", "", "write the inputs of the report to a folder")
	reportUpdate = flag.String("report-update", "", "write docs/masking.md, from the folder in which gitleaks was run")
)

const reportPage = "../../docs/masking.md"

// group is a row of the report: texts with a secret, and texts that look like
// some and hold none.
type group struct {
	name      string
	formats   int
	positives []specimen
	negatives []string
}

// reportGroups are generated, from a fixed seed.
func reportGroups() []group {
	r := rand.New(rand.NewPCG(41, 42))
	var all []group
	for _, f := range families {
		g := group{name: f.name, formats: len(f.detectors)}
		for i := range f.detectors {
			d := &detectors[numberOf(f.detectors[i].name)]
			for _, prefix := range d.prefixes {
				for range 2 {
					s := sample(r, d, prefix)
					if s.around {
						g.positives = append(g.positives, s)
						if f.name == "key blocks" {
							continue // nobody refers to a variable in there
						}
						g.negatives = append(g.negatives, strings.ReplaceAll(s.text, s.secret, "${SECRET_VALUE}"))
						continue
					}
					for _, context := range []string{"%s", "see %s now", "- \"%s\"\n"} {
						g.positives = append(g.positives, specimen{text: strings.Replace(context, "%s", s.text, 1), secret: s.secret})
					}
					g.negatives = append(g.negatives, nearMisses(r, d, prefix)...)
				}
			}
		}
		all = append(all, g)
	}
	plain := group{name: "ordinary text", negatives: ordinaryTexts}
	for range 500 {
		b := make([]byte, 20)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		h := hex.EncodeToString(b)
		plain.negatives = append(plain.negatives, "commit "+h, fmt.Sprintf("id %s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:32]),
			"data:image/png;base64,"+base64.StdEncoding.EncodeToString([]byte(sampleOf(r, alnum, 40)+string(b))),
			fmt.Sprintf("%s %s took %d ms", words[r.IntN(len(words))], words[r.IntN(len(words))], r.IntN(1e6)))
	}
	return append(all, plain)
}

var words = strings.Fields("the request query customer order session build deploy error retry cache index parse token password secret key bearer basic")

// nearMisses look like a token of d, and are none: too short, a row of one
// sign, the tail of a word.
func nearMisses(r *rand.Rand, d *detector, prefix string) []string {
	if len(d.parts) == 0 || d.parts[0].lit != "" || d.lead != nil {
		return nil
	}
	p := d.parts[0]
	misses := []string{"q" + tokenOf(r, d, prefix)}
	if d.loose || !isAlnum(prefix[0]) || strings.HasSuffix(prefix, "=") {
		misses = nil // begins anywhere, or is a name that may have more in front
	}
	if p.min > 8 && len(d.parts) == 1 {
		misses = append(misses, prefix+sampleOf(r, p.set, p.min/2))
	}
	if d.floor > 0 && classOf['x']&p.set != 0 {
		misses = append(misses, prefix+strings.Repeat("x", p.min))
	}
	return misses
}

// score counts what a scanner found.
type score struct{ tp, positives, fp, negatives int }

func (s score) recall() string    { return percentOf(s.tp, s.positives) }
func (s score) precision() string { return percentOf(s.tp, s.tp+s.fp) }
func (s score) quiet() string     { return percentOf(s.negatives-s.fp, s.negatives) }

func percentOf(a, b int) string {
	if b == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(a)/float64(b))
}

// ours scores this package, by what is left: a secret is found if neither half
// of it is in the output.
func ours(m *Mask, g group) score {
	s := score{positives: len(g.positives), negatives: len(g.negatives)}
	for _, p := range g.positives {
		out, r := m.Text(p.text)
		half := len(p.secret) / 2
		if r.Masked() && !strings.Contains(out, p.secret[half:]) && !strings.Contains(out, p.secret[:half]) {
			s.tp++
		}
	}
	for _, n := range g.negatives {
		if _, r := m.Text(n); r.Masked() {
			s.fp++
		}
	}
	return s
}

// knownForms counts the wire forms of values that are masked.
func knownForms() (found, all int) {
	r := rand.New(rand.NewPCG(43, 44))
	for _, v := range []string{sampleOf(r, b64url, 20), "p\"a'ss\\w/o r<d>&+=%$@:`!", "päßwörd-€-end", sampleOf(r, alnum, 6)} {
		m := New(Options{})
		if _, err := m.Add("v", v); err != nil {
			panic(err)
		}
		for _, f := range wireForms(v) {
			all++
			if out, _ := m.Text("a " + f.text + " b"); !strings.Contains(out, f.text) {
				found++
			}
		}
	}
	return found, all
}

// reportTexts are what speed is measured on.
func reportTexts(t testing.TB) map[string]string {
	var msg struct {
		Result struct{ Content []struct{ Text string } }
	}
	if err := json.Unmarshal(corpus(1<<20), &msg); err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"1 clean": msg.Result.Content[0].Text}
	r := rand.New(rand.NewPCG(45, 46))
	var dense strings.Builder
	for dense.Len() < 1<<20 {
		d := &detectors[r.IntN(len(detectors))]
		if d.check == nil && len(d.parts) > 0 {
			fmt.Fprintf(&dense, "%s at %s ", sample(r, d, d.prefixes[0]).text, words[r.IntN(len(words))])
		}
	}
	texts["2 dense"] = dense.String()
	for i, s := range slowInputs(t) {
		what := map[string]string{"detectors": "the detectors", "message": "decoding"}[s.Target]
		texts[fmt.Sprintf("3 hostile to %s, %d", what, i%2+1)] = s.text(1 << 18)
	}
	return texts
}

func TestReport(t *testing.T) {
	groups := reportGroups()
	m := New(Options{Budget: time.Hour})
	var scores []score
	for _, g := range groups {
		scores = append(scores, ours(m, g))
	}
	found, all := knownForms()
	switch {
	case *reportInputs != "":
		writeInputs(t, *reportInputs, groups)
		return
	case *reportUpdate != "":
		update(t, *reportUpdate, groups, scores, found, all)
		return
	}
	page, err := os.ReadFile(reportPage)
	if err != nil {
		t.Fatal(err)
	}
	if between(t, string(page), "detectors") != detectorTable() {
		t.Error("docs/masking.md does not list the detectors as they are: make mask-report")
	}
	table := between(t, string(page), "report")
	for i, g := range groups {
		want := "| " + reportRow(g, scores[i])
		if !strings.Contains(table, "\n"+want) {
			t.Errorf("docs/masking.md has no row that begins with %q: make mask-report", want)
		}
	}
	if found != all || !strings.Contains(table, knownRow(found, all)) {
		t.Errorf("known values: %d of %d forms; the page must say so", found, all)
	}
	for _, columns := range []string{speedHead, samplesHead} {
		if !strings.Contains(table, columns) {
			t.Errorf("docs/masking.md lacks the table %q", columns)
		}
	}
}

const (
	reportHead  = "| family | detectors | with a secret | without | recall | precision | recall, gitleaks | precision, gitleaks |\n|---|---|---|---|---|---|---|---|\n"
	samplesHead = "| gitleaks' own samples | number | masked | found by gitleaks |\n|---|---|---|---|\n"
	speedHead   = "| text | detectors, MB/s | a whole message, MB/s | gitleaks, MB/s |\n|---|---|---|---|\n"
)

// reportRow is what a row of the report begins with: all that is ours.
func reportRow(g group, s score) string {
	last := s.precision()
	if s.positives == 0 {
		last = s.quiet() + " pass"
	}
	return fmt.Sprintf("%s | %d | %d | %d | %s | %s |", g.name, g.formats, s.positives, s.negatives, s.recall(), last)
}

func knownRow(found, all int) string {
	return fmt.Sprintf("Of %d wire forms of known values, %d are masked: %s.", all, found, percentOf(found, all))
}

func between(t testing.TB, page, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "<!-- "+name+" -->\n")
	text, _, ok2 := strings.Cut(rest, "<!-- /"+name+" -->")
	if !ok || !ok2 {
		t.Fatalf("docs/masking.md has no place for the %s", name)
	}
	return text
}

// detectorTable lists all detectors, by family.
func detectorTable() string {
	var b strings.Builder
	for _, f := range families {
		fmt.Fprintf(&b, "\n%s:\n\n| detector | begins with | then | source |\n|---|---|---|---|\n", strings.ToUpper(f.name[:1])+f.name[1:])
		for _, d := range f.detectors {
			source := "[" + strings.Split(d.source, "/")[min(2, strings.Count(d.source, "/"))] + "](" + d.source + ")"
			if name, rule, ok := strings.Cut(d.source, " "); ok {
				source = name + ", " + rule
			} else if d.keyed != plain {
				source = "[below](#keyed-values)"
			}
			shape := d.shape
			if d.check != nil {
				shape = "by structure"
			}
			var quoted []string
			for _, p := range d.prefixes {
				quoted = append(quoted, "`"+strings.NewReplacer("|", `\|`, "\n", `\n`, "\t", `\t`).Replace(p)+"`")
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", d.name, strings.Join(quoted, " "), shape, source)
		}
	}
	return b.String()
}

type line struct {
	Text     string `json:"text"`
	Secret   string `json:"secret,omitempty"`
	Positive bool   `json:"positive,omitempty"`
}

// writeInputs writes all texts for gitleaks: those of the groups, in order,
// then gitleaks' own samples, which are in the folder already.
func writeInputs(t *testing.T, dir string, groups []group) {
	f, err := os.Create(filepath.Join(dir, "inputs.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	e := json.NewEncoder(f)
	put := func(l line) {
		if err := e.Encode(l); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range groups {
		for _, p := range g.positives {
			put(line{Text: p.text, Secret: p.secret})
		}
		for _, n := range g.negatives {
			put(line{Text: n})
		}
	}
	for _, s := range gitleaksSamples(t, dir) {
		put(line{Text: s.Text})
	}
	for name, text := range reportTexts(t) {
		if err := os.WriteFile(filepath.Join(dir, name+".txt"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func gitleaksSamples(t *testing.T, dir string) []line {
	f, err := os.Open(filepath.Join(dir, "samples.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []line
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		if l.Text != "" {
			all = append(all, l)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// update writes the page.
func update(t *testing.T, dir string, groups []group, scores []score, found, all int) {
	var theirs struct {
		Found []bool
		Speed map[string]float64
	}
	b, err := os.ReadFile(filepath.Join(dir, "gitleaks.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &theirs); err != nil {
		t.Fatal(err)
	}
	count := func(n int) (hits int) {
		for _, f := range theirs.Found[:n] {
			if f {
				hits++
			}
		}
		theirs.Found = theirs.Found[n:]
		return hits
	}
	var page strings.Builder
	page.WriteString(reportHead)
	for i, g := range groups {
		o := score{positives: len(g.positives), negatives: len(g.negatives)}
		o.tp, o.fp = count(o.positives), count(o.negatives)
		row := reportRow(g, scores[i])
		last := o.precision()
		if o.positives == 0 {
			last = o.quiet() + " pass"
		}
		fmt.Fprintf(&page, "| %s %s | %s |\n", row, o.recall(), last)
	}
	fmt.Fprintf(&page, "\n%s\n\n%s", knownRow(found, all), samplesHead)
	m := New(Options{Budget: time.Hour})
	var own [2][3]int // negatives, positives: number, ours, theirs
	for _, s := range gitleaksSamples(t, dir) {
		k := 0
		if s.Positive {
			k = 1
		}
		own[k][0]++
		if _, r := m.Text(s.Text); r.Masked() {
			own[k][1]++
		}
		own[k][2] += count(1)
	}
	for k, name := range []string{"near misses of one rule", "with a secret"} {
		fmt.Fprintf(&page, "| %s | %d | %s | %s |\n", name, own[k][0], percentOf(own[k][1], own[k][0]), percentOf(own[k][2], own[k][0]))
	}
	page.WriteString("\n" + speedHead)
	writeSpeeds(t, &page, theirs.Speed)
	old, err := os.ReadFile(reportPage)
	if err != nil {
		t.Fatal(err)
	}
	text := string(old)
	for name, table := range map[string]string{"report": page.String(), "detectors": detectorTable()} {
		mark, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
		text = strings.Replace(text, mark+between(t, text, name)+end, mark+table+end, 1)
	}
	if err := os.WriteFile(reportPage, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
