package rules

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Secret is what a credential asks Vault for: where, how, and which parts of
// the answer are secret.
//
// Vault, and the texts in Params, may hold templates of the request:
// {{subject.sub}}, {{subject.email}}, {{subject.claims.NAME}}, {{client}} and
// {{args.NAME}}, where a dotted NAME reaches into objects. Fill puts them in.
type Secret struct {
	Vault   string         // path
	Post    bool           // asked by POST; else by GET
	Params  map[string]any // of that request: string, int, bool or []string
	Fields  []string       // the only ones used, each a secret; nil: every text but username
	Public  []string       // used, and no secrets
	Base64  []string       // used as what they decode to
	NoLease bool           // taken though Vault cannot take it back
	Login   *Login         // nil: the enforcer's own
}

// Login is where in Vault a caller's own token logs in.
type Login struct {
	Mount string // below auth/
	Role  string
}

const (
	step    = `[A-Za-z_][A-Za-z0-9_-]*`
	maxFill = 4096 // bytes that one template may become in a parameter
)

var (
	vaultPath  = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+$`)
	mountPath  = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$`)
	paramName  = regexp.MustCompile(`^` + step + `$`)
	fieldPath  = regexp.MustCompile(`^` + ident + `$`)
	ofRequest  = regexp.MustCompile(`^(?:subject\.sub|subject\.email|client|(?:subject\.claims|args)(?:\.` + step + `)+)$`)
	inTemplate = regexp.MustCompile(`\{\{(.*?)\}\}`)
)

// secret reads the fields of a credential that say what to ask Vault for.
func (d *document) secret(c *Credential, at *yaml.Node, f map[string]*yaml.Node) {
	if n := f["vault"]; n == nil {
		d.report(at, "credential %s needs vault: the path to ask, such as database/creds/reader", c.Name)
	} else if c.Vault = d.text(n, "vault"); c.Vault != "" {
		d.vaultPath(n, c.Vault)
	}
	if n := f["method"]; n != nil {
		switch v := d.text(n, "method"); v {
		case "post":
			c.Post = true
		case "get", "":
		default:
			d.report(n, "method %q is not known: get or post", v)
		}
	}
	for _, p := range d.mapping(f["params"], "params") {
		if !paramName.MatchString(p.key.Value) {
			d.report(p.key, "%q is not the name of a parameter", p.key.Value)
		}
		if c.Params == nil {
			c.Params = map[string]any{}
		}
		c.Params[p.key.Value] = d.param(p.val, "params."+p.key.Value, c.Post)
	}
	c.Fields, c.Public, c.Base64 = d.names(f["fields"], "fields"), d.names(f["public"], "public"), d.names(f["base64"], "base64")
	for _, name := range c.Public {
		if slices.Contains(c.Fields, name) {
			d.report(f["public"], "%s is among fields, which are secrets, and among public, which are none", name)
		}
	}
	if c.Fields != nil {
		d.used(f["inject"], append(slices.Concat(c.Fields, c.Public), "username"))
	}
	if n := f["lease"]; n != nil {
		switch v := d.text(n, "lease"); v {
		case "none":
			c.NoLease = true
		case "required", "":
		default:
			d.report(n, "lease %q is not known: required, or none (taken though Vault cannot take it back)", v)
		}
	}
	if n := f["login"]; n != nil {
		c.Login = d.login(n)
	}
}

// names reads names of fields of the secret.
func (d *document) names(n *yaml.Node, what string) []string {
	d.each(n, what, func(n *yaml.Node, name string) {
		if !fieldPath.MatchString(name) {
			d.report(n, "%q is not the name of a field of the secret", name)
		}
	})
	before := len(*d.problems) // said once
	all := d.texts(n, what)
	*d.problems = (*d.problems)[:before]
	return all
}

// used reports templates of injection whose field is not among the known.
func (d *document) used(n *yaml.Node, known []string) {
	if n == nil {
		return
	}
	if n.Kind != yaml.ScalarNode {
		for _, c := range n.Content {
			d.used(c, known)
		}
		return
	}
	for _, m := range inTemplate.FindAllStringSubmatch(n.Value, -1) {
		words := strings.Fields(strings.SplitN(m[1], "|", 2)[0])
		if len(words) > 1 { // {{basic user password}}
			words = words[1:]
		}
		for _, w := range words {
			if !slices.ContainsFunc(known, func(k string) bool { return w == k || strings.HasPrefix(w, k+".") }) {
				d.report(n, "{{%s}} is used, and neither fields nor public names it", w)
			}
		}
	}
}

