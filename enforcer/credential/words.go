package credential

import (
	"errors"
	"strings"
)

// errWord refuses a secret that the mask would find in every message.
var errWord = errors.New("it is a word of the protocol: masking it would break the messages of all callers; have another value put there")

// protocol is what MCP's own messages are made of, as far as it is long enough
// to be masked: members, methods, and values of them.
var protocol = []string{
	"jsonrpc", "method", "params", "result", "message", "content", "contents", "structuredContent", "isError", "arguments", "resultType",
	"progressToken", "progress", "requestId", "reason", "protocolVersion", "supportedVersions", "capabilities", "clientInfo", "serverInfo",
	"instructions", "nextCursor", "cursor", "version", "experimental", "listChanged", "subscribe", "logging", "completions", "sampling", "elicitation",
	"prompts", "messages", "assistant", "resources", "resource", "resource_link", "resourceTemplates", "uriTemplate", "completion", "argument", "values", "hasMore",
	"description", "annotations", "readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint", "audience", "priority", "lastModified", "mimeType",
	"inputSchema", "outputSchema", "properties", "required", "object", "string", "number", "integer", "boolean", "additionalProperties", "default",
	"requestedSchema", "accept", "decline", "cancel", "inputRequests", "inputResponses", "requestState", "input_required", "complete",
	"maxTokens", "stopReason", "modelPreferences", "systemPrompt", "includeContext", "notifications",
	"initialize", "server/discover", "subscriptions/listen", "tools/call", "tools/list", "prompts/get", "prompts/list", "completion/complete", "logging/setLevel",
	"resources/read", "resources/list", "resources/templates/list", "resources/subscribe", "resources/unsubscribe",
	"sampling/createMessage", "elicitation/create", "roots/list",
	"notifications/initialized", "notifications/cancelled", "notifications/progress", "notifications/message", "notifications/roots/list_changed",
	"notifications/tools/list_changed", "notifications/prompts/list_changed", "notifications/resources/list_changed", "notifications/resources/updated",
	"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28",
	"io.modelcontextprotocol/",
}

// isWord tells whether the mask would find the value in the protocol's words.
func isWord(value string) bool {
	value = strings.TrimSpace(value)
	if len(value) < 6 {
		return false // the mask does not take it
	}
	for _, w := range protocol {
		if strings.Contains(w, value) {
			return true
		}
	}
	return false
}
