package index

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"countersign/audit"
)

// Filter says which entries are meant: those that meet every condition that is
// not empty. Of several values one is enough. In those of words (all but Calls,
// Approvals and Policies) * stands for any text.
type Filter struct {
	Kinds, Issuers, Subjects, Clients, Holders, Sessions []string
	Servers, Methods, Tools, Statuses                    []string
	// Decisions are deny, approve and allow: of an outcome, what was decided about
	// its call.
	Decisions        []string
	Rules            []string
	Calls, Approvals []string
	Policies         []string // the beginnings of commits
	Leases           []string
	Text             string    // in the reason, in any case
	Since, Until     time.Time // from the first, and before the second
	Log              string    // the beginning of a branch
	Masked           bool      // only where something was masked
}

// columns are the conditions on words, by the columns of table combo.
func (f *Filter) columns() map[string][]string {
	return map[string][]string{
		"kind": f.Kinds, "issuer": f.Issuers, "sub": f.Subjects, "client": f.Clients,
		"server": f.Servers, "method": f.Methods, "tool": f.Tools, "status": f.Statuses, "decision": f.Decisions,
	}
}

// own are those by the columns of table entry.
func (f *Filter) own() map[string][]string {
	return map[string][]string{"holder": f.Holders, "session": f.Sessions, "lease": f.Leases}
}

// Unknown lists values of a filter that no entry of the record has, by column.
func (x *Index) Unknown(ctx context.Context, f Filter) (map[string][]string, error) {
	out := map[string][]string{}
	all := f.columns()
	maps.Copy(all, f.own())
	for col, values := range all {
		for _, v := range values {
			ids, err := x.words(ctx, col, matches(v))
			if err != nil {
				return nil, err
			}
			if len(ids) == 0 {
				out[col] = append(out[col], v)
			}
		}
	}
	return out, nil
}

// Words lists the texts that stand in a column of the record, at most n.
func (x *Index) Words(ctx context.Context, col string, n int) ([]string, error) {
	return collect(ctx, x.db, func(s scanner) (v string, err error) { return v, s.Scan(&v) },
		"SELECT text FROM word WHERE col = ? ORDER BY text LIMIT ?", col, n)
}

// matches tells what a value of a filter stands for.
func matches(value string) func(string) bool {
	if !strings.Contains(value, "*") {
		return func(s string) bool { return s == value }
	}
	parts := strings.Split(value, "*")
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	re := regexp.MustCompile("(?s)^" + strings.Join(parts, ".*") + "$")
	return re.MatchString
}

// words finds the numbers of the texts in a column that are meant.
func (x *Index) words(ctx context.Context, col string, meant func(string) bool) ([]int64, error) {
	type word struct {
		id   int64
		text string
	}
	all, err := collect(ctx, x.db, func(s scanner) (w word, err error) { return w, s.Scan(&w.id, &w.text) },
		"SELECT id, text FROM word WHERE col = ?", col)
	var ids []int64
	for _, w := range all {
		if meant(w.text) {
			ids = append(ids, w.id)
		}
	}
	return ids, err
}

// condition is a WHERE clause in the making.
type condition struct {
	text []string
	args []any
}

func (c *condition) add(text string, args ...any) {
	c.text, c.args = append(c.text, text), append(c.args, args...)
}

func (c *condition) in(col string, values []any) {
	switch len(values) {
	case 1:
		c.add(col+" = ?", values[0])
		return
	case 0:
		c.add("0") // nothing in the record is meant
		return
	}
	c.add(col+" IN (?"+strings.Repeat(",?", len(values)-1)+")", values...)
}

func (c *condition) String() string {
	if len(c.text) == 0 {
		return "1"
	}
	return strings.Join(c.text, " AND ")
}

// byWord adds that a column of a table has one of the texts that are meant.
func (x *Index) byWord(ctx context.Context, c *condition, table, col string, meant func(string) bool) error {
	ids, err := x.words(ctx, col, meant)
	c.in(table+"."+col, list(ids))
	return err
}

