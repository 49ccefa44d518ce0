package enforcer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"countersign/audit"
	"countersign/enforcer/mask"
	"countersign/enforcer/upstream"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// A change of any field by which a server is reached, or run, makes another
// upstream of it. A field that is new in rules is found here.
func TestSameUpstream(t *testing.T) {
	beside := []string{"Credential", "Credentials", "SecretsInArgs", "File", "Line"}
	var leaves func(v reflect.Value, path string, change func(path string, v reflect.Value))
	leaves = func(v reflect.Value, path string, change func(string, reflect.Value)) {
		if v.Kind() != reflect.Struct {
			change(path, v)
			return
		}
		for i := range v.NumField() {
			leaves(v.Field(i), path+"."+v.Type().Field(i).Name, change)
		}
	}
	fields := 0
	var server rules.Server
	leaves(reflect.ValueOf(&server).Elem(), "", func(path string, v reflect.Value) {
		before := reflect.ValueOf(&server).Elem().Interface().(rules.Server)
		fields++
		switch v.Kind() {
		case reflect.String:
			v.SetString("x")
		case reflect.Int, reflect.Int64:
			v.SetInt(7)
		case reflect.Slice:
			v.Set(reflect.ValueOf([]string{"x"}))
		case reflect.Map:
			m := reflect.MakeMap(v.Type())
			m.SetMapIndex(reflect.ValueOf("x"), reflect.Zero(v.Type().Elem()))
			v.Set(m)
		default:
			t.Fatalf("%s: a %s is not known here", path, v.Kind())
		}
		if same := sameUpstream(before, server); same != slices.Contains(beside, strings.TrimPrefix(path, ".")) {
			t.Errorf("%s changed: the upstream is kept: %v", path, same)
		}
		if !sameUpstream(server, server) {
			t.Errorf("%s: differs from itself", path)
		}
	})
	if fields < 20 {
		t.Errorf("only %d fields", fields)
	}
}

// holding is an enforcer without callers: what is looked at is its upstreams.
func holding(t *testing.T, log io.Writer, certificates string) *Enforcer {
	t.Helper()
	journal, err := audit.Open(audit.Config{Dir: t.TempDir(), Enforcer: "test", Incarnation: "r1"})
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(Config{
		PublicURL: "http://gate.example", Journal: journal, Mask: mask.New(mask.Options{}), DigestKey: make([]byte, 32), Certificates: certificates,
		Now: time.Now, ID: func() string { return "c_1" }, Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(e.Shutdown(t.Context()), journal.Close()); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return e
}

func policyOf(t *testing.T, servers map[string]string) *rules.Policy {
	t.Helper()
	files := fstest.MapFS{"countersign.yaml": {Data: []byte("version: 1\n")}}
	for name, text := range servers {
		files["servers/"+name+".yaml"] = &fstest.MapFile{Data: []byte("server: " + name + "\n" + text)}
	}
	p, err := rules.Load(files, "test")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const anyCall = `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`

// send makes one exchange with a server of the policy in force.
func send(ctx context.Context, e *Enforcer, server string) error {
	m, err := wire.Parse([]byte(anyCall), wire.Limits{})
	if err != nil {
		return err
	}
	reply, err := e.force.Load().upstreams[server].Send(ctx, &upstream.Request{Verb: http.MethodPost, Body: []byte(anyCall), Message: m, Holder: "alice"})
	if err != nil {
		return err
	}
	return reply.Close()
}

func live(t *testing.T) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if _, err := io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{}}`); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(srv.Close)
	return srv
}

// Sixty servers: installing them dials nothing. With a call to each of the
// dead and slow ones under way, a call to the one that lives is as fast as
// ever, and so is the next policy.
func TestSixtyUpstreams(t *testing.T) {
	var dialled atomic.Int64
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := silent.Close(); err != nil {
			t.Error(err)
		}
	})
	arrived := make(chan struct{}, 60)
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return // closed
			}
			dialled.Add(1)
			arrived <- struct{}{}
			t.Cleanup(func() { _ = c.Close() }) // it may be gone already
		}
	}()
	servers := map[string]string{"live": "url: " + live(t).URL + "\n"}
	slow := 0
	for i := range 59 {
		text := fmt.Sprintf("url: http://%s\n", silent.Addr())
		switch i % 4 {
		case 1:
			text = fmt.Sprintf("url: https://%s\n", silent.Addr())
		case 2:
			text = "command: [sleep, \"600\"]\n" // never answers
		case 3:
			text = "url: http://127.0.0.1:1\n" // refuses
		}
		if i%4 < 2 {
			slow++
		}
		servers[fmt.Sprintf("dead-%d", i)] = text
	}
	var log bytes.Buffer
	e := holding(t, &log, "")
	e.Install(policyOf(t, servers), time.Now())
	if n := dialled.Load(); n != 0 || log.Len() > 0 {
		t.Errorf("installing dialled %d times, and logged %s", n, log.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for name := range servers {
		if name != "live" {
			calls.Go(func() {
				if err := send(ctx, e, name); err == nil {
					t.Errorf("%s answered", name)
				}
			})
		}
	}
	for range slow {
		comes(t, arrived, "the calls at the servers that hang")
	}
	const bound = 30 * time.Second // a call takes milliseconds; the dead ones hang for a minute
	quick, done := context.WithTimeout(t.Context(), bound)
	defer done()
	for range 20 {
		if err := send(quick, e, "live"); err != nil {
			t.Fatalf("the one that lives: %v", err)
		}
	}
	began := time.Now()
	servers["one-more"] = "url: http://127.0.0.1:1\n"
	e.Install(policyOf(t, servers), time.Now())
	if err := send(quick, e, "live"); err != nil || time.Since(began) > bound {
		t.Errorf("after another policy: %v, %s", err, time.Since(began))
	}
	cancel()
	calls.Wait()
}

// A server whose files the operator does not have is refused, with a reason,
// and in the log; the others go on.
func TestUpstreamWithoutItsFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/ca.pem", []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	servers := map[string]string{
		"live":    "url: " + live(t).URL + "\n",
		"missing": "url: https://127.0.0.1:1\ntls: { cert: a.pem, key: b.pem }\n",
		"broken":  "url: https://127.0.0.1:1\ntls: { ca: ca.pem }\n",
	}
	says := map[string]string{
		"missing": "the file a.pem, named under tls in the policy, cannot be read: no such file",
		"broken":  "the file ca.pem, named under tls.ca in the policy, holds no certificate",
	}
	var log bytes.Buffer
	e := holding(t, &log, dir)
	e.Install(policyOf(t, servers), time.Now())
	for _, name := range slices.Sorted(maps.Keys(says)) {
		err := send(t.Context(), e, name)
		if !errors.Is(err, upstream.ErrNotSent) || !strings.Contains(fmt.Sprint(err), says[name]) {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(log.String(), "server="+name+" policy=servers/"+name+".yaml:1 err=\""+says[name]) {
			t.Errorf("%s is not in the log:\n%s", name, log.String())
		}
	}
	if err := send(t.Context(), e, "live"); err != nil {
		t.Errorf("the one without: %v", err)
	}
}
