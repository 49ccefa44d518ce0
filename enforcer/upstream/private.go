package upstream

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Private files of spawned servers: each process has a folder of its own,
// <Private>/<random>/, of mode 0700, and in it files of mode 0600, named like
// the environment variables that tell their paths. The folder goes when the
// process has ended, and its files when the lease ends, whatever the process
// does. What a crash leaves, the next start removes: see ClearPrivate.

// ClearPrivate makes the folder for private files, and removes what an earlier
// run left in it. No process of that run lives: its guards saw it end.
func ClearPrivate(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("files that an earlier run made for spawned servers: %w", err)
	}
	return os.MkdirAll(dir, 0o700)
}

// private writes the files, and says under which names the process finds them.
func (c *StdioConfig) private(files []File) (dir string, env []string, err error) {
	if len(files) == 0 {
		return "", nil, nil
	}
	if c.Private == "" {
		return "", nil, errors.New("there is no folder for its private files")
	}
	if dir, err = os.MkdirTemp(c.Private, ""); err == nil { // 0700 whatever the umask
		dir, err = absolute(dir)
	}
	for _, f := range files {
		if err == nil {
			path := filepath.Join(dir, f.Env)
			err = write(path, f.Content)
			env = append(env, f.Env+"="+path)
		}
	}
	if err != nil {
		var at *os.PathError
		if errors.As(err, &at) {
			err = at.Err // the rest is where our state is
		}
		return "", nil, errors.Join(fmt.Errorf("its private files cannot be written: %w", err), remove(dir))
	}
	return dir, env, nil
}

// absolute is for a process whose working directory is another one.
func absolute(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return dir, err
	}
	return abs, nil
}

// write makes a new file; one that is there, or a link, is an error.
func write(path, content string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

func remove(dir string) error {
	if dir == "" {
		return nil
	}
	return os.RemoveAll(dir)
}

// forget removes a folder of private files; what cannot be removed is said.
func (u *stdio) forget(dir string) {
	if err := remove(dir); err != nil {
		u.cfg.Warn("the private files of a spawned server could not be removed, the next start does: " + err.Error())
	}
}
