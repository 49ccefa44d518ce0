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
	tx     *sql.Tx
	words  map[string]map[string]int64
	combos map[combo]int64
	open   map[string]decided // of calls whose intent was read, and whose end was not
	sums   map[cell]*sum
	late   []pending
	twins  struct { // the branch's, in other repositories
		of  int64
		ids []int64
	}
	stmts struct{ entry, word, findWord, combo, intent, approval *sql.Stmt }
}

// decided is what an intent says, and the entry of its end does not.
type decided struct{ decision, rules int64 }

// pending is an entry that closes a call of an earlier run: that run's branch may
// not have been read yet.
type pending struct {
	branch news
	batch  int64
	at     int
	e      audit.Entry
}

// combo is what entries have in common: words, in the order of the columns of
// table combo, 0 where there is none.
type combo [11]int64

// The columns of combo that are looked at here.
const (
	comboDecision = 8
	comboRules    = 9
)

// cell is what the calls of a tally have in common.
type cell struct{ day, combo int64 }

type sum struct {
	calls, masked uint64
	took          []byte
}

const (
	maxCells = 50_000  // held before they are written
	maxWords = 200_000 // of one column, remembered
	maxOpen  = 500_000
)

func newWriter(ctx context.Context, tx *sql.Tx) (*writer, error) {
	w := &writer{tx: tx, words: map[string]map[string]int64{}, combos: map[combo]int64{}, open: map[string]decided{}, sums: map[cell]*sum{}}
	for _, s := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&w.stmts.entry, "INSERT OR IGNORE INTO entry VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"},
		{&w.stmts.word, "INSERT INTO word (col, text) VALUES (?,?)"},
		{&w.stmts.findWord, "SELECT id FROM word WHERE col = ? AND text = ?"},
		{&w.stmts.combo, "INSERT INTO combo VALUES (NULL,?,?,?,?,?,?,?,?,?,?,?)"},
		{&w.stmts.intent, "SELECT coalesce(c.decision, 0), coalesce(c.rules, 0) FROM entry e JOIN combo c ON c.id = e.combo JOIN word k ON k.id = c.kind WHERE e.call = ? AND k.text = 'intent' ORDER BY e.time LIMIT 1"},
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
	known, err := collect(ctx, tx, scanCombo, "SELECT * FROM combo")
	for _, k := range known {
		w.combos[k.words] = k.id
	}
	return w, err
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

// twin tells whether an entry is there already, as read from another repository:
// a copy of one may be given beside it, or an older copy.
func (w *writer) twin(ctx context.Context, n news, e audit.Entry) (bool, error) {
	name, _ := placed(n.name)
	if w.twins.of != n.id {
		known, err := collect(ctx, w.tx, func(s scanner) (b branch, err error) { return b, s.Scan(&b.id, &b.name) },
			"SELECT id, name FROM branch WHERE id <> ? AND name >= ? AND name <= ?", n.id, name, name+tilde+"\U0010ffff")
		if err != nil {
			return false, err
		}
		w.twins.of, w.twins.ids = n.id, nil
		for _, b := range known {
			if other, _ := placed(b.name); other == name {
				w.twins.ids = append(w.twins.ids, b.id)
			}
		}
	}
	for _, id := range w.twins.ids {
		var there bool
		err := w.tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM entry WHERE time = ? AND branch = ? AND seq = ?)", e.Time.UnixMicro(), id, int64(e.Seq)).Scan(&there)
		if err != nil || there {
			return there, err
		}
	}
	return false, nil
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
		if there, err := w.twin(ctx, n, e); err != nil {
			return err
		} else if there {
			continue
		}
		if first == 0 || e.Time.UnixMicro() < first {
			first = e.Time.UnixMicro()
		}
		if e.Kind == audit.KindRecovered {
			w.late = append(w.late, pending{n, id, at, e})
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
	word := func(col, text string) int64 {
		id, err := w.word(ctx, col, text)
		errs = append(errs, err)
		return id
	}
	d := decided{decision: word("decision", e.Effect)}
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
	took := max(int64(e.Millis*1000), 0)
	masked := int64(0)
	for _, m := range e.Masked {
		masked += max(int64(m.Count), 0)
	}
	c := combo{word("kind", string(e.Kind)), word("policy", e.Policy), word("issuer", e.Issuer), word("sub", e.Sub), word("client", e.Client),
		word("server", e.Server), word("method", e.Method), word("tool", e.Tool), d.decision, d.rules, word("status", e.Status)}
	holder, session, reason, lease := word("holder", e.Holder), word("session", e.Session), word("reason", e.Reason), word("lease", leaseOf(e))
	id, err := w.combo(ctx, c)
	if err := errors.Join(append(errs, err)...); err != nil {
		return false, err
	}
	r, err := w.stmts.entry.ExecContext(ctx, e.Time.UnixMicro(), branch, int64(e.Seq), batch, at, id, text(e.Call), text(e.Approval),
		number(holder), number(session), number(reason), number(lease), number(took), number(masked))
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
	key := cell{e.Time.Unix() / 86400, id}
	s := w.sums[key]
	if s == nil {
		s = &sum{}
		w.sums[key] = s
	}
	s.calls, s.masked, s.took = s.calls+1, s.masked+uint64(masked), binary.AppendUvarint(s.took, uint64(took))
	if len(w.sums) >= maxCells {
		return true, w.flush(ctx)
	}
	return true, nil
}

