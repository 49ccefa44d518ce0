package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/oauthex"
)

// What a client does that has no token yet: the challenge leads to the
// endpoint's metadata, which must be about the URL that the client called (the
// official SDK refuses it otherwise), and a token for just that URL is good.
func TestFindingTheIssuer(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	p := serving(t, s, nil)
	endpoint := s.URL + "/mcp/probe"
	body := toolCall("echo", "x")

	a := p.ask("probe", "", body)
	challenges, err := oauthex.ParseWWWAuthenticate(a.header.Values("WWW-Authenticate"))
	if err != nil || len(challenges) != 1 || a.status != http.StatusUnauthorized {
		t.Fatalf("%d %v, %v", a.status, a.header, err)
	}
	meta, err := oauthex.GetProtectedResourceMetadata(t.Context(), challenges[0].Params["resource_metadata"], endpoint, http.DefaultClient)
	if err != nil || len(meta.AuthorizationServers) != 1 || meta.AuthorizationServers[0] != s.Issuer.URL {
		t.Fatalf("%+v, %v", meta, err)
	}
	if _, err := oauthex.GetProtectedResourceMetadata(t.Context(), s.URL+"/.well-known/oauth-protected-resource", s.URL, http.DefaultClient); err != nil {
		t.Error(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, challenges[0].Params["resource_metadata"], nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusNoContent || resp.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("a browser's script may not ask: %d %v, %v", resp.StatusCode, resp.Header, err)
	}
	for _, tc := range []struct {
		audience string
		good     bool
	}{
		{s.URL, true}, {s.URL + "/", true}, {endpoint, true},
		{s.URL + "/mcp/customers", false}, {s.URL + "/mcp", false}, {endpoint + "/", false},
	} {
		token, err := s.Token("alice", []string{"support"}, map[string]any{"aud": tc.audience})
		if err != nil {
			t.Fatal(err)
		}
		a := p.ask("probe", token, body)
		if good := a.status == http.StatusOK && a.text == "ran echo"; good != tc.good {
			t.Errorf("%s: %+v", tc.audience, a)
		}
	}
	// The endpoint for all servers is one more, and a token for it is good for
	// what it hands on.
	a, err = p.send(t.Context(), "", "", helloAll, toAll(""))
	if err != nil {
		t.Fatal(err)
	}
	if challenges, err = oauthex.ParseWWWAuthenticate(a.header.Values("WWW-Authenticate")); err != nil || len(challenges) != 1 {
		t.Fatalf("%v, %v", a.header, err)
	}
	if _, err := oauthex.GetProtectedResourceMetadata(t.Context(), challenges[0].Params["resource_metadata"], s.URL+"/mcp", http.DefaultClient); err != nil {
		t.Error(err)
	}
	legacyProbe(u, nil)
	for audience, good := range map[string]bool{s.URL: true, s.URL + "/mcp": true, endpoint: false} {
		token, err := s.Token("alice", []string{"support"}, map[string]any{"aud": audience})
		if err != nil {
			t.Fatal(err)
		}
		if !good {
			if a := p.all(t.Context(), "", token, helloAll); a.status != http.StatusUnauthorized {
				t.Errorf("%s: %+v", audience, a)
			}
			continue
		}
		if a := p.all(t.Context(), p.openAll(token), token, toolCall("probe__echo", "x")); a.text != "ran echo" {
			t.Errorf("%s: %+v", audience, a)
		}
	}
	p.kill()

	// An operator who chose an audience gets that one and no other; the
	// metadata stays about our URL, and our URL has no slash at its end.
	p = serving(t, s, map[string]string{"COUNTERSIGN_OIDC_AUDIENCE": "api://countersign", "COUNTERSIGN_PUBLIC_URL": s.URL + "/"})
	if _, err := oauthex.GetProtectedResourceMetadata(t.Context(), s.URL+"/.well-known/oauth-protected-resource/mcp/probe", endpoint, http.DefaultClient); err != nil {
		t.Error(err)
	}
	for audience, good := range map[string]bool{"api://countersign": true, s.URL: false, endpoint: false} {
		token, err := s.Token("alice", []string{"support"}, map[string]any{"aud": audience})
		if err != nil {
			t.Fatal(err)
		}
		if a := p.ask("probe", token, body); (a.text == "ran echo") != good || !good && !strings.Contains(a.header.Get("WWW-Authenticate"), "invalid_token") {
			t.Errorf("%s: %+v", audience, a)
		}
	}
}
