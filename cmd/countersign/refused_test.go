package main

import (
	"errors"
	"strings"
	"testing"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/enforcer/mask"
)

// However much a form brings, that its vote did not count fits the record.
func TestARefusedVoteFitsTheRecord(t *testing.T) {
	journal, err := audit.Open(audit.Config{Dir: t.TempDir(), Enforcer: "test", Incarnation: "r1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = journal.Close() })
	long := strings.Repeat("x", 64<<10)
	v := approval.Vote{Issuer: "https://id.example", Sub: "mallory", Via: approval.ViaOIDC, Reason: long, Shown: long}
	if err := recordRefusedVote(t.Context(), journal, mask.New(mask.Options{}), "", v, errors.New(long), ""); err != nil {
		t.Error(err)
	}
}
