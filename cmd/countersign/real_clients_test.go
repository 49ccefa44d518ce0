package main

//lint:file-ignore SA1019 sampling and logging belong to the era of sessions, which is served too

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"countersign/fixtures/peer"
	"countersign/fixtures/stage"
)

// The official SDKs' clients, in both eras of the protocol, through countersign to the reference
// servers and to a server of the Go SDK.

// workshop is a server of the Go SDK with a bit of everything, in both eras.
func workshop(t *testing.T) string {
	t.Helper()
	s := mcp.NewServer(&mcp.Implementation{Name: "workshop", Version: "1"}, nil)
	type work struct {
		Steps int `json:"steps"`
	}
	mcp.AddTool(s, &mcp.Tool{Name: "work", Description: "Works in steps."},
		func(ctx context.Context, req *mcp.CallToolRequest, in work) (*mcp.CallToolResult, any, error) {
			for i := range in.Steps {
				if token := req.Params.GetProgressToken(); token != nil {
					if err := req.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: token, Progress: float64(i + 1), Total: float64(in.Steps)}); err != nil {
						return nil, nil, err
					}
				}
			}
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "worked"}}}, nil, nil
		})
	mcp.AddTool(s, &mcp.Tool{Name: "demolish"}, func(context.Context, *mcp.CallToolRequest, work) (*mcp.CallToolResult, any, error) {
		return nil, nil, fmt.Errorf("nothing should come here")
	})
	mcp.AddTool(s, &mcp.Tool{Name: "ask", Description: "Asks the client's model."},
		func(_ context.Context, req *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
			if answer, ok := req.Params.InputResponses["words"]; ok {
				b, err := json.Marshal(answer)
				return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "answered " + string(b)}}}, nil, err
			}
			return &mcp.CallToolResult{InputRequests: mcp.InputRequestMap{"words": &mcp.CreateMessageParams{
				MaxTokens: 10, Messages: []*mcp.SamplingMessage{{Role: "user", Content: &mcp.TextContent{Text: "say something"}}},
			}}}, nil, nil
		})
	prompt := func(_ context.Context, req *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return &mcp.GetPromptResult{Messages: []*mcp.PromptMessage{{Role: "user", Content: &mcp.TextContent{Text: "prompted"}}}}, nil
	}
	s.AddPrompt(&mcp.Prompt{Name: "simple-prompt"}, prompt)
	s.AddPrompt(&mcp.Prompt{Name: "args-prompt"}, prompt)
	for _, uri := range []string{"demo://open/plan", "demo://closed/plan"} {
		s.AddResource(&mcp.Resource{URI: uri, Name: uri}, func(_ context.Context, req *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
			return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: req.Params.URI, Text: "the plan"}}}, nil
		})
	}
	get := func(*http.Request) *mcp.Server { return s }
	sessions := mcp.NewStreamableHTTPHandler(get, nil)
	stateless := mcp.NewStreamableHTTPHandler(get, &mcp.StreamableHTTPOptions{Stateless: true, PropagateRequestCancellation: true})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the caller's token reached the upstream")
		}
		if r.Header.Get("MCP-Protocol-Version") >= "2026-07-28" {
			stateless.ServeHTTP(w, r)
			return
		}
		sessions.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { web.CloseClientConnections(); web.Close() })
	return web.URL
}

