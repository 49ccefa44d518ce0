package upstream

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// A line of stderr longer than this is left out, not cut: half of a secret
// would pass the mask.
const maxLogLine = 64 << 10

// A server, with all its processes, gets this much of what it writes to stderr
// into the log within this time. Each line counts for what a log adds to it,
// too.
const (
	logBudget = 256 << 10
	logWindow = 10 * time.Second
	logLine   = 256
)

// chatter passes on what the processes of a server write to stderr, within
// the budget, and says how much was left out.
type chatter struct {
	say func(string) // may be nil
	now func() time.Time

	mu    sync.Mutex
	since time.Time
	spent int
	lines int // left out, not yet told
	bytes int
}

func (c *chatter) line(text string, size int) {
	if c.say == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if now.Sub(c.since) >= logWindow || now.Before(c.since) {
		c.since, c.spent = now, 0
		c.told()
	}
	if c.lines == 0 && c.spent+len(text)+logLine <= logBudget {
		c.spent += len(text) + logLine
		c.say(text)
		return
	}
	if c.lines == 0 {
		c.spent = logBudget
		c.say(fmt.Sprintf("(it writes more than %d KiB in %s: the rest of that time is left out)", logBudget>>10, logWindow))
	}
	c.lines++
	c.bytes += size
}

// told says what was left out. Needs c.mu.
func (c *chatter) told() {
	if c.lines > 0 {
		c.say(fmt.Sprintf("(%d lines with %d bytes were left out)", c.lines, c.bytes))
		c.lines, c.bytes = 0, 0
	}
}

// ended tells what was left out, when a process has ended: there may be no
// more lines.
func (c *chatter) ended() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told()
}

// read passes on the lines of one process until its end.
func (c *chatter) read(stderr *os.File) {
	defer c.ended()
	r := bufio.NewReaderSize(stderr, maxLogLine)
	long := 0
	for {
		part, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			long += len(part)
			continue
		case long > 0:
			c.line("(a line of more than 64 KiB was left out)", long+len(part))
		case len(part) > 0:
			c.line(strings.TrimRight(string(part), "\r\n"), len(part))
		}
		long = 0
		if err != nil {
			return
		}
	}
}
