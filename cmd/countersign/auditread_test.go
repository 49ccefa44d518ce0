package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/csv"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"

	"countersign/audit"
	"countersign/audit/index"
)

// reads runs a command in this process, and returns what it printed.
func reads(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	root := rootCommand()
	var out, errs bytes.Buffer
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errs)
	switch err := root.ExecuteContext(t.Context()); {
	case errors.Is(err, errFound):
		code = 1
	case err != nil:
		errs.WriteString(err.Error())
		code = 2
	}
	for _, said := range []string{out.String(), errs.String()} {
		for _, r := range said {
			if r != '\n' && !unicode.IsPrint(r) && !strings.Contains(strings.Join(args, " "), "json") {
				t.Errorf("%q prints %q", args, r)
			}
		}
	}
	return out.String(), errs.String(), code
}

func TestReading(t *testing.T) {
	t.Parallel()
	dir := sample(t).dir
	for name, c := range map[string]struct {
		args string
		code int
		says []string
		not  []string
	}{
		"all": {"audit log", 0, []string{"  started", "alice by ide  → customers query", "c_bobs4dropxyz", `\u{1b}]0;owned\u{7}`}, nil},
		"denied, of one": {"audit log --decision deny --subject alice", 0,
			[]string{"2026-11-23 14:40:00", "These tables hold password hashes"}, []string{"bob", "SELECT name"}},
		"approved, with the answer": {"audit log --decision approve", 0, []string{"forwards", "answered"}, []string{"denied"}},
		"the newest two":            {"audit log --last 2", 0, []string{"c_denied9hashes", "owned"}, []string{"c_updxw3t4kq2m"}},
		"text":                      {"audit log --text PASSWORD", 0, []string{"c_denied9hashes"}, []string{"c_bobs4dropxyz"}},
		"a day":                     {"audit log --since 2026-11-24", 0, []string{"billing"}, []string{"customers"}},
		"nobody":                    {"audit log --subject alicia", 0, []string{"no entry has alicia", "alice, bob"}, []string{"customers query"}},
		"nothing of a rule":         {"audit log --rule none", 0, []string{"note: no entry matches"}, nil},
		"a bad time":                {"audit log --since yesterday", 2, []string{"2026-11-23T14:00:00Z", "2h or 7d"}, nil},
		"a bad decision":            {"audit stats --decision maybe", 2, []string{"allow, approve or deny"}, nil},
		"a bad policy":              {"audit log --policy main", 2, []string{"hexadecimal"}, nil},
		"times the wrong way":       {"audit log --since 2026-11-24 --until 2026-11-23", 2, []string{"is not before"}, nil},
		"follow, backwards":         {"audit log --follow --reverse", 2, []string{"--follow goes on at the end"}, nil},
		"a negative number":         {"audit log --last -1", 2, []string{"--last: -1"}, nil},
		"a call, by its beginning": {"audit show c_updx", 0, []string{"call c_updxw3t4kq2m\n", "alice (https://id.example.com) through ide", "approve by pg-write", "failed: pg-read, no such key: sql",
			"-e 'id: pg-write' " + samplePolicy + " -- rules", "people took 31.5s", "lease database/creds/admin/Xy7", "spliced     credential at params.arguments.password", "wait 31.5s, credential 23ms, upstream 11ms",
			"1 row", "asks        1 of dba; rule pg-write", "changes rows of customers", "dana        approved via slack at 14:32:41 UTC", "has digest 9be1", "revoke pg-admin", "demo/r_k3v9@9"}, []string{"c_4kq2m7xw3ta6", "bob"}},
		"an approval":          {"audit show ap_7f2kqm3x", 0, []string{"approval ap_7f2kqm3x\n", "dana", "c_updxw3t4kq2m: customers query", "spliced"}, []string{"c_denied9hashes"}},
		"a session":            {"audit show " + sampleSession, 0, []string{"session " + sampleSession, "2 × email at result.content[0].text", "c_denied9hashes", "ap_7f2kqm3x"}, []string{"bob"}},
		"an entry":             {"audit show demo/r_k3v9@8", 0, []string{"entry demo/r_k3v9@8", "kind        outcome", "audit show c_updxw3t4kq2m"}, nil},
		"an entry, in short":   {"audit show prod@1", 0, []string{"entry prod/r_q7wn@1", "Dropping tables"}, nil},
		"every member":         {"audit show --full c_4kq2", 0, []string{"method      tools/call"}, nil},
		"nothing of that name": {"audit show c_nothing", 1, []string{"nothing in this record is called", "has the clone been fetched since?"}, nil},
		"no such entry":        {"audit show demo@99", 1, []string{"no log of demo has an entry 99"}, nil},
		"no entry at all":      {"audit show demo@-1", 1, []string{"names no entry"}, nil},
		"several of that name": {"audit show r_@1", 1, []string{"demo/r_k3v9@1, prod/r_q7wn@1"}, nil},
		"hostile":              {"audit show c_evil", 0, []string{`c_evil\u{1B}[2J`, `\u{202E}`}, nil},
		"the session's calls": {"audit session 5f0c", 0, []string{"3 calls by alice through ide", "+1m35s", "31.5s", "ok, 2 masked", "refused: These tables"},
			[]string{"bob"}},
		"the holder's calls":   {"audit session " + sampleHolder, 0, []string{"3 calls by alice"}, nil},
		"no session":           {"audit session c_4kq2m7xw3ta6", 1, []string{"is no session or holder", "audit show"}, nil},
		"a transcript":         {"audit replay --transcript 5f0c", 0, []string{"14:31:07  alice      → customers query", "gate       asks 1 of dba to approve", "dana       approves ap_7f2kqm3x (via slack)", "← ok after 31.5s", "refuses alice's customers query"}, []string{"bob"}},
		"played fast":          {"audit replay --speed 1e9 c_updxw3t4kq2m", 0, []string{"dana       approves"}, nil},
		"played at no speed":   {"audit replay --speed 0 5f0c", 2, []string{"--speed: 0; want a number above 0"}, nil},
		"a policy":             {"audit replay ../../docs/policy", 2, []string{"countersign policy simulate ../../docs/policy --record"}, nil},
		"statistics":           {"audit stats", 0, []string{"5 calls: 2 ok, 3 denied, 0 refused, 0 failed; 2 masked", "customers query", "no-credential-tables      1", "1 approval asked for: 1 approved; people took 31.5s (half)", "dana             1       0"}, nil},
		"statistics by client": {"audit stats --by client --subject alice", 0, []string{"CLIENT", "ide         3   2       1"}, []string{"SUBJECT", "bot"}},
		"by the wrong thing":   {"audit stats --by weather", 2, []string{"subject, client, server, tool, decision, status, day, rule, approver"}, nil},
		"an unknown format":    {"audit export --format xml", 2, []string{"jsonl or csv"}, nil},
		"masks":                {"audit masks --since 2026-11-01", 0, []string{"email", "result.content[*].text"}, nil},
		"simulated":            {"policy simulate ../../docs/policy", 0, []string{"0 requests decided again", "5 skipped"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			args := strings.Fields(c.args)
			flag := "--repo"
			if args[0] == "policy" {
				flag = "--record"
			}
			out, errs, code := reads(t, append(args, flag, dir)...)
			if code != c.code {
				t.Errorf("exit %d, want %d", code, c.code)
			}
			for _, want := range c.says {
				if !strings.Contains(out+errs, want) {
					t.Errorf("it does not say %q:\n%s%s", want, out, errs)
				}
			}
			for _, not := range c.not {
				if strings.Contains(out, not) {
					t.Errorf("it says %q:\n%s", not, out)
				}
			}
		})
	}
}

