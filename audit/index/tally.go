package index

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"
)

// Tally is a number of calls that have all in common that is said here; each
// ended on Day.
type Tally struct {
	Day                                                         time.Time // its beginning, UTC
	Kind                                                        string    // of the entry that ended them: outcome, refused or recovered
	Issuer, Sub, Client, Server, Method, Tool, Decision, Status string
	Rules                                                       []string
	Calls, Masked                                               int64
	Took                                                        []time.Duration // of each
}

// Tallies gives the calls that are meant and have ended. Of a filter that names
// none of calls, approvals, sessions, holders, leases, text, log and masks, whole
// days come added up.
func (x *Index) Tallies(ctx context.Context, f Filter) iter.Seq2[Tally, error] {
	return func(yield func(Tally, error) bool) {
		words, err := x.texts(ctx)
		if err != nil {
			yield(Tally{}, err)
			return
		}
		single := f.Text != "" || f.Log != "" || f.Masked ||
			len(f.Calls)+len(f.Approvals)+len(f.Sessions)+len(f.Holders)+len(f.Leases) > 0
		if single {
			x.singly(ctx, f, words, yield)
			return
		}
		// The days that the bounds cut are counted call by call.
		first, end := f.Since, f.Until
		if !first.IsZero() {
			first = first.Add(day - 1).Truncate(day)
		}
		if !end.IsZero() {
			end = end.Truncate(day)
		}
		if !first.IsZero() && !end.IsZero() && !first.Before(end) {
			x.singly(ctx, f, words, yield)
			return
		}
		head, tail := f, f
		if head.Until = first; f.Since.Before(first) && !x.singly(ctx, head, words, yield) {
			return
		}
		if !x.daily(ctx, f, first, end, words, yield) {
			return
		}
		if tail.Since = end; end.Before(f.Until) {
			x.singly(ctx, tail, words, yield)
		}
	}
}

const day = 24 * time.Hour

// daily gives the tallies of whole days.
func (x *Index) daily(ctx context.Context, f Filter, first, end time.Time, words map[int64]string, yield func(Tally, error) bool) bool {
	common, err := x.where(ctx, f)
	if err != nil {
		return yield(Tally{}, err)
	}
	meant, err := x.combos(ctx, common)
	if err != nil {
		return yield(Tally{}, err)
	}
	like := map[uint64]Tally{}
	for _, m := range meant {
		like[uint64(m.id)] = m.words.tally(words)
	}
	c := &condition{}
	if !first.IsZero() {
		c.add("day >= ?", first.Unix()/86400)
	}
	if !end.IsZero() {
		c.add("day < ?", end.Unix()/86400)
	}
	scan := func(s scanner) (d dayOf, err error) { return d, s.Scan(&d.day, &d.calls) }
	return rows(ctx, x, func(d dayOf, err error) bool {
		if err != nil {
			return yield(Tally{}, err)
		}
		return d.each(like, yield)
	}, scan, "SELECT day, calls FROM tally WHERE "+c.String()+" ORDER BY day", c.args...)
}

// dayOf is a row of table tally.
type dayOf struct {
	day   int64
	calls []byte
}

// each yields the tallies of the combinations that are meant.
func (d dayOf) each(meant map[uint64]Tally, yield func(Tally, error) bool) bool {
	on := time.Unix(d.day*86400, 0).UTC()
	left := d.calls
	next := func() (v uint64, ok bool) {
		v, n := binary.Uvarint(left)
		if n > 0 {
			left = left[n:]
		}
		return v, n > 0
	}
	for len(left) > 0 {
		combo, ok1 := next()
		masked, ok2 := next()
		calls, ok3 := next()
		if !ok1 || !ok2 || !ok3 || calls > uint64(len(left)) {
			return yield(Tally{}, fmt.Errorf("%w: the calls of %s do not read", ErrDamaged, on.Format("2006-01-02"))) && false
		}
		t, ok := meant[combo]
		t.Day, t.Calls, t.Masked = on, int64(calls), int64(masked)
		if ok {
			t.Took = make([]time.Duration, 0, calls)
		}
		for range calls {
			took, _ := next() // one that is cut leaves what is left, and ends at the next
			if ok {
				t.Took = append(t.Took, time.Duration(took)*time.Microsecond)
			}
		}
		if ok && !yield(t, nil) {
			return false
		}
	}
	return true
}

