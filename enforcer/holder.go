package enforcer

import (
	"context"
	"reflect"
	"strings"
	"time"

	"countersign/enforcer/credential"
)

// A holder's leases end with the holder: its last session, its idleness, or
// the policy that gave it the credential.

// endIdleHolders ends the leases that nobody uses: the stateless era has no
// sessions whose end would tell.
func (e *Enforcer) endIdleHolders(ctx context.Context) {
	e.Credentials.EndWhere(ctx, func(l credential.LeaseInfo) bool {
		return l.Uses == 0 && e.Now().Sub(l.LastUsed) > holderIdle
	})
}

// holderIdle is how long a holder keeps a lease that it does not use.
const holderIdle = 5 * time.Minute

// endHolder ends the leases of an owner whose last session has ended.
func (e *Enforcer) endHolder(ctx context.Context, owner string) {
	if e.Credentials == nil || e.session.has(owner) {
		return
	}
	e.Credentials.EndWhere(ctx, func(l credential.LeaseInfo) bool { return strings.HasPrefix(l.Holder, owner+"|") })
}

// withdraw ends the leases of credentials that the next policy no longer
// defines as they were.
func (e *Enforcer) withdraw(old, next *force) {
	if e.Credentials == nil {
		return
	}
	gone := map[string]bool{} // ends of holders: |server|credential
	for _, s := range old.policy.Servers() {
		for name, was := range s.Credentials {
			if now, ok := next.credential(s.Name, name); !ok || !reflect.DeepEqual(was, now) {
				gone["|"+s.Name+"|"+name] = true
			}
		}
	}
	if len(gone) == 0 {
		return
	}
	e.retired.Go(func() {
		e.Credentials.EndWhere(context.Background(), func(l credential.LeaseInfo) bool {
			for end := range gone {
				if strings.HasSuffix(l.Holder, end) {
					return true
				}
			}
			return false
		})
	})
}
