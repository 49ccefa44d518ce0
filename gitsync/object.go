package gitsync

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/storer"
)

// Objects are parsed here, from the very bytes that were hashed and signed,
// and strictly: two readings of one commit would be a way around its signature.

// maxObject bounds one object of the record; policy has smaller limits.
const maxObject = 64 << 20

// readObject reads an object and checks that its bytes have its name.
func readObject(st storer.EncodedObjectStorer, kind plumbing.ObjectType, h plumbing.Hash, limit int64) ([]byte, error) {
	o, err := st.EncodedObject(kind, h)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return nil, fmt.Errorf("%s %s: %w", kind, h, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %w", kind, h, ErrDamaged, err)
	}
	if o.Size() > limit {
		return nil, fmt.Errorf("%s %s has %d bytes; the limit is %d", kind, h, o.Size(), limit)
	}
	rd, err := o.Reader()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %w", kind, h, ErrDamaged, err)
	}
	data, err := io.ReadAll(io.LimitReader(rd, limit+1))
	if err = errors.Join(err, rd.Close()); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %w", kind, h, ErrDamaged, err)
	}
	if plumbing.ComputeHash(kind, data) != h {
		return nil, fmt.Errorf("%s %s: %w: its content has another hash", kind, h, ErrDamaged)
	}
	return data, nil
}

// The modes that a tree entry may have (git's object.h).
const (
	modeDir     = "40000"
	modeFile    = "100644"
	modeExec    = "100755"
	modeSymlink = "120000"
	modeModule  = "160000"
)

type treeEntry struct {
	mode, name string
	hash       plumbing.Hash
}

func (e treeEntry) dir() bool  { return e.mode == modeDir }
func (e treeEntry) blob() bool { return e.mode == modeFile || e.mode == modeExec }

// sortName is what Git sorts a tree by: folders as if they ended in a slash.
func (e treeEntry) sortName() string {
	if e.dir() {
		return e.name + "/"
	}
	return e.name
}

func readTree(st storer.EncodedObjectStorer, h plumbing.Hash) ([]treeEntry, error) {
	data, err := readObject(st, plumbing.TreeObject, h, maxObject)
	if err != nil {
		return nil, err
	}
	entries, err := parseTree(data)
	if err != nil {
		return nil, fmt.Errorf("tree %s: %w", h, err)
	}
	return entries, nil
}

// parseTree reads a tree object: for each entry, in order, the octal mode, a
// space, the name, a NUL and the 20 bytes of the hash.
func parseTree(data []byte) ([]treeEntry, error) {
	var entries []treeEntry
	for len(data) > 0 {
		head, rest, ok := bytes.Cut(data, []byte{0})
		if !ok || len(rest) < 20 {
			return nil, errors.New("truncated")
		}
		mode, name, ok := strings.Cut(string(head), " ")
		if !ok || name == "" || strings.Contains(name, "/") {
			return nil, fmt.Errorf("malformed entry %q", head)
		}
		e := treeEntry{mode: mode, name: name, hash: plumbing.Hash(rest[:20])}
		if n := len(entries); n > 0 && entries[n-1].sortName() >= e.sortName() {
			return nil, fmt.Errorf("%q is twice there or out of order", name)
		}
		entries, data = append(entries, e), rest[20:]
	}
	return entries, nil
}

// encodeTree makes a tree object, see parseTree.
func encodeTree(entries []treeEntry) []byte {
	slices.SortFunc(entries, func(a, b treeEntry) int { return strings.Compare(a.sortName(), b.sortName()) })
	var b bytes.Buffer
	for _, e := range entries {
		b.WriteString(e.mode + " " + e.name + "\x00")
		b.Write(e.hash[:])
	}
	return b.Bytes()
}

// folder is what a commit adds to one level of its parent's tree.
type folder struct {
	files map[string][]byte
	dirs  map[string]*folder
}

