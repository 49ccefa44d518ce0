package audit

import (
	"fmt"
	"maps"
	"path"
	"slices"
)

// search is what is known of the bodies that an erasure is of. The log of a run
// may lie in several repositories, and its bodies in the first of them: so what
// the logs say is put together, and whatever is new goes from all repositories.
type search struct {
	found   *finding
	local   bool // the journals on this disk were read
	version int  // of found
	places  map[*reached]*progress
}

// progress is how far a search is in one repository.
type progress struct {
	fetched bool  // what only the remote had is here
	read    bool  // so is what its log says
	dropped int   // the version of what was found that is gone from here
	err     error // what kept it, at last
}

// search gives what is known for an erasure. e.mu is held.
func (e *Eraser) search(er *Erasure) *search {
	s := e.searches[er.ID]
	if s == nil {
		s = &search{found: e.newFinding(er), version: 1, places: map[*reached]*progress{}}
		e.searches[er.ID] = s
	}
	return s
}

func (s *search) at(p *reached) *progress {
	if s.places[p] == nil {
		s.places[p] = &progress{}
	}
	return s.places[p]
}

// left says what is left to do in a repository; "" if nothing is.
func (s *search) left(p *reached, er *Erasure) string {
	switch at := s.at(p); {
	case at.err != nil:
		return at.err.Error()
	case !at.fetched || !at.read && er.Before.IsZero() || at.dropped != s.version:
		return "it was not looked into yet"
	}
	return ""
}

// take adds what a log says.
func (s *search) take(f *finding) {
	if s.found.merge(f) {
		s.version++
	}
}

// readJournals reads what is on this disk, once, and has its bodies not
// published any more. e.mu is held.
func (e *Eraser) readJournals(er *Erasure, s *search) error {
	if s.local {
		return nil
	}
	if er.Before.IsZero() {
		found, err := e.newFinding(er), error(nil)
		for id, entries := range e.journals() {
			for en, err2 := range entries {
				if err = err2; err == nil {
					err = found.entry(id, en)
				}
				if err != nil {
					return fmt.Errorf("the bodies cannot be found: %w", err)
				}
			}
		}
		found.resolve()
		if err := e.holdBack(er, found.bodies); err != nil {
			return err
		}
		s.take(found)
	}
	s.local = true
	return nil
}

// finding collects the bodies of a subject's calls, or of a call, and the
// repositories that a log names.
type finding struct {
	enforcer string
	call     string
	who      [2][2]string // issuer and sub, as either may be recorded

	calls   map[string]bool            // whose bodies they are
	paths   map[string]map[string]bool // of the bodies, by branch
	bodies  []foundBody                // these
	unnamed map[string][]foundBody     // of entries that name a call, and nobody: whose it is, another log may say
	names   map[string]bool            // of repositories
}

// foundBody is a body of an entry, and where it is, or was to be.
type foundBody struct {
	Run    string `json:"run"`
	Entry  uint64 `json:"entry"`
	Digest string `json:"digest"`
	Branch string `json:"branch"`
	Path   string `json:"path"`
}

func (e *Eraser) newFinding(er *Erasure) *finding {
	f := &finding{
		enforcer: e.cfg.Enforcer, call: er.Call,
		calls: map[string]bool{}, paths: map[string]map[string]bool{}, unnamed: map[string][]foundBody{}, names: map[string]bool{},
	}
	if er.Sub != "" {
		issuer, sub := e.cfg.Pseudonym(er.Issuer, er.Sub)
		f.who = [2][2]string{{er.Issuer, er.Sub}, {issuer, sub}}
	}
	return f
}

// entry takes in an entry of a run.
func (f *finding) entry(incarnation string, en Entry) error {
	if en.Kind == KindRolled {
		r, err := readRolled(en)
		if err != nil {
			return err
		}
		f.name(r.From)
		f.name(r.To)
	}
	mine := en.Call != "" && (en.Call == f.call || f.calls[en.Call])
	mine = mine || f.call == "" && en.Sub != "" && slices.Contains(f.who[:], [2]string{en.Issuer, en.Sub})
	if mine && en.Call != "" {
		f.calls[en.Call] = true // an entry of this call may name nobody
	}
	if !mine && (en.Call == "" || en.Sub != "") {
		return nil
	}
	for _, ref := range en.Bodies {
		if ref.Kept != KeptFull {
			continue
		}
		branch, p, err := bodyPlace(f.enforcer+"/"+incarnation, en.Time, ref)
		if err != nil {
			return err
		}
		if b := (foundBody{incarnation, en.Seq, ref.Digest, branch, p}); mine {
			f.add(b)
		} else if f.call == "" {
			f.unnamed[en.Call] = append(f.unnamed[en.Call], b)
		}
	}
	return nil
}

func (f *finding) name(repository string) {
	if repository != "" {
		f.names[repository] = true
	}
}

// add tells whether the body is a new one.
func (f *finding) add(b foundBody) bool {
	paths := f.paths[b.Branch]
	if paths == nil {
		paths = map[string]bool{}
		f.paths[b.Branch] = paths
	}
	if paths[b.Path] {
		return false
	}
	paths[b.Path] = true
	f.bodies = append(f.bodies, b)
	return true
}

// resolve takes in the bodies of entries that name nobody, whose call is known
// by now, and tells whether there were any.
func (f *finding) resolve() (grown bool) {
	for call, bodies := range f.unnamed {
		if !f.calls[call] {
			continue
		}
		for _, b := range bodies {
			grown = f.add(b) || grown
		}
		delete(f.unnamed, call)
	}
	return grown
}

// merge adds what another log says, and tells whether bodies came to it.
func (f *finding) merge(other *finding) (grown bool) {
	maps.Copy(f.calls, other.calls)
	for branch, paths := range other.paths {
		if f.paths[branch] == nil {
			f.paths[branch] = map[string]bool{}
		}
		was := len(f.paths[branch])
		maps.Copy(f.paths[branch], paths)
		grown = grown || len(f.paths[branch]) > was
	}
	for call, bodies := range other.unnamed {
		f.unnamed[call] = append(f.unnamed[call], bodies...)
	}
	return f.resolve() || grown
}

// readLog takes in the log of a repository.
func (f *finding) readLog(log PublishedLog, prefix string) error {
	branches, err := log.Branches(prefix)
	if err != nil {
		return err
	}
	for _, b := range branches {
		if err := f.handover(log, b); err != nil {
			return fmt.Errorf("%s: %w", b, err)
		}
		for en, err := range published(log, b) {
			if err == nil {
				err = f.entry(path.Base(path.Dir(b)), en)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", b, err)
			}
		}
	}
	f.resolve()
	return nil
}

// handover takes in where a branch's log came from, if it began elsewhere.
func (f *finding) handover(log PublishedLog, branch string) error {
	tip, ok, err := log.Tip(branch)
	if err != nil || !ok {
		return err
	}
	files, err := log.Files(tip, "")
	if err != nil || !slices.Contains(files, handoverFile) {
		return err
	}
	b, err := log.File(tip, handoverFile)
	f.name(handedOverFrom(b))
	return err
}