// A proof of a call is of what ended it, whatever follows; a call may be named by its beginning.
func TestProvingACall(t *testing.T) {
	t.Parallel()
	r := sample(t)
	public, err := ssh.NewPublicKey(r.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	key, file := filepath.Join(dir, "checkpoint_key.pub"), filepath.Join(dir, "call.tlog-proof")
	if err := os.WriteFile(key, ssh.MarshalAuthorizedKey(public), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args string
		code int
		says string
	}{
		"what ended it":       {"c_updxw3t4kq2m", 0, "entry 8 of demo/r_k3v9 (outcome of c_updxw3t4kq2m), in its tree of 11 entries"},
		"by its beginning":    {"c_updx", 0, "(outcome of c_updxw3t4kq2m)"},
		"its intent":          {"c_updx --kind intent", 0, "(intent of c_updxw3t4kq2m)"},
		"a refusal":           {"c_denied9", 0, "(refused of c_denied9hashes)"},
		"too short":           {"c_u", 1, "no such entry in this record: of call c_u"},
		"nothing of the kind": {"c_updx --kind freeze", 1, "of call c_updx, of kind freeze"},
		"a number":            {"3 --log audit/demo/", 0, "entry 3 of demo/r_k3v9"},
		"which log":           {"3", 1, "there are 2 logs"},
	} {
		out, errs, code := reads(t, append(strings.Fields("audit proof "+c.args), "--repo", r.dir, "--checkpoint-key", key, "-o", file)...)
		if code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%s: exit %d, %s%s", name, code, out, errs)
		}
	}
}

