package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"countersign/enforcer/wire"
)

// What the endpoint says of itself. No server is asked for it: which of them
// has what shows in the lists.

// legacyVersions are the revisions with sessions that are served, the newest
// last.
var legacyVersions = []string{"2025-03-26", "2025-06-18", "2025-11-25"}

// versions are all, the newest first.
var versions = []string{wire.ModernVersion, "2025-11-25", "2025-06-18", "2025-03-26"}

const serverInfo = `{"name":"countersign","title":"Countersign","version":"1"}`

func (x *exchange) instructions() []byte {
	words := "One endpoint for several MCP servers. Tools and prompts are named <server>__<name>, resources mcp+<server>+<uri>. " +
		"Servers that you may use: " + strings.Join(x.c.Servers, ", ") + "."
	if len(x.c.Servers) == 0 {
		words = "No rule lets you use any MCP server here."
	}
	return wire.Quote(words)
}

// initialize opens a session with the endpoint; none with a server.
func (x *exchange) initialize(ctx context.Context) error {
	if x.c.Request.Header.Get("Mcp-Session-Id") != "" {
		return refuse(BadRequest, "initialize opens a session: it cannot be sent in one")
	}
	if len(x.m.Raw) > maxHello {
		return refuse(BadRequest, "initialize is longer than %d bytes", maxHello)
	}
	if at, ok := x.m.Member(x.m.Params, "protocolVersion"); !ok || x.m.Bytes(at)[0] != '"' {
		return refuse(Unknown, "params.protocolVersion must be a string")
	}
	version := legacyVersions[len(legacyVersions)-1]
	if slices.Contains(legacyVersions, x.m.ProtocolVersion) {
		version = x.m.ProtocolVersion
	}
	s, evicted := x.h.sessions.bind(x.c.Owner, version, x.m)
	for _, old := range evicted {
		go x.h.guard(func() { x.h.endAt(ctx, x.c, old) })
	}
	if s == nil {
		return refuse(Unavailable, "too many sessions are open: try again later")
	}
	capabilities := `{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"completions":{},"logging":{}`
	if version >= "2025-11-25" {
		capabilities += `,"tasks":{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}}`
	}
	result := fmt.Sprintf(`{"protocolVersion":%q,"capabilities":%s},"serverInfo":%s,"instructions":%s}`,
		version, capabilities, serverInfo, x.instructions())
	if err := x.c.Answered("a session of the endpoint for all servers"); err != nil {
		x.h.sessions.drop(s)
		return err
	}
	x.out.w.Header().Set("Mcp-Session-Id", s.id)
	_ = x.out.message(http.StatusOK, nil, fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":%s}`, x.m.ID, result)) // a client that has left never learns of the session, which ends idle
	return nil
}

// discover answers the stateless era's question.
func (x *exchange) discover() error {
	supported, err := json.Marshal(versions)
	if err != nil {
		return refuse(Unavailable, "%v", err)
	}
	return x.answer(fmt.Sprintf(`{"resultType":"complete","supportedVersions":%s,`+
		`"capabilities":{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"completions":{},"logging":{},"extensions":{"io.modelcontextprotocol/tasks":{}}},`+
		`"instructions":%s,"ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":%s}}`,
		supported, x.instructions(), serverInfo), "the endpoint for all servers")
}

// offers are the lists that a server says it has.
type offers struct{ tools, prompts, resources, logging, tasks bool }

func readOffers(m *wire.Message) offers {
	caps, _ := m.Member(m.Result, "capabilities")
	has := func(name string) bool { _, ok := m.Member(caps, name); return ok }
	extensions, _ := m.Member(caps, "extensions")
	_, tasks := m.Member(extensions, "io.modelcontextprotocol/tasks")
	return offers{tools: has("tools"), prompts: has("prompts"), resources: has("resources"), logging: has("logging"), tasks: has("tasks") || tasks}
}

func (o offers) list(key string) bool {
	switch key {
	case "tools":
		return o.tools
	case "prompts":
		return o.prompts
	case "tasks":
		return o.tasks
	}
	return o.resources
}
