package credential_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"countersign/enforcer/credential"
	"countersign/fixtures/vault"
)

// Arguments choose what a holder's calls ask for, and each choice is a lease
// that stays: a caller who keeps choosing has no more of them at once for it.
func TestLeasesOfAHolderAreBounded(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		const most = 32
		ask := func(i int) (*credential.Lease, error) {
			spec := s.shared
			spec.Params = map[string]any{"cluster": fmt.Sprint(i)}
			return s.Acquire(t.Context(), "h1", "c_1", spec)
		}
		other, _, _ := s.acquire("h2", s.shared)
		defer s.release(other)
		first, err := ask(0)
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i < 200; i++ {
			l, err := ask(i)
			if err != nil {
				t.Fatal(err)
			}
			s.release(l)
			pass(time.Second)
			if n := s.db.count(); n > most+1 {
				t.Fatalf("%d users for two holders", n)
			}
		}
		if again, err := ask(199); err != nil || s.db.count() != most+1 {
			t.Errorf("the newest is not shared: %d users, %v", s.db.count(), err)
		} else {
			s.release(again)
		}
		s.works(s.render(first, "{{username}}"), s.render(first, "{{password}}"), true) // a call is in flight

		// All in use at once: no more, until one is given back.
		held := []*credential.Lease{first}
		for i := 1000; len(held) < most; i++ {
			l, err := ask(i)
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, l)
		}
		if _, err := ask(2000); !errors.Is(err, credential.ErrTooMany) {
			t.Errorf("got %v", err)
		}
		if l, err := ask(1000); err != nil { // one that is there
			t.Error(err)
		} else {
			s.release(l)
		}
		s.release(held[most-1])
		l, err := ask(2000)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range append(held, l) {
			s.release(l)
		}
	})
}

// While what a holder had cannot be taken back, it gets no more and more.
func TestLeasesThatCannotBeEndedAreBounded(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		s.v.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "revoke") {
				return false
			}
			w.WriteHeader(http.StatusInternalServerError)
			return true
		})
		var last error
		for i := range 200 {
			spec := s.shared
			spec.Params = map[string]any{"cluster": fmt.Sprint(i)}
			l, err := s.Acquire(t.Context(), "h1", "c_1", spec)
			if last = err; err == nil {
				s.release(l)
			}
			synctest.Wait()
		}
		if n := s.db.count(); n > 64 || !errors.Is(last, credential.ErrTooMany) {
			t.Errorf("%d users, and then %v", n, last)
		}
		s.v.Intercept(nil)
		pass(time.Minute)
		if _, err := s.Acquire(t.Context(), "h1", "c_1", s.shared); err != nil {
			t.Error(err)
		}
	})
}

// What a secret holds may be another's to write, as in KV. One of absurd size
// or depth is refused before the mask, which all calls share, learns of it.
func TestAbsurdSecretsAreRefused(t *testing.T) {
	many, deep, list := map[string]any{}, map[string]any{"x": "the-innermost"}, []any{}
	for i := range 10_000 {
		many[fmt.Sprint("field-", i)] = fmt.Sprint("the-value-", i)
		list = append(list, fmt.Sprint("the-value-", i))
	}
	for range 5_000 {
		deep = map[string]any{"x": deep, "y": "the-value-0"}
	}
	for name, c := range map[string]struct {
		data map[string]any
		err  string
	}{
		"many": {many, "more than 1000 fields"},
		"list": {map[string]any{"a": map[string]any{"b": list}}, "more than 1000 fields"},
		"deep": {deep, "more than 32 levels"},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, nil, func(t *testing.T, s *sim) {
				s.v.Mint(creds, vault.Role{Data: func() map[string]any { return c.data }})
				_, err := s.Acquire(t.Context(), "h1", "c_1", s.perCall)
				if !errors.Is(err, credential.ErrRefused) || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want %q", err, c.err)
				}
				if text, _ := s.mask.Text("the-value-0"); text != "the-value-0" {
					t.Error("the mask knows it")
				}
				synctest.Wait()
				if all := s.v.Leases(); len(all) != 0 {
					t.Errorf("left: %v", all)
				}
			})
		})
	}
}

