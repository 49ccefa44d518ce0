package audit

import (
	"os"
	"syscall"
)

// dataFile syncs with fdatasync(2): the size is part of what it makes durable,
// the modification time is not, and nobody reads that.
type dataFile struct{ *os.File }

func (f dataFile) Sync() error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); err != syscall.EINTR {
			return err
		}
	}
}
