package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"countersign/audit"
)

// journal reads the running enforcer's journal: what it has made durable, a
// moment before it is in Git.
type journal struct{ dir string }

func openJournal(state string) (*journal, error) {
	dirs, err := filepath.Glob(filepath.Join(state, "journal", "*"))
	if err != nil || len(dirs) != 1 {
		return nil, fmt.Errorf("want one journal below %s, found %d", state, len(dirs))
	}
	return &journal{dir: dirs[0]}, nil
}

var errNotThere = errors.New("no such entry")

// all reads the entries there are. A last line still being written is left
// out.
func (j *journal) all() ([]audit.Entry, error) {
	files, err := filepath.Glob(filepath.Join(j.dir, "*.jsonl"))
	if err != nil {
		return nil, err
	}
	var out []audit.Entry
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		for e, err := range audit.ReadEntries(bytes.NewReader(b)) {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				break
			}
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
	}
	return out, nil
}

// end is how many entries there are.
func (j *journal) end() uint64 {
	es, err := j.all()
	if err != nil {
		return 0
	}
	return uint64(len(es))
}

func (j *journal) find(is func(audit.Entry) bool) (audit.Entry, error) { return j.findAfter(0, is) }

// findAfter gives the first entry from number mark on that is wanted.
func (j *journal) findAfter(mark uint64, is func(audit.Entry) bool) (audit.Entry, error) {
	es, err := j.all()
	if err != nil {
		return audit.Entry{}, err
	}
	for _, e := range es {
		if e.Seq >= mark && is(e) {
			return e, nil
		}
	}
	return audit.Entry{}, errNotThere
}

// await waits for an entry that comes soon.
func (j *journal) await(ctx context.Context, is func(audit.Entry) bool) (audit.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		e, err := j.find(is)
		if !errors.Is(err, errNotThere) {
			return e, err
		}
		select {
		case <-ctx.Done():
			return e, err
		case <-tick.C:
		}
	}
}
