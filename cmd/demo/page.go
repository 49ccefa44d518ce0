package main

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"strings"
	"time"

	"countersign/fixtures/slack"
	"countersign/fixtures/stage"
)

// page is a small local page on which a person plays bob: it shows the newest
// card of the channel, and its buttons send the same signed interactions that
// Slack would.
type page struct {
	stage *stage.Stage
	url   string
	srv   *http.Server
	done  chan struct{} // a press was accepted
	fails chan error    // the page cannot be served
}

func servePage(s *stage.Stage) (*page, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &page{stage: s, url: "http://" + l.Addr().String() + "/", done: make(chan struct{}, 1), fails: make(chan error, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.show)
	mux.HandleFunc("POST /press", p.press)
	p.srv = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := p.srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			p.fails <- err
		}
	}()
	return p, nil
}

func (p *page) close() { _ = p.srv.Close() } // the demo ends anyway

// forget drops a press that came before it was asked for: the second of a
// double click, say.
func (p *page) forget() {
	select {
	case <-p.done:
	default:
	}
}

// pressed waits for the person. A press that is not accepted is shown on the
// page, and can be done again.
func (p *page) pressed(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case err := <-p.fails:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

var pageHTML = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>#db-approvals</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1d1c1d}
pre{background:#f6f6f4;border:1px solid #ddd;border-radius:6px;padding:1rem;overflow-x:auto;line-height:1.35}
button{font:inherit;padding:.5rem 1.2rem;border-radius:6px;border:1px solid #999;margin-right:.6rem;cursor:pointer}
button[value=approve]{background:#007a5a;border-color:#007a5a;color:#fff}
input{font:inherit;padding:.45rem;width:16rem;max-width:100%}
</style>
<h1>#db-approvals</h1>
<p>You are bob. This page stands in for Slack: a press sends the enforcer the same signed request.</p>
{{with .Note}}<p role="status"><strong>{{.}}</strong></p>{{end}}
{{if .Card}}<pre>{{.Card}}</pre>{{else}}<p>No card yet: the agent is about to ask. <a href="/">Look again</a></p>{{end}}
{{if .Open}}<form method="post" action="/press"><input type="hidden" name="ts" value="{{.TS}}">
<p><button name="what" value="approve" formnovalidate>Approve</button>
<label>Reason <input name="reason" value="Ask billing first" required maxlength="1000"></label> <button name="what" value="deny">Deny</button></p></form>{{end}}
</html>
`))

// newest is the last card of the channel.
func (p *page) newest() (slack.Card, bool) {
	cards := p.stage.Slack.Cards(stage.Channel)
	if len(cards) == 0 {
		return slack.Card{}, false
	}
	return cards[len(cards)-1], true
}

func (p *page) show(w http.ResponseWriter, r *http.Request) {
	note := ""
	if r.URL.RawQuery == "sent" {
		note = "Sent. The terminal shows what happened; the card says it too, once it is updated."
	}
	p.render(w, note)
}

func (p *page) render(w http.ResponseWriter, note string) {
	data := struct {
		Note, Card, TS string
		Open           bool
	}{Note: note}
	if c, ok := p.newest(); ok {
		data.Card, data.TS = slack.Render(c, 72), c.TS
		for _, b := range c.Buttons() {
			data.Open = data.Open || strings.Contains(b.ActionID, "approve") || strings.Contains(b.ActionID, "deny")
		}
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'")
	if err := pageHTML.Execute(w, data); err != nil {
		fmt.Fprintln(w, err)
	}
}

// press sends the interaction. The page is on loopback and for one person; a
// foreign page cannot press, since its Origin gives it away.
func (p *page) press(w http.ResponseWriter, r *http.Request) {
	if o := r.Header.Get("Origin"); o != "" && o+"/" != p.url {
		http.Error(w, "another page may not press here", http.StatusForbidden)
		return
	}
	c, ok := p.newest()
	if !ok || c.TS != r.FormValue("ts") {
		p.render(w, "That card has changed: look again.")
		return
	}
	err := bobPresses(r.Context(), p.stage, c, r.FormValue("what"), r.FormValue("reason"))
	if err != nil {
		p.render(w, "It was not accepted: "+err.Error())
		return
	}
	select {
	case p.done <- struct{}{}:
	default: // nobody waits: --keep, after the story
	}
	http.Redirect(w, r, "/?sent", http.StatusSeeOther) // so that a reload does not press again
}
