package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"countersign/audit"
	"countersign/audit/index"
	"countersign/gitsync"
)

func auditLogCommand() *cobra.Command {
	var from readFlags
	var filter filterFlags
	var last int
	var reverse, follow, asJSON, wide bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Print the record, an entry a line, oldest first",
		Long: `Prints the entries of all logs in the order of their times.
` + filterHelp + `

--json prints a JSON object a line, {"origin":"<enforcer>/<run>","entry":{…}}, the
entry being the exact line of the record: docs/record.md says what is in it.

--follow goes on with what comes in: in a clone when somebody fetches it, at a URL
by asking it. It ends with Ctrl-C.`,
		Example: `  countersign audit log --repo ./audit --last 20
  countersign audit log --repo ./audit --decision deny --since 7d
  countersign audit log --repo ./audit --subject alice --server customers --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := filter.take(from, time.Now())
			switch {
			case err != nil:
			case last < 0:
				err = fmt.Errorf("--last: %d; want a number of entries, or 0 for all", last)
			case follow && (reverse || filter.until != ""):
				err = errors.New("--follow goes on at the end: it has no --reverse and no --until")
			case every < time.Second:
				err = fmt.Errorf("--every: %s; want at least 1s", every)
			}
			if err != nil {
				return err
			}
			return from.read(cmd, func(r *reading) error {
				if err := unknown(cmd, r, f); err != nil {
					return err
				}
				p := newEntryPrinter(cmd.OutOrStdout(), asJSON, wide)
				mark, err := r.Mark(cmd.Context())
				if err != nil {
					return err
				}
				if err := p.all(selected(cmd.Context(), r, f, last, reverse)); err != nil {
					return err
				}
				if !p.any {
					note(cmd, "no entry matches")
				}
				if !follow {
					return nil
				}
				return followed(cmd, r, mark, every, func(seq iter.Seq2[index.Found, error]) error { return p.all(seq) }, f)
			})
		},
	}
	from.add(cmd)
	filter.add(cmd)
	fl := cmd.Flags()
	fl.IntVar(&last, "last", 0, "only so many, the newest")
	fl.BoolVar(&reverse, "reverse", false, "newest first")
	fl.BoolVar(&follow, "follow", false, "go on with what comes in")
	fl.DurationVar(&every, "every", 10*time.Second, "how often a URL that is followed is asked")
	fl.BoolVar(&asJSON, "json", false, "a JSON object a line")
	fl.BoolVar(&wide, "wide", false, "cut nothing on a terminal")
	return cmd
}

// selected gives the entries that are meant, all or the newest.
func selected(ctx context.Context, r *reading, f index.Filter, last int, reverse bool) iter.Seq2[index.Found, error] {
	if last == 0 {
		return r.Entries(ctx, f, reverse)
	}
	return func(yield func(index.Found, error) bool) {
		if !reverse {
			newest, err := r.Newest(ctx, f, last)
			for _, e := range newest {
				if !yield(e, nil) {
					return
				}
			}
			if err != nil {
				yield(index.Found{}, err)
			}
			return
		}
		n := 0
		for e, err := range r.Entries(ctx, f, true) {
			if !yield(e, err) || err != nil {
				return
			}
			if n++; n == last {
				return
			}
		}
	}
}

// followed prints what comes in until the context ends, which is how it ends well.
func followed(cmd *cobra.Command, r *reading, mark index.Mark, every time.Duration, print func(iter.Seq2[index.Found, error]) error, f index.Filter) error {
	if !slices.ContainsFunc(r.repos, (*gitsync.Repo).Temporary) {
		every = time.Second // a look at the clone's branches costs nothing
	}
	ctx := cmd.Context()
	tick := time.NewTicker(every)
	defer tick.Stop()
	down := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var err error
		for _, repo := range r.repos {
			err = errors.Join(err, repo.Refresh(ctx))
		}
		if err == nil {
			err = r.Update(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, index.ErrDamaged):
			return err
		case err != nil:
			if down != err.Error() { // once, not every ten seconds
				down = err.Error()
				note(cmd, "the record cannot be read now, and is tried again: "+down)
			}
			continue
		case down != "":
			down = ""
			note(cmd, "the record can be read again")
		}
		now, err := r.Mark(ctx)
		if err != nil {
			return err
		}
		if now < mark {
			mark = now // it was built anew: what it holds was printed, or is not what was printed
		}
		if now > mark {
			if err := print(r.Since(ctx, f, mark)); err != nil && ctx.Err() == nil {
				return err
			}
			mark = now
		}
	}
}

// entryPrinter prints entries as they come: as JSON; on a terminal as a table
// that keeps to its width; elsewhere a line each, in full.
type entryPrinter struct {
	out    io.Writer
	asJSON bool
	tty    bool
	table  *table // nil: lines in full
	day    string
	any    bool // was printed
}

// rowsAtOnce is how many rows the widths of the columns are made for.
const rowsAtOnce = 500

func newEntryPrinter(out io.Writer, asJSON, wide bool) *entryPrinter {
	p := &entryPrinter{out: out, asJSON: asJSON}
	width := terminal(out)
	if p.tty = width > 0; p.tty && !wide {
		p.table = &table{cut: []int{2, 3, 4}, right: []int{5}, width: width}
	}
	return p
}

// all prints the entries, all that are there when it returns.
func (p *entryPrinter) all(entries iter.Seq2[index.Found, error]) error {
	for e, err := range entries {
		if err == nil {
			err = p.one(e)
		}
		if err != nil {
			return errors.Join(err, p.flush())
		}
	}
	return p.flush()
}

func (p *entryPrinter) one(f index.Found) error {
	p.any = true
	switch e := f.Entry; {
	case p.asJSON:
		return printFound(p.out, f, p.tty)
	case p.table == nil:
		_, err := fmt.Fprintln(p.out, safe(e.Line()))
		return err
	default:
		if day := e.Time.UTC().Format("Monday 2006-01-02 (UTC)"); day != p.day {
			if err := p.flush(); err != nil {
				return err
			}
			p.day = day
			if _, err := fmt.Fprintln(p.out, day); err != nil {
				return err
			}
		}
		p.table.row(e.Time.UTC().Format("15:04:05"), e.Verb(), e.Sub, aimedAt(e), why(e), took(e), shortID(cmp.Or(e.Call, e.Approval, f.ID())))
		if len(p.table.rows) >= rowsAtOnce {
			return p.flush()
		}
		return nil
	}
}

func (p *entryPrinter) flush() error {
	if p.table == nil || len(p.table.rows) == 0 {
		return nil
	}
	return p.table.print(p.out)
}

// why is what is most worth telling of an entry, beside who, where and when.
func why(e audit.Entry) string {
	switch {
	case e.Kind == audit.KindErased:
		return strings.TrimSpace(e.Dropped() + " " + e.Reason)
	case e.Kind == audit.KindApproval:
		return strings.TrimSpace(e.Voters() + " " + e.Reason)
	case e.Reason != "":
		return e.Reason
	case e.Args != "":
		return e.Args
	case e.Kind == audit.KindCredential:
		return strings.TrimSpace(e.Status + " " + e.Credential)
	case e.Kind == audit.KindPolicy:
		return e.Status + " " + e.Policy
	}
	return e.Result
}

func took(e audit.Entry) string {
	if e.Millis == 0 {
		return ""
	}
	return millis(time.Duration(e.Millis * float64(time.Millisecond)))
}

// millis is a duration for people: three digits of it.
func millis(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// shortID is as much of an id as tells it from the others of a table; audit show
// takes it.
func shortID(id string) string {
	r := []rune(id)
	if strings.Contains(id, "@") || len(r) <= 12 {
		return id
	}
	return string(r[:12])
}

// printFound prints an entry as JSON, the line of the record as it is. On a
// terminal what it might take for more than text is escaped: the same value.
func printFound(out io.Writer, f index.Found, tty bool) error {
	origin, err := json.Marshal(f.Origin)
	if err != nil {
		return err
	}
	line := fmt.Sprintf(`{"origin":%s,"entry":%s}`, origin, f.Line)
	if tty {
		line = visibleJSON(line)
	}
	_, err = io.WriteString(out, line+"\n")
	return err
}

// aimedAt is what a call is to.
func aimedAt(e audit.Entry) string {
	if e.Tool != "" || e.Resource != "" {
		return strings.TrimSpace(e.Server + " " + strings.TrimSpace(e.Tool+" "+e.Resource))
	}
	return strings.TrimSpace(e.Server + " " + e.Method)
}
