package upstream

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// The test binary is also the servers that it spawns: PEER says which.
func TestMain(m *testing.M) {
	switch kind := os.Getenv("PEER"); kind {
	case "":
		os.Exit(m.Run())
	case "sdk":
		if err := sdkServer().Run(context.Background(), &mcp.StdioTransport{}); err != nil && !errors.Is(err, io.EOF) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "keeper":
		keeper()
	default:
		rawPeer(kind)
	}
}

// sdkServer is a real MCP server, the same over HTTP and standard streams.
func sdkServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "peer", Version: "1"}, nil)
	type args struct {
		Text string `json:"text"`
	}
	type none = any
	text := func(s string) *mcp.CallToolResult {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: s}}}
	}
	mcp.AddTool(s, &mcp.Tool{Name: "echo"}, func(_ context.Context, _ *mcp.CallToolRequest, a args) (*mcp.CallToolResult, none, error) {
		return text(a.Text), nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "env"}, func(context.Context, *mcp.CallToolRequest, args) (*mcp.CallToolResult, none, error) {
		return text(strings.Join(os.Environ(), "\n")), nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "progress"}, func(ctx context.Context, r *mcp.CallToolRequest, a args) (*mcp.CallToolResult, none, error) {
		for i := range 3 {
			err := r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: float64(i)})
			if err != nil {
				return nil, nil, err
			}
		}
		return text(a.Text), nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "elicit"}, func(ctx context.Context, r *mcp.CallToolRequest, a args) (*mcp.CallToolResult, none, error) {
		res, err := r.Session.Elicit(ctx, &mcp.ElicitParams{
			Message:         a.Text,
			RequestedSchema: json.RawMessage(`{"type":"object","properties":{"said":{"type":"string"}}}`),
		})
		if err != nil {
			return nil, nil, err
		}
		return text(fmt.Sprint(res.Action, " ", res.Content["said"])), nil, nil
	})
	return s
}

// rawPeer speaks the protocol by hand: what no SDK would do, or the exact
// bytes that it got.
func rawPeer(kind string) {
	if path := os.Getenv("PEER_SOCKET"); path != "" {
		// Held open for life: its far end learns of our death from the kernel.
		if _, err := net.Dial("unix", path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	switch kind {
	case "grandchild", "deaf":
		forever()
	case "leaves a grandchild":
		fork("grandchild", &syscall.SysProcAttr{Setsid: true})
		return
	}
	fmt.Fprintln(os.Stderr, "peer starts")
	in := bufio.NewReader(os.Stdin)
	var initialized atomic.Int64
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			if kind == "stubborn" {
				forever()
			}
			return
		}
		var m struct {
			ID     json.RawMessage `json:"id"`
			Method string          `json:"method"`
			Params struct {
				RequestID json.RawMessage `json:"requestId"`
			} `json:"params"`
		}
		if err := json.Unmarshal(line, &m); err != nil {
			fmt.Fprintln(os.Stderr, "peer got no JSON:", err)
			os.Exit(1)
		}
		switch {
		case m.Method == "notifications/cancelled":
			fmt.Fprintf(os.Stderr, "cancelled %s\n", m.Params.RequestID)
		case m.Method == "notifications/initialized":
			initialized.Add(1)
		case m.ID == nil:
		case m.Method == "":
			// The client's answer to what we asked: now answer it.
			fmt.Printf(`{"jsonrpc":"2.0","id":5,"result":{"key":%q}}`+"\n", os.Getenv("KEY"))
		case m.Method == "initialize":
			if kind == "refuses" || kind == "refuses "+os.Getenv("KEY") {
				fmt.Printf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32602,"message":"no"}}`+"\n", m.ID)
				continue
			}
			fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"raw","version":"1"}}}`+"\n", m.ID)
		default:
			misbehave(kind, m.ID, m.Method, line, initialized.Load())
		}
	}
}

