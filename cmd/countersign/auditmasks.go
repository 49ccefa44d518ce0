package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"countersign/audit"
	"countersign/audit/index"
)

// maskedRow is what one detector masked at one place of one tool's messages,
// over all entries that were looked at. Indexes in the place are written [*],
// so that it can stand in an entry under allow as it is.
type maskedRow struct {
	Detector string    `json:"detector"`
	Server   string    `json:"server"`
	Tool     string    `json:"tool,omitempty"` // or the method, if there is no tool
	Method   string    `json:"method,omitempty"`
	Place    string    `json:"place"`
	Count    int       `json:"count"` // of values
	Calls    int       `json:"calls"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	LastCall string    `json:"last_call"` // to look it up with audit show
}

func auditMasksCommand() *cobra.Command {
	var from readFlags
	var since, until, detector, server, tool string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "masks",
		Short: "Show what was masked: by which detector, where, how often; never what",
		Long: `Adds up what the record says about masks: known values, detectors, keys and field
rules, by server, tool and place. [*] stands for any index. A place as it is shown
here can be the path of an entry under allow in masks/*.yaml.`,
		Example: `  countersign audit masks --repo ./audit --since 2026-11-01T00:00:00Z`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			flags := filterFlags{since: since, until: until, filter: index.Filter{Masked: true}}
			if server != "" {
				flags.filter.Servers = []string{server}
			}
			if tool != "" {
				flags.filter.Tools = []string{tool}
			}
			f, err := flags.take(from, time.Now())
			if err != nil {
				return err
			}
			return from.read(cmd, func(r *reading) error {
				sum := maskSum{}
				for e, err := range r.Entries(cmd.Context(), f, false) {
					if err != nil {
						return err
					}
					sum.add(e.Entry, detector)
				}
				return printMasks(cmd.OutOrStdout(), sum.rows(), asJSON)
			})
		},
	}
	from.add(cmd)
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "only from this time on: a time, a day, or how long ago, like 7d")
	f.StringVar(&until, "until", "", "only before this time")
	f.StringVar(&detector, "detector", "", "only of this detector: its name, known, key, or field:<id>")
	f.StringVar(&server, "server", "", "only of this server")
	f.StringVar(&tool, "tool", "", "only of this tool")
	f.BoolVar(&asJSON, "json", false, "a JSON object a line")
	return cmd
}

// maskSum adds up rows by all that they differ in but numbers and times.
type maskSum map[string]*maskedRow

var anyIndex = regexp.MustCompile(`\[[0-9]+\]`)

func (s maskSum) add(e audit.Entry, detector string) {
	seen := map[*maskedRow]bool{}
	for _, m := range e.Masked {
		if detector != "" && m.Detector != detector {
			continue
		}
		row := maskedRow{Detector: m.Detector, Server: e.Server, Tool: e.Tool, Place: anyIndex.ReplaceAllString(m.Place, "[*]"), First: e.Time}
		if row.Tool == "" {
			row.Method = e.Method
		}
		key := strings.Join([]string{row.Detector, row.Server, row.Tool, row.Method, row.Place}, "\x00")
		r := s[key]
		if r == nil {
			r = &row
			s[key] = r
		}
		if !seen[r] {
			seen[r] = true
			r.Calls++
		}
		r.Count += m.Count
		if e.Time.Before(r.First) {
			r.First = e.Time
		}
		if !e.Time.Before(r.Last) {
			r.Last, r.LastCall = e.Time, e.Call
		}
	}
}

// rows are the sums, the most frequent first.
func (s maskSum) rows() []*maskedRow {
	var out []*maskedRow
	for _, r := range s {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *maskedRow) int {
		if a.Count != b.Count {
			return b.Count - a.Count
		}
		return strings.Compare(a.Detector+"\x00"+a.Server+"\x00"+a.Tool+"\x00"+a.Method+"\x00"+a.Place, b.Detector+"\x00"+b.Server+"\x00"+b.Tool+"\x00"+b.Method+"\x00"+b.Place)
	})
	return out
}

func printMasks(w io.Writer, rows []*maskedRow, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		for _, r := range rows {
			if err := enc.Encode(r); err != nil {
				return err
			}
		}
		return nil
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "nothing was masked")
		return err
	}
	// The place is what goes into a policy: it is never cut, and stands last.
	tab := &table{head: []string{"VALUES", "CALLS", "DETECTOR", "AT", "LAST", "CALL", "PLACE"}, cut: []int{2, 3}, right: []int{0, 1}, width: terminal(w)}
	for _, r := range rows {
		tab.row(strconv.Itoa(r.Count), strconv.Itoa(r.Calls), r.Detector, r.Server+" "+cmp.Or(r.Tool, r.Method), r.Last.UTC().Format("01-02"), shortID(r.LastCall), r.Place)
	}
	return tab.print(w)
}
