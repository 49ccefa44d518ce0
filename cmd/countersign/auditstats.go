package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"countersign/audit"
	"countersign/audit/index"
)

// callStats adds up calls. Times are in milliseconds.
type callStats struct {
	Name    string   `json:"name,omitempty"`
	Calls   int64    `json:"calls"`
	OK      int64    `json:"ok"`
	Denied  int64    `json:"denied"`  // by the policy
	Refused int64    `json:"refused"` // for another reason: no approval, a freeze, a quota, a peer that is down, …
	Failed  int64    `json:"failed"`  // forwarded, and anything but ok
	Masked  int64    `json:"masked"`  // values
	P50     *float64 `json:"p50_ms,omitempty"`
	P95     *float64 `json:"p95_ms,omitempty"`

	took []time.Duration
}

// approverStats adds up what a person said; the empty name stands for approvals
// that ended without anybody.
type approverStats struct {
	Name     string   `json:"name"`
	Approved int64    `json:"approved"`
	Denied   int64    `json:"denied"`
	P50      *float64 `json:"p50_ms,omitempty"` // from asking to the decision
	P95      *float64 `json:"p95_ms,omitempty"`

	waits []time.Duration
}

type ruleStats struct {
	Rule     string `json:"rule"`
	Refusals int64  `json:"refusals"`
}

// statistics are what audit stats --json prints.
type statistics struct {
	Since     *time.Time              `json:"since,omitempty"`
	Until     *time.Time              `json:"until,omitempty"`
	Total     callStats               `json:"total"`
	By        map[string][]*callStats `json:"by"`
	Refusals  []ruleStats             `json:"refusals"`
	Approvals struct {
		Asked    int64            `json:"asked"`
		Outcomes map[string]int64 `json:"outcomes"` // "open": not decided, as far as the record goes
		P50      *float64         `json:"p50_ms,omitempty"`
		P95      *float64         `json:"p95_ms,omitempty"`
		By       []*approverStats `json:"by"`
	} `json:"approvals"`
}

// groups are what calls can be added up by.
var groups = []struct {
	name string
	of   func(index.Tally) string
}{
	{"subject", func(t index.Tally) string { return t.Sub }},
	{"client", func(t index.Tally) string { return t.Client }},
	{"server", func(t index.Tally) string { return t.Server }},
	{"tool", func(t index.Tally) string { return strings.TrimSpace(t.Server + " " + cmp.Or(t.Tool, t.Method)) }},
	{"decision", func(t index.Tally) string { return t.Decision }},
	{"status", func(t index.Tally) string { return t.Status }},
	{"day", func(t index.Tally) string { return t.Day.Format("2006-01-02") }},
}

func groupNames() []string {
	var names []string
	for _, g := range groups {
		names = append(names, g.name)
	}
	return append(names, "rule", "approver")
}

func auditStatsCommand() *cobra.Command {
	var from readFlags
	var filter filterFlags
	var by []string
	var top int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Add up calls, refusals, times, approvals and masks",
		Long: `Adds up the calls that ended: how many, what became of them, and how long they took
(the median and the 95th percentile, exactly, from the request's arrival to its
answer, with the time that people took); refusals by the rules that made them; and
approvals by who decided them, with how long people took.
` + filterHelp + `

Of the conditions, approvals keep to the times and to subjects, clients, servers and
tools. --json prints one object: docs/record.md says what is in it.`,
		Example: `  countersign audit stats --repo ./audit --since 30d
  countersign audit stats --repo ./audit --by tool,approver --server customers`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, b := range by {
				if !slices.Contains(groupNames(), b) {
					return fmt.Errorf("--by: %q; want %s", b, strings.Join(groupNames(), ", "))
				}
			}
			if top < 0 {
				return fmt.Errorf("--top: %d; want a number of rows, or 0 for all", top)
			}
			f, err := filter.take(from, time.Now())
			if err != nil {
				return err
			}
			return from.read(cmd, func(r *reading) error {
				if err := unknown(cmd, r, f); err != nil {
					return err
				}
				approvals, err := r.Approvals(cmd.Context(), f)
				if err != nil {
					return err
				}
				s, err := addUp(r.Tallies(cmd.Context(), f), approvals)
				if err != nil {
					return err
				}
				s.bounds(f)
				if asJSON {
					b, err := json.Marshal(s)
					if err != nil {
						return err
					}
					return printJSON(cmd, b)
				}
				return s.print(cmd.OutOrStdout(), by, top)
			})
		},
	}
	from.add(cmd)
	filter.add(cmd)
	cmd.Flags().StringSliceVar(&by, "by", nil, "only by these: "+strings.Join(groupNames(), ", "))
	cmd.Flags().IntVar(&top, "top", 10, "so many rows of each, those with the most calls; 0: all")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON, all of it")
	return cmd
}

