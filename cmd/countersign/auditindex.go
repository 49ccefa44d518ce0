package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"countersign/audit"
	"countersign/audit/index"
)

// readFlags say which record is read, and where its index lies.
type readFlags struct {
	recordFlags
	index string
}

func (f *readFlags) add(cmd *cobra.Command) {
	f.recordFlags.add(cmd)
	cmd.Flags().StringVar(&f.index, "index", "", "the index's file (default: countersign/index.sqlite in the clone's Git folder)")
}

// reading is a record that is being read.
type reading struct {
	*index.Index
	repos clones
}

func (r *reading) close() error { return errors.Join(r.Index.Close(), r.repos.close()) }

// read opens the record and its index, and has f read it. If the index turns out
// to be damaged before f has printed anything, it is built anew and f runs again.
func (f *readFlags) read(cmd *cobra.Command, use func(r *reading) error) error {
	out := &counted{to: cmd.OutOrStdout()}
	was := cmd.OutOrStdout()
	cmd.SetOut(out)
	defer cmd.SetOut(was)
	err := f.readOnce(cmd, false, use)
	if errors.Is(err, index.ErrDamaged) && out.n == 0 {
		note(cmd, "the index is damaged: it is built anew")
		err = f.readOnce(cmd, true, use)
	}
	return err
}

func (f *readFlags) readOnce(cmd *cobra.Command, anew bool, use func(r *reading) error) (err error) {
	r, err := f.openIndex(cmd, anew)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	return use(r)
}

// openIndex opens the index in the first place that takes it: beside the clone,
// among the user's caches, in memory.
func (f *readFlags) openIndex(cmd *cobra.Command, anew bool) (*reading, error) {
	ctx := cmd.Context()
	repos, err := f.open(ctx)
	if err != nil {
		return nil, err
	}
	var all []audit.Repository
	for _, repo := range repos {
		branches, err := repo.Branches("audit/")
		if err == nil && len(branches) == 0 {
			err = fmt.Errorf("no record in %s: no branch begins with audit/ (a clone needs all branches: git clone --mirror)", repo.Dir())
		}
		if err != nil {
			return nil, errors.Join(err, repos.close())
		}
		all = append(all, objects(repo))
	}
	places := []string{f.index}
	if f.index == "" {
		places = repos.indexes()
	}
	var why error
	for i, path := range places {
		if path != "" && f.index == "" {
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				why = err
				continue
			}
		}
		x, err := index.Open(ctx, index.Config{Path: path, Repo: index.Together(all), Anew: anew, Tell: func(s string) { note(cmd, s) }})
		if err == nil {
			if path == "" {
				note(cmd, fmt.Sprintf("the index is in memory this time, since it cannot be kept: %v", why))
			}
			return &reading{x, repos}, nil
		}
		why = err
		var failed *os.PathError
		if !errors.As(err, &failed) || i == len(places)-1 {
			break // the place is not what is wrong
		}
	}
	return nil, errors.Join(why, repos.close())
}

// indexes are the places where the index may lie, the best first: beside the
// newest clone. One of several repositories is of just these, in this order.
func (c clones) indexes() []string {
	newest, sum, mine := c[len(c)-1], sha256.New(), "index.sqlite"
	for _, r := range c {
		io.WriteString(sum, r.Dir()+"\n") //nolint:errcheck // it never fails
	}
	name := "index-" + hex.EncodeToString(sum.Sum(nil)[:8]) + ".sqlite"
	if len(c) > 1 {
		mine = name
	}
	places := []string{filepath.Join(newest.Dir(), "countersign", mine)}
	if cache, err := os.UserCacheDir(); err == nil && !newest.Temporary() {
		places = append(places, filepath.Join(cache, "countersign", name))
	}
	return append(places, "")
}

// counted knows whether anything was written.
type counted struct {
	to io.Writer
	n  int
}

func (c *counted) Write(p []byte) (int, error) {
	c.n += len(p)
	return c.to.Write(p)
}

// note says on standard error what is no result.
func note(cmd *cobra.Command, text string) {
	fmt.Fprintln(cmd.ErrOrStderr(), "countersign: note:", safe(text))
}

func auditIndexCommand() *cobra.Command {
	var from readFlags
	var rebuild bool
	cmd := &cobra.Command{
		Use:   "index",
		Short: "Bring the index of a clone up to date, or build it anew",
		Long: `The commands that read the record find what they look for by an index beside the
clone, which each of them brings up to date. It is a cache, in a file that sqlite3
reads as well: it may be removed at any time, and nothing is ever verified by it.
Where the clone cannot be written to, it is kept among the user's caches.

If it says that the record was rewritten, it says so each time, until it is built
anew by --rebuild: after somebody has looked, with countersign audit verify.`,
		Example: "  countersign audit index --repo ./audit --rebuild",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return from.readOnce(cmd, rebuild, func(r *reading) error {
				s, err := r.State(cmd.Context())
				if err != nil {
					return err
				}
				where := s.Path
				if where == "" {
					where = "in memory"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s of %s, %s\n", safe(where), entriesOf(s.Entries), branchesOf(s.Branches), size(s.Bytes))
				return nil
			})
		},
	}
	from.add(cmd)
	cmd.Flags().BoolVar(&rebuild, "rebuild", false, "build it anew from the clone")
	return cmd
}

func branchesOf(n int) string {
	if n == 1 {
		return "1 branch"
	}
	return fmt.Sprintf("%d branches", n)
}
