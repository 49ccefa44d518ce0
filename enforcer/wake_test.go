package enforcer

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"countersign/enforcer/approval"
	"countersign/enforcer/kv"
	"countersign/rules"
)

// BenchmarkWake is the time from a person's vote to the beginning of the answer
// that the waiting caller gets: the vote is counted, the caller woken, the
// request decided again, the approval spent, the intent durable, the call
// forwarded over loopback, its outcome durable. (The approvals' own entries are
// kept in memory here: each would be one more write of the journal.)
//
// "here" is a vote at the enforcer where the caller waits; "elsewhere" one that
// another process counts, over the same store.
func BenchmarkWake(b *testing.B) {
	stores := map[string]func(b *testing.B) *kv.Store{
		"embedded": func(b *testing.B) *kv.Store {
			s, err := kv.OpenEmbedded(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			return s
		},
		"nats": func(b *testing.B) *kv.Store {
			s, err := kv.Connect(natsServer(b), 1)
			if err != nil {
				b.Fatal(err)
			}
			return s
		},
	}
	for name, open := range stores {
		for _, elsewhere := range []bool{false, true} {
			where := map[bool]string{false: "here", true: "elsewhere"}[elsewhere]
			b.Run(name+"-"+where, func(b *testing.B) {
				store := open(b)
				l := newLadderOver(b, store, "1h", nil)
				book := l.Approvals
				if elsewhere {
					bucket, err := store.Bucket(b.Context(), "approvals")
					if err != nil {
						b.Fatal(err)
					}
					book = approval.New(approval.Config{Bucket: bucket, Digest: (*rules.Policy).AsksDigest,
						Record: func(context.Context, approval.Approval, string) error { return nil }})
				}
				var took []time.Duration
				for n := 1; b.Loop(); n++ {
					took = append(took, l.wake(b, book, n))
				}
				slices.Sort(took)
				b.ReportMetric(0, "ns/op") // of the whole round, which says nothing
				b.ReportMetric(ms(took[len(took)/2]), "p50-ms")
				b.ReportMetric(ms(took[len(took)*99/100]), "p99-ms")
			})
		}
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// wake has one caller wait over a connection, and votes.
func (l *ladder) wake(b *testing.B, book *approval.Book, n int) time.Duration {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	waits, answered := make(chan struct{}), make(chan time.Time, 1)
	go func() {
		body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"risky","arguments":{"n":%[1]d}}}`, n)
		err := l.listen(ctx, body, waits, answered)
		if err != nil {
			b.Error(err)
		}
	}()
	<-waits
	id := l.await(approval.EventAsked, n)
	start := time.Now()
	l.voteBy(book, id, true)
	return (<-answered).Sub(start)
}

// listen makes a call over a connection: waits is closed when its first bytes
// are there, answered gets the time of the first byte of the answer.
func (l *ladder) listen(ctx context.Context, body string, waits chan<- struct{}, answered chan<- time.Time) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, l.PublicURL+"/mcp/echo", strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header = http.Header{"Authorization": {"Bearer " + l.token}, "Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for first := true; ; first = false {
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		if first {
			close(waits)
		}
		if strings.Contains(line, "ran risky") {
			answered <- time.Now()
			return nil
		}
	}
}

func natsServer(b *testing.B) string {
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: b.TempDir(), SyncAlways: true})
	if err != nil {
		b.Fatal(err)
	}
	ns.Start()
	b.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(time.Minute) {
		b.Fatal("NATS did not start")
	}
	return ns.ClientURL()
}
