package index

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"countersign/audit"
)

// rewrite is a branch that no longer grows out of what was read.
type rewrite struct {
	at                  int64
	branch, was, became string
}

func (r rewrite) String() string {
	became := "is gone"
	if r.became != "" {
		became = "no longer holds it: it is at " + r.became
	}
	return fmt.Sprintf("THE RECORD WAS REWRITTEN: branch %s was at commit %s, and %s (seen %s). Run countersign audit verify; the record only ever grows",
		r.branch, r.was, became, time.UnixMicro(r.at).UTC().Format("2006-01-02 15:04:05 UTC"))
}

// news is a branch with commits that were not read.
type news struct {
	id               int64 // 0: a new branch
	name, was, tip   string
	oldTree, newTree string
}

// update reads what is new; if something is not new but different, it builds
// the index anew.
func (x *Index) update(ctx context.Context) error {
	known, err := x.branches(ctx)
	if err != nil {
		return err
	}
	seen, err := x.compare(ctx, known)
	if err != nil {
		return err
	}
	before, err := x.rewrites(ctx)
	if err != nil {
		return err
	}
	switch {
	case len(seen.gone) == len(known) && !slices.ContainsFunc(seen.gone, func(r rewrite) bool { return r.became != "" }) && len(known) > 0:
		// Names of runs are random: a repository that has none of them is another.
		x.cfg.Tell("the index is of another repository: it is built anew")
		return x.build(ctx, nil)
	case len(seen.gone) > 0:
		for _, r := range seen.gone {
			x.cfg.Tell(r.String())
		}
		return x.build(ctx, append(before, seen.gone...))
	case len(seen.cut) > 0:
		x.cfg.Tell("the history of " + strings.Join(seen.cut, ", ") + " is cut off (a shallow clone): whether it was rewritten cannot be told, and the index is built anew")
		return x.build(ctx, before)
	case len(seen.fresh) > 0:
		return x.insert(ctx, seen.fresh, nil)
	}
	return nil
}

// take fills an empty index.
func (x *Index) take(ctx context.Context, rewritten []rewrite) error {
	seen, err := x.compare(ctx, nil)
	if err != nil {
		return err
	}
	return x.insert(ctx, seen.fresh, rewritten)
}

// remind tells which branches were rewritten, as far as the index was told before.
func (x *Index) remind(ctx context.Context) error {
	all, err := x.rewrites(ctx)
	for _, r := range all {
		x.cfg.Tell(r.String())
	}
	return err
}

// standing tells what does not read, if anything does not.
func (x *Index) standing(ctx context.Context) error {
	known, err := x.branches(ctx)
	for _, b := range known {
		if b.unread > 0 {
			x.cfg.Tell(fmt.Sprintf("%d of the lines of %s do not read, and are left out; the first is %s. Run countersign audit verify", b.unread, b.name, b.firstUnread))
		}
	}
	return err
}

type branch struct {
	id          int64
	name, tip   string
	unread      int
	firstUnread string
}

func (x *Index) branches(ctx context.Context) ([]branch, error) {
	return collect(ctx, x.db, func(s scanner) (b branch, err error) {
		return b, s.Scan(&b.id, &b.name, &b.tip, &b.unread, &b.firstUnread)
	}, "SELECT id, name, tip, unread, first_unread FROM branch ORDER BY name")
}

func (x *Index) rewrites(ctx context.Context) ([]rewrite, error) {
	return collect(ctx, x.db, func(s scanner) (r rewrite, err error) {
		return r, s.Scan(&r.at, &r.branch, &r.was, &r.became)
	}, "SELECT at, branch, was, became FROM rewritten ORDER BY at")
}

// compared is how the clone's branches differ from those that were read.
type compared struct {
	fresh []news
	gone  []rewrite
	cut   []string // whose history does not reach back to what was read
}

// compare holds the clone's branches against those that were read.
func (x *Index) compare(ctx context.Context, known []branch) (c compared, err error) {
	names, err := x.cfg.Repo.Branches("audit/")
	if err != nil {
		return c, err
	}
	now := time.Now().UnixMicro()
	for _, k := range known {
		if !slices.Contains(names, k.name) {
			c.gone = append(c.gone, rewrite{now, k.name, k.tip, ""})
		}
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		if strings.Count(name, "/") != 3 {
			continue // no log: verification says so
		}
		tip, ok, err := x.cfg.Repo.Tip(name)
		if err != nil || !ok {
			return c, errors.Join(err, fmt.Errorf("branch %s does not read", name))
		}
		n := news{name: name, tip: tip}
		if i := slices.IndexFunc(known, func(k branch) bool { return k.name == name }); i >= 0 {
			n.id, n.was = known[i].id, known[i].tip
		}
		if n.was == tip {
			continue
		}
		switch how, err := x.grown(ctx, &n); {
		case err != nil:
			return c, fmt.Errorf("branch %s: %w", name, err)
		case how == isCut:
			c.cut = append(c.cut, name)
		case how == isOther:
			c.gone = append(c.gone, rewrite{now, name, n.was, tip})
		default:
			c.fresh = append(c.fresh, n)
		}
	}
	slices.SortStableFunc(c.fresh, func(a, b news) int { return byMonth(a.name, b.name) })
	return c, nil
}

