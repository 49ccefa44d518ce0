package approval_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"countersign/enforcer/approval"
)

func TestLogins(t *testing.T) {
	w := newWorld(t)
	get := func(sub string) (approval.Login, error) { return w.logins.Get(t.Context(), issuer, sub) }
	if _, err := get("bob"); !errors.Is(err, approval.ErrNoLogin) {
		t.Error(err)
	}
	first := w.signIn("bob", "dbas", "staff")
	if got, err := get("bob"); err != nil || fmt.Sprint(got) != fmt.Sprint(first) {
		t.Errorf("%+v, %v", got, err)
	}
	w.pass(time.Minute)
	second := w.signIn("bob", "dbas")
	// An older one that another process was slow with is recorded, and not kept.
	if err := w.logins.Put(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if got, err := get("bob"); err != nil || len(got.Groups) != 1 || !got.At.Equal(second.At) {
		t.Errorf("%+v, %v", got, err)
	}
	if len(w.signed) != 3 || w.signed[0].Event != approval.EventSignedIn || w.signed[0].Login.Sub != "bob" {
		t.Errorf("%+v", w.signed)
	}
	for name, spoil := range map[string]func(*approval.Login){
		"nobody": func(l *approval.Login) { l.Sub = "" }, "no issuer": func(l *approval.Login) { l.Issuer = "" },
		"no id": func(l *approval.Login) { l.ID = "" }, "hostile id": func(l *approval.Login) { l.ID = "a b" },
		"no time": func(l *approval.Login) { l.At = time.Time{} }, "no auth_time": func(l *approval.Login) { l.AuthTime = time.Time{} },
		"groups without end": func(l *approval.Login) { l.Groups = []string{strings.Repeat("g", 60<<10)} },
	} {
		l := second
		spoil(&l)
		if err := w.logins.Put(t.Context(), l); !errors.Is(err, approval.ErrLogin) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(w.signed) != 3 {
		t.Error("what was refused is recorded")
	}
	// What cannot be recorded is not there.
	w.breakRecord(errors.New("disk full"))
	eve := second
	eve.Sub = "eve"
	if err := w.logins.Put(t.Context(), eve); !errors.Is(err, approval.ErrUnrecorded) {
		t.Error(err)
	}
	if _, err := get("eve"); !errors.Is(err, approval.ErrNoLogin) {
		t.Error(err)
	}
}

func TestLinks(t *testing.T) {
	const team = "T0TEST"
	w := newWorld(t)
	bob, eve := w.signIn("bob"), w.signIn("eve")
	link := func(user string, l approval.Login) error { return w.logins.Link(t.Context(), team, user, l) }
	w.breakRecord(errors.New("disk full"))
	if err := link("U0BOB", bob); !errors.Is(err, approval.ErrUnrecorded) {
		t.Error(err)
	}
	w.breakRecord(nil)
	if _, err := w.logins.BySlack(t.Context(), team, "U0BOB"); !errors.Is(err, approval.ErrUnlinked) {
		t.Errorf("linked without a record: %v", err)
	}
	if err := link("U0BOB", bob); err != nil {
		t.Fatal(err)
	}
	recorded := len(w.signed)
	if e := w.signed[recorded-1]; e.Event != approval.EventLinked || e.Team != team || e.User != "U0BOB" || e.Login.Sub != "bob" || e.Login.ID == "" {
		t.Errorf("%+v", e)
	}
	if err := link("U0BOB", bob); err != nil || len(w.signed) != recorded {
		t.Errorf("linked again: %v", err)
	}
	if err := link("U0BOB", eve); !errors.Is(err, approval.ErrLinked) {
		t.Errorf("the Slack user taken over: %v", err)
	}
	if err := link("U0EVE", bob); !errors.Is(err, approval.ErrLinked) || !strings.Contains(err.Error(), "U0BOB") {
		t.Errorf("the person taken over: %v", err)
	}
	if err := w.logins.Link(t.Context(), "T0OTHER", "U0BOB2", bob); err != nil {
		t.Errorf("in another workspace: %v", err)
	}
	for _, user := range []string{"", "u0bob", "U0.BOB", "U0*", strings.Repeat("U", 33)} {
		if err := link(user, bob); !errors.Is(err, approval.ErrLogin) {
			t.Errorf("%q: %v", user, err)
		}
	}
	// The link leads to the newest sign-in.
	w.pass(time.Hour)
	w.signIn("bob", "dbas")
	if l, err := w.logins.BySlack(t.Context(), team, "U0BOB"); err != nil || len(l.Groups) != 1 {
		t.Errorf("%+v, %v", l, err)
	}
	// To unlink takes permission: it happens, recorded or not.
	w.breakRecord(errors.New("disk full"))
	if err := w.logins.Unlink(t.Context(), team, "U0BOB"); err == nil {
		t.Error("nobody hears that it is not recorded")
	}
	w.breakRecord(nil)
	if err := w.logins.Unlink(t.Context(), team, "U0BOB"); !errors.Is(err, approval.ErrUnlinked) {
		t.Error(err)
	}
	if err := link("U0BOB", eve); err != nil {
		t.Errorf("free again: %v", err)
	}
	if err := w.logins.Unlink(t.Context(), team, "U0BOB"); err != nil || w.signed[len(w.signed)-1].Event != approval.EventUnlinked {
		t.Error(err)
	}
}

// Nothing of a person stays for longer than needed.
func TestLoginsAreSwept(t *testing.T) {
	w := newWorld(t)
	for _, sub := range []string{"bob", "eve"} {
		if err := w.logins.Link(t.Context(), "T0TEST", "U0"+strings.ToUpper(sub), w.signIn(sub)); err != nil {
			t.Fatal(err)
		}
	}
	linking := approval.Linking{Logins: w.logins, Seal: seal(t, 1)}
	token, err := linking.Begin(policy(t, "a", signers()), approval.SlackUser{Team: "T0TEST", User: "U0GUS"})
	if err == nil {
		_, err = linking.Offer(t.Context(), policy(t, "a", signers()), token, w.signIn("gus"))
	}
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.logins.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if keys, err := w.people.Keys(t.Context(), ""); err != nil || len(keys) != 6 {
		t.Errorf("%v, %v", keys, err)
	}
	w.pass(29 * 24 * time.Hour)
	w.signIn("eve")
	w.pass(25 * time.Hour)
	if n, err := w.logins.Sweep(t.Context()); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if keys, err := w.people.Keys(t.Context(), ""); err != nil || len(keys) != 2 {
		t.Errorf("%v, %v", keys, err)
	}
	if e := w.signed[len(w.signed)-1]; e.Event != approval.EventUnlinked || e.User != "U0BOB" || e.Login.Sub != "bob" {
		t.Errorf("%+v", e)
	}
	if l, err := w.logins.BySlack(t.Context(), "T0TEST", "U0EVE"); err != nil || l.Sub != "eve" {
		t.Errorf("%+v, %v", l, err)
	}
}
