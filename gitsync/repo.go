package gitsync

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"golang.org/x/crypto/ssh"
)

// What a Repo's methods fail with, besides the plain errors of disk and network.
var (
	ErrMoved    = errors.New("the branch is not where the caller thinks it is")
	ErrRejected = errors.New("the remote's branch holds commits that ours does not")
	ErrRefused  = errors.New("the remote refuses the push")
	ErrNotFound = errors.New("not in the repository")
	ErrDamaged  = errors.New("an object is damaged")
)

// AuditConfig says where the record is kept and published.
type AuditConfig struct {
	Dir    string // the bare repository, made if missing; one process at a time
	URL    string // the remote; empty: commits stay here, and Push fails
	Auth   Auth
	KeyPEM []byte     // OpenSSH private key (Ed25519) that signs commits, or
	Signer ssh.Signer // one that lives elsewhere
	Name   string     // author and committer
	Email  string
	// MaxPack bounds the bytes of one push, about: hosts refuse larger ones
	// (GitHub: 2 GiB). 0: 256 MiB.
	MaxPack int64
}

// Repo is a repository of branches that only grow.
//
// Durability: Commit does not sync, but for a commit of many objects, which is
// one pack and durable at once. The journal that the entries come from is the
// durable record; the repository here is only the workshop of the copy
// published by Push. Push syncs what it is about to send, so whatever the remote
// has, this disk has. After a crash, OpenAudit reads what was committed but not
// pushed; from the first damaged or missing object on it takes the branch back
// to the last whole commit (see [Repo.Dropped]), and the entries are committed
// again from the journal.
//
// A Repo may be used by several goroutines.
type Repo struct {
	dir      string
	st       *filesystem.Storage
	cache    *cache.ObjectLRU // of st
	remote   *remote          // nil: none
	signer   ssh.Signer
	who      string // "Name <email>"
	mu       sync.Mutex
	packs    sync.RWMutex // before mu: a push reads packs without mu, and Trim removes some
	zip      *zlib.Writer // for storeLoose
	dropped  []string
	trimmed  map[string]plumbing.Hash // by branch under bodies/: the commit up to which trimFiles has come
	maxPack  int64
	patience time.Duration // of one push, see defaultPatience
	temp     bool          // dir is a temporary clone: Close removes it
	tracked  bool          // a working copy: its branches are those that it tracks
}

// OpenAudit opens the repository of the record for writing, making it if need
// be, and mends what a crash left of it.
func OpenAudit(cfg AuditConfig) (*Repo, error) {
	signer, err := cfg.Signer, error(nil)
	if signer == nil {
		signer, err = ssh.ParsePrivateKey(cfg.KeyPEM)
	}
	if err != nil {
		return nil, fmt.Errorf("the key that signs the record's commits cannot be read: %w", err)
	}
	if signer.PublicKey().Type() != ssh.KeyAlgoED25519 {
		return nil, fmt.Errorf("the key that signs the record's commits is a %s key: want ssh-ed25519", signer.PublicKey().Type())
	}
	if cfg.Name == "" || cfg.Email == "" || strings.ContainsAny(cfg.Name+cfg.Email, "<>\n\x00") {
		return nil, fmt.Errorf("a committer needs a name and an e-mail address without <, > and line breaks: %q, %q", cfg.Name, cfg.Email)
	}
	r, err := openBare(cfg.Dir)
	if err != nil {
		return nil, err
	}
	r.signer, r.who = signer, cfg.Name+" <"+cfg.Email+">"
	if r.maxPack = cfg.MaxPack; r.maxPack <= 0 {
		r.maxPack = defaultMaxPack
	}
	if cfg.URL != "" {
		if r.remote, err = newRemote(cfg.URL, cfg.Auth); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(r.mend(), r.sweep()); err != nil {
		return nil, fmt.Errorf("mend %s: %w", cfg.Dir, err)
	}
	return r, nil
}

// openBare opens the bare repository in dir, or makes one.
func openBare(dir string) (*Repo, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); errors.Is(err, os.ErrNotExist) {
		if err := initBare(dir); err != nil {
			return nil, fmt.Errorf("make a repository in %s: %w", dir, err)
		}
	} else if err != nil {
		return nil, err
	}
	if err := dropTornPacks(filepath.Join(dir, "objects", "pack")); err != nil {
		return nil, err
	}
	c := newCache()
	return &Repo{dir: dir, st: storageWith(dir, c), cache: c, patience: defaultPatience}, nil
}

