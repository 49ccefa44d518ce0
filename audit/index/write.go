package index

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"countersign/audit"
)

// writer puts entries into the index, within one transaction.
type writer struct {
	tx    *sql.Tx
	words map[string]map[string]int64
	open  map[string]decided // of calls whose intent was read, and whose end was not
	sums  map[cell]*sum
	late  []pending
	stmts struct{ entry, word, findWord, intent, approval *sql.Stmt }
}

// decided is what an intent says, and the entry of its end does not.
type decided struct{ decision, rules any }

// pending is an entry that closes a call of an earlier run: that run's branch may
// not have been read yet.
type pending struct {
	branch, batch int64
	at            int
	e             audit.Entry
}

// cell is a row of tally but for its sums: words, nil where there is none.
type cell struct {
	day                                                                int64
	issuer, sub, client, server, method, tool, decision, rules, status any
}

type sum struct {
	calls, masked int64
	took          []byte
}

const (
	maxCells = 50_000  // held before they are written
	maxWords = 200_000 // of one column, remembered
	maxOpen  = 500_000
)

func newWriter(ctx context.Context, tx *sql.Tx) (*writer, error) {
	w := &writer{tx: tx, words: map[string]map[string]int64{}, open: map[string]decided{}, sums: map[cell]*sum{}}
	for _, s := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&w.stmts.entry, "INSERT OR IGNORE INTO entry VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"},
		{&w.stmts.word, "INSERT INTO word (col, text) VALUES (?,?)"},
		{&w.stmts.findWord, "SELECT id FROM word WHERE col = ? AND text = ?"},
		{&w.stmts.intent, "SELECT e.decision, e.rules FROM entry e JOIN word k ON k.id = e.kind WHERE e.call = ? AND k.text = 'intent' ORDER BY e.time LIMIT 1"},
		{&w.stmts.approval, `INSERT INTO approval VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET
			asked = min(asked, excluded.asked),
			outcome = CASE WHEN decided IS NULL OR excluded.decided < decided THEN excluded.outcome ELSE outcome END,
			people = CASE WHEN decided IS NULL OR excluded.decided < decided THEN excluded.people ELSE people END,
			decided = CASE WHEN decided IS NULL THEN excluded.decided WHEN excluded.decided IS NULL THEN decided ELSE min(decided, excluded.decided) END`},
	} {
		var err error
		if *s.stmt, err = tx.PrepareContext(ctx, s.text); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// branch notes up to where a branch is read.
func (w *writer) branch(ctx context.Context, n news) (int64, error) {
	if n.id != 0 {
		_, err := w.tx.ExecContext(ctx, "UPDATE branch SET tip = ? WHERE id = ?", n.tip, n.id)
		return n.id, err
	}
	r, err := w.tx.ExecContext(ctx, "INSERT INTO branch (name, tip, unread, first_unread) VALUES (?,?,0,'')", n.name, n.tip)
	if err != nil {
		return 0, err
	}
	return r.LastInsertId()
}

func (w *writer) batch(ctx context.Context, n news, f file, data []byte) error {
	r, err := w.tx.ExecContext(ctx, "INSERT INTO batch (branch, path, blob, first) VALUES (?,?,?,0)", n.id, f.path, f.blob)
	if err != nil {
		return err
	}
	id, err := r.LastInsertId()
	if err != nil {
		return err
	}
	first, unread, why := int64(0), 0, ""
	bad := func(at int, err error) {
		if unread++; why == "" {
			why = fmt.Sprintf("line %d of %s: %v", at+1, f.path, err)
		}
	}
	for at, line := range split(data) {
		e, err := audit.Decode(line)
		if err != nil {
			bad(at, err)
			continue
		}
		if first == 0 || e.Time.UnixMicro() < first {
			first = e.Time.UnixMicro()
		}
		if e.Kind == audit.KindRecovered {
			w.late = append(w.late, pending{n.id, id, at, e})
			continue
		}
		new, err := w.entry(ctx, n.id, id, at, e)
		if err != nil {
			return err
		}
		if !new {
			bad(at, errors.New("an entry of this number and time is there already"))
		}
	}
	if _, err := w.tx.ExecContext(ctx, "UPDATE batch SET first = ? WHERE id = ?", first, id); err != nil {
		return err
	}
	if unread > 0 {
		_, err = w.tx.ExecContext(ctx, "UPDATE branch SET first_unread = CASE unread WHEN 0 THEN ? ELSE first_unread END, unread = unread + ? WHERE id = ?", why, unread, n.id)
	}
	return err
}

func (w *writer) entry(ctx context.Context, branch, batch int64, at int, e audit.Entry) (bool, error) {
	var errs []error
	word := func(col, text string) any {
		id, err := w.word(ctx, col, text)
		errs = append(errs, err)
		if id == 0 {
			return nil
		}
		return id
	}
	d := decided{word("decision", e.Effect), nil}
	if len(e.Rules) > 0 {
		b, err := json.Marshal(e.Rules)
		errs = append(errs, err)
		d.rules = word("rules", string(b))
	}
	call := e.Call != "" && !strings.HasPrefix(e.Method, "server:") // those are about a call, but not its own
	ends := call && (e.Kind == audit.KindOutcome || e.Kind == audit.KindRefused || e.Kind == audit.KindRecovered)
	if call && e.Kind == audit.KindIntent {
		if len(w.open) < maxOpen {
			w.open[e.Call] = d
		}
	} else if ends && e.Kind != audit.KindRefused {
		var err error
		if d, err = w.intent(ctx, e.Call, d); err != nil {
			return false, err
		}
	}
	took := int64(e.Millis * 1000)
	masked := int64(0)
	for _, m := range e.Masked {
		masked += int64(m.Count)
	}
	c := cell{
		day:    e.Time.Unix() / 86400,
		issuer: word("issuer", e.Issuer), sub: word("sub", e.Sub), client: word("client", e.Client), server: word("server", e.Server),
		method: word("method", e.Method), tool: word("tool", e.Tool), decision: d.decision, rules: d.rules, status: word("status", e.Status),
	}
	args := []any{
		e.Time.UnixMicro(), branch, int64(e.Seq), batch, at, word("kind", string(e.Kind)), text(e.Call), text(e.Approval),
		word("policy", e.Policy), c.issuer, c.sub, c.client, word("holder", e.Holder), word("session", e.Session),
		c.server, c.method, c.tool, c.decision, c.rules, word("reason", e.Reason), word("lease", leaseOf(e)), c.status, number(took), number(masked),
	}
	if err := errors.Join(errs...); err != nil {
		return false, err
	}
	r, err := w.stmts.entry.ExecContext(ctx, args...)
	if err != nil {
		return false, err
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		return false, err
	}
	if e.Kind == audit.KindApproval {
		if err := w.approval(ctx, e, c); err != nil {
			return false, err
		}
	}
	if !ends {
		return true, nil
	}
	s := w.sums[c]
	if s == nil {
		s = &sum{}
		w.sums[c] = s
	}
	s.calls, s.masked, s.took = s.calls+1, s.masked+masked, binary.AppendUvarint(s.took, uint64(max(took, 0)))
	if len(w.sums) >= maxCells {
		return true, w.flush(ctx)
	}
	return true, nil
}

// leaseOf is the lease that an entry names. Until version 2 of the entries it
// stood behind the credential's name.
func leaseOf(e audit.Entry) string {
	_, behind, _ := strings.Cut(e.Credential, " ")
	return cmp.Or(e.Lease, behind)
}

// intent says what the intent of a call that ends says.
func (w *writer) intent(ctx context.Context, call string, own decided) (decided, error) {
	d, ok := w.open[call]
	delete(w.open, call)
	if ok {
		return d, nil
	}
	var decision, rules sql.NullInt64
	err := w.stmts.intent.QueryRowContext(ctx, call).Scan(&decision, &rules)
	if errors.Is(err, sql.ErrNoRows) {
		return own, nil
	}
	if err != nil {
		return d, err
	}
	if decision.Valid {
		d.decision = decision.Int64
	}
	if rules.Valid {
		d.rules = rules.Int64
	}
	return d, nil
}

// approval notes when people were asked, and what they said. The detail of each
// entry is the approval as it stood then.
func (w *writer) approval(ctx context.Context, e audit.Entry, c cell) error {
	if e.Approval == "" {
		return nil
	}
	var decidedAt any
	outcome := any(nil)
	people := "[]"
	switch e.Status {
	case "approved", "denied", "expired", "withdrawn", "revoked", "break-glass":
		decidedAt, outcome = e.Time.UnixMicro(), e.Status
		b, err := json.Marshal(voters(e))
		if err != nil {
			return err
		}
		people = string(b)
	}
	_, err := w.stmts.approval.ExecContext(ctx, e.Approval, c.sub, c.client, c.server, c.tool, e.Time.UnixMicro(), decidedAt, outcome, people)
	return err
}

// voters are the people by whose votes it came to what the entry says.
func voters(e audit.Entry) []string {
	names := []string{}
	var d struct {
		Votes []struct {
			Person, Email, Sub string
			Approve            bool
		}
	}
	approve := e.Status != "denied"
	if e.Status != "approved" && e.Status != "denied" && e.Status != "break-glass" || json.Unmarshal(e.Detail, &d) != nil {
		return names
	}
	for _, v := range d.Votes {
		if name := cmp.Or(v.Person, v.Email, v.Sub); v.Approve == approve && name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// finish writes what waited for the rest.
func (w *writer) finish(ctx context.Context) error {
	for _, p := range w.late {
		if _, err := w.entry(ctx, p.branch, p.batch, p.at, p.e); err != nil {
			return err
		}
	}
	return w.flush(ctx)
}

func (w *writer) flush(ctx context.Context) error {
	for c, s := range w.sums {
		if _, err := w.tx.ExecContext(ctx, "INSERT INTO tally VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
			c.day, c.issuer, c.sub, c.client, c.server, c.method, c.tool, c.decision, c.rules, c.status, s.calls, s.masked, s.took); err != nil {
			return err
		}
	}
	clear(w.sums)
	return nil
}

// word is the number of a text in a column; 0 for none.
func (w *writer) word(ctx context.Context, col, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	known := w.words[col]
	if id, ok := known[text]; ok {
		return id, nil
	}
	if known == nil || len(known) >= maxWords {
		known = map[string]int64{}
		w.words[col] = known
	}
	var id int64
	err := w.stmts.findWord.QueryRowContext(ctx, col, text).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		var r sql.Result
		if r, err = w.stmts.word.ExecContext(ctx, col, text); err == nil {
			id, err = r.LastInsertId()
		}
	}
	if err != nil {
		return 0, err
	}
	known[text] = id
	return id, nil
}

func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func number(n int64) any {
	if n == 0 {
		return nil
	}
	return n
}
