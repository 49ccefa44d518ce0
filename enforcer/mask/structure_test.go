package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"
)

// Each text holds the secret where §; what stands there is masked, and nothing
// else of the text.
func TestStructures(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	chosen := "hun" + "ter2"
	made := sampleOf(r, digit, 2) + sampleOf(r, alnum, 30)
	for _, c := range []struct{ by, text, secret string }{
		{"password-value", "DB_PASSWORD=§", chosen},
		{"password-value", "export PGPASSWORD=§\nexport PGUSER=bob", "postgres"},
		{"password-value", "    environment:\n      POSTGRES_PASSWORD: §\n", "postgres"},
		{"password-value", "spring.datasource.password=§\n", "a,b;c" + chosen},
		{"password-value", "Server=db;User Id=bob;Password=§;Encrypt=true", "swordfish"},
		{"password-value", "Driver={X};Server=db;Uid=bob;Pwd=§;", "swordfish"},
		{"password-value", "jdbc:postgresql://db/shop?user=bob&password=§&ssl=true", "swordfish"},
		{"password-value", "host=db user=bob password=§ dbname=shop", "swordfish"},
		{"password-value", "host=db password='§' dbname=shop", "sword fish 1"},
		{"password-value", `{"user":"bob","dbPassword":"§"}`, chosen},
		{"password-value", `cfg = {'password': '§', 'port': 5432}`, chosen},
		{"password-value", `mysql --user=bob --password=§ shop`, chosen},
		{"password-value", `tool --password § shop`, chosen},
		{"password-value", `<password>§</password>`, chosen},
		{"password-value", `<add key="SmtpPassword" value="§"/>`, chosen},
		{"password-value", "ALTER ROLE bob WITH PASSWORD '§';", chosen},
		{"password-value", `String password = "§";`, chosen},
		{"password-value", `"name": "DB_PASSWORD", "value": "§"`, chosen},
		{"password-value", "- name: DB_PASSWORD\n  value: §\n", chosen},
		{"password-value", "password: |\n  §\nuser: bob", chosen},
		{"password-value", `password = "§"`, `a\"b` + chosen},
		{"sql-password", "CREATE USER bob IDENTIFIED BY '§';", chosen},
		{"secret-value", "aws_secret_access_key = §\n", made},
		{"secret-value", "[Interface]\nPrivateKey = §\n", made + "xyz01234567="},
		{"secret-value", `"clientSecret": "§"`, made},
		{"secret-value", "    client-key-data: §\n", made},
		{"api-key-value", "X-Api-Key: §", made},
		{"api-key-value", "https://host.example/a?api_key=§&b=c", made},
		{"token-value", "    token: §\n", made},
		{"token-value", "//registry.example/:_authToken=§", made},
		{"token-value", "gh auth login --token § ", made},
		{"authorization-header", "Authorization: Token §", made},
		{"authorization-header", `"Proxy-Authorization": "Custom §"`, made},
		{"authorization-header", "authorization: AWS4-HMAC-SHA256 §", "Credential=x/20200101/r/s/aws4_request, SignedHeaders=host, Signature=" + made},
		{"cookie-header", "Cookie: §", "sid=" + made + "; theme=dark"},
		{"cookie-header", "curl -H 'Cookie: §' https://host.example", "sid=" + made},
		{"curl-user", "curl -u bob:§ https://host.example", chosen},
		{"url-credentials", "redis://:§@cache:6379/0", chosen},
		{"url-credentials", "mongodb+srv://bob:§@cluster.example/x", chosen},
		{"url-signature", "https://x.blob.core.windows.net/c/f?sv=2022&sig=§", made + "%3D"},
		{"netrc", "machine host.example login bob password §\n", chosen},
		{"netrc", "default login bob password §\n", chosen},
		{"pgpass", "# x\ndb.example:5432:shop:bob:§\n", chosen},
		{"pgpass", "*:*:*:bob:§", chosen},
		{"kubernetes-secret", "kind: Secret\nmetadata:\n  name: x\nstringData:\n  §\ntype: Opaque\n", "a: one-two\n  b: three-four"},
		{"putty-private-key", "PuTTY-User-Key-File-2: ssh-rsa\nPublic-Lines: 1\nAAAA\nPrivate-Lines: 1\n§\nPrivate-MAC: 00", "c2VjcmV0IHBhcnQ="},
	} {
		m := New(Options{})
		text := strings.ReplaceAll(c.text, "§", c.secret)
		want := strings.ReplaceAll(c.text, "§", "[masked: "+c.by+"]")
		if got, _ := m.Text(text); got != want {
			t.Errorf("%s\n got %q\nwant %q", text, got, want)
		}
		if got, _ := m.Text(want); got != want {
			t.Errorf("not stable: %q", got)
		}
		off := New(Options{Disable: []string{c.by}})
		if _, r := off.Text(text); len(r.Hits) > 0 && r.Hits[0].Detector == c.by {
			t.Errorf("%s is off, and found %q", c.by, text)
		}
	}
}

