package rules

import (
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/net/http/httpguts"
)

// Server is an upstream: servers/<name>.yaml. It has either a URL or a
// Command.
type Server struct {
	Name          string
	URL           string
	Command       []string
	Env           map[string]string // the whole environment of Command, credentials apart
	Dir           string
	Credential    string // default for calls to this server; empty: none
	Credentials   map[string]Credential
	Timeout       time.Duration // until an answer begins
	Timeouts      Timeouts
	TLS           TLS
	Proxy         string // of a URL: http://host:port; empty: none
	Processes     int    // of Command, at most
	Resources     Resources
	SecretsInArgs SecretsInArgs // of calls whose rules do not say
	File          string
	Line          int
}

// Credential is what Vault mints, or an issuer exchanges, and where it is
// injected.
type Credential struct {
	Name string
	Secret
	Exchange *Exchange     // in the place of Secret; nil: Vault
	PerCall  bool          // minted for one call and revoked after it; else shared by a holder's calls
	TTL      time.Duration // cap on its life
	Inject   Inject
}

// Server returns the named upstream.
func (p *Policy) Server(name string) (Server, bool) {
	s, ok := p.servers[name]
	return s, ok
}

// Servers lists the upstreams by name.
func (p *Policy) Servers() []Server {
	out := make([]Server, 0, len(p.servers))
	for _, name := range slices.Sorted(maps.Keys(p.servers)) {
		out = append(out, p.servers[name])
	}
	return out
}

func (l *loader) server(d *document) {
	root := d.parse()
	if root == nil {
		return
	}
	f, ok := d.fields(root, "a server", "server", "url", "command", "env", "dir", "timeout", "timeouts",
		"tls", "proxy", "processes", "resources", "credential", "credentials", "secrets_in_args")
	if !ok {
		return
	}
	stem := strings.TrimSuffix(path.Base(d.file), ".yaml")
	s := Server{Name: stem, File: d.file, Line: root.Line, Timeout: 60 * time.Second}
	// Rules that name the server resolve even if something else in it is wrong:
	// one mistake, one problem.
	defer func() { l.policy.servers[stem] = s }()

	if n := f["server"]; n == nil {
		d.report(root, "server is missing: write `server: %s`", stem)
	} else if name := d.text(n, "server"); d.named(name, n.Line, n.Column, "server") && name != stem {
		d.report(n, "server is %q, but the file is called %s: they must agree", name, path.Base(d.file))
	}
	switch u, c := f["url"], f["command"]; {
	case u != nil && c != nil:
		d.report(c, "a server has either url or command, not both")
	case u != nil:
		s.URL = d.upstreamURL(u)
	case c != nil:
		for _, word := range d.list(c, "command") {
			s.Command = append(s.Command, d.text(word, "command"))
		}
		if len(s.Command) == 0 {
			d.report(c, "command is empty")
		}
	default:
		d.report(root, "a server needs url or command")
	}
	for _, name := range []string{"env", "dir", "processes", "resources"} {
		if n := f[name]; n != nil && f["command"] == nil {
			d.report(n, "%s is for servers started by command", name)
		}
	}
	for _, name := range []string{"tls", "proxy"} {
		if n := f[name]; n != nil && f["url"] == nil {
			d.report(n, "%s is for servers behind a url", name)
		}
	}
	s.Env = d.env(f["env"], "env")
	s.Dir = d.text(f["dir"], "dir")
	if n := f["timeout"]; n != nil {
		s.Timeout = d.span(n, "timeout", time.Second, time.Hour)
	}
	d.reach(&s, f)
	d.bounds(&s, f)
	if n := f["secrets_in_args"]; n != nil {
		if s.SecretsInArgs = d.secretsSetting(n); s.SecretsInArgs == SecretsApprove {
			d.report(n, "secrets_in_args: approve belongs into a rule, which says who is asked")
		}
	}
	if n := f["credentials"]; n != nil {
		s.Credentials = map[string]Credential{}
		for _, c := range d.mapping(n, "credentials") {
			d.named(c.key.Value, c.key.Line, c.key.Column, "credential")
			s.Credentials[c.key.Value] = d.credential(c, s)
		}
	}
	if n := f["credential"]; n != nil {
		s.Credential = d.text(n, "credential")
		if _, ok := s.Credentials[s.Credential]; !ok && s.Credential != "" {
			d.report(n, "credential %q is not among this server's credentials", s.Credential)
		} else if s.Credentials[s.Credential].UsesArgs() {
			d.report(n, "credential %q reads arguments of a call, and listing tools has none: name it in the rules of its tools instead", s.Credential)
		}
	}
}

