package mask

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var slowFor = flag.Duration("slow", 0, "look for slow inputs that long, for each target, and write what is found to testdata/slow.json")

// slow is an input that takes long: a unit, repeated. Targets are what takes
// it: the detectors alone, or a whole message with all that is decoded in it.
type slow struct {
	Target string `json:"target"`
	Unit   string `json:"unit"`
}

const slowFile = "testdata/slow.json"

func slowInputs(t testing.TB) []slow {
	t.Helper()
	b, err := os.ReadFile(slowFile)
	if err != nil {
		t.Fatal(err)
	}
	var all []slow
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// text repeats the unit to about size bytes, in whole characters.
func (s slow) text(size int) string { return strings.Repeat(s.Unit, max(1, size/len(s.Unit))) }

// slowTargets run once over a text.
func slowTargets(t testing.TB) map[string]func(text string) {
	ds := newDetectorSet(nil, nil)
	m := New(Options{Budget: time.Hour})
	c := m.search().clock
	var found []finding
	return map[string]func(string){
		"detectors": func(text string) { found = ds.scan([]byte(text), nil, true, &c, found[:0]) },
		"message": func(text string) {
			msg, err := json.Marshal(map[string]string{"text": text})
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := m.Message(msg); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// The work on the slowest inputs known grows as they do: four times as much
// text, four times the candidates and layers. What is counted is allocated
// memory and findings, not time.
func TestSlowInputsStayLinear(t *testing.T) {
	m := New(Options{Budget: time.Hour})
	for _, s := range slowInputs(t) {
		msg := func(size int) []byte {
			b, err := json.Marshal(s.text(size))
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		cost := func(msg []byte) float64 {
			s := m.search()
			d := new(document)
			s.document(d, msg, 0)
			return float64(s.clock.total) / float64(len(msg))
		}
		small, large := cost(msg(1<<15)), cost(msg(1<<19))
		if large > 2*small+1 {
			t.Errorf("%q: %.1f units of work a byte in 32 KB, %.1f in 512 KB", s.Unit, small, large)
		}
	}
}

// TestFindSlowInputs climbs: it keeps the slowest input of a target, and tries
// what differs from it a little. It runs when -slow says for how long.
func TestFindSlowInputs(t *testing.T) {
	if *slowFor == 0 {
		return
	}
	words := []string{" ", "\n", "\"", "'", "`", "=", ":", "\\", "%25", "%", "&amp;", "&#92;", "\\u005c", "\\\\", "-", "_", ".", "/", "+", "==", "<", ">", "{", "[", ",", ";", "@", "://", "a", "A", "7", "aaaaaaaa", "A1b2C3d4", "00000000", "ffffffff", "--", "value", "curl ", "login ", "QUJD", "\n\n", "\t", " : ", "=\"", "\": \""}
	for i := range detectors {
		words = append(words, detectors[i].prefixes...)
	}
	var all []slow
	for _, target := range []string{"detectors", "message"} {
		run := slowTargets(t)[target]
		r := rand.New(rand.NewPCG(31, 32))
		measure := func(unit []string) float64 {
			text := slow{Unit: strings.Join(unit, "")}.text(1 << 15)
			best := time.Hour
			for range 3 {
				start := time.Now()
				run(text)
				best = min(best, time.Since(start))
			}
			return float64(best.Nanoseconds()) / float64(len(text))
		}
		type point struct {
			unit []string
			cost float64
		}
		var top []point
		for _, known := range slowInputs(t) { // what is found is never faster than what was known
			if known.Target == target {
				top = append(top, point{[]string{known.Unit}, measure([]string{known.Unit})})
			}
		}
		tries := 0
		for start := time.Now(); time.Since(start) < *slowFor; tries++ {
			var unit []string
			if len(top) > 0 && r.IntN(4) > 0 {
				unit = slices.Clone(top[r.IntN(len(top))].unit)
			}
			for range 1 + r.IntN(3) {
				w := words[r.IntN(len(words))]
				switch at := r.IntN(len(unit) + 1); {
				case at < len(unit) && r.IntN(3) == 0:
					unit = slices.Delete(unit, at, at+1)
				case at < len(unit) && r.IntN(2) == 0:
					unit[at] = w
				case len(unit) < 40:
					unit = slices.Insert(unit, at, strings.Repeat(w, 1+r.IntN(3)*r.IntN(8)))
				}
			}
			if len(unit) == 0 || len(strings.Join(unit, "")) > 600 {
				continue
			}
			if p := (point{unit, measure(unit)}); len(top) < 8 || p.cost > top[len(top)-1].cost {
				top = append(top, p)
				slices.SortFunc(top, func(a, b point) int { return int(1000 * (b.cost - a.cost)) })
				top = top[:min(len(top), 8)]
			}
		}
		for _, p := range top[:2] {
			again := measure(p.unit)
			fmt.Printf("%s: %d tries, %.1f ns a byte, %.0f MB/s: %.120q\n", target, tries, again, 1000/again, strings.Join(p.unit, ""))
			all = append(all, slow{target, strings.Join(p.unit, "")})
		}
	}
	b, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(slowFile, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
