package mask

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"mime/quotedprintable"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

// values: an ordinary database password, and those that bring out what
// encoders do differently.
var values = []string{
	"A1a-xT7qB2mZ9pKc4wVn",
	"abcdef",
	`p"a'ss\w/o r<d>&+=%$@:` + "`!",
	"päßwörd-€-😀-end",
	"line one is quite long\nline two is long too\nand a third one, for luck",
	`C:\Users\svc "pg"` + "\t100%&<b>\u2028\x7f é = 'x'\r\nshort",
}

// encoders write a value as the world does.
var encoders = map[string]func(string) string{
	"raw":           func(v string) string { return v },
	"json":          jsonOf,
	"json twice":    func(v string) string { return jsonOf(jsonOf(v)) },
	"json thrice":   func(v string) string { return jsonOf(jsonOf(jsonOf(v))) },
	"json no html":  func(v string) string { return plainJSON(v) },
	"json slash":    func(v string) string { return strings.ReplaceAll(plainJSON(v), "/", `\/`) },
	"json ascii":    func(v string) string { return strings.Trim(strconv.QuoteToASCII(v), `"`) },
	"every \\u":     func(v string) string { return everyU(v, "%04x") },
	"every \\U":     func(v string) string { return everyU(v, "%04X") },
	"half \\u":      func(v string) string { return halfU(v) },
	"half \\u json": func(v string) string { return jsonOf(halfU(v)) },
	"query":         url.QueryEscape,
	"query lower":   func(v string) string { return lowerPercent(url.QueryEscape(v)) },
	"path":          url.PathEscape,
	"userinfo":      func(v string) string { return url.UserPassword("u", v).String()[2:] },
	"query twice":   func(v string) string { return url.QueryEscape(url.QueryEscape(v)) },
	"every percent": func(v string) string { return percentEscape(v, "", false, false) },
	"some percent":  func(v string) string { return fmt.Sprintf("%%%02x", v[0]) + percentEscape(v[1:], "-_.~", false, true) },
	"hex":           func(v string) string { return hex.EncodeToString([]byte(v)) },
	"HEX":           func(v string) string { return strings.ToUpper(hex.EncodeToString([]byte(v))) },
	"html":          html.EscapeString,
	"html numbers":  func(v string) string { return eachRune(v, "&#%d;") },
	"html hex":      func(v string) string { return eachRune(v, "&#x%X;") },
	"xml":           func(v string) string { return strings.NewReplacer("&", "&amp;", "<", "&lt;").Replace(v) },
	"backslash x":   func(v string) string { return eachByte(v, `\x%02x`) },
	"octal":         func(v string) string { return eachByte(v, `\%03o`) },
	"yaml single":   func(v string) string { return strings.ReplaceAll(v, "'", "''") },
	"yaml double":   yamlDouble,
	"yaml unicode": func(v string) string {
		return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(v)
	},
	"sql E": func(v string) string { return strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) },
	"shell double": func(v string) string {
		return strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`").Replace(v)
	},
	"shlex": func(v string) string { return strings.ReplaceAll(v, "'", `'"'"'`) },
	"csv":   func(v string) string { return strings.ReplaceAll(v, `"`, `""`) },
	"mail": func(v string) string {
		var b strings.Builder
		w := quotedprintable.NewWriter(&b)
		w.Binary = true
		_, _ = w.Write([]byte(v)) // to a Builder
		_ = w.Close()
		return strings.ReplaceAll(b.String(), "=\r\n", "") // lines not broken
	},
	"query in url": func(v string) string { return "https://h.example/a?x=1&token=" + url.QueryEscape(v) + "&y=2#f" },
	"path in url":  func(v string) string { return "https://h.example/a/" + url.PathEscape(v) + "/b" },
	"b64 of url": func(v string) string {
		return base64.URLEncoding.EncodeToString([]byte("postgres://app:" + url.QueryEscape(v) + "@db/x"))
	},
	"shell": func(v string) string { return strings.ReplaceAll(v, "'", `'\''`) },
	"sql":   func(v string) string { return strings.ReplaceAll(v, "'", `''`) },
	"go":    func(v string) string { return strings.Trim(strconv.Quote(v), `"`) },
	"url":   func(v string) string { return "postgres://app:" + url.QueryEscape(v) + "@db:5432/x?sslmode=require" },
	"basic": func(v string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte("app:"+v)) },
	"b64 of json": func(v string) string {
		return base64.StdEncoding.EncodeToString([]byte(`{"password":"` + jsonOf(v) + `"}`))
	},
	"b64 of b64": func(v string) string {
		return base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte("pw=" + v))))
	},
	"b64 wrapped": func(v string) string {
		return wrap(base64.StdEncoding.EncodeToString([]byte("some user:"+v+", and more text behind it")), 19, "\n")
	},
	"b64 indented": func(v string) string {
		return "key:\n    " + wrap(base64.StdEncoding.EncodeToString([]byte("some user:"+v+", and more")), 20, "\n    ")
	},
}

