package mask

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// However JSON is cut over the texts of a content, a rule that goes by a place
// holds for what a client puts together.
func TestJSONCutOverTexts(t *testing.T) {
	const text = `{"users": [{"name": "Ada \u00e9", "note": "o\npen"}, {"name": "Bob", "note": "hid\u0064en 4711", "n": 1}], "x": true}`
	path := []Step{member("users"), {Index: 1}, member("note")}
	for _, action := range []Action{Redact, Partial, Pseudonym, Drop} {
		m := fieldMask(t, FieldRule{ID: "r", Paths: [][]Step{path}, Action: action})
		want, _ := cutOver(t, m, text)
		if strings.Contains(want, "4711") && action != Partial || !strings.Contains(want, "open") && !strings.Contains(want, `o\npen`) {
			t.Fatalf("%s: %s", action, want)
		}
		for i := range len(text) + 1 {
			for _, k := range []int{i, min(i+3, len(text)), len(text)} {
				got, r := cutOver(t, m, text[:i], text[i:k], text[k:])
				if got != want {
					t.Fatalf("%s, cut at %d and %d:\n got %s\nwant %s", action, i, k, got, want)
				}
				if len(r.Hits) == 0 || r.Hits[0].Label != "r" {
					t.Fatalf("%s, cut at %d and %d: %+v", action, i, k, r)
				}
			}
		}
	}
	m := fieldMask(t, FieldRule{ID: "r", Paths: [][]Step{path}, Action: Block, Reason: "no"})
	msg, _ := contentOf(text[:80], text[80:])
	var refused *Refused
	if _, _, err := m.Answer(msg, Site{Server: "db", Tool: "query"}); !errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
	// Texts that are no JSON together stay as they are.
	m = fieldMask(t, FieldRule{ID: "r", Paths: [][]Step{path}, Action: Redact})
	for _, pieces := range [][]string{{"", ""}, {" ", "\n"}, {"{", "} x"}, {`{"users":`, "oops}"}, {"a", "b"}} {
		if got, r := cutOver(t, m, pieces...); got != strings.Join(pieces, "") || len(r.Hits) != 0 {
			t.Errorf("%q: %q %+v", pieces, got, r)
		}
	}
}

func contentOf(texts ...string) ([]byte, error) {
	blocks := []any{}
	for _, text := range texts {
		blocks = append(blocks, map[string]any{"type": "text", "text": text}, map[string]any{"type": "image", "data": ""})
	}
	return json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "result": map[string]any{"content": blocks}})
}

// cutOver masks an answer with these texts, and returns them put together.
func cutOver(t *testing.T, m *Mask, texts ...string) (string, Report) {
	t.Helper()
	msg, err := contentOf(texts...)
	if err != nil {
		t.Fatal(err)
	}
	out, r := answer(t, m, string(msg))
	var got struct {
		Result struct{ Content []struct{ Text string } }
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, b := range got.Result.Content {
		all.WriteString(b.Text)
	}
	return all.String(), r
}
