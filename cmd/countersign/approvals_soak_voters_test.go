package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"countersign/fixtures/slack"
)

// What people press in the soak of approvals, in earnest and not.

// ballots remembers every payload that went out, by its hash: what the record
// says of a vote names it.
type ballots struct {
	mu    sync.Mutex
	sent  map[string]pressed
	count map[string]int // presses by kind, and what the app said to them
}

type pressed struct {
	user, approval, action string
	forged                 string // how; "": in earnest
}

func (b *ballots) note(payload []byte, p pressed) {
	sum := sha256.Sum256(payload)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sent == nil {
		b.sent = map[string]pressed{}
	}
	b.sent["sha256:"+hex.EncodeToString(sum[:])] = p
}

func (b *ballots) tally(kind string, err error) {
	said := "taken"
	var status *slack.Status
	switch {
	case errors.As(err, &status):
		said = fmt.Sprint("answered ", status.Code)
	case err != nil:
		said = "not delivered, or not acknowledged"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.count == nil {
		b.count = map[string]int{}
	}
	b.count[kind+": "+said]++
}

// voter is one person at Slack.
type voter struct {
	w     *approvalSoak
	r     *rand.Rand
	user  string
	sets  []int
	seen  []slack.Card // as they were
	spoke []byte       // a payload of theirs, sent in earnest
}

// vote presses, until there is nothing more to press.
func (w *approvalSoak) vote(ctx context.Context, person int) {
	sets := len(w.members)
	v := &voter{w: w, r: rand.New(rand.NewPCG(w.seed, uint64(person)+1<<20)), user: userOf(w.people[person]), sets: []int{person % sets, (person + 1) % sets}}
	for pause(ctx, time.Duration(20+v.r.IntN(200))*time.Millisecond) == nil {
		v.press(ctx)
	}
}

// press presses one button of one card.
func (v *voter) press(ctx context.Context) {
	set := v.sets[v.r.IntN(2)]
	if v.r.IntN(6) == 0 { // that of others
		set = v.r.IntN(len(v.w.members))
	}
	all := slices.DeleteFunc(v.w.stage.Slack.Cards(channelOf(set)), func(c slack.Card) bool { return len(c.Buttons()) == 0 })
	old := len(v.seen) > 0 && v.r.IntN(10) == 0
	var card slack.Card
	switch {
	case old:
		card = v.seen[v.r.IntN(len(v.seen))]
	case len(all) == 0:
		return
	default:
		card = all[v.r.IntN(len(all))]
		if v.seen = append(v.seen, card); len(v.seen) > 100 {
			v.seen = v.seen[50:]
		}
	}
	approve, ok := action(card, "approve")
	if !ok { // a list of many, say
		b := card.Buttons()[v.r.IntN(len(card.Buttons()))]
		v.w.ballots.tally("another button", v.w.stage.Slack.PressButton(ctx, card, b, v.user))
		return
	}
	if strings.Contains(card.Text, "hasty") && v.r.IntN(4) > 0 {
		return
	}
	id, hash, _ := strings.Cut(approve.Value, ".")
	p := pressed{user: v.user, approval: id, action: "approve"}
	times := 1
	if v.r.IntN(5) == 0 {
		times += 1 + v.r.IntN(2)
	}
	set1 := func(m map[string]any, in, name string, value any) { m[in].(map[string]any)[name] = value }
	ballot := func(value string) func(map[string]any) {
		return func(m map[string]any) { m["actions"].([]any)[0].(map[string]any)["value"] = value }
	}
	forge := func(how string, edit func(map[string]any)) {
		p.forged = how
		v.send(ctx, how, card, approve, p, times, edit)
	}
	switch roll := v.r.IntN(100); {
	case roll < 55:
		kind := "approve"
		if old {
			kind = "approve on an older card"
		}
		v.send(ctx, kind, card, approve, p, times, nil)
	case roll < 63:
		v.deny(ctx, card, p, times)
	case roll < 67:
		if b, ok := action(card, "details"); ok {
			v.w.ballots.tally("details", v.w.stage.Slack.PressButton(ctx, card, b, v.user))
		}
	case roll < 72:
		other := v.seen[v.r.IntN(len(v.seen))]
		b, _ := action(other, "approve")
		if of, theirs, ok := strings.Cut(b.Value, "."); ok && of != id {
			forge("the ballot of another request", ballot(id+"."+theirs))
		}
	case roll < 76:
		forge("a changed ballot", ballot(id+"."+strings.Map(func(c rune) rune { return '0' + (c+1)%10 }, hash)))
	case roll < 80:
		forge("a user whom policy does not know", func(m map[string]any) { set1(m, "user", "id", "U0NOBODY") })
	case roll < 84:
		forge("a user of another team", func(m map[string]any) { set1(m, "user", "team_id", "T0ELSEWHERE") })
	case roll < 88:
		forge("from another workspace", func(m map[string]any) { set1(m, "team", "id", "T0ELSEWHERE") })
	case roll < 94:
		v.impersonate(ctx, p)
	default:
		if v.spoke != nil { // as it was, signed as it was: it may count only if it did not then
			v.w.ballots.tally("replayed", v.w.deliver(ctx, v.spoke, v.w.stage.Slack.Secret(), 0, ""))
		}
	}
}

// action is the button that does this.
func action(c slack.Card, what string) (slack.Button, bool) {
	for _, b := range c.Buttons() {
		if strings.HasSuffix(b.ActionID, what) {
			return b, true
		}
	}
	return slack.Button{}, false
}

// send presses, and keeps what is sent.
func (v *voter) send(ctx context.Context, kind string, card slack.Card, b slack.Button, p pressed, times int, edit func(map[string]any)) {
	err := v.w.stage.Slack.PressButton(ctx, card, b, v.user, slack.Delivery{Times: times, Edit: v.keep(p, edit)})
	v.w.ballots.tally(kind, err)
}

// keep has a payload remembered as it goes out.
func (v *voter) keep(p pressed, edit func(map[string]any)) func(map[string]any) {
	return func(m map[string]any) {
		if edit != nil {
			edit(m)
		}
		payload, err := json.Marshal(m) // as the double does
		if err != nil {
			v.w.t.Error(err)
			return
		}
		v.w.ballots.note(payload, p)
		if p.forged == "" {
			v.spoke = payload
		}
	}
}

// deny presses Deny, and gives a reason in the modal; or lets the modal be about
// another request.
func (v *voter) deny(ctx context.Context, card slack.Card, p pressed, times int) {
	b, ok := action(card, "deny")
	if !ok {
		return
	}
	p.action = "deny"
	err := v.w.stage.Slack.PressButton(ctx, card, b, v.user)
	v.w.ballots.tally("deny", err)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second) // the modal does not open for whom it is not
	defer cancel()
	var modal slack.View
	if v.w.stage.Slack.Await(ctx, func() bool {
		for _, open := range v.w.stage.Slack.Views(v.user) {
			if strings.Contains(open.PrivateMetadata, b.Value) {
				modal = open
				return true
			}
		}
		return false
	}) != nil {
		return
	}
	kind, edit := "deny, with a reason", func(map[string]any) {}
	if v.r.IntN(5) == 0 {
		kind, p.forged = "a modal about another request", "modal"
		id, hash, _ := strings.Cut(b.Value, ".")
		edit = func(m map[string]any) {
			m["view"].(map[string]any)["private_metadata"] = strings.ReplaceAll(modal.PrivateMetadata, b.Value, id+"."+strings.Repeat("0", len(hash)))
		}
	}
	v.w.ballots.tally(kind, v.w.stage.Slack.SubmitModal(ctx, modal, v.user, map[string]string{"countersign_reason": "no, says " + v.user},
		slack.Delivery{Times: times, Edit: v.keep(p, edit)}))
}

