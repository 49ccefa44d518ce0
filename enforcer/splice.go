package enforcer

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"countersign/audit"
	"countersign/enforcer/upstream"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// splice puts the lease where the policy says: upstream headers, parameters of
// the URL, a client certificate, a spawned server's environment and private
// files, arguments of the call. It never touches anything that the client sees;
// the record notes which credential, never its value.
func (x *exchange) splice(in rules.Inject) (err error) {
	inject := upstream.Injection{Key: x.lease.Key}
	fill := func(what, tmpl string) (filled string) {
		if err == nil && tmpl != "" {
			x.noteSplice("credential", what)
			if filled, err = x.lease.Render(tmpl); err != nil {
				err = refuse(kindUnavailable, "credential %q, %s: %w", x.lease.Name, what, err)
			}
		}
		return filled
	}
	if len(in.Headers) > 0 {
		inject.Header = http.Header{}
	}
	for name, tmpl := range in.Headers {
		inject.Header.Set(name, fill("header "+name, tmpl))
	}
	if len(in.Query) > 0 {
		inject.Query = url.Values{}
	}
	for name, tmpl := range in.Query {
		inject.Query.Set(name, fill("query parameter "+name, tmpl))
	}
	inject.Cert, inject.PrivateKey = fill("client_cert.cert", in.Cert.Cert), fill("client_cert.key", in.Cert.Key)
	for _, name := range slices.Sorted(maps.Keys(in.Env)) {
		inject.Env = append(inject.Env, name+"="+fill("environment "+name, in.Env[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(in.Files)) {
		inject.Files = append(inject.Files, upstream.File{Env: name, Content: fill("file "+name, in.Files[name])})
	}
	values := map[string][]byte{}
	if x.msg != nil && x.msg.Method == "tools/call" {
		for name, arg := range in.Args {
			tmpl, aerr := x.chosen(name, arg)
			if err == nil {
				err = aerr
			}
			// A string, however the template came by it: it cannot be anything else.
			if values[name], aerr = json.Marshal(fill("argument "+name, tmpl)); err == nil && aerr != nil {
				err = refuse(kindUnavailable, "credential %q, argument %s: %w", x.lease.Name, name, aerr)
			}
		}
	}
	if err != nil {
		return err
	}
	x.inject = inject
	if len(values) == 0 {
		return nil
	}
	edits, err := x.sent.SetArguments(values)
	if err != nil {
		return refuse(kindUnavailable, "credential %q cannot be put into the arguments: %w", x.lease.Name, err)
	}
	if x.body = wire.Splice(x.sent.Raw, edits...); x.body == nil {
		return refuse(kindUnavailable, "credential %q cannot be put into the arguments", x.lease.Name)
	}
	if x.msg.Modern() {
		if x.spliced == nil {
			x.spliced = values
		}
		maps.Copy(x.spliced, values)
	}
	return nil
}

// maxSplices bounds what an entry lists of them.
const maxSplices = 64

// noteSplice notes a place where what is forwarded is not what was decided.
func (x *exchange) noteSplice(what, where string) {
	if len(x.splices) < maxSplices {
		x.splices = append(x.splices, audit.Splice{What: what, Where: where})
	}
}

// noteSplices notes what has no step of its own: what came off before there was
// a message to decide about, and headers that follow arguments.
func (x *exchange) noteSplices(headers []string) {
	if x.via != "" && x.msg != nil { // the server's name
		switch {
		case x.msg.Method == "completion/complete":
			x.noteSplice("prefix", "params.ref")
		case x.msg.Name != "":
			x.noteSplice("prefix", "params.name")
		case x.msg.URI != "":
			x.noteSplice("prefix", "params.uri")
		}
	}
	if x.ticket != nil {
		x.noteSplice("state", "params.requestState")
	}
	if x.chained != nil {
		x.noteSplice("task", "params.taskId")
	}
	for _, name := range headers {
		x.noteSplice("header", name)
	}
	slices.SortFunc(x.splices, func(a, b audit.Splice) int {
		return cmp.Or(strings.Compare(a.What, b.What), strings.Compare(a.Where, b.Where))
	})
}

// worded refuses an argument that the call's credential replaces and that is
// none of the words which the policy lists for it: before anybody is asked, and
// before anything is minted.
func (x *exchange) worded(context.Context) error {
	spec, ok := x.force.credential(x.server, x.decision.Credential)
	if !ok || x.msg == nil || x.msg.Method != "tools/call" {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Inject.Args)) {
		if _, err := x.chosen(name, spec.Inject.Args[name]); err != nil {
			return err
		}
	}
	return nil
}

// chosen is the template for an argument: that of the word which the agent
// gave, where the policy lists words.
func (x *exchange) chosen(name string, arg rules.Arg) (tmpl string, err error) {
	if arg.Words == nil {
		return arg.Value, nil
	}
	said := "nothing"
	if at, ok := x.msg.Member(x.msg.Arguments, name); ok {
		word, text := x.msg.Text(at)
		if tmpl, ok := arg.Words[word]; ok && text {
			return tmpl, nil
		}
		said = "something else"
		if text {
			said = fmt.Sprintf("%q", clip(word, 64))
		}
	}
	return "", x.denied(fmt.Sprintf("Argument %q names what this call connects to: one of %s, not %s.",
		name, strings.Join(slices.Sorted(maps.Keys(arg.Words)), ", "), said))
}
