package rules

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"
)

// certificate is one of a CA, as PEM text.
func certificate(t *testing.T) string {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<31, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// block is text as a YAML block at an indentation.
func block(text string) string {
	return "|\n    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
}

func TestServerReach(t *testing.T) {
	ca := certificate(t)
	p := load(t, base(), "countersign.yaml", "version: 1\nlimits: { processes: 12 }\n", "servers/s.yaml", `server: s
url: https://s.internal/mcp
proxy: http://proxy.internal:3128
timeout: 20s
timeouts: { connect: 1500ms, tls: 2s, answer: 10s, idle: 5m }
tls:
  ca: [crm/ca.pem, "`+strings.ReplaceAll(ca, "\n", `\n`)+`"]
  cert: crm/client.pem
  key: crm/client.key
  name: crm.internal
`, "servers/c.yaml", `server: c
command: [c]
processes: 4
timeouts: { idle: 1m }
resources: { memory: 512MB, cpu: 10m, files: 64, processes: 200, filesize: 10MB }
`)
	s, _ := p.Server("s")
	want := Server{
		Name: "s", URL: "https://s.internal/mcp", Proxy: "http://proxy.internal:3128", Timeout: 20 * time.Second,
		Timeouts: Timeouts{1500 * time.Millisecond, 2 * time.Second, 10 * time.Second, 5 * time.Minute},
		TLS:      TLS{[]string{ca}, []string{"crm/ca.pem"}, "crm/client.pem", "crm/client.key", "crm.internal"},
		File:     "servers/s.yaml", Line: 1,
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
	c, _ := p.Server("c")
	want = Server{
		Name: "c", Command: []string{"c"}, Timeout: time.Minute, Timeouts: Timeouts{Idle: time.Minute}, Processes: 4,
		Resources: Resources{512 << 20, 10 * time.Minute, 64, 200, 10 << 20}, File: "servers/c.yaml", Line: 1,
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	if n := p.Settings().MaxProcesses; n != 12 {
		t.Errorf("%d processes of all servers", n)
	}
}

func TestServerReachProblems(t *testing.T) {
	https := func(body string) string { return "server: s\nurl: https://127.0.0.1/mcp\n" + body }
	spawned := func(body string) string { return "server: s\ncommand: [x]\n" + body }
	good := certificate(t)
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("hunter2")}))
	noCert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("hunter2")}))
	for _, c := range []struct{ name, text, want string }{
		{"tls of http", "server: s\nurl: http://x/\ntls: { name: x }\n", "servers/s.yaml:3:6: tls is for an https url"},
		{"tls of command", spawned("tls: { name: x }\n"), "servers/s.yaml:3:6: tls is for servers behind a url"},
		{"tls field", https("tls: { insecure: true }\n"), `servers/s.yaml:3:8: unknown field "insecure" in tls`},
		{"tls kind", https("tls: true\n"), "tls must be a mapping"},
		{"cert alone", https("tls: { cert: a.pem }\n"), "servers/s.yaml:3:14: cert needs key"},
		{"key alone", https("tls: { key: a.pem }\n"), "servers/s.yaml:3:13: key needs cert"},
		{"key inline", https("tls:\n  cert: a.pem\n  key: " + block(key)), "servers/s.yaml:5:8: key is the path of a file: a private key does not belong"},
		{"absolute", https("tls: { ca: /etc/ssl/ca.pem }\n"), "servers/s.yaml:3:12: ca must be a path below the operator's folder"},
		{"out of the folder", https("tls: { ca: a/../../x }\n"), "without .."},
		{"the folder", https("tls: { ca: . }\n"), "must be a path below"},
		{"no ca", https("tls: { ca: [] }\n"), "ca is an empty list"},
		{"ca kind", https("tls: { ca: [1] }\n"), "servers/s.yaml:3:13: ca must be a text, not a number"},
		{"a key as ca", https("tls:\n  ca: " + block(good+key)), "servers/s.yaml:4:7: ca holds a private key"},
		{"no certificate", https("tls:\n  ca: " + block(noCert)), "ca holds a certificate that cannot be read"},
		{"another block", https("tls:\n  ca: " + block(strings.ReplaceAll(good, "CERTIFICATE", "X509 CRL"))), "ca holds PEM text that is no certificate"},
		{"a broken block", https("tls:\n  ca: " + block("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"+good)), "ca holds PEM text that cannot be read"},
		{"name", https("tls: { name: \"https://x\" }\n"), "servers/s.yaml:3:14: name is the host name"},

		{"proxy of command", spawned("proxy: http://p:1\n"), "servers/s.yaml:3:8: proxy is for servers behind a url"},
		{"proxy scheme", https("proxy: socks5://p:1\n"), "servers/s.yaml:3:8: proxy must be an HTTP proxy"},
		{"proxy over TLS", https("proxy: https://p:1\n"), "spoken to over TLS"},
		{"proxy without host", https("proxy: \"http://:3128\"\n"), "must be an HTTP proxy"},
		{"proxy password", https("proxy: http://u:hunter2@p:1\n"), "servers/s.yaml:3:8: proxy must not hold a user or a password"},
		{"proxy path", https("proxy: http://p:1/x\n"), "nothing behind the port"},

		{"timeouts kind", https("timeouts: 5s\n"), "servers/s.yaml:3:11: timeouts must be a mapping"},
		{"timeouts field", https("timeouts: { read: 5s }\n"), `unknown field "read" in timeouts`},
		{"connect", https("timeouts: { connect: 1ms }\n"), "servers/s.yaml:3:22: timeouts.connect is 1ms: it must lie between"},
		{"connect of command", spawned("timeouts: { connect: 1s }\n"), "timeouts.connect is for servers behind a url"},
		{"answer of command", spawned("timeouts: { answer: 1s }\n"), "timeouts.answer is for servers behind a url"},
		{"tls of http url", "server: s\nurl: http://x/\ntimeouts: { tls: 1s }\n", "timeouts.tls is for an https url"},
		{"never reached", https("timeout: 5s\ntimeouts: { answer: 6s }\n"), "servers/s.yaml:4:21: timeouts.answer is 6s, and timeout"},

		{"processes of url", https("processes: 1\n"), "servers/s.yaml:3:12: processes is for servers started by command"},
		{"no processes", spawned("processes: 0\n"), "servers/s.yaml:3:12: processes is 0: it must lie between 1 and 1000"},
		{"processes kind", spawned("processes: \"1\"\n"), "processes must be a whole number, not a text"},
		{"resources of url", https("resources: { files: 64 }\n"), "resources is for servers started by command"},
		{"no resources", spawned("resources: {}\n"), "resources is empty"},
		{"resources field", spawned("resources: { disk: 1GB }\n"), `unknown field "disk" in resources`},
		{"memory", spawned("resources: { memory: 2TB }\n"), "servers/s.yaml:3:22: resources.memory must be a size"},
		{"little memory", spawned("resources: { memory: 4KB }\n"), "no program starts"},
		{"cpu", spawned("resources: { cpu: 1500ms }\n"), "whole seconds"},
		{"files", spawned("resources: { files: 3 }\n"), "it must lie between 8"},
		{"resources.processes", spawned("resources: { processes: -1 }\n"), "it must lie between 1"},
		{"filesize", spawned("resources: { filesize: 0 }\n"), "resources.filesize must be a size"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := try(base(), "servers/s.yaml", c.text)
			var problems Problems
			if !errors.As(err, &problems) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("problems:\n%v\nwant one that says %q", err, c.want)
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "aHVudGVyM") {
				t.Errorf("a secret is in the error:\n%v", err)
			}
		})
	}
	if _, err := try(base(), "countersign.yaml", "version: 1\nlimits: { processes: 0 }\n"); err == nil || !strings.Contains(fmt.Sprint(err), "countersign.yaml:2:22: limits.processes is 0") {
		t.Errorf("limits.processes: %v", err)
	}
}
