package rules

import (
	"encoding/json"
	"errors"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// secretPolicy is a server whose one credential asks Vault as given.
func secretPolicy(asks string) string {
	return "server: s\nurl: http://127.0.0.1/mcp\ncredentials:\n  c: { " + asks + ", ttl: 60s, inject: { headers: { A: \"{{password}}\" } } }\n"
}

func TestSecretProblems(t *testing.T) {
	for _, c := range []struct{ name, asks, want string }{
		{"no path", "scope: call", "servers/s.yaml:4:3: credential c needs vault"},
		{"method", "vault: a/b, method: put", `servers/s.yaml:4:28: method "put" is not known: get or post`},
		{"unknown template", `vault: "a/{{subject.name}}"`, "servers/s.yaml:4:15: vault: {{subject.name}} is not known: {{subject.sub}}, {{subject.email}}, {{subject.claims.NAME}}, {{client}} or {{args.NAME}}"},
		{"a field of the secret", `vault: "a/{{username}}"`, "{{username}} is not known"},
		{"all claims", `vault: "a/{{subject.claims}}"`, "{{subject.claims}} is not known"},
		{"all arguments", `vault: "a/{{args}}"`, "{{args}} is not known"},
		{"encoding", `vault: "a/{{args.x|url}}"`, "{{args.x|url}} is not known"},
		{"empty template", `vault: "a/{{}}"`, "{{}} is not known"},
		{"open template", `vault: "a/{{args.x"`, "vault: {{ without }}"},
		{"closed template", `vault: "a/args.x}}"`, "vault: }} without {{"},
		{"mount", `vault: "{{args.x}}/b"`, "the mount, cannot be a template"},
		{"part of the mount", `vault: "a{{args.x}}/b"`, "the mount, cannot be a template"},
		{"two in one part", `vault: "a/{{args.x}}-{{args.y}}"`, "one template at most"},
		{"way up", `vault: "a/../{{args.x}}"`, "vault must be a path"},
		{"dot in front", `vault: "a/.{{args.x}}"`, "vault must be a path"},
		{"query", `vault: "a/b?{{args.x}}"`, "vault must be a path"},
		{"sys", "vault: sys/leases", "servers/s.yaml:4:15: vault must be a path of a secrets engine: sys/ is Vault's own"},
		{"auth", "vault: auth/token/create, method: post", "auth/ is Vault's own"},
		{"params", "vault: a/b, params: [x]", "params must be a mapping"},
		{"param name", `vault: a/b, params: { "x y": z }`, `servers/s.yaml:4:30: "x y" is not the name of a parameter`},
		{"param template", `vault: a/b, params: { x: "{{args}}" }`, "servers/s.yaml:4:33: params.x: {{args}} is not known"},
		{"param structure", "vault: a/b, method: post, params: { x: { y: z } }", "params.x must be a text, a whole number in decimal digits, true or false, or a list of texts"},
		{"param null", "vault: a/b, params: { x: null }", "params.x must be a text"},
		{"param float", "vault: a/b, params: { x: 1.5 }", "params.x must be a text"},
		{"param list by get", "vault: a/b, params: { x: [y] }", "or with method: post a list of texts"},
		{"param list of lists", "vault: a/b, method: post, params: { x: [[y]] }", "params.x: a list holds texts"},
		{"param list of numbers", "vault: a/b, method: post, params: { x: [1] }", "params.x: a list holds texts"},
		{"fields", "vault: a/b, fields: []", "fields is an empty list"},
		{"field name", `vault: a/b, fields: [password, "a b"]`, `servers/s.yaml:4:39: "a b" is not the name of a field`},
		{"public and secret", "vault: a/b, fields: [password], public: [password]", "password is among fields, which are secrets, and among public"},
		{"unnamed and used", "vault: a/b, fields: [token]", "servers/s.yaml:4:71: {{password}} is used, and neither fields nor public names it"},
		{"base64 name", `vault: a/b, base64: "{{x}}"`, "is not the name of a field"},
		{"lease", "vault: a/b, lease: optional", `lease "optional" is not known: required, or none`},
		{"login", "vault: a/b, login: caller", "login must be a mapping"},
		{"login as nobody", "vault: a/b, login: { role: x }", "login needs `as: caller`"},
		{"login as somebody", "vault: a/b, login: { as: alice, role: x }", "login needs `as: caller`"},
		{"login without role", "vault: a/b, login: { as: caller, mount: oidc }", "login needs role: the role at auth/oidc"},
		{"login mount", "vault: a/b, login: { as: caller, role: x, mount: ../sys }", "login.mount must be the path of a JWT login"},
		{"login role", `vault: a/b, login: { as: caller, role: "x/../y" }`, "login.role must be the name of a role"},
		{"login unknown", "vault: a/b, login: { as: caller, role: x, token: y }", `unknown field "token" in login (known: as, mount, role)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := try(base(), "servers/s.yaml", secretPolicy(c.asks))
			var problems Problems
			if p != nil || !errors.As(err, &problems) {
				t.Fatalf("Load = %v, %v", p, err)
			}
			if len(problems) != 1 || !strings.Contains(err.Error(), c.want) {
				t.Errorf("problems:\n%v\nwant one, that says %q", err, c.want)
			}
		})
	}
	t.Run("a default that reads arguments", func(t *testing.T) {
		_, err := try(base(), "servers/s.yaml", "credential: c\n"+secretPolicy(`vault: a/b, params: { x: "{{args.x}}" }`))
		if err == nil || !strings.Contains(err.Error(), `servers/s.yaml:1:13: credential "c" reads arguments of a call`) {
			t.Error(err)
		}
	})
}

func TestSecretIsRead(t *testing.T) {
	p := load(t, base(), "servers/s.yaml", secretPolicy(`vault: "pki/issue/{{args.env}}", method: post, fields: [password, data.api-key], public: certificate, base64: [password], lease: none,
    params: { common_name: "{{subject.email}}", ttl: 10m, uses: 3, generate: true, alt_names: ["{{args.host}}", fixed] }, login: { as: caller, role: agents, mount: jwt/corp }`))
	s, _ := p.Server("s")
	want := Secret{
		Vault: "pki/issue/{{args.env}}", Post: true, Fields: []string{"password", "data.api-key"}, Public: []string{"certificate"}, Base64: []string{"password"}, NoLease: true,
		Params: map[string]any{"common_name": "{{subject.email}}", "ttl": "10m", "uses": 3, "generate": true, "alt_names": []string{"{{args.host}}", "fixed"}},
		Login:  &Login{Mount: "jwt/corp", Role: "agents"},
	}
	if got := s.Credentials["c"].Secret; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

// filled is the request that the templates below are put for.
func filled(args string) Request {
	r := Request{Client: "cli-1", Subject: Subject{Issuer: "https://id", Sub: "u-17", Email: "ann+dev@example.com",
		Claims: map[string]any{"team": "blue", "org": map[string]any{"unit": "eu-1"}, "level": 7.0, "empty": "", "groups": []any{"a"}}}}
	if args != "" {
		r.Args = []byte(args)
	}
	return r
}

func TestFill(t *testing.T) {
	s := Secret{Vault: "aws/creds/{{subject.claims.team}}/x-{{args.target.cluster}}", Params: map[string]any{
		"who": "{{subject.email}}", "unit": "{{subject.claims.org.unit}} of {{ client }}", "arn": "{{args.arn}}", "n": 3, "list": []string{"{{subject.sub}}", "b,c"},
	}}
	path, params, err := s.Fill(filled(`{"target":{"cluster":"prod_1"},"arn":"arn:aws:iam::1:role/x=y"}`))
	if err != nil || path != "aws/creds/blue/x-prod_1" || !reflect.DeepEqual(params, map[string]any{
		"who": "ann+dev@example.com", "unit": "eu-1 of cli-1", "arn": "arn:aws:iam::1:role/x=y", "n": 3, "list": []string{"u-17", "b,c"},
	}) {
		t.Errorf("%s %v %v", path, params, err)
	}
	if plain, none, err := (Secret{Vault: "a/b"}).Fill(filled("")); plain != "a/b" || none != nil || err != nil {
		t.Errorf("%s %v %v", plain, none, err)
	}
}

func TestFillRefuses(t *testing.T) {
	quote := func(s string) string {
		b, err := json.Marshal(map[string]string{"x": s})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	path := func(x string) Secret { return Secret{Vault: "a/" + x} }
	param := func(x string) Secret { return Secret{Vault: "a/b", Params: map[string]any{"p": x}} }
	for _, c := range []struct {
		name   string
		secret Secret
		args   string
		want   string
	}{
		{"empty", path("{{args.x}}"), quote(""), "{{args.x}} cannot be put into a path in Vault: it is empty"},
		{"missing", path("{{args.x}}"), `{"y":"z"}`, "the request has no such argument"},
		{"no arguments", path("{{args.x}}"), "", "the request has no such argument"},
		{"other case", path("{{args.x}}"), `{"X":"z"}`, "the request has no such argument"},
		{"arguments of another shape", path("{{args.x}}"), `[1]`, "not a JSON object"},
		{"number", path("{{args.x}}"), `{"x":1}`, "it is not a text"},
		{"object", path("{{args.x}}"), `{"x":{"y":"z"}}`, "it is not a text"},
		{"into a text", path("{{args.x.y}}"), `{"x":"y"}`, "the request has no such argument"},
		{"null", path("{{args.x}}"), `{"x":null}`, "it is not a text"},
		{"slash", path("{{args.x}}"), quote("a/b"), "it holds U+002F"},
		{"backslash", path("{{args.x}}"), quote(`a\b`), "it holds U+005C"},
		{"up", path("{{args.x}}"), quote(".."), "it begins with a dot"},
		{"dots within", path("{{args.x}}"), quote("a..b"), `it holds ".."`},
		{"escaped slash", path("{{args.x}}"), quote("a%2fb"), "it holds U+0025"},
		{"query", path("{{args.x}}"), quote("a?list=true"), "it holds U+003F"},
		{"fragment", path("{{args.x}}"), quote("a#b"), "it holds U+0023"},
		{"blank", path("{{args.x}}"), quote("a b"), "it holds U+0020"},
		{"line", path("{{args.x}}"), quote("a\nb"), "it holds U+000A"},
		{"NUL", path("{{args.x}}"), quote("a\x00b"), "it holds U+0000"},
		{"star", path("{{args.x}}"), quote("*"), "it holds U+002A"},
		{"template", path("{{args.x}}"), quote("{{client}}"), "it holds U+007B"},
		{"letters of elsewhere", path("{{args.x}}"), quote("pr\u043ed"), "it holds U+043E"},
		{"full-width slash", path("{{args.x}}"), quote("a／b"), "it holds U+FF0F"},
		{"surrogate", path("{{args.x}}"), `{"x":"a\ud800"}`, "it holds U+FFFD"},
		{"long", path("{{args.x}}"), quote(strings.Repeat("a", 257)), "it is longer than 256 bytes"},
		{"colon in a path", path("{{args.x}}"), quote("a:b"), "it holds U+003A"},
		{"no such claim", path("{{subject.claims.tem}}"), "", "no such claim"},
		{"claim that is a number", path("{{subject.claims.level}}"), "", "it is not a text"},
		{"claim that is a list", path("{{subject.claims.groups}}"), "", "it is not a text"},
		{"empty claim", path("{{subject.claims.empty}}"), "", "it is empty"},
		{"list in a parameter", param("{{args.x}}"), quote("a,b"), "{{args.x}} cannot be put into parameter p: it holds U+002C"},
		{"quote", param("{{args.x}}"), quote(`a","b`), "it holds U+0022"},
		{"wildcard", param("{{args.x}}"), quote("*.example.com"), "it holds U+002A"},
		{"way up in a parameter", param("{{args.x}}"), quote("a/../b"), `it holds ".."`},
		{"long parameter", param("{{args.x}}"), quote(strings.Repeat("a", maxFill+1)), "it is longer"},
		{"in a list", Secret{Vault: "a/b", Params: map[string]any{"p": []string{"{{args.x}}"}}}, quote(""), "parameter p: it is empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, params, err := c.secret.Fill(filled(c.args))
			if err == nil || path != "" || params != nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q %v %v, want %q", path, params, err, c.want)
			}
		})
	}
	t.Run("no e-mail address", func(t *testing.T) {
		if _, _, err := path("{{subject.email}}").Fill(Request{}); err == nil || !strings.Contains(err.Error(), "has no e-mail address") {
			t.Error(err)
		}
	})
}

// Whatever a caller sends: the path has the parts that policy gave it, and none
// of another form.
func FuzzFill(f *testing.F) {
	f.Add(`{"x":"prod"}`, "u-17", "ann@example.com")
	f.Add(`{"x":"../../sys/seal"}`, "..", "a@b")
	f.Add(`{"x":"a%2f..%2fb","x":"b"}`, "a/b", "")
	f.Add(`{"x":"\u002e\u002e"}`, "auth0|1", "a,b")
	form := regexp.MustCompile(`^db/creds/[A-Za-z0-9_@+=-][A-Za-z0-9_.@+=-]*/for-[A-Za-z0-9_@+=-][A-Za-z0-9_.@+=-]*$`)
	text := regexp.MustCompile(`^to [A-Za-z0-9_.@+=:/-]+!$`)
	s := Secret{Vault: "db/creds/{{args.x}}/for-{{subject.sub}}", Params: map[string]any{"mail": "to {{subject.email}}!"}}
	f.Fuzz(func(t *testing.T, args, sub, email string) {
		path, params, err := s.Fill(Request{Args: []byte(args), Subject: Subject{Sub: sub, Email: email}})
		if err != nil {
			return
		}
		if !form.MatchString(path) || strings.Contains(path, "..") || !text.MatchString(params["mail"].(string)) {
			t.Errorf("%q %q", path, params)
		}
	})
}
