package enforcer

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"countersign/enforcer/mask"
	"countersign/enforcer/upstream"
	"countersign/enforcer/wire"
)

// A server that refuses without a message: its status goes on to a client of
// the stateless era, which tells by it what it talks to, and to no other.
func TestAStatusWithoutAMessage(t *testing.T) {
	const discover = `{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{"` + wire.MetaVersion + `":"2026-07-28"}}}`
	const list = `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
	for _, c := range []struct {
		body         string
		status, want int
	}{
		{discover, http.StatusBadRequest, http.StatusBadRequest},
		{discover, http.StatusNotFound, http.StatusNotFound},
		{discover, http.StatusUnauthorized, http.StatusOK}, // between the server and our credential
		{discover, http.StatusForbidden, http.StatusOK},
		{discover, http.StatusBadGateway, http.StatusOK},
		{list, http.StatusBadRequest, http.StatusOK}, // clients drop their session on less
		{list, http.StatusNotFound, http.StatusOK},
	} {
		t.Run(fmt.Sprint(c.status, c.body), func(t *testing.T) {
			m, err := wire.Parse([]byte(c.body), wire.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "http://gate.example/mcp/x", nil)
			x := &exchange{e: &Enforcer{Config: Config{Mask: mask.New(mask.Options{})}}, w: w, r: r, msg: m, out: outlet{w: w, r: r}, id: "c_1"}
			x.tell(x.upstreamFailed(&upstream.StatusError{Status: c.status, Type: "text/plain"}), "blocked")
			if w.Code != c.want || !strings.Contains(w.Body.String(), `{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"blocked`) {
				t.Errorf("got %d %s, want %d", w.Code, w.Body, c.want)
			}
		})
	}
}
