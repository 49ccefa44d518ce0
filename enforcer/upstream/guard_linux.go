package upstream

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// self is our own program, even if another took its place on the disk.
func self() string { return "/proc/self/exe" }

// sessionLeader puts the server into a session of its own, away from our
// terminal, and lets the kernel kill it when its guard dies without the chance
// to do it.
func sessionLeader() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// adopt makes us the parent of every orphan among our descendants.
func adopt() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}

// nextExit returns a child that has exited, and leaves it a zombie.
func nextExit() (pid int, err error) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		// si_pid, which the package leaves unnamed: after three ints, aligned as
		// a pointer (siginfo_t in linux/signal.h).
		const at = 8 + unsafe.Sizeof(uintptr(0))
		return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), at))), err
	}
}

// children are the processes whose parent we are.
func children() (pids []int) {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	us := []byte(strconv.Itoa(os.Getpid()))
	for _, name := range names {
		pid, err := strconv.Atoi(name.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name.Name() + "/stat")
		if err != nil {
			continue // gone
		}
		// pid (name) state ppid …, where the name may hold anything
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) > 1 && bytes.Equal(fields[1], us) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func dup(from, to int) error { return unix.Dup3(from, to, 0) }