func storageAt(dir string) *filesystem.Storage { return storageWith(dir, newCache()) }

// newCache is a small one, for the trees that commits have in common.
func newCache() *cache.ObjectLRU { return cache.NewObjectLRU(cache.MiByte) }

func storageWith(dir string, c *cache.ObjectLRU) *filesystem.Storage {
	return filesystem.NewStorage(osfs.New(dir, osfs.WithBoundOS()), c)
}

func initBare(dir string) error {
	for _, d := range []string{"objects/pack", "objects/info", "refs/heads", "refs/tags"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return err
		}
	}
	// gc.auto off: a stray "git gc" must not prune what no reference holds yet.
	const config = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n[gc]\n\tauto = 0\n"
	if err := writeDurable(filepath.Join(dir, "config"), []byte(config)); err != nil {
		return err
	}
	// HEAD last: it is what tells a repository from a half-made one.
	return writeDurable(filepath.Join(dir, "HEAD"), []byte("ref: refs/heads/main\n"))
}

// Close lets go of the repository; a temporary clone is removed.
func (r *Repo) Close() error {
	err := r.st.ObjectStorage.Close()
	if r.temp {
		err = errors.Join(err, os.RemoveAll(r.dir))
	}
	return err
}

// Dropped tells which branches OpenAudit took back after a crash, and why, one
// line each.
func (r *Repo) Dropped() []string { return slices.Clone(r.dropped) }

// Tip returns the commit that a branch stands at; ok is false if there is none.
func (r *Repo) Tip(branch string) (hash string, ok bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, err := r.tip(branch)
	if err != nil || h.IsZero() {
		return "", false, err
	}
	return h.String(), true, nil
}

func (r *Repo) tip(branch string) (plumbing.Hash, error) {
	name, err := branchRef(branch)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	if r.tracked {
		if h, err := r.ref(published(branch)); err != nil || !h.IsZero() {
			return h, err
		}
	}
	return r.ref(name)
}

// ref reads a reference; zero if there is none.
func (r *Repo) ref(name plumbing.ReferenceName) (plumbing.Hash, error) {
	ref, err := r.st.Reference(name)
	switch {
	case errors.Is(err, plumbing.ErrReferenceNotFound):
		return plumbing.ZeroHash, nil
	case err != nil:
		return plumbing.ZeroHash, fmt.Errorf("read %s: %w", name, err)
	case ref.Type() != plumbing.HashReference:
		return plumbing.ZeroHash, fmt.Errorf("%s points at another reference: not a branch of ours", name)
	}
	return ref.Hash(), nil
}

func branchRef(branch string) (plumbing.ReferenceName, error) {
	name := plumbing.NewBranchReferenceName(branch)
	if err := name.Validate(); err != nil {
		return "", fmt.Errorf("%q is not a branch name", branch)
	}
	return name, nil
}

// Branches lists the branches whose name begins with prefix, in order.
func (r *Repo) Branches(prefix string) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	it, err := r.st.IterReferences()
	if err != nil {
		return nil, err
	}
	var names []string
	err = it.ForEach(func(ref *plumbing.Reference) error {
		b, ok := strings.CutPrefix(ref.Name().String(), "refs/heads/")
		if !ok && r.tracked {
			b, ok = strings.CutPrefix(ref.Name().String(), "refs/remotes/origin/")
		}
		if ok && ref.Type() == plumbing.HashReference && strings.HasPrefix(b, prefix) {
			names = append(names, b)
		}
		return nil
	})
	slices.Sort(names)
	return slices.Compact(names), err
}

// Commit is one commit as read, its signature not yet looked at: see
// [Trust.Commit].
type Commit struct {
	Hash    string
	Tree    string
	Parents []string
	Author  string // "Name <email>"
	When    time.Time
	Message string
	Raw     []byte // the object, for the check of its signature
}

