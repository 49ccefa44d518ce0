package main

import (
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"countersign/audit"
	"countersign/fixtures/port"
	"countersign/fixtures/slack"
	"countersign/fixtures/stage"
)

// The witness that the page sets up; it has cosigned the record from its first entry on.
const (
	witnessKey  = "ssh-keygen -q -t ed25519 -N '' -C witness -f witness_key"
	witnessRuns = "countersign audit witness --name witness.auditor.example/w1 --key witness_key --logs logs --dir witness"
)

// sealedBodies is a policy that keeps bodies, for a key alone.
const sealedBodies = "version: 1\napprovals: { hold: 45s, expires: 15m }\nrecord: { bodies: full, recipients: [%q] }\n"

// The pages about the record: a real one, of calls that were allowed, denied and approved, with
// bodies, some of them sealed, and cosigned by a witness; each command run on a clone of it.
func TestTheRecordsPages(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.must(witnessKey)
	u := newProbe(t)
	st := probeStage(t, u, "45s")
	vkey, witnesses := cosigned(s, st)
	s.write("witnesses", witnesses, 0o600)
	amend(t, st, st.Dana, map[string]string{
		"countersign.yaml": "version: 1\napprovals: { hold: 45s, expires: 15m }\nrecord: { bodies: full }\n",
		"rules/quiet.yaml": "- { id: probe-quiet, server: probe, tool: quiet, effect: allow, record: digest }\n",
	})
	more := map[string]string{"COUNTERSIGN_AUDIT_WITNESSES": s.path("witnesses"), "COUNTERSIGN_AUDIT_WINDOW": "200ms"}
	p := serving(t, st, more)
	made := callsForTheRecord(s, st, u, p)
	inForce := p.readiness().Policy
	p.stop()

	// What an auditor has: the addresses of both repositories, and the operator's files.
	s.must("rm -r $HOST/countersign-record.git && ln -s '" + st.Audit + "' $HOST/countersign-record.git")
	s.must("git clone -q '" + st.Policy.Dir + "' policy")
	s.must("cp '" + st.Path("audit_signers") + "' '" + st.Path("policy_signers") + "' . && cp '" + st.Path("checkpoint.pub") + "' checkpoint_key.pub")

	real := strings.NewReplacer("c_4kq2…", made.spent, "c_9xw3…", made.sealed, "c_7mv5…", made.digested, "5f0c…", made.session, "<digest>", made.digest, "https://id.example.com", st.Issuer.URL)
	run := func(_ *shell, c string) string { return real.Replace(c) }
	inState := func(_ *shell, c string) string {
		return "COUNTERSIGN_STATE_DIR='" + st.Path("state") + "' " + real.Replace(c)
	}
	in := func(dir string) func(*shell, string) string {
		return func(_ *shell, c string) string { return "(cd " + dir + " && " + c + ")" }
	}
	mentioned := func(where string) shown {
		return shown{instead: "stands in a sentence; " + where, check: func(*shell) {}}
	}
	const verify = "countersign audit verify --repo audit --commit-signers audit_signers --checkpoint-key checkpoint_key.pub"
	const ask = "SELECT sub, count(*) FROM entries WHERE decision = 'deny' GROUP BY sub"
	s.page("docs/record.md", map[string]shown{
		"git clone -q --no-checkout https://github.com/example/countersign-record.git audit": {},
		"countersign audit key": mentioned("run with its flag"),
		"countersign audit key --dir .": {run: func(_ *shell, c string) string { // what is verified below, by what it writes
			return "rm audit_signers checkpoint_key.pub && " + fmt.Sprintf("COUNTERSIGN_ID=%s COUNTERSIGN_AUDIT_COMMIT_KEY_FILE='%s' COUNTERSIGN_AUDIT_CHECKPOINT_KEY_FILE='%s' %s", stage.EnforcerN, st.Path("commit_key"), st.Path("checkpoint_key"), c)
		}},
		"countersign audit schema": {says: `"$id": "urn:countersign:record:entry:2"`},
		"branch=$(git -C audit for-each-ref --format='%(refname)' refs/remotes/origin/bodies | tail -n 1)": {},
		`path=$(git -C audit ls-tree -r --name-only "$branch" | grep <digest>)`:                            {run: run},
		`git -C audit show "$branch:$path" | tail -n +2 | gunzip`:                                          {says: "ran spend"},
		"countersign audit show c_4kq2… --repo audit --bodies":                                             {says: `"text":"ran spend"`, run: run},
		"countersign audit show c_9xw3… --repo audit --identity ~/.ssh/id_ed25519": {says: `"text":"ran echo"`, run: func(s *shell, c string) string {
			if out := s.must(real.Replace("countersign audit show c_9xw3… --repo audit --bodies")); !strings.Contains(out, "sealed; --identity opens it") {
				t.Errorf("it was not sealed: %s", out)
			}
			return real.Replace(c)
		}},
		"countersign audit body c_7mv5… answer.json --repo audit --key-file digest.key": {says: "salt ", run: func(s *shell, c string) string {
			s.write("answer.json", made.answer, 0o600)
			s.must("cp '" + st.Path("state/digest.key") + "' .")
			return real.Replace(c)
		}},
		`(printf %s "$salt" | xxd -r -p; cat answer.json) | sha256sum`: {instead: "xxd may not be there; the same is computed without it", check: func(s *shell) {
			_, text, _ := strings.Cut(s.last, "salt ")
			salt, err := hex.DecodeString(strings.TrimSpace(text))
			if err != nil {
				t.Errorf("%v: %s", err, s.last)
			}
			if sum := fmt.Sprintf("%x", sha256.Sum256(append(salt, made.answer...))); sum != made.unkept {
				t.Errorf("it has digest %s, and its entry %s", sum, made.unkept)
			}
		}},
		"git log":    mentioned("the next one is run"),
		"make kills": mentioned("runs 20 minutes"), "make outages": mentioned("runs minutes"), "make soak": mentioned("runs for hours"),
		"git -C audit show origin/audit/prod-1/r4kq2m7/2027-01:handover > handover":                         {instead: "this record has not rolled: TestRecordRollsBySize does it", check: func(*shell) {}},
		"countersign audit proof --check handover --checkpoint-key checkpoint_key.pub":                      {instead: "this record has not rolled: TestRecordRollsBySize does it", check: func(*shell) {}},
		"git -C audit log --format='%h %(trailers:key=Policy,valueonly,separator=)' --remotes=origin/audit": {says: inForce},
		"countersign serve": mentioned("it made this record"),
		"git verify-commit": mentioned("docs/verify-by-hand.md has it"),
		witnessKey:          {instead: "run first of all, so that the record is cosigned", check: func(s *shell) { s.read("witness_key.pub") }},
		"countersign audit witness --name witness.auditor.example/w1 --key witness_key --print-key": {says: vkey},
		witnessRuns:                 {instead: "runs since the record began, at an address of this test", check: func(s *shell) { s.must("ls witness/logs/" + stage.EnforcerN) }},
		"countersign audit witness": mentioned("run with its flags"),
		verify + " --witness-policy witnesses --anchor witness/logs": {says: "all links hold"},
		verify:               {says: "all links hold"},
		"git -C audit fetch": {},
		"countersign audit":  mentioned("the commands are run"),
		verify + " --policy policy --policy-signers policy_signers --state verified --json": {says: `"verdict": "holds"`, run: func(s *shell, c string) string {
			s.must(c)
			return c // again, from where it was
		}},
		"countersign audit proof c_4kq2… --repo audit --checkpoint-key checkpoint_key.pub -o call.tlog-proof": {says: "log demo/", run: run},
		"countersign audit proof --check call.tlog-proof --checkpoint-key checkpoint_key.pub":                 {says: "(outcome of " + made.spent},
		"countersign audit log --repo audit --decision deny --since 7d":                                       {says: "denied "},
		"countersign audit log --repo audit --subject alice --tool execute --follow": {says: "there is echo", run: func(_ *shell, c string) string {
			return strings.TrimSuffix(c, " --follow") // which ends when it is stopped: TestFollowAClone
		}},
		"countersign audit show c_4kq2… --repo audit":                                   {says: "approved via slack", run: run},
		"countersign audit session 5f0c… --repo audit":                                  {says: "calls by alice", run: run},
		"countersign audit replay 5f0c… --repo audit --speed 10":                        {says: "→ probe echo", run: run},
		"countersign audit replay c_4kq2… --repo audit --transcript > ticket.txt":       {run: func(_ *shell, c string) string { return real.Replace(c) + " && grep approves ticket.txt" }, says: "bob"},
		"countersign audit stats --repo audit --since 30d --by subject":                 {says: "alice "},
		"countersign audit export --repo audit --format csv --kind outcome > calls.csv": {run: func(_ *shell, c string) string { return c + " && grep -c ,outcome, calls.csv" }},
		"countersign audit export --repo audit --format jsonl > record.jsonl":           {run: func(_ *shell, c string) string { return c + " && head -n 1 record.jsonl" }, says: `"kind":"start"`},
		"countersign audit masks --repo audit --since 7d":                               {says: "github"},
		"countersign policy simulate policy --record audit":                             {says: " 0 different"},
		"countersign audit index --repo audit":                                          {says: " entries of "},
		"countersign audit index --rebuild":                                             {says: " entries of ", run: in("audit")},
		`sqlite3 audit/.git/countersign/index.sqlite "` + ask + `"`: {instead: "sqlite3 may not be there; the same is asked without it", check: func(s *shell) {
			db, err := sql.Open("sqlite", s.path("audit/.git/countersign/index.sqlite"))
			var sub string
			var n int
			if err == nil {
				err = errors.Join(db.QueryRowContext(t.Context(), ask).Scan(&sub, &n), db.Close())
			}
			if err != nil || sub != "alice" || n != 1 {
				t.Errorf("%q: %q %d, %v", ask, sub, n, err)
			}
		}},
		`countersign audit erase --subject https://id.example.com#alice --reason "her request of 12 November"`: {says: "erased: ", run: func(s *shell, c string) string {
			p = serving(t, st, more)
			return inState(s, c)
		}},
		"git reflog expire --expire=now --all && git gc --prune=now": {run: func(s *shell, c string) string {
			p.stop()
			return in("$HOST/countersign-record.git")(s, c)
		}},
	})
	// Alice's bodies are gone, and the record holds.
	s.must("git -C audit fetch -q --prune")
	if out := s.must(verify + " --bodies"); !strings.Contains(out, "0 bodies as their entries say, 0 sealed") {
		t.Errorf("after the erasure: %s", out)
	}

	python := docBlocks(t, "docs/verify-by-hand.md", "python")
	if len(python) != 1 {
		t.Fatalf("%d python blocks", len(python))
	}
	s.write("verify.py", python[0], 0o600)
	s.page("docs/verify-by-hand.md", map[string]shown{
		"git clone": mentioned("the next one is run"),
		"git clone -q --no-checkout https://github.com/example/countersign-record.git audit": {run: func(_ *shell, c string) string { return "rm -rf audit && " + c }},
		"python3 verify.py audit audit_signers checkpoint_key.pub":                           {says: "holds: "},
		"git verify-commit": mentioned("run below"),
		"commit=$(git -C audit for-each-ref --count=1 --format='%(objectname)' refs/remotes/origin/audit)": {},
		`git -C audit -c gpg.ssh.allowedSignersFile="$PWD/audit_signers" verify-commit $commit`:            {says: `Good "git" signature for demo@countersign.invalid`},
		"git -C audit show $commit:checkpoint":                                                             {says: "\n— demo/"},
		"git -C audit show $commit:entries/000/000.jsonl | head -n 1":                                      {says: `"kind":"start"`},
		"countersign audit verify": mentioned("docs/record.md has it"),
	})
}

