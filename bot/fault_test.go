package bot

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// The bot lives in the gate's process: what fails inside of it fails alone.
func TestAFaultEndsNothing(t *testing.T) {
	var log bytes.Buffer
	b := New(Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if !b.accept(func(context.Context) { panic("hostile") }) {
		t.Fatal("not accepted")
	}
	b.drain()
	sure := false
	if err := b.attempt(t.Context(), place{"ap_1", "dba"}, &sure); !errors.Is(err, errFault) { // there is no book
		t.Errorf("the card's fault is %v", err)
	}
	if said := log.String(); !strings.Contains(said, "hostile") || !strings.Contains(said, "ap_1") {
		t.Errorf("the log says %s", said)
	}
	if len(b.slots) != 0 {
		t.Error("the place of the job is not free again")
	}
}
