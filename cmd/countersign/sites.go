package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"countersign/audit"
	"countersign/gitsync"
)

// site is one repository of the record, and the way to it.
type site struct {
	name   string // its URL without credentials; empty: there is only one
	dir    string // in the state directory
	repo   *gitsync.Repo
	outlet *audit.Outlet
	away   error // why its remote cannot be asked, though it was once
	runs   bool  // the outlet does; of publish alone
}

// onlyDir is the folder of the only repository, where they do not roll.
const onlyDir = "audit.git"

// placesFile lists the repositories that the record is or was in, in the state
// directory: "<folder> <URL without credentials>", a line each. Bodies that are
// to be erased, or are too old, may be in any of them. A person who writes
// forgotten for the folder has nothing looked for in that one any more.
const (
	placesFile = "audit-repositories"
	forgotten  = "-"
)

// at opens a repository, or finds it among those that are open. The name ""
// stands for the only one; where repositories roll, for the one that was the only
// one, or else for that which is due, with what was committed before they did.
func (r *record) at(name string) (*site, error) {
	r.opening.Lock()
	defer r.opening.Unlock()
	only, _ := splitUser(r.config.AuditRepo)
	if !r.config.rolls() && (name == "" || name == only) {
		return r.openSite("", onlyDir, only)
	}
	for dir, bare := range r.placesHere() {
		if dir != forgotten && (name == bare || name == "" && dir == onlyDir) {
			return r.openSite(bare, dir, bare)
		}
	}
	if name == "" {
		return r.openSite("", onlyDir, r.config.repoAt(time.Now(), 1))
	}
	sum := sha256.Sum256([]byte(name))
	return r.openSite(name, "audit-"+hex.EncodeToString(sum[:6])+".git", name)
}

// openSite opens the repository with this URL in a folder, and notes that first.
// r.opening is held.
func (r *record) openSite(name, dir, bare string) (*site, error) {
	for _, s := range r.openSites() {
		if s.dir == dir {
			return s, nil
		}
	}
	known := name != "" || !r.config.rolls() // else nobody knows where that was
	if known {
		if err := r.notePlace(dir, bare); err != nil {
			return nil, err
		}
	}
	committer, err := r.keys.now[audit.UseCommit].SSH()
	if err != nil {
		return nil, err
	}
	s := &site{name: name, dir: dir}
	c := r.config
	if mine, _ := splitUser(c.AuditRepo); bare != mine {
		c.AuditRepo = withUser(bare, c.AuditRepo)
	}
	if _, ours := r.config.repoNumber(bare); !ours && gitsync.Host(c.AuditRepo) != gitsync.Host(r.config.AuditRepo) { // and what one gave out is for that one alone
		s.away = fmt.Errorf("it is on another host than COUNTERSIGN_AUDIT_REPO: remove its branches under bodies/%s/ by hand, and have it forgotten in %s", c.ID, placesFile)
		c.AuditRepo = ""
	}
	s.repo, err = gitsync.OpenAudit(gitsync.AuditConfig{
		Dir: filepath.Join(c.StateDir, dir), URL: c.AuditRepo, Auth: c.auditAuth(r.mask),
		Signer: committer, Name: "countersign " + c.ID, Email: committerEmail(c.ID),
	})
	if err != nil {
		return nil, fmt.Errorf("COUNTERSIGN_AUDIT_REPO: %w", err)
	}
	var parts []audit.Part
	if r.eraser != nil && known {
		parts = append(parts, r.eraser.Reach(s.place()))
	}
	s.outlet, err = audit.NewOutlet(audit.OutletConfig{
		Parts: parts,
		Push:  pushTo(s.repo), Rejected: func(err error) bool { return errors.Is(err, gitsync.ErrRejected) },
		Window: c.AuditWindow, Rand: rand.Float64, Now: time.Now, Log: r.log,
		Pushed: func(p audit.Push) { r.weigh(s.name, p.Sent) },
	})
	if err != nil {
		return nil, errors.Join(err, s.repo.Close())
	}
	r.sitesMu.Lock()
	defer r.sitesMu.Unlock()
	r.sites = append(r.sites, s)
	return s, nil
}

// withUser gives a URL the user of another.
func withUser(bare, of string) string {
	_, user := splitUser(of)
	scheme, rest, ok := strings.Cut(bare, "://")
	if !ok {
		return bare
	}
	return scheme + "://" + user + rest
}

// place is a site as the eraser wants to see it.
func (s *site) place() audit.Place {
	return audit.Place{
		Name: s.name, Store: s.repo, Away: s.away,
		Published: func(ctx context.Context, prefix string) (audit.PublishedLog, error) {
			return s.repo.Borrow(ctx, prefix)
		},
	}
}

// openPlaces opens the repositories that the record was in before.
func (r *record) openPlaces(previous []*audit.Past) error {
	b, err := os.ReadFile(filepath.Join(r.config.StateDir, placesFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r.places = b
	for _, p := range previous { // of a version that noted none
		for _, name := range []string{p.Began(), p.Repo()} {
			if name != "" {
				if _, err := r.at(name); err != nil {
					return err
				}
			}
		}
	}
	r.opening.Lock()
	defer r.opening.Unlock()
	for dir, bare := range r.placesHere() {
		if filepath.Base(dir) != dir || bare == "" {
			return fmt.Errorf("%s: %q: want a folder and a URL", placesFile, dir+" "+bare)
		}
		if dir == forgotten || dir == onlyDir && !r.config.rolls() { // the only one is where it is configured to be
			continue
		}
		if _, err := r.openSite(bare, dir, bare); err != nil {
			return err
		}
	}
	return nil
}

// placesHere reads the list. r.opening is held.
func (r *record) placesHere() iter.Seq2[string, string] {
	list := string(r.places)
	return func(yield func(dir, bare string) bool) {
		for line := range strings.Lines(list) {
			if dir, bare, _ := strings.Cut(strings.TrimSpace(line), " "); !yield(dir, bare) {
				return
			}
		}
	}
}

// notePlace has a repository in the list, durably.
func (r *record) notePlace(dir, bare string) error {
	line := dir + " " + bare + "\n"
	var lines []byte
	for l := range bytes.Lines(r.places) {
		if string(l) == line {
			return nil
		}
		if !bytes.HasPrefix(l, []byte(dir+" ")) && string(l) != forgotten+" "+bare+"\n" { // else it has moved, or is used again
			lines = append(lines, l...)
		}
	}
	lines = append(lines, line...)
	if err := os.MkdirAll(r.config.StateDir, 0o700); err != nil {
		return err
	}
	if err := writeKept(filepath.Join(r.config.StateDir, placesFile), lines); err != nil {
		return fmt.Errorf("%s: %w", placesFile, err)
	}
	r.places = lines
	return nil
}

// named opens a repository that a log names, if it is one of this record's. The
// log was not verified: whatever else it names is not asked.
func (r *record) named(name string) (bool, error) {
	if only, _ := splitUser(r.config.AuditRepo); name == only {
		return true, nil
	}
	if _, ok := r.config.repoNumber(name); !ok {
		return false, nil
	}
	r.opening.Lock()
	places := r.placesHere()
	r.opening.Unlock()
	for dir, bare := range places {
		if dir == forgotten && bare == name {
			return false, nil
		}
	}
	_, err := r.at(name)
	return err == nil, err
}

func (r *record) openSites() []*site {
	r.sitesMu.Lock()
	defer r.sitesMu.Unlock()
	return slices.Clone(r.sites)
}

func (r *record) closeSites() (err error) {
	for _, s := range r.openSites() {
		err = errors.Join(err, s.repo.Close())
	}
	return err
}
