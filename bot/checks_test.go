package bot_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"countersign/bot"
	"countersign/fixtures/github"
	"countersign/rules"
)

var (
	one   = strings.Repeat("1", 40)
	two   = strings.Repeat("2", 40)
	three = strings.Repeat("3", 40)
)

// checked runs Checks against a strict GitHub.
func checked(t *testing.T) (*bot.Checks, *github.Server, *clock, *logs) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c, log := &clock{now: time.Date(2026, 3, 1, 14, 0, 0, 0, time.UTC)}, &logs{}
	host := github.New(github.Config{App: 7, Installation: 8, Key: &key.PublicKey, Owner: "o", Repo: "policy", Now: c.Now, TokenLife: 1000 * time.Hour})
	t.Cleanup(host.Close)
	for _, commit := range []string{one, two, three} {
		host.AddCommit(commit)
	}
	token := func(ctx context.Context) (string, error) { return installationToken(ctx, host.URL, key, c.Now()) }
	checks, err := bot.NewChecks(bot.ChecksConfig{APIURL: host.URL, Owner: "o", Repo: "policy", Name: "prod", Token: token, Now: c.Now, Sleep: c.Sleep, Log: logger(log)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- checks.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	return checks, host, c, log
}

func installationToken(ctx context.Context, api string, key *rsa.PrivateKey, now time.Time) (string, error) {
	signed, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"iss": "7", "iat": now.Add(-time.Minute).Unix(), "exp": now.Add(5 * time.Minute).Unix()}).SignedString(key)
	if err != nil {
		return "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, api+"/app/installations/8/access_tokens", bytes.NewReader(nil))
	if err != nil {
		return "", err
	}
	r.Header.Set("Authorization", "Bearer "+signed)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	var body struct{ Token, Message string }
	err = errors.Join(json.NewDecoder(resp.Body).Decode(&body), resp.Body.Close())
	if err == nil && body.Token == "" {
		err = errors.New(body.Message)
	}
	return body.Token, err
}

// until waits for the host to show a run of the commit that satisfies cond.
func until(t *testing.T, c *clock, host *github.Server, commit string, cond func(github.Run) bool) github.Run {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		for _, r := range host.Runs() {
			if r.HeadSHA == commit && cond(r) {
				return r
			}
		}
		if err := c.Sleep(ctx, 0); err != nil {
			t.Fatalf("waiting: %v; runs: %+v", err, host.Runs())
		}
	}
}

// logged waits for the log to say something.
func logged(t *testing.T, c *clock, log *logs, what string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for !log.has(what) {
		if err := c.Sleep(ctx, 0); err != nil {
			t.Fatalf("waiting for %q in the log: %v", what, err)
		}
	}
}

func TestChecks(t *testing.T) {
	checks, host, c, _ := checked(t)
	any := func(github.Run) bool { return true }
	checks.InForce(one, "dana@example.com")
	r := until(t, c, host, one, any)
	if *r.Conclusion != "success" || r.Name != "Countersign / prod" || *r.Output.Title != "1111111 in force" || !strings.Contains(*r.Output.Summary, "    signed by dana@example.com") {
		t.Errorf("in force: %+v %s", r, *r.Output.Summary)
	}
	checks.Rejected(two, rules.Problems{{File: "rules/a.yaml", Line: 3, Column: 1, Msg: "duplicate id `x`\u202e"}, {File: "rules/b.yaml", Msg: "is empty"}})
	r = until(t, c, host, two, any)
	if *r.Conclusion != "failure" || !strings.Contains(*r.Output.Summary, `    rules/a.yaml:3:1: duplicate id `+"`x`"+`\u{202E}`) {
		t.Errorf("rejected: %+v %s", r, *r.Output.Summary)
	}
	checks.Checkpoint("prod/abc\n14\nroot=\n")
	r = until(t, c, host, one, func(r github.Run) bool { return strings.Contains(*r.Output.Summary, "    14\n") })
	if r.ID != host.Runs()[0].ID {
		t.Error("a second run on one commit")
	}
	checks.InForce(three, "")
	until(t, c, host, three, func(r github.Run) bool { return strings.Contains(*r.Output.Summary, "    14\n") })
	until(t, c, host, one, func(r github.Run) bool { return strings.Contains(*r.Output.Title, "replaced by 3333333") })
}

func TestChecksKeepTrying(t *testing.T) {
	checks, host, c, log := checked(t)
	host.SetDown(true)
	checks.InForce(one, "dana")
	logged(t, c, log, "could not be sent")
	host.SetDown(false)
	host.SetSecondaryLimit(90 * time.Second)
	checks.Rejected(two, errors.New("not signed"))
	for range 50 { // let it run into the limit
		if err := c.Sleep(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	host.SetSecondaryLimit(0)
	until(t, c, host, one, func(r github.Run) bool { return *r.Conclusion == "success" })
	until(t, c, host, two, func(r github.Run) bool { return *r.Conclusion == "failure" })
}

// A commit that the host does not know is given up, and holds nothing up.
func TestChecksUnknownCommit(t *testing.T) {
	checks, host, c, log := checked(t)
	checks.Rejected(strings.Repeat("f", 40), errors.New("not a descendant"))
	logged(t, c, log, "refused a check run")
	checks.InForce(one, "dana")
	until(t, c, host, one, func(github.Run) bool { return true })
}

func TestChecksNeedTheirConfig(t *testing.T) {
	if _, err := bot.NewChecks(bot.ChecksConfig{Owner: "o"}); err == nil {
		t.Error("no repository and no token, and no error")
	}
}