func newFolder(files map[string][]byte) (*folder, error) {
	top := &folder{files: map[string][]byte{}, dirs: map[string]*folder{}}
	for path, data := range files {
		at, parts := top, strings.Split(path, "/")
		for i, part := range parts {
			if !goodName(part) {
				return nil, fmt.Errorf("%q cannot be a path in a commit", path)
			}
			if i == len(parts)-1 {
				at.files[part] = data
				break
			}
			if at.dirs[part] == nil {
				at.dirs[part] = &folder{files: map[string][]byte{}, dirs: map[string]*folder{}}
			}
			at = at.dirs[part]
		}
	}
	return top, nil
}

// goodName tells whether a name may stand in a tree of ours, and be checked
// out anywhere: what "git fsck" and file systems dislike is refused.
func goodName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.EqualFold(name, ".git") &&
		utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' || r == '/' || r == ':' })
}

// write adds the folder to the tree base (zero: none). Only trees on the way to
// a file that changes are read and written; the rest is kept by its hash.
func (f *folder) write(to *additions, base plumbing.Hash) (plumbing.Hash, error) {
	had := map[string]treeEntry{}
	if !base.IsZero() {
		entries, err := readTree(to.r.st, base)
		if err != nil {
			return base, err
		}
		for _, e := range entries {
			had[e.name] = e
		}
	}
	for name, data := range f.files {
		if _, both := f.dirs[name]; both || had[name].dir() {
			return base, fmt.Errorf("%q is a file and a folder", name)
		}
		h, err := to.add(plumbing.BlobObject, data)
		if err != nil {
			return base, err
		}
		had[name] = treeEntry{mode: modeFile, name: name, hash: h}
	}
	for name, d := range f.dirs {
		old, ok := had[name]
		if ok && !old.dir() {
			return base, fmt.Errorf("%q is a file and a folder", name)
		}
		h, err := d.write(to, old.hash)
		if err != nil {
			return base, err
		}
		had[name] = treeEntry{mode: modeDir, name: name, hash: h}
	}
	entries := make([]treeEntry, 0, len(had))
	for _, e := range had {
		entries = append(entries, e)
	}
	return to.add(plumbing.TreeObject, encodeTree(entries))
}

// person is an author, committer or tagger line: "Name <email> unix zone".
type person struct {
	who, email string
	when       time.Time
}

// signed is what a commit or tag object says, and what its signature covers.
type signed struct {
	tree, target       plumbing.Hash // a commit's tree; a tag's target
	parents            []plumbing.Hash
	author, committer  person // a tag has a committer only: its tagger
	kind, tag, message string // a tag's target type and name; the message
	payload, signature []byte // signature is nil if there is none
}

func readCommit(st storer.EncodedObjectStorer, h plumbing.Hash) (signed, []byte, error) {
	raw, err := readObject(st, plumbing.CommitObject, h, 1<<20)
	if err != nil {
		return signed{}, nil, err
	}
	c, err := parseCommit(raw)
	if err != nil {
		return signed{}, nil, fmt.Errorf("commit %s: %w", h, err)
	}
	return c, raw, nil
}

