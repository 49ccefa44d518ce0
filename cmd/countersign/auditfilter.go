package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"countersign/audit/index"
)

// filterFlags are the conditions that log, stats and export have in common.
type filterFlags struct {
	filter       index.Filter
	since, until string
}

const filterHelp = `
Conditions: each that is given must hold; one may be given several times, or with
commas between its values, and then one of them is enough. * stands for any text:
--tool 'delete_*'.

Times are 2026-11-23T14:00:00Z (RFC 3339), 2026-11-23 (the day's beginning, UTC),
or how long ago: 90s, 15m, 2h, 7d, 4w.`

func (f *filterFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	list := func(to *[]string, name, help string) { fl.StringSliceVar(to, name, nil, help) }
	list(&f.filter.Subjects, "subject", "who: the token's sub")
	list(&f.filter.Issuers, "issuer", "the issuer of who")
	list(&f.filter.Clients, "client", "through which client")
	list(&f.filter.Servers, "server", "of which server")
	list(&f.filter.Tools, "tool", "which tool")
	list(&f.filter.Methods, "method", "which MCP method")
	list(&f.filter.Decisions, "decision", "what the policy said: allow, approve or deny; of answers, too")
	list(&f.filter.Kinds, "kind", "kinds of entries: intent, outcome, refused, approval, credential, policy, freeze, …")
	list(&f.filter.Statuses, "status", "what became of it: ok, error, blocked, cancelled, refused, unknown, frozen, …")
	list(&f.filter.Rules, "rule", "decided by this rule")
	list(&f.filter.Calls, "call", "of a call (c_…)")
	list(&f.filter.Approvals, "approval", "of an approval (ap_…)")
	list(&f.filter.Sessions, "session", "of an MCP session, as entries name it")
	list(&f.filter.Holders, "holder", "of a holder, as entries name it")
	list(&f.filter.Policies, "policy", "decided under this policy commit: 4 digits of it or more")
	fl.StringVar(&f.filter.Text, "text", "", "with this text in the reason")
	fl.StringVar(&f.since, "since", "", "from this time on")
	fl.StringVar(&f.until, "until", "", "before this time")
}

// take checks what was given, and gives the filter.
func (f *filterFlags) take(from readFlags, now time.Time) (index.Filter, error) {
	out := f.filter
	out.Log = from.prefix
	var errs []error
	bad := func(flag, value, want string) {
		errs = append(errs, fmt.Errorf("--%s: %q; want %s", flag, value, want))
	}
	for _, d := range out.Decisions {
		if !slices.Contains([]string{"allow", "approve", "deny"}, d) {
			bad("decision", d, "allow, approve or deny")
		}
	}
	for _, p := range out.Policies {
		if !commitPrefix.MatchString(p) {
			bad("policy", p, "4 to 64 hexadecimal digits of a commit")
		}
	}
	for _, v := range []struct{ flag, value string }{{"since", f.since}, {"until", f.until}} {
		if v.value == "" {
			continue
		}
		at, err := moment(v.flag, v.value, now)
		errs = append(errs, err)
		if v.flag == "since" {
			out.Since = at
		} else {
			out.Until = at
		}
	}
	if !out.Since.IsZero() && !out.Until.IsZero() && !out.Since.Before(out.Until) {
		errs = append(errs, fmt.Errorf("--since %s is not before --until %s", clock(out.Since), clock(out.Until)))
	}
	return out, errors.Join(errs...)
}

var commitPrefix = regexp.MustCompile(`^[0-9a-fA-F]{4,64}$`)

// moment reads a time, or how long ago it was.
func moment(flag, text string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	unit := map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour}
	if n := len(text); n > 1 && unit[text[n-1:]] > 0 {
		if v, err := strconv.ParseUint(text[:n-1], 10, 16); err == nil {
			return now.UTC().Add(-time.Duration(v) * unit[text[n-1:]]), nil
		}
	} else if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.UTC().Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("--%s: %q; want a time like 2026-11-23T14:00:00Z, a day like 2026-11-23, or how long ago, like 2h or 7d", flag, text)
}

// unknown says which values of the filter no entry has, and which there are: a
// name misspelt finds nothing, and looks like peace.
func unknown(cmd *cobra.Command, r *reading, f index.Filter) error {
	missing, err := r.Unknown(cmd.Context(), f)
	if err != nil {
		return err
	}
	for _, flag := range []struct{ name, col string }{
		{"subject", "sub"}, {"issuer", "issuer"}, {"client", "client"}, {"server", "server"}, {"tool", "tool"}, {"method", "method"},
		{"kind", "kind"}, {"status", "status"}, {"session", "session"}, {"holder", "holder"},
	} {
		if len(missing[flag.col]) == 0 {
			continue
		}
		const most = 12
		have, err := r.Words(cmd.Context(), flag.col, most+1)
		if err != nil {
			return err
		}
		if len(have) > most {
			have = append(have[:most], "…")
		}
		there := "there is none"
		if len(have) > 0 {
			there = "there is " + strings.Join(have, ", ")
		}
		if flag.col == "kind" || flag.col == "status" { // a closed list: it is misspelt, or did not happen yet
			there = "the record has " + strings.Join(have, ", ")
		}
		note(cmd, fmt.Sprintf("--%s: no entry has %s; %s", flag.name, strings.Join(missing[flag.col], ", "), there))
	}
	return nil
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func entriesOf(n int64) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

// size is a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}
