package audit

import (
	"errors"
	"os"
	"syscall"
)

// roomBytes is how much room a file gets at a time.
const roomBytes = 4 << 20

// dataFile is a file written from its beginning to its end. It syncs with
// fdatasync(2): the size is part of what that makes durable, the modification
// time is not, and nobody reads that.
//
// It keeps room, which reads as zeroes, ahead of what is written. The size of
// the file, and where its blocks are, then seldom change from one sync to the
// next: the disk has the data to take and no metadata, which is about half the
// work, and none of the wait for a file system's log that others fill. Close
// gives the room back. A file system that has none to give does without.
type dataFile struct {
	*os.File
	end   int64 // bytes written
	room  int64 // size of the file, 0 before the first write
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
	if need := f.end + int64(len(p)); need > f.room && !f.plain {
		size := (need/roomBytes + 1) * roomBytes
		// What fails here, a full disk above all, the write itself will tell.
		if err := uninterrupted(func() error {
			return syscall.Fallocate(int(f.Fd()), 0, f.end, size-f.end)
		}); err != nil {
			f.plain = true
		} else {
			f.room = size
		}
	}
	n, err := f.File.Write(p)
	f.end += int64(n)
	return n, err
}

func (f *dataFile) Sync() error {
	return uninterrupted(func() error { return syscall.Fdatasync(int(f.Fd())) })
}

// Close cuts off the room that was not needed, durably: whoever finds another
// file after this one finds this one whole.
func (f *dataFile) Close() error {
	var err error
	if f.room > f.end {
		if err = f.Truncate(f.end); err == nil {
			err = f.Sync()
		}
	}
	return errors.Join(err, f.File.Close())
}

func uninterrupted(f func() error) error {
	for {
		if err := f(); err != syscall.EINTR {
			return err
		}
	}
}
