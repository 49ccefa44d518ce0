package gitsync

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	gitfile "github.com/go-git/go-git/v5/plumbing/transport/file"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// Auth says how to prove who we are to a Git host, and how to know the host.
// Which part is used follows from the URL: SSH takes the key and the known
// hosts, HTTP(S) the token or the password, a file path nothing.
type Auth struct {
	SSHKeyPEM  []byte // OpenSSH or PKCS#8 private key, without a passphrase
	KnownHosts []byte // an OpenSSH known_hosts file; without it SSH is refused
	Username   string // for HTTP; "x-access-token" if empty, which GitHub and others take with a token
	// Token gives the password or token for HTTP, asked for at every contact.
	// A fixed one is func(context.Context) (string, error) { return t, nil }.
	Token func(context.Context) (string, error)
	TLS   *tls.Config // for HTTPS: a private certificate authority; nil is the system's
}

// remote is a Git repository elsewhere.
type remote struct {
	url  string // never with a password in it
	ep   *transport.Endpoint
	auth Auth
	tr   transport.Transport
	ssh  *hostKnown // set for SSH
	// turn is held by the one contact under way, until its goroutine is really
	// gone: an SSH handshake with a host that stays silent cannot be
	// interrupted, and must not pile up.
	turn chan struct{}
}

func newRemote(raw string, auth Auth) (*remote, error) {
	if raw == "" {
		return nil, errors.New("no URL given for the Git repository")
	}
	ep, err := endpoint(raw)
	if err != nil {
		return nil, err
	}
	r := &remote{url: raw, ep: ep, auth: auth, turn: make(chan struct{}, 1)}
	switch ep.Protocol {
	case "file":
		r.tr = gitfile.DefaultClient
	case "http", "https":
		if ep.Protocol == "http" && auth.Token != nil && !loopback(ep.Host) {
			return nil, fmt.Errorf("%s: a token would cross the network in the clear: use https", raw)
		}
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = auth.TLS
		t.ResponseHeaderTimeout = time.Minute
		// A redirect could lead anywhere, with or without the token: the
		// operator writes the URL that is meant.
		r.tr = githttp.NewClientWithOptions(&http.Client{Transport: t}, &githttp.ClientOptions{RedirectPolicy: githttp.NoFollowRedirects})
	case "ssh":
		if r.ssh, err = newHostKnown(ep, auth); err != nil {
			return nil, fmt.Errorf("%s: %w", raw, err)
		}
		// Hostname and Port of the account's ssh_config apply, as with stock Git;
		// known hosts are ours alone.
		r.tr = gitssh.DefaultClient
	default:
		return nil, fmt.Errorf("%s: Git over %q is not supported: use https, ssh or file", raw, ep.Protocol)
	}
	return r, nil
}

// endpoint parses the URL of a Git repository. No error shows the URL before it
// is known that there is no secret in it, and HTTP takes no user at all: a
// token alone is often written as the user's name.
func endpoint(raw string) (*transport.Endpoint, error) {
	ep, err := transport.NewEndpoint(raw)
	if err != nil {
		return nil, errors.New("the URL of the Git repository cannot be parsed; it is not shown, since it may hold a token (which belongs into …_GIT_TOKEN)")
	}
	web := ep.Protocol == "http" || ep.Protocol == "https"
	scheme, rest, _ := strings.Cut(raw, ":")
	switch s := strings.ToLower(scheme); {
	case web && (ep.User != "" || ep.Password != "" || hasUser(raw)):
		return nil, fmt.Errorf("the URL of the Git repository at %s carries a user or a token, and URLs are logged: put the token in …_GIT_TOKEN, and take it out of the URL", ep.Host)
	case !web && (s == "http" || s == "https") && !strings.HasPrefix(rest, "/"), web && ep.Host == "":
		return nil, fmt.Errorf("the URL of the Git repository has no host after %q: it is %s://host/path", scheme+":", s)
	case ep.Password != "" || ep.Protocol == "ssh" && strings.Contains(ep.User, ":"):
		return nil, fmt.Errorf("the URL of the Git repository at %s carries a password: it has no use there, and URLs are logged", ep.Host)
	}
	return ep, nil
}

// hasUser finds an empty user, too.
func hasUser(raw string) bool {
	u, err := url.Parse(raw)
	return err != nil || u.User != nil
}

