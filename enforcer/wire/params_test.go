package wire

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
)

func TestCheckParams(t *testing.T) {
	headers := map[string]string{"region": "Mcp-Param-Region", "limit": "Mcp-Param-Limit", "dry": "Mcp-Param-Dry"}
	for name, c := range map[string]struct {
		arguments string
		header    []string
		words     string // of the refusal; "" if there is none
	}{
		"nothing on either side":      {`{"other":1}`, nil, ""},
		"no arguments at all":         {``, nil, ""},
		"a string":                    {`{"region":"eu-1"}`, []string{"Mcp-Param-Region", "eu-1"}, ""},
		"a string with escapes":       {`{"region":"e\u0075-1"}`, []string{"Mcp-Param-Region", "eu-1"}, ""},
		"an empty string":             {`{"region":""}`, []string{"Mcp-Param-Region", ""}, ""},
		"a string as base64":          {`{"region":"Zürich"}`, []string{"Mcp-Param-Region", "=?base64?WsO8cmljaA==?="}, ""},
		"half a mark is literal":      {`{"region":"=?base64?SGk="}`, []string{"Mcp-Param-Region", "=?base64?SGk="}, ""},
		"a number":                    {`{"limit":12}`, []string{"Mcp-Param-Limit", "12"}, ""},
		"a number in another form":    {`{"limit":12.0}`, []string{"Mcp-Param-Limit", "1.2e1"}, ""},
		"a truth":                     {`{"dry":true}`, []string{"Mcp-Param-Dry", "true"}, ""},
		"null is no value":            {`{"region":null}`, nil, ""},
		"a header that nobody knows":  {`{}`, []string{"Mcp-Param-Zone", "b"}, ""},
		"all three":                   {`{"region":"a","limit":-1,"dry":false}`, []string{"Mcp-Param-Region", "a", "Mcp-Param-Limit", "-1", "Mcp-Param-Dry", "false"}, ""},
		"another string":              {`{"region":"eu-1"}`, []string{"Mcp-Param-Region", "us-1"}, "Region differs"},
		"another case":                {`{"region":"eu-1"}`, []string{"Mcp-Param-Region", "EU-1"}, "Region differs"},
		"no header":                   {`{"region":"eu-1"}`, nil, "Region is required"},
		"no argument":                 {`{}`, []string{"Mcp-Param-Region", "eu-1"}, "Region is there, and its argument is not"},
		"no arguments, and a header":  {``, []string{"Mcp-Param-Region", "eu-1"}, "its argument is not"},
		"null, and a header":          {`{"region":null}`, []string{"Mcp-Param-Region", "null"}, "its argument is not"},
		"two headers":                 {`{"region":"a"}`, []string{"Mcp-Param-Region", "a", "Mcp-Param-Region", "a"}, "more than once"},
		"base64 without its padding":  {`{"region":"Hello"}`, []string{"Mcp-Param-Region", "=?base64?SGVsbG8?="}, "base64"},
		"base64 with other letters":   {`{"region":"Hello"}`, []string{"Mcp-Param-Region", "=?base64?SGVs!!!bG8=?="}, "base64"},
		"letters outside of ASCII":    {`{"region":"é"}`, []string{"Mcp-Param-Region", "é"}, "may not"},
		"another number":              {`{"limit":12}`, []string{"Mcp-Param-Limit", "13"}, "Limit differs"},
		"a fraction":                  {`{"limit":1.5}`, []string{"Mcp-Param-Limit", "1.5"}, "Limit differs"},
		"beyond what floats tell":     {`{"limit":9007199254740993}`, []string{"Mcp-Param-Limit", "9007199254740992"}, "Limit differs"},
		"no number at all":            {`{"limit":1}`, []string{"Mcp-Param-Limit", "0x1p0"}, "Limit differs"},
		"a truth in capitals":         {`{"dry":true}`, []string{"Mcp-Param-Dry", "TRUE"}, "Dry differs"},
		"an object":                   {`{"region":{}}`, []string{"Mcp-Param-Region", "{}"}, "Region differs"},
		"a number's text as a string": {`{"limit":"1"}`, []string{"Mcp-Param-Limit", "1.0"}, "Limit differs"},
	} {
		t.Run(name, func(t *testing.T) {
			arguments := ""
			if c.arguments != "" {
				arguments = `,"arguments":` + c.arguments
			}
			m := mustParse(t, `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t"`+arguments+`}}`)
			h := http.Header{}
			for i := 0; i < len(c.header); i += 2 {
				h.Add(c.header[i], c.header[i+1])
			}
			err := CheckParams(h, m, headers)
			var werr *Error
			switch {
			case c.words == "" && err != nil, c.words != "" && err == nil:
				t.Fatalf("got %v", err)
			case err != nil && (!errors.As(err, &werr) || werr.Code != CodeHeaderMismatch || string(werr.ID) != "7" || !strings.Contains(err.Error(), c.words)):
				t.Errorf("got %v, want %q", err, c.words)
			}
		})
	}
}

// A string agrees with exactly the headers that decode to it.
func FuzzCheckParams(f *testing.F) {
	f.Add("eu-1", "eu-1")
	f.Add("Zürich", "=?base64?WsO8cmljaA==?=")
	f.Add("=?base64?SGk=?=", "=?base64?SGk=?=")
	f.Add("", "\x7f")
	f.Fuzz(func(t *testing.T, argument, header string) {
		raw, err := json.Marshal(argument)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Parse([]byte(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t","arguments":{"a":`+string(raw)+`}}}`), Limits{})
		if err != nil {
			return // U+0000, say
		}
		at, _ := m.Member(m.Arguments, "a")
		is, _ := m.Text(at) // what is not UTF-8 was replaced
		check := func(header string) error {
			return CheckParams(http.Header{"Mcp-Param-A": {header}}, m, map[string]string{"a": "Mcp-Param-A"})
		}
		if err := check(EncodeHeader(is)); err != nil {
			t.Errorf("%q does not agree with its own header: %v", is, err)
		}
		means, ok := DecodeHeader(header)
		if good := ok && visible(header) && means == is; good != (check(header) == nil) {
			t.Errorf("%q against %q: %v", is, header, check(header))
		}
	})
}