// JSON is the exact entries, and nothing else.
func TestReadingAsJSON(t *testing.T) {
	t.Parallel()
	dir := sample(t).dir
	type found struct {
		Origin string
		Entry  json.RawMessage
	}
	out, _, code := reads(t, "audit", "log", "--json", "--repo", dir)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || len(lines) != 14 {
		t.Fatalf("exit %d, %d lines", code, len(lines))
	}
	for _, l := range lines {
		var f found
		if err := json.Unmarshal([]byte(l), &f); err != nil {
			t.Fatal(err)
		}
		if _, err := audit.Decode(f.Entry); err != nil || !strings.Contains(f.Origin, "/r_") {
			t.Errorf("%v: %s", err, l)
		}
	}
	if again, _, _ := reads(t, "audit", "export", "--format", "jsonl", "--repo", dir); again != out {
		t.Error("export --format jsonl differs from log --json")
	}
	var story struct {
		What, ID string
		Entries  []found
	}
	out, _, _ = reads(t, "audit", "show", "--json", "c_updx", "--repo", dir)
	if err := json.Unmarshal([]byte(out), &story); err != nil || story.What != "call" || story.ID != "c_updxw3t4kq2m" || len(story.Entries) != 6 {
		t.Errorf("%v %+v", err, story)
	}
	var sums statistics
	out, _, _ = reads(t, "audit", "stats", "--json", "--repo", dir)
	if err := json.Unmarshal([]byte(out), &sums); err != nil || sums.Total.Calls != 5 || *sums.Total.P95 != 31540 || len(sums.By["tool"]) != 3 || sums.Approvals.By[0].Name != "dana" {
		t.Errorf("%v %+v", err, sums)
	}
	out, _, _ = reads(t, "audit", "session", "--json", "5f0c", "--repo", dir)
	var call sessionCall
	if err := json.Unmarshal([]byte(strings.Split(out, "\n")[1]), &call); err != nil || call.WaitedMS != 31500 || call.Status != "ok" || call.GapMS != 94507 {
		t.Errorf("%v %+v", err, call)
	}
}

// A call that was not sent on did not fail, whatever the word for it.
func TestStatisticsByOutcome(t *testing.T) {
	var s callStats
	for _, c := range []struct {
		kind                     audit.Kind
		decision, status         string
		ok, denied, refused, bad int64
	}{
		{audit.KindOutcome, "allow", "ok", 1, 0, 0, 0},
		{audit.KindRefused, "deny", "denied", 1, 1, 0, 0},
		{audit.KindRefused, "approve", "denied", 1, 1, 1, 0}, // by a person
		{audit.KindRefused, "approve", "pending", 1, 1, 2, 0},
		{audit.KindRefused, "allow", "over-quota", 1, 1, 3, 0},
		{audit.KindRefused, "allow", "error", 1, 1, 4, 0},
		{audit.KindRecovered, "allow", "not-run", 1, 1, 5, 0},
		{audit.KindRecovered, "allow", "unknown", 1, 1, 5, 1},
		{audit.KindOutcome, "allow", "frozen", 1, 1, 5, 2},
		{audit.KindOutcome, "approve", "ok", 2, 1, 5, 2},
	} {
		s.add(index.Tally{Kind: string(c.kind), Decision: c.decision, Status: c.status, Calls: 1})
		if s.OK != c.ok || s.Denied != c.denied || s.Refused != c.refused || s.Failed != c.bad {
			t.Errorf("after %s %s %s: %+v", c.kind, c.decision, c.status, s)
		}
	}
}