// clientsStage has the three servers, and rules for the groups users and samplers. What no rule
// names is closed.
func clientsStage(t *testing.T) (s *stage.Stage, folder string) {
	t.Helper()
	s, folder = newStage(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "notes.txt"), []byte("the token is ghp_"+strings.Repeat("a1B2", 9)+" as agreed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	spawned := func(name string, command []string) string {
		return fmt.Sprintf("server: %s\ncommand: %s\nenv: { PATH: %q }\ntimeout: 2m\n", name, yamlList(command), os.Getenv("PATH"))
	}
	commit(t, s, "The clients' servers", map[string]string{
		"servers/workshop.yaml":   "server: workshop\nurl: " + workshop(t) + "\n",
		"servers/everything.yaml": spawned("everything", peer.Everything(t)),
		"servers/files.yaml":      spawned("files", peer.Filesystem(t, folder)),
		"rules/clients.yaml": `
- { id: tools, server: [workshop, everything], tool: [work, ask, echo, trigger-long-running-operation, trigger-sampling-request, trigger-elicitation-request, toggle-simulated-logging], when: '"users" in subject.groups', effect: allow }
- { id: prompts, server: [workshop, everything], method: prompts/get, tool: simple-prompt, when: '"users" in subject.groups', effect: allow }
- { id: resources, server: [workshop, everything], method: resources/read, when: '"users" in subject.groups && (resource.startsWith("demo://open/") || resource.startsWith("demo://resource/dynamic/text/"))', effect: allow }
- { id: level, server: everything, method: logging/setLevel, when: '"users" in subject.groups', effect: allow }
- { id: sampling, server: [workshop, everything], method: sampling/createMessage, when: '"samplers" in subject.groups', effect: allow }
- { id: reading, server: files, tool: [read_text_file, list_directory], when: '"users" in subject.groups', effect: allow }
`,
	})
	return s, folder
}