// A token that cannot be used is not kept in the mask for ever.
func TestRefusedLoginsLeaveTheMask(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		const token = "some-batch-token"
		s.v.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "auth/jwt/login") {
				return false
			}
			fmt.Fprintf(w, `{"auth":{"client_token":%q,"accessor":"","lease_duration":3600}}`, token)
			return true
		})
		spec := s.perCall
		spec.Login = &credential.Login{Mount: "jwt", Role: "agents", Token: "the-caller's-token"}
		s.refused(spec, credential.ErrRefused, "token_type=service")
		if text, _ := s.mask.Text(token); text == token {
			t.Error("not masked while it may be under way")
		}
		pass(3 * time.Hour)
		_, _ = s.mask.Text(token) // has the mask look what is due
		synctest.Wait()
		if text, _ := s.mask.Text(token); text != token {
			t.Errorf("still in the mask: %s", text)
		}
	})
}

// A stop waits for a login that is under way: cut short, it would leave a token
// whose accessor nobody knows.
func TestCloseWaitsForACallersLogin(t *testing.T) {
	alone(t, func(t *testing.T, s *sim) {
		s.v.Policy("people", creds)
		s.v.Login("jwt", "people", time.Hour, time.Hour, func(map[string]any) (string, bool) { return "jwt-ann", true })
		s.open()
		hang := make(chan struct{})
		s.v.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "auth/jwt/login") {
				<-hang
			}
			return false
		})
		var calls sync.WaitGroup
		calls.Go(func() {
			spec := s.perCall
			spec.Login = &credential.Login{Mount: "jwt", Role: "agents", Token: "the-caller's-token"}
			if _, err := s.Acquire(t.Context(), "h1", "c_1", spec); err == nil {
				t.Error("minted while closing")
			}
		})
		synctest.Wait()
		calls.Go(s.close)
		synctest.Wait()
		close(hang)
		calls.Wait()
		synctest.Wait()
		s.tokens()
		s.files()
	})
}

// A holder's login is shared only by those whose tokens say the same of them.
func TestLoginsAreSharedByWhatTheTokenSays(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		s.v.Policy("people", creds)
		s.v.Login("jwt", "people", time.Hour, time.Hour, func(body map[string]any) (string, bool) {
			return "jwt-ann", body["jwt"] == "token-of-an-admin"
		})
		spec := func(token, says string) credential.Spec {
			c := s.shared
			c.Login = &credential.Login{Mount: "jwt", Role: "agents", Token: token, Says: says}
			return c
		}
		l, _, _ := s.acquire("h1", spec("token-of-an-admin", "admin"))
		defer s.release(l)
		same, _, _ := s.acquire("h1", spec("", "admin")) // whoever has a lease needs no token
		if same.Key != l.Key {
			t.Error("not shared")
		}
		s.release(same)
		s.refused(spec("token-of-no-admin", ""), credential.ErrRefused, "error validating token")
	})
}

func TestExchangedTokensAreSharedByWhatTheTokenSays(t *testing.T) {
	s := newSwap(t, startIssuer(t), nil).open()
	defer s.close()
	wide := s.of("alice")
	l, _ := s.get("h1", wide)
	narrow := s.of("alice")
	narrow.Exchange.Says = "scope: read"
	if other, _ := s.get("h1", narrow); other.Key == l.Key {
		t.Error("a token of a narrower scope shares the lease of a wider")
	}
	if same, _ := s.get("h1", narrow); same.Key == l.Key {
		t.Error("not the one that was minted for it")
	}
}

// A stop waits for a token that is under way: nothing of it is on disk, and the
// next start could not give it back.
func TestCloseWaitsForAnExchange(t *testing.T) {
	var s *swap
	t.Cleanup(func() { // when the issuer has stopped, and all its answers are given
		if all := s.issuer.Alive(); len(all) != 0 {
			t.Errorf("left: %d", len(all))
		}
	})
	s = newSwap(t, startIssuer(t), nil).open()
	asked, hang := make(chan struct{}), make(chan struct{})
	s.issuer.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			close(asked)
			<-hang
		}
		return false
	})
	spec := s.of("alice")
	var calls sync.WaitGroup
	calls.Go(func() {
		// It may come back: Close ends it all the same.
		_, _ = s.Acquire(t.Context(), "h1", "c_1", spec)
	})
	<-asked
	calls.Go(s.close)
	for { // until it is closing
		if _, err := s.Acquire(t.Context(), "h2", "c_2", credential.Spec{Name: "crm", Exchange: &credential.Exchange{Issuer: "https://nobody.example", Audience: []string{"crm"}}}); errors.Is(err, credential.ErrClosed) {
			break
		}
	}
	close(hang)
	calls.Wait()
	if n := s.issuer.Hits("/token"); n != 1 {
		t.Errorf("%d exchanges", n)
	}
}
