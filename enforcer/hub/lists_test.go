package hub

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"countersign/enforcer/budget"
)

// Every server's list is worked through to its end, whatever its page size, in
// both eras.
func TestListsAreMergedPageByPage(t *testing.T) {
	many := func(n int, prefix string) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprintf("%s%02d", prefix, i))
		}
		return all
	}
	for _, era := range []string{"legacy", "modern"} {
		t.Run(era, func(t *testing.T) {
			s := newStage(t, "a", "b", "c", "d")
			s.set("a", tools(3, many(10, "x")...))
			s.set("b", tools(100, many(4, "y")...))
			s.set("c", tools(1, many(7, "z")...))
			s.set("d", tools(5))
			session := ""
			if era == "legacy" {
				session = s.open()
			}
			ask := func(params string) reply {
				if era == "modern" {
					return s.modern("tools/list", params)
				}
				return s.post(session, `{"jsonrpc":"2.0","id":3,"method":"tools/list","params":{`+params+`}}`)
			}
			var all, perPage []string
			cursor := ""
			for range 20 {
				r := ask(cursor)
				if r.refused != nil {
					t.Fatal(r.refused)
				}
				got := names(t, r.result, "tools", "name")
				all = append(all, got...)
				perPage = append(perPage, fmt.Sprint(len(got)))
				if !strings.Contains(r.result, `{ "name":"`+got[0]+`", "n": 1.0 }`) {
					t.Errorf("an element lost its spelling: %s", r.result)
				}
				if era == "modern" != strings.Contains(r.result, `"ttlMs":60000,"cacheScope":"private"`) {
					t.Errorf("caching: %s", r.result)
				}
				_, after, more := strings.Cut(r.result, `"nextCursor":"`)
				if !more {
					break
				}
				text, _, _ := strings.Cut(after, `"`)
				cursor = `"cursor":"` + text + `"`
			}
			want := slices.Concat(many(10, "a__x"), many(4, "b__y"), many(7, "c__z"))
			if !slices.Equal(sorted(all), want) {
				t.Errorf("got %v", all)
			}
			if got := strings.Join(perPage, " "); got != "8 4 4 2 1 1 1" {
				t.Errorf("page sizes %s", got)
			}
			if n := strings.Count(methods(s.fakes.to("b")), "tools/list"); n != 1 {
				t.Errorf("b was asked %d times", n)
			}
		})
	}
}

// A page is bounded: who does not fit comes on the next one.
func TestAFullPageIsContinued(t *testing.T) {
	s := newStage(t, "a", "b", "c")
	for _, name := range s.servers {
		big := strings.Repeat("y", 400<<10)
		s.set(name, func(w http.ResponseWriter, r *http.Request, q sent) bool {
			if q.method != "tools/list" {
				return false
			}
			result(w, q.id, `{"tools":[{"name":"big","description":"`+big+`"}]}`)
			return true
		})
	}
	session := s.open()
	r := s.post(session, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
	if got := names(t, r.result, "tools", "name"); !slices.Equal(got, []string{"a__big", "b__big"}) {
		t.Fatalf("first page: %v", got)
	}
	_, after, _ := strings.Cut(r.result, `"nextCursor":"`)
	text, _, _ := strings.Cut(after, `"`)
	r = s.post(session, `{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"cursor":"`+text+`"}}`)
	if got := names(t, r.result, "tools", "name"); !slices.Equal(got, []string{"c__big"}) || strings.Contains(r.result, "nextCursor") {
		t.Fatalf("second page: %v", got)
	}
}

// What waits to be merged is bounded, however many servers answer at once; who
// found no room is asked again for the next page, and nothing is lost.
func TestMergingHoldsNoMoreThanItsBound(t *testing.T) {
	var servers []string
	for i := range 12 {
		servers = append(servers, fmt.Sprintf("s%02d", i))
	}
	s := newStage(t, servers...)
	s.limit = 64 << 10
	var turnedAway atomic.Int32
	for _, name := range servers {
		big := strings.Repeat("y", 60<<10)
		s.set(name, func(w http.ResponseWriter, r *http.Request, q sent) bool {
			if q.method != "tools/list" {
				return false
			}
			w.Header().Set("Content-Type", "application/json")
			if _, err := fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"t","description":%q}]}}`, q.id, big); err != nil {
				turnedAway.Add(1)
			}
			return true
		})
	}
	session := s.open()
	var all []string
	params := ""
	for page := range servers {
		r := s.post(session, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/list","params":{%s}}`, page+1, params))
		all = append(all, names(t, r.result, "tools", "name")...)
		if page == 0 && turnedAway.Load() != 8 {
			t.Errorf("%d of 12 answers found no room", turnedAway.Load())
		}
		_, after, more := strings.Cut(r.result, `"nextCursor":"`)
		if !more {
			break
		}
		text, _, _ := strings.Cut(after, `"`)
		params = `"cursor":"` + text + `"`
	}
	if got := sorted(all); len(got) != 12 || got[0] != "s00__t" || got[11] != "s11__t" {
		t.Errorf("got %v", got)
	}
}