// addUp adds up calls and approvals.
func addUp(tallies iter.Seq2[index.Tally, error], approvals []index.Approval) (*statistics, error) {
	s := &statistics{By: map[string][]*callStats{}}
	sums := make([]map[string]*callStats, len(groups))
	for i := range sums {
		sums[i] = map[string]*callStats{}
	}
	refusals := map[string]int64{}
	for t, err := range tallies {
		if err != nil {
			return nil, err
		}
		s.Total.add(t)
		for i, g := range groups {
			name := g.of(t)
			sum := sums[i][name]
			if sum == nil {
				sum = &callStats{Name: cmp.Or(name, "-")}
				sums[i][name] = sum
			}
			sum.add(t)
		}
		if t.Decision == "deny" {
			rules := t.Rules
			if len(rules) == 0 {
				rules = []string{"(no rule allows it)"}
			}
			for _, r := range rules {
				refusals[r] += t.Calls
			}
		}
	}
	s.Total.finish()
	for i, g := range groups {
		for _, sum := range sums[i] {
			sum.finish()
		}
		s.By[g.name] = append([]*callStats{}, slices.SortedFunc(maps.Values(sums[i]), func(a, b *callStats) int {
			if g.name == "day" {
				return cmp.Compare(a.Name, b.Name)
			}
			return cmp.Or(cmp.Compare(b.Calls, a.Calls), cmp.Compare(a.Name, b.Name))
		})...) // a list in JSON, though there is nothing in it
	}
	s.Refusals = []ruleStats{}
	for r, n := range refusals {
		s.Refusals = append(s.Refusals, ruleStats{r, n})
	}
	slices.SortFunc(s.Refusals, func(a, b ruleStats) int {
		return cmp.Or(cmp.Compare(b.Refusals, a.Refusals), cmp.Compare(a.Rule, b.Rule))
	})
	s.approvals(approvals)
	return s, nil
}

func (s *callStats) add(t index.Tally) {
	s.Calls += t.Calls
	s.Masked += t.Masked
	s.took = append(s.took, t.Took...)
	switch {
	case t.Decision == "deny":
		s.Denied += t.Calls
	case t.Kind == string(audit.KindRefused) || t.Status == audit.StatusNotRun: // whatever the reason, it was not sent on
		s.Refused += t.Calls
	case t.Status == audit.StatusOK:
		s.OK += t.Calls
	default:
		s.Failed += t.Calls
	}
}

func (s *callStats) finish() { s.P50, s.P95 = percentiles(s.took) }

// percentiles are the median and the 95th, in milliseconds: the times that half,
// and 95 of a hundred, do not exceed.
func percentiles(all []time.Duration) (p50, p95 *float64) {
	if len(all) == 0 {
		return nil, nil
	}
	at := func(percent int) *float64 {
		ms := float64(nth(all, (len(all)*percent+99)/100-1).Microseconds()) / 1000
		return &ms
	}
	return at(50), at(95)
}

// nth is the value that would be at place n if all were sorted (Hoare's
// selection): sorting a year of calls for each column would be felt.
func nth(all []time.Duration, n int) time.Duration {
	for len(all) > 12 {
		a, b, c := all[0], all[len(all)/2], all[len(all)-1]
		pivot := max(min(a, b), min(max(a, b), c))
		i, j := 0, len(all)-1
		for i <= j {
			for all[i] < pivot {
				i++
			}
			for all[j] > pivot {
				j--
			}
			if i <= j {
				all[i], all[j] = all[j], all[i]
				i++
				j--
			}
		}
		switch {
		case n <= j:
			all = all[:j+1]
		case n >= i:
			all, n = all[i:], n-i
		default:
			return pivot
		}
	}
	slices.Sort(all)
	return all[n]
}

func (s *statistics) approvals(all []index.Approval) {
	s.Approvals.Outcomes = map[string]int64{}
	s.Approvals.By = []*approverStats{}
	by := map[string]*approverStats{}
	var waits []time.Duration
	for _, a := range all {
		s.Approvals.Asked++
		s.Approvals.Outcomes[cmp.Or(a.Outcome, "open")]++
		if a.Decided.IsZero() {
			continue
		}
		wait := a.Decided.Sub(a.Asked)
		if len(a.People) > 0 {
			waits = append(waits, wait)
		}
		for _, p := range a.People {
			sum := by[p]
			if sum == nil {
				sum = &approverStats{Name: p}
				by[p] = sum
			}
			if a.Outcome == "denied" {
				sum.Denied++
			} else {
				sum.Approved++
			}
			sum.waits = append(sum.waits, wait)
		}
	}
	s.Approvals.P50, s.Approvals.P95 = percentiles(waits)
	for _, sum := range by {
		sum.P50, sum.P95 = percentiles(sum.waits)
		s.Approvals.By = append(s.Approvals.By, sum)
	}
	slices.SortFunc(s.Approvals.By, func(a, b *approverStats) int {
		return cmp.Or(cmp.Compare(b.Approved+b.Denied, a.Approved+a.Denied), cmp.Compare(a.Name, b.Name))
	})
}

