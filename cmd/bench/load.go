package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// target is one way to the server.
type target struct {
	url    string
	token  string
	client *http.Client
	size   int // bytes that an answer has, about
}

// turn is what one target did in one turn.
type turn struct {
	took    time.Duration
	warm    int // calls before the clock started: they are in the record too
	latency []time.Duration
	cpu     time.Duration // that the process between took, warming up included
}

func (t turn) rate() float64 { return float64(len(t.latency)) / t.took.Seconds() }

// calls is how many there were, those before the clock started included.
func (t turn) calls() int { return t.warm + len(t.latency) }

// callBytes is the size of one call.
const callBytes = 200

// echoed fills a call up to its size, and comes back in the answer.
var echoed = strings.Repeat("lorem ipsum ", callBytes)

// callBody is a tools/call of callBytes bytes, and the text that it asks for.
func callBody(id int) (body []byte, text string) {
	const form = `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"echo","arguments":{"text":"%s"}}}`
	room := callBytes - len(fmt.Sprintf(form, id, ""))
	text = echoed[:room]
	return fmt.Appendf(nil, form, id, text), text
}

// newClient is a client of the generator: as many connections as it has
// callers, kept.
func newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, DisableCompression: true},
		Timeout:   30 * time.Second,
	}
}

// load has so many callers call, one call after the other each, for d. What
// comes in a tenth of that before warms up and does not count. The first
// answer that is not the echo ends it.
func load(ctx context.Context, t target, callers int, d time.Duration) (turn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	warmed := time.Now().Add(d / 10)
	end := warmed.Add(d)
	var wg sync.WaitGroup
	each := make([]turn, callers)
	for i := range callers {
		wg.Go(func() {
			if err := t.calls(ctx, i, &each[i], warmed, end); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	all := turn{took: time.Since(warmed)}
	for _, e := range each {
		all.latency = append(all.latency, e.latency...)
		all.warm += e.warm
	}
	if err := context.Cause(ctx); err != nil {
		return all, err
	}
	if len(all.latency) == 0 {
		return all, fmt.Errorf("not one call within %s", d)
	}
	return all, nil
}

// calls is one caller, who makes at least one call that counts, however slow.
func (t target) calls(ctx context.Context, id int, into *turn, warmed, end time.Time) error {
	body, text := callBody(id)
	var answer bytes.Buffer
	for began := time.Now(); (began.Before(end) || len(into.latency) == 0) && ctx.Err() == nil; {
		answer.Reset()
		if err := t.call(ctx, body, text, &answer); err != nil {
			return err
		}
		now := time.Now()
		if began.Before(warmed) {
			into.warm++
		} else {
			into.latency = append(into.latency, now.Sub(began))
		}
		began = now
	}
	return nil
}

func (t target) call(ctx context.Context, body []byte, text string, answer *bytes.Buffer) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header["Authorization"] = []string{"Bearer " + t.token}
	req.Header["Content-Type"] = []string{"application/json"}
	req.Header["Accept"] = []string{"application/json, text/event-stream"}
	req.Header["Mcp-Protocol-Version"] = []string{"2025-11-25"}
	resp, err := t.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := answer.ReadFrom(resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || answer.Len() < t.size || !bytes.Contains(answer.Bytes(), []byte(text)) {
		return fmt.Errorf("want the echo in %d bytes, got status %d, %d bytes: %.500s", t.size, resp.StatusCode, answer.Len(), answer.Bytes())
	}
	return nil
}

// percentile is the smallest value that p percent of all are not above; zero
// of none. values are sorted.
func percentile(values []time.Duration, p float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	i := int(float64(len(values))*p/100+0.999999) - 1
	return values[min(max(i, 0), len(values)-1)]
}

// syncLatency measures write and fdatasync of what two entries weigh, as the
// disk does it for any program: appended, nothing else under way.
func syncLatency(dir string) (out []time.Duration, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "fdatasync"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := bytes.Repeat([]byte("x"), 1200)
	for range 100 {
		began := time.Now()
		if _, err := f.Write(b); err != nil {
			return nil, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return nil, err
		}
		out = append(out, time.Since(began))
	}
	slices.Sort(out)
	return out, nil
}
