package signin_test

import (
	"testing"
	"time"

	"countersign/enforcer/approval/signin"
)

func TestOneHostIsOneHoweverManyAddressesItHas(t *testing.T) {
	l := signin.NewLimits(1, time.Minute)
	for _, c := range []struct {
		who string
		ok  bool
	}{{"2001:db8::1", true}, {"2001:db8::2", false}, {"2001:db8:0:1::1", true}, {"192.0.2.1", true}, {"192.0.2.2", true}, {"192.0.2.1", false}, {"::ffff:192.0.2.9", true}, {"::ffff:192.0.2.10", true}} {
		if l.Allow(c.who, noon) != c.ok {
			t.Errorf("%s: allowed %v, want %v", c.who, !c.ok, c.ok)
		}
	}
}