// combo is the number of a combination.
func (w *writer) combo(ctx context.Context, c combo) (int64, error) {
	if id, ok := w.combos[c]; ok {
		return id, nil
	}
	args := make([]any, len(c))
	for i, word := range c {
		args[i] = number(word)
	}
	r, err := w.stmts.combo.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	id, err := r.LastInsertId()
	w.combos[c] = id
	return id, err
}

type numbered struct {
	id    int64
	words combo
}

func scanCombo(s scanner) (n numbered, err error) {
	var w [len(n.words)]sql.NullInt64
	to := []any{&n.id}
	for i := range w {
		to = append(to, &w[i])
	}
	err = s.Scan(to...)
	for i := range w {
		n.words[i] = w[i].Int64
	}
	return n, err
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
	err := w.stmts.intent.QueryRowContext(ctx, call).Scan(&d.decision, &d.rules)
	if errors.Is(err, sql.ErrNoRows) {
		return own, nil
	}
	return d, err
}

// approval notes when people were asked, and what they said. The detail of each
// entry is the approval as it stood then.
func (w *writer) approval(ctx context.Context, e audit.Entry, c combo) error {
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
	_, err := w.stmts.approval.ExecContext(ctx, e.Approval, number(c[3]), number(c[4]), number(c[5]), number(c[7]), e.Time.UnixMicro(), decidedAt, outcome, people)
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
		there, err := w.twin(ctx, p.branch, p.e)
		if err == nil && !there {
			_, err = w.entry(ctx, p.branch.id, p.batch, p.at, p.e)
		}
		if err != nil {
			return err
		}
	}
	return w.flush(ctx)
}

// fullDay is how long the calls of a row of tally grow before another row begins.
const fullDay = 256 << 10

func (w *writer) flush(ctx context.Context) error {
	days := map[int64][]byte{}
	for c, s := range w.sums {
		b := binary.AppendUvarint(days[c.day], uint64(c.combo))
		b = binary.AppendUvarint(b, s.masked)
		b = binary.AppendUvarint(b, s.calls)
		days[c.day] = append(b, s.took...)
	}
	clear(w.sums)
	for day, calls := range days {
		var id int64
		var before []byte
		err := w.tx.QueryRowContext(ctx, "SELECT id, calls FROM tally WHERE day = ? AND length(calls) < ? LIMIT 1", day, fullDay).Scan(&id, &before)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			_, err = w.tx.ExecContext(ctx, "INSERT INTO tally (day, calls) VALUES (?, ?)", day, calls)
		case err == nil:
			_, err = w.tx.ExecContext(ctx, "UPDATE tally SET calls = ? WHERE id = ?", append(before, calls...), id)
		}
		if err != nil {
			return err
		}
	}
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