func (d *document) login(n *yaml.Node) *Login {
	f, ok := d.fields(n, "login", "as", "mount", "role")
	if !ok {
		return nil
	}
	l := &Login{Mount: "jwt"}
	if f["as"] == nil || d.text(f["as"], "login.as") != "caller" {
		d.report(n, "login needs `as: caller`: the caller's own token logs in to Vault")
	}
	if m := f["mount"]; m != nil {
		if l.Mount = d.text(m, "login.mount"); l.Mount != "" && !mountPath.MatchString(l.Mount) {
			d.report(m, "login.mount must be the path of a JWT login below auth/, such as jwt")
		}
	}
	if r := f["role"]; r == nil {
		d.report(n, "login needs role: the role at auth/%s", l.Mount)
	} else if l.Role = d.text(r, "login.role"); l.Role != "" && !paramName.MatchString(l.Role) {
		d.report(r, "login.role must be the name of a role")
	}
	return l
}

// vaultPath checks a path: its mount is fixed, and a segment holds one
// template at most, so that no two requests make one path in different ways.
func (d *document) vaultPath(n *yaml.Node, p string) {
	plain, problem := d.plainText(p)
	if problem != "" {
		d.report(n, "vault: %s", problem)
		return
	}
	segments := strings.Split(p, "/")
	switch {
	case strings.Contains(segments[0], "{{"):
		d.report(n, "vault: the first part of the path, the mount, cannot be a template")
	case slices.ContainsFunc(segments, func(s string) bool { return strings.Count(s, "{{") > 1 }):
		d.report(n, "vault: one part of a path, between two /, holds one template at most")
	case !vaultPath.MatchString(plain):
		d.report(n, "vault must be a path such as database/creds/reader")
	case segments[0] == "sys" || segments[0] == "auth":
		d.report(n, "vault must be a path of a secrets engine: %s/ is Vault's own", segments[0])
	}
}

// plainText puts x for each template of the request, or says what is wrong.
func (d *document) plainText(s string) (plain, problem string) {
	plain = inTemplate.ReplaceAllStringFunc(s, func(t string) string {
		if name := strings.TrimSpace(t[2 : len(t)-2]); !ofRequest.MatchString(name) && problem == "" {
			problem = fmt.Sprintf("{{%s}} is not known: {{subject.sub}}, {{subject.email}}, {{subject.claims.NAME}}, {{client}} or {{args.NAME}}", name)
		}
		return "x"
	})
	switch {
	case problem != "":
	case strings.Contains(plain, "{{"):
		problem = "{{ without }}"
	case strings.Contains(plain, "}}"):
		problem = "}} without {{"
	}
	return plain, problem
}

// param reads the value of a parameter.
func (d *document) param(n *yaml.Node, what string, post bool) any {
	switch {
	case n.Kind == yaml.SequenceNode && post:
		out := []string{}
		for _, c := range n.Content {
			if c.Kind != yaml.ScalarNode || c.Tag != "!!str" {
				d.report(c, "%s: a list holds texts", what)
			} else if s, ok := d.param(c, what, false).(string); ok {
				out = append(out, s)
			}
		}
		return out
	case n.Kind == yaml.ScalarNode && n.Tag == "!!int":
		if i, err := strconv.Atoi(n.Value); err == nil {
			return i
		}
	case n.Kind == yaml.ScalarNode && n.Tag == "!!bool":
		if b, err := strconv.ParseBool(n.Value); err == nil {
			return b
		}
	case n.Kind == yaml.ScalarNode && n.Tag == "!!str":
		if _, problem := d.plainText(n.Value); problem != "" {
			d.report(n, "%s: %s", what, problem)
		}
		return n.Value
	}
	lists := ", or with method: post a list of texts"
	if post {
		lists = ", or a list of texts"
	}
	d.report(n, "%s must be a text, a whole number in decimal digits, true or false%s", what, lists)
	return nil
}

// UsesArgs tells whether a template reads the arguments of a call.
func (s Secret) UsesArgs() bool {
	return s.uses(func(name string) bool { return strings.HasPrefix(name, "args.") })
}

