package gitsync

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
)

// writeDurable replaces path by data so that a crash leaves the old or the new
// content, and that after it returns the new one survives: write beside, sync
// the file, rename, sync the folder.
func writeDurable(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = joinErr(err, os.Remove(f.Name()))
		}
	}()
	if _, err = f.Write(data); err != nil {
		return joinErr(err, f.Close())
	}
	if err = f.Sync(); err != nil {
		return joinErr(err, f.Close())
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncPath(dir)
}

func joinErr(err, second error) error {
	if second == nil {
		return err
	}
	return fmt.Errorf("%w (then: %w)", err, second)
}

// syncPath makes a file's content, or a folder's names, durable.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return joinErr(err, f.Close())
	}
	return f.Close()
}

// syncsAtOnce is how many syncs of syncEach are under way together.
const syncsAtOnce = 32

// syncEach makes many files or folders durable; those that are not there are
// passed over. Syncs that wait together share what a file system writes for
// each, its journal's commit above all: a thousand bodies, each an object and a
// folder, take a fraction of the time of one after the other.
func syncEach(paths []string) error {
	var g errgroup.Group
	g.SetLimit(syncsAtOnce)
	for _, path := range paths {
		g.Go(func() error {
			if err := syncPath(path); !errors.Is(err, os.ErrNotExist) {
				return err
			}
			return nil
		})
	}
	return g.Wait()
}

// syncAll makes every file and folder under root durable. A policy clone is
// small and changes rarely: the walk is cheap, and it misses nothing.
func syncAll(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && !d.Type().IsRegular() {
			return nil
		}
		return syncPath(path)
	})
}
