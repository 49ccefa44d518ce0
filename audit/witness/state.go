package witness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"countersign/audit"
)

// state is what a witness has cosigned, a file a log:
//
//	lock                                  held while a witness runs
//	logs/<enforcer>/<incarnation>         the last checkpoint: the signed note, as
//	                                      the log sent it, and our cosignature
//
// A file is replaced in one step and is durable, with its name, before the
// cosignature in it leaves. It is never removed: a log that is forgotten could
// be cosigned again from its first entry on. Each is an anchor as it stands,
// for "countersign audit verify --anchor".
type state struct {
	dir string

	mu     sync.Mutex // one log is looked at and moved on at a time
	counts map[string]int
}

// openState makes the folder if need be, and reads every file: one that does
// not read, or is not where it belongs, is an error, since what it said is
// lost.
func openState(dir string) (*state, error) {
	s := &state{dir: filepath.Join(dir, "logs"), counts: map[string]int{}}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	if err := syncDir(dir); err != nil {
		return nil, err
	}
	return s, filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if strings.HasSuffix(path, newExt) { // of a write that was cut short: nobody was told
			return os.Remove(path)
		}
		origin, err := filepath.Rel(s.dir, path)
		if err != nil {
			return err
		}
		if _, err := s.last(filepath.ToSlash(origin)); err != nil {
			return err
		}
		s.counts[filepath.Dir(origin)]++
		return nil
	})
}

// newExt ends the name of a file that is being written; no incarnation's does.
const newExt = ".new+"

// last gives the last checkpoint of a log; one of size 0 if there is none. The
// caller checked the origin's form.
func (s *state) last(origin string) (audit.Checkpoint, error) {
	empty := audit.Checkpoint{Origin: origin, Root: emptyRoot}
	b, err := os.ReadFile(filepath.Join(s.dir, filepath.FromSlash(origin)))
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return empty, fmt.Errorf("witness: %w", err)
	}
	c, err := audit.ReadCheckpoint(string(b))
	if err != nil || c.Origin != origin {
		return empty, fmt.Errorf("witness: what was cosigned of %s does not read any more: %w", origin, errors.Join(err, errors.New("restore it, or start over with a new key")))
	}
	return c, nil
}

// keep makes a checkpoint the last one, durably.
func (s *state) keep(origin, note string) error {
	enforcer, _, _ := strings.Cut(origin, "/")
	path := filepath.Join(s.dir, filepath.FromSlash(origin))
	folder := filepath.Dir(path)
	_, err := os.Stat(path)
	begun := errors.Is(err, fs.ErrNotExist)
	if begun {
		if err := errors.Join(os.MkdirAll(folder, 0o700), syncDir(s.dir)); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path+newExt, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	_, err = f.WriteString(note)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	if begun {
		s.counts[enforcer]++
	}
	return syncDir(folder)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	return nil
}
