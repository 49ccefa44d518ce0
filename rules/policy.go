// Package rules decides: may this subject, through this client, make this
// request of this server?
//
// It is pure. A policy is loaded from a file system that somebody else has
// fetched and verified; a decision depends on that policy and on the request,
// the time in it included, and on nothing else. Three promises:
//
//   - A policy is read strictly and as a whole. Whatever is unknown, doubled,
//     unresolved or of the wrong type is a Problem with its place, and a policy
//     with one problem is not a policy: Load returns all of them and no Policy.
//   - Decide is total. There is no error for a caller to mishandle: whatever
//     cannot be evaluated denies, or asks, and says so in the trace.
//   - The most restrictive effect wins: deny over approve over allow, no match
//     denies. The order of rules and files never matters.
package rules

import (
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// What a policy may weigh; more is a mistake or an attack.
const (
	maxFiles     = 10_000
	maxFileBytes = 1 << 20
	maxBytes     = 64 << 20
)

// Settings is countersign.yaml, defaults filled in.
type Settings struct {
	Version        int
	Hold           time.Duration // how long a caller is held open for an approval
	DefaultExpires time.Duration // of an approval whose rule does not say
	MaxGrant       time.Duration // no approval is good for longer
	PolicyLink     string        // where a rule can be read, with {commit}, {file} and {line}; "": nowhere
	AuditLink      string        // where a call can be read in the record, with {call}; "": nowhere
	MaxRequest     int64         // bytes
	MaxResponse    int64         // bytes
	MaxHeaders     int64         // bytes of a request's headers
	MaxDepth       int           // nested objects and arrays of a message
	MaxMemory      int64         // bytes of all messages that are held at one moment
	MaxProcesses   int           // of all spawned servers together
	Record         Record
}

// Masks is what masks/*.yaml add up to.
type Masks struct {
	Disable []string // names of detectors switched off
	Keys    []string // object keys whose string values are always masked

	Detectors []Detector // the policy's own, in the order of its files
	Fields    []FieldRule
	Allow     []MaskAllowance // what detectors find and is no secret
	Streams   []BufferedStream
}

// Policy is a loaded policy: immutable, safe for concurrent use.
type Policy struct {
	commit   string
	settings Settings
	servers  map[string]Server
	people   people
	masks    Masks
	disabled []Problem // a place for each entry of masks.Disable, Msg being its name
	own      []Problem // a place for each of masks.Detectors, Msg being its id
	allowed  []Problem // and for each detector under masks.Allow
	compared []Problem // and for each text that a condition compares with secrets()
	ends     []Problem // and for each of masks.Allow, Msg being empty
	freezers []string  // names of people who may freeze
	rules    []*rule   // by id
	index    index
	byServer map[string][]*rule // what may open a server's baseline
	lock     Lock
	cases    []testCase
	quotas   []Quota                  // by id
	holds    map[string]time.Duration // by client
	usesSQL  bool
	finder   Finder // nil: nobody finds secrets
}

// Load reads the policy in fsys, which commit names. The error is Problems.
// Detectors, where any are given, are those that exist: what the policy names
// beside them is a problem like any other. This package does not know them.
func Load(fsys fs.FS, commit string, detectors ...string) (*Policy, error) {
	l := loader{fsys: fsys, ids: map[string]*rule{}, pinned: map[string]string{}, policy: &Policy{commit: commit, servers: map[string]Server{}}}
	l.policy.people.init()
	l.policy.settings = Settings{Version: 1, Hold: 45 * time.Second, DefaultExpires: 15 * time.Minute, MaxGrant: time.Hour,
		MaxRequest: 4 << 20, MaxResponse: 8 << 20, MaxHeaders: 32 << 10, MaxDepth: 64, MaxMemory: 256 << 20, MaxProcesses: 256,
		Record: Record{Bodies: RecordDigest, Previews: true}}
	l.load()
	if len(detectors) > 0 {
		l.problems = append(l.problems, l.policy.UnknownDetectors(detectors)...)
	}
	if len(l.problems) > 0 {
		return nil, l.problems.sorted()
	}
	return l.policy, nil
}

// Commit is the commit that the policy was loaded from.
func (p *Policy) Commit() string { return p.commit }

// Settings is countersign.yaml.
func (p *Policy) Settings() Settings {
	s := p.settings
	s.Record.Recipients = slices.Clone(s.Record.Recipients)
	return s
}

// Masks is what masks/*.yaml add up to.
func (p *Policy) Masks() Masks {
	m := p.masks
	m.Disable, m.Keys, m.Detectors, m.Fields = slices.Clone(m.Disable), slices.Clone(m.Keys), slices.Clone(m.Detectors), slices.Clone(m.Fields)
	m.Allow, m.Streams = slices.Clone(m.Allow), slices.Clone(m.Streams)
	return m
}

// UnknownDetectors reports what masks/*.yaml switch off, or allow, and what
// conditions compare with secrets(), although it is none of the detectors that
// exist: a typo there would leave a detector on, or a rule without effect, and
// its author wondering. It reports a detector of their own that has the name of
// one, too.
func (p *Policy) UnknownDetectors(known []string) Problems {
	var ps Problems
	for _, at := range p.disabled {
		if !slices.Contains(known, at.Msg) {
			at.Msg = noDetector(at.Msg, known)
			ps = append(ps, at)
		}
	}
	for _, at := range p.own {
		if slices.Contains(known, at.Msg) {
			at.Msg = fmt.Sprintf("there is a detector %q already: call this one something else", at.Msg)
			ps = append(ps, at)
		}
	}
	ps = append(ps, p.unknownAllowed(known)...)
	for _, at := range p.compared {
		if at.Msg != "key" && at.Msg != "known" && !p.isOwn(at.Msg) && !slices.Contains(known, at.Msg) {
			at.Msg = "when: " + noDetector(at.Msg, known)
			ps = append(ps, at)
		}
	}
	return ps.sorted()
}

func (p *Policy) isOwn(name string) bool {
	return slices.ContainsFunc(p.own, func(o Problem) bool { return o.Msg == name })
}

// UsesSQL tells whether any rule calls sql(): whoever serves calls Warm first.
func (p *Policy) UsesSQL() bool { return p.usesSQL }

// A loader gathers a policy and everything that is wrong with it.
type loader struct {
	fsys     fs.FS
	policy   *Policy
	problems Problems
	bytes    int64
	rules    []ruleSource
	ids      map[string]*rule
	late     []func()          // what names servers or people, read before they are known
	pinned   map[string]string // digests of locked tools, by server and patterns
}

func (l *loader) load() {
	files := l.list()
	if !slices.Contains(files, "countersign.yaml") {
		l.problems = append(l.problems, Problem{File: "countersign.yaml", Msg: "is missing: it must at least say `version: 1`"})
	}
	var ruleFiles, caseFiles []*document
	for _, name := range files {
		dir, base := path.Split(name)
		d := &document{file: name, problems: &l.problems}
		switch {
		case name == "countersign.yaml", name == "approvers.yaml", name == lockFile,
			dir == "servers/", dir == "rules/", dir == "masks/", dir == "tests/":
		default:
			l.problems = append(l.problems, Problem{File: name, Msg: "no such file in a policy: YAML belongs in countersign.yaml, approvers.yaml, servers/, rules/, masks/ or tests/"})
			continue
		}
		if path.Ext(base) != ".yaml" && name != lockFile {
			l.problems = append(l.problems, Problem{File: name, Msg: "must be called .yaml to be read"})
			continue
		}
		if d.src = l.read(name); d.src == nil {
			continue
		}
		switch {
		case dir == "rules/":
			ruleFiles = append(ruleFiles, d)
		case dir == "tests/":
			caseFiles = append(caseFiles, d)
		case dir == "servers/":
			l.server(d)
		case dir == "masks/":
			l.mask(d)
		case base == "approvers.yaml":
			l.approvers(d)
		case name == lockFile:
			l.lock(d)
		default:
			l.settings(d)
		}
	}
	// Rules name servers, credentials, approver sets and locked tools, cases name
	// all: last.
	for _, f := range l.late {
		f()
	}
	for _, d := range ruleFiles {
		l.ruleFile(d)
	}
	l.compile()
	for _, d := range caseFiles {
		l.caseFile(d)
	}
}

// list names the YAML files of the policy. Other files (a README, the Git
// host's own folder) are nobody's business here; a file that is not regular
// is refused wherever it stands.
func (l *loader) list() []string {
	var names []string
	err := fs.WalkDir(l.fsys, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if name != "." && strings.HasPrefix(e.Name(), ".") {
				return fs.SkipDir
			}
			return nil
		}
		if !e.Type().IsRegular() {
			l.problems = append(l.problems, Problem{File: name, Msg: "is not a regular file: links and special files are refused"})
			return nil
		}
		if ext := path.Ext(name); ext != ".yaml" && ext != ".yml" && name != lockFile {
			return nil
		}
		if names = append(names, name); len(names) > maxFiles {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		return nil
	})
	if err != nil {
		l.problems = append(l.problems, Problem{File: ".", Msg: "cannot be listed: " + err.Error()})
		return nil
	}
	return names
}

