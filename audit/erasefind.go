package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
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
	done := map[string]bool{}
	for entry, err := range e.kept() {
		if err != nil {
			return err
		}
		if entry.Kind == KindErased && entry.Status != StatusAsked {
			done[entry.Call] = true
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

// forbid has the bodies of these digests, which are in a journal of this disk,
// not published any more, durably. When it returns, no commit is under way
// that did not know it.
func (e *Eraser) forbid(of map[string][]string) error {
	e.erased.Lock()
	var add []byte
	for _, id := range slices.Sorted(maps.Keys(of)) {
		for _, d := range of[id] {
			if !e.erased.digests[d] {
				e.erased.digests[d] = true
				add = append(add, id+" "+d+"\n"...)
			}
		}
	}
	e.erased.Unlock()
	if len(add) > 0 {
		file := filepath.Join(e.cfg.Dir, erasedFile)
		had, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("audit: %w", err)
		}
		if err := writeDurably(osDisk{}, file, append(had, add...)); err != nil {
			return err
		}
	}
	for _, b := range e.cfg.Bodies {
		b.settle()
	}
	return nil
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

// find gives the paths of the bodies that an erasure is of, by branch, and the
// digests of those in journals on this disk, by incarnation.
func (e *Eraser) find(er *Erasure, log PublishedLog) (paths map[string]map[string]bool, here map[string][]string, err error) {
	paths, here = map[string]map[string]bool{}, map[string][]string{}
	issuer, sub := e.cfg.Pseudonym(er.Issuer, er.Sub)
	calls := map[string]bool{}
	add := func(id string, en Entry, local bool) error {
		mine := er.Call != "" && en.Call == er.Call
		if er.Sub != "" {
			mine = en.Issuer == er.Issuer && en.Sub == er.Sub || en.Issuer == issuer && en.Sub == sub || en.Call != "" && calls[en.Call]
		}
		if !mine {
			return nil
		}
		if en.Call != "" {
			calls[en.Call] = true // an entry of this call may name nobody
		}
		for _, ref := range en.Bodies {
			if ref.Kept != KeptFull {
				continue
			}
			branch, p, err := bodyPlace(e.cfg.Enforcer+"/"+id, en.Time, ref)
			if err != nil {
				return err
			}
			if paths[branch] == nil {
				paths[branch] = map[string]bool{}
			}
			paths[branch][p] = true
			if local {
				here[id] = append(here[id], ref.Digest)
			}
		}
		return nil
	}
	var logs []string
	if log != nil {
		if logs, err = log.Branches("audit/" + e.cfg.Enforcer + "/"); err != nil {
			return nil, nil, err
		}
	}
	for _, b := range logs {
		id := path.Base(path.Dir(b))
		for en, err := range published(log, b) {
			if err == nil {
				err = add(id, en, false)
			}
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", b, err)
			}
		}
	}
	for id, entries := range e.journals() {
		for en, err := range entries {
			if err == nil {
				err = add(id, en, true)
			}
			if err != nil {
				return nil, nil, err
			}
		}
	}
	return paths, here, nil
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

// drop writes the branches anew that hold what an erasure is of; log is nil if
// the remote cannot be asked.
func (e *Eraser) drop(ctx context.Context, er *Erasure, log PublishedLog) error {
	var branches []string
	of := func(branch string) doomed { return tooOld(branch, er.Before) }
	if er.Before.IsZero() {
		paths, here, err := e.find(er, log)
		if err != nil {
			return fmt.Errorf("the bodies cannot be found: %w", err)
		}
		if err := e.forbid(here); err != nil {
			return err
		}
		branches = slices.Sorted(maps.Keys(paths))
		of = func(branch string) doomed { return theseBodies(paths[branch]) }
	} else {
		var err error
		if branches, err = e.cfg.Store.Branches(e.prefix()); err != nil {
			return err
		}
	}
	// Those that a crash interrupted, too: they may be gone by now.
	for _, s := range er.Steps {
		if s.Begun && !slices.Contains(branches, s.Branch) {
			branches = append(branches, s.Branch)
		}
	}
	for _, b := range branches {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := e.dropFrom(ctx, er, b, of(b)); err != nil {
			return fmt.Errorf("%s: %w", b, err)
		}
	}
	return nil
}

// dropFrom writes a branch anew, without the files that go. What it is about to
// do is on this disk first.
func (e *Eraser) dropFrom(ctx context.Context, er *Erasure, branch string, goes doomed) error {
	tip, ok, err := e.cfg.Store.Tip(branch)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(er.Steps, func(s Erased) bool { return s.Branch == branch && s.Begun })
	if i >= 0 && tip != er.Steps[i].Old { // done, before a crash
		er.Steps[i].New, er.Steps[i].Begun = tip, false
		if err := e.save(er); err != nil {
			return err
		}
		i = -1
	}
	if !ok {
		return nil
	}
	// While a journal of this run is on this disk, its branch says how far it
	// was published, also when nothing else is left of it.
	_, live := e.journals()[path.Base(path.Dir(branch))]
	n, err := e.count(tip, "", goes)
	if err != nil {
		return err
	}
	if n == 0 {
		if bare, err := e.bare(tip); err != nil || !bare || live {
			return err
		}
	}
	if i < 0 {
		i, er.Steps = len(er.Steps), append(er.Steps, Erased{Branch: branch, Old: tip, Bodies: n, Begun: true})
		if err := e.save(er); err != nil {
			return err
		}
	}
	left := live
	tip, err = e.cfg.Store.Rewrite(ctx, branch, tip, func(p string) bool {
		if p == positionFile { // the last of all: the others begin with a digit
			return left
		}
		stays := !goes.file(p)
		left = left || stays
		return stays
	}, fmt.Sprintf("%d %s erased\n\nErasure: %s", n, plural(n, "body", "bodies"), er.ID), e.cfg.Now())
	if err != nil {
		return err
	}
	er.Steps[i].New, er.Steps[i].Begun = tip, false
	return e.save(er)
}

// bare tells whether a commit holds no body.
func (e *Eraser) bare(commit string) (bool, error) {
	names, err := e.cfg.Store.Files(commit, "")
	return len(names) == 1 && names[0] == positionFile, err
}

// count tells how many bodies under a folder of a commit go.
func (e *Eraser) count(commit, dir string, goes doomed) (n int, err error) {
	names, err := e.cfg.Store.Files(commit, dir)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		full := path.Join(dir, name)
		switch {
		case strings.HasSuffix(name, "/"):
			if !goes.folder(full) {
				continue
			}
			m, err := e.count(commit, full, goes)
			if err != nil {
				return 0, err
			}
			n += m
		case path.Ext(name) == "" && goes.file(full): // a part is no body
			n++
		}
	}
	return n, nil
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

// expire drops what is older than the policy's retention, by whole days, or by
// whole hours if that is less than two days: a branch is written anew once for
// all of them.
func (e *Eraser) expire(ctx context.Context) error {
	now := e.cfg.Now().UTC()
	if !e.looked.IsZero() && now.Sub(e.looked) < lookEvery {
		return nil
	}
	age, ok := e.cfg.Retention()
	if !ok || age <= 0 {
		return nil
	}
	unit := 24 * time.Hour
	if age < 2*unit {
		unit = time.Hour
	}
	for _, er := range e.open {
		if !er.Before.IsZero() {
			return nil // the last one is not done yet
		}
	}
	er := &Erasure{
		ID: e.cfg.ID(), Reason: "older than the policy's retention of " + age.String(),
		Before: now.Add(-age).Truncate(unit), Asked: now, Steps: []Erased{},
	}
	// Of a disk that was lost, the remote may have more than is here.
	if err := e.cfg.Store.FetchNew(ctx, e.prefix()); err != nil {
		e.cfg.Log.Warn("bodies that only the remote has are not looked at for their age", "err", err)
	}
	old, err := e.anyExpired(er.Before)
	if err != nil {
		return err
	}
	e.looked = now
	if !old {
		return nil
	}
	if err := e.save(er); err != nil {
		return err
	}
	e.open[er.ID] = er
	return nil // the caller goes on with it
}

// anyExpired looks at folders only: most of the time there is nothing to do.
func (e *Eraser) anyExpired(before time.Time) (bool, error) {
	branches, err := e.cfg.Store.Branches(e.prefix())
	if err != nil {
		return false, err
	}
	for _, b := range branches {
		tip, ok, err := e.cfg.Store.Tip(b)
		if err != nil || !ok {
			return false, err
		}
		old := tooOld(b, before)
		_, live := e.journals()[path.Base(path.Dir(b))]
		if bare, err := e.bare(tip); err != nil || bare && !live {
			return err == nil, err
		}
		days, err := e.cfg.Store.Files(tip, "")
		if err != nil {
			return false, err
		}
		for _, d := range days {
			if !strings.HasSuffix(d, "/") || !old.folder(strings.TrimSuffix(d, "/")) {
				continue
			}
			hours, err := e.cfg.Store.Files(tip, strings.TrimSuffix(d, "/"))
			if err != nil {
				return false, err
			}
			if slices.ContainsFunc(hours, func(h string) bool { return old.folder(d + strings.TrimSuffix(h, "/")) }) {
				return true, nil
			}
		}
	}
	return false, nil
}