func misbehave(kind string, id json.RawMessage, method string, line []byte, initialized int64) {
	switch kind {
	case "html":
		fmt.Println("<html>hunter2</html>")
	case "banner":
		fmt.Printf("ready\n"+`{"jsonrpc":"2.0","id":%s,"result":{}}`+"\n", id)
	case "duplicate":
		fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{"a":1,"a":2}}`+"\n", id)
	case "huge":
		fmt.Println(strings.Repeat("x", 1<<20))
	case "endless":
		for {
			fmt.Print(strings.Repeat("x", 1<<16))
		}
	case "die":
		os.Exit(3)
	case "dies at x":
		if method == "x" {
			os.Exit(3)
		}
		fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{}}`+"\n", id)
	case "half":
		fmt.Printf(`{"jsonrpc":"2.0","id":%s,"resu`, id)
		os.Exit(0)
	case "last words":
		fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{"said":true}}`+"\n", id)
		os.Exit(0)
	case "hang", "stubborn":
		if method == "ping" {
			fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{}}`+"\n", id)
		} else {
			fmt.Fprintf(os.Stderr, "called %s\n", id)
		}
	case "unknown":
		fmt.Printf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no such method"}}`+"\n", id)
	case "pushy":
		fmt.Printf(`{"jsonrpc":"2.0","id":"s1","method":"roots/list"}` + "\n")
	case "notes":
		fmt.Printf(`{"jsonrpc":"2.0","method":"notifications/message","params":{"n":1.0}}`+"\n"+
			`{"jsonrpc":"2.0","id":%s,"result":{"initialized":%d}}`+"\n"+
			`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`+"\n", id, initialized)
	case "bulk":
		note := fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/message","params":{"data":%q}}`+"\n", strings.Repeat("x", 6000))
		fmt.Print(strings.Repeat(note, 100))
		fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{}}`+"\n", id)
		fmt.Print(strings.Repeat(note, 20))
	case "fork", "fork away", "daemon":
		switch kind {
		case "fork":
			fork("grandchild", nil)
		case "fork away": // out of our session
			fork("grandchild", &syscall.SysProcAttr{Setsid: true})
		case "daemon": // and out of our sight
			fork("leaves a grandchild", nil)
		}
		fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{}}`+"\n", id)
	case "chatty":
		for i := range 100_000 {
			fmt.Fprintf(os.Stderr, "line %d %s\n", i, strings.Repeat("x", 200))
		}
		fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{}}`+"\n", id)
	case "flood":
		if method == "flood" { // without an end, beside what else is asked
			line := fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"f","progress":1,"message":%q}}`+"\n", strings.Repeat("x", 1000))
			go func() {
				for { // shorter than what a pipe takes at once, so lines stay whole
					if _, err := os.Stdout.Write(line); err != nil {
						return
					}
				}
			}()
			return
		}
		fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{}}`+"\n", id)
	case "listen":
		const note = `{"jsonrpc":"2.0","method":"notifications/%s","params":{%s}}` + "\n"
		const about = `"_meta":{"io.modelcontextprotocol/subscriptionId":1}`
		switch method {
		case "subscriptions/listen":
			fmt.Printf(note, "subscriptions/acknowledged", about)
		case "half": // an answer of which nothing more comes
			fmt.Printf(note, "message", `"level":"info"`)
		case "change":
			fmt.Printf(note+note, "tools/list_changed", about, "message", `"level":"info"`)
			fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{}}`+"\n", id)
		case "end":
			fmt.Printf(note, "cancelled", `"requestId":1`)
			fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{}}`+"\n", id)
		}
	case "asks":
		fmt.Printf(`{"jsonrpc":"2.0","id":1,"method":"roots/list"}` + "\n")
	case "stderr":
		fmt.Fprintf(os.Stderr, "one\r\n%s\ntwo\n", strings.Repeat("x", 100<<10))
		fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{}}`+"\n", id)
	case "mirror":
		got, err := json.Marshal(string(line))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{"pid":%d,"initialized":%d,"key":%q,"got":%s}}`+"\n", id, os.Getpid(), initialized, os.Getenv("KEY"), got)
	}
}

// fork starts another peer in our place.
func fork(kind string, attr *syscall.SysProcAttr) {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	socket := "GRANDCHILD_SOCKET=" + os.Getenv("GRANDCHILD_SOCKET")
	if kind == "grandchild" {
		socket = "PEER_" + strings.TrimPrefix(socket, "GRANDCHILD_")
	}
	cmd := exec.Command(self)
	cmd.Env, cmd.SysProcAttr = []string{"PEER=" + kind, socket}, attr
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr // it keeps our pipes open
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// keeper spawns a server as the enforcer does, and waits to be killed.
func keeper() {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	u := Stdio(StdioConfig{Command: []string{self}, Env: []string{
		"PEER=" + os.Getenv("CHILD"), "PEER_SOCKET=" + os.Getenv("CHILD_SOCKET"), "GRANDCHILD_SOCKET=" + os.Getenv("GRANDCHILD_SOCKET"),
	}})
	if _, err := u.Send(context.Background(), request(`{"jsonrpc":"2.0","id":1,"method":"x","params":{`+modernMeta+`}}`)); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	forever()
}

// forever blocks. An empty select alone would be a deadlock to the runtime,
// and the process would end by itself.
func forever() {
	r, w, err := os.Pipe()
	if err == nil {
		_, err = r.Read(make([]byte, 1))
	}
	fmt.Fprintln(os.Stderr, err, w)
}
