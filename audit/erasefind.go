package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// The state directory holds, for erasures:
//
//	erasing/<id>.json   one that is not done yet: an Erasure
//	erased              digests of bodies that must not be published from the
//	                    journals any more: "<incarnation> <digest>", a line each
const (
	erasingDir = "erasing"
	erasedFile = "erased"
)

func (e *Eraser) path(id string) string { return filepath.Join(e.cfg.Dir, erasingDir, id+".json") }

// save makes an erasure durable, as far as it has come.
func (e *Eraser) save(er *Erasure) error {
	b, err := json.Marshal(er)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	dir := filepath.Join(e.cfg.Dir, erasingDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return errors.Join(writeDurably(osDisk{}, e.path(er.ID), b), osDisk{}.SyncDir(e.cfg.Dir))
}

// loadOpen takes up what is not done. One that was recorded as done, but not
// forgotten before a crash, is done.
func (e *Eraser) loadOpen() error {
	files, err := filepath.Glob(filepath.Join(e.cfg.Dir, erasingDir, "*.json"))
	if err != nil || len(files) == 0 {
		return err
	}
	asked, done := map[string]bool{}, map[string]bool{}
	for entry, err := range e.kept() {
		if err != nil {
			return err
		}
		if entry.Kind == KindErased {
			asked[entry.Call], done[entry.Call] = true, done[entry.Call] || entry.Status != StatusAsked
		}
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		er := &Erasure{}
		if err := json.Unmarshal(b, er); err != nil || e.path(er.ID) != f {
			return fmt.Errorf("%w: %s (%v): move it away to start without it; the erasure that it is of must be asked for again", ErrDamaged, f, err)
		}
		if done[er.ID] {
			if err := os.Remove(f); err != nil {
				return fmt.Errorf("audit: %w", err)
			}
			continue
		}
		er.Unasked = er.Unasked && !asked[er.ID]
		e.open[er.ID] = er
		e.show(er)
	}
	return nil
}

// loadErased reads the digests, and forgets those of journals that are gone.
func (e *Eraser) loadErased() error {
	e.erased.digests = map[string]bool{}
	file := filepath.Join(e.cfg.Dir, erasedFile)
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	var left []byte
	for line := range bytes.Lines(b) {
		id, digest, ok := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		if !ok || !bytes.HasSuffix(line, []byte("\n")) {
			return fmt.Errorf("%w: %s: %q", ErrDamaged, file, line)
		}
		if _, err := os.Stat(filepath.Join(e.cfg.Dir, journalDir, id)); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		e.erased.digests[digest] = true
		left = append(left, line...)
	}
	if len(left) == len(b) {
		return nil
	}
	return writeDurably(osDisk{}, file, left)
}

// holdBack has bodies that a journal of this disk holds not published any more,
// and counts those that never were. Which those are is known when no commit is
// under way that did not know it: until then they are in Erasure.Waiting, so that
// a crash at any moment counts each of them once. e.mu is held.
func (e *Eraser) holdBack(er *Erasure, here []foundBody) error {
	come, err := e.settled()
	if err != nil {
		return err
	}
	had := map[string]bool{}
	for _, b := range er.Waiting {
		had[b.Digest] = true
	}
	for _, b := range here {
		if next, ok := come[b.Run]; ok && b.Entry >= next && !e.Erased(b.Digest) && !had[b.Digest] {
			er.Waiting = append(er.Waiting, b)
		}
	}
	if len(er.Waiting) > 0 {
		if err := e.save(er); err != nil {
			return err
		}
	}
	if err := e.forbid(here); err != nil {
		return err
	}
	if _, err := e.settled(); err != nil || len(er.Waiting) == 0 {
		return err
	}
	branches := map[string]map[string]bool{}
	for _, b := range er.Waiting {
		if branches[b.Branch] == nil {
			branches[b.Branch] = map[string]bool{}
		}
		branches[b.Branch][b.Path] = true
	}
	held := 0
	for branch, paths := range branches {
		n, err := e.committed(branch, paths)
		if err != nil {
			return err
		}
		held += len(paths) - n
	}
	er.Held, er.Waiting = er.Held+held, nil
	return e.save(er)
}

// committed tells how many bodies are on their branch.
func (e *Eraser) committed(branch string, paths map[string]bool) (most int, err error) {
	for _, p := range e.places { // one of them, where the run began
		tip, ok, err := p.Store.Tip(branch)
		if err != nil {
			return 0, err
		}
		if !ok {
			continue
		}
		n, err := p.count(tip, "", theseBodies(paths))
		if err != nil {
			return 0, err
		}
		most = max(most, n)
	}
	return most, nil
}

// settled tells of the runs whose bodies are being published the first entry
// whose bodies are not committed. When it returns, no commit is under way that
// did not know what was erased before.
func (e *Eraser) settled() (map[string]uint64, error) {
	come := map[string]uint64{}
	for _, b := range e.cfg.Bodies {
		run, next, err := b.settle()
		if err != nil {
			return nil, err
		}
		come[run] = next
	}
	return come, nil
}

// forbid has these bodies not published any more, durably.
func (e *Eraser) forbid(here []foundBody) error {
	e.erased.Lock()
	var add []byte
	for _, b := range here {
		if !e.erased.digests[b.Digest] {
			e.erased.digests[b.Digest] = true
			add = append(add, b.Run+" "+b.Digest+"\n"...)
		}
	}
	e.erased.Unlock()
	if len(add) == 0 {
		return nil
	}
	file := filepath.Join(e.cfg.Dir, erasedFile)
	had, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("audit: %w", err)
	}
	return writeDurably(osDisk{}, file, append(had, add...))
}

