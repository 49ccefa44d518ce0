package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// reached is a repository that an eraser reaches, as a Part of that one's
// Outlet. What keeps it from one repository keeps it from no other: each is
// asked for itself, and has an age of its own. But what is found in the log of
// one says which bodies go from all.
type reached struct {
	Place
	e *Eraser

	mu     sync.Mutex // one thing at a time
	looked time.Time  // when what is too old was last looked for
	asked  bool       // then, for branches that only the remote has
}

// concerns tells whether an erasure is about bodies in this repository.
func (p *reached) concerns(er *Erasure) bool { return er.Before.IsZero() || er.Repo == p.Name }

// Commit goes on with what is not done, and drops what has become too old.
func (p *reached) Commit(ctx context.Context) error {
	errs := []error{p.expire(ctx)}
	for _, er := range p.e.unfinished() {
		if p.concerns(er) {
			errs = append(errs, p.advance(ctx, er))
		}
	}
	return errors.Join(errs...)
}

// Dirty names the branches that the remote has as they were before.
func (p *reached) Dirty() []string {
	names, err := p.Store.Rewritten(p.e.prefix())
	if err != nil {
		p.e.cfg.Log.Error("the branches that were written anew cannot be listed", "err", err)
	}
	return names
}

// Pushed finishes what waited for the push.
func (p *reached) Pushed(ctx context.Context, _ map[string]string) error {
	var errs []error
	for _, er := range p.e.unfinished() {
		p.e.mu.Lock()
		errs = append(errs, p.e.finish(ctx, er))
		p.e.mu.Unlock()
	}
	return errors.Join(errs...)
}

// unfinished gives the erasures that are not done.
func (e *Eraser) unfinished() (all []*Erasure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(e.open)) {
		all = append(all, e.open[id])
	}
	return all
}

// advance does what can be done of an erasure in this repository now, and in the
// others what follows from that. What it fails with, Waits says, too.
func (p *reached) advance(ctx context.Context, er *Erasure) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.e
	e.mu.Lock()
	if er.Done || er.Seen {
		defer e.mu.Unlock()
		return e.finish(ctx, er)
	}
	if er.Unasked { // a crash came before that entry
		if err := e.record(ctx, er, StatusAsked); err != nil {
			defer e.mu.Unlock()
			er.Waits = err.Error()
			e.show(er)
			return err
		}
		er.Unasked = false
	}
	s := e.search(er)
	err := e.readJournals(er, s)
	e.mu.Unlock()
	if err == nil {
		err = p.ask(ctx, er, s)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s.at(p).err = err
	if s.local {
		err = errors.Join(err, e.drop(ctx, er, s))
	}
	return errors.Join(err, e.finish(ctx, er))
}

// ask finds out what only the remote has: of a disk that was lost, and of runs
// whose log is no longer on this disk.
func (p *reached) ask(ctx context.Context, er *Erasure, s *search) error {
	unseen := func(err error) error {
		return fmt.Errorf("what could be found here is gone, but the remote cannot be asked what it has: %w", err)
	}
	if p.Away != nil {
		return unseen(p.Away)
	}
	p.e.mu.Lock()
	at := s.at(p)
	fetched, read := at.fetched, at.read
	p.e.mu.Unlock()
	if !fetched {
		if err := p.Store.FetchNew(ctx, p.e.prefix()); err != nil {
			return unseen(err)
		}
		p.e.mu.Lock()
		at.fetched, at.dropped = true, 0
		p.e.mu.Unlock()
	}
	if read || !er.Before.IsZero() {
		return nil
	}
	prefix := "audit/" + p.e.cfg.Enforcer + "/"
	log, err := p.Published(ctx, prefix)
	if err != nil {
		return unseen(err)
	}
	found := p.e.newFinding(er)
	if err := errors.Join(found.readLog(log, prefix), log.Close()); err != nil {
		return fmt.Errorf("the bodies cannot be found: %w", err)
	}
	if err := p.e.named(er, found.names); err != nil {
		return err
	}
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	at.read = true
	s.take(found)
	return nil
}

// maxOthers and maxNameOther bound what a log may put into an erasure's entry.
const (
	maxOthers    = 16
	maxNameOther = 512
)

// named has repositories reached that a log names. They are known before the log
// counts as read: an erasure is not done without them.
func (e *Eraser) named(er *Erasure, names map[string]bool) error {
	for _, name := range slices.Sorted(maps.Keys(names)) {
		e.mu.Lock()
		there := slices.ContainsFunc(e.places, func(p *reached) bool { return p.Name == name })
		e.mu.Unlock()
		if there {
			continue
		}
		known, err := e.cfg.Named(name)
		if err != nil {
			return fmt.Errorf("%s, which the log names: %w", name, err)
		}
		e.mu.Lock()
		if name = name[:min(len(name), maxNameOther)]; !known && !slices.Contains(er.Others, name) && len(er.Others) < maxOthers {
			er.Others = append(er.Others, strings.ToValidUTF8(name, "?"))
			e.show(er)
		}
		e.mu.Unlock()
	}
	return nil
}

// drop takes what was found so far from every repository. e.mu is held.
func (e *Eraser) drop(ctx context.Context, er *Erasure, s *search) error {
	var errs []error
	for _, p := range e.places {
		at := s.at(p)
		if !p.concerns(er) || at.dropped == s.version {
			continue
		}
		if err := p.drop(ctx, er, s); err != nil {
			at.err = errors.Join(at.err, err)
			errs = append(errs, err)
			continue
		}
		at.dropped = s.version
	}
	return errors.Join(errs...)
}

