package rules

import (
	"strings"
	"testing"
	"time"
)

func TestHoldFor(t *testing.T) {
	p := load(t, base(), "countersign.yaml", "version: 1\napprovals: { hold: 30s, holds: { desk: 4m, \"https://app.example/client.json\": 0s } }\n")
	for client, want := range map[string]time.Duration{"desk": 4 * time.Minute, "https://app.example/client.json": 0, "Desk": 30 * time.Second, "": 30 * time.Second} {
		if got := p.HoldFor(client); got != want {
			t.Errorf("%q is held for %s, want %s", client, got, want)
		}
	}
}

func TestHoldsThatAreNone(t *testing.T) {
	var many strings.Builder
	for i := range maxHolds + 1 {
		many.WriteString("c" + strings.Repeat("x", i) + ": 1s, ")
	}
	for text, want := range map[string]string{
		"{ desk: 61m }":                            "countersign.yaml:2:29: approvals.holds.desk is 1h1m0s: it must lie between 0s and 1h0m0s",
		"{ desk: soon }":                           "countersign.yaml:2:29: approvals.holds.desk must be a duration",
		"{ desk: 1m, desk: 2m }":                   "countersign.yaml:2:33: duplicate key",
		"{ \"\": 1m }":                             "a client is named by the client_id of its tokens",
		"{ " + strings.Repeat("a", 513) + ": 1m }": "a client is named by the client_id of its tokens",
		"[desk]":                   "countersign.yaml:2:21: approvals.holds must be a mapping",
		"{ " + many.String() + "}": "a policy has at most 256",
	} {
		if _, err := try(base(), "countersign.yaml", "version: 1\napprovals: { holds: "+text+" }\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %v", text, err)
		}
	}
}
