package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
)

// cursor reads an incarnation's lines from one entry on. Of a journal that is
// being written it may be asked for what is durable.
type cursor struct {
	inc   *incarnation
	seq   uint64 // of the next line
	first uint64 // file it is in
	// off is where in that file, for a cursor that goes on later: the head of
	// the group that holds the entry, or of the one before it, or the end of
	// that; of format 1, the line.
	off int64

	f    *os.File
	g    groupReader
	in   bool   // a group
	from uint64 // entries before are passed over
}

// next returns the next line without its line feed, good until the next call.
// Errors: io.EOF at the end, errRoom where room begins, io.ErrUnexpectedEOF if
// the end is cut short; any other is damage, or a torn end.
func (c *cursor) next() ([]byte, error) {
	if c.inc.Format == 1 {
		return c.nextLine()
	}
	line, _, err := c.record(false)
	return line, err
}

// record is next for entries and, if those are wanted, the bodies that follow
// each.
func (c *cursor) record(bodies bool) (line []byte, body bool, err error) {
	for {
		if !c.in {
			if err := c.enter(); err != nil {
				return nil, false, err
			}
		}
		line, body, err := c.g.line(bodies)
		switch {
		case err == errOver:
			c.in, c.off = false, c.g.end
			continue
		case err != nil:
			return nil, false, err
		case body && c.seq > c.from: // of the entry c.seq-1
			return line, true, nil
		case body:
			continue
		}
		if c.seq++; c.seq <= c.from {
			continue
		}
		if c.g.at == c.g.end {
			c.off = c.g.end
		}
		return line, false, nil
	}
}

// enter goes on to the group that holds c.seq, in the next file if that begins
// with it: then this one counts no further, whatever it holds.
func (c *cursor) enter() error {
	after, at := "", int64(0)
	if s, ok := c.inc.file(c.seq); ok && c.seq != c.first {
		if c.f != nil {
			was, _ := c.inc.file(c.first)
			after, at = was.name(), c.off
		}
		if err := c.close(); err != nil {
			return err
		}
		c.first, c.off = s.first, 0
	}
	fresh := c.f == nil
	if fresh {
		if err := c.open(after, at); err != nil {
			return err
		}
	}
	if err := c.g.begin(); err != nil {
		return err
	}
	last := c.g.first + c.g.entries
	if c.g.first != c.seq && (!fresh || c.seq < c.g.first || c.seq > last) {
		return fmt.Errorf("%w: entries from %d on where %d belongs", ErrEntry, c.g.first, c.seq)
	}
	c.from, c.seq, c.in = max(c.from, c.seq), c.g.first, true
	return nil
}

// open opens c.first at c.off. If it is known where the file before ended,
// this one's head must say the same.
func (c *cursor) open(after string, at int64) error {
	s, ok := c.inc.file(c.first)
	if !ok {
		return fmt.Errorf("audit: %s: no file begins with entry %d", c.inc.dir, c.first)
	}
	f, err := os.Open(c.inc.path(s))
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if _, err := f.Seek(c.off, io.SeekStart); err != nil {
		return errors.Join(fmt.Errorf("audit: %w", err), f.Close())
	}
	c.f, c.g = f, groupReader{r: bufio.NewReaderSize(f, readBuffer), f: f, at: c.off}
	if c.off > 0 {
		return nil
	}
	h, err := c.g.segment()
	if err != nil {
		return err
	}
	if h.Origin != c.inc.origin() || h.First != c.first || after != "" && (h.After != after || h.At != at) {
		return fmt.Errorf("%w: the file does not go on from where the one before ended", ErrEntry)
	}
	c.off = c.g.at
	return nil
}

func (c *cursor) close() error {
	if c.f == nil {
		return nil
	}
	err := c.f.Close()
	c.f, c.in = nil, false
	return err
}

// bodyCursor reads the bodies that an incarnation keeps, from one entry on.
type bodyCursor struct {
	cursor
	line []byte // the entry that the last body belongs to; good until the next call
}

// bodiesFrom begins at an entry. file and off are first and off of a cursor
// that had come as far; or the first entry of the oldest file, and 0.
func (i *incarnation) bodiesFrom(seq, file uint64, off int64) *bodyCursor {
	return &bodyCursor{cursor: cursor{inc: i, seq: seq, first: file, off: off}}
}

// next gives the next body whose entry is before until, all of which must be
// durable; io.EOF when there is none, and then seq is until.
func (c *bodyCursor) next(until uint64) (Kept, error) {
	if c.inc.Format == 1 { // kept none
		c.seq = max(c.seq, until)
		return Kept{}, io.EOF
	}
	for c.seq < until || c.in && c.g.body() {
		line, body, err := c.record(true)
		switch {
		case err != nil:
			return Kept{}, err
		case body:
			return parseKept(line)
		case c.g.body():
			c.line = append(c.line[:0], line...)
		}
	}
	return Kept{}, io.EOF
}
