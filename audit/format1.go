package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
)

// The files of a journal of format 1, which versions before this one wrote,
// hold the lines of the entries and nothing else. Entries that were made
// durable together begin with a space, before the first one's line: where that
// stands, everything before it was durable. Nothing is summed. A file is named
// after its first entry, as in format 2.
const (
	spaceMark = ' '
	spaceHead = ` {"seq":` // in no line, but at a group's beginning: lines hold no white space between tokens, and no bare quotation mark in strings
)

// lineBuffer holds a line, its mark and its line feed.
const lineBuffer = MaxLine + 2

// readLine returns a line without its mark and line feed, and how many bytes
// it takes in the file. Errors: io.EOF, errRoom, and io.ErrUnexpectedEOF if the
// line ends with the file or with room.
func readLine(r *bufio.Reader) ([]byte, int64, error) {
	if head, err := r.Peek(1); err != nil {
		return nil, 0, err
	} else if head[0] == 0 {
		return nil, 0, errRoom
	}
	b, err := r.ReadSlice('\n')
	if err == io.EOF || bytes.IndexByte(b, 0) >= 0 {
		err = io.ErrUnexpectedEOF
	}
	if err == nil && len(b) > lineBuffer {
		err = bufio.ErrBufferFull
	}
	if err != nil {
		return nil, 0, err
	}
	n := int64(len(b))
	if b[0] == spaceMark {
		b = b[1:]
	}
	return b[:len(b)-1], n, nil
}

// nextLine is next for format 1.
func (c *cursor) nextLine() ([]byte, error) {
	for {
		if c.f == nil {
			f, err := os.Open(filepath.Join(c.inc.dir, segment{first: c.first}.name()))
			if err != nil {
				return nil, fmt.Errorf("audit: %w", err)
			}
			if _, err := f.Seek(c.off, io.SeekStart); err != nil {
				return nil, errors.Join(fmt.Errorf("audit: %w", err), f.Close())
			}
			c.f, c.g.r = f, bufio.NewReaderSize(f, lineBuffer)
		}
		b, n, err := readLine(c.g.r)
		switch {
		case err == nil:
			c.seq++
			c.off += n
			return b, nil
		case err != io.EOF:
			return nil, err
		}
		// The end of this file; does another go on?
		if _, ok := c.inc.file(c.seq); !ok || c.seq == c.first {
			return nil, io.EOF
		}
		if err := c.close(); err != nil {
			return nil, err
		}
		c.first, c.off = c.seq, 0
	}
}

// ReadEntries reads lines, decoding each strictly; the number of an entry must
// follow the one before. It reads a file of a journal, too, passes over the
// bodies in it, and ends where room begins. (What a failed file holds beyond
// what counts, it cannot know: see segment.go.) It ends after the first error,
// io.ErrUnexpectedEOF if the last line, or the last group, is cut short.
func ReadEntries(r io.Reader) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		br := bufio.NewReaderSize(r, readBuffer)
		next := func() ([]byte, error) {
			b, _, err := readLine(br)
			return b, err
		}
		if mark, _ := br.Peek(len(segmentMark)); string(mark) == segmentMark {
			next = streamed(br)
		}
		var want uint64
		for n := 0; ; n++ {
			b, err := next()
			if errors.Is(err, io.EOF) {
				return
			}
			var e Entry
			if err == nil {
				e, err = Decode(b)
			}
			if err == nil && n > 0 && e.Seq != want {
				err = fmt.Errorf("%w: number %d where %d belongs", ErrEntry, e.Seq, want)
			}
			if err != nil {
				yield(Entry{}, fmt.Errorf("line %d: %w", n+1, err))
				return
			}
			want = e.Seq + 1
			if !yield(e, nil) {
				return
			}
		}
	}
}

// streamed gives the lines of a file of format 2.
func streamed(br *bufio.Reader) func() ([]byte, error) {
	g, in := groupReader{r: br}, false
	_, err := g.segment()
	return func() ([]byte, error) {
		for err == nil {
			if !in {
				if err = g.begin(); err != nil {
					break
				}
				in = true
			}
			line, _, e := g.line(false)
			if e == errOver {
				in = false
				continue
			}
			return line, e
		}
		return nil, err
	}
}
