package credential

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/api"
)

// once sends each request once. net/http repeats a GET by itself when a kept
// connection breaks before an answer, and a GET that mints would mint twice.
type once struct{ http.RoundTripper }

func (o once) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet && (r.Body == nil || r.Body == http.NoBody) {
		r = r.Clone(r.Context())
		// A body that cannot be had again, though it is empty and not sent, is what
		// keeps the transport from it.
		r.Body, r.GetBody = io.NopCloser(strings.NewReader("")), nil
	}
	return o.RoundTripper.RoundTrip(r)
}

// sentOnce is the operator's client, with requests that are sent once. One on a
// Unix socket stays as it is: its transport is its address.
func sentOnce(client *api.Client) (*api.Client, error) {
	if strings.HasPrefix(client.Address(), "unix:") {
		return client, nil
	}
	config := client.CloneConfig()
	config.HttpClient.Transport = once{config.HttpClient.Transport}
	wrapped, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("vault client: %w", err)
	}
	wrapped.SetHeaders(client.Headers())
	wrapped.ClearToken()
	return wrapped, nil
}