// Where there is nothing to add up, programs have empty lists.
func TestStatisticsOfNothing(t *testing.T) {
	s, err := addUp(func(func(index.Tally, error) bool) {}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(s)
	if err != nil || strings.Contains(string(b), "null") {
		t.Errorf("%v: %s", err, b)
	}
}

// No cell of the CSV is a formula, and it has the columns that are documented.
func TestExportCSV(t *testing.T) {
	t.Parallel()
	out, _, code := reads(t, "audit", "export", "--format", "csv", "--repo", sample(t).dir)
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil || code != 0 || len(rows) != 15 {
		t.Fatalf("exit %d, %v, %d rows", code, err, len(rows))
	}
	for _, row := range rows {
		for _, cell := range row {
			if cell != "" && strings.ContainsRune("=+-@\t\r\n", rune(cell[0])) {
				t.Errorf("a formula: %q", cell)
			}
		}
	}
	if last := rows[14]; last[7] != `'=HYPERLINK("http://x")\u{202E}` || last[21] != "'+1+cmd|' /C calc'!A0" {
		t.Errorf("%q", last)
	}
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "record.md"))
	if err != nil {
		t.Fatal(err)
	}
	if columns := "`" + strings.Join(rows[0], "`, `") + "`"; !strings.Contains(strings.ReplaceAll(string(page), "\n", " "), columns) {
		t.Errorf("docs/record.md does not list the columns %s", columns)
	}
}

// What one detector masked at many places is told once.
func TestMaskedInATranscript(t *testing.T) {
	e := audit.Entry{Kind: audit.KindOutcome, Status: audit.StatusOK, Masked: []audit.Masked{
		{Detector: "stripe", Place: "a", Count: 3}, {Detector: "known", Place: "a", Count: 1}, {Detector: "stripe", Place: "b", Count: 2},
	}}
	if _, what, _ := utterance(e); what != "← ok, 5 × stripe masked, 1 × known masked" {
		t.Error(what)
	}
}

// Text that is one cell of a spreadsheet whatever it begins with.
func TestInert(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "plain": "plain", "=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@SUM(A1)": "'@SUM(A1)", "\t=1": `\u{09}=1`, " =1": "' =1", "＝1": "'＝1", "'=1": "''=1", "a=b": "a=b",
	} {
		if got := inert(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestMoment(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]string{
		"2026-11-23T14:00:00+02:00": "2026-11-23 12:00:00 UTC", "2026-11-20": "2026-11-20 00:00:00 UTC", "2h": "2026-11-23 10:00:00 UTC",
		"7d": "2026-11-16 12:00:00 UTC", "1w": "2026-11-16 12:00:00 UTC", "90s": "2026-11-23 11:58:30 UTC",
	} {
		if got, err := moment("since", in, now); err != nil || clock(got) != want {
			t.Errorf("%s: %s, %v", in, clock(got), err)
		}
	}
	for _, bad := range []string{"", "x", "-2h", "d", "-1d", "99999999d", "2026-13-01", "2026-11-23 14:00", "7 d"} {
		if got, err := moment("since", bad, now); err == nil {
			t.Errorf("%q is %s", bad, got)
		}
	}
}

// On a terminal every row fits, whatever is in it, and what must not be cut is not.
func TestTable(t *testing.T) {
	for _, width := range []int{80, 60, 120} {
		tab := &table{head: []string{"ID", "TEXT", "N", "MORE"}, cut: []int{1, 3}, right: []int{2}, width: width}
		tab.row("id-1", strings.Repeat("wide ", 100), "7", strings.Repeat("漢", 90))
		tab.row("id-2", "a\nb\x1b[2J\u202e", "", "")
		var out bytes.Buffer
		if err := tab.print(&out); err != nil {
			t.Fatal(err)
		}
		tab.row("id-3", strings.Repeat("later", 100), "12", "x") // keeps to the widths
		if err := tab.print(&out); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) != 4 || !strings.HasPrefix(lines[2], `id-2  a b\u{1B}[2J`) {
			t.Errorf("%q", lines)
		}
		for _, l := range lines {
			if wide(l) > width {
				t.Errorf("%d columns of %d: %s", wide(l), width, l)
			}
		}
	}
}

// followedOutput is what a command prints that goes on.
type followedOutput struct {
	mu      sync.Mutex
	text    strings.Builder
	written chan struct{}
}

func (w *followedOutput) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.written)
	w.written = make(chan struct{})
	return w.text.Write(p)
}

func (w *followedOutput) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// await waits until a text was written.
func (w *followedOutput) await(t *testing.T, want string) {
	t.Helper()
	hang := time.After(patience)
	for {
		w.mu.Lock()
		there, written := strings.Contains(w.text.String(), want), w.written
		w.mu.Unlock()
		if there {
			return
		}
		select {
		case <-written:
		case <-hang:
			t.Fatalf("%q does not come: %s", want, w)
		}
	}
}

// follows begins a command that goes on, and gives what it prints, and its end.
func follows(t *testing.T, out, errs *followedOutput, args ...string) (end func() error) {
	t.Helper()
	out.written, errs.written = make(chan struct{}), make(chan struct{})
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errs)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx) }()
	return func() error {
		stop()
		return <-done
	}
}