func oneOf(values []string) func(string) bool {
	var tests []func(string) bool
	for _, v := range values {
		tests = append(tests, matches(v))
	}
	return func(s string) bool {
		return slices.ContainsFunc(tests, func(t func(string) bool) bool { return t(s) })
	}
}

// where turns the conditions on what entries have in common into SQL.
func (x *Index) where(ctx context.Context, f Filter) (*condition, error) {
	c := &condition{}
	var errs []error
	for col, values := range f.columns() {
		if len(values) > 0 {
			errs = append(errs, x.byWord(ctx, c, "combo", col, oneOf(values)))
		}
	}
	if len(f.Rules) > 0 {
		meant := oneOf(f.Rules)
		errs = append(errs, x.byWord(ctx, c, "combo", "rules", func(s string) bool {
			var ids []string
			return json.Unmarshal([]byte(s), &ids) == nil && slices.ContainsFunc(ids, meant)
		}))
	}
	if len(f.Policies) > 0 {
		errs = append(errs, x.byWord(ctx, c, "combo", "policy", func(s string) bool {
			return slices.ContainsFunc(f.Policies, func(p string) bool { return strings.HasPrefix(s, strings.ToLower(p)) })
		}))
	}
	return c, errors.Join(errs...)
}

// combos gives the combinations that are meant.
func (x *Index) combos(ctx context.Context, c *condition) ([]numbered, error) {
	return collect(ctx, x.db, scanCombo, "SELECT * FROM combo WHERE "+c.String(), c.args...)
}

// whereEntry turns all conditions into SQL on entry.
func (x *Index) whereEntry(ctx context.Context, f Filter) (*condition, error) {
	common, err := x.where(ctx, f)
	if err != nil {
		return nil, err
	}
	c := &condition{}
	if len(common.text) > 0 {
		meant, err := x.combos(ctx, common)
		if err != nil {
			return nil, err
		}
		var ids []any
		for _, m := range meant {
			ids = append(ids, m.id)
		}
		if len(ids) <= maxListed {
			c.in("e.combo", ids)
		} else {
			c.add("e.combo IN (SELECT id FROM combo WHERE "+common.String()+")", common.args...)
		}
	}
	for col, values := range f.own() {
		if len(values) > 0 {
			if err := x.byWord(ctx, c, "e", col, oneOf(values)); err != nil {
				return nil, err
			}
		}
	}
	if f.Text != "" {
		sought := strings.ToLower(f.Text)
		if err := x.byWord(ctx, c, "e", "reason", func(s string) bool { return strings.Contains(strings.ToLower(s), sought) }); err != nil {
			return nil, err
		}
	}
	if len(f.Calls) > 0 {
		c.in("e.call", list(f.Calls))
	}
	if len(f.Approvals) > 0 {
		c.in("e.approval", list(f.Approvals))
	}
	if !f.Since.IsZero() {
		c.add("e.time >= ?", f.Since.UnixMicro())
	}
	if !f.Until.IsZero() {
		c.add("e.time < ?", f.Until.UnixMicro())
	}
	if f.Masked {
		c.add("e.masked > 0")
	}
	if f.Log != "" {
		ids, err := x.logs(ctx, f.Log)
		if err != nil {
			return nil, err
		}
		c.in("e.branch", list(ids))
	}
	return c, nil
}

// maxListed is how many values stand in a statement.
const maxListed = 10_000

// logs finds the branches that begin so.
func (x *Index) logs(ctx context.Context, prefix string) ([]int64, error) {
	all, err := x.branches(ctx)
	var ids []int64
	for _, b := range all {
		if strings.HasPrefix(b.name, prefix) {
			ids = append(ids, b.id)
		}
	}
	return ids, err
}

func list[T any](values []T) []any {
	out := make([]any, len(values))
	for i, v := range values {
		out[i] = v
	}
	return out
}