// UsesCaller tells whether a template reads what the token says.
func (s Secret) UsesCaller() bool {
	return s.uses(func(name string) bool { return !strings.HasPrefix(name, "args.") })
}

func (s Secret) uses(which func(name string) bool) bool {
	uses := func(text string) bool {
		return slices.ContainsFunc(inTemplate.FindAllStringSubmatch(text, -1), func(m []string) bool {
			return which(strings.TrimSpace(m[1]))
		})
	}
	if uses(s.Vault) {
		return true
	}
	for _, v := range s.Params {
		switch v := v.(type) {
		case string:
			if uses(v) {
				return true
			}
		case []string:
			if slices.ContainsFunc(v, uses) {
				return true
			}
		}
	}
	return false
}

// Fill is the path and the parameters for one request. What a template becomes
// is one part of the path, or text within one text: it may hold ASCII letters,
// digits and -_.@+= , in a parameter : and / too, and nothing else, no ".."
// and no "." in front. So it cannot lead elsewhere, be read as a list, or have
// a structure. The error says which template is empty or holds something else,
// but does not repeat the value.
func (s Secret) Fill(req Request) (path string, params map[string]any, err error) {
	f := filling{req: req}
	path = f.fill(s.Vault, "a path in Vault", "", 256)
	if s.Params != nil {
		params = make(map[string]any, len(s.Params))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Params)) {
		switch v := s.Params[name].(type) {
		case string:
			params[name] = f.fill(v, "parameter "+name, ":/", maxFill)
		case []string:
			texts := make([]string, len(v))
			for i := range v {
				texts[i] = f.fill(v[i], "parameter "+name, ":/", maxFill)
			}
			params[name] = texts
		default:
			params[name] = v
		}
	}
	if f.err != nil {
		return "", nil, f.err
	}
	return path, params, nil
}

// filling puts a request into templates; err is the first that went wrong.
type filling struct {
	req  Request
	args map[string]any // decoded when first needed
	err  error
}

func (f *filling) fill(text, where, more string, most int) string {
	return inTemplate.ReplaceAllStringFunc(text, func(t string) string {
		name := strings.TrimSpace(t[2 : len(t)-2])
		v, why := f.value(name)
		if why == "" {
			why = unsafe(v, more, most)
		}
		if why != "" && f.err == nil {
			f.err = fmt.Errorf("{{%s}} cannot be put into %s: %s", name, where, why)
		}
		return v
	})
}

// unsafe says what keeps a value from being put into a path or parameter.
func unsafe(v, more string, most int) string {
	switch {
	case v == "":
		return "it is empty"
	case len(v) > most:
		return fmt.Sprintf("it is longer than %d bytes", most)
	case v[0] == '.':
		return "it begins with a dot"
	case strings.Contains(v, ".."):
		return `it holds ".."`
	}
	for _, r := range v {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.@+="+more, r) {
			return fmt.Sprintf("it holds %U; ASCII letters, digits and %s are allowed", r, "-_.@+="+more)
		}
	}
	return ""
}

func (f *filling) value(name string) (v, why string) {
	switch name {
	case "subject.sub":
		return f.req.Subject.Sub, ""
	case "subject.email":
		if f.req.Subject.Email == "" {
			return "", "the caller's token has no e-mail address"
		}
		return f.req.Subject.Email, ""
	case "client":
		return f.req.Client, ""
	}
	if claim, ok := strings.CutPrefix(name, "subject.claims."); ok {
		return dig(f.req.Subject.Claims, claim, "the caller's token has no such claim")
	}
	arg, ok := strings.CutPrefix(name, "args.")
	if !ok { // Load lets no other through
		return "", "there is no such thing"
	}
	if f.args == nil && f.req.Args != nil {
		if err := json.Unmarshal(f.req.Args, &f.args); err != nil {
			return "", "the arguments are not a JSON object"
		}
	}
	return dig(f.args, arg, "the request has no such argument")
}

// dig follows a dotted name to a string.
func dig(in map[string]any, name, missing string) (v, why string) {
	at := any(in)
	for key := range strings.SplitSeq(name, ".") {
		object, ok := at.(map[string]any)
		if !ok {
			return "", missing
		}
		if at, ok = object[key]; !ok {
			return "", missing
		}
	}
	v, ok := at.(string)
	if !ok {
		return "", "it is not a text"
	}
	return v, ""
}