// What JSON itself says, as it comes in structuredContent.
func TestSecretMembers(t *testing.T) {
	r := rand.New(rand.NewPCG(23, 24))
	made := sampleOf(r, digit, 2) + sampleOf(r, alnum, 30)
	for _, c := range []struct{ by, msg string }{
		{"password-value", `{"user":"bob","db_password":"§"}`},
		{"token-value", `{"a":[{"accessToken":"§"}]}`},
		{"token-value", `{"exchangeToken":"§"}`},
		{"password-value", `{"pass":"§"}`},
		{"sensitive-field", `{"outputs":{"x":{"sensitive":true,"type":"string","value":"§"}}}`},
		{"sensitive-field", `{"outputs":{"x":{"value":{"a":["§"]},"sensitive":true}}}`},
		{"kubernetes-secret", `{"kind":"Secret","metadata":{"name":"x"},"data":{"a":"§"}}`},
		{"kubernetes-secret", `{"stringData":{"a":"§"},"kind":"Secret"}`},
		{"jwk", `{"kty":"EC","x":"abc","d":"§"}`},
		{"docker-auth", `{"auths":{"r.example":{"auth":"Ym9iOmh1bnRlcjI="}}}`},
		{"password-value", `{"env":[{"name":"DB_PASSWORD","value":"§"},{"name":"PORT","value":"5432"}]}`},
	} {
		m := New(Options{})
		msg := strings.ReplaceAll(c.msg, "§", made)
		want := strings.ReplaceAll(strings.ReplaceAll(c.msg, "§", "[masked: "+c.by+"]"), "Ym9iOmh1bnRlcjI=", "[masked: "+c.by+"]")
		for range 2 { // by itself, then as text within a result
			got, _, err := m.Message([]byte(msg))
			if err != nil || string(got) != want {
				t.Errorf("%s\n got %s %v\nwant %s", msg, got, err, want)
			}
			a, _ := json.Marshal(map[string]string{"text": msg})
			b, _ := json.Marshal(map[string]string{"text": want})
			msg, want = string(a), string(b)
		}
	}
}

