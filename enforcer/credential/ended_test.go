package credential_test

import (
	"net/http"
	"strings"
	"testing"
)

// A Vault that was killed while it revoked a token knows its accessor and not
// the token any more. It ends the token itself; asked again and again, it would
// say no, and so would every stop and every start.
func TestATokenThatVaultEndsItself(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		l, user, password := s.acquire("h1", s.perCall)
		s.v.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/revoke-accessor") {
				return false
			}
			http.Error(w, `{"errors":["1 error occurred:\n\t* token not found\n\n"]}`, http.StatusBadRequest)
			return true
		})
		if err := s.Release(t.Context(), l); err != nil {
			t.Error(err)
		}
		s.works(user, password, false)
		s.want("mint", "revoke")
	})
}
