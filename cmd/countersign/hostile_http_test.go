package main

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// rawRequest is what is written to the socket, where no HTTP client would do.
type rawRequest struct {
	name string
	text string // with LF for CRLF; ${HOST}, ${AUTH} (all headers of an honest call) and ${CALL} filled in
	// status of the one answer, after which the connection is closed; words of it
	status int
	words  string
	ran    bool // the call itself was honest, and ran
}

const (
	honest   = "POST /mcp/probe HTTP/1.1\nHost: ${HOST}\n${AUTH}"
	smuggled = "POST /mcp/probe HTTP/1.1\nHost: ${HOST}\n${AUTH}Content-Length: 128\n\n${SMUGGLED}"
)

// rawRequests are refused, or answered and then cut off: nothing behind the
// first request of such a connection is ever read as one.
var rawRequests = []rawRequest{
	{"both Content-Length and Transfer-Encoding, a call behind", honest + "Content-Length: 5\nTransfer-Encoding: chunked\n\n${CHUNKED}" + smuggled, 200, "ran echo", true},
	{"both, on a request for the enforcer's health, a call behind", "GET /healthz HTTP/1.1\nHost: ${HOST}\nContent-Length: 5\nTransfer-Encoding: chunked\n\n${CHUNKED}" + smuggled, 200, "ok", false},
	{"both, and no token, a call behind", "POST /mcp/probe HTTP/1.1\nHost: ${HOST}\nContent-Length: 5\nTransfer-Encoding: chunked\n\n${CHUNKED}" + smuggled, 401, "a valid bearer token for this resource is needed", false},
	{"Transfer-Encoding twice", honest + "Transfer-Encoding: chunked\nTransfer-Encoding: identity\n\n${CHUNKED}" + smuggled, 501, "", false},
	{"an unknown Transfer-Encoding", honest + "Transfer-Encoding: xchunked\n\n${CHUNKED}" + smuggled, 501, "", false},
	{"Transfer-Encoding gzip, chunked", honest + "Transfer-Encoding: gzip, chunked\n\n${CHUNKED}" + smuggled, 501, "", false},
	{"a blank before the colon", honest + "Transfer-Encoding : chunked\n\n${CHUNKED}" + smuggled, 400, "", false},
	{"two lengths that differ", honest + "Content-Length: 128\nContent-Length: 3\n\n${CALL}" + smuggled, 400, "", false},
	{"a length with a plus", honest + "Content-Length: +128\n\n${CALL}" + smuggled, 400, "", false},
	{"a negative length", honest + "Content-Length: -1\n\n" + smuggled, 400, "", false},
	{"a chunk size that is no number", honest + "Transfer-Encoding: chunked\n\n5;x=1\nhello\nzz\n" + smuggled, 400, "the request's body cannot be read: invalid byte in chunk length", false},
	{"a chunk longer than it says", honest + "Transfer-Encoding: chunked\n\n2\n{}garbage\n0\n\n" + smuggled, 400, "the request's body cannot be read: malformed chunked encoding", false},
	{"a chunk size of 2^64", honest + "Transfer-Encoding: chunked\n\n10000000000000000\n" + smuggled, 400, "the request's body cannot be read: http chunk length too large", false},
	{"a body cut short", honest + "Content-Length: 9000\n\n${CALL}", 0, "", false},
	{"1 GB announced", honest + "Content-Length: 1073741824\n\n", 400, "the request is larger than 4194304 bytes, the limit of this policy", false},
	{"1 GB announced, and asked whether it may be sent", honest + "Content-Length: 1073741824\nExpect: 100-continue\n\n", 400, "the request is larger than 4194304 bytes, the limit of this policy", false},
	{"headers of 100 KB", honest + "X-Large: " + strings.Repeat("x", 100<<10) + "\n\n", 431, "", false},
	{"ten thousand headers", honest + strings.Repeat("X-Many: x\n", 10_000) + "\n", 431, "", false},
	{"a control character in a header", honest + "Mcp-Name: ech\x01o\nContent-Length: 128\n\n${CALL}", 400, "", false},
	{"NUL in a header", honest + "Mcp-Method: tools/call\x00\nContent-Length: 128\n\n${CALL}", 400, "", false},
	{"a line break inside a header", honest + "X-A: b\n\rMcp-Name: risky\n\n", 400, "", false},
	{"no Host", "POST /mcp/probe HTTP/1.1\n${AUTH}Content-Length: 128\n\n${CALL}", 400, "", false},
	{"two Hosts", "POST /mcp/probe HTTP/1.1\nHost: ${HOST}\nHost: evil.example\n${AUTH}Content-Length: 128\n\n${CALL}", 400, "", false},
	{"another Host in the request line", "POST http://evil.example/mcp/probe HTTP/1.1\nHost: ${HOST}\nConnection: close\n${AUTH}Content-Length: 128\n\n${CALL}", 403, `host \"evil.example\" is not served here`, false},
	{"HTTP/1.0 with chunks", "POST /mcp/probe HTTP/1.0\nHost: ${HOST}\n${AUTH}Transfer-Encoding: chunked\n\n${CHUNKED}", 400, "a message must be a JSON object", false},
	{"HTTP/0.9", "POST /mcp/probe\n\n", 400, "", false},
	{"a TLS handshake on a port without TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "", false},
}

// Over a raw socket: each is answered once or not at all, nothing behind it
// runs, and the upstream hears of none but an honest call.
func (p *program) hostileHTTP(t *testing.T, u *probe, token string) {
	host := strings.TrimPrefix(p.stage.URL, "http://")
	auth := "Authorization: Bearer " + token + "\nContent-Type: application/json\nAccept: application/json\n"
	pad := func(call string) string { return call + strings.Repeat(" ", 128-len(call)) }
	call, bad := pad(toolCall("echo", "x")), pad(toolCall("echo", "smuggled"))
	chunked := strconv.FormatInt(int64(len(call)), 16) + "\n" + call + "\n0\n\n"
	fill := strings.NewReplacer("\n", "\r\n", "${HOST}", host, "${AUTH}", strings.ReplaceAll(auth, "\n", "\r\n"),
		"${CHUNKED}", strings.ReplaceAll(chunked, "\n", "\r\n"), "${CALL}", call, "${SMUGGLED}", bad)
	for _, r := range rawRequests {
		t.Run(r.name, func(t *testing.T) {
			before := u.requests()
			conn, err := net.Dial("tcp", host)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			text := fill.Replace(r.text)
			go func() {
				// The other side may stop reading: what matters is what it answers.
				_, _ = io.WriteString(conn, text)
				if c, ok := conn.(*net.TCPConn); ok && (r.status == 0 || !strings.HasPrefix(text, "POST /mcp/probe HTTP/1.1")) {
					_ = c.CloseWrite()
				}
			}()
			in := bufio.NewReader(conn)
			resp, err := http.ReadResponse(in, nil)
			switch {
			case r.status == 0 && err == nil && resp.StatusCode < 400:
				t.Errorf("answered %d", resp.StatusCode)
			case r.status == 0:
			case err != nil:
				t.Fatalf("no answer: %v", err)
			default:
				body, err := io.ReadAll(resp.Body)
				if err != nil && !reset(err) || resp.StatusCode != r.status || !strings.Contains(string(body), r.words) {
					t.Errorf("got %d %q, %v; want %d %q", resp.StatusCode, body, err, r.status, r.words)
				}
				if rest, err := io.ReadAll(in); err != nil && !reset(err) || len(rest) > 0 {
					t.Errorf("the connection goes on: %q, %v", rest, err)
				}
			}
			want := before
			if r.ran {
				want++
			}
			if u.requests() != want {
				t.Errorf("the upstream was contacted %d times, want %d", u.requests()-before, want-before)
			}
		})
	}
}

// reset tells whether the other side has closed with our bytes unread.
func reset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && !op.Timeout()
}

// A sender that takes its time over the headers is cut off, without an answer
// and without being heard of behind.
func TestSlowHeaders(t *testing.T) {
	t.Parallel()
	s := httpServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("half a request was served") }), slog.New(slog.DiscardHandler))
	if s.ReadHeaderTimeout <= 0 || s.ReadHeaderTimeout > 10*time.Second || s.WriteTimeout != 0 {
		t.Errorf("headers may take %s, answers %s", s.ReadHeaderTimeout, s.WriteTimeout)
	}
	s.ReadHeaderTimeout = 50 * time.Millisecond
	front := httptest.NewUnstartedServer(s.Handler)
	front.Config = s
	front.Start()
	t.Cleanup(front.Close)
	conn, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "POST /mcp/probe HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); len(b) > 0 && !strings.HasPrefix(string(b), "HTTP/1.1 408") || err != nil && !reset(err) {
		t.Errorf("got %q, %v", b, err)
	}
}
