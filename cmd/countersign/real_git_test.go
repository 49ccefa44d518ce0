package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"countersign/fixtures/githost"
	"countersign/fixtures/github"
	"countersign/fixtures/stage"
)

func newKey(t *testing.T, principal string) *githost.Key {
	t.Helper()
	k, err := githost.NewKey(rand.Reader, principal)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// put writes a file of the stage and returns its path.
func put(t *testing.T, s *stage.Stage, name string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(s.Path(name), content, 0o600); err != nil {
		t.Fatal(err)
	}
	return s.Path(name)
}

// branches counts those of the remote record.
func branches(t *testing.T, s *stage.Stage) int {
	t.Helper()
	return len(strings.Fields(git(t, s.Audit, "for-each-ref", "--format=%(refname)", "refs/heads/audit")))
}

// notReady waits until the program says, in /readyz, why it has no policy.
func notReady(p *program, words ...string) {
	p.t.Helper()
	var text string
	defer func() {
		if p.t.Failed() {
			p.t.Logf("/readyz: %s", text)
		}
	}()
	p.await(fmt.Sprintf("/readyz to say %q", words), func() bool {
		var status int
		status, text = p.get("/readyz")
		ok := status == http.StatusServiceUnavailable
		for _, w := range words {
			ok = ok && strings.Contains(text, w)
		}
		return ok
	})
}

func TestPolicyAndRecordOverSSH(t *testing.T) {
	s := newStage(t)
	mine := newKey(t, "enforcer")
	host, err := githost.ServeSSH(s.Dir, newKey(t, "host"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	host.Authorize(mine)
	stranger, err := githost.ServeSSH(s.Dir, newKey(t, "stranger"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stranger.Close(); err != nil {
			t.Error(err)
		}
	})
	env := func(more map[string]string) map[string]string {
		all := map[string]string{"COUNTERSIGN_AUDIT_WINDOW": "200ms", "COUNTERSIGN_STATE_DIR": t.TempDir(),
			"COUNTERSIGN_POLICY_REPO": host.URL("policy.git"), "COUNTERSIGN_AUDIT_REPO": host.URL("audit.git"),
			"COUNTERSIGN_GIT_SSH_KEY_FILE":     put(t, s, "ssh_key", mine.PEM()),
			"COUNTERSIGN_GIT_KNOWN_HOSTS_FILE": put(t, s, "known_hosts", host.KnownHosts()),
		}
		for k, v := range more {
			all[k] = v
		}
		return all
	}
	t.Run("a host with another key is not talked to", func(t *testing.T) {
		// The line that names this host, with the key of another: somebody in between.
		line := strings.Replace(string(stranger.KnownHosts()), stranger.Addr[strings.LastIndex(stranger.Addr, ":"):], host.Addr[strings.LastIndex(host.Addr, ":"):], 1)
		p := starting(t, s, env(map[string]string{"COUNTERSIGN_GIT_KNOWN_HOSTS_FILE": put(t, s, "wrong_hosts", []byte(line))}))
		notReady(p, "host key is not the one in the known hosts")
		p.kill()
	})
	t.Run("a host without a known key is not talked to", func(t *testing.T) {
		p := starting(t, s, env(map[string]string{"COUNTERSIGN_GIT_KNOWN_HOSTS_FILE": put(t, s, "other_hosts", stranger.KnownHosts())}))
		<-p.done
		if code := p.cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(p.log.String(), "known hosts have no key for ["+strings.Replace(host.Addr, ":", "]:", 1)) {
			t.Errorf("exit %d\n%s", code, p.log)
		}
	})
	t.Run("a key that the host does not know", func(t *testing.T) {
		p := starting(t, s, env(map[string]string{"COUNTERSIGN_GIT_SSH_KEY_FILE": put(t, s, "unknown_key", newKey(t, "nobody").PEM())}))
		notReady(p, "refuses our credential")
		p.kill()
	})
	t.Run("both repositories", func(t *testing.T) {
		p := serving(t, s, env(nil))
		if text, isErr := call(t, p.client("customers", p.token("alice", "support")), "query", "SELECT name FROM customers LIMIT 1"); isErr {
			t.Errorf("%s", text)
		}
		p.await("the record at the host", func() bool { return branches(t, s) > 0 })
		next := commit(t, s, "Nothing but a comment", map[string]string{"rules/empty.yaml": "# nothing yet\n[]\n"})
		p.await("the next policy", func() bool { _, text := p.get("/readyz"); return strings.Contains(text, next) })
		p.stop()
		if len(recorded(t, s)) == 0 {
			t.Error("the record did not arrive")
		}
	})
}

func TestGitTokenRefused(t *testing.T) {
	s := newStage(t)
	const right, wrong = "the-right-token-for-git", "a-wrong-token-for-git"
	host, err := githost.ServeHTTP(s.Dir, "x-access-token", right)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Close)
	env := map[string]string{"COUNTERSIGN_POLICY_REPO": host.URL + "/policy.git", "COUNTERSIGN_AUDIT_REPO": host.URL + "/audit.git", "COUNTERSIGN_AUDIT_WINDOW": "200ms"}
	for name, token := range map[string]string{"a wrong token": wrong, "no token": ""} {
		t.Run(name, func(t *testing.T) {
			env["COUNTERSIGN_GIT_TOKEN"], env["COUNTERSIGN_STATE_DIR"] = token, t.TempDir()
			p := starting(t, s, env)
			notReady(p, "refuses our credential")
			if strings.Contains(p.log.String(), wrong) {
				t.Error("the log holds the token")
			}
			p.kill()
		})
	}
	t.Run("each repository has its own", func(t *testing.T) {
		env["COUNTERSIGN_GIT_TOKEN"], env["COUNTERSIGN_STATE_DIR"] = wrong, t.TempDir()
		env["COUNTERSIGN_POLICY_GIT_TOKEN"], env["COUNTERSIGN_AUDIT_GIT_TOKEN"] = right, right
		p := serving(t, s, env)
		p.await("the record at the host", func() bool { return branches(t, s) > 0 })
		p.stop()
	})
}

// A GitHub App: its tokens fetch the policy and push the record, and its check runs show on the
// policy's commits what the enforcer made of them.
func TestGitHubApp(t *testing.T) {
	s := newStage(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	api := github.New(github.Config{App: 7, Installation: 8, Key: &key.PublicKey, Owner: "acme", Repo: "policy", Now: time.Now})
	t.Cleanup(api.Close)
	api.AddCommit(s.PolicyTip)
	const inside = "behind-the-front"
	host, err := githost.ServeHTTP(s.Dir, "x-access-token", inside)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Close)
	// One host for API and Git, as with GitHub Enterprise: Git takes the tokens that the API issued.
	to := func(raw string) *httputil.ReverseProxy {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		return httputil.NewSingleHostReverseProxy(u)
	}
	toAPI, toGit := to(api.URL), to(host.URL)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/app/") || strings.HasPrefix(r.URL.Path, "/repos/") {
			toAPI.ServeHTTP(w, r)
			return
		}
		if user, token, _ := r.BasicAuth(); user == "x-access-token" && api.ValidToken(token) {
			r.SetBasicAuth("x-access-token", inside)
		}
		toGit.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { front.CloseClientConnections(); front.Close() })
	der := x509.MarshalPKCS1PrivateKey(key)
	p := serving(t, s, map[string]string{
		"COUNTERSIGN_POLICY_REPO": front.URL + "/policy.git", "COUNTERSIGN_AUDIT_REPO": front.URL + "/audit.git",
		"COUNTERSIGN_GITHUB_APP_ID": "7", "COUNTERSIGN_GITHUB_INSTALLATION_ID": "8",
		"COUNTERSIGN_GITHUB_PRIVATE_KEY_FILE": put(t, s, "app.pem", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: der})),
		"COUNTERSIGN_GITHUB_CHECKS_REPO":      "acme/policy", "COUNTERSIGN_GITHUB_API_URL": front.URL,
		"COUNTERSIGN_AUDIT_WINDOW": "200ms",
	})
	run := func(commit string) (r github.Run) {
		for _, have := range api.Runs() {
			if have.HeadSHA == commit {
				r = have
			}
		}
		return r
	}
	is := func(commit, conclusion string, words ...string) func() bool {
		return func() bool {
			r := run(commit)
			ok := r.Conclusion != nil && *r.Conclusion == conclusion && r.Output.Summary != nil && r.Output.Title != nil
			for _, w := range words {
				ok = ok && strings.Contains(*r.Output.Title+"\n"+*r.Output.Summary, w)
			}
			return ok
		}
	}
	first := s.PolicyTip
	p.await("the first policy to be shown in force", is(first, "success", "in force", "dana@example.com"))
	if name := run(first).Name; name != "Countersign / "+stage.EnforcerN {
		t.Errorf("the check is called %q", name)
	}
	p.await("the record at the host", func() bool { return branches(t, s) > 0 })

	second := commit(t, s, "Nothing but a comment", map[string]string{"rules/empty.yaml": "# nothing yet\n[]\n"})
	api.AddCommit(second)
	p.await("the second policy, with the record's checkpoint", is(second, "success", "in force", "Newest checkpoint", stage.EnforcerN+"/"))
	p.await("the first to be replaced", is(first, "success", "was in force, replaced by "+second[:7]))

	typo := commit(t, s, "With a typo", map[string]string{"rules/empty.yaml": "- id: x\n  sever: customers\n"})
	api.AddCommit(typo)
	p.await("the typo to be shown", is(typo, "failure", "rejected", "rules/empty.yaml:2:3"))
	unsigned, err := s.Policy.Commit(map[string][]byte{"rules/empty.yaml": []byte("[]\n")}, "Unsigned\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	api.AddCommit(unsigned)
	p.await("the unsigned commit to be shown", is(unsigned, "failure", "rejected", "sign"))
	if _, text := p.get("/readyz"); !strings.Contains(text, `"policy": "`+second+`"`) {
		t.Errorf("the last good policy does not stay: %s", text)
	}
	p.stop()
	if strings.Contains(p.log.String()+git(t, s.Audit, "log", "-p", "--all"), "ghs_") {
		t.Error("a token stands in the log or the record")
	}
}