// impersonate sends over HTTP what Slack did not sign. None of it may be taken.
func (v *voter) impersonate(ctx context.Context, p pressed) {
	if v.spoke == nil {
		return
	}
	p.forged = "signature"
	var m map[string]any
	if err := json.Unmarshal(v.spoke, &m); err != nil {
		v.w.t.Error(err)
		return
	}
	m["trigger_id"] = fmt.Sprint("forged.", v.r.Uint64())
	payload, err := json.Marshal(m)
	if err != nil {
		v.w.t.Error(err)
		return
	}
	v.w.ballots.note(payload, p)
	kind, secret, age, tail := "signed with another secret", "not the signing secret", time.Duration(0), ""
	switch v.r.IntN(3) {
	case 1:
		kind, secret, age = "signed an hour ago", v.w.stage.Slack.Secret(), time.Hour
	case 2:
		kind, secret, tail = "changed on the way", v.w.stage.Slack.Secret(), "&x=1"
	}
	err = v.w.deliver(ctx, payload, secret, age, tail)
	v.w.ballots.tally(kind, err)
	if err == nil {
		v.w.t.Errorf("%s, and taken", kind)
	}
}

// deliver posts a payload as Slack does, signed with a secret at some time, with
// something added behind the signature's back.
func (w *approvalSoak) deliver(ctx context.Context, payload []byte, secret string, age time.Duration, tail string) error {
	body := url.Values{"payload": {string(payload)}}.Encode()
	stamp := strconv.FormatInt(time.Now().Add(-age).Unix(), 10)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.stage.URL+"/slack/interactions", strings.NewReader(body+tail))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("X-Slack-Request-Timestamp", stamp)
	req.Header.Set("X-Slack-Signature", slack.Sign(secret, stamp, []byte(body)))
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return &slack.Status{Code: resp.StatusCode}
	}
	return nil
}
