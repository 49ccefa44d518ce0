package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Lock is tools.lock: the tools of each locked server, by their names, as they
// were when somebody reviewed them. A server that is not in it is not locked:
// it may offer what it likes. A locked one without tools may offer none.
type Lock map[string]map[string]Pin

// Pin is the fingerprint of one tool: for each of its parts "sha256:" and the
// hex SHA-256 of the part's canonical JSON, "" where the tool lacks the part.
// Whoever sees a tool computes it; here it is only compared.
type Pin struct {
	Title, Description, Input, Output, Annotations string
	Other                                          string // all further members, as one object

	// Required are the properties that the input schema requires: what a
	// condition may read of args without has(). Input covers them.
	Required []string
}

// parts are the digests of a pin, with their keys in the file and their names
// for a person.
func (p *Pin) parts() []struct {
	key, name string
	digest    *string
} {
	return []struct {
		key, name string
		digest    *string
	}{
		{"title", "title", &p.Title}, {"description", "description", &p.Description},
		{"input", "input schema", &p.Input}, {"output", "output schema", &p.Output},
		{"annotations", "annotations", &p.Annotations}, {"other", "other members", &p.Other},
	}
}

// Changed names the parts in which a tool as it was seen differs from p.
func (p Pin) Changed(seen Pin) []string {
	var changed []string
	now := seen.parts()
	for i, was := range p.parts() {
		if *was.digest != *now[i].digest {
			changed = append(changed, was.name)
		}
	}
	return changed
}

// Locked tells whether tools.lock names the server.
func (p *Policy) Locked(server string) bool {
	_, locked := p.lock[server]
	return locked
}

// Pin is what tools.lock says of a tool; false if it does not have it.
func (p *Policy) Pin(server, tool string) (Pin, bool) {
	pin, ok := p.lock[server][tool]
	return pin, ok
}

// Pins lists the tools that tools.lock has of a server, sorted.
func (p *Policy) Pins(server string) []string { return slices.Sorted(maps.Keys(p.lock[server])) }

// unreviewed tells whether a request is a call of a tool that its locked server
// may not offer.
func (p *Policy) unreviewed(r Request) bool {
	if r.Method != "tools/call" || r.FromServer || !p.Locked(r.Server) {
		return false
	}
	_, ok := p.Pin(r.Server, r.Tool)
	return !ok
}

// Encode spells the lock as tools.lock, the same for the same lock:
//
//	version: 1
//	servers:
//	  <server>:
//	    "<tool>":
//	      <part>: sha256:<64 hex digits>       of the parts that the tool has
//	      required: ["<property>", …]          of the input schema, if any
//
// The parts are title, description, input, output, annotations and other. All
// is sorted by name, the parts in this order. Names of tools and properties are
// the server's text: quoted, with an escape for whatever is not visible ASCII.
func (l Lock) Encode() []byte {
	var b strings.Builder
	b.WriteString("# Written by `countersign policy lock`: the tools as they were reviewed.\nversion: 1\nservers:")
	if len(l) == 0 {
		b.WriteString(" {}")
	}
	b.WriteByte('\n')
	for _, server := range slices.Sorted(maps.Keys(l)) {
		b.WriteString("  " + server + ":")
		if len(l[server]) == 0 {
			b.WriteString(" {}")
		}
		b.WriteByte('\n')
		for _, tool := range slices.Sorted(maps.Keys(l[server])) {
			pin := l[server][tool]
			b.WriteString("    " + strconv.QuoteToASCII(tool) + ":")
			body := ""
			for _, part := range pin.parts() {
				if *part.digest != "" {
					body += "      " + part.key + ": " + *part.digest + "\n"
				}
			}
			if len(pin.Required) > 0 {
				quoted := make([]string, len(pin.Required))
				for i, r := range pin.Required {
					quoted[i] = strconv.QuoteToASCII(r)
				}
				body += "      required: [" + strings.Join(quoted, ", ") + "]\n"
			}
			if body == "" {
				b.WriteString(" {}")
			}
			b.WriteString("\n" + body)
		}
	}
	return []byte(b.String())
}

// LoadServers reads servers/ and tools.lock, and nothing else: for whoever
// writes tools.lock, on which the rest may depend. The error is Problems. The
// lock may name servers that there are no more.
func LoadServers(fsys fs.FS) ([]Server, Lock, error) {
	l := loader{fsys: fsys, policy: &Policy{servers: map[string]Server{}}}
	for _, name := range l.list() {
		d := &document{file: name, problems: &l.problems}
		switch dir, base := path.Split(name); {
		case name == lockFile:
			if d.src = l.read(name); d.src != nil {
				l.lock(d)
			}
		case dir == "servers/" && path.Ext(base) == ".yaml":
			if d.src = l.read(name); d.src != nil {
				l.server(d)
			}
		}
	}
	if len(l.problems) > 0 {
		return nil, nil, l.problems.sorted()
	}
	return l.policy.Servers(), l.policy.lock, nil
}

