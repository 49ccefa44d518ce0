package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// What sees the soak from outside: who knows each value that Vault gave out, the
// servers that show them, and the search for them.

// witness stands between countersign and Vault, and remembers what Vault gives
// out.
type witness struct {
	*httptest.Server
	minting sync.RWMutex // read while a user is made

	mu      sync.Mutex
	given   []string
	leases  map[string]string // passwords by lease
	handled []string          // passwords that this run of the enforcer has had: it revokes their leases
}

func newWitness(t *testing.T, address string) *witness {
	t.Helper()
	to, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	v := &witness{leases: map[string]string{}}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ModifyResponse = v.note
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) {
		panic(http.ErrAbortHandler) // as a dead Vault looks
	}
	v.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/creds/") {
			v.minting.RLock()
			defer v.minting.RUnlock()
			// Vault gives up on a request whose sender has died, and forgets a user
			// that PostgreSQL has just made for it: nobody has a lease of that one,
			// and its password ends by itself. That is Vault's; ours is the rest.
			// (A context that can end is one that the proxy does not add its own to.)
			ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
			defer cancel()
			r = r.WithContext(ctx)
		}
		if r.URL.Path == "/v1/sys/leases/revoke" {
			v.revoked(r)
		}
		proxy.ServeHTTP(w, r)
	}))
	v.Config.ErrorLog = nil
	t.Cleanup(func() { v.CloseClientConnections(); v.Close() })
	return v
}

// quiet waits until no user is being made, and lets none be made until release.
func (v *witness) quiet() (release func()) {
	v.minting.Lock()
	return v.minting.Unlock
}

// revoked takes note of a lease that the enforcer does not need any more.
func (v *witness) revoked(r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // whoever asked is dead
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var asked struct {
		Lease string `json:"lease_id"`
	}
	if json.Unmarshal(body, &asked) != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if password := v.leases[asked.Lease]; password != "" {
		v.handled = append(v.handled, password)
	}
}

// known are passwords that the enforcer must know; none right after forget.
func (v *witness) known() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.handled)
}

func (v *witness) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.handled = nil
}

// note keeps the secrets of an answer.
func (v *witness) note(resp *http.Response) error {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	var s struct {
		Lease string `json:"lease_id"`
		Data  struct{ Password string }
		Auth  struct {
			ClientToken string `json:"client_token"`
		}
	}
	if json.Unmarshal(body, &s) != nil {
		return nil // nothing that holds one
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.leases[s.Lease] = s.Data.Password
	for _, value := range []string{s.Data.Password, s.Auth.ClientToken} {
		if value != "" {
			v.given = append(v.given, value)
		}
	}
	return nil
}

// values are all that Vault gave out so far.
func (v *witness) values() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.given)
}

// users counts those that Vault made in PostgreSQL.
func (v *witness) users() (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, password := range v.leases {
		if password != "" {
			n++
		}
	}
	return n
}

// spellings is how many ways a server shows its password in.
const spellings = 9

// spell is one of them.
func spell(how int, user, password string) []string {
	switch how {
	case 1:
		return []string{url.QueryEscape(password), "postgres://" + user + ":" + password + "@db/app"}
	case 2:
		return []string{hex.EncodeToString([]byte(password)), strings.ToUpper(hex.EncodeToString([]byte("x" + password)))}
	case 3:
		return []string{base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}
	case 4:
		return []string{base64.RawURLEncoding.EncodeToString([]byte("ab" + password + "?"))}
	case 5:
		b, _ := json.Marshal(map[string]string{"password": password}) // strings only
		return []string{string(b)}
	case 6:
		var u, p strings.Builder
		for _, c := range []byte(password) {
			fmt.Fprintf(&u, `\u%04x`, c)
			fmt.Fprintf(&p, "%%%02x", c)
		}
		return []string{u.String(), p.String()}
	case 7:
		return []string{"it is " + password[:len(password)/2], password[len(password)/2:]}
	case 8:
		return []string{"'" + password + "'", password + password}
	}
	return []string{password}
}

// Our test binary is the web server, if it is told to be.
func init() {
	if listen := os.Getenv(asWebServer); listen != "" {
		fmt.Fprintln(os.Stderr, webServe(listen))
		os.Exit(1)
	}
}

// webServe is a server that shows the password that it was given: in results,
// errors, events.
func webServe(listen string) error {
	mux := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m struct {
			ID     json.RawMessage
			Method string
			Params struct{ Arguments struct{ What string } }
		}
		if json.NewDecoder(r.Body).Decode(&m) != nil || m.ID == nil {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		what := m.Params.Arguments.What
		if what == "die" {
			_, password, _ := r.BasicAuth()
			fmt.Fprint(w, `{"jsonrpc":"2.0","id":1,"result":{"x":"`+password)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler) // in the middle of an answer
		}
		var how int
		_, _ = fmt.Sscanf(what, "how %d", &how) // else the first
		user, password, _ := r.BasicAuth()
		var blocks []map[string]string
		for _, text := range spell(how, user, password) {
			blocks = append(blocks, map[string]string{"type": "text", "text": text})
		}
		result, _ := json.Marshal(map[string]any{"content": blocks, "structuredContent": map[string]any{password: blocks}, "resultType": "complete"})
		text := fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, m.ID, result)
		if m.Method == "server/discover" {
			text = fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}}`, m.ID)
		} else if how%4 == 3 {
			text = fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32000,"message":"failed","data":%s}}`, m.ID, result)
		}
		w.Header().Set("X-Password", password)
		if how%2 == 1 {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, ": %s\n\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":%s}}\n\ndata: %s\n\n", password, result, text)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, text)
	})
	srv := &http.Server{Addr: listen, Handler: mux, ReadHeaderTimeout: time.Minute}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	return srv.Serve(l)
}