// Host is the host that a repository's URL leads to, in lower case, with the
// port where it is not the protocol's own; "" for a file, and for what cannot
// be parsed. It is for comparing: a credential that one host gave out is for
// that host alone.
func Host(raw string) string {
	ep, err := endpoint(raw)
	if err != nil || ep.Protocol == "file" {
		return ""
	}
	host := strings.ToLower(ep.Host)
	if ep.Port == 0 || ep.Port == map[string]int{"http": 80, "https": 443, "ssh": 22}[ep.Protocol] {
		return host
	}
	return fmt.Sprintf("%s:%d", host, ep.Port)
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

// method builds what go-git authenticates with, asking for a fresh token.
func (r *remote) method(ctx context.Context) (transport.AuthMethod, error) {
	switch {
	case r.ssh != nil:
		return r.ssh, nil
	case r.auth.Token != nil && strings.HasPrefix(r.ep.Protocol, "http"):
		token, err := r.auth.Token(ctx)
		if err != nil {
			return nil, fmt.Errorf("no token for %s: %w", r.url, err)
		}
		user := r.auth.Username
		if user == "" {
			user = "x-access-token"
		}
		return &githttp.BasicAuth{Username: user, Password: token}, nil
	}
	return nil, nil
}

// hostKnown is an SSH identity that talks to known hosts only. go-git's own
// falls back to the account's known_hosts and agent; this one never does.
type hostKnown struct {
	user   string
	signer ssh.Signer
	check  ssh.HostKeyCallback
	algos  []string
}

func newHostKnown(ep *transport.Endpoint, auth Auth) (*hostKnown, error) {
	if len(auth.KnownHosts) == 0 {
		return nil, errors.New("no known hosts given: without them any host could pose as this one (ssh-keyscan prints the lines; compare them with what the host publishes)")
	}
	if len(auth.SSHKeyPEM) == 0 {
		return nil, errors.New("no SSH private key given")
	}
	signer, err := ssh.ParsePrivateKey(auth.SSHKeyPEM)
	if err != nil {
		return nil, fmt.Errorf("the SSH private key cannot be read: %w", err)
	}
	// The parser of known hosts takes files only.
	f, err := os.CreateTemp("", "known_hosts")
	if err != nil {
		return nil, err
	}
	_, err = f.Write(auth.KnownHosts)
	err = errors.Join(err, f.Close())
	var check ssh.HostKeyCallback
	if err == nil {
		check, err = knownhosts.New(f.Name())
	}
	if err = errors.Join(err, os.Remove(f.Name())); err != nil {
		return nil, fmt.Errorf("the known hosts cannot be read: %w", err)
	}
	user := ep.User
	if user == "" {
		user = "git"
	}
	port := ep.Port
	if port == 0 {
		port = 22
	}
	h := &hostKnown{user: user, signer: signer, check: check}
	h.algos, err = hostKeyAlgorithms(check, net.JoinHostPort(strings.Trim(ep.Host, "[]"), fmt.Sprint(port)))
	return h, err
}

// hostKeyAlgorithms asks for the kinds of key that are known for the host:
// otherwise the host may offer another kind, and a good host looks like an
// impostor. The known keys are learned by offering one that cannot match.
func hostKeyAlgorithms(check ssh.HostKeyCallback, addr string) ([]string, error) {
	err := check(addr, &net.TCPAddr{IP: net.IPv4zero}, noKey{})
	var ke *knownhosts.KeyError
	if !errors.As(err, &ke) || len(ke.Want) == 0 {
		return nil, fmt.Errorf("the known hosts have no key for %s", knownhosts.Normalize(addr))
	}
	var algos []string
	for _, k := range ke.Want {
		switch t := k.Key.Type(); t {
		case ssh.KeyAlgoRSA:
			algos = append(algos, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		default:
			algos = append(algos, t)
		}
	}
	return algos, nil
}

type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("not a key") }

// Name is part of go-git's interface.
func (h *hostKnown) Name() string { return "ssh-public-keys" }

// String is part of go-git's interface; it shows no secret.
func (h *hostKnown) String() string { return "user: " + h.user }

// ClientConfig is part of go-git's interface.
func (h *hostKnown) ClientConfig() (*ssh.ClientConfig, error) {
	return &ssh.ClientConfig{
		User:              h.user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(h.signer)},
		HostKeyCallback:   h.check,
		HostKeyAlgorithms: h.algos,
		Timeout:           30 * time.Second,
	}, nil
}
