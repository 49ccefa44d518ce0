package mask

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	blocks "encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// longValues are secrets of many lines and of many bytes.
func longValues() map[string]string {
	r := rand.New(rand.NewPCG(4, 4))
	der := make([]byte, 1190) // of an RSA key with 2048 bits
	for i := range der {
		der[i] = byte(r.Uint32())
	}
	key := string(blocks.EncodeToMemory(&blocks.Block{Type: "PRIVATE " + "KEY", Bytes: der}))
	account, _ := json.Marshal(map[string]string{"type": "service_account", "private_key_id": sampleOf(r, alnum, 40), "private_key": key})
	return map[string]string{
		"key":               key,
		"key, CRLF":         strings.ReplaceAll(key, "\n", "\r\n"),
		`key with \n`:       strings.ReplaceAll(key, "\n", `\n`),
		"key in base64":     base64.StdEncoding.EncodeToString([]byte(key)),
		"account file":      string(account),
		"account in base64": base64.StdEncoding.EncodeToString(account),
		"8 kB token":        sampleOf(r, b64url, 700) + "." + sampleOf(r, b64url, 7000) + "." + sampleOf(r, b64url, 342),
		"8 kB of quotes":    strings.Repeat(`p"a'ss\w/o r<d>&+=%$@:`+"`!é€😀", 200) + sampleOf(r, alnum, 2000),
		"many lines":        strings.Repeat("password = \"h'unter\\2\" # é\n", 100) + "token: " + sampleOf(r, alnum, 40),
		"longest":           sampleOf(r, alnum, 100) + strings.Repeat("\"'\\\n€<&%", maxValue/12) + sampleOf(r, alnum, 900),
	}
}

// ofKey is what of a PEM block must never be seen, though only the lines of it
// came, or the bytes of it in another dress.
func ofKey(key string) map[string]string {
	block, _ := blocks.Decode([]byte(key))
	lines := strings.Split(strings.TrimSpace(key), "\n")
	body := strings.Join(lines[1:len(lines)-1], "")
	return map[string]string{
		"whole": key, "trimmed": strings.TrimSpace(key), "CRLF": strings.ReplaceAll(key, "\n", "\r\n"), `\n`: strings.ReplaceAll(key, "\n", `\n`),
		"indented": strings.ReplaceAll(key, "\n", "\n    "), "quoted lines": "'" + strings.Join(lines, "' +\n'") + "'",
		"a line": lines[3], "last line": "the end is " + lines[len(lines)-2], "body": body, "body in a URL": "https://h/?k=" + url.QueryEscape(body),
		"rewrapped": wrap(body, 40, "\n"), "hex": hex.EncodeToString(block.Bytes), "twice": base64.StdEncoding.EncodeToString([]byte(key)),
		"inside of more":   base64.StdEncoding.EncodeToString(append([]byte("ab"), append(block.Bytes, "more"...)...)),
		"as a JSON string": jsonOf(key), "as a string of a string": jsonOf(jsonOf(key)),
	}
}

func TestPartsOfPrivateKeysAreMasked(t *testing.T) {
	long := longValues()
	for _, name := range []string{"key", "key, CRLF", `key with \n`, "key in base64", "account file", "account in base64"} {
		m := New(Options{Disable: Detectors()}) // the detector of key blocks would help
		if _, err := m.Add("key", long[name]); err != nil {
			t.Fatal(err)
		}
		for how, text := range ofKey(long["key"]) {
			spelled, _ := json.Marshal(text)
			out, _, err := m.Message(fmt.Appendf(nil, `{"result":{"content":[{"type":"text","text":%s}]}}`, spelled))
			if left := leftOf(long["key"], string(out)); err != nil || left != "" {
				t.Errorf("%s known, %s sent: %v, %q remains in %.300s", name, how, err, left, out)
			}
			if plain, _ := m.Text(text); leftOf(long["key"], plain) != "" {
				t.Errorf("%s known, %s as plain text: %.300s", name, how, plain)
			}
		}
		for _, fine := range []string{"-----BEGIN PUBLIC KEY-----", "service_account", `"type": "service_account"`} {
			if out, _ := m.Text(fine); out != fine {
				t.Errorf("%s known: %q became %q", name, fine, out)
			}
		}
	}
}

// leftOf finds a piece of the key's text in what came out.
func leftOf(key, out string) string {
	block, _ := blocks.Decode([]byte(key))
	for _, spelled := range []string{base64.StdEncoding.EncodeToString(block.Bytes), hex.EncodeToString(block.Bytes), base64.StdEncoding.EncodeToString([]byte(key))} {
		for i := 0; i+12 <= len(spelled); i++ {
			if strings.Contains(out, spelled[i:i+12]) {
				return spelled[i : i+12]
			}
		}
	}
	return ""
}

// Every spelling of a long value, where tools put long values. What encoding
// finds is asked of the value's own middle: half a mask is none.
func TestLongValuesInEveryForm(t *testing.T) {
	for name, v := range longValues() {
		if name == "longest" {
			continue
		}
		m := knowing(t, v)
		probe := strings.TrimSpace(v)
		probe = probe[len(probe)-24 : len(probe)-4]
		for how, encode := range encoders {
			form := encode(strings.TrimSpace(v))
			for _, where := range []string{"text", "data"} {
				msg := strings.Replace(positions[where], "%s", `"`+jsonOf("it is "+form+" .")+`"`, 1)
				out, r, err := m.Message([]byte(msg))
				if err != nil || !r.Masked() || !json.Valid(out) || strings.Contains(string(out), jsonOf(form)) || strings.Contains(string(out), encode(probe)) {
					t.Errorf("%s as %s in %s: %v %v %.300s", name, how, where, err, r, out)
				}
			}
		}
	}
}