// leakyShell is the spawned server. It speaks both eras as far as it must.
const leakyShell = `while read -r l; do
	id=${l#*'"id":'}; id=${id%%[,\}]*}
	case "$l" in
	*'"what":"die"'*) kill -9 $$;;
	*'"tools/call"'*)
		echo "stderr says $PGPASSWORD and $(printf %s "$PGUSER:$PGPASSWORD" | base64 -w0)" >&2
		printf '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"%s"}}\n' "$PGPASSWORD"
		printf '{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","content":[{"type":"text","text":"PGPASSWORD=%s"},{"type":"text","text":"%s"}]}}\n' \
			"$id" "$PGPASSWORD" "$(printf %s "$PGPASSWORD" | od -An -v -tx1 | tr -d ' \n')";;
	*'"server/discover"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}}\n' "$id";;
	*'"initialize"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"sh","version":"1"}}}\n' "$id";;
	*'"id"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{}}\n' "$id";;
	esac
done
`

// searcher finds values, and halves of them, in their spellings.
type searcher struct{ by map[string][]string } // by the first bytes

const searchKey = 8

func newSearcher(values []string) *searcher {
	s := &searcher{by: map[string][]string{}}
	for _, v := range values {
		for _, piece := range []string{v[:len(v)/2], v[len(v)/2:]} {
			h := hex.EncodeToString([]byte(piece))
			forms := []string{piece, h, strings.ToUpper(h)}
			for shift := range 3 { // the characters that hold nothing but the piece
				text := base64.RawStdEncoding.EncodeToString([]byte("\x00\x00"[:min(shift, 2)] + piece))
				text = text[(shift*8+5)/6 : (shift+len(piece))*8/6]
				forms = append(forms, text, strings.NewReplacer("+", "-", "/", "_").Replace(text))
			}
			for _, f := range forms {
				s.by[f[:searchKey]] = append(s.by[f[:searchKey]], f)
			}
		}
	}
	return s
}

var (
	escapedByte = regexp.MustCompile(`\\+u00[0-7][0-9a-fA-F]`)
	percentByte = regexp.MustCompile(`%[2-7][0-9a-fA-F]`)
)

// in says what of the values stands in a text, "" for nothing.
func (s *searcher) in(text []byte) string {
	unhexed := func(b []byte) []byte {
		out, _ := hex.DecodeString(string(b[len(b)-2:])) // the expressions see to it
		return out
	}
	plain := percentByte.ReplaceAllFunc(escapedByte.ReplaceAllFunc(text, unhexed), unhexed)
	for _, t := range [][]byte{text, plain} {
		for i := 0; i+searchKey <= len(t); i++ {
			for _, f := range s.by[string(t[i:i+searchKey])] {
				if bytes.HasPrefix(t[i:], []byte(f)) {
					return f
				}
			}
		}
	}
	return ""
}

// nothingIsSeen searches everywhere for what Vault gave out.
func (s *soak) nothingIsSeen() {
	t := s.t
	t.Helper()
	values := s.vault.values()
	search := newSearcher(values)
	for how := range spellings { // or it proves nothing
		if text := strings.Join(spell(how, "user", values[len(values)-1]), "\n"); search.in([]byte(text)) == "" {
			t.Fatalf("the search does not see %q", text)
		}
	}
	bytes := 0
	look := func(where string, text []byte) {
		bytes += len(text)
		if f := search.in(text); f != "" {
			t.Errorf("%s: %q stands there", where, f)
		}
	}
	answers, err := os.ReadFile(s.seen.Name())
	if err != nil {
		t.Fatal(err)
	}
	look("the answers", answers)
	for _, call := range s.stage.Slack.Calls() {
		look("a call of Slack's API", fmt.Appendf(nil, "%+v", call))
	}
	repositories := 0
	file := func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if _, err := os.Stat(filepath.Join(path, "objects")); err == nil {
				repositories++
				look("the objects of "+path, allObjects(t, path))
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		look(path, b)
		return err
	}
	for _, dir := range []string{s.stage.Dir, s.logs} {
		if err := filepath.WalkDir(dir, file); err != nil {
			t.Fatal(err)
		}
	}
	if repositories < 2 {
		t.Errorf("%d Git repositories were searched: this proves little", repositories)
	}
	t.Logf("searched %d MB for %d values", bytes>>20, len(values))
}

// allObjects are those of a repository, loose and packed, unpacked.
func allObjects(t *testing.T, dir string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", "--git-dir", dir, "cat-file", "--batch-all-objects", "--batch")
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	return out
}
