package rules

import (
	"strings"
	"testing"
	"time"
)

func TestBufferedStreams(t *testing.T) {
	p := load(t, base(), "masks/x.yaml", "streams:\n- { server: files, tool: \"tail_*\", stream: buffered, hold: 30s }\n- { server: \"*\", tool: tail_f, stream: buffered, size: 1MB }\n")
	for _, c := range []struct {
		server, tool string
		any          bool
		hold         time.Duration
		size         int64
	}{
		{"files", "tail_x", false, 30 * time.Second, 256 << 10},
		{"files", "tail_f", false, 30 * time.Second, 1 << 20},
		{"customers", "tail_f", false, 10 * time.Second, 1 << 20},
		{"customers", "tail_x", false, 0, 0},
		{"files", "", false, 0, 0},
		{"files", "", true, 30 * time.Second, 1 << 20},
	} {
		if s, ok := p.Buffered(c.server, c.tool, c.any); ok != (c.hold > 0) || s.Hold != c.hold || s.Size != c.size {
			t.Errorf("%+v: %+v %v", c, s, ok)
		}
	}
	for text, want := range map[string]string{
		"streams: { server: files }\n":                                             "masks/x.yaml:1:10: streams must be a list",
		"streams:\n- { server: files }\n":                                          "masks/x.yaml:2:3: stream is missing",
		"streams:\n- { server: files, stream: live }\n":                            `masks/x.yaml:2:28: stream "live" is not known: buffered`,
		"streams:\n- { stream: buffered }\n":                                       "server is missing",
		"streams:\n- { server: flies, stream: buffered }\n":                        `server "flies" is not in servers/`,
		"streams:\n- { server: files, stream: buffered, hold: 1h }\n":              "hold is 1h0m0s: it must lie between",
		"streams:\n- { server: files, stream: buffered, size: 1GB }\n":             "size must be a size",
		"streams:\n- { server: files, stream: buffered, tool: \"*x\" }\n":          "* may only stand alone or at the end",
		"streams:\n- { server: files, stream: buffered, until: [the response] }\n": `unknown field "until"`,
	} {
		if _, err := try(base(), "masks/x.yaml", text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
