package wire

import (
	"reflect"
	"testing"
)

// What means the same is the same part, however it is spelled; whatever else a
// tool has is a part, too.
func TestTools(t *testing.T) {
	list := func(tool string) Tool {
		t.Helper()
		m := mustParse(t, `{"jsonrpc":"2.0","id":1,"result":{"tools":[7,`+tool+`,"x"]}}`)
		all := m.Tools()
		if len(all) != 1 {
			t.Fatalf("%s: %d tools", tool, len(all))
		}
		return m.Tool(all[0])
	}
	got := list(`{"title":"T","name":"qu\u0065ry","description":"Reads \u00e4\/b","inputSchema":{"type":"object","required":["b","a","b",1,"","` + "\\u0000" + `"],"properties":{"a":{"maximum":1.0}}},` +
		`"outputSchema":{},"annotations":{"readOnlyHint":true},"_meta":{"b":1,"a":2},"icons":[],"Description":"evil"}`)
	want := Tool{Name: "query", Title: []byte(`"T"`), Description: []byte(`"Reads ä/b"`),
		Input:  []byte(`{"properties":{"a":{"maximum":1.0}},"required":["b","a","b",1,"","` + "\\u0000" + `"],"type":"object"}`),
		Output: []byte(`{}`), Annotations: []byte(`{"readOnlyHint":true}`),
		Other:    []byte(`{"Description":"evil","_meta":{"a":2,"b":1},"icons":[]}`),
		Required: []string{"a", "b"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s", spell(got))
	}
	same := list(`{ "_meta":{"a":2,"b":1}, "Description":"evil", "icons" : [], "annotations":{"readOnlyHint":true},"outputSchema":{ },` +
		`"inputSchema":{"properties":{"a":{"maximum":1.0}},"type":"object","required":["b","a","b",1,"","` + "\\u0000" + `"]},"description":"Reads \u00E4/b","name":"query","title":"\u0054"}`)
	if !reflect.DeepEqual(same, want) {
		t.Errorf("spelled otherwise:\n%s", spell(same))
	}
	if got := list(`{"name":"bare"}`); !reflect.DeepEqual(got, Tool{Name: "bare"}) {
		t.Errorf("bare: %s", spell(got))
	}
	if got := list(`{"name":7,"inputSchema":[],"description":null}`); got.Name != "" || string(got.Input) != "[]" || string(got.Description) != "null" {
		t.Errorf("odd: %s", spell(got))
	}
	for _, raw := range []string{
		`{"jsonrpc":"2.0","id":1,"result":{"tools":{}}}`, `{"jsonrpc":"2.0","id":1,"result":[]}`, `{"jsonrpc":"2.0","id":1,"result":{}}`,
		`{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"tools"}}`, `{"jsonrpc":"2.0","method":"x","params":{"tools":[{}]}}`,
	} {
		if all := mustParse(t, raw).Tools(); all != nil {
			t.Errorf("%s: %v", raw, all)
		}
	}
}

func spell(t Tool) (s string) {
	v := reflect.ValueOf(t)
	for i := range v.NumField() {
		if b, ok := v.Field(i).Interface().([]byte); ok {
			s += v.Type().Field(i).Name + " " + string(b) + "\n"
		}
	}
	return s + t.Name
}