// singly gives a tally for each call.
func (x *Index) singly(ctx context.Context, f Filter, words map[int64]string, yield func(Tally, error) bool) bool {
	kinds := f.Kinds
	f.Kinds = nil
	c, err := x.whereEntry(ctx, f)
	if err != nil {
		return yield(Tally{}, err)
	}
	combos, err := x.combos(ctx, &condition{})
	if err != nil {
		return yield(Tally{}, err)
	}
	ends := map[int64]Tally{}
	meant := oneOf(kinds)
	for _, m := range combos {
		t := m.words.tally(words)
		if (t.Kind == "outcome" || t.Kind == "refused" || t.Kind == "recovered") && (len(kinds) == 0 || meant(t.Kind)) && !strings.HasPrefix(t.Method, "server:") {
			ends[m.id] = t
		}
	}
	type call struct{ time, combo, took, masked int64 }
	scan := func(s scanner) (c call, err error) { return c, s.Scan(&c.time, &c.combo, &c.took, &c.masked) }
	return rows(ctx, x, func(c call, err error) bool {
		t, ok := ends[c.combo]
		if err == nil && !ok {
			return true
		}
		t.Day = time.UnixMicro(c.time).UTC().Truncate(day)
		t.Calls, t.Masked, t.Took = 1, c.masked, []time.Duration{time.Duration(c.took) * time.Microsecond}
		return yield(t, err)
	}, scan, "SELECT e.time, e.combo, coalesce(e.took, 0), coalesce(e.masked, 0) FROM entry e WHERE e.call IS NOT NULL AND "+c.String(), c.args...)
}

// tally is one of calls that have the combination in common.
func (c combo) tally(words map[int64]string) Tally {
	t := Tally{Kind: words[c[0]], Issuer: words[c[2]], Sub: words[c[3]], Client: words[c[4]], Server: words[c[5]], Method: words[c[6]], Tool: words[c[7]],
		Decision: words[c[comboDecision]], Status: words[c[10]]}
	// What is no list was not written by this package: it has no rules.
	_ = json.Unmarshal([]byte(words[c[comboRules]]), &t.Rules)
	return t
}

// texts are the words of the columns that combo has.
func (x *Index) texts(ctx context.Context) (map[int64]string, error) {
	type word struct {
		id   int64
		text string
	}
	all, err := collect(ctx, x.db, func(s scanner) (w word, err error) { return w, s.Scan(&w.id, &w.text) },
		"SELECT id, text FROM word WHERE col NOT IN ('holder', 'session', 'reason', 'lease')")
	m := make(map[int64]string, len(all))
	for _, w := range all {
		m[w.id] = w.text
	}
	return m, err
}

// rows yields what a query gives, and tells whether more is wanted.
func rows[T any](ctx context.Context, x *Index, yield func(T, error) bool, scan func(scanner) (T, error), query string, args ...any) bool {
	var none T
	rs, err := x.db.QueryContext(ctx, query, args...)
	if err != nil {
		yield(none, told(err))
		return false
	}
	more := true
	for more && rs.Next() {
		v, err := scan(rs)
		more = yield(v, told(err)) && err == nil
	}
	err = rs.Err()
	if cerr := rs.Close(); err == nil {
		err = cerr
	}
	if err != nil && more {
		yield(none, told(err))
		return false
	}
	return more
}

// Approval is what people were asked, and how it ended.
type Approval struct {
	ID                        string
	Sub, Client, Server, Tool string
	Asked                     time.Time
	Decided                   time.Time // zero: it has not ended, as far as the record goes
	Outcome                   string    // approved, denied, expired, withdrawn, revoked, break-glass
	People                    []string  // who voted so
}

// Approvals gives the approvals asked for in the time that the filter names, and
// by its subjects, clients, servers and tools, oldest first. Other conditions do
// not count.
func (x *Index) Approvals(ctx context.Context, f Filter) ([]Approval, error) {
	c, err := x.where(ctx, Filter{Subjects: f.Subjects, Clients: f.Clients, Servers: f.Servers, Tools: f.Tools})
	if err != nil {
		return nil, err
	}
	if !f.Since.IsZero() {
		c.add("asked >= ?", f.Since.UnixMicro())
	}
	if !f.Until.IsZero() {
		c.add("asked < ?", f.Until.UnixMicro())
	}
	words, err := x.texts(ctx)
	if err != nil {
		return nil, err
	}
	return collect(ctx, x.db, func(s scanner) (a Approval, err error) {
		var w [4]*int64
		var asked int64
		var decided *int64
		var outcome *string
		var people string
		if err := s.Scan(&a.ID, &w[0], &w[1], &w[2], &w[3], &asked, &decided, &outcome, &people); err != nil {
			return a, err
		}
		for i, to := range []*string{&a.Sub, &a.Client, &a.Server, &a.Tool} {
			if w[i] != nil {
				*to = words[*w[i]]
			}
		}
		a.Asked = time.UnixMicro(asked).UTC()
		if decided != nil {
			a.Decided = time.UnixMicro(*decided).UTC()
		}
		if outcome != nil {
			a.Outcome = *outcome
		}
		if err := json.Unmarshal([]byte(people), &a.People); err != nil {
			return a, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		return a, nil
	}, "SELECT id, sub, client, server, tool, asked, decided, outcome, people FROM approval combo WHERE "+c.String()+" ORDER BY asked, id", c.args...)
}
