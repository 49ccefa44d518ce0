package credential

import (
	"encoding/json"
	"slices"
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

// CallerTokens are those of callers that are still held; none, once their mints
// are over.
func (m *Minter) CallerTokens() (held []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.all {
		held = append(held, e.callerToken)
		if e.spec.Login != nil {
			held = append(held, e.spec.Login.Token)
		}
		if e.spec.Exchange != nil {
			held = append(held, e.spec.Exchange.Token)
		}
	}
	return slices.DeleteFunc(held, func(token string) bool { return token == "" })
}