// Found is an entry of the record, as it stands in the clone.
type Found struct {
	Origin string // <enforcer>/<incarnation>
	Branch string
	Line   []byte // the exact line, without its line feed
	Entry  audit.Entry
}

// ID names the entry: <enforcer>/<incarnation>@<seq>.
func (f Found) ID() string { return fmt.Sprintf("%s@%d", f.Origin, f.Entry.Seq) }

// key is where an entry is.
type key struct {
	time, branch, seq int64
	at                int
	name, blob        string
}

const keyColumns = "e.time, e.branch, e.seq, e.at, b.name, t.blob"

func scanKey(s scanner) (k key, err error) {
	return k, s.Scan(&k.time, &k.branch, &k.seq, &k.at, &k.name, &k.blob)
}

// page is how many entries are looked up at a time, so that nobody who writes
// the index waits for somebody who reads slowly.
const page = 2000

// Entries gives the entries that are meant, in the order of their times, over all
// logs; the newest first if so wished. The error, if any, comes last.
func (x *Index) Entries(ctx context.Context, f Filter, newestFirst bool) iter.Seq2[Found, error] {
	return x.entries(ctx, f, newestFirst, "1")
}

// Newest gives the newest n entries that are meant, the oldest of them first.
func (x *Index) Newest(ctx context.Context, f Filter, n int) ([]Found, error) {
	var out []Found
	for e, err := range x.Entries(ctx, f, true) {
		if err != nil {
			return nil, err
		}
		if out = append(out, e); len(out) == n {
			break
		}
	}
	slices.Reverse(out)
	return out, nil
}

// Mark is a point in what the index has read.
type Mark int64

// Mark is where the index stands now.
func (x *Index) Mark(ctx context.Context) (Mark, error) {
	var m Mark
	return m, told(x.db.QueryRowContext(ctx, "SELECT coalesce(max(id), 0) FROM batch").Scan(&m))
}

// Since gives the entries that are meant and were read after the mark.
func (x *Index) Since(ctx context.Context, f Filter, m Mark) iter.Seq2[Found, error] {
	return x.entries(ctx, f, false, "e.time >= (SELECT min(first) FROM batch WHERE id > ?) AND e.batch > ?", int64(m), int64(m))
}

func (x *Index) entries(ctx context.Context, f Filter, newestFirst bool, also string, args ...any) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		c, err := x.whereEntry(ctx, f)
		if err != nil {
			yield(Found{}, err)
			return
		}
		than, order := ">", ""
		if newestFirst {
			than, order = "<", " DESC"
		}
		query := "SELECT " + keyColumns + " FROM entry e JOIN branch b ON b.id = e.branch JOIN batch t ON t.id = e.batch WHERE " + also + " AND " +
			c.String() + "%s ORDER BY e.time" + order + ", e.branch" + order + ", e.seq" + order + " LIMIT ?"
		args = append(args, c.args...)
		from := []any{}
		after := ""
		for n := 64; ; n = page { // who wants the newest few need not wait for many
			keys, err := collect(ctx, x.db, scanKey, fmt.Sprintf(query, after), slices.Concat(args, from, []any{n})...)
			if err != nil {
				yield(Found{}, err)
				return
			}
			for _, k := range keys {
				found, err := x.read(k)
				if !yield(found, err) || err != nil {
					return
				}
			}
			if len(keys) < n {
				return
			}
			last := keys[len(keys)-1]
			after = " AND (e.time, e.branch, e.seq) " + than + " (?, ?, ?)"
			from = []any{last.time, last.branch, last.seq}
		}
	}
}

// lines are those of a file that was read.
type lines struct {
	blob string
	all  [][]byte
}

// keptBlobs are remembered: several logs are read side by side.
const keptBlobs = 16

