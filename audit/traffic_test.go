package audit_test

import (
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"

	"countersign/audit"
)

// traffic makes entries as an enforcer does: of a few people's calls at a few
// servers.
type traffic struct{ r *rand.Rand }

func (tr traffic) random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(tr.r.Uint32())
	}
	return b
}

// call is one call's intent and outcome.
func (tr traffic) call() (intent, outcome audit.Entry) {
	who := tr.r.IntN(40)
	intent = audit.Entry{
		Kind: audit.KindIntent, Call: "c_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(tr.random(16))),
		Policy: "3f9c2e1a77b0c4d2e5f60718293a4b5c6d7e8f90", Issuer: "https://id.example.com", Sub: fmt.Sprintf("u-%04d", who*137),
		Client: []string{"claude-code", "ide", "batch"}[who%3], Method: "tools/call", Effect: "allow",
		Digest: "hmac-sha256:" + hex.EncodeToString(tr.random(32)),
	}
	switch tr.r.IntN(3) {
	case 0:
		intent.Server, intent.Tool, intent.Rules = "postgres", "query", []string{"pg-read"}
		intent.Args = fmt.Sprintf(`{"sql":"SELECT name, total FROM orders WHERE customer = %d LIMIT %d"}`, tr.r.IntN(100_000), 10*tr.r.IntN(10))
	case 1:
		intent.Server, intent.Tool, intent.Rules = "tickets", "get", []string{"tickets-read"}
		intent.Args = fmt.Sprintf(`{"id":"OPS-%d"}`, tr.r.IntN(50_000))
	case 2:
		intent.Server, intent.Tool, intent.Rules = "files", "read", []string{"files-docs"}
		intent.Args = fmt.Sprintf(`{"path":"/docs/%s/%d.md"}`, []string{"runbooks", "design", "howto"}[tr.r.IntN(3)], tr.r.IntN(3000))
	}
	outcome = intent
	outcome.Kind, outcome.Status, outcome.Millis, outcome.Bytes = audit.KindOutcome, audit.StatusOK, float64(2000+tr.r.IntN(90_000))/1000, int64(200+tr.r.IntN(4000))
	outcome.Args, outcome.Rules, outcome.Effect, outcome.Digest = "", nil, "", ""
	return intent, outcome
}