// What one secret may take: a multiple of its size that no value exceeds.
func TestFormsOfASecretAreBounded(t *testing.T) {
	for name, v := range longValues() {
		size := 0
		for _, f := range wireForms(v) {
			size += len(f.text)
		}
		if limit := maxForms + 200*len(v); size > limit {
			t.Errorf("%s: %d bytes make forms of %d, more than %d", name, len(v), size, limit)
		}
		t.Logf("%-18s %6d bytes: %4d forms of %7d bytes", name, len(v), len(wireForms(v)), size)
	}
}

// Values come and go while messages are masked: a live one never shows, and
// nobody waits for the index to be built.
func TestValuesComeAndGoUnderLoad(t *testing.T) {
	m := knowing(t, "always-here-Xy7")
	var live sync.Map // value to id
	var stop atomic.Bool
	var readers, writers sync.WaitGroup
	for w := range 3 {
		writers.Go(func() {
			for i := range 120 {
				v := fmt.Sprintf("come-and-go-%d-%d-%x", w, i, 7919*(i+1))
				id, err := m.Add("l", v)
				if err != nil {
					t.Error(err)
				}
				live.Store(v, id)
				if i%2 == 0 {
					live.Delete(v)
					m.Retire(id)
				}
			}
		})
	}
	for range 2 {
		readers.Go(func() {
			for !stop.Load() {
				live.Range(func(k, _ any) bool {
					v := k.(string)
					out, _, err := m.Message([]byte(`{"a":"` + v + `","b":"always-here-Xy7"}`))
					if err != nil || strings.Contains(string(out), v) || strings.Contains(string(out), "always") {
						t.Errorf("%v %s", err, out)
					}
					return !stop.Load()
				})
				runtime.Gosched()
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	readers.Wait()
}

// Masking does not wait for whoever builds an index.
func TestMaskingDoesNotWaitForAnIndex(t *testing.T) {
	m := knowing(t, "s3cret-pa55word")
	m.build.Lock() // as long as somebody builds
	m.mu.Lock()
	out, _, err := m.Message([]byte(`["s3cret-pa55word"]`))
	m.mu.Unlock()
	m.build.Unlock()
	if err != nil || string(out) != `["[masked: v0]"]` {
		t.Errorf("%s %v", out, err)
	}
}

func TestTooShortSaysWhy(t *testing.T) {
	_, err := New(Options{}).Add("pin", "12345")
	if !errors.Is(err, ErrTooShort) || !strings.Contains(err.Error(), "6 bytes") {
		t.Error(err)
	}
}

// BenchmarkMemory is what known values take, all forms and the index together.
func BenchmarkMemory(b *testing.B) {
	r := rand.New(rand.NewPCG(9, 10))
	long := longValues()
	for name, n := range map[string]int{"password": 10_000, "password with signs": 10_000, "key": 100, "8 kB token": 100, "8 kB of quotes": 10, "longest": 10} {
		b.Run(fmt.Sprint(n, " of ", name), func(b *testing.B) {
			for b.Loop() {
				before := heap()
				m := New(Options{})
				for i := range n {
					v := long[name]
					switch name {
					case "password":
						v = sampleOf(r, b64url, 24)
					case "password with signs":
						v = sampleOf(r, b64url, 16) + `"'\/<&é` + sampleOf(r, b64url, 4)
					default:
						v += sampleOf(r, b64url, 20)
					}
					if _, err := m.Add(fmt.Sprint("v", i), v); err != nil {
						b.Fatal(err)
					}
				}
				took := heap() - before
				b.ReportMetric(float64(took)/float64(n), "B/value")
				b.ReportMetric(float64(took)/1e6, "MB")
				runtime.KeepAlive(m)
			}
		})
	}
}

func heap() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// BenchmarkKnown is a whole message with known values alone: read, decoded at
// every layer, masked, verified.
func BenchmarkKnown(b *testing.B) {
	for _, n := range []int{1, 300, 10_000} {
		m := crowd(b, n)
		m.Configure(Detectors(), nil)
		b.Run(fmt.Sprint("1 MB, ", n, " values"), func(b *testing.B) { message(b, m, corpus(1<<20)) })
	}
}

// FuzzAdd: whatever a secret looks like, it can be added within its bound, or
// is refused; and it is masked as it is.
func FuzzAdd(f *testing.F) {
	for _, v := range []string{"abcdef", "-----BEGIN A-----\n\nQUJD\nx: y\n-----END A-----", `-----BEGIN B-----\nQUJDREVG\/+==\n-----END `, "LS0tLS1CRUdJTiBYLS0tLS0KQUJDRAotLS0tLUVORCBYLS0tLS0=", "\xff\xfe\x00\x01ab", "a\r\n\r\n b c"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		m := New(Options{})
		if _, err := m.Add("l", v); err != nil {
			return
		}
		size := 0
		for _, f := range wireForms(v) {
			size += len(f.text)
		}
		if limit := maxForms + 200*len(v); size > limit {
			t.Errorf("%d bytes make forms of %d, more than %d", len(v), size, limit)
		}
		if out, _ := m.Text("(" + v + ")"); strings.Contains(out, strings.TrimSpace(v)) && !strings.Contains("[masked: secret]", strings.TrimSpace(v)) {
			t.Errorf("%q passes: %q", v, out)
		}
	})
}
