package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The parts of the scene are this test binary, told by its environment.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		os.Exit(play(role))
	}
	os.Exit(m.Run())
}

// A whole run, short: all three ways answer, nothing fails, and the record
// holds what was called. How fast it was is not looked at.
func TestRun(t *testing.T) {
	program := filepath.Join(t.TempDir(), "countersign")
	build := exec.Command("go", "build", "-o", program, "countersign/cmd/countersign")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	o := options{duration: 100 * time.Millisecond, rounds: 1, clients: []int{1, 8}, sizes: []int{200, 1_000_000}, program: program, dir: t.TempDir(), profile: t.TempDir()}
	var out strings.Builder
	if err := bench(t.Context(), o, &out); err != nil {
		t.Fatal(err)
	}
	for _, way := range ways {
		if n := strings.Count(out.String(), " "+way+" "); n < len(kinds)*len(o.sizes)*len(o.clients) {
			t.Errorf("%s is not in the table:\n%s", way, out.String())
		}
	}
	if fi, err := os.Stat(filepath.Join(o.profile, "countersign.cpu.pprof")); err != nil || fi.Size() == 0 {
		t.Errorf("no profile: %v", err)
	}
	left, err := os.ReadDir(o.dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// An answer that is not the echo, and a record that misses a call, are errors.
func TestWhatFails(t *testing.T) {
	s := &scene{dir: t.TempDir()}
	addr, err := s.role("server", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	// Nothing injects a credential here.
	to := target{url: "http://" + addr + "/credential/json/200", client: newClient()}
	t.Cleanup(to.client.CloseIdleConnections)
	if _, err := load(t.Context(), to, 2, time.Second); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("want the refusal, got %v", err)
	}
	// An answer that is cut short is none.
	to.url, to.size = "http://"+addr+"/json/200", 10_000
	if _, err := load(t.Context(), to, 2, time.Second); err == nil || !strings.Contains(err.Error(), "want the echo in 10000 bytes, got status 200") {
		t.Errorf("want the short answer, got %v", err)
	}
	if _, err := numbers("clients", "1,none", 9); err == nil {
		t.Error("a list of clients that is none was read")
	}
}

func TestPercentile(t *testing.T) {
	var values []time.Duration
	for i := range 200 {
		values = append(values, time.Duration(i+1))
	}
	for _, c := range []struct {
		values []time.Duration
		p      float64
		want   time.Duration
	}{
		{values, 50, 100}, {values, 99, 198}, {values, 100, 200}, {values, 0, 1},
		{values[:1], 99, 1}, {values[:3], 50, 2}, {nil, 50, 0},
	} {
		if got := percentile(c.values, c.p); got != c.want {
			t.Errorf("p%v of %d values: want %d, got %d", c.p, len(c.values), c.want, got)
		}
	}
}

func TestCallBody(t *testing.T) {
	for _, id := range []int{0, 9, 63, 1023} {
		body, text := callBody(id)
		if len(body) != callBytes || !strings.Contains(string(body), `"`+text+`"`) {
			t.Errorf("%d bytes: %s", len(body), body)
		}
	}
}

// fast is a turn of n calls of one latency each.
func fast(n int, each time.Duration) turn {
	t := turn{took: time.Second, warm: 1, cpu: time.Duration(n+1) * 50 * time.Microsecond}
	for range n {
		t.latency = append(t.latency, each)
	}
	return t
}

func TestTable(t *testing.T) {
	r := &results{duration: time.Second, rounds: 1, disk: []time.Duration{100 * time.Microsecond}}
	r.add(cell{1, "json", 200, "direct"}, fast(1000, 90*time.Microsecond))
	r.add(cell{1, "json", 200, "bare"}, fast(500, 200*time.Microsecond))
	r.add(cell{1, "json", 200, "countersign"}, fast(400, 601*time.Microsecond))
	r.add(cell{64, "json", 200, "direct"}, fast(2000, 90*time.Microsecond))
	r.add(cell{64, "json", 200, "bare"}, fast(1000, 200*time.Microsecond))
	r.add(cell{64, "json", 200, "countersign"}, fast(850, 601*time.Microsecond))
	const want = `calls of 200 bytes, 1 rounds of 1s each; calls/s and ratios are medians of the rounds

  clients  answers   size          way  calls/s     p50     p99  CPU/call  of bare  of direct
        1     json  200 B       direct     1000   90 µs   90 µs     50 µs     2.00       1.00
        1     json  200 B         bare      500  200 µs  200 µs     50 µs     1.00       0.50
        1     json  200 B  countersign      400  601 µs  601 µs     50 µs     0.80       0.40
       64     json  200 B       direct     2000   90 µs   90 µs     50 µs     2.00       1.00
       64     json  200 B         bare     1000  200 µs  200 µs     50 µs     1.00       0.50
       64     json  200 B  countersign      850  601 µs  601 µs     50 µs     0.85       0.42

write and fdatasync on this disk, alone: p50 100 µs, p99 100 µs
targets: 1 client p50 ≤ bare + 2 × fdatasync + 200 µs = 600 µs: missed with 601 µs; 64 clients ≥ 0.8 × bare: met with 0.85 (then 0.9: missed)
`
	if got := r.String(); got != want {
		t.Errorf("want\n%s\ngot\n%s", want, got)
	}
	if n := r.calls("countersign"); n != 1252 {
		t.Errorf("want 1252 calls, warm ones included, got %d", n)
	}
}

// The ratio is that of turns side by side: a machine that got slower in
// between says nothing about the product.
func TestShareIsWithinARound(t *testing.T) {
	r := &results{}
	for _, n := range []int{1000, 10, 500} {
		r.add(cell{64, "json", 200, "bare"}, fast(n, time.Millisecond))
		r.add(cell{64, "json", 200, "countersign"}, fast(n*9/10, time.Millisecond))
	}
	if got := r.share(cell{64, "json", 200, "countersign"}, "bare"); got != 0.9 {
		t.Errorf("want 0.9, got %v", got)
	}
}