// A server that hangs, fails, or answers nonsense is left out, in time, and
// said in the record; the next list finds it once it has come back.
func TestOneDeadServerHurtsNoOther(t *testing.T) {
	for _, era := range []string{"legacy", "modern"} {
		t.Run(era, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, "dead", "hangs", "late", "nonsense", "other", "panics", "well")
				s.set("well", tools(5, "one"))
				s.set("late", tools(5, "two"))
				hang, late := make(chan struct{}), make(chan struct{})
				s.fakes.answer["dead"] = func(w http.ResponseWriter, r *http.Request, q sent) { failure(w, 200, q.id, "-32603", "null") }
				s.fakes.answer["hangs"] = func(w http.ResponseWriter, r *http.Request, q sent) { <-hang }
				s.fakes.answer["nonsense"] = func(w http.ResponseWriter, r *http.Request, q sent) {
					w.Header().Set("Content-Type", "application/json")
					_, _ = w.Write([]byte(`<html>`)) // a fake's writer, which takes all
				}
				s.fakes.answer["panics"] = func(http.ResponseWriter, *http.Request, sent) { panic("a fake's") }
				opens := s.fakes.answer["late"]
				s.fakes.answer["late"] = func(w http.ResponseWriter, r *http.Request, q sent) {
					<-late
					opens(w, r, q)
				}
				s.fakes.answer["other"] = func(w http.ResponseWriter, r *http.Request, q sent) { // of neither era that is asked
					if q.method == "initialize" {
						result(w, q.id, `{"protocolVersion":"2026-07-28","capabilities":{}}`)
					} else {
						failure(w, 400, q.id, "-32600", "null")
					}
				}
				session := ""
				if era == "legacy" {
					session = s.open()
				}
				ask := func() reply {
					if era == "modern" {
						return s.modern("tools/list", "")
					}
					return s.post(session, `{"jsonrpc":"2.0","id":3,"method":"tools/list"}`)
				}
				start := time.Now()
				r := ask()
				if took := time.Since(start); took != 10*time.Second {
					t.Errorf("took %v", took)
				}
				if got := names(t, r.result, "tools", "name"); !slices.Equal(got, []string{"well__one"}) {
					t.Errorf("%v %+v", got, r)
				}
				if era == "modern" && !strings.Contains(r.result, `"ttlMs":0`) {
					t.Errorf("a list with gaps may be kept: %s", r.result)
				}
				said := s.answered[len(s.answered)-1]
				for _, want := range []string{"dead left out: said so", "hangs, late left out: no answer in time", "nonsense left out: its answer is not a JSON-RPC message", "other left out: it does not speak", "panics left out: "} {
					if !strings.Contains(said, want) {
						t.Errorf("the record lacks %q: %s", want, said)
					}
				}
				close(late)
				close(hang)
				synctest.Wait()
				asked := len(s.fakes.to("dead"))
				if got := names(t, ask().result, "tools", "name"); !slices.Equal(got, []string{"late__two", "well__one"}) {
					t.Errorf("then %v", got)
				}
				if len(s.fakes.to("dead")) != asked {
					t.Error("a server that failed a moment ago is asked again for a list")
				}
				time.Sleep(reopenAfter)
				if ask(); len(s.fakes.to("dead")) == asked {
					t.Error("a server that failed is never asked again")
				}
			})
		})
	}
}

func TestNobodyAnswersAList(t *testing.T) {
	s := newStage(t, "dead")
	s.fakes.answer["dead"] = func(w http.ResponseWriter, r *http.Request, q sent) { failure(w, 200, q.id, "-32603", "null") }
	r := s.post(s.open(), `{"jsonrpc":"2.0","id":3,"method":"tools/list"}`)
	if r.refused == nil || r.refused.Kind != Unavailable || !strings.Contains(r.refused.Reason, "dead left out: said so") {
		t.Errorf("%+v", r)
	}
	s = newStage(t)
	if r := s.post(s.open(), `{"jsonrpc":"2.0","id":3,"method":"tools/list"}`); r.result != `{"tools":[]}` {
		t.Errorf("without a server: %+v", r)
	}
}