func names(t *testing.T, list json.RawMessage, key string) string {
	t.Helper()
	var elements []map[string]any
	if err := json.Unmarshal(list, &elements); err != nil {
		t.Fatalf("%s: %v", list, err)
	}
	var all []string
	for _, e := range elements {
		all = append(all, fmt.Sprint(e[key]))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// said is everything in a client's line that a person would read.
func said(l peer.Line) string {
	if l.Error != nil {
		return "error " + string(l.Error.Code) + ": " + l.Error.Message
	}
	return string(l.Result)
}

func TestTypeScriptClientsThroughTheGate(t *testing.T) {
	s, folder := clientsStage(t)
	p := serving(t, s, nil)
	user, sampler := p.token("alice", "users"), p.token("sam", "users", "samplers")

	type client func(testing.TB, string, string, ...string) []peer.Line
	auto := func(t testing.TB, url, token string, ops ...string) []peer.Line {
		return peer.Client2(t, url, token, append([]string{"auto"}, ops...)...)
	}
	for _, c := range []struct {
		name, server, version string
		run                   client
		tool, args            string // one that reports three steps
		open, closed          string // resources
		tools, prompts        string // as listed
	}{
		{"1.x to the Go SDK", "workshop", "2025-11-25", peer.Client1, "work", `{"steps":3}`, "demo://open/plan", "demo://closed/plan", "ask work", "simple-prompt"},
		{"2.x to the Go SDK", "workshop", "2026-07-28", peer.Client2, "work", `{"steps":3}`, "demo://open/plan", "demo://closed/plan", "ask work", "simple-prompt"},
		{"1.x to a spawned server", "everything", "2025-11-25", peer.Client1, "trigger-long-running-operation", `{"steps":3,"duration":0.3}`,
			"demo://resource/dynamic/text/1", "demo://resource/dynamic/blob/1", "echo toggle-simulated-logging trigger-long-running-operation", "simple-prompt"},
		{"2.x falls back to initialize for a spawned legacy server", "everything", "2025-11-25", auto, "trigger-long-running-operation", `{"steps":3,"duration":0.3}`,
			"demo://resource/dynamic/text/1", "demo://resource/dynamic/blob/1", "echo toggle-simulated-logging trigger-long-running-operation", "simple-prompt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			lines := c.run(t, s.URL+"/mcp/"+c.server, user, "list", "prompts", "resources", "call", c.tool, c.args, "call", "demolish", `{"steps":1}`,
				"get", "simple-prompt", "{}", "get", "args-prompt", `{"city":"Ulm"}`, "read", c.open, "read", c.closed)
			if len(lines) != 10 {
				t.Fatalf("%+v", lines)
			}
			if lines[0].Version != c.version {
				t.Errorf("speaks %s, want %s", lines[0].Version, c.version)
			}
			if got := names(t, lines[1].Tools, "name"); got != c.tools {
				t.Errorf("tools: %s", got)
			}
			if got := names(t, lines[2].Prompts, "name"); got != c.prompts {
				t.Errorf("prompts: %s", got)
			}
			if got := names(t, lines[3].Resources, "uri"); c.server == "workshop" && got != c.open {
				t.Errorf("resources: %s", got)
			}
			if got := said(lines[4]); lines[4].Error != nil || !reflect.DeepEqual(lines[4].Progress, []float64{1, 2, 3}) {
				t.Errorf("call: progress %v: %s", lines[4].Progress, got)
			}
			if got := said(lines[5]); !strings.Contains(got, `"isError":true`) || !strings.Contains(got, "No rule allows tools/call demolish") {
				t.Errorf("a tool without a rule: %s", got)
			}
			if got := said(lines[6]); lines[6].Error != nil || !strings.Contains(got, "messages") {
				t.Errorf("prompt: %s", got)
			}
			if got := said(lines[7]); lines[7].Error == nil || !strings.Contains(got, "No rule allows prompts/get args-prompt") {
				t.Errorf("a prompt without a rule: %s", got)
			}
			if got := said(lines[8]); lines[8].Error != nil || !strings.Contains(got, "contents") {
				t.Errorf("resource: %s", got)
			}
			if got := said(lines[9]); lines[9].Error == nil || !strings.Contains(got, "No rule allows resources/read") {
				t.Errorf("a resource without a rule: %s", got)
			}
		})
	}

	t.Run("2.x pinned is told that a legacy server does not know its era", func(t *testing.T) {
		lines := peer.Client2(t, s.URL+"/mcp/everything", user, "list")
		if len(lines) != 1 || lines[0].Error == nil {
			t.Errorf("%+v", lines)
		}
	})
	for name, run := range map[string]client{"1.x": peer.Client1, "2.x": auto} {
		t.Run(name+": what a server asks of the client is refused, or let through by a rule", func(t *testing.T) {
			const sample, elicit = "trigger-sampling-request", "trigger-elicitation-request"
			ops := []string{"call", sample, `{"prompt":"say something"}`, "call", elicit, `{}`, "call", "echo", `{"message":"still here"}`}
			answering := func(token string) []peer.Line {
				ops := append([]string{"answering"}, ops...)
				lines := run(t, s.URL+"/mcp/everything", token, ops...)
				if len(lines) != 4 {
					t.Fatalf("%+v", lines)
				}
				return lines
			}
			lines := answering(user)
			for i, l := range lines[1:3] {
				if len(l.Asked) != 0 || !strings.Contains(said(l), "refused by the client's gateway") {
					t.Errorf("%s: asked %v, %s", ops[3*i+1], l.Asked, said(l))
				}
			}
			if !strings.Contains(said(lines[3]), "still here") {
				t.Errorf("the session does not go on: %s", said(lines[3]))
			}
			lines = answering(sampler)
			if l := lines[1]; !slices.Equal(l.Asked, []string{"sampling/createMessage"}) || !strings.Contains(said(l), "sampled words") {
				t.Errorf("sampling with a rule: asked %v, %s", l.Asked, said(l))
			}
			if l := lines[2]; len(l.Asked) != 0 || !strings.Contains(said(l), "refused by the client's gateway") {
				t.Errorf("elicitation without one: asked %v, %s", l.Asked, said(l))
			}
		})
	}
	for name, run := range map[string]client{"1.x": peer.Client1, "2.x": peer.Client2} {
		t.Run(name+": what a server of the stateless era asks is decided alike", func(t *testing.T) {
			ask := func(token string) peer.Line {
				lines := run(t, s.URL+"/mcp/workshop", token, "answering", "call", "ask", "{}")
				if len(lines) != 2 {
					t.Fatalf("%+v", lines)
				}
				return lines[1]
			}
			if l := ask(user); len(l.Asked) != 0 || !strings.Contains(said(l), "refused by the client's gateway") {
				t.Errorf("without a rule: asked %v, %s", l.Asked, said(l))
			}
			if l := ask(sampler); !slices.Equal(l.Asked, []string{"sampling/createMessage"}) || !strings.Contains(said(l), "sampled words") {
				t.Errorf("with one: asked %v, %s", l.Asked, said(l))
			}
		})
	}
	t.Run("log messages come through", func(t *testing.T) {
		lines := peer.Client1(t, s.URL+"/mcp/everything", user, "level", "debug", "call", "toggle-simulated-logging", "{}", "hear")
		if len(lines) != 4 || lines[1].Error != nil || lines[3].Error != nil || !strings.Contains(string(lines[3].Log), "message") {
			t.Errorf("%+v", lines)
		}
	})
	t.Run("files are read masked, and not written", func(t *testing.T) {
		path := filepath.Join(folder, "notes.txt")
		quoted := func(v map[string]string) string {
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		lines := peer.Client1(t, s.URL+"/mcp/files", user, "list", "call", "read_text_file", quoted(map[string]string{"path": path}),
			"call", "write_file", quoted(map[string]string{"path": path, "content": "gone"}))
		if len(lines) != 4 {
			t.Fatalf("%+v", lines)
		}
		if got := names(t, lines[1].Tools, "name"); got != "list_directory read_text_file" {
			t.Errorf("tools: %s", got)
		}
		if got := said(lines[2]); !strings.Contains(got, "[masked: ") || !strings.Contains(got, "as agreed") || strings.Contains(got, "ghp_") {
			t.Errorf("read: %s", got)
		}
		if got := said(lines[3]); !strings.Contains(got, "No rule allows tools/call write_file") {
			t.Errorf("write: %s", got)
		}
		if b, err := os.ReadFile(path); err != nil || strings.Contains(string(b), "gone") {
			t.Errorf("the file: %q %v", b, err)
		}
	})
	t.Run("a bad token gets in nowhere", func(t *testing.T) {
		for name, run := range map[string]client{"1.x": peer.Client1, "2.x": peer.Client2, "2.x auto": auto} {
			if lines := run(t, s.URL+"/mcp/workshop", "not.a.token", "list"); len(lines) != 1 || lines[0].Error == nil {
				t.Errorf("%s: %+v", name, lines)
			}
		}
	})
}

func TestGoClientsThroughTheGate(t *testing.T) {
	s, _ := clientsStage(t)
	p := serving(t, s, nil)
	user, sampler := p.token("alice", "users"), p.token("sam", "users", "samplers")

	// connect is a client that speaks a revision and answers what it is asked.
	type heard struct {
		progress chan float64 // beside the results, and not always before them
		logged   chan struct{}
		sampled  atomic.Int32
	}
	connect := func(t *testing.T, server, token, version string) (*mcp.ClientSession, *heard) {
		t.Helper()
		h := &heard{progress: make(chan float64, 100), logged: make(chan struct{}, 100)}
		c := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, &mcp.ClientOptions{
			ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) {
				h.progress <- r.Params.Progress
			},
			LoggingMessageHandler: func(context.Context, *mcp.LoggingMessageRequest) { h.logged <- struct{}{} },
			CreateMessageHandler: func(context.Context, *mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
				h.sampled.Add(1)
				return &mcp.CreateMessageResult{Role: "assistant", Model: "test", Content: &mcp.TextContent{Text: "sampled words"}}, nil
			},
		})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		session, err := c.Connect(ctx, &mcp.StreamableClientTransport{
			Endpoint: s.URL + "/mcp/" + server, HTTPClient: &http.Client{Transport: bearer(token)}, MaxRetries: -1,
		}, &mcp.ClientSessionOptions{ProtocolVersion: version})
		if err != nil {
			t.Fatalf("connect: %v", err)
		}
		t.Cleanup(func() {
			if err := session.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		return session, h
	}
	tool := func(t *testing.T, c *mcp.ClientSession, name string, args map[string]any) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		params := &mcp.CallToolParams{Name: name, Arguments: args}
		params.SetProgressToken(name)
		res, err := c.CallTool(ctx, params)
		if err != nil {
			return "error: " + err.Error()
		}
		b, err := json.Marshal(res)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}

	for _, c := range []struct{ server, asks, speaks, tool, args, resource, closed string }{
		{"workshop", "2025-06-18", "2025-06-18", "work", `{"steps":3}`, "demo://open/plan", "demo://closed/plan"},
		{"workshop", "2025-11-25", "2025-11-25", "work", `{"steps":3}`, "demo://open/plan", "demo://closed/plan"},
		{"workshop", "2026-07-28", "2026-07-28", "work", `{"steps":3}`, "demo://open/plan", "demo://closed/plan"},
		{"everything", "2025-06-18", "2025-06-18", "trigger-long-running-operation", `{"steps":3,"duration":0.3}`, "demo://resource/dynamic/text/1", "demo://resource/dynamic/blob/1"},
		{"everything", "2026-07-28", "2025-11-25", "trigger-long-running-operation", `{"steps":3,"duration":0.3}`, "demo://resource/dynamic/text/1", "demo://resource/dynamic/blob/1"},
	} {
		t.Run(c.asks+" to "+c.server, func(t *testing.T) {
			session, h := connect(t, c.server, user, c.asks)
			if got := session.InitializeResult().ProtocolVersion; got != c.speaks {
				t.Errorf("speaks %s, want %s", got, c.speaks)
			}
			var args map[string]any
			if err := json.Unmarshal([]byte(c.args), &args); err != nil {
				t.Fatal(err)
			}
			if got := tool(t, session, c.tool, args); strings.Contains(got, "rror") {
				t.Errorf("call: %s", got)
			}
			for _, want := range []float64{1, 2, 3} {
				select {
				case got := <-h.progress:
					if got != want {
						t.Errorf("progress %v, want %v", got, want)
					}
				case <-time.After(time.Minute):
					t.Errorf("no progress %v", want)
				}
			}
			if got := tool(t, session, "demolish", args); !strings.Contains(got, "No rule allows tools/call demolish") {
				t.Errorf("a tool without a rule: %s", got)
			}
			if _, err := session.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "simple-prompt"}); err != nil {
				t.Errorf("prompt: %v", err)
			}
			if _, err := session.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "args-prompt", Arguments: map[string]string{"city": "Ulm"}}); err == nil || !strings.Contains(err.Error(), "No rule allows prompts/get") {
				t.Errorf("a prompt without a rule: %v", err)
			}
			if _, err := session.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: c.resource}); err != nil {
				t.Errorf("resource: %v", err)
			}
			if _, err := session.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: c.closed}); err == nil || !strings.Contains(err.Error(), "No rule allows resources/read") {
				t.Errorf("a resource without a rule: %v", err)
			}
			tools, err := session.ListTools(t.Context(), nil)
			if err != nil || slices.ContainsFunc(tools.Tools, func(x *mcp.Tool) bool { return x.Name == "demolish" || x.Name == "get-env" }) {
				t.Errorf("tools: %+v %v", tools, err)
			}
		})
	}
	t.Run("sampling", func(t *testing.T) {
		session, h := connect(t, "everything", user, "2025-11-25")
		if got := tool(t, session, "trigger-sampling-request", map[string]any{"prompt": "x"}); h.sampled.Load() != 0 || !strings.Contains(got, "refused by the client's gateway") {
			t.Errorf("without a rule: asked %d times, %s", h.sampled.Load(), got)
		}
		session, h = connect(t, "everything", sampler, "2025-11-25")
		if got := tool(t, session, "trigger-sampling-request", map[string]any{"prompt": "x"}); h.sampled.Load() != 1 || !strings.Contains(got, "sampled words") {
			t.Errorf("with one: asked %d times, %s", h.sampled.Load(), got)
		}
	})
	t.Run("logging", func(t *testing.T) {
		session, h := connect(t, "everything", user, "2025-11-25")
		if err := session.SetLoggingLevel(t.Context(), &mcp.SetLoggingLevelParams{Level: "debug"}); err != nil {
			t.Fatal(err)
		}
		if got := tool(t, session, "toggle-simulated-logging", map[string]any{}); strings.Contains(got, "rror") {
			t.Error(got)
		}
		select {
		case <-h.logged:
		case <-time.After(time.Minute):
			t.Error("no log message")
		}
	})
}
