package gitsync

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// many are the files of a commit that is a pack.
func many(of string) map[string][]byte {
	files := map[string][]byte{"position": []byte(of)}
	for i := range 2 * packFrom {
		files[fmt.Sprintf("04/12/%s/%02x/%d", of, i%5, i)] = fmt.Appendf(nil, "body %d of %s", i, of)
	}
	return files
}

// packs lists what the folder of packs has, by extension; and anything else.
func packs(t *testing.T, dir string) (names []string) {
	t.Helper()
	found, err := os.ReadDir(filepath.Join(dir, "objects", "pack"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		names = append(names, filepath.Ext(f.Name()))
	}
	return names
}

func TestManyObjectsAreOnePack(t *testing.T) {
	r, dir, remote, _ := pair(t)
	first, err := r.Commit(t.Context(), bodies, "", many("00"), "m", noon)
	if err != nil {
		t.Fatal(err)
	}
	if got := packs(t, dir); strings.Join(got, " ") != ".idx .pack" || len(loose(t, dir)) > 0 {
		t.Errorf("packs: %v; %d files beside", got, len(loose(t, dir)))
	}
	// What a commit shares with another is not written again, packed or not.
	second := commit(t, r, bodies, first, "04/12/01/ab/1", "one more")
	if n := len(loose(t, dir)); n != 8 || len(packs(t, dir)) != 2 {
		t.Errorf("%d files, packs %v", n, packs(t, dir))
	}
	third, err := r.Commit(t.Context(), bodies, second, many("02"), "m", noon)
	if err != nil {
		t.Fatal(err)
	}
	git(t, dir, "fsck", "--strict", "--full")
	if got := git(t, dir, "ls-tree", "-r", "--name-only", third); strings.Count(got, "\n") != 2*2*packFrom+2 {
		t.Errorf("stock git sees %s", got)
	}
	if text, err := r.File(third, "04/12/00/03/8"); err != nil || string(text) != "body 8 of 00" {
		t.Errorf("%q, %v", text, err)
	}
	if err := push(r, t.Context(), bodies); err != nil {
		t.Fatal(err)
	}
	git(t, remote, "fsck", "--strict", "--full")
	if got := git(t, remote, "rev-parse", bodies); got != third {
		t.Errorf("the remote is at %s", got)
	}
}

// Killed at any moment while a pack is stored, or after and with the reference
// not moved, a start goes on from the commit before, and leaves nothing of it.
func TestACrashWhileAPackIsStored(t *testing.T) {
	one := func(t *testing.T, dir, pattern string) string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(dir, "objects", "pack", pattern))
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		return found[0]
	}
	gone := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	half := func(t *testing.T, path string) {
		t.Helper()
		fi, err := os.Stat(path)
		if err == nil {
			err = os.Truncate(path, fi.Size()/2)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, harm := range map[string]func(t *testing.T, dir string){
		"before it has its name": func(t *testing.T, dir string) {
			pack, idx := one(t, dir, "*.pack"), one(t, dir, "*.idx")
			half(t, pack)
			if err := errors.Join(os.Rename(pack, filepath.Join(filepath.Dir(pack), "tmp_pack_1")), os.Rename(idx, idx+".1.tmp")); err != nil {
				t.Fatal(err)
			}
		},
		"an index without its pack": func(t *testing.T, dir string) { gone(t, one(t, dir, "*.pack")) },
		"a pack without its index":  func(t *testing.T, dir string) { gone(t, one(t, dir, "*.idx")) },
		"a torn pack":               func(t *testing.T, dir string) { half(t, one(t, dir, "*.pack")) },
		"a torn index":              func(t *testing.T, dir string) { half(t, one(t, dir, "*.idx")) },
		"an empty pack": func(t *testing.T, dir string) {
			if err := os.Truncate(one(t, dir, "*.pack"), 0); err != nil {
				t.Fatal(err)
			}
		},
		"before the reference": func(*testing.T, string) {},
	} {
		t.Run(name, func(t *testing.T) {
			r, dir, remote, key := pair(t)
			before := commit(t, r, bodies, "", "04/12/00/ab/0", "body")
			if err := push(r, t.Context(), bodies); err != nil {
				t.Fatal(err)
			}
			made, err := r.Commit(t.Context(), bodies, before, many("01"), "m", noon)
			if err != nil {
				t.Fatal(err)
			}
			moved := name != "before the reference" // though what follows the pack is durable after it
			if !moved {
				git(t, dir, "update-ref", "refs/heads/"+bodies, before)
			}
			harm(t, dir)
			r = audit(t, dir, remote, key)
			if tip, _, err := r.Tip(bodies); err != nil || tip != before || len(r.Dropped()) > 0 != moved {
				t.Fatalf("at %s, want %s: %v, %v", tip, before, err, r.Dropped())
			}
			if left := packs(t, dir); moved && len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if again, err := r.Commit(t.Context(), bodies, before, many("01"), "m", noon); err != nil || again != made {
				t.Fatalf("%s, want %s: %v", again, made, err)
			}
			if got := packs(t, dir); strings.Join(got, " ") != ".idx .pack" {
				t.Errorf("packs: %v", got)
			}
			git(t, dir, "fsck", "--strict", "--full")
			if err := push(r, t.Context(), bodies); err != nil {
				t.Fatal(err)
			}
			git(t, remote, "fsck", "--strict", "--full")
		})
	}
}

// What fails while a pack is written leaves none, and nothing that a later
// start would take for one.
func TestAPackThatFailsIsNotThere(t *testing.T) {
	r, dir, _, _ := pair(t)
	missing := plumbing.NewHash(strings.Repeat("ab", 20))
	if err := r.repack([]plumbing.Hash{missing}); err == nil {
		t.Error("packed what is not there")
	}
	if left := packs(t, dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Trim takes what is old out of packs, too, and leaves what the next commits
// build on.
func TestTrimTakesFromPacks(t *testing.T) {
	r, dir, remote, key := pair(t)
	const branch = "audit/demo/i1/2026-11"
	tip, when := "", noon
	var blobs []plumbing.Hash
	grow := func() {
		t.Helper()
		of := fmt.Sprintf("%02d", len(blobs))
		when = when.Add(time.Hour)
		var err error
		if tip, err = r.Commit(t.Context(), branch, tip, many(of), "m", when); err != nil {
			t.Fatal(err)
		}
		if err := push(r, t.Context(), branch); err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, plumbing.NewHash(git(t, dir, "rev-parse", tip+":04/12/"+of+"/00/0")))
	}
	grow()
	grow()
	grow()
	never := func(string) bool { return false }
	if n, err := r.Trim(t.Context(), "audit/", when, never); err != nil || n < 2*2*packFrom {
		t.Errorf("%d objects went, %v", n, err)
	}
	for i, h := range blobs {
		if got := holds(t, dir, h); got != (i == 2) {
			t.Errorf("body of commit %d is here: %v", i, got)
		}
	}
	if n, err := r.Trim(t.Context(), "audit/", when, never); err != nil || n != 0 {
		t.Errorf("%d objects went again, %v", n, err)
	}
	r = audit(t, dir, remote, key)
	if d := r.Dropped(); len(d) > 0 {
		t.Errorf("a start takes back %s", d)
	}
	grow()
	git(t, remote, "fsck", "--strict", "--full")
	if got := git(t, remote, "rev-list", "--count", branch); got != "4" {
		t.Errorf("the remote has %s commits", got)
	}
	if left := packs(t, dir); len(left) > 4 {
		t.Errorf("packs: %v", left)
	}
}