// growth is how a branch's new end came out of the old one.
type growth int

const (
	isGrown growth = iota
	isOther        // it did not
	isCut          // the clone does not have all between them
)

// grown finds the trees of both ends, and how the one came out of the other.
func (x *Index) grown(ctx context.Context, n *news) (growth, error) {
	c, err := x.cfg.Repo.Commit(n.tip)
	if err != nil {
		return isCut, err
	}
	n.newTree = c.Tree
	for n.was != "" {
		if err := ctx.Err(); err != nil {
			return isCut, err
		}
		if len(c.Parents) == 0 {
			return isOther, nil
		}
		at := c.Parents[0]
		if c, err = x.cfg.Repo.Commit(at); err != nil {
			return isCut, nil // of a damaged clone the next to read something says so
		}
		if at == n.was {
			n.oldTree = c.Tree
			break
		}
	}
	return isGrown, nil
}

// insert puts what is new into the index, in one transaction.
func (x *Index) insert(ctx context.Context, fresh []news, rewritten []rewrite) (err error) {
	tx, err := x.db.BeginTx(ctx, nil)
	if err != nil {
		return told(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(told(err), ignoreDone(tx.Rollback()))
		}
	}()
	w, err := newWriter(ctx, tx)
	if err != nil {
		return err
	}
	for _, r := range rewritten {
		if _, err := tx.ExecContext(ctx, "INSERT INTO rewritten VALUES (?,?,?,?)", r.at, r.branch, r.was, r.became); err != nil {
			return err
		}
	}
	for _, n := range fresh {
		if n.id, err = w.branch(ctx, n); err != nil {
			return err
		}
		files, err := x.added(nil, "", n.oldTree, n.newTree, 0)
		if err != nil {
			return fmt.Errorf("branch %s: %w", n.name, err)
		}
		for _, f := range files {
			if err := ctx.Err(); err != nil {
				return err
			}
			data, err := x.cfg.Repo.Blob(f.blob)
			if err != nil {
				return fmt.Errorf("branch %s, %s: %w", n.name, f.path, err)
			}
			if err := w.batch(ctx, n, f, data); err != nil {
				return err
			}
		}
	}
	if err := w.finish(ctx); err != nil {
		return err
	}
	return tx.Commit()
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// file is a file of lines in a commit.
type file struct{ path, blob string }

// added lists the files of lines that the new tree has and the old one has not,
// in the order of their numbers. Folders that are the same are not looked into.
func (x *Index) added(to []file, dir, old, now string, depth int) ([]file, error) {
	if old == now {
		return to, nil
	}
	if depth > 12 {
		return nil, fmt.Errorf("folders nest too deeply in %s", dir)
	}
	had := map[string]audit.Node{}
	if old != "" {
		nodes, err := x.cfg.Repo.Tree(old)
		if err != nil {
			return nil, err
		}
		for _, n := range nodes {
			had[n.Name] = n
		}
	}
	nodes, err := x.cfg.Repo.Tree(now)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(nodes, func(a, b audit.Node) int { // 1000.jsonl after 999.jsonl
		if d := len(a.Name) - len(b.Name); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, n := range nodes {
		full := path.Join(dir, n.Name)
		switch h := had[n.Name]; {
		case h.Hash == n.Hash, dir == "" && n.Name != "entries":
		case n.Mode == "40000":
			from := ""
			if h.Mode == n.Mode {
				from = h.Hash
			}
			if to, err = x.added(to, full, from, n.Hash, depth+1); err != nil {
				return nil, err
			}
		case path.Ext(n.Name) == ".jsonl":
			to = append(to, file{full, n.Hash})
		}
	}
	return to, nil
}

// split gives the lines of a file, without their line feeds.
func split(data []byte) [][]byte {
	if len(data) == 0 {
		return nil
	}
	return bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
}

type scanner interface{ Scan(...any) error }

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// collect gives the rows of a query.
func collect[T any](ctx context.Context, q querier, scan func(scanner) (T, error), query string, args ...any) (all []T, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, told(err)
	}
	defer func() { err = told(errors.Join(err, rows.Close())) }()
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}
