package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"countersign/audit"
)

func TestMaskHash(t *testing.T) {
	for in, want := range map[string]string{"a value": "a value", "a value\n": "a value", "two\nlines\r\n": "two\nlines", " kept \n": " kept "} {
		cmd := policyMaskHashCommand()
		var out bytes.Buffer
		cmd.SetIn(strings.NewReader(in))
		cmd.SetOut(&out)
		cmd.SetArgs(nil)
		sum := sha256.Sum256([]byte(want))
		if err := cmd.Execute(); err != nil || out.String() != hex.EncodeToString(sum[:])+"\n" {
			t.Errorf("%q: %v %s", in, err, out.String())
		}
	}
	for _, in := range []string{"", "\n", strings.Repeat("x", maxHashed+1)} {
		if _, err := readValue(strings.NewReader(in), nil); err == nil {
			t.Errorf("%d bytes were taken for a value", len(in))
		}
	}
}

// What was masked is added up by detector, server, tool and place; a place with
// its indexes is one.
func TestMasksAreAddedUp(t *testing.T) {
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	sum := maskSum{}
	for i, masked := range [][]audit.Masked{
		{{Detector: "github", Place: "result.content[0].text", Count: 2}, {Detector: "github", Place: "result.content[1].text", Count: 1}},
		{{Detector: "github", Place: "result.content[0].text", Count: 1}, {Detector: "known", Place: "result.content[0].text", Count: 9}},
	} {
		sum.add(audit.Entry{Server: "db", Method: "tools/call", Tool: "query\x1b[2J\t\u202e", Call: "c_" + string(rune('1'+i)), Masked: masked, Time: at.Add(time.Duration(i) * time.Hour)}, "github")
	}
	sum.add(audit.Entry{Server: "db", Method: "resources/read", Masked: []audit.Masked{{Detector: "github", Count: 1}}}, "github")
	rows := sum.rows()
	if len(rows) != 2 || rows[0].Count != 4 || rows[0].Calls != 2 || rows[0].Place != "result.content[*].text" || rows[0].LastCall != "c_2" || !rows[0].First.Equal(at) || rows[1].Method != "resources/read" {
		t.Errorf("%+v %+v", rows[0], rows[1])
	}
	var out bytes.Buffer
	if err := printMasks(&out, rows, false); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.ContainsAny(text, "\x1b\t\u202e") || strings.Count(text, "\n") != 3 {
		t.Errorf("%q", text)
	}
}