// read gets an entry from the clone, and makes sure that it is the one.
func (x *Index) read(k key) (Found, error) {
	i := slices.IndexFunc(x.blobs, func(l lines) bool { return l.blob == k.blob })
	if i < 0 {
		data, err := x.cfg.Repo.Blob(k.blob)
		if err != nil {
			return Found{}, fmt.Errorf("%s: %w", k.name, err)
		}
		if len(x.blobs) >= keptBlobs {
			x.blobs = x.blobs[1:]
		}
		x.blobs, i = append(x.blobs, lines{k.blob, split(data)}), len(x.blobs)
	}
	f := Found{Origin: strings.TrimPrefix(path.Dir(k.name), "audit/")}
	f.Branch, _ = placed(k.name)
	err := errors.New("the file has no such line")
	if all := x.blobs[i].all; k.at >= 0 && k.at < len(all) {
		f.Line = all[k.at]
		f.Entry, err = audit.Decode(f.Line)
	}
	if err == nil && (f.Entry.Time.UnixMicro() != k.time || f.Entry.Seq != uint64(k.seq)) {
		err = errors.New("another entry stands there")
	}
	if err != nil {
		return Found{}, fmt.Errorf("%w: entry %d of %s is not where it says: %w", ErrDamaged, k.seq, k.name, err)
	}
	return f, nil
}

// Name is what an id names: What is call, approval, session, holder or lease.
type Name struct{ What, ID string }

// Names finds what ids of the record begin so, at most n of each. One that is
// there exactly is the only one that is meant.
func (x *Index) Names(ctx context.Context, beginning string, n int) ([]Name, error) {
	var all []Name
	end := beginning + "\U0010ffff"
	for _, q := range []struct{ what, query string }{
		{"call", "SELECT DISTINCT call FROM entry WHERE call >= ? AND call < ? ORDER BY 1 LIMIT ?"},
		{"approval", "SELECT DISTINCT approval FROM entry WHERE approval >= ? AND approval < ? ORDER BY 1 LIMIT ?"},
		{"session", "SELECT text FROM word WHERE col = 'session' AND text >= ? AND text < ? ORDER BY 1 LIMIT ?"},
		{"holder", "SELECT text FROM word WHERE col = 'holder' AND text >= ? AND text < ? ORDER BY 1 LIMIT ?"},
		{"lease", "SELECT text FROM word WHERE col = 'lease' AND text >= ? AND text < ? ORDER BY 1 LIMIT ?"},
	} {
		names, err := collect(ctx, x.db, func(s scanner) (v string, err error) { return v, s.Scan(&v) }, q.query, beginning, end, n)
		if err != nil {
			return nil, err
		}
		for _, id := range names {
			if id == beginning {
				return []Name{{q.what, id}}, nil
			}
			all = append(all, Name{q.what, id})
		}
	}
	return all, nil
}

// At gives the entries of a number in the logs whose origin is, or begins or ends
// with, what is given: <enforcer>/<incarnation>, or one of the two.
func (x *Index) At(ctx context.Context, origin string, seq uint64) ([]Found, error) {
	known, err := x.branches(ctx)
	if err != nil {
		return nil, err
	}
	var ids []any
	for _, b := range known {
		o := strings.TrimPrefix(path.Dir(b.name), "audit/")
		if enforcer, incarnation, _ := strings.Cut(o, "/"); o == origin || enforcer == origin || strings.HasPrefix(incarnation, origin) {
			ids = append(ids, b.id)
		}
	}
	if len(ids) == 0 || seq > 1<<62 {
		return nil, nil
	}
	keys, err := collect(ctx, x.db, scanKey, "SELECT "+keyColumns+` FROM entry e JOIN branch b ON b.id = e.branch JOIN batch t ON t.id = e.batch
		WHERE e.seq = ? AND e.branch IN (?`+strings.Repeat(",?", len(ids)-1)+") ORDER BY e.time LIMIT 20", append([]any{int64(seq)}, ids...)...)
	var out []Found
	for _, k := range keys {
		f, err := x.read(k)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, err
}
