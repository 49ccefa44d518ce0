package enforcer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"countersign/enforcer/mask"
	"countersign/enforcer/upstream"
	"countersign/rules"
)

// force is one policy in force with the upstreams that it names. It never
// changes after it is installed: an exchange loads it once and sees one policy
// from beginning to end.
type force struct {
	policy    *rules.Policy
	upstreams map[string]upstream.Upstream
}

// Install puts a verified policy in force, atomically. Upstreams whose
// definition did not change are kept, with their sessions; the others are made
// anew (nothing is dialled yet) and the old ones closed.
func (e *Enforcer) Install(p *rules.Policy, confirmed time.Time) {
	old := e.force.Load()
	e.processes.SetMax(p.Settings().MaxProcesses)
	next := &force{policy: p, upstreams: map[string]upstream.Upstream{}}
	for _, s := range p.Servers() {
		if old != nil {
			if was, ok := old.policy.Server(s.Name); ok && sameUpstream(was, s) {
				next.upstreams[s.Name] = old.upstreams[s.Name]
				next.upstreams[s.Name].SetLimits(int(p.Settings().MaxResponse), p.Settings().MaxDepth)
				continue
			}
		}
		next.upstreams[s.Name] = NewUpstream(s, p.Settings(), upstream.HTTPConfig{
			TLS: upstream.TLSConfig{Dir: e.Certificates}, Now: e.Now,
			Warn: func(text string) {
				e.Log.Warn("upstream", slog.String("server", s.Name), slog.String("policy", fmt.Sprintf("%s:%d", s.File, s.Line)), slog.String("err", text))
			},
		}, upstream.StdioConfig{
			Pool: e.processes, Now: e.Now, Private: e.Private,
			Warn: func(text string) { e.Log.Warn("upstream", slog.String("server", s.Name), slog.String("err", text)) },
			Room: e.room.answers, ToolsChanged: func() { e.pins.changed(s.Name) },
			Stderr: func(line string) {
				e.Log.Info("upstream stderr", slog.String("server", s.Name), slog.String("line", line))
			},
		})
	}
	e.keepQuotas(p)
	e.room.resize(p.Settings())
	configure(e.Mask, p, e.pseudonymKey())
	if old == nil || old.policy != p { // nobody decides by it yet
		p.FindSecrets(finder(func() *mask.Mask { return e.Mask }))
	}
	e.Confirm(confirmed)
	e.force.Store(next)
	e.turns.turn()
	if old != nil {
		// Calls under way may hold an upstream for long; a policy does not wait
		// for them.
		e.leaving.Store(old, nil)
		e.retired.Go(func() {
			old.retire(e.lifetime, next)
			e.leaving.Delete(old)
		})
		e.withdraw(old, next)
	}
}

// sameUpstream compares all that the connection depends on; credentials and
// the place in the file do not count.
func sameUpstream(a, b rules.Server) bool {
	for _, s := range []*rules.Server{&a, &b} {
		s.Credential, s.Credentials, s.SecretsInArgs, s.File, s.Line = "", nil, "", "", 0
	}
	return reflect.DeepEqual(a, b)
}

// NewUpstream is a server as the policy defines it; nothing is dialled or
// started yet. Of remote and spawned, what the policy does not say is taken: the
// operator's folder of certificates, clocks, logs, what is shared with others.
func NewUpstream(s rules.Server, set rules.Settings, remote upstream.HTTPConfig, spawned upstream.StdioConfig) upstream.Upstream {
	if s.URL != "" {
		remote.URL, remote.Proxy, remote.Timeout, remote.Timeouts = s.URL, s.Proxy, s.Timeout, upstream.Timeouts(s.Timeouts)
		remote.TLS.CA, remote.TLS.CAFiles, remote.TLS.Cert, remote.TLS.Key, remote.TLS.Name = s.TLS.CA, s.TLS.CAFiles, s.TLS.Cert, s.TLS.Key, s.TLS.Name
		remote.MaxMessage = int(set.MaxResponse)
		return upstream.HTTP(remote)
	}
	spawned.Command, spawned.Env, spawned.Dir, spawned.Timeout, spawned.Idle = s.Command, environ(s.Env), s.Dir, s.Timeout, s.Timeouts.Idle
	spawned.MaxMessage, spawned.MaxDepth = int(set.MaxResponse), set.MaxDepth
	spawned.MaxProcesses, spawned.Resources = s.Processes, upstream.Resources(s.Resources)
	return upstream.Stdio(spawned)
}

// environ is a spawned server's whole environment, in a fixed order.
func environ(vars map[string]string) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		out = append(out, k+"="+vars[k])
	}
	return out
}

// closeUpstreams closes those that keep does not hold.
func (f *force) closeUpstreams(keep *force) {
	for name, up := range f.upstreams {
		if keep != nil && keep.upstreams[name] == up {
			continue
		}
		// What a close leaves behind is logged by the upstream; there is nobody to tell.
		_ = up.Close()
	}
}

// LeaseEnded ends every spawned server that still holds the lease's values.
func (e *Enforcer) LeaseEnded(key string) {
	if f := e.force.Load(); f != nil {
		f.endKey(key)
	}
	e.leaving.Range(func(f, _ any) bool { // upstreams that finish calls of an earlier policy
		f.(*force).endKey(key)
		return true
	})
}

func (f *force) endKey(key string) {
	for _, up := range f.upstreams {
		up.EndKey(key)
	}
}

// retire lets calls under way finish at the upstreams that keep does not hold,
// for as long as ctx and their own patience last, and closes them.
func (f *force) retire(ctx context.Context, keep *force) {
	var all sync.WaitGroup
	for name, up := range f.upstreams {
		if keep.upstreams[name] != up {
			all.Go(func() { _ = up.Retire(ctx) }) // as closeUpstreams: there is nobody to tell
		}
	}
	all.Wait()
}

func (f *force) credential(server, name string) (rules.Credential, bool) {
	s, ok := f.policy.Server(server)
	if !ok {
		return rules.Credential{}, false
	}
	c, ok := s.Credentials[name]
	return c, ok
}

// Policy is the policy in force, nil if there is none.
func (e *Enforcer) Policy() *rules.Policy {
	if f := e.force.Load(); f != nil {
		return f.policy
	}
	return nil
}

// Confirm notes that a fetch saw the policy's tip at t.
func (e *Enforcer) Confirm(t time.Time) { e.policy.Confirm(e.Now(), t) }

// Rejected notes why the newest commit is not in force, for readiness and
// metrics; "" once all is well. It tells whether that is news.
func (e *Enforcer) Rejected(reason string) bool { return e.policy.Reject(reason) }

// current is the policy in force, or why there is none.
func (e *Enforcer) current() (*force, error) {
	f := e.force.Load()
	if f == nil {
		return nil, errors.New("no policy is in force: see /readyz")
	}
	if err := e.policy.Check(e.Now(), e.PolicyMaxAge); err != nil {
		return nil, err
	}
	return f, nil
}
