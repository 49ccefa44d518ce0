package identity

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// WellKnown is the path under which RFC 9728 section 3 puts metadata.
const WellKnown = "/.well-known/oauth-protected-resource"

// MetadataURL is where the metadata of a resource is found: the well-known
// path goes between the host and the resource's own path.
func MetadataURL(resource string) (string, error) {
	u, err := url.Parse(resource)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return "", errors.New("identity: the resource is not a plain URL")
	}
	u.Path = WellKnown + strings.TrimSuffix(u.Path, "/")
	u.RawPath = ""
	return u.String(), nil
}

// Metadata serves the description of every resource below base (RFC 9728
// section 2): our own URLs, never an upstream's. The path after WellKnown names
// the resource, and the document repeats it, since a client has to refuse one
// that does not (section 3.3). Where exists says no, there is none. Anyone may
// read it, browsers' scripts too.
func Metadata(base string, issuers []string, exists func(path string) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		path := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, WellKnown), "/")
		switch {
		case r.Method == http.MethodOptions:
			w.Header().Set("Access-Control-Allow-Methods", "GET, HEAD")
			w.Header().Set("Access-Control-Allow-Headers", "MCP-Protocol-Version")
			w.WriteHeader(http.StatusNoContent)
			return
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD, OPTIONS")
			http.Error(w, "only GET", http.StatusMethodNotAllowed)
			return
		case !exists(path):
			http.Error(w, "no such resource", http.StatusNotFound)
			return
		}
		body, err := json.Marshal(map[string]any{
			"resource":                 base + path,
			"authorization_servers":    issuers,
			"bearer_methods_supported": []string{"header"},
		})
		if err != nil { // strings always marshal
			http.Error(w, "no metadata", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Header().Set("Cache-Control", "public, max-age=300")
		if r.Method == http.MethodGet {
			if _, err := w.Write(body); err != nil {
				return // the client left
			}
		}
	})
}

// Challenge is the WWW-Authenticate value for an error of Verify (RFC 6750
// section 3, RFC 9728 section 5.1). Which check failed is for the record, not
// for whoever is trying tokens.
func Challenge(metadataURL string, err error) string {
	resource := "resource_metadata=" + quote(metadataURL)
	var e *Error
	if errors.As(err, &e) && e.Code != InvalidToken {
		return "Bearer " + resource // RFC 6750 3.1: no error code where no token was found bad
	}
	return `Bearer error="invalid_token", error_description="The access token is invalid, expired, or meant for another resource", ` + resource
}

// quote makes a quoted-string (RFC 9110 section 5.6.4), leaving out what no
// header may hold.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(s) {
		if c == '"' || c == '\\' {
			b.WriteByte('\\')
		}
		if c >= 0x20 && c < 0x7f {
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
