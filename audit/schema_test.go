package audit

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func entrySchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(EntrySchema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("urn:countersign:record:entry:2", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("urn:countersign:record:entry:2")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func valid(t *testing.T, s *jsonschema.Schema, line []byte) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// What enforcers wrote, of every kind: lines-1 is of the version before, lines-2
// of this one.
func TestTheSchemaAcceptsWhatWasWritten(t *testing.T) {
	s := entrySchema(t)
	kinds := map[Kind]bool{}
	for _, name := range []string{"testdata/lines-1.jsonl", "testdata/lines-2.jsonl"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			line = bytes.TrimSuffix(line, []byte("\n"))
			e, err := Decode(line)
			if err != nil {
				t.Errorf("%s: %v", line, err)
			}
			kinds[e.Kind] = true
			if err := valid(t, s, line); err != nil {
				t.Errorf("%s\n%s", line, err)
			}
		}
	}
	for _, k := range kindsOf(t) {
		if !kinds[k] && k != KindErased && k != KindAnchor && k != KindKey && k != KindRolled && k != KindUnrecorded { // the details of the latter four are below
			t.Errorf("no line of kind %s", k)
		}
	}
	note := "countersign.example/log\n1\nqINS1GRFVWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs=\n\n— x AAAA\n"
	for kind, detail := range map[Kind]any{
		KindStart:      Start{Enforcer: "e", Incarnation: "i", Schema: Schema, Previous: note, Torn: 3, Salts: NewSalts(nil).Name(), Version: "v", Config: "c"},
		KindAnchor:     Anchor{Checkpoint: note},
		KindKey:        Rotation{Use: UseCommit, Enforcer: "e", Old: "ssh-ed25519 A", New: "ssh-ed25519 B", Signature: "-----BEGIN"},
		KindUnrecorded: Unrecorded{Run: "r1", Since: noon, Until: noon, tally: tally{3, 1, 2}, Why: "full", Short: true},
		KindRolled:     Rolled{From: "https://a", To: "https://b", Reason: RolledSize},
	} {
		d, err := Detail(detail)
		if err != nil {
			t.Fatal(err)
		}
		line, err := Entry{Kind: kind, Time: noon, Detail: d}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := valid(t, s, line); err != nil {
			t.Errorf("%s\n%s", line, err)
		}
		if kind == KindStart || kind == KindKey || kind == KindRolled || kind == KindUnrecorded {
			bad := bytes.Replace(line, []byte(`"detail":{`), []byte(`"detail":{"extra":1,`), 1)
			if valid(t, s, bad) == nil {
				t.Errorf("accepted: %s", bad)
			}
		}
	}
}

// kindsOf are the kinds that the schema lists, which are those of this package.
func kindsOf(t *testing.T) (all []Kind) {
	t.Helper()
	var doc struct {
		Properties struct {
			Kind struct{ Enum []Kind }
		}
	}
	if err := json.Unmarshal([]byte(EntrySchema), &doc); err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile("entry.go")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(src)) {
		if _, rest, ok := strings.Cut(line, ` Kind = "`); ok {
			k := Kind(rest[:strings.IndexByte(rest, '"')])
			if !slices.Contains(doc.Properties.Kind.Enum, k) {
				t.Errorf("the schema does not know the kind %s", k)
			}
			all = append(all, k)
		}
	}
	if len(all) != len(doc.Properties.Kind.Enum) {
		t.Errorf("%d kinds in the schema, %d in entry.go", len(doc.Properties.Kind.Enum), len(all))
	}
	return all
}

