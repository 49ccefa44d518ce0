package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"countersign/audit"
	"countersign/enforcer"
	"countersign/enforcer/approval"
	"countersign/enforcer/kv"
	"countersign/rules"
)

// The record of a vote says who gave it, how that is known, by which message and
// button, what they were shown, and how long they took; that of a sign-in and of
// a link, who was linked to whom. This is the JSON that an auditor reads: change
// it, and what they wrote for it breaks.
func TestTheRecordOfAVote(t *testing.T) {
	now := time.Date(2026, 3, 1, 14, 0, 0, 0, time.UTC)
	journal, err := audit.Open(audit.Config{Dir: t.TempDir(), Enforcer: "test", Incarnation: "r1", Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = journal.Close() })
	store, err := kv.OpenEmbedded(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	bucket := func(name string) *kv.Bucket {
		b, err := store.Bucket(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	commit := strings.Repeat("c", 40)
	p, err := rules.Load(fstest.MapFS{
		"countersign.yaml": {Data: []byte("version: 1\n")},
		"servers/db.yaml":  {Data: []byte("server: db\nurl: http://127.0.0.1:1/mcp\n")},
		"approvers.yaml": {Data: []byte(`
sets: { dba: { groups: [{ issuer: "https://id.example", group: dbas }], channel: C0DBA }, keys: { groups: [{ issuer: "https://id.example", group: dbas }], approve_via: oidc } }
links: { login: true }
`)},
	}, commit)
	if err != nil {
		t.Fatal(err)
	}
	logins := approval.NewLogins(approval.LoginsConfig{Bucket: bucket("logins"), Now: func() time.Time { return now }, Record: func(ctx context.Context, e approval.LoginEvent) error {
		return recordLogin(ctx, journal, e, commit)
	}})
	book := approval.New(approval.Config{Bucket: bucket("approvals"), Logins: logins, Now: func() time.Time { return now }, ID: func() string { return "ap_1" },
		Log: slog.New(slog.DiscardHandler), Record: func(ctx context.Context, a approval.Approval, event string) error {
			return recordApproval(ctx, journal, a, event, enforcer.NewNames(make([]byte, 32), nil), p)
		}})
	gail := approval.Login{ID: "l_1", Issuer: "https://id.example", Sub: "u-17", Name: "Gail", Email: "gail@example.com", Groups: []string{"dbas"},
		ACR: "phr", AMR: []string{"hwk", "pin"}, AuthTime: now.Add(-time.Minute), At: now}
	if err := logins.Put(t.Context(), gail); err != nil {
		t.Fatal(err)
	}
	if err := logins.Link(t.Context(), "T0TEST", "U0GAIL", gail); err != nil {
		t.Fatal(err)
	}
	ask := func(set string) rules.Ask {
		return rules.Ask{Rule: "writes", Reason: "Writes need a DBA", File: "rules/r.yaml", Line: 1, Approvers: set, Quorum: 2}
	}
	a, _, err := book.Ask(t.Context(), approval.Request{Subject: rules.Subject{Issuer: "https://id.example", Sub: "alice"}, Client: "desk", Server: "db", Method: "tools/call", Tool: "query",
		Holder: "h1", Digest: "hmac-sha256:1", Args: "sql: DELETE FROM t", Asks: []rules.Ask{ask("dba"), ask("keys")}, RulesDigest: "sha256:2", Policy: commit, Expires: now.Add(15 * time.Minute), Call: "c_1"})
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(90 * time.Second)
	if _, err := book.Vote(t.Context(), a.ID, approval.Vote{Approve: true, Via: approval.ViaSlack, Shown: a.Shows(),
		Slack: &approval.SlackProof{Team: "T0TEST", User: "U0GAIL", Channel: "C0DBA", MessageTS: "1.2", ActionTS: "3.4", PayloadHash: "sha256:5"}}, p); err != nil {
		t.Fatal(err)
	}
	hugo := gail
	hugo.ID, hugo.Sub, hugo.Email, hugo.AuthTime, hugo.At = "l_2", "u-18", "", now, now
	if err := logins.Put(t.Context(), hugo); err != nil {
		t.Fatal(err)
	}
	if _, err := book.Vote(t.Context(), a.ID, approval.Vote{Issuer: hugo.Issuer, Sub: hugo.Sub, Via: approval.ViaOIDC, Reason: "Not on a Friday", Login: hugo.Proof("192.0.2.7", "page")}, p); err != nil {
		t.Fatal(err)
	}

	var kinds []string
	details := map[string]map[string]any{}
	for en, err := range journal.Read() {
		if err != nil {
			t.Fatal(err)
		}
		if en.Kind != audit.KindApproval && en.Kind != audit.KindLogin {
			continue
		}
		kinds = append(kinds, string(en.Kind)+" "+en.Status)
		var d map[string]any
		if err := json.Unmarshal(en.Detail, &d); err != nil {
			t.Fatal(err)
		}
		details[en.Status] = d
		if en.Policy != commit {
			t.Errorf("%s under policy %q", en.Status, en.Policy)
		}
	}
	if got, want := strings.Join(kinds, ", "), "login signed-in, login linked, approval asked, approval voted, login signed-in, approval denied"; got != want {
		t.Errorf("%s", got)
	}
	votes, ok := details["denied"]["votes"].([]any)
	if !ok || len(votes) != 2 {
		t.Fatalf("%v", details["denied"])
	}
	for i, want := range []string{
		`{"person":"","issuer":"https://id.example","sub":"u-17","email":"gail@example.com","sets":["dba"],"approve":true,"via":"slack","at":"2026-03-01T14:01:30Z","linked":"login",
		  "slack":{"team":"T0TEST","user":"U0GAIL","channel":"C0DBA","message_ts":"1.2","action_ts":"3.4","payload_hash":"sha256:5"},"shown":"` + a.Shows() + `","waited_ns":90000000000}`,
		`{"person":"","issuer":"https://id.example","sub":"u-18","sets":["dba","keys"],"approve":false,"reason":"Not on a Friday","via":"oidc","at":"2026-03-01T14:01:30Z",
		  "login":{"id":"l_2","acr":"phr","amr":["hwk","pin"],"auth_time":"2026-03-01T14:01:30Z","at":"2026-03-01T14:01:30Z","source":"192.0.2.7","door":"page"},"waited_ns":90000000000}`,
	} {
		var w any
		if err := json.Unmarshal([]byte(want), &w); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(votes[i], w) {
			t.Errorf("recorded %v\nwant     %v", votes[i], w)
		}
	}
	if d := details["linked"]; d["team"] != "T0TEST" || d["user"] != "U0GAIL" || d["login"].(map[string]any)["sub"] != "u-17" || d["event"] != "linked" {
		t.Errorf("%v", d)
	}
}