const lockFile = "tools.lock"

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// lock reads tools.lock. That the servers in it exist is checked when all of
// them are known.
func (l *loader) lock(d *document) {
	root := d.parse()
	if root == nil {
		return
	}
	f, ok := d.fields(root, lockFile, "version", "servers")
	if !ok {
		return
	}
	if n := f["version"]; n == nil {
		d.report(root, "version is missing: write `version: 1`")
	} else if v := d.number(n, "version"); v != 1 {
		d.report(n, "version %s is not known here: this program reads version 1", n.Value)
	}
	if f["servers"] == nil {
		d.report(root, "servers is missing: a lock without it would pin nothing")
		return
	}
	l.policy.lock = Lock{}
	for _, s := range d.mapping(f["servers"], "servers") {
		d.named(s.key.Value, s.key.Line, s.key.Column, "server")
		l.late = append(l.late, func() {
			if _, known := l.policy.servers[s.key.Value]; !known {
				d.report(s.key, "server %q is not in servers/: remove it, or run `countersign policy lock`", s.key.Value)
			}
		})
		tools := map[string]Pin{}
		for _, t := range d.mapping(s.val, "server "+s.key.Value) {
			if strings.TrimSpace(t.key.Value) == "" {
				d.report(t.key, "a tool without a name")
			}
			tools[t.key.Value] = d.pin(t)
		}
		l.policy.lock[s.key.Value] = tools
	}
}

func (d *document) pin(t field) Pin {
	var p Pin
	parts := p.parts()
	known := []string{"required"}
	for _, part := range parts {
		known = append(known, part.key)
	}
	f, ok := d.fields(t.val, "a tool", known...)
	if !ok {
		return p
	}
	for _, part := range parts {
		if n := f[part.key]; n != nil {
			if *part.digest = d.text(n, part.key); *part.digest != "" && !digestForm.MatchString(*part.digest) {
				d.report(n, "%s must be sha256: and 64 hex digits, as `countersign policy lock` writes it", part.key)
			}
		}
	}
	p.Required = d.texts(f["required"], "required")
	return p
}

// reviewed reports the tools that a rule names and tools.lock does not have:
// the rule could never match by them.
func (l *loader) reviewed(d *document, n *yaml.Node, r *rule) {
	if n == nil || !slices.Equal(r.methods, []string{"tools/call"}) {
		return
	}
	for _, tool := range r.tools {
		if strings.HasSuffix(tool, "*") {
			continue
		}
		if !slices.ContainsFunc(r.servers, func(s string) bool {
			_, pinned := l.policy.lock[s][tool]
			return pinned || !l.policy.Locked(s)
		}) {
			d.report(n, "tool %q is not in tools.lock: server %s may not offer it, so this can never match", tool, strings.Join(r.servers, ", "))
		}
	}
}

// requires lists the arguments that every tool which the rule names requires,
// by its locked schema; none unless the rule names tools of locked servers only,
// and nothing but calls.
func (l *loader) requires(r *rule) []string {
	var all []string
	first := true
	if !slices.Equal(r.methods, []string{"tools/call"}) {
		return nil
	}
	for _, server := range r.servers {
		for _, tool := range r.tools {
			pin, ok := l.policy.Pin(server, tool)
			switch {
			case !ok || strings.HasSuffix(tool, "*"):
				return nil
			case first:
				all, first = slices.Clone(pin.Required), false
			default:
				all = slices.DeleteFunc(all, func(name string) bool { return !slices.Contains(pin.Required, name) })
			}
		}
	}
	return all
}

// pins gives, for each locked server that a rule names, a digest over the tools
// that it names there: part of what an approval means.
func (l *loader) pins(r *rule) []string {
	if !matches(r.methods, "tools/call") {
		return nil
	}
	var all []string
	for _, server := range slices.Sorted(maps.Keys(l.policy.lock)) {
		if !slices.Contains(r.servers, server) && !slices.Contains(r.servers, "*") {
			continue
		}
		asked := server + "\x00" + strings.Join(r.tools, "\x00")
		digest, ok := l.pinned[asked] // many rules name the same
		if !ok {
			tools := maps.Clone(l.policy.lock[server])
			maps.DeleteFunc(tools, func(tool string, _ Pin) bool { return !matches(r.tools, tool) })
			sum := sha256.Sum256(Lock{server: tools}.Encode())
			digest = hex.EncodeToString(sum[:])
			l.pinned[asked] = digest
		}
		all = append(all, server+" "+digest)
	}
	return all
}
