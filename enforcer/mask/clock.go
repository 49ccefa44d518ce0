package mask

import "time"

// clock bounds the time that one message may take.
type clock struct {
	now      func() time.Time
	deadline time.Time
	done     int  // bytes compared since the clock was last read
	total    int  // bytes compared before that
	late     bool // stays so
}

// over reads the clock.
func (c *clock) over() bool {
	c.total += c.done
	c.done = 0
	c.late = c.late || c.now().After(c.deadline)
	return c.late
}

// work counts work, and reads the clock when enough has come together.
func (c *clock) work(bytes int) bool {
	if c.done += bytes + 32; c.done > 1<<16 {
		return c.over()
	}
	return c.late
}