// cosigned starts the page's witness, at an address of this test, for the stage's enforcer; it
// returns the witness's key and the file that asks it.
func cosigned(s *shell, st *stage.Stage) (vkey, witnesses string) {
	s.t.Helper()
	s.write("logs", stage.EnforcerN+" "+st.CheckKey.Authorized()+"\n", 0o600)
	listen, err := port.Address()
	if err != nil {
		s.t.Fatal(err)
	}
	args := strings.Fields(strings.TrimPrefix(witnessRuns, "countersign audit witness "))
	for i, flag := range args {
		if slices.Contains([]string{"--key", "--logs", "--dir"}, flag) {
			args[i+1] = s.path(args[i+1])
		}
	}
	vkey, _ = witnessing(s.t, append(args, "--listen", listen)...)
	return vkey, "witness w1 " + vkey + " http://" + listen + "\nquorum w1\n"
}

// recordedCalls names what the pages' commands are tried on.
type recordedCalls struct {
	spent, sealed, session string
	digest                 string // of the answer to spent
	digested               string // of whose bodies only digests are kept
	answer, unkept         string // its answer, and the digest of that
}

// callsForTheRecord makes them: in a session one that is masked, one that is denied, and one that
// bob approves; and another under a policy that has bodies sealed.
func callsForTheRecord(s *shell, st *stage.Stage, u *probe, p *program) (made recordedCalls) {
	t := s.t
	t.Helper()
	u.answerWith(func(w http.ResponseWriter, _ *http.Request, id json.RawMessage, method, tool string) bool {
		if tool == "leak" {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"the token is ghp_%s"}]}}`, id, strings.Repeat("a1B2", 9))
		}
		return tool == "leak"
	})
	alice := p.token("alice", "support")
	open := p.ask("probe", alice, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`)
	call := func(tool string) (body string) {
		a, err := p.send(t.Context(), "probe", alice, toolCall(tool, "for "+tool), func(r *http.Request) {
			r.Header.Set("Mcp-Session-Id", open.header.Get("Mcp-Session-Id"))
			r.Header.Set("Mcp-Protocol-Version", "2025-11-25")
		})
		if err != nil || a.status != http.StatusOK {
			t.Fatalf("%s: %v, %+v", tool, err, a)
		}
		return a.body
	}
	call("echo")
	made.answer = call("quiet")
	call("leak")
	call("forbidden")
	pressed := press(t, st, func(card slack.Card) error {
		return st.Slack.Press(t.Context(), card, button(t, card, "approve"), stage.SlackBob)
	})
	call("spend")
	if err := <-pressed; err != nil {
		t.Fatal(err)
	}
	p.inForce(amend(t, st, st.Dana, map[string]string{"countersign.yaml": fmt.Sprintf(sealedBodies, strings.TrimSpace(s.must("cut -d' ' -f1,2 ~/.ssh/id_ed25519.pub")))}))
	call("echo")
	for _, e := range p.entries(func(e audit.Entry) bool { return e.Kind == audit.KindOutcome }) {
		switch e.Tool {
		case "spend":
			made.spent, made.digest = e.Call, strings.TrimPrefix(e.Bodies[len(e.Bodies)-1].Digest, "sha256:")
		case "quiet":
			made.digested, made.unkept = e.Call, strings.TrimPrefix(e.Bodies[len(e.Bodies)-1].Digest, "sha256:")
		case "echo":
			made.sealed, made.session = e.Call, e.Session // the last one
		}
	}
	if made.spent == "" || made.session == "" {
		t.Fatalf("the record has not what the pages ask about: %+v", made)
	}
	return made
}
