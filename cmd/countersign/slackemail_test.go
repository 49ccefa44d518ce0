package main

import (
	"strings"
	"testing"

	slackapi "github.com/slack-go/slack"

	"countersign/fixtures/slack"
)

func TestSlackEmail(t *testing.T) {
	t.Parallel()
	users := []slack.User{
		{ID: "U1", Name: "dana", Email: "dana@example.com"},
		{ID: "U2", Name: "guest", Email: "guest@example.com", Guest: true},
		{ID: "U3", Name: "gone", Email: "gone@example.com", Deleted: true},
		{ID: "U4", Name: "other", Email: "dana@example.com", Team: "T0OTHER"},
		{ID: "U5", Name: "none"},
	}
	ask := func(scopes []string, team, user string) (string, error) {
		s, err := slack.New(slack.Options{Users: users, Scopes: scopes})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
		return slackEmail(slackapi.New(s.Token(), slackapi.OptionAPIURL(s.API())))(t.Context(), team, user)
	}
	both := []string{"users:read", "users:read.email"}
	for _, test := range []struct {
		scopes           []string
		team, user, want string
		err              string
	}{
		{both, "T0TEST", "U1", "dana@example.com", ""},
		{both, "T0TEST", "U2", "", ""},
		{both, "T0TEST", "U3", "", ""},
		{both, "T0OTHER", "U4", "", ""}, // whoever runs that workspace says what addresses are in it
		{both, "T0OTHER", "U1", "", ""},
		{both, "T0TEST", "U4", "", ""},
		{both, "T0TEST", "U5", "", ""},
		{[]string{"users:read"}, "T0TEST", "U1", "", ""},
		{[]string{"chat:write"}, "T0TEST", "U1", "", "missing_scope"},
		{both, "T0TEST", "U9", "", "user_not_found"},
	} {
		got, err := ask(test.scopes, test.team, test.user)
		if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%v %s %s: %q, %v", test.scopes, test.team, test.user, got, err)
		}
	}
}
