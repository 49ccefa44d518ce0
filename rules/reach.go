package rules

import (
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"net/url"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// TLS says whom an https server must prove to be, and who we are to it. Files
// are paths below a folder that the operator names: nothing here reads them.
type TLS struct {
	CA      []string // PEM texts of the CAs that are trusted for this server
	CAFiles []string // and files of them; with neither, the system's CAs are
	Cert    string   // file of our certificate chain; empty: we show none
	Key     string   // file of its private key
	Name    string   // that its certificate must bear; empty: the URL's host
}

// Timeouts bounds the phases of an exchange; zero is no bound of its own.
type Timeouts struct {
	Connect time.Duration // until a connection stands, through the proxy if there is one
	TLS     time.Duration // until the handshake is done
	Answer  time.Duration // from the whole request sent to the first byte of an answer
	Idle    time.Duration // between two parts of the stream that answers a request
}

// Resources bounds each process of a spawned server; zero is no bound.
type Resources struct {
	Memory    int64         // bytes of data and heap
	CPU       time.Duration // of the process's whole life
	Files     int           // open at once
	Processes int           // of the enforcer's user on this machine, threads counted
	FileSize  int64         // bytes of a file that it writes
}

// reach reads how a server is reached, and how long each phase may take.
func (d *document) reach(s *Server, f map[string]*yaml.Node) {
	secure := strings.HasPrefix(strings.ToLower(s.URL), "https:")
	if n := f["tls"]; n != nil {
		if s.URL != "" && !secure {
			d.report(n, "tls is for an https url, and this one is http")
		}
		s.TLS = d.tls(n)
	}
	if n := f["proxy"]; n != nil {
		s.Proxy = d.proxy(n)
	}
	n := f["timeouts"]
	if n == nil {
		return
	}
	t, ok := d.fields(n, "timeouts", "connect", "tls", "answer", "idle")
	if !ok {
		return
	}
	for _, phase := range []struct {
		name string
		into *time.Duration
		most time.Duration
	}{
		{"connect", &s.Timeouts.Connect, 5 * time.Minute},
		{"tls", &s.Timeouts.TLS, 5 * time.Minute},
		{"answer", &s.Timeouts.Answer, time.Hour},
		{"idle", &s.Timeouts.Idle, 24 * time.Hour},
	} {
		n := t[phase.name]
		if n == nil {
			continue
		}
		*phase.into = d.span(n, "timeouts."+phase.name, 100*time.Millisecond, phase.most)
		switch {
		case phase.name == "idle":
		case f["command"] != nil:
			d.report(n, "timeouts.%s is for servers behind a url; timeout is until an answer begins", phase.name)
		case phase.name == "tls" && s.URL != "" && !secure:
			d.report(n, "timeouts.tls is for an https url, and this one is http")
		case *phase.into > s.Timeout && s.Timeout > 0:
			d.report(n, "timeouts.%s is %v, and timeout, which holds for all until an answer begins, is %v: it would never be reached", phase.name, *phase.into, s.Timeout)
		}
	}
}

func (d *document) tls(n *yaml.Node) TLS {
	var t TLS
	f, ok := d.fields(n, "tls", "ca", "cert", "key", "name")
	if !ok {
		return t
	}
	if ca := f["ca"]; ca != nil {
		sources := []*yaml.Node{ca}
		if ca.Kind == yaml.SequenceNode {
			if sources = ca.Content; len(sources) == 0 {
				d.report(ca, "ca is an empty list")
			}
		}
		for _, n := range sources {
			switch v := d.text(n, "ca"); {
			case v == "":
			case strings.Contains(v, "-----BEGIN"):
				if d.certificates(n) {
					t.CA = append(t.CA, v)
				}
			default:
				t.CAFiles = append(t.CAFiles, d.below(n, "ca"))
			}
		}
	}
	if f["cert"] != nil {
		t.Cert = d.below(f["cert"], "cert")
	}
	if f["key"] != nil {
		t.Key = d.below(f["key"], "key")
	}
	switch {
	case f["cert"] != nil && f["key"] == nil:
		d.report(f["cert"], "cert needs key: the file of its private key")
	case f["key"] != nil && f["cert"] == nil:
		d.report(f["key"], "key needs cert: the file of its certificate")
	}
	t.Name = d.text(f["name"], "name")
	if strings.ContainsAny(t.Name, "/: \t\r\n") {
		d.report(f["name"], "name is the host name that the server's certificate bears, without scheme or port")
	}
	return t
}

// below reads the path of a file of the operator. A private key, or what
// might be one, is not quoted.
func (d *document) below(n *yaml.Node, what string) string {
	v := d.text(n, what)
	switch {
	case v == "":
	case strings.Contains(v, "-----BEGIN"), strings.ContainsAny(v, "\r\n"):
		d.report(n, "%s is the path of a file: a private key does not belong into a policy, and a certificate goes beside its key", what)
		return ""
	case !fs.ValidPath(v), v == ".", strings.ContainsAny(v, "\\\x00"):
		d.report(n, "%s must be a path below the operator's folder of certificates, such as crm/%s.pem: without / at the start and without ..", what, what)
		return ""
	}
	return v
}

// certificates checks PEM text to hold certificates and nothing else.
func (d *document) certificates(n *yaml.Node) bool {
	rest := []byte(n.Value)
	for left := strings.Count(n.Value, "-----BEGIN"); ; left-- {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		switch {
		case block == nil && left > 0: // one was passed over
			d.report(n, "ca holds PEM text that cannot be read")
			return false
		case block == nil:
			return true
		case strings.Contains(block.Type, "PRIVATE KEY"):
			d.report(n, "ca holds a private key, which does not belong into a policy: remove it, and take it for known to everybody who reads the repository")
			return false
		case block.Type != "CERTIFICATE":
			d.report(n, "ca holds PEM text that is no certificate")
			return false
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			d.report(n, "ca holds a certificate that cannot be read: %v", err)
			return false
		}
	}
}

func (d *document) proxy(n *yaml.Node) string {
	v := d.text(n, "proxy")
	if v == "" {
		return ""
	}
	u, err := url.Parse(v)
	switch {
	case err != nil || u.Scheme != "http" || u.Hostname() == "":
		d.report(n, "proxy must be an HTTP proxy, http://host:port; one that is spoken to over TLS or SOCKS is not supported")
	case u.User != nil:
		d.report(n, "proxy must not hold a user or a password: everybody who reads the policy would know them")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		d.report(n, "proxy has nothing behind the port: http://host:port")
	default:
		return v
	}
	return ""
}

// bounds reads what the processes of a spawned server may take.
func (d *document) bounds(s *Server, f map[string]*yaml.Node) {
	if f["command"] != nil {
		s.Processes = 32
	}
	if n := f["processes"]; n != nil {
		s.Processes = d.count(n, "processes", 1, 1000)
	}
	n := f["resources"]
	if n == nil {
		return
	}
	r, ok := d.fields(n, "resources", "memory", "cpu", "files", "processes", "filesize")
	if !ok {
		return
	}
	if len(r) == 0 {
		d.report(n, "resources is empty: memory, cpu, files, processes, filesize")
	}
	if n := r["memory"]; n != nil {
		s.Resources.Memory = d.size(n, "resources.memory", 1<<40)
		if s.Resources.Memory > 0 && s.Resources.Memory < 1<<20 {
			d.report(n, "resources.memory is %d bytes: no program starts with less than 1MB", s.Resources.Memory)
		}
	}
	if n := r["cpu"]; n != nil {
		s.Resources.CPU = d.span(n, "resources.cpu", time.Second, 30*24*time.Hour)
		if s.Resources.CPU%time.Second != 0 {
			d.report(n, "resources.cpu is in whole seconds")
		}
	}
	if n := r["files"]; n != nil {
		s.Resources.Files = d.count(n, "resources.files", 8, 1<<20)
	}
	if n := r["processes"]; n != nil {
		s.Resources.Processes = d.count(n, "resources.processes", 1, 1<<22)
	}
	if n := r["filesize"]; n != nil {
		s.Resources.FileSize = d.size(n, "resources.filesize", 1<<40)
	}
}
