package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"countersign/audit/index"
)

// exportColumns are the columns of the CSV, in their order. They are documented
// in docs/record.md: new ones are put at the end.
var exportColumns = []struct {
	name string
	of   func(index.Found) string
}{
	{"time", func(f index.Found) string { return f.Entry.Time.UTC().Format("2006-01-02T15:04:05.000000Z") }},
	{"origin", func(f index.Found) string { return f.Origin }},
	{"seq", func(f index.Found) string { return strconv.FormatUint(f.Entry.Seq, 10) }},
	{"kind", func(f index.Found) string { return string(f.Entry.Kind) }},
	{"call", func(f index.Found) string { return f.Entry.Call }},
	{"policy", func(f index.Found) string { return f.Entry.Policy }},
	{"issuer", func(f index.Found) string { return f.Entry.Issuer }},
	{"sub", func(f index.Found) string { return f.Entry.Sub }},
	{"client", func(f index.Found) string { return f.Entry.Client }},
	{"holder", func(f index.Found) string { return f.Entry.Holder }},
	{"session", func(f index.Found) string { return f.Entry.Session }},
	{"server", func(f index.Found) string { return f.Entry.Server }},
	{"method", func(f index.Found) string { return f.Entry.Method }},
	{"tool", func(f index.Found) string { return f.Entry.Tool }},
	{"resource", func(f index.Found) string { return f.Entry.Resource }},
	{"effect", func(f index.Found) string { return f.Entry.Effect }},
	{"rules", func(f index.Found) string { return strings.Join(f.Entry.Rules, " ") }},
	{"reason", func(f index.Found) string { return f.Entry.Reason }},
	{"approval", func(f index.Found) string { return f.Entry.Approval }},
	{"credential", func(f index.Found) string { return f.Entry.Credential }},
	{"lease", func(f index.Found) string { return f.Entry.Lease }},
	{"args", func(f index.Found) string { return f.Entry.Args }},
	{"result", func(f index.Found) string { return f.Entry.Result }},
	{"digest", func(f index.Found) string { return f.Entry.Digest }},
	{"status", func(f index.Found) string { return f.Entry.Status }},
	{"ms", func(f index.Found) string { return decimal(f.Entry.Millis) }},
	{"masked", func(f index.Found) string {
		n := 0
		for _, m := range f.Entry.Masked {
			n += m.Count
		}
		return decimal(float64(n))
	}},
	{"bytes", func(f index.Found) string { return decimal(float64(f.Entry.Bytes)) }},
	{"detail", func(f index.Found) string { return string(f.Entry.Detail) }},
}

func decimal(v float64) string {
	if v == 0 {
		return ""
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

func auditExportCommand() *cobra.Command {
	var from readFlags
	var filter filterFlags
	var format string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write entries as JSON lines or CSV",
		Long: `Writes the entries that are meant, oldest first, to standard output.

jsonl: a JSON object a line, {"origin":…,"entry":{…}}, the entry being the exact line
of the record. csv: RFC 4180, a head and a row for each entry, in columns that are
documented in docs/record.md. A cell that a spreadsheet would take for a formula
begins with an apostrophe, and what does not print is spelt as \u{XXXX}.
` + filterHelp,
		Example: `  countersign audit export --repo ./audit --format csv --since 30d > record.csv
  countersign audit export --repo ./audit --format jsonl --decision deny | jq .entry.reason`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "jsonl" && format != "csv" {
				return fmt.Errorf("--format: %q; want jsonl or csv", format)
			}
			f, err := filter.take(from, time.Now())
			if err != nil {
				return err
			}
			return from.read(cmd, func(r *reading) error {
				if err := unknown(cmd, r, f); err != nil {
					return err
				}
				found := r.Entries(cmd.Context(), f, false)
				if format == "jsonl" {
					return newEntryPrinter(cmd.OutOrStdout(), true, true).all(found)
				}
				w := newSheet(cmd.OutOrStdout())
				for e, err := range found {
					if err == nil {
						err = w.row(e)
					}
					if err != nil {
						return errors.Join(err, w.flush())
					}
				}
				return w.flush()
			})
		},
	}
	from.add(cmd)
	filter.add(cmd)
	cmd.Flags().StringVar(&format, "format", "jsonl", "jsonl or csv")
	return cmd
}

// sheet writes entries as CSV.
type sheet struct{ w *csv.Writer }

func newSheet(out io.Writer) *sheet {
	s := &sheet{csv.NewWriter(out)}
	var head []string
	for _, c := range exportColumns {
		head = append(head, c.name)
	}
	_ = s.w.Write(head) // an error stays with the writer, and flush gives it
	return s
}

func (s *sheet) row(f index.Found) error {
	row := make([]string, len(exportColumns))
	for i, c := range exportColumns {
		row[i] = inert(c.of(f))
	}
	return s.w.Write(row)
}

func (s *sheet) flush() error {
	s.w.Flush()
	return s.w.Error()
}

// inert is text that no spreadsheet takes for a formula, and no terminal for more
// than text. Full-width signs are signs in some.
func inert(s string) string {
	s = safe(s)
	if trimmed := strings.TrimLeft(s, " \u00a0\u3000'\""); trimmed != "" && strings.ContainsRune("=+-@＝＋－＠|%", []rune(trimmed)[0]) {
		return "'" + s
	}
	return s
}