func (l *loader) read(name string) []byte {
	refuse := func(msg string) []byte {
		l.problems = append(l.problems, Problem{File: name, Msg: msg})
		return nil
	}
	f, err := l.fsys.Open(name)
	if err != nil {
		return refuse("cannot be opened: " + err.Error())
	}
	src, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return refuse("cannot be read: " + err.Error())
	}
	if len(src) > maxFileBytes {
		return refuse("is larger than 1 MB")
	}
	if l.bytes += int64(len(src)); l.bytes > maxBytes {
		return refuse("takes the policy beyond 64 MB")
	}
	if len(src) == 0 {
		return refuse("is empty")
	}
	return src
}

func (l *loader) settings(d *document) {
	root := d.parse()
	if root == nil {
		return
	}
	f, ok := d.fields(root, "countersign.yaml", "version", "approvals", "limits", "quotas", "freeze", "record")
	if !ok {
		return
	}
	s := &l.policy.settings
	if n := f["version"]; n == nil {
		d.report(root, "version is missing: write `version: 1`")
	} else if v := d.number(n, "version"); v != 1 {
		d.report(n, "version %s is not known here: this program reads version 1", n.Value)
	}
	if n := f["approvals"]; n != nil {
		l.approvals(d, n)
	}
	if n := f["freeze"]; n != nil {
		l.late = append(l.late, func() { l.freezers(d, n) })
	}
	if n := f["limits"]; n != nil {
		d.limits(n, s)
	}
	if n := f["record"]; n != nil {
		d.record(n, &s.Record)
	}
	if n := f["quotas"]; n != nil {
		l.late = append(l.late, func() { l.quotas(d, n) })
	}
}

