package enforcer

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"countersign/enforcer/freeze"
)

// serveReady answers 200 when every call could be served, 503 otherwise, and
// says in either case how each part stands:
//
//	{"ready": true, "policy": "3f9c2e1…", "checks": {"policy": "ok", "journal": "ok", …}}
//
// A rejected policy commit does not make it unready (the last good policy is
// in force), but it is said, under "policy_rejected". Nor does a freeze of
// everything, which is said under "frozen".
func (e *Enforcer) serveReady(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
	defer cancel()
	checks, ready := map[string]string{}, true
	check := func(name string, err error) {
		checks[name] = "ok"
		if err != nil {
			text, _ := e.Mask.Text(err.Error())
			checks[name], ready = text, false
		}
	}
	f, err := e.current()
	check("policy", err)
	check("journal", e.Journal.Err())
	check("freezes", e.Freezes.Err())
	for name, fn := range e.Ready {
		check(name, fn(ctx))
	}
	out := map[string]any{"ready": ready, "checks": checks}
	if f != nil {
		out["policy"] = f.policy.Commit()
	}
	for _, f := range e.Freezes.List() {
		if f.All {
			out["frozen"], _ = e.Mask.Text("everything is " + (&freeze.Stopped{Freeze: f}).Error())
		}
	}
	if why := e.policy.Rejected(); why != "" {
		out["policy_rejected"], _ = e.Mask.Text(why)
	}
	w.Header().Set("Content-Type", "application/json")
	if !ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(out); err != nil {
		e.Log.Debug("readiness answer not delivered", "err", err)
	}
}
