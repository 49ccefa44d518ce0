package approval_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"countersign/enforcer/approval"
	"countersign/enforcer/kv"
	"countersign/rules"
)

const linkPolicy = `
people:
  bob:   { issuer: https://id.example, sub: bob, slack: { team: T0TEST, user: U0BOB } }
  carol: { issuer: https://id.example, sub: carol }
sets: { dba: { members: [bob], channel: C0DBA } }
links: { login: true }
`

func TestLinking(t *testing.T) {
	store, err := kv.OpenEmbedded(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	bucket, err := store.Bucket(t.Context(), "logins")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	logins := approval.NewLogins(approval.LoginsConfig{Bucket: bucket, Now: func() time.Time { return now }, Record: func(context.Context, approval.LoginEvent) error { return nil }})
	load := func(approvers string) *rules.Policy {
		p, err := rules.Load(fstest.MapFS{"countersign.yaml": {Data: []byte("version: 1\n")}, "approvers.yaml": {Data: []byte(approvers)}}, strings.Repeat("a", 40))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := load(linkPolicy)
	l := approval.Linking{Logins: logins, Seal: seal(t, 1)}
	signIn := func(sub string) approval.Login {
		login := approval.Login{ID: "li_" + sub, Issuer: issuer, Sub: sub, AuthTime: now, At: now}
		if err := logins.Put(t.Context(), login); err != nil {
			t.Fatal(err)
		}
		return login
	}
	carol, dave := signIn("carol"), signIn("dave")
	begin := func(user string) string {
		token, err := l.Begin(p, approval.SlackUser{Team: "T0TEST", User: user, Name: "x"})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	offer := func(token string, who approval.Login) string {
		code, err := l.Offer(t.Context(), p, token, who)
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
	refused := func(name string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	accept := func(user, code string) error {
		_, err := l.Accept(t.Context(), p, "T0TEST", user, code)
		return err
	}

	// Mallory sends her own link to carol, who confirms it, and then does in
	// Slack, as herself, what the page says.
	token := begin("U0MALLORY")
	code := offer(token, carol)
	refused("as another Slack user", accept("U0CAROL", code), approval.ErrLinkCode)
	for range 5 {
		refused("guessed", accept("U0MALLORY", "AAAA-AAAA"), approval.ErrLinkCode)
	}
	refused("after five guesses", accept("U0MALLORY", code), approval.ErrLinkCode)
	_, err = l.Offer(t.Context(), p, token, carol)
	refused("a token twice", err, approval.ErrLinkToken)

	// Carol links herself, spelling the code as people do; once.
	code = offer(begin("U0CAROL"), carol)
	if who, err := l.Accept(t.Context(), p, "T0TEST", "U0CAROL", " "+strings.ToLower(strings.Replace(code, "-", " ", 1))); err != nil || who.Sub != "carol" {
		t.Fatalf("%+v, %v", who, err)
	}
	refused("a code twice", accept("U0CAROL", code), approval.ErrLinkCode)
	refused("a second Slack user", accept("U0SECOND", offer(begin("U0SECOND"), carol)), approval.ErrLinked)
	refused("a Slack user of another's", accept("U0CAROL", offer(begin("U0CAROL"), dave)), approval.ErrLinked)

	// Whom policy links stays whom policy says.
	_, err = l.Begin(p, approval.SlackUser{Team: "T0TEST", User: "U0BOB"})
	refused("a user of policy's", err, approval.ErrLinked)
	_, err = l.Offer(t.Context(), p, begin("U0NEW"), signIn("bob"))
	refused("a person of policy's", err, approval.ErrLinked)

	// Times.
	token = begin("U0DAVE")
	code = offer(token, dave)
	now = now.Add(10 * time.Minute)
	refused("a code too late", accept("U0DAVE", code), approval.ErrLinkCode)
	_, err = l.Offer(t.Context(), p, token, dave)
	refused("a token too late", err, approval.ErrLinkToken)
	_, err = l.Read(p, "made-up")
	refused("a made-up token", err, approval.ErrLinkToken)
	_, err = l.Begin(p, approval.SlackUser{Team: "T0", User: "../x"})
	refused("a made-up user", err, approval.ErrLogin)

	off := load(strings.Replace(linkPolicy, "login: true", "login: false", 1))
	_, err = l.Begin(off, approval.SlackUser{Team: "T0TEST", User: "U0DAVE"})
	refused("switched off", err, approval.ErrLinkOff)
	_, err = l.Accept(t.Context(), off, "T0TEST", "U0DAVE", code)
	refused("switched off meanwhile", err, approval.ErrLinkOff)
	_, err = l.Begin(nil, approval.SlackUser{Team: "T0TEST", User: "U0DAVE"})
	refused("no policy", err, approval.ErrLinkOff)
}
