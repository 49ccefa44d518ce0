package enforcer

import (
	"countersign/enforcer/mask"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// clean parses one message from the upstream, hides the list elements that this
// subject could never use, and masks what is left. An error means: blocked.
func (x *exchange) clean(data []byte) (m *wire.Message, clean []byte, err error) {
	set := x.force.policy.Settings()
	x.e.room.works(len(data), func() {
		m, err = wire.Parse(data, wire.Limits{Bytes: int(set.MaxResponse), Depth: set.MaxDepth})
	})
	if err != nil {
		return nil, nil, refuse(kindBlocked, "the upstream server's answer is blocked, since it cannot be read safely: %w", err)
	}
	kept := data
	if m.Kind == wire.Notification && m.Method == "notifications/tools/list_changed" {
		x.e.pins.changed(x.server)
	}
	if m.Kind == wire.Response {
		if x.msg != nil && x.msg.Method == "tools/list" {
			x.e.mirrors.learn(x.server, m)
			x.e.schemas.learn(x.server, m)
		}
		if err := x.inputAsks(m); err != nil {
			return nil, nil, err
		}
		if kept, err = x.filterLists(m); err != nil {
			return nil, nil, refuse(kindBlocked, "the upstream server's list is blocked, since it cannot be filtered: %w", err)
		}
	}
	var report mask.Report
	masked := x.clock(partMask)
	x.e.room.works(len(kept), func() { clean, report, err = x.e.Mask.Answer(kept, x.site()) })
	masked()
	x.note(report)
	if err != nil {
		return nil, nil, refuseAnswer(err)
	}
	if m.Kind == wire.Response {
		if err := x.fitting(kept, clean, report); err != nil {
			return nil, nil, err
		}
	}
	if clean, err = x.unchained(clean); err != nil {
		return nil, nil, refuse(kindBlocked, "%w", err)
	}
	return m, clean, nil
}

// listed names, for each list method, the result's member and the method that
// uses an element of it. Resource templates are not filtered: what they would
// expand to is not known before resources/read.
var listed = map[string]struct{ key, method string }{
	"tools/list":     {"tools", "tools/call"},
	"prompts/list":   {"prompts", "prompts/get"},
	"resources/list": {"resources", "resources/read"},
}

// filterLists shows only what this subject could get under some arguments, and
// of a locked server only what is as it was reviewed. It goes by the request;
// on a resumed stream, where the request is not at hand, by the shape of the
// result.
func (x *exchange) filterLists(m *wire.Message) ([]byte, error) {
	for list, l := range listed {
		if x.msg != nil && x.msg.Method != list {
			continue
		}
		if x.msg == nil {
			if _, ok := m.Member(m.Result, l.key); !ok {
				continue
			}
		}
		asLocked, err := x.lockedTools(m, list)
		if err != nil {
			return nil, err
		}
		kept, _, err := wire.FilterList(m, l.key, func(name, uri string, at wire.Span) bool {
			return asLocked(name, at) && x.force.policy.Visible(rules.Request{
				Subject: x.caller.Subject, Client: x.caller.Client, Server: x.server, Source: x.source, Now: x.e.Now(),
				Method: l.method, Tool: name, Resource: uri,
			})
		})
		return kept, err
	}
	// Every answer was decided for this caller, and recorded: what a server may
	// give to everybody, a cache in front of us may not.
	return wire.Private(m), nil
}

// lockedTools tells which elements of a list of tools are as tools.lock has
// them; all of any other list, and of a server that is not locked. What differs
// is in the record before the list goes anywhere.
func (x *exchange) lockedTools(m *wire.Message, list string) (func(name string, at wire.Span) bool, error) {
	if list != "tools/list" || !x.force.policy.Locked(x.server) {
		return func(string, wire.Span) bool { return true }, nil
	}
	places := m.Tools()
	if len(places) > maxTools {
		return nil, errTools
	}
	tools := map[string]sight{}
	x.e.room.works(len(m.Raw), func() {
		for _, at := range places {
			x.see(tools, offered(m.Tool(at)), x.start, x.turn)
		}
	})
	return func(name string, at wire.Span) bool {
		return x.drift(name, sight{pin: offered(m.Tool(at)).Pin, offered: true}) == ""
	}, x.saw(tools)
}