func (s *statistics) bounds(f index.Filter) {
	if !f.Since.IsZero() {
		s.Since = &f.Since
	}
	if !f.Until.IsZero() {
		s.Until = &f.Until
	}
}

// print prints what was asked for, or an overview.
func (s *statistics) print(out io.Writer, by []string, top int) error {
	span := ""
	if s.Since != nil {
		span += " since " + clock(*s.Since)
	}
	if s.Until != nil {
		span += " until " + clock(*s.Until)
	}
	t := s.Total
	fmt.Fprintf(out, "%s%s: %d ok, %d denied, %d refused, %d failed; %d masked", count(int(t.Calls), "call"), span, t.OK, t.Denied, t.Refused, t.Failed, t.Masked)
	if t.P50 != nil {
		fmt.Fprintf(out, "; half within %s, 95%% within %s", ms(t.P50), ms(t.P95))
	}
	fmt.Fprintln(out)
	if len(by) == 0 {
		by = []string{"subject", "tool", "day", "rule", "approver"}
	}
	var errs []error
	for _, name := range by {
		switch name {
		case "rule":
			errs = append(errs, s.printRefusals(out, top))
		case "approver":
			errs = append(errs, s.printApprovals(out, top))
		default:
			errs = append(errs, printCalls(out, name, s.By[name], top))
		}
	}
	return errors.Join(errs...)
}

func printCalls(out io.Writer, name string, rows []*callStats, top int) error {
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	left := 0
	if top > 0 && len(rows) > top {
		left = len(rows) - top
		if name == "day" { // the newest days, still in their order
			rows = rows[left:]
		} else {
			rows = rows[:top]
		}
	}
	t := &table{head: []string{strings.ToUpper(name), "CALLS", "OK", "DENIED", "REFUSED", "FAILED", "MASKED", "P50", "P95"}, cut: []int{0}, right: []int{1, 2, 3, 4, 5, 6, 7, 8}, width: terminal(out)}
	for _, r := range rows {
		t.row(r.Name, fmt.Sprint(r.Calls), fmt.Sprint(r.OK), fmt.Sprint(r.Denied), fmt.Sprint(r.Refused), fmt.Sprint(r.Failed), fmt.Sprint(r.Masked), ms(r.P50), ms(r.P95))
	}
	return errors.Join(t.print(out), more(out, left))
}

func (s *statistics) printRefusals(out io.Writer, top int) error {
	if len(s.Refusals) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	rows, left := s.Refusals, 0
	if top > 0 && len(rows) > top {
		rows, left = rows[:top], len(rows)-top
	}
	t := &table{head: []string{"REFUSED BY RULE", "CALLS"}, cut: []int{0}, right: []int{1}, width: terminal(out)}
	for _, r := range rows {
		t.row(r.Rule, fmt.Sprint(r.Refusals))
	}
	return errors.Join(t.print(out), more(out, left))
}

func (s *statistics) printApprovals(out io.Writer, top int) error {
	if s.Approvals.Asked == 0 {
		return nil
	}
	var outcomes []string
	for _, o := range slices.Sorted(maps.Keys(s.Approvals.Outcomes)) {
		outcomes = append(outcomes, fmt.Sprintf("%d %s", s.Approvals.Outcomes[o], o))
	}
	fmt.Fprintf(out, "\n%s asked for: %s", count(int(s.Approvals.Asked), "approval"), safe(strings.Join(outcomes, ", ")))
	if s.Approvals.P50 != nil {
		fmt.Fprintf(out, "; people took %s (half), %s (95%%)", ms(s.Approvals.P50), ms(s.Approvals.P95))
	}
	fmt.Fprintln(out)
	if len(s.Approvals.By) == 0 {
		return nil
	}
	rows, left := s.Approvals.By, 0
	if top > 0 && len(rows) > top {
		rows, left = rows[:top], len(rows)-top
	}
	t := &table{head: []string{"APPROVER", "APPROVED", "DENIED", "P50", "P95"}, cut: []int{0}, right: []int{1, 2, 3, 4}, width: terminal(out)}
	for _, r := range rows {
		t.row(r.Name, fmt.Sprint(r.Approved), fmt.Sprint(r.Denied), ms(r.P50), ms(r.P95))
	}
	return errors.Join(t.print(out), more(out, left))
}

func more(out io.Writer, left int) error {
	if left == 0 {
		return nil
	}
	_, err := fmt.Fprintf(out, "… and %d more (--top 0 shows all)\n", left)
	return err
}

func ms(v *float64) string {
	if v == nil {
		return ""
	}
	return millis(time.Duration(*v * float64(time.Millisecond)))
}
