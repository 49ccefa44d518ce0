package audit

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"time"

	"golang.org/x/mod/sumdb/tlog"
)

var (
	errMoved    = errors.New("moved")
	errRejected = errors.New("rejected: not a fast-forward")
)

// memStore is Git in miniature: commits, trees and blobs by hash, branches
// that move by compare-and-swap, a remote that takes fast-forwards only. Its
// signature is a first line "signed by <name>".
type memStore struct {
	mu       sync.Mutex
	signer   string
	objects  map[string]any // Commit, []Node, []byte
	files    map[string]map[string][]byte
	branches map[string]string
	remote   map[string]string
	pushes   int

	// Faults, each called with the store locked.
	beforeCommit func() error // fails before anything happened
	afterCommit  func() error // fails after the branch moved
	onPush       func() error
	afterPush    func() error     // fails after the remote took what it was sent
	refuse       map[string]error // by branch
	step         int              // commits of a branch that one push takes; 0: all
}

func newStore() *memStore {
	return &memStore{
		signer: "demo", objects: map[string]any{}, files: map[string]map[string][]byte{},
		branches: map[string]string{}, remote: map[string]string{},
	}
}

func (m *memStore) put(o any, identity string) string {
	sum := sha1.Sum(fmt.Appendf(nil, "%T %s", o, identity))
	h := hex.EncodeToString(sum[:])
	m.objects[h] = o
	return h
}

func (m *memStore) tree(files map[string][]byte) string {
	dirs := map[string]map[string][]byte{}
	nodes := []Node{}
	for p, b := range files {
		if dir, rest, ok := strings.Cut(p, "/"); ok {
			if dirs[dir] == nil {
				dirs[dir] = map[string][]byte{}
			}
			dirs[dir][rest] = b
		} else {
			nodes = append(nodes, Node{Name: p, Mode: modeFile, Hash: m.put(bytes.Clone(b), string(b))})
		}
	}
	for d, fs := range dirs {
		nodes = append(nodes, Node{Name: d, Mode: modeDir, Hash: m.tree(fs)})
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	return m.put(nodes, fmt.Sprint(nodes))
}

func (m *memStore) write(files map[string][]byte, parents []string, message string, when time.Time) string {
	c := Commit{Tree: m.tree(files), Parents: parents, When: when.Truncate(time.Second), Message: message}
	c.Raw = fmt.Appendf(nil, "signed by %s\n%s %v %d\n%s", m.signer, c.Tree, parents, when.Unix(), message)
	h := m.put(c, string(c.Raw))
	m.files[h] = files
	return h
}

func (m *memStore) Commit(_ context.Context, branch, parent string, files map[string][]byte, message string, when time.Time) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.beforeCommit != nil {
		if err := m.beforeCommit(); err != nil {
			return "", err
		}
	}
	if m.branches[branch] != parent {
		return "", errMoved
	}
	all := map[string][]byte{}
	maps.Copy(all, m.files[parent])
	maps.Copy(all, files)
	var parents []string
	if parent != "" {
		parents = []string{parent}
	}
	h := m.write(all, parents, message, when)
	m.branches[branch] = h
	if m.afterCommit != nil {
		if err := m.afterCommit(); err != nil {
			return "", err
		}
	}
	return h, nil
}

func (m *memStore) Tip(branch string) (string, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.branches[branch]
	return h, ok, nil
}

func (m *memStore) File(commit, path string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.files[commit][path]
	if !ok {
		return nil, fmt.Errorf("%s has no %s", commit, path)
	}
	return b, nil
}

// push is what an Outlet needs of the store.
func (m *memStore) push(_ context.Context, branches []string) (Push, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pushes++
	done := Push{Before: maps.Clone(m.remote), Tips: map[string]string{}, Failed: map[string]error{}}
	if m.onPush != nil {
		if err := m.onPush(); err != nil {
			return done, err
		}
	}
	for _, b := range branches {
		chain := m.history(m.branches[b])
		had := len(chain)
		if old, ok := m.remote[b]; ok {
			if had = slices.Index(chain, old); had < 0 {
				done.Failed[b] = errRejected
				continue
			}
		}
		if why := m.refuse[b]; why != nil {
			done.Failed[b] = why
			continue
		}
		if m.step > 0 && had > m.step { // so many commits at a time
			done.More = true
			chain = chain[had-m.step:]
		}
		m.remote[b], done.Tips[b] = chain[0], chain[0]
		if done.More {
			break
		}
	}
	if m.afterPush != nil {
		if err := m.afterPush(); err != nil {
			return Push{}, err
		}
	}
	return done, nil
}

