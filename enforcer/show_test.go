package enforcer

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// What an approver reads must not be able to pose as something else.
func TestShownArgumentsCannotPose(t *testing.T) {
	for name, c := range map[string]struct{ params, want string }{
		"a plain value":            {`{"name":"q","arguments":{"sql":"SELECT 1"}}`, "sql: SELECT 1"},
		"several, in order":        {`{"name":"q","arguments":{"a":1,"b":true,"c":[1,2]}}`, "a: 1\nb: true\nc: [1,2]"},
		"a number as spelled":      {`{"arguments":{"n":1.0}}`, "n: 1.0"},
		"lines stay in a block":    {`{"arguments":{"sql":"SELECT 1\nlimit: 2"}}`, "sql:\n│ SELECT 1\n│ limit: 2"},
		"control characters":       {`{"arguments":{"s":"a\u0007b"}}`, `s: "a\u0007b"`},
		"text that runs backwards": {`{"arguments":{"s":"a\u202eb"}}`, `s: "a\u202eb"`},
		"a name with a line break": {`{"arguments":{"a\nb":"c"}}`, `"a\nb": c`},
		"a name that looks quoted": {`{"arguments":{"a: 1, b":"c"}}`, `"a: 1, b": c`},
		"blanks at an end":         {`{"arguments":{"s":" x"}}`, `s: " x"`},
		"an empty value":           {`{"arguments":{"s":""}}`, `s: ""`},
		"what is beside arguments": {`{"name":"q","arguments":{"a":"b"},"task":{"ttl":1}}`, "a: b\nfurther parameters: {\"task\":{\"ttl\":1}}"},
		"nothing at all":           {`{}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := showParams([]byte(c.params)); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func FuzzShownArguments(f *testing.F) {
	f.Add(`{"arguments":{"sql":"a\nb: c"}}`)
	f.Add(`{"arguments":{"\u2028":"\u202e"}}`)
	f.Fuzz(func(t *testing.T, params string) {
		shown := showParams([]byte(params))
		for _, r := range shown {
			if r != '\n' && r != '\t' && r != utf8.RuneError && (r < ' ' || r == 0x7f || r == 0x2028 || r == 0x202e) {
				t.Fatalf("%q shows %U", params, r)
			}
		}
	})
}

func TestClipCutsAtARune(t *testing.T) {
	for _, s := range []string{"", "short", strings.Repeat("é", 50), strings.Repeat("a", 50), strings.Repeat("€", 50)} {
		got := clip(s, 20)
		if len(got) > 20 || !utf8.ValidString(got) {
			t.Errorf("clip(%q) = %q", s, got)
		}
		if len(s) > 20 && !strings.HasSuffix(got, "…") {
			t.Errorf("clip(%q) = %q does not say that it cut", s, got)
		}
	}
}

// The caller's address is what the last untrusted hop says of itself, never
// what the caller claims.
func TestSource(t *testing.T) {
	e := &Enforcer{Config: Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
	for name, c := range map[string]struct {
		remote string
		hops   []string
		want   string
	}{
		"no proxy":                     {"192.0.2.1:1", nil, "192.0.2.1"},
		"a claim without a proxy":      {"192.0.2.1:1", []string{"203.0.113.9"}, "192.0.2.1"},
		"behind a proxy":               {"10.0.0.1:1", []string{"203.0.113.9"}, "203.0.113.9"},
		"a claim in front of a proxy":  {"10.0.0.1:1", []string{"1.1.1.1, 203.0.113.9"}, "203.0.113.9"},
		"two proxies":                  {"10.0.0.1:1", []string{"203.0.113.9, 10.0.0.2"}, "203.0.113.9"},
		"two headers":                  {"10.0.0.1:1", []string{"1.1.1.1", "203.0.113.9"}, "203.0.113.9"},
		"garbage from the proxy":       {"10.0.0.1:1", []string{"203.0.113.9, x"}, "10.0.0.1"},
		"an address without a port":    {"192.0.2.1", nil, "192.0.2.1"},
		"IPv6 and a mapped proxy":      {"[::ffff:10.0.0.1]:1", []string{"2001:db8::1"}, "2001:db8::1"},
		"nothing said behind a proxy":  {"10.0.0.1:1", nil, "10.0.0.1"},
		"every hop is a proxy of ours": {"10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &http.Request{RemoteAddr: c.remote, Header: http.Header{"X-Forwarded-For": c.hops}}
			if got := e.source(r); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// A session is useless to anyone but its owner, ends when idle, and one owner
// cannot take the room of all.
func TestSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sessions
		s.init(time.Now)
		if _, ok := s.bind(session{id: "1", server: "pg", owner: "alice"}, nil); !ok {
			t.Fatal("not bound")
		}
		owned := func(id, server, owner string) bool {
			leave, ok := s.enter(id, server, owner, speaker{})
			if ok {
				leave()
			}
			return ok
		}
		if !owned("1", "pg", "alice") || owned("1", "pg", "bob") || owned("1", "other", "alice") || owned("2", "pg", "alice") {
			t.Error("a session belongs to its owner, at its server")
		}
		if _, ok := s.bind(session{id: "1", server: "pg", owner: "bob"}, nil); ok {
			t.Error("an id was given to two")
		}
		for i := range maxOwned {
			time.Sleep(time.Second)
			if evicted, ok := s.bind(session{id: "more" + string(rune('a'+i)), server: "pg", owner: "alice"}, nil); !ok || (i == maxOwned-1) != (len(evicted) == 1 && evicted[0].id == "1") {
				t.Errorf("session %d: evicted %v, %v", i, evicted, ok)
			}
		}
		if owned("1", "pg", "alice") {
			t.Error("the evicted session lives")
		}
		time.Sleep(sessionIdle + time.Second)
		if owned("morea", "pg", "alice") {
			t.Error("an idle session lives")
		}
		if gone := s.sweep(); len(gone) != maxOwned || s.has("alice") {
			t.Errorf("swept %d", len(gone))
		}
	})
}

// What is under way in a session keeps it from being idle, and from making room
// for another as long as there is an idle one; nothing makes it older than a day.
func TestSessionsInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sessions
		s.init(time.Now)
		for i := range maxOwned {
			if _, ok := s.bind(session{id: string(rune('a' + i)), server: "pg", owner: "alice"}, nil); !ok {
				t.Fatal("not bound")
			}
		}
		stream, ok := s.enter("a", "pg", "alice", speaker{})
		if !ok {
			t.Fatal("not owned")
		}
		time.Sleep(time.Second)
		if evicted, ok := s.bind(session{id: "next", server: "pg", owner: "alice"}, nil); !ok || len(evicted) != 1 || evicted[0].id == "a" {
			t.Errorf("evicted %v, %v", evicted, ok)
		}
		call, ok := s.enter("a", "pg", "alice", speaker{})
		if !ok {
			t.Fatal("not owned")
		}
		time.Sleep(2 * sessionIdle)
		if gone := s.sweep(); len(gone) != maxOwned-1 {
			t.Errorf("swept %d", len(gone))
		}
		stream()
		time.Sleep(2 * sessionIdle)
		if gone := s.sweep(); len(gone) != 0 {
			t.Error("a session was swept under a running call")
		}
		call()
		time.Sleep(sessionIdle)
		if gone := s.sweep(); len(gone) != 0 {
			t.Error("idle since the call began, it seems")
		}
		time.Sleep(time.Second)
		if gone := s.sweep(); len(gone) != 1 {
			t.Error("not idle, though nothing runs")
		}
		if _, ok := s.bind(session{id: "old", server: "pg", owner: "alice"}, nil); !ok {
			t.Fatal("not bound")
		}
		if _, ok := s.enter("old", "pg", "alice", speaker{}); !ok {
			t.Fatal("not owned")
		}
		time.Sleep(sessionTotal + time.Second)
		if gone := s.sweep(); len(gone) != 1 {
			t.Error("a session is older than a day")
		}
	})
}

// However many clients a subject has, it cannot take the room of all; what ends
// is its own.
func TestSessionsOfOneSubject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sessions
		s.init(time.Now)
		bind := func(id, server, owner, via string) string {
			t.Helper()
			time.Sleep(time.Second)
			evicted, ok := s.bind(session{id: id, server: server, owner: owner, via: via}, nil)
			if !ok {
				t.Fatal("not bound")
			}
			var ids []string
			for _, x := range evicted {
				ids = append(ids, x.id)
			}
			return strings.Join(ids, " ")
		}
		bind("bob's", "pg", "bob|c", "")
		for i := range maxSubject {
			if got := bind(fmt.Sprint(i), fmt.Sprint("server", i%3), fmt.Sprint("alice|c", i), ""); got != "" {
				t.Errorf("session %d: evicted %s", i, got)
			}
			if got := bind(fmt.Sprint("via", i), "pg", fmt.Sprint("alice|c", i), "/mcp"); got != "" {
				t.Errorf("session %d by way of /mcp: evicted %s", i, got)
			}
		}
		if got := bind("next", "pg", "alice|other", ""); got != "0" {
			t.Errorf("evicted %q", got)
		}
	})
}

// Of a spawned server's processes a subject gets its share; sessions that are
// being opened count, and one that comes to nothing gives its place back.
func TestSessionsOfASpawnedServer(t *testing.T) {
	var s sessions
	s.init(time.Now)
	reserve := func(client string) (*session, string) {
		t.Helper()
		place, evicted, ok := s.reserve(session{server: "files", owner: "alice|" + client}, 2)
		switch {
		case !ok:
			return nil, "refused"
		case len(evicted) > 0:
			return place, evicted[0].id
		}
		return place, ""
	}
	one, _ := reserve("a")
	two, _ := reserve("b")
	if _, got := reserve("c"); got != "refused" {
		t.Errorf("beside two that are being opened: %q", got)
	}
	if _, evicted, ok := s.reserve(session{server: "files", owner: "bob|a"}, 2); !ok || evicted != nil {
		t.Errorf("another subject: %v, %v", evicted, ok)
	}
	s.giveBack(one)
	if evicted, ok := s.bind(session{id: "2", server: "files", owner: "alice|b"}, two); !ok || evicted != nil {
		t.Errorf("into its place: %v, %v", evicted, ok)
	}
	if _, got := reserve("c"); got != "" {
		t.Errorf("a place was given back, and: %q", got)
	}
	if _, got := reserve("c"); got != "2" {
		t.Errorf("evicted %q", got)
	}
}

// At the bound of all callers nobody is evicted, and nothing more is opened.
func TestSessionsOfAll(t *testing.T) {
	var s sessions
	s.init(time.Now)
	for i := range maxSessions {
		s.m[fmt.Sprint(i)] = &session{id: fmt.Sprint(i), server: "pg", owner: fmt.Sprintf("s%d|c", i)}
	}
	if evicted, ok := s.bind(session{id: "x", server: "pg", owner: "alice|c"}, nil); ok || evicted != nil {
		t.Errorf("bound, evicted %v", evicted)
	}
	if place, evicted, ok := s.reserve(session{server: "pg", owner: "alice|c"}, 2); ok || place != nil || evicted != nil {
		t.Errorf("reserved, evicted %v", evicted)
	}
}

// Whoever knocks without a key can fill neither the journal nor the memory.
func TestAuthFailuresAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a authFailures
		a.init()
		k := authKey{source: "192.0.2.1", reason: "expired"}
		first, isFirst := a.add(k, "c_1", time.Now())
		again, isAgain := a.add(k, "c_2", time.Now())
		if !isFirst || isAgain || first != "c_1" || again != "c_1" {
			t.Errorf("got %s %v, %s %v", first, isFirst, again, isAgain)
		}
		written := 0
		for i := range 3 * authSources {
			if _, first := a.add(authKey{source: string(rune(i))}, "c", time.Now()); first {
				written++
			}
		}
		if written > authSources || len(a.m) > authSources+1 {
			t.Errorf("%d written, %d held", written, len(a.m))
		}
		if due := a.due(time.Now(), false); len(due) != 0 {
			t.Errorf("%d due at once", len(due))
		}
		time.Sleep(authWindow)
		if due := a.due(time.Now(), false); due[k].n != 1 || len(a.m) != 0 {
			t.Errorf("due %+v", due[k])
		}
	})
}