// Log yields the commits of a branch from its tip along first parents. The
// error, if any, comes last. A shallow clone ends where its history does.
func (r *Repo) Log(branch string) iter.Seq2[Commit, error] {
	return func(yield func(Commit, error) bool) {
		tip, ok, err := r.Tip(branch)
		if err == nil && !ok {
			err = fmt.Errorf("branch %s: %w", branch, ErrNotFound)
		}
		for err == nil {
			var c Commit
			if c, err = r.Commits(tip); err != nil {
				break
			}
			if !yield(c, nil) || len(c.Parents) == 0 {
				return
			}
			tip = c.Parents[0]
		}
		yield(Commit{}, err)
	}
}

// Commits reads one commit by its hash.
func (r *Repo) Commits(hash string) (Commit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, raw, err := readCommit(r.st, plumbing.NewHash(hash))
	if err != nil {
		return Commit{}, err
	}
	out := Commit{Hash: hash, Tree: c.tree.String(), Author: c.author.who, When: c.committer.when, Message: c.message, Raw: raw}
	for _, p := range c.parents {
		out.Parents = append(out.Parents, p.String())
	}
	return out, nil
}

// File reads a file of a commit; ErrNotFound if the commit has no such file.
func (r *Repo) File(commit, path string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, _, err := readCommit(r.st, plumbing.NewHash(commit))
	if err != nil {
		return nil, err
	}
	e, err := r.find(c.tree, path)
	if err != nil {
		return nil, err
	}
	if !e.blob() {
		return nil, fmt.Errorf("%s in %s is not a file: %w", path, commit, ErrNotFound)
	}
	return readObject(r.st, plumbing.BlobObject, e.hash, maxObject)
}

// Files lists the names in a folder of a commit ("" is the top): folders end
// with a slash.
func (r *Repo) Files(commit, dir string) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, _, err := readCommit(r.st, plumbing.NewHash(commit))
	if err != nil {
		return nil, err
	}
	tree := c.tree
	if dir != "" {
		e, err := r.find(c.tree, dir)
		if err != nil {
			return nil, err
		}
		if !e.dir() {
			return nil, fmt.Errorf("%s in %s is not a folder: %w", dir, commit, ErrNotFound)
		}
		tree = e.hash
	}
	entries, err := readTree(r.st, tree)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.dir() {
			e.name += "/"
		}
		names = append(names, e.name)
	}
	return names, nil
}

func (r *Repo) find(tree plumbing.Hash, path string) (treeEntry, error) {
	e := treeEntry{mode: modeDir, hash: tree}
	for _, part := range strings.Split(path, "/") {
		if !e.dir() {
			return treeEntry{}, fmt.Errorf("%s: %w", path, ErrNotFound)
		}
		entries, err := readTree(r.st, e.hash)
		if err != nil {
			return treeEntry{}, err
		}
		i := slices.IndexFunc(entries, func(e treeEntry) bool { return e.name == part })
		if i < 0 {
			return treeEntry{}, fmt.Errorf("%s: %w", path, ErrNotFound)
		}
		e = entries[i]
	}
	return e, nil
}

// Commit puts one commit onto a branch: the parent's tree with files added or
// replaced, everything else kept. parent "" begins a new branch without
// history. The branch must stand at parent, else ErrMoved, and nothing changed
// but for unreferenced objects. The hash depends on the arguments alone, the
// signing key being Ed25519.
func (r *Repo) Commit(ctx context.Context, branch, parent string, files map[string][]byte, message string, when time.Time) (string, error) {
	return r.commitBy(ctx, r.signer, branch, parent, files, message, when)
}

// Signed is a repository where another key signs what is committed.
type Signed struct {
	*Repo
	signer ssh.Signer
}

// SignedBy gives this repository, with commits signed by another Ed25519 key:
// of a log that was begun when that was the key, and is finished later.
func (r *Repo) SignedBy(signer ssh.Signer) Signed { return Signed{r, signer} }

// Commit is Repo.Commit, signed by the other key.
func (s Signed) Commit(ctx context.Context, branch, parent string, files map[string][]byte, message string, when time.Time) (string, error) {
	return s.Repo.commitBy(ctx, s.signer, branch, parent, files, message, when)
}

