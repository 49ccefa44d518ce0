package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"countersign/audit"
)

// What the URL of the record's repository may hold: then the record goes on in
// another one with the month, the year, or the size.
const (
	inYear   = "{yyyy}"
	inMonth  = "{mm}"
	inNumber = "{n}"
)

func (c config) rolls() bool {
	return strings.Contains(c.AuditRepo, inYear) || strings.Contains(c.AuditRepo, inMonth) || strings.Contains(c.AuditRepo, inNumber)
}

func (c config) checkRoll(bad func(name, format string, args ...any)) {
	if c.AuditRollBytes < 1<<20 {
		bad("COUNTERSIGN_AUDIT_ROLL_BYTES", "%d: want at least %d bytes", c.AuditRollBytes, 1<<20)
	}
	if rest := strings.NewReplacer(inYear, "", inMonth, "", inNumber, "").Replace(c.AuditRepo); strings.ContainsAny(rest, "{}") {
		bad("COUNTERSIGN_AUDIT_REPO", "it holds other braces than those of %s, %s and %s", inYear, inMonth, inNumber)
	}
	if strings.Contains(c.AuditRepo, inMonth) && !strings.Contains(c.AuditRepo, inYear) {
		bad("COUNTERSIGN_AUDIT_REPO", "want %s beside %s: or every January is in one repository", inYear, inMonth)
	}
}

// repoAt is the URL at a time and with a number, without credentials: a
// repository's name.
func (c config) repoAt(now time.Time, number int) string {
	name, _ := splitUser(c.AuditRepo)
	return strings.NewReplacer(inYear, now.UTC().Format("2006"), inMonth, now.UTC().Format("01"), inNumber, strconv.Itoa(number)).Replace(name)
}

// repoNumber reads the number out of a name; ok is false if the name is none of
// this configuration's.
func (c config) repoNumber(name string) (number int, ok bool) {
	pattern, _ := splitUser(c.AuditRepo)
	pattern = regexp.QuoteMeta(pattern)
	for placeholder, digits := range map[string]string{inYear: `\d{4}`, inMonth: `\d{2}`, inNumber: `(\d{1,9})`} {
		pattern = strings.ReplaceAll(pattern, regexp.QuoteMeta(placeholder), digits)
	}
	re, err := regexp.Compile("^" + pattern + "$")
	if err != nil {
		return 0, false
	}
	found := re.FindStringSubmatch(name)
	if len(found) < 2 {
		return 1, found != nil
	}
	number, err = strconv.Atoi(found[1])
	return number, err == nil
}

// splitUser takes user and password out of a URL.
func splitUser(url string) (bare, user string) {
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		return url, ""
	}
	host, path, _ := strings.Cut(rest, "/")
	i := strings.LastIndexByte(host, '@')
	return scheme + "://" + host[i+1:] + "/" + path, host[:i+1]
}

// rollingLog is one run's log, and where it is.
type rollingLog struct {
	past *audit.Past // nil: of this run
	pub  *audit.Publisher
	site *site
}

// sitesOf gives the repository that the log of an earlier run is in, and the one
// in which it began, where the run's bodies are. A run that died before it
// committed anything is in none: it begins where it says that it leaves from,
// or else where the new one does.
func (r *record) sitesOf(p *audit.Past, here *site) (log, bodies *site, err error) {
	if !r.config.rolls() && p.Repo() == "" {
		return here, here, nil
	}
	if p.Repo() == "" && p.Checkpoint() == "" {
		single, err := r.committedBefore(p)
		if err == nil && !single {
			here, err = r.beginsAt(p, here)
		}
		if err != nil || !single {
			return here, here, err
		}
	}
	if log, err = r.at(p.Repo()); err != nil {
		return nil, nil, err
	}
	bodies, err = r.at(p.Began())
	return log, bodies, err
}

// beginsAt gives the repository in which a log that is in none yet begins.
func (r *record) beginsAt(p *audit.Past, here *site) (*site, error) {
	for e, err := range p.Read() {
		if err != nil {
			return nil, err
		}
		var roll audit.Rolled
		if e.Kind == audit.KindRolled && json.Unmarshal(e.Detail, &roll) == nil {
			return r.at(roll.From)
		}
	}
	return here, nil
}

// committedBefore tells whether a run has commits in the repository that was the
// only one, before they rolled.
func (r *record) committedBefore(p *audit.Past) (bool, error) {
	if _, err := os.Stat(filepath.Join(r.config.StateDir, "audit.git")); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	only, err := r.at("")
	if err != nil {
		return false, err
	}
	branches, err := only.repo.Branches("audit/" + p.Enforcer + "/" + p.Incarnation + "/")
	return len(branches) > 0, err
}

