package rules

import (
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
)

// BufferedStream has the messages of a server's streams held back for a while,
// so that a secret that is split over several of them is found.
type BufferedStream struct {
	Servers []string // names, or "*"
	Tools   []string // as in rules
	Hold    time.Duration
	Size    int64 // bytes of one stream that are held at most
}

func (l *loader) maskStreams(d *document, n *yaml.Node) {
	if n == nil {
		return
	}
	for _, c := range d.list(n, "streams") {
		f, ok := d.fields(c, "an entry under streams", "server", "tool", "stream", "hold", "size")
		if !ok {
			continue
		}
		s := BufferedStream{Servers: l.maskServers(d, c, f["server"]), Tools: []string{"*"}, Hold: 10 * time.Second, Size: 256 << 10}
		if at := f["tool"]; at != nil {
			s.Tools = d.patterns(at, "tool")
		}
		if at := f["stream"]; at == nil {
			d.report(c, "stream is missing: write `stream: buffered`")
		} else if v := d.text(at, "stream"); v != "buffered" && v != "" {
			d.report(at, "stream %q is not known: buffered", v)
		}
		if at := f["hold"]; at != nil {
			s.Hold = d.span(at, "hold", 100*time.Millisecond, 5*time.Minute)
		}
		if at := f["size"]; at != nil {
			s.Size = d.size(at, "size", 8<<20)
		}
		l.policy.masks.Streams = append(l.policy.masks.Streams, s)
	}
}

// Buffered tells whether the streams of a server's tool are buffered, how long
// and how much: the most that any entry says. Where it is not known of which
// tool a stream is, entries for any tool count.
func (p *Policy) Buffered(server, tool string, any bool) (s BufferedStream, ok bool) {
	for _, one := range p.masks.Streams {
		if !slices.Contains(one.Servers, server) && !slices.Contains(one.Servers, "*") || !any && !matches(one.Tools, tool) {
			continue
		}
		s.Hold, s.Size, ok = max(s.Hold, one.Hold), max(s.Size, one.Size), true
	}
	return s, ok
}
