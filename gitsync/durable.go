package gitsync

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