// drop writes the branches anew that hold what an erasure is of.
func (p *reached) drop(ctx context.Context, er *Erasure, s *search) error {
	branches := slices.Sorted(maps.Keys(s.found.paths))
	of := func(branch string) doomed { return theseBodies(s.found.paths[branch]) }
	if !er.Before.IsZero() {
		var err error
		if branches, err = p.Store.Branches(p.e.prefix()); err != nil {
			return err
		}
		of = func(branch string) doomed { return tooOld(branch, er.Before) }
	}
	// Those that a crash interrupted, too: they may be gone by now.
	for _, s := range er.Steps {
		if s.Begun && s.Repo == p.Name && !slices.Contains(branches, s.Branch) {
			branches = append(branches, s.Branch)
		}
	}
	for _, b := range branches {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := p.dropFrom(ctx, er, b, of(b)); err != nil {
			return fmt.Errorf("%s: %w", b, err)
		}
	}
	return nil
}

// dropFrom writes a branch anew, without the files that go. What it is about to
// do is on this disk first.
func (p *reached) dropFrom(ctx context.Context, er *Erasure, branch string, goes doomed) error {
	tip, ok, err := p.Store.Tip(branch)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(er.Steps, func(s Erased) bool { return s.Branch == branch && s.Repo == p.Name && s.Begun })
	if i >= 0 && tip != er.Steps[i].Old { // done, before a crash
		er.Steps[i].New, er.Steps[i].Begun = tip, false
		if err := p.e.save(er); err != nil {
			return err
		}
		i = -1
	}
	if !ok {
		return nil
	}
	// While a journal of this run is on this disk, its branch says how far it
	// was published, also when nothing else is left of it.
	_, live := p.e.journals()[path.Base(path.Dir(branch))]
	n, err := p.count(tip, "", goes)
	if err != nil {
		return err
	}
	if n == 0 {
		if bare, err := p.bare(tip); err != nil || !bare || live {
			return err
		}
	}
	if i < 0 {
		i, er.Steps = len(er.Steps), append(er.Steps, Erased{Repo: p.Name, Branch: branch, Old: tip, Bodies: n, Begun: true})
		if err := p.e.save(er); err != nil {
			return err
		}
	}
	left := live
	tip, err = p.Store.Rewrite(ctx, branch, tip, func(file string) bool {
		if file == positionFile { // the last of all: the others begin with a digit
			return left
		}
		stays := !goes.file(file)
		left = left || stays
		return stays
	}, fmt.Sprintf("%d %s erased\n\nErasure: %s", n, plural(n, "body", "bodies"), er.ID), p.e.cfg.Now())
	if err != nil {
		return err
	}
	er.Steps[i].New, er.Steps[i].Begun = tip, false
	return p.e.save(er)
}

// bare tells whether a commit holds no body.
func (p *reached) bare(commit string) (bool, error) {
	names, err := p.Store.Files(commit, "")
	return len(names) == 1 && names[0] == positionFile, err
}

// count tells how many bodies under a folder of a commit go.
func (p *reached) count(commit, dir string, goes doomed) (n int, err error) {
	names, err := p.Store.Files(commit, dir)
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
			m, err := p.count(commit, full, goes)
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

// expire begins to drop what is older than the policy's retention, by whole
// days, or by whole hours if that is less than two days: a branch is written
// anew once for all of them.
func (p *reached) expire(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.e
	now := e.cfg.Now().UTC()
	if !p.looked.IsZero() && now.Sub(p.looked) < lookEvery {
		return nil
	}
	age, ok := e.cfg.Retention()
	if !ok || age <= 0 {
		return nil
	}
	for _, er := range e.unfinished() {
		if !er.Before.IsZero() && p.concerns(er) {
			return nil // the last one is not done yet
		}
	}
	// Of a disk that was lost, the remote may have more than is here.
	if !p.asked {
		err := p.Away
		if err == nil {
			err = p.Store.FetchNew(ctx, e.prefix())
		}
		if err != nil {
			e.cfg.Log.Warn("bodies that only the remote has are not looked at for their age", "repository", p.Name, "err", err)
		}
		p.asked = err == nil
	}
	unit := 24 * time.Hour
	if age < 2*unit {
		unit = time.Hour
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	er := &Erasure{
		ID: e.cfg.ID(), Reason: "older than the policy's retention of " + age.String(), Repo: p.Name,
		Before: now.Add(-age).Truncate(unit), Asked: now, Steps: []Erased{},
	}
	old, err := p.anyExpired(er.Before)
	if err != nil {
		return err
	}
	p.looked = now
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
func (p *reached) anyExpired(before time.Time) (bool, error) {
	branches, err := p.Store.Branches(p.e.prefix())
	if err != nil {
		return false, err
	}
	for _, b := range branches {
		tip, ok, err := p.Store.Tip(b)
		if err != nil || !ok {
			return false, err
		}
		old := tooOld(b, before)
		_, live := p.e.journals()[path.Base(path.Dir(b))]
		if bare, err := p.bare(tip); err != nil || bare && !live {
			return err == nil, err
		}
		days, err := p.Store.Files(tip, "")
		if err != nil {
			return false, err
		}
		for _, d := range days {
			if !strings.HasSuffix(d, "/") || !old.folder(strings.TrimSuffix(d, "/")) {
				continue
			}
			hours, err := p.Store.Files(tip, strings.TrimSuffix(d, "/"))
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