var ordinaryTexts = []string{
	"interface Login { user: string; password: string; token?: string }",
	"  password: string;\n  secret: string,\n  apiKey: SecretStr\n",
	"type T struct {\n\tPassword string `json:\"password\"`\n\tToken    string\n}",
	"func Login(user, password string) error {\n\tif password == \"\" {\n\t\treturn errNoPassword\n\t}\n",
	"password = os.environ[\"DB_PASSWORD\"]", "token := os.Getenv(\"API_TOKEN\")", "const token = process.env.API_TOKEN;",
	"password: ${DB_PASSWORD}", "password: {{ vault_password }}", "PASSWORD=$1", "password=<your password>", "API_KEY=your-api-key-here",
	"password: ********", "PASSWORD=", "password: null", "password: true", "token: \"\"", "secret: false",
	"The password: it must have eight characters. Your token: see below. Pass: 12, fail: 0. PASS=14",
	"login(user=name, password=pw, token=token)", "self.password = password", "cfg.apiKey = other.apiKey", "Password: cfg.Password,",
	"db_password = var.db_password", "secretKeyRef:\n  name: db\n  key: password\n", "secretName: db-credentials",
	"api_key: op://vault/item/field", "token: vault:secret/data/x#token", "PWD=/home/bob/src", "password_file: /run/secrets/db",
	"nextPageToken: CAUQAA1234567890abcdef", `"next_token": "eyJhIjoxMjM0NTY3ODkwfQ"`, `{"progressToken":"abc12345678"}`, "max_tokens: 4096", "tokens: 12345678",
	"Set the Authorization header to your token.", "Authorization: required", "Cookie: yes please",
	"Basic Overview of Bearer tokens; bearer of good news", "machine learning login password policy",
	"main.go:5432:12:syntax:error", "2001:db8:*:*:*:*:*:*", "10:5432:a:b", "kind: SecretStore\nspec:\n  data:\n    a: b\n",
	"commit 3f9c2e1b8d7a6054f3e2d1c0b9a8978685746352", "123e4567-e89b-12d3-a456-426614174000",
	"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "integrity sha512-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789==",
	"data:image/png;base64," + strings.Repeat("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk", 8),
	"https://example.com/a?b=c&page=2&sort=token", "git@github.com:a/b.git", "ssh://git@host.example/a", "http://user:${PASS}@host.example",
	"SELECT password_hash FROM users WHERE token = ?", "GRANT ALL ON t TO bob", "see pass-through, bypass: yes, minipass@7.1.3",
	`{"name":"minipass","version":"^7.1.3"}`, `{"type":"object","properties":{"password":{"type":"string","description":"The password"}},"required":["password"]}`,
	"PWD=/app\nOLDPWD=/workspace/app1\nLANG=C.UTF-8", `{"pwd":"/Users/jane/My project2"}`, `{"pwd":"C:\\Users\\jane1"}`, `{"pass":"12/15","fail":"3 of 15"}`, "pass: 98.5%\n",
	`{"deltaToken":"aZ8kQ2LmN4pR7sT1vW3x"}`, `{"$skiptoken":"aZ8kQ2LmN4pR7sT1vW3x"}`, `{"resumptionToken":"aZ8kQ2LmN4pR7sT1vW3x"}`, `{"ClientRequestToken":"aZ8kQ2LmN4pR7sT1vW3x"}`,
	`{"Action":"pass","Package":"x"}`, `"sensitive": true, "value": "x"`,
}

// The files in which clouds and tools keep their keys, as an agent may read them.
func TestCredentialFiles(t *testing.T) {
	r := rand.New(rand.NewPCG(27, 28))
	a, b := sampleOf(r, digit, 2)+sampleOf(r, alnum, 38), sampleOf(r, digit, 2)+sampleOf(r, alnum, 38)
	key := pem(r)
	google, err := json.Marshal(map[string]string{"type": "service_account", "private_key_id": "x", "private_key": key, "client_email": "a@b.example"})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"aws":          "[default]\naws_access_key_id = AKIA" + sampleOf(r, upper|digit27, 16) + "\naws_secret_access_key = " + a + "\naws_session_token = " + b + "\n",
		"google":       string(google),
		"azure":        `{"clientId":"123e4567-e89b-12d3-a456-426614174000","clientSecret":"` + a + `","tenantId":"123e4567-e89b-12d3-a456-426614174000"}`,
		"azure string": "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=" + sampleOf(r, alnum, 86) + "==;EndpointSuffix=core.windows.net",
		"kubeconfig":   "users:\n- name: bob\n  user:\n    client-certificate-data: LS0tLS1CRUdJTiBDRVJU\n    client-key-data: " + a + "\n    token: " + b + "\n",
		"docker":       `{"auths":{"r.example":{"auth":"Ym9iOmh1bnRlcjI=","identitytoken":"` + a + `"}}}`,
		"terraform":    `{"resources":[{"type":"aws_iam_access_key","instances":[{"attributes":{"id":"x","secret":"` + a + `","ses_smtp_password_v4":null}}]}],"outputs":{"db":{"value":"` + b + `","sensitive":true}}}`,
		"npmrc":        "//npm.example.com/:_authToken=" + a + "\n",
		"pypirc":       "[pypi]\nusername = __token__\npassword = " + a + "\n",
		"wireguard":    "[Interface]\nPrivateKey = " + a + "\nAddress = 10.0.0.1/24\n[Peer]\nPresharedKey = " + b + "\n",
		"git":          "https://bob:" + a + "@git.example\n",
		"shadow":       "root:$6$" + sampleOf(r, alnum, 12) + "$" + a + a + sampleOf(r, alnum, 6) + ":19000:0:99999:7:::\n",
	} {
		m := New(Options{})
		out, rep := m.Text(text)
		if strings.Contains(out, a[8:24]) || strings.Contains(out, b[8:24]) || strings.Contains(out, key[60:90]) || !rep.Masked() {
			t.Errorf("%s: %s", name, out)
		}
	}
}