// Names that clients would not take are left out, and what is offered under
// another server's name leads back to its own.
func TestListedNames(t *testing.T) {
	s := newStage(t, "a", "b")
	long := strings.Repeat("x", 126)
	s.set("a", tools(9, "ok", "b__steal", long, long[:125], "sp ace", `esc\u0061ped`))
	s.set("b", func(w http.ResponseWriter, r *http.Request, q sent) bool {
		switch q.method {
		case "prompts/list":
			result(w, q.id, `{"prompts":[{"name":"with a space"}]}`)
		case "resources/list":
			result(w, q.id, `{"resources":[{"uri":"file:\/\/\/x","name":"n"}]}`)
		case "resources/templates/list":
			result(w, q.id, `{"resourceTemplates":[{"uriTemplate":"demo://{id}","name":"n"},{"name":"lacks it"}]}`)
		case "tools/list":
			result(w, q.id, `{"tools":[{"name":"t","_meta":{"ui":{"resourceUri":"ui://x"},"ui/resourceUri":"ui://x"}}]}`)
		default:
			return false
		}
		return true
	})
	session := s.open()
	r := s.post(session, `{"jsonrpc":"2.0","id":3,"method":"tools/list"}`)
	if got := names(t, r.result, "tools", "name"); !slices.Equal(got, []string{"a__ok", "a__b__steal", "a__" + long[:125], "b__t"}) {
		t.Errorf("tools: %v", got)
	}
	if !strings.Contains(r.result, `{"ui":{"resourceUri":"mcp+b+ui://x"},"ui/resourceUri":"mcp+b+ui://x"}`) {
		t.Errorf("pages of tools: %s", r.result)
	}
	if said := s.answered[len(s.answered)-1]; !strings.Contains(said, "3 of a left out") {
		t.Errorf("said %q", said)
	}
	for method, want := range map[string]string{
		"prompts/list":             `"b__with a space"`,
		"resources/list":           `"mcp+b+file:\/\/\/x"`,
		"resources/templates/list": `[{"uriTemplate":"mcp+b+demo://{id}","name":"n"}]`,
	} {
		r := s.post(session, `{"jsonrpc":"2.0","id":4,"method":"`+method+`"}`)
		if !strings.Contains(r.result, want) {
			t.Errorf("%s: %+v", method, r)
		}
	}
}

// What is held of answers is counted in the memory of all calls, and given back:
// also by a server that answers when nobody waits any more.
func TestListsAreCountedInTheMemoryOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "a", "b", "late")
		s.room = budget.New(400<<10, time.Second)
		big := strings.Repeat("y", 60<<10)
		late := make(chan struct{})
		for _, name := range s.servers {
			s.set(name, func(w http.ResponseWriter, r *http.Request, q sent) bool {
				if q.method == "tools/list" {
					if name == "late" {
						<-late
					}
					result(w, q.id, `{"tools":[{"name":"t","description":"`+big+`"}]}`)
				}
				return q.method == "tools/list"
			})
		}
		session := s.open()
		if got := names(t, s.post(session, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`).result, "tools", "name"); len(got) != 2 {
			t.Errorf("%v", got)
		}
		close(late)
		synctest.Wait()
		if n := s.room.Used(); n != 0 {
			t.Errorf("%d bytes are counted for ever", n)
		}
		other := s.room.Share() // of another call
		if err := other.Set(t.Context(), 300<<10); err != nil {
			t.Fatal(err)
		}
		r := s.post(session, `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"a__t"}}`)
		if r.refused != nil {
			t.Errorf("a small answer: %v", r.refused)
		}
		s.set("a", func(w http.ResponseWriter, r *http.Request, q sent) bool {
			result(w, q.id, `{"text":"`+big+`"}`)
			return true
		})
		r = s.post(session, `{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"a__t"}}`)
		if r.refused == nil || r.refused.Kind != Broken || !strings.Contains(r.refused.Reason, "no room: ") {
			t.Errorf("a large answer: %+v", r)
		}
		other.Free()
		if r = s.post(session, `{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"a__t"}}`); r.refused != nil || s.room.Used() != 0 {
			t.Errorf("then: %v, %d bytes", r.refused, s.room.Used())
		}
	})
}
