package audit

import (
	"errors"
	"math"
	"os"
	"syscall"
)

// roomBytes is how much room a file gets at a time.
const roomBytes = 4 << 20

// dataFile is a file written from its beginning to its end. It syncs with
// fdatasync(2): the size is part of what that makes durable, the modification
// time is not, and nobody reads that.
//
// It keeps room, which reads as zeroes, ahead of what is written. A disk that
// fills up is noticed before anything does not fit; and the size of the file,
// and where its blocks are, seldom change from one sync to the next: the disk
// has the data to take and no metadata, which is about half the work, and none
// of the wait for a file system's log that others fill. A file system that has
// none to give does without.
type dataFile struct {
	*os.File
	end   int64 // bytes written
	room  int64 // size of the file, if it has room
	plain bool  // no room to be had
}

func openData(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &dataFile{File: f}, nil
}

func (f *dataFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.end += int64(n)
	return n, err
}

func (f *dataFile) Reserve(n int64) (int64, error) {
	if f.plain {
		return math.MaxInt64, nil
	}
	need := f.end + n
	if need <= f.room {
		return f.room - f.end, nil
	}
	size := (need + roomBytes - 1) / roomBytes * roomBytes
	err := f.allocate(size)
	if diskFull(err) && size > need { // not so much, then
		size = need
		err = f.allocate(size)
	}
	switch {
	case err == nil:
		f.room = size
	case errors.Is(err, errors.ErrUnsupported):
		f.plain = true
		return math.MaxInt64, nil
	}
	return max(0, f.room-f.end), err
}

func (f *dataFile) allocate(size int64) error {
	from := max(f.room, f.end)
	err := uninterrupted(func() error { return syscall.Fallocate(int(f.Fd()), 0, from, size-from) })
	return os.NewSyscallError("fallocate", err)
}

// diskFull tells whether an error is that the disk, or a quota of it, is full.
func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func (f *dataFile) Sync() error {
	return os.NewSyscallError("fdatasync", uninterrupted(func() error { return syscall.Fdatasync(int(f.Fd())) }))
}

func (f *dataFile) Trim() error {
	if f.room <= f.end {
		return nil
	}
	f.room = 0
	if err := f.Truncate(f.end); err != nil {
		return err
	}
	return f.Sync()
}

func uninterrupted(f func() error) error {
	for {
		if err := f(); err != syscall.EINTR {
			return err
		}
	}
}