func init() {
	for shift := range 3 {
		for name, enc := range map[string]*base64.Encoding{"std": base64.StdEncoding, "url": base64.URLEncoding, "rawstd": base64.RawStdEncoding, "rawurl": base64.RawURLEncoding} {
			encoders[fmt.Sprintf("base64 %s %d", name, shift)] = func(v string) string {
				return enc.EncodeToString([]byte("xyz"[:shift] + v + "\n"))
			}
		}
	}
}

func jsonOf(v string) string {
	b, _ := json.Marshal(v)
	return string(b[1 : len(b)-1])
}

func plainJSON(v string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v)
	return strings.TrimSpace(b.String())[1 : len(strings.TrimSpace(b.String()))-1]
}

func everyU(v, format string) string {
	var b strings.Builder
	for _, r := range v {
		b.WriteString(jsonEscape(string(r), func(rune) bool { return true }, false, strings.Contains(format, "X")))
	}
	return b.String()
}

func halfU(v string) string {
	var b strings.Builder
	n := 0
	for _, r := range v {
		n++
		b.WriteString(jsonEscape(string(r), func(rune) bool { return n%2 == 0 }, n%3 == 0, n%5 == 0))
	}
	return b.String()
}

func eachByte(v, format string) string {
	var b strings.Builder
	for i := range len(v) {
		fmt.Fprintf(&b, format, v[i])
	}
	return b.String()
}

func eachRune(v, format string) string {
	var b strings.Builder
	for _, r := range v {
		fmt.Fprintf(&b, format, r)
	}
	return b.String()
}

func lowerPercent(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] == '%' {
			copy(b[i+1:i+3], strings.ToLower(string(b[i+1:i+3])))
		}
	}
	return string(b)
}

func wrap(s string, n int, brk string) string {
	var lines []string
	for len(s) > n {
		lines, s = append(lines, s[:n]), s[n:]
	}
	return strings.Join(append(lines, s), brk)
}

// positions: where a form may stand in a message; %s is the JSON string.
var positions = map[string]string{
	"text":       `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":%s}]}}`,
	"structured": `{"jsonrpc":"2.0","id":1,"result":{"structuredContent":{"rows":[{"a":1,"b":%s}]}}}`,
	"resource":   `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"resource","resource":{"uri":"x:y","text":%s}}]}}`,
	"key":        `{"jsonrpc":"2.0","id":1,"result":{"structuredContent":{%s:1}}}`,
	"error":      `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":%s}}`,
	"data":       `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"x","data":[[%s]]}}`,
	"log":        `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":%s}}`,
	"item":       `[1,"a",%s,null]`,
	"alone":      `%s`,
}

func TestEveryFormEverywhere(t *testing.T) {
	for _, v := range values {
		m := knowing(t, v)
		for name, encode := range encoders {
			form := encode(v)
			for where, shape := range positions {
				for _, around := range []string{"%s", "the password is: %s.", "x\n\t\"%s\"\\ é"} {
					text := strings.Replace(around, "%s", form, 1)
					for how, spell := range map[string]func(string) string{"go": jsonOf, "plain": plainJSON, "mix": halfU} {
						msg := strings.Replace(shape, "%s", `"`+spell(text)+`"`, 1)
						out, r, err := m.Message([]byte(msg))
						if err != nil || !r.Masked() || !json.Valid(out) || strings.Contains(string(out), spell(form)) {
							t.Fatalf("%q as %s in %s (%s, %s): %v %v\n%s\n%s", v, name, where, around, how, err, r, msg, out)
						}
						var back any
						if err := json.Unmarshal(out, &back); err != nil || strings.Contains(fmt.Sprint(back), form) {
							t.Fatalf("%q as %s in %s remains: %s", v, name, where, out)
						}
					}
				}
			}
			if out, r := m.Text("log: " + form + "\nnext"); !r.Masked() || strings.Contains(out, form) {
				t.Errorf("%q as %s in plain text: %s", v, name, out)
			}
		}
	}
}