func (l *loader) approvals(d *document, n *yaml.Node) {
	a, ok := d.fields(n, "approvals", "hold", "holds", "expires", "max_grant", "policy_link", "audit_link")
	if !ok {
		return
	}
	s := &l.policy.settings
	l.policy.holds = d.holds(a["holds"])
	if v := a["hold"]; v != nil {
		s.Hold = d.span(v, "approvals.hold", 0, time.Hour)
	}
	if v := a["expires"]; v != nil {
		s.DefaultExpires = d.span(v, "approvals.expires", minExpires, maxExpires)
	}
	if v := a["max_grant"]; v != nil {
		s.MaxGrant = d.span(v, "approvals.max_grant", minGrant, maxGrant)
	}
	if v := a["policy_link"]; v != nil {
		s.PolicyLink = d.link(v, "approvals.policy_link", "{commit}", "{file}", "{line}")
	}
	if v := a["audit_link"]; v != nil {
		s.AuditLink = d.link(v, "approvals.audit_link", "{call}")
	}
}

// link reads an https URL in which people find something, with places to fill.
func (d *document) link(n *yaml.Node, what string, places ...string) string {
	s := d.text(n, what)
	if s == "" {
		return ""
	}
	plain := s
	for _, p := range places {
		plain = strings.ReplaceAll(plain, p, "x")
	}
	u, err := url.Parse(plain)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.ContainsAny(plain, "{}|<> ") {
		d.report(n, "%s must be a URL; it may hold %s, and no other braces", what, strings.Join(places, ", "))
		return ""
	}
	return s
}

