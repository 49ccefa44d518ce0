package credential

import (
	"encoding/json"
	"testing"
)

// Whatever an issuer answers, how long its token lives is a number of seconds
// that a time can be made of.
func FuzzTokenAnswer(f *testing.F) {
	for _, s := range []string{
		`{"access_token":"abcdef","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":600}`,
		`{"expires_in":"3600"}`, `{"expires_in":1e11}`, `{"expires_in":-1}`, `{"expires_in":null}`, `{"expires_in":1e400}`, `{"expires_in":"x"}`, `{"expires_in":{}}`, `[]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var a tokenAnswer
		if json.Unmarshal(b, &a) == nil && (a.ExpiresIn > 1e12 || a.ExpiresIn < -1e12) {
			t.Errorf("%s: %d seconds", b, a.ExpiresIn)
		}
	})
}