// What PyYAML writes by default, and Ruby.
func TestYAMLInASCII(t *testing.T) {
	for v, yaml := range map[string]string{
		"pä€😀\u00a0\u2028\t\x1b\"\\": `p\xE4\u20AC\U0001F600\_\L\t\e\"\\`, "pä\x00\a\b\v\f\r\u0085\u2029x": `p\xE4\0\a\b\v\f\r\N\Px`, "\x01\x7fabcd": `\x01\x7Fabcd`,
	} {
		if out, _ := knowing(t, v).Text(`key: "` + yaml + `"`); out != `key: "[masked: v0]"` {
			t.Errorf("%q as %s: %s", v, yaml, out)
		}
	}
}

// splits: two strings of one message that a reader would put together.
var splits = map[string]string{
	"blocks":    `{"result":{"content":[{"type":"text","text":%a},{"type":"text","text":%b}]}}`,
	"annotated": `{"result":{"content":[{"type":"text","annotations":{"audience":["user"]},"text":%a},{"type":"text","annotations":{"audience":["user"]},"text":%b}]}}`,
	"items":     `["x",%a,%b,"y"]`,
	"rows":      `{"rows":[{"n":"1","v":%a,"w":"-"},{"n":"2","v":%b,"w":"-"}]}`,
	"columns":   `[["a",%a,"c"],["d",%b,"f"]]`,
	"fields":    `{"first":%a,"second":%b}`,
	"keys":      `{%a:1,%b:2}`,
	"nested":    `{"text":"{\"v\":[%A,%B]}"}`,
}

func TestSplitAnywhere(t *testing.T) {
	for _, v := range values[:4] {
		m := knowing(t, v)
		for _, form := range []string{v, hex.EncodeToString([]byte(v)), base64.StdEncoding.EncodeToString([]byte("u:" + v)), url.QueryEscape(v), jsonOf(v), halfU(v)} {
			for where, shape := range splits {
				for cut := 1; cut < len(form); cut++ {
					if form[cut]&0xC0 == 0x80 {
						continue
					}
					a, b := form[:cut], form[cut:]
					for _, long := range []int{0, 20_000} {
						if long > 0 && (cut != len(form)/2 || where == "keys" || where == "columns" || where == "fields") {
							continue
						}
						pad := strings.Repeat("lorem ipsum ", long/12)
						ja, jb := `"`+jsonOf(pad+a)+`"`, `"`+jsonOf(b+pad)+`"`
						msg := strings.NewReplacer("%a", ja, "%b", jb, "%A", jsonOf(ja), "%B", jsonOf(jb)).Replace(shape)
						out, r, err := m.Message([]byte(msg))
						if err != nil || !r.Masked() || !json.Valid(out) {
							t.Fatalf("%q, %q|%q in %s: %v %v\n%.300s", v, a, b, where, err, r, msg)
						}
						if v == values[0] && form == v && cut > 4 && strings.Contains(string(out), a[cut-4:]+`"`) {
							t.Fatalf("%q|%q in %s: the end of a fragment remains", a, b, where)
						}
						if whole := form == v; whole && len(a) > 3 && len(b) > 3 && (strings.Contains(string(out), jsonOf(a)+`"`) || strings.Contains(string(out), `"`+jsonOf(b))) {
							t.Fatalf("%q|%q in %s: a fragment remains: %.300s", a, b, where, out)
						}
					}
				}
			}
		}
	}
}

