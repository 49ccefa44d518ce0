package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"runtime/pprof"
)

// profileVar is for `make bench` only, and not in the help: a file that serve
// writes a CPU profile of its whole run to.
const profileVar = "COUNTERSIGN_CPU_PROFILE"

// startProfile begins the profile, if one is asked for; the returned func ends
// it.
func startProfile() (stop func() error, err error) {
	path := os.Getenv(profileVar)
	if path == "" {
		return func() error { return nil }, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", profileVar, err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", profileVar, err), f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

// tuneGC lets the heap grow to three times what is live before it is
// collected, where the environment (GOGC) does not say otherwise. Little is
// live, once the policy is loaded, and each call leaves garbage: collecting it
// at twice takes an eighth of the CPU time of a busy enforcer.
func tuneGC() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
}

// besideMessages is what the program needs beside the messages that the policy's
// limits.memory bounds: itself (some 80 MB), and what parsing and masking them
// takes for a moment.
const besideMessages = 192 << 20

// limitMemory has the garbage collected in time for the program to stay within
// the policy's limits.memory and besideMessages, where the environment
// (GOMEMLIMIT) does not say otherwise.
func limitMemory(messages int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(messages + besideMessages)
	}
}