// A password may look like a directory where it cannot be one.
func TestPasswordsLikePaths(t *testing.T) {
	m := New(Options{})
	for _, text := range []string{"Server=db;Uid=bob;Pwd=/s3cr3t/x;", "password=/s3cr3t/x", `{"pwd":"/s3cr3t=!"}`, `{"password":"/s3cr3t/x"}`} {
		if out, _ := m.Text(text); strings.Contains(out, "s3cr3t") {
			t.Error(out)
		}
	}
}

// Prose, code, schemas, references and placeholders pass as they are.
func TestNoSecrets(t *testing.T) {
	m := New(Options{})
	for _, text := range ordinaryTexts {
		if out, r := m.Text(text); out != text || r.Masked() {
			t.Errorf("%q became %q (%v)", text, out, detectorsOf(r))
		}
		if json.Valid([]byte(text)) {
			if out, _, err := m.Message([]byte(text)); err != nil || string(out) != text {
				t.Errorf("%s became %s", text, out)
			}
		}
	}
}

// A token in the middle of a word is one if its checksum says so.
func TestChecksums(t *testing.T) {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	m := New(Options{})
	r := rand.New(rand.NewPCG(25, 26))
	body := sampleOf(r, alnum, 30)
	sum := crc32.ChecksumIEEE([]byte(body))
	six := make([]byte, 6)
	for i := 5; i >= 0; i-- {
		six[i] = digits[sum%62]
		sum /= 62
	}
	good := body + string(six)
	if !crcBase62([]byte(good)) || crcBase62([]byte(body+"000000")) {
		t.Fatal("checksum")
	}
	if out, _ := m.Text("prefix" + "ghp_" + good); strings.Contains(out, good) {
		t.Errorf("passed: %s", out)
	}
	if out, _ := m.Text("prefix" + "ghp_" + body + "abcdef"); strings.Contains(out, "masked") {
		t.Errorf("masked: %s", out)
	}
}

// What base64 stands for is looked through for structures whatever else in the
// text is escaped: without the other escapes, which leave the same bytes, it is
// seen one encoding deeper, where only tokens count.
func TestStructuresInBase64BesideOtherEscapes(t *testing.T) {
	m := New(Options{})
	hidden := base64.StdEncoding.EncodeToString([]byte("DB_PASSWORD=" + "Xk29-fjq8.hz"))
	for _, around := range []string{"", `a\tb `, "100%25 ", "&amp; ", `\\ %41 &lt; `} {
		msg, err := json.Marshal([]string{around + hidden})
		if err != nil {
			t.Fatal(err)
		}
		out, r, err := m.Message(msg)
		if err != nil || bytes.Contains(out, []byte(hidden)) || len(r.Hits) != 1 {
			t.Errorf("%q: %s %+v %v", around, out, r, err)
		}
	}
}
