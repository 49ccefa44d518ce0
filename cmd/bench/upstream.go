package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// A process of this program that finds roleVar in its environment is not the
// benchmark but a part of it: it prints the address that it listens on and
// serves until its standard input ends.
const (
	roleVar   = "COUNTERSIGN_BENCH_ROLE"
	serverVar = "COUNTERSIGN_BENCH_SERVER" // where the bare proxy leads to
)

// play is such a process.
func play(role string) int {
	var h http.Handler
	switch role {
	case "server":
		h = echoServer()
	case "bare":
		u, err := url.Parse(os.Getenv(serverVar))
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 2
		}
		h = bareProxy(u)
	default:
		fmt.Fprintln(os.Stderr, "bench: no such role:", role)
		return 2
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	fmt.Println(l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // however it ends, the parent is gone
		os.Exit(0)
	}()
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintln(os.Stderr, "bench:", srv.Serve(l))
	return 1
}

// echoServer is a minimal MCP server: the text of each tools/call comes back,
// with as much behind it as makes the size in the path, as JSON under
// /json/<size>, as an event under /sse/<size>. Under /credential/… it asks for
// what the product injects, so that nobody measures a gate that forgot to.
func echoServer() http.Handler {
	mux := http.NewServeMux()
	filler := strings.Repeat("dolor sit amet, ", maxAnswer/16)
	answer := func(credential bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if _, _, ok := r.BasicAuth(); credential && !ok {
				http.Error(w, "no minted credential", http.StatusUnauthorized)
				return
			}
			size, err := strconv.Atoi(r.PathValue("size"))
			if err != nil || size < 1 || size > maxAnswer {
				http.NotFound(w, r)
				return
			}
			echo(w, r, r.PathValue("kind") == "sse", size, filler)
		}
	}
	mux.Handle("POST /{kind}/{size}", answer(false))
	mux.Handle("POST /credential/{kind}/{size}", answer(true))
	return mux
}

// maxAnswer bounds the size of answers; by default the product takes no more
// than 8 MB.
const maxAnswer = 4 << 20

func echo(w http.ResponseWriter, r *http.Request, stream bool, size int, filler string) {
	var m struct {
		ID     json.RawMessage
		Params struct {
			Arguments struct{ Text string }
		}
	}
	b, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil || m.Params.Arguments.Text == "" {
		http.Error(w, "not a call of echo", http.StatusBadRequest)
		return
	}
	head := fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"%s`, m.ID, m.Params.Arguments.Text)
	tail := `"}]}}`
	more := filler[:max(0, size-len(head)-len(tail))]
	if stream {
		w.Header().Set("Content-Type", "text/event-stream")
		head, tail = "event: message\ndata: "+head, tail+"\n\n"
	} else {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(head)+len(more)+len(tail)))
	}
	for _, part := range []string{head, more, tail} {
		if _, err := io.WriteString(w, part); err != nil {
			return // the caller counts it
		}
	}
}

// bareProxy is httputil.ReverseProxy at its best: it keeps a connection for
// each caller, where the default transport keeps two.
func bareProxy(server *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(server)
			// Left alone, it cuts a large answer off now and then on a busy machine: the
			// answer begins while the transport has yet to see that the body has ended,
			// and net/http's server closes a body that it finds unread.
			if b, err := io.ReadAll(r.In.Body); err == nil {
				r.Out.Body = io.NopCloser(bytes.NewReader(b))
			}
		},
		Transport: &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, DisableCompression: true},
		ErrorLog:  log.New(os.Stderr, "bare: ", 0),
	}
}
