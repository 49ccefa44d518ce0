package identity

import (
	"encoding/base64"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
)

// algorithms that a token may be signed with: asymmetric ones only, so that
// neither "none" nor a public key used as an HMAC secret passes.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// types of JWT that are access tokens or may serve as one (RFC 9068 section
// 2.1, RFC 8725 section 3.11). A logout token or a DPoP proof is none.
var types = []string{"", "jwt", "at+jwt", "application/at+jwt"}

type header struct {
	Alg string `json:"alg"`
	Kid string `json:"kid"`
	Typ string `json:"typ"`
}

// parse reads a compact JWS (RFC 7515 section 7.1) strictly, but does not
// verify it: JSON with a repeated name, invalid UTF-8 or trailing data could
// mean one thing here and another to whoever checks the signature.
func parse(token string) (header, map[string]any, *Error) {
	parts := strings.SplitN(token, ".", 4)
	if len(parts) != 3 {
		return header{}, nil, invalid("it is not a signed JWT of three parts")
	}
	var raw map[string]any
	if !decode(parts[0], &raw) {
		return header{}, nil, invalid("its header is not base64url of one JSON object")
	}
	h := header{text(raw, "alg"), text(raw, "kid"), text(raw, "typ")}
	if !slices.Contains(algorithms, h.Alg) {
		return h, nil, invalid("its signature algorithm is not one of %s", strings.Join(algorithms, ", "))
	}
	if _, there := raw["typ"]; there && h.Typ == "" || !slices.Contains(types, strings.ToLower(h.Typ)) {
		return h, nil, invalid("its typ is not JWT or at+jwt")
	}
	if _, there := raw["crit"]; there {
		return h, nil, invalid("its header lists critical extensions")
	}
	if _, there := raw["kid"]; there && !plain(h.Kid) {
		return h, nil, invalid("its kid is no plain string")
	}
	var claims map[string]any
	if !decode(parts[1], &claims) {
		return h, nil, invalid("its payload is not base64url of one JSON object")
	}
	return h, claims, nil
}

func decode(part string, into *map[string]any) bool {
	data, err := base64.RawURLEncoding.Strict().DecodeString(part)
	return err == nil && json.Unmarshal(data, into) == nil && *into != nil
}

// text is a claim that is a string, or "".
func text(claims map[string]any, name string) string {
	s, _ := claims[name].(string)
	return s
}

// date reads a NumericDate (RFC 7519 section 2): seconds, perhaps fractional.
func date(claims map[string]any, name string) (time.Time, bool) {
	n, ok := claims[name].(float64)
	if !ok || !(n > 0 && n < 1e11) {
		return time.Time{}, false
	}
	return time.Unix(int64(n), 0), true
}

// list reads a string or an array of strings; nil if it is neither.
func list(value any) []string {
	switch value := value.(type) {
	case string:
		return []string{value}
	case []any:
		out := make([]string, 0, len(value))
		for _, v := range value {
			s, ok := v.(string)
			if !ok {
				return nil
			}
			out = append(out, s)
		}
		return out
	}
	return nil
}

// denied reads email_verified, which some issuers send as a string.
func denied(value any) bool {
	s, isString := value.(string)
	return value == false || isString && !strings.EqualFold(s, "true")
}

// plain is a name that can stand in a log line, a key and a card.
func plain(s string) bool {
	return s != "" && len(s) <= 1024 && utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}