func (r *Repo) commitBy(ctx context.Context, signer ssh.Signer, branch, parent string, files map[string][]byte, message string, when time.Time) (string, error) {
	name, err := branchRef(branch)
	if err != nil {
		return "", err
	}
	if r.signer == nil {
		return "", errors.New("this repository was opened for reading")
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := plumbing.NewHash(parent)
	if parent != "" && old.String() != parent {
		return "", fmt.Errorf("%q is not a commit", parent)
	}
	if err := r.standsAt(name, old); err != nil {
		return "", err
	}
	var base plumbing.Hash
	if parent != "" {
		c, _, err := readCommit(r.st, old)
		if err != nil {
			return "", err
		}
		base = c.tree
	}
	dir, err := newFolder(files)
	if err != nil {
		return "", err
	}
	to := additions{r: r}
	tree, err := dir.write(&to, base)
	if err != nil {
		return "", err
	}
	hash, err := to.commit(signer, tree, old, message, when)
	if err != nil {
		return "", err
	}
	if err := to.store(); err != nil {
		return "", err
	}
	if err := r.move(name, old, hash); err != nil {
		return "", err
	}
	return hash.String(), nil
}

// commit adds a signed commit.
func (a *additions) commit(signer ssh.Signer, tree, parent plumbing.Hash, message string, when time.Time) (plumbing.Hash, error) {
	if strings.ContainsRune(message, 0) {
		return plumbing.ZeroHash, errors.New("a commit message cannot hold a NUL")
	}
	if !strings.HasSuffix(message, "\n") {
		message += "\n"
	}
	stamp := fmt.Sprintf("%s %d +0000", a.r.who, when.Unix())
	var head bytes.Buffer
	fmt.Fprintf(&head, "tree %s\n", tree)
	if !parent.IsZero() {
		fmt.Fprintf(&head, "parent %s\n", parent)
	}
	fmt.Fprintf(&head, "author %s\ncommitter %s\n", stamp, stamp)
	sig, err := signGit(signer, append(slices.Clone(head.Bytes()), "\n"+message...))
	if err != nil {
		return plumbing.ZeroHash, err
	}
	// The signature is a header of its own, its further lines indented by one
	// space (gitformat-signature(5)).
	head.WriteString("gpgsig " + strings.ReplaceAll(strings.TrimSuffix(string(sig), "\n"), "\n", "\n ") + "\n")
	head.WriteString("\n" + message)
	return a.add(plumbing.CommitObject, head.Bytes())
}

// standsAt fails with ErrMoved unless the reference is at old (zero: absent).
func (r *Repo) standsAt(name plumbing.ReferenceName, old plumbing.Hash) error {
	now, err := r.ref(name)
	if err != nil {
		return err
	}
	if now != old {
		return fmt.Errorf("%w: %s is at %s, expected %s", ErrMoved, name.Short(), orNone(now), orNone(old))
	}
	return nil
}

func orNone(h plumbing.Hash) string {
	if h.IsZero() {
		return "nothing"
	}
	return h.String()
}

// move takes a reference from old to new by compare-and-swap, in the way of
// stock Git, which other writers then respect: <ref>.lock made exclusively,
// the value compared under it, the lock renamed over the reference. go-git's
// own check writes in place, and a crash leaves a torn reference.
func (r *Repo) move(name plumbing.ReferenceName, old, new plumbing.Hash) (err error) {
	path := filepath.Join(r.dir, filepath.FromSlash(name.String()))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(path+".lock", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%w: another writer holds %s.lock", ErrMoved, name)
	}
	if err != nil {
		return err
	}
	renamed := false
	defer func() {
		if !renamed {
			err = errors.Join(err, os.Remove(lock.Name()))
		}
	}()
	_, werr := io.WriteString(lock, new.String()+"\n")
	if werr == nil && strings.HasPrefix(name.String(), "refs/remotes/") {
		werr = lock.Sync() // where a start goes back to, when all else is torn: what is before may be gone
	}
	if err := errors.Join(werr, lock.Close()); err != nil {
		return err
	}
	if err := r.standsAt(name, old); err != nil {
		return err
	}
	if err := os.Rename(lock.Name(), path); err != nil {
		return err
	}
	renamed = true
	return nil
}
