//go:build unix && !linux

package upstream

import (
	"errors"
	"os"
	"syscall"
)

// Only Linux can adopt orphans, kill a child when its parent dies, wait
// without reaping, and say who one's children are; elsewhere we do without,
// for development.

func self() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

func sessionLeader() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

func adopt() error { return nil }

// nextExit gives up what it has seen to the caller's own wait, which finds
// nothing any more: then the server is gone, with a status that nobody knows.
func nextExit() (pid int, err error) {
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		if err != syscall.EINTR {
			return pid, err
		}
	}
}

func children() []int { return nil }

func dup(from, to int) error { return syscall.Dup2(from, to) }

// Resources bounds each process. Here it cannot.
type limit struct {
	Resource int
	Value    uint64
}

func (r Resources) limits() ([]limit, error) {
	if r != (Resources{}) {
		return nil, errors.New("resources of the policy can be set on Linux only")
	}
	return nil, nil
}

func (t task) startLimited(*syscall.ProcAttr) (int, error) { return 0, syscall.ENOSYS }

func limited() {}
