package enforcer

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"countersign/enforcer/wire"
)

// What is held for as long as a session or a stream lasts is small: a larger
// one is refused, gives back what it was counted as, and reaches nobody.
func TestWhatLastsIsSmall(t *testing.T) {
	var asked atomic.Int64
	g := newGate(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusAccepted)
	}), map[string]string{"rules/a.yaml": "- { id: all, server: echo, method: \"*\", effect: allow }\n"})
	pad := strings.Repeat("x", maxBeginning)
	for method, header := range map[string]http.Header{
		"initialize":           {},
		"subscriptions/listen": {"Mcp-Protocol-Version": {wire.ModernVersion}, "Mcp-Method": {"subscriptions/listen"}},
	} {
		meta := ""
		if len(header) > 0 {
			meta = `"_meta":{"` + wire.MetaVersion + `":"` + wire.ModernVersion + `"},"notifications":{},`
		}
		resp, body, err := g.post(t.Context(), []byte(`{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":{`+meta+`"pad":"`+pad+`"}}`), header)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), method+" is larger than 65536 bytes") {
			t.Errorf("%s: %d %s", method, resp.StatusCode, body)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d requests reached the server", n)
	}
	if n := g.room.requests.Used(); n != 0 {
		t.Errorf("%d bytes are still counted", n)
	}
}
