package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"countersign/enforcer/quota"
)

// quotas keeps the day's counts in the state directory, in the file quotas
// (enforcer/quota specifies it): a restart does not begin the day anew. What
// was counted since the last save is forgotten by a crash.
type quotas struct {
	table *quota.Table
	path  string
	log   *slog.Logger
}

// saveEvery is how much of the day's counts a crash forgets at most.
const saveEvery = 3 * time.Second

// openQuotas reads what the last run saved. A damaged file of today is told
// loudly, and has all quotas of a day count as used up until midnight UTC, or
// until the operator has removed it and started again: nobody knows how much is
// left, and everything else goes on.
func openQuotas(stateDir string, now time.Time, log *slog.Logger) (*quotas, error) {
	q := &quotas{table: quota.New(now), path: filepath.Join(stateDir, "quotas"), log: log}
	state, written, err := q.read()
	if errors.Is(err, fs.ErrNotExist) {
		return q, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the saved counts of the quotas cannot be read: %w", err)
	}
	err = q.table.Restore(now, state)
	if err == nil {
		return q, nil
	}
	if today := now.UTC().Truncate(24 * time.Hour); written.Before(today) {
		log.Warn("the saved counts of the quotas are damaged, and of an earlier day: no harm done", "file", q.path, "err", err)
		return q, nil
	}
	log.Error("the saved counts of the quotas are damaged: until midnight UTC every quota of a day counts as used up; to begin the day's counts anew, remove the file and start again", "file", q.path, "err", err)
	q.table.Lose(now)
	return q, nil
}

func (q *quotas) read() (state []byte, written time.Time, err error) {
	f, err := os.Open(q.path)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close() // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, err
	}
	state, err = io.ReadAll(io.LimitReader(f, quota.MaxState+1)) // one byte more is damage
	return state, info.ModTime(), err
}

// follow saves until ctx ends.
func (q *quotas) follow(ctx context.Context) error {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := q.save(); err != nil {
				q.log.Error("the counts of the quotas are not saved; a restart would begin with older ones", "err", err)
			}
		}
	}
}

// save replaces the file in one step, if there is something new.
func (q *quotas) save() (err error) {
	state := q.table.Snapshot(time.Now())
	if state == nil {
		return nil
	}
	defer func() {
		if err != nil {
			q.table.Unsaved()
		}
	}()
	f, err := os.OpenFile(q.path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(state)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(q.path+".new", q.path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(q.path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
