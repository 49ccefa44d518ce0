package gitsync

import (
	"context"
	"strings"
	"testing"
)

// A secret in a URL would be in logs and errors. It is refused, by an error
// that does not show it.
func TestNoSecretInURL(t *testing.T) {
	const secret = "s3cr3t-t0ken"
	for raw, words := range map[string]string{
		"https://" + secret + "@git.example/o/r":            "put the token in …_GIT_TOKEN",
		"https://x:" + secret + "@git.example/o/r":          "put the token in …_GIT_TOKEN",
		"https://" + secret + ":@git.example/o/r":           "put the token in …_GIT_TOKEN",
		"HTTPS://" + secret + "@git.example/o/r":            "put the token in …_GIT_TOKEN",
		"http://" + secret + "@127.0.0.1:8080/o/r":          "put the token in …_GIT_TOKEN",
		"https://@git.example/o/r":                          "put the token in …_GIT_TOKEN",
		"https://x:" + secret + "%zz@git.example/o/r":       "cannot be parsed",
		"https://x:" + secret + "@git.example:port/o/r":     "cannot be parsed",
		"https://x:" + secret + "@git.example/o/r\x7f":      "cannot be parsed",
		"https:" + secret + "@git.example/o/r":              "has no host",
		"https:x:" + secret + "@git.example:o/r":            "has no host",
		"https:///" + secret + "@git.example/o/r":           "has no host",
		"ssh://git:" + secret + "@git.example/o/r":          "carries a password",
		"git:" + secret + "@git.example:o/r":                "carries a password",
		"ssh://git:" + secret + "@git.example:port/o/r.git": "cannot be parsed",
	} {
		if r, err := newRemote(raw, Auth{}); err == nil || r != nil || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", strings.ReplaceAll(raw, secret, "…"), err)
		}
		if _, err := OpenClone(context.Background(), raw, Auth{}); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("clone %s: %v", strings.ReplaceAll(raw, secret, "…"), err)
		}
		if h := Host(raw); h != "" {
			t.Errorf("%s is at %s", strings.ReplaceAll(raw, secret, "…"), h)
		}
	}
	_, keyPEM := appKey(t)
	for _, api := range []string{"https://" + secret + "@api.example", "https://x:" + secret + "@api.example:port"} {
		a := newApp(1, 2, keyPEM, api, nil)
		if a.err == nil || strings.Contains(a.err.Error(), secret) {
			t.Error(a.err)
		}
	}
}

func TestHost(t *testing.T) {
	for raw, want := range map[string]string{
		"https://github.com/o/r":             "github.com",
		"https://GitHub.COM:443/o/r.git":     "github.com",
		"https://github.com:8443/o/r":        "github.com:8443",
		"http://127.0.0.1:80/o/r":            "127.0.0.1",
		"http://github.com:443/o/r":          "github.com:443",
		"git@github.com:o/r.git":             "github.com",
		"ssh://git@github.com/o/r":           "github.com",
		"ssh://git@ssh.github.com:443/o/r":   "ssh.github.com:443",
		"https://github.com.evil.example/o":  "github.com.evil.example",
		"https://evil.example/github.com/":   "evil.example",
		"https://evil.example#@github.com/o": "evil.example",
		`https://evil.example\@github.com/o`: "",
		"https://github.com@evil.example/o":  "",
		"https://[::1]:3000/o/r":             "[::1]:3000",
		"/srv/git/policy.git":                "",
		"file:///srv/git/policy.git":         "",
		"":                                   "",
		"://":                                "",
	} {
		if got := Host(raw); got != want {
			t.Errorf("%s is at %q, want %q", raw, got, want)
		}
	}
}