// The bounds of limits.memory: room for one message of the largest size, and
// what can be meant for a machine.
const (
	minMemory = 16 << 20
	maxMemory = 64 << 30
)

// limits reads the bounds on one message, and on all of them together.
func (d *document) limits(n *yaml.Node, s *Settings) {
	a, ok := d.fields(n, "limits", "request", "response", "headers", "depth", "memory", "processes")
	if !ok {
		return
	}
	if v := a["request"]; v != nil {
		s.MaxRequest = d.size(v, "limits.request", 64<<20)
	}
	if v := a["response"]; v != nil {
		s.MaxResponse = d.size(v, "limits.response", 64<<20)
	}
	if v := a["headers"]; v != nil {
		if s.MaxHeaders = d.size(v, "limits.headers", 64<<10); s.MaxHeaders > 0 && s.MaxHeaders < 4<<10 {
			d.report(v, "limits.headers is less than 4KB: a token would not fit")
		}
	}
	if v := a["depth"]; v != nil {
		if s.MaxDepth = d.number(v, "limits.depth"); v.Tag == "!!int" && (s.MaxDepth < 8 || s.MaxDepth > 500) {
			d.report(v, "limits.depth must lie between 8 and 500")
		}
	}
	if v := a["processes"]; v != nil {
		s.MaxProcesses = d.count(v, "limits.processes", 1, 10_000)
	}
	if v := a["memory"]; v != nil {
		if s.MaxMemory = d.size(v, "limits.memory", maxMemory); s.MaxMemory > 0 && s.MaxMemory < minMemory {
			d.report(v, "limits.memory is less than %d MB", minMemory>>20)
			return
		}
	}
	// Whatever one message may weigh must have its place in a budget of which
	// requests and answers have a half each.
	for name, most := range map[string]int64{"request": s.MaxRequest, "response": s.MaxResponse} {
		at := n
		if a[name] != nil {
			at = a[name]
		}
		if 4*most > s.MaxMemory && s.MaxMemory > 0 {
			d.report(at, "limits.%s is %d MB: limits.memory must be at least four times that, and is %d MB", name, most>>20, s.MaxMemory>>20)
		}
	}
}

func (l *loader) mask(d *document) {
	root := d.parse()
	if root == nil {
		return
	}
	f, ok := d.fields(root, "masks", "disable", "keys", "detectors", "fields", "allow", "streams")
	if !ok {
		return
	}
	l.maskFields(d, f["fields"])
	l.maskAllows(d, f["allow"])
	l.maskStreams(d, f["streams"])
	m := &l.policy.masks
	add := func(to []string, names []string) []string {
		for _, n := range names {
			if !slices.Contains(to, n) {
				to = append(to, n)
			}
		}
		return to
	}
	m.Disable = add(m.Disable, d.texts(f["disable"], "disable"))
	if n := f["disable"]; n != nil {
		for _, c := range append([]*yaml.Node{n}, n.Content...) {
			if c.Kind == yaml.ScalarNode {
				l.policy.disabled = append(l.policy.disabled, Problem{d.file, c.Line, c.Column, c.Value})
			}
		}
	}
	m.Keys = add(m.Keys, d.maskKeys(f["keys"]))
	l.detectors(d, f["detectors"])
}

// named checks a name that the user chose: lower-case letters, digits and
// hyphens, so that it can stand in a URL, a file name or a metric label.
func (d *document) named(s string, line, column int, what string) bool {
	ok := s != "" && len(s) <= 63
	for i, c := range []byte(s) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && i > 0)
	}
	if !ok && s != "" {
		d.reportAt(line, column, "%s %q is not a name: lower-case letters, digits and hyphens, not starting with a hyphen, at most 63", what, s)
	}
	return ok
}
