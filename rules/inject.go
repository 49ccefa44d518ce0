package rules

import (
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Inject says where a minted credential goes. The values are templates:
// {{field}}, {{field|url}}, {{field|json}} and {{basic field field}}, the
// fields being those of the secret that is minted.
type Inject struct {
	Headers map[string]string // of requests to a URL
	Query   map[string]string // parameters of that URL; their values are encoded after they are filled in
	Cert    ClientCert        // shown to an https URL
	Env     map[string]string // of a spawned Command
	Files   map[string]string // content of private files of a Command, by the environment variable that holds the path
	Args    map[string]Arg    // of tools/call
}

// ClientCert is a certificate chain and its private key, both PEM; the zero
// value is none.
type ClientCert struct{ Cert, Key string }

// Arg is what an argument of a call becomes. With Words the agent says which,
// and anything else that it says is refused; else it is Value, whatever the
// agent says.
type Arg struct {
	Value string
	Words map[string]string
}

var injectParts = []string{"headers", "query", "client_cert", "env", "files", "args"}

// inject reads where a credential of server s goes.
func (d *document) inject(n *yaml.Node, s Server) (in Inject) {
	f, ok := d.fields(n, "inject", injectParts...)
	if !ok {
		return in
	}
	for _, part := range []string{"headers", "query", "client_cert"} {
		if at := f[part]; at != nil && len(s.Command) > 0 {
			d.report(at, "a server started by command has no %s: inject into env, files or args", part)
		}
	}
	for part, has := range map[string]string{"env": "environment", "files": "files of ours"} {
		if at := f[part]; at != nil && s.URL != "" {
			d.report(at, "a server behind a url has no %s: inject into headers, query, client_cert or args", has)
		}
	}
	in.Headers, in.Query = d.textMap(f["headers"], "headers"), d.textMap(f["query"], "query")
	in.Env, in.Files = d.env(f["env"], "env"), d.env(f["files"], "files")
	d.alike(f["headers"], "headers", "header")
	d.alike(f["args"], "args", "argument")
	for _, h := range d.mapping(f["headers"], "headers") {
		d.header(h.key)
		if strings.ContainsAny(h.val.Value, "\r\n\x00") {
			d.report(h.val, "%s: a header is one line of text", h.key.Value)
		}
	}
	d.parameters(f["query"], s)
	for _, file := range d.mapping(f["files"], "files") {
		if _, twice := in.Env[file.key.Value]; twice {
			d.report(file.key, "%s is under env, too: it cannot be both a value and the path of a file", file.key.Value)
		}
	}
	fields := 0
	for _, part := range []string{"headers", "query", "env", "files"} {
		for _, t := range d.mapping(f[part], part) {
			fields += d.template(t.key.Value, t.val)
		}
	}
	fields += d.clientCert(f["client_cert"], s, &in.Cert) + d.injectedArgs(f["args"], &in)
	if fields == 0 {
		d.report(n, "inject names no field of the credential: write {{field}} somewhere")
	}
	return in
}

// alike refuses names that differ only in case: which of the two counts would be
// chance, or the server's guess.
func (d *document) alike(n *yaml.Node, part, what string) {
	if n == nil || n.Kind != yaml.MappingNode {
		return // reported where it is read
	}
	var names []string
	for _, f := range d.mapping(n, part) {
		if i := slices.IndexFunc(names, func(had string) bool { return strings.EqualFold(had, f.key.Value) }); i >= 0 {
			d.report(f.key, "%s %s is there as %s, too", what, f.key.Value, names[i])
		}
		names = append(names, f.key.Value)
	}
}

// template counts the fields that a template uses. A mistake counts, too: one
// mistake, one problem.
func (d *document) template(name string, n *yaml.Node) int {
	fields, problem := checkTemplate(n.Value)
	if problem != "" {
		fields++
		d.report(n, "%s: %s", name, problem)
	}
	return fields
}

// parameters refuses those that the server's own URL has: which of the two
// counts would be the server's guess.
func (d *document) parameters(n *yaml.Node, s Server) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return // reported where it stands
	}
	own := u.Query()
	for _, p := range d.mapping(n, "query") {
		switch {
		case p.key.Value == "":
			d.report(p.key, "a query parameter needs a name")
		case own.Has(p.key.Value):
			d.report(p.key, "the server's url has a query parameter %q already", p.key.Value)
		}
	}
}

func (d *document) clientCert(n *yaml.Node, s Server, c *ClientCert) (fields int) {
	if n == nil {
		return 0
	}
	f, ok := d.fields(n, "client_cert", "cert", "key")
	if !ok {
		return 1
	}
	if s.URL != "" && !strings.HasPrefix(strings.ToLower(s.URL), "https:") {
		d.report(n, "client_cert is for an https url")
	}
	for part, to := range map[string]*string{"cert": &c.Cert, "key": &c.Key} {
		at := f[part]
		if at == nil {
			continue
		}
		*to = d.text(at, "client_cert."+part)
		fields += d.template("client_cert."+part, at)
	}
	if c.Cert == "" || c.Key == "" {
		d.report(n, "client_cert needs cert and key, both templates of PEM, such as \"{{certificate}}\" and \"{{private_key}}\"")
		return max(fields, 1)
	}
	return fields
}

func (d *document) injectedArgs(n *yaml.Node, in *Inject) (fields int) {
	for _, a := range d.mapping(n, "args") {
		name := a.key.Value
		if in.Args == nil {
			in.Args = map[string]Arg{}
		}
		if a.val.Kind != yaml.MappingNode {
			in.Args[name] = Arg{Value: d.text(a.val, "args."+name)}
			if a.val.Kind != yaml.ScalarNode {
				fields++ // reported just now
			}
			fields += d.template(name, a.val)
			continue
		}
		in.Args[name] = Arg{Words: d.textMap(a.val, "args."+name)}
		words := d.mapping(a.val, "args."+name)
		for _, w := range words {
			fields += d.template(name+"."+w.key.Value, w.val)
		}
		if len(words) == 0 {
			fields++
			d.report(a.val, "args.%s names no word: write word: template, or a template for whatever the agent says", name)
		}
	}
	return fields
}