// history lists commits from a tip, newest first.
func (m *memStore) history(tip string) []string {
	var hs []string
	for tip != "" {
		hs = append(hs, tip)
		c := m.objects[tip].(Commit)
		tip = ""
		if len(c.Parents) > 0 {
			tip = c.Parents[0]
		}
	}
	return hs
}

func (m *memStore) repository() Repository {
	return Repository{
		Branches: func(prefix string) ([]string, error) {
			var bs []string
			for b := range m.branches {
				if strings.HasPrefix(b, prefix) {
					bs = append(bs, b)
				}
			}
			slices.Sort(bs)
			return bs, nil
		},
		Tip:    m.Tip,
		Commit: func(h string) (Commit, error) { return object[Commit](m, h) },
		Tree:   func(h string) ([]Node, error) { return object[[]Node](m, h) },
		Blob:   func(h string) ([]byte, error) { return object[[]byte](m, h) },
	}
}

func object[T any](m *memStore, h string) (T, error) {
	o, ok := m.objects[h].(T)
	if !ok {
		return o, fmt.Errorf("no object %s", h)
	}
	return o, nil
}

// clone copies the repository: what is done to the copy leaves the first one alone.
func (m *memStore) clone() *memStore {
	c := newStore()
	c.signer = m.signer
	maps.Copy(c.objects, m.objects)
	maps.Copy(c.files, m.files)
	maps.Copy(c.branches, m.branches)
	maps.Copy(c.remote, m.remote)
	return c
}

// rewrite makes a branch's commits again, oldest first, after change saw each:
// it may edit the files, which stay edited in later commits unless those
// replace them, and the message; false drops the commit. Where the files
// differ from the original's, by says who signs.
func (m *memStore) rewrite(branch, by string, change func(n int, files map[string][]byte, message *string) bool) {
	chain := m.history(m.branches[branch])
	was := m.signer
	m.signer = by
	defer func() { m.signer = was }()
	var parents []string
	edits := map[string][]byte{} // path → content; nil: removed
	for n := range chain {
		h := chain[len(chain)-1-n]
		c := m.objects[h].(Commit)
		files := maps.Clone(m.files[h])
		for p, b := range edits {
			if b == nil {
				delete(files, p)
			} else if p != "checkpoint" {
				files[p] = b
			}
		}
		before := maps.Clone(files)
		message := c.Message
		if !change(n, files, &message) {
			continue
		}
		for p, b := range files {
			if old, ok := before[p]; !ok || !bytes.Equal(old, b) {
				edits[p] = b
			}
		}
		for p := range before {
			if _, ok := files[p]; !ok {
				edits[p] = nil
			}
		}
		parents = []string{m.write(files, parents, message, c.When)}
	}
	m.branches[branch] = parents[0]
}

func (m *memStore) tipFiles(branch string) map[string][]byte { return m.files[m.branches[branch]] }

func checkSigner(raw []byte, _ time.Time) (string, error) {
	who, _, _ := strings.Cut(strings.TrimPrefix(string(raw), "signed by "), "\n")
	if who != "demo" {
		return "", fmt.Errorf("signed by %q", who)
	}
	return who, nil
}

func newPublisher(t testing.TB, cfg PublisherConfig) *Publisher {
	t.Helper()
	if !cfg.Signer.ok() {
		cfg.Signer = KeySigner(testKey("log"))
	}
	p, err := NewPublisher(cfg)
	if err != nil {
		t.Fatal(err)
	}
	o := newOutlet(t, cfg.Store.(*memStore), OutletConfig{Parts: []Part{p}})
	outlets.Store(p, o)
	t.Cleanup(func() { outlets.Delete(p) })
	return p
}

func newOutlet(t testing.TB, m *memStore, cfg OutletConfig) *Outlet {
	t.Helper()
	cfg.Push = m.push
	cfg.Rejected = func(err error) bool { return errors.Is(err, errRejected) }
	o, err := NewOutlet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// outlets has the outlet of each publisher of a test, which is its only part.
var outlets sync.Map

// Flush commits and pushes what one publisher has.
func (p *Publisher) Flush(ctx context.Context) error {
	o, _ := outlets.Load(p)
	return o.(*Outlet).Flush(ctx)
}

func verifyStore(t testing.TB, m *memStore, anchors ...string) *Report {
	t.Helper()
	rep, err := Verify(t.Context(), m.repository(), VerifyConfig{Keys: keysOf("log"), Signer: checkSigner, Anchors: anchors})
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// mapFS is a checkout of a commit's files.
func mapFS(files map[string][]byte) fs.FS {
	m := fstest.MapFS{}
	for p, b := range files {
		m[p] = &fstest.MapFile{Data: b}
	}
	return m
}

func leavesOf(line []byte) []tlog.Hash { return []tlog.Hash{tlog.RecordHash(line)} }