// A member that Decode knows is in the schema, at its place in the line, and the
// other way round; so are the members of its elements.
func TestTheSchemaHasEveryMember(t *testing.T) {
	type object struct {
		Properties json.RawMessage
		Items      *struct {
			Properties json.RawMessage
		}
	}
	var doc object
	if err := json.Unmarshal([]byte(EntrySchema), &doc); err != nil {
		t.Fatal(err)
	}
	lt := reflect.TypeFor[line]()
	var names []string
	members := map[string]object{}
	if err := json.Unmarshal(doc.Properties, &members); err != nil {
		t.Fatal(err)
	}
	for i := range lt.NumField() {
		f := lt.Field(i)
		name := f.Tag.Get("json")
		names = append(names, name)
		if f.Type.Kind() != reflect.Slice || f.Type.Elem().Kind() != reflect.Struct {
			continue
		}
		var want []string
		for j := range f.Type.Elem().NumField() {
			n, _, _ := strings.Cut(f.Type.Elem().Field(j).Tag.Get("json"), ",")
			want = append(want, n)
		}
		if members[name].Items == nil {
			t.Errorf("%s: the schema says nothing of its elements", name)
		} else if got := ordered(t, members[name].Items.Properties); !slices.Equal(got, want) {
			t.Errorf("%s: the schema has %q, the line %q", name, got, want)
		}
	}
	if got := ordered(t, doc.Properties); !slices.Equal(got, names) {
		t.Errorf("the schema has\n%q, the line\n%q", got, names)
	}
	if et := reflect.TypeFor[Entry](); et.NumField() != lt.NumField() {
		t.Errorf("Entry has %d members, its line %d", et.NumField(), lt.NumField())
	}
}

// ordered are the names of an object's members as they stand.
func ordered(t *testing.T, object json.RawMessage) (names []string) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(object))
	if _, err := dec.Token(); err != nil {
		t.Fatal(err)
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name.(string))
		var skip json.RawMessage
		if err := dec.Decode(&skip); err != nil {
			t.Fatal(err)
		}
	}
	return names
}

func TestTheSchemaRefusesWhatDecodeDoes(t *testing.T) {
	s := entrySchema(t)
	good := `{"seq":1,"time":"2026-11-23T12:00:00.000000Z","kind":"outcome"}`
	if err := valid(t, s, []byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, more := range []string{
		`"extra":1`, `"Seq":1`, `"call":""`, `"call":null`, `"call":1`, `"rules":[]`, `"rules":"a"`, `"trace":[]`, `"trace":[null]`,
		`"trace":[{"rule":"r"}]`, `"trace":[{"rule":"r","effect":"deny","why":""}]`, `"trace":[{"rule":"r","effect":"deny","line":1}]`,
		`"trace":[` + strings.Repeat(`{"rule":"r","effect":"deny"},`, MaxTrace) + `{"rule":"r","effect":"deny"}]`,
		`"ms":-1`, `"ms":0`, `"ms":1e13`, `"ms":"1"`, `"timings":[{"part":"wait"}]`, `"timings":[{"part":"wait","ms":-1}]`, `"timings":[{"part":"wait","ms":1,"x":1}]`,
		`"masked":[]`, `"masked":[{"detector":"d","place":"p"}]`, `"masked":[{"detector":"d","place":"p","count":1.5}]`,
		`"splices":[{"what":"prefix"}]`, `"splices":[{"what":"prefix","where":"x","value":"v"}]`, `"bytes":1.5`,
		`"bodies":[{"of":"request","size":-1,"kept":"full"}]`, `"bodies":[{"of":"request","kept":"full"}]`, `"bodies":[{"of":"request","size":1,"digest":"","kept":"full"}]`,
		`"args":"` + strings.Repeat("x", MaxArgs+1) + `"`, `"result":"` + strings.Repeat("x", MaxArgs+1) + `"`, `"detail":[]`, `"detail":null`,
	} {
		line := strings.TrimSuffix(good, "}") + "," + more + "}"
		if _, err := Decode([]byte(line)); err == nil {
			t.Errorf("Decode accepts %.100s", line)
		}
		if valid(t, s, []byte(line)) == nil {
			t.Errorf("the schema accepts %.100s", line)
		}
	}
	for _, line := range []string{
		`{}`, `[]`, `null`, `{"time":"2026-11-23T12:00:00.000000Z","kind":"stop"}`, `{"seq":1,"kind":"stop"}`, `{"seq":1,"time":"2026-11-23T12:00:00.000000Z"}`,
		strings.Replace(good, ".000000Z", "Z", 1), strings.Replace(good, `"seq":1`, `"seq":-1`, 1), strings.Replace(good, `"seq":1`, `"seq":"1"`, 1),
		strings.Replace(good, `"outcome"`, `""`, 1),
	} {
		if _, err := Decode([]byte(line)); err == nil {
			t.Errorf("Decode accepts %s", line)
		}
		if valid(t, s, []byte(line)) == nil {
			t.Errorf("the schema accepts %s", line)
		}
	}
}
