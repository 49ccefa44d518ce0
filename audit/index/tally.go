package index

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"iter"
	"time"
)

// Tally is a number of calls that have all in common that is said here; each
// ended on Day.
type Tally struct {
	Day                                                         time.Time // its beginning, UTC
	Issuer, Sub, Client, Server, Method, Tool, Decision, Status string
	Rules                                                       []string
	Calls, Masked                                               int64
	Took                                                        []time.Duration // of each
}

// Tallies gives the calls that are meant and have ended. Of a filter that names
// none of calls, approvals, sessions, holders, policies, leases, text, log, kinds
// and masks, whole days come added up.
func (x *Index) Tallies(ctx context.Context, f Filter) iter.Seq2[Tally, error] {
	return func(yield func(Tally, error) bool) {
		words, err := x.texts(ctx)
		if err != nil {
			yield(Tally{}, err)
			return
		}
		single := f.Text != "" || f.Log != "" || f.Masked ||
			len(f.Calls)+len(f.Approvals)+len(f.Sessions)+len(f.Holders)+len(f.Policies)+len(f.Leases)+len(f.Kinds) > 0
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
	c, err := x.where(ctx, f)
	if err != nil {
		return yield(Tally{}, err)
	}
	if !first.IsZero() {
		c.add("day >= ?", first.Unix()/86400)
	}
	if !end.IsZero() {
		c.add("day < ?", end.Unix()/86400)
	}
	return rows(ctx, x, yield, func(s scanner) (t Tally, err error) {
		var days int64
		var w [9]*int64
		var took []byte
		if err := s.Scan(&days, &w[0], &w[1], &w[2], &w[3], &w[4], &w[5], &w[6], &w[7], &w[8], &t.Calls, &t.Masked, &took); err != nil {
			return t, err
		}
		t.fill(w, words, time.Unix(days*86400, 0).UTC())
		for len(took) > 0 {
			us, n := binary.Uvarint(took)
			if n <= 0 {
				return t, fmt.Errorf("%w: times of a tally do not read", ErrDamaged)
			}
			t.Took, took = append(t.Took, time.Duration(us)*time.Microsecond), took[n:]
		}
		return t, nil
	}, "SELECT day, issuer, sub, client, server, method, tool, decision, rules, status, calls, masked, took FROM tally WHERE "+c.String(), c.args...)
}

// singly gives a tally for each call.
func (x *Index) singly(ctx context.Context, f Filter, words map[int64]string, yield func(Tally, error) bool) bool {
	c, err := x.whereEntry(ctx, f)
	if err != nil {
		return yield(Tally{}, err)
	}
	ends, err := x.words(ctx, "kind", func(s string) bool { return s == "outcome" || s == "refused" || s == "recovered" })
	if err != nil {
		return yield(Tally{}, err)
	}
	c.in("kind", list(ends))
	servers, err := x.words(ctx, "method", matches("server:*"))
	if err != nil {
		return yield(Tally{}, err)
	}
	c.add("call IS NOT NULL")
	for _, id := range servers {
		c.add("method IS NOT ?", id)
	}
	return rows(ctx, x, yield, func(s scanner) (t Tally, err error) {
		var at int64
		var w [9]*int64
		var took, masked *int64
		if err := s.Scan(&at, &w[0], &w[1], &w[2], &w[3], &w[4], &w[5], &w[6], &w[7], &w[8], &took, &masked); err != nil {
			return t, err
		}
		t.fill(w, words, time.UnixMicro(at).UTC().Truncate(day))
		t.Calls, t.Took = 1, []time.Duration{0}
		if took != nil {
			t.Took[0] = time.Duration(*took) * time.Microsecond
		}
		if masked != nil {
			t.Masked = *masked
		}
		return t, nil
	}, "SELECT time, issuer, sub, client, server, method, tool, decision, rules, status, took, masked FROM entry WHERE "+c.String(), c.args...)
}

func (t *Tally) fill(w [9]*int64, words map[int64]string, on time.Time) {
	t.Day = on
	for i, to := range []*string{&t.Issuer, &t.Sub, &t.Client, &t.Server, &t.Method, &t.Tool, &t.Decision, nil, &t.Status} {
		switch {
		case w[i] == nil:
		case to != nil:
			*to = words[*w[i]]
		default:
			// What is no list was not written by this package: it has no rules.
			_ = json.Unmarshal([]byte(words[*w[i]]), &t.Rules)
		}
	}
}

// texts are the words of the columns that tally has.
func (x *Index) texts(ctx context.Context) (map[int64]string, error) {
	type word struct {
		id   int64
		text string
	}
	all, err := collect(ctx, x.db, func(s scanner) (w word, err error) { return w, s.Scan(&w.id, &w.text) },
		"SELECT id, text FROM word WHERE col IN ('issuer', 'sub', 'client', 'server', 'method', 'tool', 'decision', 'rules', 'status')")
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
	}, "SELECT id, sub, client, server, tool, asked, decided, outcome, people FROM approval WHERE "+c.String()+" ORDER BY asked, id", c.args...)
}
