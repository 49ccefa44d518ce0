package enforcer

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The places of the matrix in what a spawned server writes, and each text on its
// standard error as well, which goes to the log.

const cellsSpawned = 340

// leakyShell is the server: $1 is the folder with what it answers. An id may be
// another than the client's.
const leakyShell = `while read -r l; do
	id=${l#*'"id":'}; id=${id%%[,\}]*}
	case "$l" in
	*'"initialize"'*) echo '{"jsonrpc":"2.0","id":'"$id"',"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"sh","version":"1"}}}';;
	*'"id"'*) cat "$1/err" >&2; sed 's/ID-HERE/'"$id"'/g' "$1/answer";;
	esac
done`

func TestPlaceMatrixOfASpawnedServer(t *testing.T) {
	t.Parallel()
	var all []cell
	for _, c := range cells(true) {
		post := !strings.HasPrefix(c.place.method, http.MethodGet) && c.place.method != "subscriptions/listen" && c.place.method != "initialize"
		if post && c.place.message != nil && !c.place.blocked && c.cut.breaks == nil && c.stream == c.place.stream {
			all = append(all, c)
		}
	}
	if len(all) != cellsSpawned {
		t.Errorf("%d cells, want %d", len(all), cellsSpawned)
	}
	dir := t.TempDir()
	script := filepath.Join(dir, "server.sh")
	if err := os.WriteFile(script, []byte(leakyShell), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newScene(t, false, false, map[string]string{"servers/echo.yaml": fmt.Sprintf("server: echo\ncommand: [sh, %q, %q]\nenv: { PATH: %q }\n", script, dir, os.Getenv("PATH"))})
	got := make([]came, len(all))
	for i, c := range all {
		s.number.Store(int64(i))
		for name, text := range map[string]string{"answer": c.lines(), "err": "error: " + strings.Join(c.texts(), "") + "\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got[i] = s.run(t, c, i+1)
	}
	s.record(t, got)
	for i, c := range all {
		t.Run(c.name(), func(t *testing.T) { c.check(t, got[i], false) })
	}
	if !strings.Contains(s.log.b.String(), "upstream stderr") {
		t.Error("nothing of standard error is in the log: this proves nothing")
	}
}

// lines is the cell as a spawned server writes it.
func (c cell) lines() string {
	text := strings.ReplaceAll(c.text("ID-HERE"), "\n", " ")
	if c.place.before {
		text += "\n" + fmt.Sprintf(honest, "ID-HERE")
	}
	return text + "\n"
}