// A clone that is followed shows what comes in, and ends well.
func TestFollowAClone(t *testing.T) {
	t.Parallel()
	r := sample(t)
	out, errs := &followedOutput{}, &followedOutput{}
	end := follows(t, out, errs, "audit", "log", "--follow", "--subject", "alice", "--repo", r.dir)
	out.await(t, "c_denied9hashes")
	r.logs[0].at("2026-11-23 15:00:00")
	r.logs[0].write(audit.Entry{Kind: audit.KindRefused, Call: "c_comesin", Sub: "alice"}, audit.Entry{Kind: audit.KindRefused, Call: "c_notmeant", Sub: "bob"})
	r.logs[0].commit()
	out.await(t, "c_comesin")
	if err := end(); err != nil {
		t.Error(err)
	}
	if said := out.String(); strings.Contains(said, "c_notmeant") || strings.Count(said, "c_denied9hashes") != 1 || errs.String() != "" {
		t.Errorf("%s%s", said, errs.String())
	}
}

// A remote that is gone for a while is said once, asked again, and nothing is lost.
func TestFollowAURL(t *testing.T) {
	t.Parallel()
	r := sample(t)
	out, errs := &followedOutput{}, &followedOutput{}
	end := follows(t, out, errs, "audit", "log", "--follow", "--every", "1s", "--repo", "file://"+r.dir)
	out.await(t, "c_denied9hashes")
	away := r.dir + ".away"
	if err := os.Rename(r.dir, away); err != nil {
		t.Fatal(err)
	}
	errs.await(t, "cannot be read now")
	if err := os.Rename(away, r.dir); err != nil {
		t.Fatal(err)
	}
	r.logs[0].at("2026-11-23 15:00:00")
	r.logs[0].write(audit.Entry{Kind: audit.KindRefused, Call: "c_comesin", Sub: "alice"})
	r.logs[0].commit()
	out.await(t, "c_comesin")
	if err := end(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(errs.String(), "cannot be read now"); n != 1 {
		t.Errorf("said %d times: %s", n, errs.String())
	}
}

// Where the index cannot be kept beside the clone it is kept among the user's
// caches, and else in memory: reading needs no right to write.
func TestIndexElsewhere(t *testing.T) {
	dir := sample(t).dir
	if err := os.WriteFile(filepath.Join(dir, "countersign"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	out, errs, code := reads(t, "audit", "index", "--repo", dir)
	if code != 0 || !strings.HasPrefix(out, cache) || !strings.Contains(out, "14 entries of 2 branches") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_CACHE_HOME", file)
	out, errs, code = reads(t, "audit", "log", "--last", "1", "--repo", dir)
	if code != 0 || !strings.Contains(errs, "the index is in memory this time") || !strings.Contains(out, "owned") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	if _, errs, code = reads(t, "audit", "log", "--index", filepath.Join(file, "x"), "--repo", dir); code != 2 || !strings.Contains(errs, "not a directory") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

// A damaged row is found before anything is printed, and the index built anew.
func TestDamagedWhileReading(t *testing.T) {
	t.Parallel()
	dir := sample(t).dir
	where := filepath.Join(t.TempDir(), "x.sqlite")
	for i := range 2 {
		out, errs, code := reads(t, "audit", "log", "--last", "3", "--index", where, "--repo", dir)
		if code != 0 || strings.Count(out, "\n") != 3 || strings.Contains(errs, "built anew") != (i == 1) {
			t.Errorf("exit %d: %s%s", code, out, errs)
		}
		harm(t, where)
	}
}

// The width is kept to where there is a terminal, and the day is said once.
func TestEntriesOnATerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := &entryPrinter{out: &out, tty: true, table: &table{cut: []int{2, 3, 4}, right: []int{5}, width: 80}}
	from := readFlags{recordFlags: recordFlags{repos: []string{sample(t).dir}}}
	cmd := auditLogCommand()
	cmd.SetContext(t.Context())
	if err := from.read(cmd, func(r *reading) error { return p.all(r.Entries(t.Context(), index.Filter{}, false)) }); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 16 || lines[0] != "Monday 2026-11-23 (UTC)" {
		t.Errorf("%q", lines)
	}
	for _, l := range lines {
		if wide(l) > 82 { // an id is not cut
			t.Errorf("%d columns: %s", wide(l), l)
		}
	}
}

// harm has the rows of an index point elsewhere.
func harm(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec("UPDATE entry SET at = 1000")
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}
