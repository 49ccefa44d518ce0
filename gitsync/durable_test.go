package gitsync

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// A sync that fails is not lost among many; what is not there is none.
func TestSyncEach(t *testing.T) {
	dir := t.TempDir()
	var paths []string
	for i := range 3 * syncsAtOnce {
		path := filepath.Join(dir, strconv.Itoa(i))
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	if err := syncEach(append(paths, dir, filepath.Join(dir, "none"))); err != nil {
		t.Error(err)
	}
	loop := filepath.Join(dir, "loop") // as good as unreadable, to root, too
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	if err := syncEach(append([]string{loop}, paths...)); err == nil {
		t.Error("a file that cannot be synced goes unnoticed")
	}
}
