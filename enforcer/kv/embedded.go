package kv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// ErrInUse is returned for a directory that another store has open, in this
// process or in another.
var ErrInUse = errors.New("another process has this store open")

// startLimit bounds how long the embedded server may recover its streams.
const startLimit = 30 * time.Second

// OpenEmbedded runs a JetStream server inside this process, with its files in
// dir. It opens no port; it syncs every write. Two servers on one directory
// would ruin it, so the second gets ErrInUse.
func OpenEmbedded(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("kv: %w", err)
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	ns, err := server.NewServer(&server.Options{
		ServerName:             "countersign",
		DontListen:             true,
		NoLog:                  true,
		NoSigs:                 true,
		DisableJetStreamBanner: true,
		JetStream:              true,
		StoreDir:               dir,
		SyncAlways:             true,
		JetStreamMaxMemory:     16 << 20, // nothing of ours lives in memory streams
		MaxPayload:             8 << 20,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("kv: embedded store in %s: %w", dir, err), unlock())
	}
	ns.Start()
	stop := func() error {
		ns.Shutdown()
		ns.WaitForShutdown()
		return unlock()
	}
	if !ns.ReadyForConnections(startLimit) || !ns.JetStreamEnabled() {
		return nil, errors.Join(fmt.Errorf("kv: embedded store in %s did not start: are its files writable by this user, and is the disk full?", dir), stop())
	}
	conn, err := nats.Connect("", nats.InProcessServer(ns), nats.Name("countersign"), nats.MaxReconnects(0))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("kv: embedded store in %s: %w", dir, err), stop())
	}
	return newStore(conn, 1, stop)
}

// lock takes the file's advisory lock, which the kernel drops with the
// process: a crash leaves nothing to clean up.
func lock(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("kv: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, errors.Join(fmt.Errorf("kv: %s: %w", path, err), f.Close())
	}
	return f.Close, nil
}
