package witness

import (
	"bytes"
	"strings"
	"testing"
)

// What is accepted is written in the same way again, byte for byte.
func FuzzRequest(f *testing.F) {
	hash := "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"
	note := "prod-1/r_a\n3\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— prod-1/r_a Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
	for _, s := range []string{
		"", "old 0\n\n" + note, "old 2\n" + hash + hash + "\n" + note, "old 2\n" + strings.Repeat(hash, 64) + "\n" + note,
		"old -1\n\n" + note, "old 01\n\n" + note, "old 9223372036854775808\n\n" + note, "old 2\r\n" + hash + "\n" + note,
		"old 2\n" + strings.Replace(hash, "aw=", "ax=", 1) + "\n" + note, "old 2\nAAAA\n\n" + note, "\n\n", "old 1\n\n" + strings.Repeat("\n", 99),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parse(body)
		if err != nil {
			return
		}
		if again := r.encode(); !bytes.Equal(again, body) {
			t.Errorf("%q is read, and written as %q", body, again)
		}
		if len(r.proof) > maxProof {
			t.Errorf("%d lines of proof", len(r.proof))
		}
	})
}