func TestSplitIntoSingleCharacters(t *testing.T) {
	v := values[0]
	m := knowing(t, v)
	var items, blocks []string
	for _, c := range v {
		items = append(items, fmt.Sprintf("%q", c))
		items[len(items)-1] = `"` + string(c) + `"`
		blocks = append(blocks, `{"type":"text","text":"`+string(c)+`"}`)
	}
	for _, msg := range []string{"[" + strings.Join(items, ",") + "]", "[" + strings.Join(blocks, ",") + "]"} {
		out, r, err := m.Message([]byte(msg))
		if err != nil || strings.Count(string(out), "[masked: v0]") != len(v) || !r.Masked() {
			t.Errorf("%s %v", out, err)
		}
	}
}

func TestBlobsAreMaskedWhole(t *testing.T) {
	v := values[0]
	m := knowing(t, v)
	binary := "\x89PNG\r\n\x1a\n" + strings.Repeat("\x00\xff\x10%\\", 500)
	for _, inside := range []string{v, halfU(v), percentEscape(v, "", false, true)} {
		for shift := range 3 {
			blob := base64.StdEncoding.EncodeToString([]byte(binary + "abc"[:shift] + inside + binary))
			for _, shape := range []string{
				`{"content":[{"type":"image","data":"%s","mimeType":"image/png"}]}`,
				`{"contents":[{"uri":"a:b","blob":"%s"}]}`,
			} {
				out, _, err := m.Message([]byte(strings.Replace(shape, "%s", blob, 1)))
				want := strings.Replace(shape, "%s", "[masked: v0]", 1)
				if err != nil || string(out) != want {
					t.Fatalf("%v %.200s", err, out)
				}
			}
		}
	}
	clean := []byte(`{"data":"` + base64.StdEncoding.EncodeToString([]byte(binary)) + `"}`)
	if out, r, err := m.Message(clean); err != nil || r.Masked() || &out[0] != &clean[0] {
		t.Errorf("clean blob: %v %v", r, err)
	}
}

// A private key comes back re-indented, in part, or with other line ends.
func TestMultiLineValues(t *testing.T) {
	key := "-----BEGIN X-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END X-----\n"
	m := knowing(t, key)
	for _, text := range []string{
		key, strings.TrimSpace(key), strings.ReplaceAll(key, "\n", "\r\n"), strings.ReplaceAll(key, "\n", "\n    "),
		"MIIEvQIBADANBgkqhkiG9w0BAQEFAASC", base64.StdEncoding.EncodeToString([]byte(key)),
	} {
		if out, r := m.Text(text); !r.Masked() || strings.Contains(out, "MII") || strings.Contains(out, "BKcw") {
			t.Errorf("%q: %q", text, out)
		}
	}
}

// Characters at the edge of a base64 form hold bits of the value too.
func TestBase64EdgesAreMasked(t *testing.T) {
	m := knowing(t, "abcdef")
	for _, around := range []string{"abcdef!", "x abcdef", "xyabcdef", "xabcdef!"} {
		b64 := base64.StdEncoding.EncodeToString([]byte(around))
		if out, _ := m.Text("(" + b64 + ")"); out != "([masked: v0])" {
			t.Errorf("%s became %s", b64, out)
		}
	}
}

// Wrapped base64 glued to a word: no decoder could tell where it starts, but
// the forms at any alignment show once the breaks are out.
func TestWrappedAtAnyAlignment(t *testing.T) {
	v := values[0]
	m := knowing(t, v)
	for glue := range 4 {
		b64 := wrap(base64.StdEncoding.EncodeToString([]byte("some user:"+v+", and more text behind it")), 19, "\n")
		text := "wxyz"[:glue] + b64
		if out, r := m.Text(text); !r.Masked() || strings.Contains(out, b64[20:38]) {
			t.Errorf("%q became %q", text, out)
		}
	}
}

// Offsets of one layer of encoding mean nothing in another.
func TestLayersKeepTheirOffsets(t *testing.T) {
	v := values[0]
	out, _ := knowing(t, v).Text(v + " " + base64.StdEncoding.EncodeToString([]byte(halfU(v))))
	if out != "[masked: v0] [masked: v0]" {
		t.Error(out)
	}
}

// A long run of line breaks is looked through once, not again from every eighth.
func TestBreaksAreReadOnce(t *testing.T) {
	m := New(Options{})
	msg := []byte(`{"text":"` + strings.Repeat(`\n`, 4<<20) + `"}`)
	if out, r, err := m.Message(msg); err != nil || r.Masked() || len(out) != len(msg) {
		t.Error(err)
	}
}