func (d *document) upstreamURL(n *yaml.Node) string {
	s := d.text(n, "url")
	if s == "" {
		return ""
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		d.report(n, "url must be an http or https URL with a host")
	case u.User != nil:
		d.report(n, "url must not hold a user or a password: use a credential")
	case u.Fragment != "":
		d.report(n, "url must not have a fragment")
	default:
		return s
	}
	return ""
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (d *document) env(n *yaml.Node, what string) map[string]string {
	for _, f := range d.mapping(n, what) {
		if !envName.MatchString(f.key.Value) {
			d.report(f.key, "%q is not the name of an environment variable", f.key.Value)
		}
		if strings.ContainsRune(f.val.Value, 0) {
			d.report(f.val, "an environment variable cannot hold NUL")
		}
	}
	return d.textMap(n, what)
}

func (d *document) credential(at field, s Server) Credential {
	c := Credential{Name: at.key.Value}
	f, ok := d.fields(at.val, "credential "+c.Name, "vault", "method", "params", "fields", "public", "base64", "lease", "login",
		"exchange", "scope", "ttl", "inject")
	if !ok {
		return c
	}
	if n := f["exchange"]; n != nil {
		d.exchange(n, &c, f)
	} else {
		d.secret(&c, at.key, f)
	}
	if n := f["scope"]; n != nil {
		switch v := d.text(n, "scope"); v {
		case "call":
			c.PerCall = true
		case "holder", "":
		default:
			d.report(n, "scope %q is not known: call (one call, then revoked) or holder (shared by a holder's calls)", v)
		}
	}
	if n := f["ttl"]; n == nil {
		d.report(at.key, "credential %s needs ttl: the cap on its life, should nothing else end it", c.Name)
	} else {
		c.TTL = d.span(n, "ttl", time.Second, 24*time.Hour)
	}
	n := f["inject"]
	if n == nil {
		d.report(at.key, "credential %s needs inject: where it goes", c.Name)
		return c
	}
	c.Inject = d.inject(n, s)
	return c
}

// header refuses headers that belong to the transport: a credential in one of
// them would be dropped, or would speak for somebody else.
func (d *document) header(n *yaml.Node) {
	h := strings.ToLower(n.Value)
	switch {
	case !httpguts.ValidHeaderFieldName(n.Value):
		d.report(n, "%q is not the name of a header", n.Value)
	case strings.HasPrefix(h, "mcp-"), strings.HasPrefix(h, "content-"), strings.HasPrefix(h, "sec-"),
		slices.Contains([]string{"host", "connection", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive",
			"accept", "accept-encoding", "last-event-id", "origin", "proxy-connection"}, h):
		d.report(n, "header %s belongs to the transport: a credential cannot go there", n.Value)
	}
}

// ident is a field of the secret, or a dotted way into one.
const ident = `[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*`

var template = regexp.MustCompile(`^(?:` + ident + `(?:\|(?:url|json))?|basic\s+` + ident + `\s+` + ident + `)$`)

// checkTemplate counts the fields that a template uses, or says what is wrong
// with it. Its form is documented at Inject.
func checkTemplate(s string) (fields int, problem string) {
	for {
		before, rest, found := strings.Cut(s, "{{")
		if strings.Contains(before, "}}") {
			return fields, "}} without {{"
		}
		if !found {
			return fields, ""
		}
		inner, after, found := strings.Cut(rest, "}}")
		if !found {
			return fields, "{{ without }}"
		}
		if !template.MatchString(strings.TrimSpace(inner)) {
			return fields, "{{" + inner + "}} is not known: {{field}}, {{field|url}}, {{field|json}} or {{basic field field}}"
		}
		fields++
		s = after
	}
}