// startsIn names the repository that a new run begins in: the one in which the
// run before ended, so that no log is in another without saying so. Runs that
// were in none do not know, and may be all that is left of a start that failed
// again and again: then it is the one that was last pushed to.
func (r *record) startsIn(previous []*audit.Past) (string, error) {
	if !r.config.rolls() {
		return "", nil
	}
	for i := len(previous) - 1; i >= 0; i-- {
		name := previous[i].Repo()
		for e, err := range previous[i].Read() {
			if err != nil {
				return "", err
			}
			var to audit.Rolled
			if e.Kind == audit.KindRolled && json.Unmarshal(e.Detail, &to) == nil {
				name = to.To
			}
		}
		if _, ok := r.config.repoNumber(name); ok {
			return name, nil
		}
	}
	if _, ok := r.config.repoNumber(r.size.Repo); ok {
		return r.size.Repo, nil
	}
	return r.config.repoAt(time.Now(), 1), nil
}

// due names the repository that this run's log belongs in, and why it is
// another than the one it is in.
func (r *record) due(now time.Time) (name, reason string) {
	number, ok := r.config.repoNumber(r.target)
	if !ok {
		number = 1
	}
	if r.config.repoAt(now, number) != r.target {
		return r.config.repoAt(now, number), audit.RolledDate
	}
	if strings.Contains(r.config.AuditRepo, inNumber) && r.weight(r.target) >= r.config.AuditRollBytes {
		return r.config.repoAt(now, number+1), audit.RolledSize
	}
	return r.target, ""
}

// roll writes into the record that it goes on in another repository, if that is
// due; moveOn does the rest.
func (r *record) roll(ctx context.Context, now time.Time) error {
	name, reason := r.due(now)
	if name == r.target {
		return nil
	}
	detail, err := audit.Detail(audit.Rolled{From: r.target, To: name, Reason: reason})
	if err != nil {
		return err
	}
	_, err = r.journal.Append(ctx, audit.Entry{Kind: audit.KindRolled, Reason: "the record goes on in " + name, Detail: detail})
	if err != nil {
		return fmt.Errorf("the record cannot go on in %s: %w", name, err)
	}
	r.log.Info("the record goes on in another repository", "from", r.target, "to", name, "reason", reason)
	r.target = name
	return nil
}

// moveOn takes logs to the next repository that have wholly arrived in the one
// before. begun is told of each new publisher of this run.
func (r *record) moveOn(begun func(*audit.Publisher)) error {
	var errs []error
	for _, l := range r.logs {
		to, ok := l.pub.Rolled()
		if !ok {
			continue
		}
		next, err := r.at(to)
		if err != nil {
			errs = append(errs, fmt.Errorf("the record stays in the journal: %w", err))
			continue
		}
		pc := audit.PublisherConfig{Past: l.past}
		if l.past == nil {
			pc.Journal = r.journal
		}
		pub, err := r.publisher(pc, next)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l.site.outlet.Remove(l.pub)
		next.outlet.Add(pub)
		l.pub, l.site = pub, next
		if l.past == nil {
			r.current.Store(next)
			begun(pub)
		}
	}
	return errors.Join(errs...)
}

// sizeFile holds how many bytes were pushed to the repository that the log is
// in; where its number goes up with them, it must outlive the process.
const sizeFile = "audit-size.json"

type repoSize struct {
	Repo string `json:"repo"`
	Sent int64  `json:"sent"`
}

// weigh counts what was pushed to a repository.
func (r *record) weigh(name string, sent int64) {
	if !strings.Contains(r.config.AuditRepo, inNumber) || sent == 0 {
		return
	}
	r.sizeMu.Lock()
	defer r.sizeMu.Unlock()
	if r.size.Repo != name {
		if number, ok := r.config.repoNumber(r.size.Repo); ok {
			if newer, ok := r.config.repoNumber(name); !ok || newer < number {
				return // what is late for an earlier one
			}
		}
		r.size = repoSize{Repo: name}
	}
	r.size.Sent += sent
	b, err := json.Marshal(r.size)
	if err == nil {
		err = writeKept(filepath.Join(r.config.StateDir, sizeFile), b)
	}
	if err != nil {
		r.log.Warn("the size of the record's repository could not be noted", "err", err)
	}
}

func (r *record) weight(name string) int64 {
	r.sizeMu.Lock()
	defer r.sizeMu.Unlock()
	if r.size.Repo != name {
		return 0
	}
	return r.size.Sent
}

func (r *record) loadSize() error {
	b, err := os.ReadFile(filepath.Join(r.config.StateDir, sizeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r.size)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", sizeFile, err)
	}
	return nil
}
