package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
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

// echoServer is a minimal MCP server: each tools/call comes back, as JSON
// under /json, as an event under /sse. Under /credential/… it asks for what
// the product injects, so that nobody measures a gate that forgot to.
func echoServer() http.Handler {
	mux := http.NewServeMux()
	answer := func(stream, credential bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if _, _, ok := r.BasicAuth(); credential && !ok {
				http.Error(w, "no minted credential", http.StatusUnauthorized)
				return
			}
			echo(w, r, stream)
		}
	}
	mux.Handle("POST /json", answer(false, false))
	mux.Handle("POST /sse", answer(true, false))
	mux.Handle("POST /credential/json", answer(false, true))
	mux.Handle("POST /credential/sse", answer(true, true))
	return mux
}

func echo(w http.ResponseWriter, r *http.Request, stream bool) {
	var m struct {
		ID     json.RawMessage
		Params struct {
			Arguments struct{ Text json.RawMessage }
		}
	}
	b, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil || !strings.HasPrefix(string(m.Params.Arguments.Text), `"`) {
		http.Error(w, "not a call of echo", http.StatusBadRequest)
		return
	}
	form := `{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":%s}]}}`
	w.Header().Set("Content-Type", "application/json")
	if stream {
		form = "event: message\ndata: " + form + "\n\n"
		w.Header().Set("Content-Type", "text/event-stream")
	}
	fmt.Fprintf(w, form, m.ID, m.Params.Arguments.Text)
}

// bareProxy is httputil.ReverseProxy at its best: it keeps a connection for
// each caller, where the default transport keeps two.
func bareProxy(server *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(server) },
		Transport: &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, DisableCompression: true},
		ErrorLog:  log.New(os.Stderr, "bare: ", 0),
	}
}
