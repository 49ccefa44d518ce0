package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"countersign/audit"
)

func TestTheSchemaIsPrinted(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	cmd := auditCommand()
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"schema"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	if out.String() != audit.EntrySchema || !json.Valid(out.Bytes()) {
		t.Errorf("%s", out.String())
	}
}
