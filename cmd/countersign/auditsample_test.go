package main

import (
	"crypto/ed25519"
	"encoding/json"
	"encoding/pem"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/gitsync"
	"countersign/rules"
)

// sampleRecord is a record as enforcers write it, with entries made up here: the
// repository, bare, and how to write on.
type sampleRecord struct {
	t    *testing.T
	dir  string // the repository
	repo *gitsync.Repo
	key  ed25519.PrivateKey
	logs []*sampleLog
}

type sampleLog struct {
	*sampleRecord
	journal *audit.Journal
	pub     *audit.Publisher
	now     time.Time
}

func newSampleRecord(t *testing.T) *sampleRecord {
	t.Helper()
	r := &sampleRecord{t: t, dir: filepath.Join(t.TempDir(), "audit.git")}
	_, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	if r.repo, err = gitsync.OpenAudit(gitsync.AuditConfig{Dir: r.dir, KeyPEM: pem.EncodeToMemory(block), Name: "sample", Email: "sample@countersign.invalid"}); err != nil {
		t.Fatal(err)
	}
	if _, r.key, err = ed25519.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, l := range r.logs {
			if err := l.journal.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := r.repo.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// log begins a run of an enforcer.
func (r *sampleRecord) log(enforcer, run, at string) *sampleLog {
	r.t.Helper()
	l := &sampleLog{sampleRecord: r}
	l.at(at)
	var err error
	if l.journal, err = audit.Open(audit.Config{Dir: r.t.TempDir(), Enforcer: enforcer, Incarnation: run, Now: func() time.Time { return l.now }}); err != nil {
		r.t.Fatal(err)
	}
	r.logs = append(r.logs, l)
	if l.pub, err = audit.NewPublisher(audit.PublisherConfig{Journal: l.journal, Store: r.repo, Signer: audit.KeySigner(r.key), Now: func() time.Time { return l.now }}); err != nil {
		r.t.Fatal(err)
	}
	return l
}

// at sets the clock.
func (l *sampleLog) at(text string) {
	l.t.Helper()
	t, err := time.Parse("2006-01-02 15:04:05.999", text)
	if err != nil {
		l.t.Fatal(err)
	}
	l.now = t
}

func (l *sampleLog) write(entries ...audit.Entry) {
	l.t.Helper()
	for _, e := range entries {
		if _, err := l.journal.Append(l.t.Context(), e); err != nil {
			l.t.Fatal(err)
		}
		l.now = l.now.Add(7 * time.Millisecond)
	}
}

func (l *sampleLog) commit() {
	l.t.Helper()
	if err := l.pub.Commit(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
}

const (
	samplePolicy  = "3f9c2e1b7a604d5f8e9012ab34cd56ef78901234"
	sampleSession = "5f0c9a77d1e24b63"
	sampleHolder  = "b81d0e6f42a97c35"
)

// sample writes what the tests of reading look at: alice reads, writes after dana
// has approved, and is denied; bob is refused by prod; somebody means harm.
func sample(t *testing.T) *sampleRecord {
	t.Helper()
	r := newSampleRecord(t)
	demo := r.log("demo", "r_k3v9", "2026-11-23 14:30:58.2")
	prod := r.log("prod", "r_q7wn", "2026-11-23 14:31:00")
	alice := audit.Entry{Policy: samplePolicy, Issuer: "https://id.example.com", Sub: "alice", Client: "ide", Holder: sampleHolder, Session: sampleSession,
		Server: "customers", Method: "tools/call", Tool: "query"}
	with := func(e audit.Entry, change func(*audit.Entry)) audit.Entry { change(&e); return e }
	intent := func(call, args string, rule string) audit.Entry {
		return with(alice, func(e *audit.Entry) {
			e.Kind, e.Call, e.Args, e.Effect, e.Rules, e.Digest = audit.KindIntent, call, args, "allow", []string{rule}, "hmac-sha256:00"
			e.Trace = []audit.Step{{Rule: rule, Effect: "allow"}}
		})
	}
	outcome := func(call, status, result string, ms float64) audit.Entry {
		return with(alice, func(e *audit.Entry) {
			e.Kind, e.Call, e.Status, e.Result, e.Millis, e.Bytes = audit.KindOutcome, call, status, result, ms, int64(len(result))
			e.Timings = []audit.Timing{{Part: "upstream", Millis: ms / 2}, {Part: "record", Millis: 0.8}}
		})
	}
	demo.write(audit.Entry{Kind: audit.KindPolicy, Policy: samplePolicy, Status: "accepted"})
	demo.at("2026-11-23 14:31:07")
	demo.write(intent("c_4kq2m7xw3ta6", `{"sql":"SELECT name, mail FROM customers LIMIT 2"}`, "pg-read"))
	demo.write(with(outcome("c_4kq2m7xw3ta6", "ok", `{"content":[{"type":"text","text":"Ada, [masked: email]"}]}`, 12.25), func(e *audit.Entry) {
		e.Masked = []audit.Masked{{Detector: "email", Place: "result.content[0].text", Count: 2}}
	}))
	demo.commit()
	prod.at("2026-11-23 14:31:09")
	prod.write(audit.Entry{Kind: audit.KindRefused, Call: "c_bobs4dropxyz", Policy: samplePolicy, Issuer: "https://id.example.com", Sub: "bob", Client: "bot", Server: "billing",
		Method: "tools/call", Tool: "drop", Effect: "deny", Rules: []string{"no-drops"}, Reason: "Dropping tables is not for agents", Args: `{"table":"invoices"}`, Status: "refused", Millis: 0.31})
	prod.commit()
	// A write that dana approves.
	demo.at("2026-11-23 14:32:10")
	const id = "ap_7f2kqm3x"
	asked := approval.Approval{ID: id, State: approval.Pending, Created: demo.now, Request: approval.Request{Client: "ide", Server: "customers", Tool: "query",
		Args: `{"sql":"UPDATE customers SET tier = 'gold' WHERE id = 7"}`, Does: []string{"changes rows of customers"}, Expires: demo.now.Add(15 * time.Minute), Call: "c_updxw3t4kq2m",
		Asks: []rules.Ask{{Rule: "pg-write", Reason: "Writing needs a DBA", Approvers: "dba", Quorum: 1}}}}
	event := func(a approval.Approval, status string) audit.Entry {
		detail, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		return with(alice, func(e *audit.Entry) {
			e.Kind, e.Call, e.Approval, e.Status, e.Detail, e.Session, e.Holder = audit.KindApproval, a.Call, a.ID, status, detail, "", ""
		})
	}
	demo.write(event(asked, approval.EventAsked))
	demo.at("2026-11-23 14:32:41.5")
	granted := asked
	granted.State, granted.Votes = approval.Approved, []approval.Vote{{Person: "dana", Issuer: "https://id.example.com", Sub: "d-17", Sets: []string{"dba"}, Approve: true, Via: "slack", At: demo.now, Shown: "9be1"}}
	demo.write(event(granted, approval.EventApproved))
	demo.write(with(intent("c_updxw3t4kq2m", asked.Args, "pg-write"), func(e *audit.Entry) {
		e.Effect, e.Approval, e.Credential, e.Reason = "approve", id, "pg-admin", "Writing needs a DBA"
		e.Trace = []audit.Step{{Rule: "pg-write", Effect: "approve", Why: "statements.exists(s, s.writes)"}, {Rule: "pg-read", Effect: "", Why: "no such key: sql"}}
	}))
	demo.write(audit.Entry{Kind: audit.KindCredential, Call: "c_updxw3t4kq2m", Policy: samplePolicy, Credential: "pg-admin", Lease: "database/creds/admin/Xy7", Status: "mint"})
	demo.write(with(outcome("c_updxw3t4kq2m", "ok", `{"content":[{"type":"text","text":"1 row"}]}`, 31540), func(e *audit.Entry) {
		e.Approval, e.Credential, e.Lease = id, "pg-admin", "database/creds/admin/Xy7"
		e.Timings = []audit.Timing{{Part: "wait", Millis: 31500}, {Part: "credential", Millis: 22.5}, {Part: "upstream", Millis: 11}}
		e.Splices = []audit.Splice{{What: "credential", Where: "params.arguments.password"}}
	}))
	demo.write(audit.Entry{Kind: audit.KindCredential, Call: "c_updxw3t4kq2m", Policy: samplePolicy, Credential: "pg-admin", Lease: "database/creds/admin/Xy7", Status: "revoke"})
	demo.at("2026-11-23 14:40:00")
	demo.write(with(alice, func(e *audit.Entry) {
		e.Kind, e.Call, e.Effect, e.Rules, e.Reason = audit.KindRefused, "c_denied9hashes", "deny", []string{"no-credential-tables"}, "These tables hold password hashes"
		e.Args, e.Status, e.Millis = `{"sql":"SELECT * FROM pg_shadow"}`, "refused", 0.4
		e.Trace = []audit.Step{{Rule: "no-credential-tables", Effect: "deny", Why: "reads pg_shadow"}}
	}))
	demo.commit()
	// Text that would take over a terminal, a table or a spreadsheet.
	prod.at("2026-11-24 09:00:00")
	prod.write(audit.Entry{Kind: audit.KindRefused, Call: "c_evil\x1b[2J", Sub: "=HYPERLINK(\"http://x\")\u202e", Client: "\x9b31m\nfake line", Server: "billing", Method: "tools/call",
		Tool: string(make([]byte, 40)), Effect: "deny", Reason: "\x1b]0;owned\x07" + string(make([]byte, 60)), Args: "+1+cmd|' /C calc'!A0", Status: "refused", Millis: 0.2})
	prod.commit()
	return r
}
