package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"countersign/audit"
	"countersign/fixtures/slack"
	"countersign/fixtures/stage"
)

const quotaSettings = `version: 1
approvals: { hold: 5m }
limits: { depth: 16, headers: 8KB }
quotas:
- { id: echoes, tool: echo, per: [subject], minute: %d }
- { id: both, tool: [echo, both], per: [subject], minute: 5 }
- { id: dailies, tool: daily, per: [subject], day: 2 }
- { id: one-slow, tool: slow, concurrent: 1 }
- { id: spending, tool: spend, per: [subject], day: 1, concurrent: 1 }
- { id: reading, method: resources/read, per: [client, server], minute: 1 }
- { id: tools, tool: "each-*", per: [tool], minute: 2 }
`

const quotaRules = `
- { id: all, server: probe, tool: [echo, both, daily, slow, "each-*"], effect: allow }
- { id: read, server: probe, method: resources/read, effect: allow }
- { id: spend, server: probe, tool: spend, effect: approve, reason: Spending needs a DBA, approval: { approvers: dba } }
`

// A call over a quota is refused in words that say which, how much, and when;
// it is in the record, and neither the server nor a person hears of it.
func TestQuotasAndLimits(t *testing.T) {
	t.Parallel()
	// All of it is on one day (UTC): what was counted on another is none of today's.
	if left := time.Until(time.Now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)); left < 2*patience {
		<-time.After(left)
	}
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	amend(t, s, s.Dana, map[string]string{"countersign.yaml": fmt.Sprintf(quotaSettings, 3), "rules/probe.yaml": quotaRules,
		"servers/probe.yaml": "server: probe\nurl: " + u.url + "\ntimeout: 2m\n"})
	slow := make(chan struct{})
	u.answerWith(func(w http.ResponseWriter, r *http.Request, id json.RawMessage, method, tool string) bool {
		if tool == "slow" {
			select {
			case <-slow:
			case <-r.Context().Done(): // the test has failed
			}
		}
		if tool != "both" {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"deep":%s0%s}}`, id, strings.Repeat("[", 20), strings.Repeat("]", 20))
		return true
	})
	p := serving(t, s, nil)
	alice, bob := p.token("alice", "support"), p.token("bob", "support")
	over := func(p *program, a answer, quota, bound string) {
		p.t.Helper()
		want := regexp.MustCompile(`^quota ` + quota + ` is exhausted: ` + regexp.QuoteMeta(bound) + `\. Try again in [1-9][0-9]* s \(countersign record c_`)
		if a.status != http.StatusOK || !want.MatchString(a.text) || a.header.Get("Retry-After") == "" {
			p.t.Errorf("want a refusal by %s (%s), not %d %s", quota, bound, a.status, a.body)
		}
		en := p.wants(a.record, audit.KindRefused, "over-quota")
		if !strings.Contains(string(en.Detail), `"quota":"`+quota+`"`) || !strings.Contains(en.Reason, "quota "+quota) {
			p.t.Errorf("the entry names no quota: %+v", en)
		}
	}
	echo := func(p *program, token string) answer {
		p.t.Helper()
		return p.ask("probe", token, toolCall("echo", "x"))
	}

	t.Run("a minute", func(t *testing.T) {
		p := p.in(t)
		for range 3 {
			if a := echo(p, alice); a.text != "ran echo" {
				t.Fatalf("within the quota: %s", a.body)
			}
		}
		for range 3 { // refused by echoes, they use up nothing of both
			a := echo(p, alice)
			if over(p, a, "echoes", "3 calls a minute"); !a.failed {
				t.Errorf("not a tool result with isError: %s", a.body)
			}
		}
		if u.ran("echo") != 3 {
			t.Errorf("the server was asked %d times", u.ran("echo"))
		}
		if a := echo(p, bob); a.text != "ran echo" {
			t.Errorf("another subject: %s", a.body)
		}
		if got := p.gauge(`countersign_over_quota_total{quota="echoes"}`); got != "3" {
			t.Errorf("the metric says %q", got)
		}
	})
	t.Run("a change of the policy keeps the counts", func(t *testing.T) {
		p := p.in(t)
		p.inForce(amend(t, s, s.Dana, map[string]string{"countersign.yaml": fmt.Sprintf(quotaSettings, 4)}))
		if a := echo(p, alice); a.text != "ran echo" {
			t.Errorf("the fourth: %s", a.body)
		}
		over(p, echo(p, alice), "echoes", "4 calls a minute")
	})
	t.Run("a request that is no tool call", func(t *testing.T) {
		p := p.in(t)
		read := `{"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"uri":"x:y"}}`
		if a := p.ask("probe", alice, read); a.code != 0 {
			t.Fatalf("within the quota: %s", a.body)
		}
		a := p.ask("probe", bob, read) // counted by client, and both use the same
		over(p, a, "reading", "1 call a minute")
		if a.code != -32000 || !strings.Contains(a.body, `"quota":"reading"`) || !strings.Contains(a.body, `"retry_after":`) {
			t.Errorf("the error's data: %s", a.body)
		}
	})
	t.Run("each tool by itself", func(t *testing.T) {
		p := p.in(t)
		each := func(token, tool string) answer { p.t.Helper(); return p.ask("probe", token, toolCall(tool, "x")) }
		for _, tool := range []string{"each-a", "each-b"} { // which share nothing, and all subjects share each
			for _, token := range []string{alice, bob} {
				if a := each(token, tool); a.text != "ran "+tool {
					t.Fatalf("within the quota: %s", a.body)
				}
			}
			over(p, each(alice, tool), "tools", "2 calls a minute")
			over(p, each(bob, tool), "tools", "2 calls a minute")
			if u.ran(tool) != 2 {
				t.Errorf("%s ran %d times", tool, u.ran(tool))
			}
		}
	})
	t.Run("at one time", func(t *testing.T) {
		p := p.in(t)
		first := p.asking(t.Context(), "probe", alice, toolCall("slow", "x"))
		p.await("the slow call", func() bool { return u.ran("slow") == 1 })
		over(p, p.ask("probe", bob, toolCall("slow", "x")), "one-slow", "1 call at one time")
		close(slow)
		if a := <-first; a.text != "ran slow" {
			t.Errorf("the first: %s", a.body)
		}
		p.await("its place", func() bool { return p.ask("probe", bob, toolCall("slow", "x")).text == "ran slow" })
	})
	t.Run("before a person is asked", func(t *testing.T) {
		p := p.in(t)
		spend := func(what string) answer { p.t.Helper(); return p.ask("probe", alice, toolCall("spend", what)) }
		pressed := press(t, s, func(card slack.Card) error {
			// While it waits it has its place; it is not counted yet.
			over(p, spend("another meanwhile"), "spending", "1 call at one time")
			return s.Slack.Press(t.Context(), card, button(t, card, "approve"), stage.SlackBob)
		})
		if a := spend("the first"); a.text != "ran spend" {
			t.Errorf("approved: %s", a.body)
		}
		if err := <-pressed; err != nil {
			t.Fatal(err)
		}
		over(p, spend("the second"), "spending", "1 call a day (UTC)")
		asked := p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindApproval && en.Status == "asked" })
		if len(asked) != 1 || u.ran("spend") != 1 {
			t.Errorf("people were asked %d times, and %d ran", len(asked), u.ran("spend"))
		}
	})
	t.Run("depth", func(t *testing.T) {
		p := p.in(t)
		deep := strings.Replace(toolCall("both", "x"), `"x"`, strings.Repeat("[", 20)+strings.Repeat("]", 20), 1)
		if a := p.ask("probe", bob, deep); a.status != http.StatusBadRequest || !strings.Contains(a.text, "nested too deeply") {
			t.Errorf("a deep request: %s", a.body)
		}
		a := p.ask("probe", bob, toolCall("both", "x"))
		if !strings.Contains(a.text, "blocked") || !strings.Contains(a.text, "nested too deeply") {
			t.Errorf("a deep answer: %s", a.body)
		}
		p.wants(a.record, audit.KindOutcome, "blocked")
	})
	t.Run("headers", func(t *testing.T) {
		p := p.in(t)
		for size, words := range map[int]string{9 << 10: "the request's headers are larger than 8192 bytes, the limit of this policy", 90 << 10: "431 Request Header Fields Too Large"} {
			a, err := p.send(t.Context(), "probe", bob, toolCall("daily", "x"), func(r *http.Request) { r.Header.Set("X-Long", strings.Repeat("x", size)) })
			if err != nil || a.status != http.StatusRequestHeaderFieldsTooLarge || !strings.Contains(a.body, words) {
				t.Errorf("%d bytes: %v %d %s", size, err, a.status, a.body)
			}
			if size < 64<<10 {
				p.wants(a.record, audit.KindRefused, "bad-request")
			}
		}
	})

	daily := func(p *program, token string) answer {
		p.t.Helper()
		return p.ask("probe", token, toolCall("daily", "x"))
	}
	for range 2 {
		if a := daily(p, alice); a.text != "ran daily" {
			t.Fatalf("within the day's quota: %s", a.body)
		}
	}
	over(p, daily(p, alice), "dailies", "2 calls a day (UTC)")
	file := s.Path("state/quotas")
	p.await("the counts on disk", func() bool {
		b, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(b), "\ndailies ")
	})
	p.kill()

	p = serving(t, s, nil) // after a crash
	over(p, daily(p, alice), "dailies", "2 calls a day (UTC)")
	if a := daily(p, bob); a.text != "ran daily" {
		t.Errorf("another subject after the restart: %s", a.body)
	}
	p.stop()
	saved, err := os.ReadFile(file)
	if err != nil || strings.Count(string(saved), "\ndailies ") != 2 {
		t.Fatalf("saved at the stop: %q %v", saved, err)
	}
	damaged := strings.Replace(string(saved), " 2\n", " 1\n", 1)
	if err := os.WriteFile(file, []byte(damaged), 0o600); err != nil {
		t.Fatal(err)
	}

	p = serving(t, s, nil) // nobody knows what is left of the day
	if a := daily(p, p.token("carol", "support")); !strings.Contains(a.text, "today's counts were lost, so nothing is left of it until midnight UTC") {
		t.Errorf("with damaged counts: %s", a.body)
	}
	if a := echo(p, alice); a.text != "ran echo" || p.gauge("countersign_quota_counts_lost") != "1" || !strings.Contains(p.log.String(), "remove the file and start again") {
		t.Errorf("with damaged counts, another quota: %s", a.body)
	}
	p.stop()
	if left, err := os.ReadFile(file); err != nil || string(left) != damaged {
		t.Errorf("the damaged file was written over: %q %v", left, err)
	}
}

func TestExplainNamesTheQuotas(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"countersign.yaml": "version: 1\nquotas:\n- { id: each, per: [tool, subject], minute: 5, concurrent: 2 }\n- { id: all, day: 9 }\n- { id: others, tool: other, day: 9 }\n",
		"servers/s.yaml":   "server: s\nurl: http://s.example.com\n",
		"rules/r.yaml":     "- { id: r, server: s, tool: echo, effect: allow }\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	out, errs, code := command(t, nil, "policy", "explain", dir, "--server", "s", "--tool", "echo", "--sub", "alice")
	want := "  quota   all: 9 a day, all together\n  quota   each: 5 a minute, 2 at one time, for each subject and tool\n"
	if code != 0 || !strings.HasPrefix(out, "ALLOW") || !strings.HasSuffix(out, want) {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	if out, _, _ := command(t, nil, "policy", "explain", dir, "--server", "s", "--tool", "denied", "--sub", "alice"); strings.Contains(out, "quota") {
		t.Errorf("what is denied is counted nowhere: %s", out)
	}
}
