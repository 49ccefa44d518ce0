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
	if m.Kind == wire.Response {
		if x.msg != nil && x.msg.Method == "tools/list" {
			x.e.mirrors.learn(x.server, m)
		}
		if err := x.inputAsks(m); err != nil {
			return nil, nil, err
		}
		if kept, err = x.filterLists(m); err != nil {
			return nil, nil, refuse(kindBlocked, "the upstream server's list is blocked, since it cannot be filtered: %w", err)
		}
	}
	var report mask.Report
	x.e.room.works(len(kept), func() { clean, report, err = x.e.Mask.Message(kept) })
	x.note(report)
	if err != nil {
		return nil, nil, refuse(kindBlocked, "the upstream server's answer is blocked, since it cannot be masked: %w", err)
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

// filterLists shows only what this subject could get under some arguments. It
// goes by the request; on a resumed stream, where the request is not at hand,
// by the shape of the result.
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
		kept, _, err := wire.FilterList(m, l.key, func(name, uri string, _ wire.Span) bool {
			return x.force.policy.Visible(rules.Request{
				Subject: x.caller.Subject, Client: x.caller.Client, Server: x.server, Source: x.source, Now: x.e.Now(),
				Method: l.method, Tool: name, Resource: uri,
			})
		})
		return kept, err
	}
	return m.Raw, nil
}
