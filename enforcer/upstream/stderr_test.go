package upstream

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// A server cannot fill the log: within ten seconds it gets a bounded part of
// what it says into it, and the log says how much is missing.
func TestStdioStderrIsBounded(t *testing.T) {
	clock := newClock()
	var mu sync.Mutex
	var lines []string
	bytes := 0
	u := spawns(t, "chatty", func(c *StdioConfig) {
		c.Now = clock.now
		c.Stderr = func(line string) {
			mu.Lock()
			defer mu.Unlock()
			lines, bytes = append(lines, line), bytes+len(line)
		}
	})
	if _, err := answer(t, u, modern(1, "x")); err != nil { // 100,000 lines, 20 MB
		t.Fatal(err)
	}
	closeUpstream(t, u)
	mu.Lock()
	defer mu.Unlock()
	if bytes > logBudget || bytes < logBudget/4 || len(lines) > logBudget/logLine+4 {
		t.Errorf("%d lines with %d bytes in the log", len(lines), bytes)
	}
	if all := strings.Join(lines, "\n"); lines[0] != "peer starts" || strings.Count(all, "is left out") != 1 {
		t.Errorf("the log begins with %q, and says %d times that something is left out", lines[0], strings.Count(all, "is left out"))
	}
	var n, size int
	if last := lines[len(lines)-1]; !told(last, &n, &size) || n != 100_001-(len(lines)-2) || size < 20_000_000 {
		t.Errorf("the log ends with %q, after %d lines", last, len(lines))
	}
}

// The next ten seconds have a budget of their own, and begin with what was
// left out.
func TestChatter(t *testing.T) {
	clock := newClock()
	var lines []string
	c := &chatter{say: func(line string) { lines = append(lines, line) }, now: clock.now}
	long := strings.Repeat("x", 60_000)
	for range 6 {
		c.line(long, len(long))
	}
	c.line("short", 5)
	if len(lines) != 5 || !strings.Contains(lines[4], "is left out") {
		t.Errorf("%d lines, the last %.80q", len(lines), lines[len(lines)-1])
	}
	clock.advance(logWindow)
	c.line("again", 5)
	if got := strings.Join(lines[5:], "|"); got != "(3 lines with 120005 bytes were left out)|again" {
		t.Errorf("then: %s", got)
	}
}

func told(line string, n, size *int) bool {
	_, err := fmt.Sscanf(line, "(%d lines with %d bytes were left out)", n, size)
	return err == nil
}