// parseCommit reads a commit object. Its header has, in this order and once
// each: tree, any number of parents, author, committer; then other headers,
// gpgsig among them at most once. A line that begins with a space continues
// the header before it. The signature covers every byte but the gpgsig header.
func parseCommit(raw []byte) (signed, error) {
	var c signed
	head, body, ok := bytes.Cut(raw, []byte("\n\n"))
	if !ok || bytes.IndexByte(raw, 0) >= 0 {
		return c, errors.New("malformed: no message, or a NUL in it")
	}
	c.message = string(body)
	stage, key := 0, ""
	var payload, sig bytes.Buffer
	for _, line := range strings.SplitAfter(string(head)+"\n", "\n") {
		if line == "" {
			continue
		}
		value, more := strings.CutPrefix(line, " ")
		if !more {
			key, value, _ = strings.Cut(line, " ")
		}
		value = strings.TrimSuffix(value, "\n")
		if more && stage < 4 {
			return c, errors.New("malformed: a continued line among the first headers")
		}
		if key == "gpgsig" {
			if stage < 4 || (!more && sig.Len() > 0) {
				return c, errors.New("malformed: a signature twice, or out of place")
			}
			sig.WriteString(value + "\n")
			continue
		}
		payload.WriteString(line)
		if more {
			continue
		}
		var err error
		switch {
		case key == "tree" && stage == 0:
			c.tree, err = parseHash(value)
			stage = 1
		case key == "parent" && stage == 1:
			var p plumbing.Hash
			p, err = parseHash(value)
			c.parents = append(c.parents, p)
		case key == "author" && stage == 1:
			c.author, err = parsePerson(value)
			stage = 3
		case key == "committer" && stage == 3:
			c.committer, err = parsePerson(value)
			stage = 4
		case key == "tree", key == "parent", key == "author", key == "committer", key == "gpgsig-sha256", stage < 4:
			err = fmt.Errorf("malformed: header %q twice, missing or out of place", key)
		}
		if err != nil {
			return c, err
		}
	}
	if stage != 4 {
		return c, errors.New("malformed: tree, author or committer is missing")
	}
	payload.WriteString("\n")
	payload.Write(body)
	c.payload = payload.Bytes()
	if sig.Len() > 0 {
		c.signature = sig.Bytes()
	}
	return c, nil
}

// parseTag reads an annotated tag: the headers object, type, tag and tagger in
// this order, an empty line, the message, and at its very end the signature,
// which covers everything before it.
func parseTag(raw []byte) (signed, error) {
	var t signed
	head, body, ok := bytes.Cut(raw, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !ok || bytes.IndexByte(raw, 0) >= 0 || len(lines) != 4 {
		return t, errors.New("malformed tag: it needs object, type, tag, tagger and a message")
	}
	for i, key := range []string{"object", "type", "tag", "tagger"} {
		value, ok := strings.CutPrefix(lines[i], key+" ")
		if !ok {
			return t, fmt.Errorf("malformed tag: header %q expected", key)
		}
		var err error
		switch key {
		case "object":
			t.target, err = parseHash(value)
		case "type":
			t.kind = value
		case "tag":
			t.tag = value
		case "tagger":
			t.committer, err = parsePerson(value)
		}
		if err != nil {
			return t, err
		}
	}
	t.author, t.payload, t.message = t.committer, raw, string(body)
	begin := -1
	for _, mark := range []string{"\n-----BEGIN SSH SIGNATURE-----\n", "\n-----BEGIN PGP SIGNATURE-----\n"} {
		switch n := bytes.Count(raw, []byte(mark)); {
		case n == 1 && begin < 0:
			begin = bytes.Index(raw, []byte(mark)) + 1
		case n > 0:
			return t, errors.New("malformed tag: more than one signature")
		}
	}
	if begin >= 0 {
		t.payload, t.signature = raw[:begin], raw[begin:]
		t.message = string(raw[len(head)+2 : max(begin, len(head)+2)])
	}
	return t, nil
}

func parseHash(s string) (plumbing.Hash, error) {
	h := plumbing.NewHash(s)
	if len(s) != 40 || h.String() != s {
		return h, fmt.Errorf("malformed: %q is not an object's name", s)
	}
	return h, nil
}

func parsePerson(s string) (person, error) {
	open, end := strings.LastIndex(s, "<"), strings.LastIndex(s, "> ")
	if open < 0 || end < open {
		return person{}, fmt.Errorf("malformed: %q is not a name, an address and a time", s)
	}
	unix, _, ok := strings.Cut(s[end+2:], " ")
	n, err := strconv.ParseInt(unix, 10, 64)
	if !ok || err != nil || n < 0 || n > 1<<36 {
		return person{}, fmt.Errorf("malformed: %q has no time", s)
	}
	return person{who: s[:end+1], email: s[open+1 : end], when: time.Unix(n, 0).UTC()}, nil
}
