package mask

import (
	"encoding/base64"
	"math/rand/v2"
	"strings"
)

// specimen is a text that holds a secret, made from the table: no literal token
// stands in this repository, where the scanners of code hosts would find it.
type specimen struct {
	text, secret string
	around       bool // the text is what makes it a secret: the secret alone is none
}

// sample makes a specimen of d behind one of its prefixes.
func sample(r *rand.Rand, d *detector, prefix string) specimen {
	if d.check == nil {
		s := tokenOf(r, d, prefix)
		return specimen{s, s, false}
	}
	pass := sampleOf(r, lower, 4) + sampleOf(r, digit, 2) + sampleOf(r, alnum, 8)
	made := sampleOf(r, digit, 2) + sampleOf(r, alnum, 30)
	userPass := base64.StdEncoding.EncodeToString([]byte("user:" + pass))
	switch d.name {
	case "private-key":
		s := pem(r)
		return specimen{s, s, false}
	case "ssh2-private-key":
		s := prefix + "ENCRYPTED PRIVATE KEY ----\nComment: \"x\"\n" + wrap(sampleOf(r, alnum|plus|slash, 300), 70, "\n") + "\n---- END SSH2 ENCRYPTED PRIVATE KEY ----"
		return specimen{s, s, false}
	case "putty-private-key":
		private := wrap(sampleOf(r, alnum|plus|slash, 180), 64, "\n")
		return specimen{prefix + "3: ssh-ed25519\nEncryption: none\nComment: x\nPublic-Lines: 1\nAAAAC3\nPrivate-Lines: 3\n" + private + "\nPrivate-MAC: 00", private, true}
	case "xml-rsa-key":
		s := prefix + "<Modulus>" + sampleOf(r, alnum, 60) + "</Modulus><D>" + sampleOf(r, alnum, 60) + "</D></RSAKeyValue>"
		return specimen{s, s, false}
	case "basic":
		return specimen{prefix + userPass, prefix + userPass, false}
	case "authorization-header":
		return specimen{prefix + ": Token " + made, made, true}
	case "cookie-header":
		return specimen{prefix + " session=" + made, "session=" + made, true}
	case "curl-user":
		return specimen{"curl -s" + prefix + "bob:" + pass + " https://host.example/", pass, true}
	case "url-credentials":
		return specimen{"https" + prefix + "user:" + pass + "@host.example/path", pass, true}
	case "url-signature":
		return specimen{"https://host.example/a?b=c" + prefix + made, made, true}
	case "netrc":
		if strings.HasPrefix(prefix, "default") {
			return specimen{prefix + "bob password " + pass, pass, true}
		}
		return specimen{prefix + "host.example\n  login bob\n  password " + pass, pass, true}
	case "pgpass":
		if strings.HasPrefix(prefix, "*") {
			return specimen{"\n" + prefix + "bob:" + pass + "\n", pass, true}
		}
		return specimen{"\ndb.example" + prefix + "shop:bob:" + pass + "\n", pass, true}
	case "docker-auth":
		if prefix == "_auth" {
			return specimen{"//registry.example/:_auth=" + userPass, userPass, true}
		}
		return specimen{`{"auths":{"registry.example":{` + prefix + `: "` + userPass + `"}}}`, userPass, true}
	case "kubernetes-secret":
		return specimen{"apiVersion: v1\n" + prefix + "\nmetadata:\n  name: x\ndata:\n  user: " + userPass + "\ntype: Opaque", userPass, true}
	case "sql-password":
		return specimen{"CREATE USER bob IDENTIFIED BY '" + pass + "';", pass, true}
	}
	// A keyed value.
	front := []string{"DB_", "my_", "app."}[r.IntN(3)]
	if d.keyed == passwords {
		made = pass
	}
	forms := []string{"%k=%s\n", "%k: %s\n", "%k = '%s'\n", "{\"%k\": \"%s\"}", "f(%k=\"%s\")", "--%k %s", "<%k>%s</%k>", "a=b;%k=%s;c=d", "%k := \"%s\"", "put(\"%k\", \"%s\")", "- name: %k\n  value: %s\n"}
	return specimen{strings.NewReplacer("%k", front+prefix, "%s", made).Replace(forms[r.IntN(len(forms))]), made, true}
}

// tokenOf makes a token from its shape.
func tokenOf(r *rand.Rand, d *detector, prefix string) string {
	for {
		var lead, body string
		if d.lead != nil {
			lead = sampleOf(r, d.lead.set, d.lead.min)
		}
		for i := range d.parts {
			p := &d.parts[i]
			if p.lit != "" {
				body += p.lit
				continue
			}
			body += sampleOf(r, p.set, p.min+r.IntN(min(p.max, p.min+50)-p.min+1))
		}
		if (!d.digit || strings.ContainsAny(body, "0123456789")) && shannon([]byte(body)) >= d.floor {
			return lead + prefix + body
		}
	}
}

func sampleOf(r *rand.Rand, s set, n int) string {
	var of []byte
	for c := range 128 {
		if classOf[c]&s != 0 && c != '=' {
			of = append(of, byte(c))
		}
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = of[r.IntN(len(of))]
	}
	return string(b)
}

func pem(r *rand.Rand) string {
	body := wrap(sampleOf(r, alnum|plus|slash, 300), 64, "\n")
	return "-----BEGIN RSA " + "PRIVATE KEY-----\n" + body + "\n-----END RSA PRIVATE KEY-----"
}
