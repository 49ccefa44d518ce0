//go:build !linux

package audit

import (
	"errors"
	"math"
	"os"
	"syscall"
)

// dataFile is a file without room ahead: that a disk is full, writing tells.
type dataFile struct{ *os.File }

func openData(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return dataFile{f}, nil
}

func (dataFile) Reserve(int64) (int64, error) { return math.MaxInt64, nil }

func (dataFile) Trim() error { return nil }

// diskFull tells whether an error is that the disk is full.
func diskFull(err error) bool { return errors.Is(err, syscall.ENOSPC) }
