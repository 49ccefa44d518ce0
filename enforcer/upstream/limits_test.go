package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Another bound on messages needs no other upstream: the process goes on.
func TestSetLimits(t *testing.T) {
	spawned := open(t, "mirror")
	remote := against(t, HTTPConfig{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,"result":{"x":%q}}`, strings.Repeat("x", 4000))
	})
	call := request(fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"x","params":{%s,"a":%q}}`, modernMeta, strings.Repeat("x", 4000)))
	before := mirror(t, spawned, call).Result.PID
	for _, u := range []Upstream{spawned, remote} {
		u.SetLimits(10_000, 0)
		if _, err := answer(t, u, call); err != nil {
			t.Error(err)
		}
	}
	if after := mirror(t, spawned, call).Result.PID; after != before {
		t.Errorf("process %d became %d", before, after)
	}
	for _, u := range []Upstream{spawned, remote} {
		u.SetLimits(1000, 0)
		if _, err := answer(t, u, call); !errors.Is(err, ErrTooLarge) || errors.Is(err, ErrNotSent) {
			t.Errorf("beyond the bound: %v", err)
		}
		u.SetLimits(0, 0) // what it is by itself
		if _, err := answer(t, u, call); err != nil {
			t.Error(err)
		}
	}
}