// kept gives the entries of the journals on this disk.
func (e *Eraser) kept() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, entry := range e.journals() {
			for en, err := range entry {
				if !yield(en, err) || err != nil {
					return
				}
			}
		}
	}
}

// journals gives the entries of each journal on this disk, by incarnation.
func (e *Eraser) journals() map[string]iter.Seq2[Entry, error] {
	all := map[string]iter.Seq2[Entry, error]{e.cfg.Journal.Incarnation(): e.cfg.Journal.Read()}
	for _, p := range e.cfg.Past {
		if _, err := os.Stat(p.inc.dir); err == nil { // not pruned meanwhile
			all[p.Incarnation] = p.Read()
		}
	}
	return all
}

// published gives the entries of a branch of the log.
func published(log PublishedLog, branch string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		tip, ok, err := log.Tip(branch)
		if err != nil || !ok {
			if err != nil {
				yield(Entry{}, err)
			}
			return
		}
		var walk func(dir string) bool
		walk = func(dir string) bool {
			names, err := log.Files(tip, dir)
			if err != nil {
				return yield(Entry{}, err) && false
			}
			for _, n := range names {
				full := path.Join(dir, n)
				if strings.HasSuffix(n, "/") {
					if !walk(full) {
						return false
					}
					continue
				}
				if path.Ext(n) != ".jsonl" {
					continue
				}
				b, err := log.File(tip, full)
				if err != nil {
					return yield(Entry{}, err) && false
				}
				for en, err := range ReadEntries(bytes.NewReader(b)) {
					if errors.Is(err, io.EOF) {
						break
					}
					if !yield(en, err) || err != nil {
						return false
					}
				}
			}
			return true
		}
		walk("entries")
	}
}

// doomed says which files of a branch go, and which folders hold any.
type doomed struct {
	file, folder func(path string) bool
}

// theseBodies are those at the paths, with their parts.
func theseBodies(paths map[string]bool) doomed {
	folders := map[string]bool{}
	for p := range paths {
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			folders[d] = true
		}
	}
	return doomed{
		file: func(p string) bool {
			p, _, _ = strings.Cut(p, ".")
			return paths[p]
		},
		folder: func(p string) bool { return folders[p] },
	}
}

// tooOld are the bodies of a branch whose hour is over before a time.
func tooOld(branch string, before time.Time) doomed {
	month := path.Base(branch)
	over := func(layout, p string) bool {
		at, err := time.Parse("2006-01/"+layout, month+"/"+p)
		return err == nil && at.Before(before)
	}
	return doomed{
		file: func(p string) bool { return len(p) > len("dd/hh/") && over("02/15", p[:len("dd/hh")]) },
		folder: func(p string) bool {
			if len(p) < len("dd/hh") {
				return over("02", p)
			}
			return over("02/15", p[:len("dd/hh")])
		},
	}
}
