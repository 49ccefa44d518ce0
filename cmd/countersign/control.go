package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"countersign/enforcer"
	"countersign/enforcer/freeze"
)

// The control socket is how the command line reaches the running enforcer: a
// Unix socket in the state directory. Whoever may open it is the operator: the
// enforcer's own user, or root.

// maxSocketPath is the longest path that a Unix socket can have on Linux (108
// bytes with the one that ends it).
const maxSocketPath = 107

func controlPath(stateDir string) (string, error) {
	path := filepath.Join(stateDir, "control.sock")
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("COUNTERSIGN_STATE_DIR: %s has %d bytes, and a Unix socket's path at most %d: use a shorter one, or a relative one", path, len(path), maxSocketPath)
	}
	return path, nil
}

// serveControl serves the gate's control on the socket. The state directory is
// locked: a socket that is there is what a crash left.
func serveControl(stateDir string, gate *enforcer.Enforcer, log *slog.Logger) (stop func() error, err error) {
	path, err := controlPath(stateDir)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	// Until this is done the process' umask decides; whoever comes in between
	// is turned away by allowed.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), listener.Close())
	}
	control := gate.Control(func(r *http.Request) freeze.Operator {
		uid, _ := r.Context().Value(peerUID{}).(int)
		return freeze.Operator{Name: fmt.Sprintf("operator uid %d at the command line", uid)}
	})
	server := httpServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if uid, ok := r.Context().Value(peerUID{}).(int); !ok || uid != 0 && uid != os.Geteuid() {
			http.Error(w, `{"error":"this socket is for the enforcer's own user, and for root"}`, http.StatusForbidden)
			return
		}
		control.ServeHTTP(w, r)
	}), log)
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		uid, err := peerOf(conn)
		if err != nil {
			log.Error("the control socket cannot tell who asks", "err", err)
			return ctx
		}
		return context.WithValue(ctx, peerUID{}, uid)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err := server.Shutdown(ctx)
		if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
		return errors.Join(err, server.Close())
	}, nil
}

// peerUID is the key of a connection's context that holds who is at its other
// end.
type peerUID struct{}
