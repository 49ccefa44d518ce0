package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// limit is one rlimit.
type limit struct {
	Name     string
	Resource int
	Soft     uint64
	Hard     uint64
}

func (r Resources) limits() (all []limit, err error) {
	seconds := uint64(r.CPU / time.Second)
	for _, l := range []limit{
		{"memory", unix.RLIMIT_DATA, uint64(r.Memory), uint64(r.Memory)},
		// At the soft bound comes SIGXCPU, which says why; at the hard one SIGKILL.
		{"cpu", unix.RLIMIT_CPU, seconds, seconds + 1},
		{"files", unix.RLIMIT_NOFILE, uint64(r.Files), uint64(r.Files)},
		{"filesize", unix.RLIMIT_FSIZE, uint64(r.FileSize), uint64(r.FileSize)},
		// Last: from here on no thread may be had any more.
		{"processes", unix.RLIMIT_NPROC, uint64(r.Processes), uint64(r.Processes)},
	} {
		if l.Soft > 0 {
			all = append(all, l)
		}
	}
	return all, nil
}

// startLimited runs the server through another copy of our program, which
// takes the limits upon itself before it becomes the server: so it is never
// without them, and the guard never under them.
func (t task) startLimited(attr *syscall.ProcAttr) (pid int, err error) {
	limits, err := json.Marshal(t.Limits)
	if err != nil {
		return 0, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	attr.Files = append(attr.Files, w.Fd())
	pid, err = syscall.ForkExec(self(), append([]string{limitName, string(limits), t.Path}, t.Args...), attr)
	if err = errors.Join(err, w.Close()); err != nil {
		return 0, errors.Join(err, r.Close())
	}
	why, err := io.ReadAll(r) // ends when it has become the server
	if err = errors.Join(err, r.Close()); err == nil && len(why) > 0 {
		err = errors.New(string(why))
	}
	return pid, err
}

// limited is the copy: os.Args are limitName, the limits, the server's path
// and its arguments. It returns only if it could not become the server, which
// it says on descriptor 3.
func limited() {
	const answers = 3
	syscall.CloseOnExec(answers)
	runtime.LockOSThread()
	if _, err := io.WriteString(os.NewFile(answers, "answers"), become().Error()); err != nil {
		os.Exit(126)
	}
}

func become() error {
	var limits []limit
	if len(os.Args) < 4 {
		return errors.New("this is no command for people")
	}
	if err := json.Unmarshal([]byte(os.Args[1]), &limits); err != nil {
		return err
	}
	for _, l := range limits {
		var now unix.Rlimit
		err := unix.Getrlimit(l.Resource, &now)
		if err == nil {
			// What we may not have ourselves, it may not have either.
			err = unix.Setrlimit(l.Resource, &unix.Rlimit{Cur: min(l.Soft, now.Max), Max: min(l.Hard, now.Max)})
		}
		if err != nil {
			return fmt.Errorf("resources.%s cannot be set: %w", l.Name, err)
		}
	}
	return syscall.Exec(os.Args[2], os.Args[3:], syscall.Environ())
}
