//go:build unix && !linux

package upstream

import (
	"fmt"
	"syscall"
)

// Only Linux can kill a child when its parent dies, and wait without reaping;
// elsewhere we do without, for development.
func groupLeader() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

type spawner struct{}

func newSpawner() *spawner { return &spawner{} }

func (s *spawner) run(f func() error) error { return f() }

func (s *spawner) stop() {}

func waitExit(pid int) error {
	for {
		_, err := syscall.Wait4(pid, nil, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("waiting for process %d: %w", pid, err)
		}
		return nil
	}
}
