package gitsync

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"countersign/fixtures/githost"
)

// Stock Git reads what is written here, at every size where the spelling of
// sizes changes, and compressible or not.
func TestStockGitReadsLooseAndPacked(t *testing.T) {
	key, err := githost.NewKey(rand.Reader, "enforcer@example.com")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r, err := OpenAudit(AuditConfig{Dir: dir, KeyPEM: key.PEM(), Name: "n", Email: "e"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	noise := make([]byte, 1<<18)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	noise[0] = 0 // or it might be the one x below
	var all []plumbing.Hash
	for _, n := range []int{0, 1, 15, 16, 17, 2047, 2048, 2049, 1<<18 - 1, 1 << 18} {
		for _, data := range [][]byte{noise[:n], bytes.Repeat([]byte{'x'}, n)} {
			to := additions{r: r}
			h, err := to.add(plumbing.BlobObject, data)
			if err = errors.Join(err, to.store()); err != nil {
				t.Fatal(err)
			}
			back, err := readObject(r.st, plumbing.BlobObject, h, maxObject)
			if err != nil || !bytes.Equal(back, data) {
				t.Errorf("%d bytes: read %d back: %v", n, len(back), err)
			}
			all = append(all, h)
		}
	}
	all = all[1:] // the empty one is there twice
	git(t, dir, "fsck", "--strict", "--full")

	other := t.TempDir()
	git(t, other, "init", "-q", "--bare")
	pack := filepath.Join(other, "objects", "pack", "pack-1.pack")
	f, err := os.Create(pack)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(writePack(f, r.st, all), f.Close()); err != nil {
		t.Fatal(err)
	}
	git(t, other, "index-pack", "--strict", pack)
	for _, h := range all {
		if got := git(t, other, "cat-file", "-t", h.String()); got != "blob" {
			t.Errorf("%s is a %q", h, got)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "objects", "*", "tmp_obj_*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// An object that is not there ends a pack with an error, not with a pack.
func TestPackWithoutAnObject(t *testing.T) {
	dir := t.TempDir()
	if err := initBare(dir); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	missing := plumbing.NewHash(strings.Repeat("ab", 20))
	if err := writePack(&out, storageAt(dir), []plumbing.Hash{missing}); err == nil {
		t.Error("written")
	}
}
