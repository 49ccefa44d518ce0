package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// readBuffer is what a reader holds: a group that fits is checked in one look.
const readBuffer = 128 << 10

var (
	// errRoom: there is no entry here yet, but room for one.
	errRoom = fmt.Errorf("audit: room, not written yet: %w", io.EOF)
	// errSum: it is not what was written.
	errSum = errors.New("its checksum is not right")
	// errOver: the group has no more lines.
	errOver = errors.New("the group is over")
)

// groupReader reads a file of format 2 (see segment.go) from a head on.
type groupReader struct {
	r  *bufio.Reader
	f  io.ReaderAt // the same file, to look a large group through before its first line is told; nil: told before it is known to be whole
	at int64       // where r is

	group        // being read
	start  int64 // of its head
	end    int64 // of its bytes
	left   uint64
	run    bool // sum its bytes while they are read
	soFar  uint32
	pieces []byte // of a line longer than the buffer
}

// headLine reads the line of a head.
func (g *groupReader) headLine() ([]byte, error) {
	first, err := g.r.Peek(1)
	if err != nil {
		return nil, err // io.EOF
	}
	if first[0] == 0 {
		return nil, errRoom
	}
	b, err := g.r.ReadSlice('\n')
	if bytes.IndexByte(b, 0) >= 0 || err == io.EOF {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil || len(b) > maxHead {
		return nil, fmt.Errorf("%w: the head of a group is too long", ErrEntry)
	}
	g.at += int64(len(b))
	return b[:len(b)-1], nil
}

// segment reads the head of the file.
func (g *groupReader) segment() (segmentHead, error) {
	b, err := g.headLine()
	if err != nil {
		return segmentHead{}, err
	}
	h, ok := parseSegmentHead(b)
	if !ok {
		return h, fmt.Errorf("the head of the file: %w", errSum)
	}
	return h, nil
}

// begin reads the head of the next group, and checks its bytes. Errors: io.EOF,
// errRoom; io.ErrUnexpectedEOF if it ends with the file; others.
func (g *groupReader) begin() error {
	g.start = g.at
	b, err := g.headLine()
	if err != nil {
		return err
	}
	ok := false
	if g.group, ok = parseGroup(b); !ok {
		return fmt.Errorf("the head of a group: %w", errSum)
	}
	g.end, g.left, g.run, g.soFar = g.at+g.bytes, g.entries, false, 0
	sum := uint32(0)
	switch {
	case g.bytes <= int64(g.r.Size()):
		b, err := g.r.Peek(int(g.bytes))
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if sum = crc32.Checksum(b, castagnoli); sum != g.sum && bytes.IndexByte(b, 0) >= 0 {
			return io.ErrUnexpectedEOF // room, where a write was cut short or is under way
		}
	case g.f == nil:
		g.run = true
		return nil
	default:
		h := crc32.New(castagnoli)
		n, err := io.CopyBuffer(h, struct{ io.Reader }{io.NewSectionReader(g.f, g.at, g.bytes)}, make([]byte, readBuffer))
		if err == nil && n < g.bytes {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		sum = h.Sum32()
	}
	if sum != g.sum {
		return errSum
	}
	return nil
}

// line gives the group's next line without its line feed, good until the next
// call: an entry, or (if those are wanted) a body. errOver at its end.
func (g *groupReader) line(bodies bool) (line []byte, body bool, err error) {
	for {
		if g.at >= g.end {
			if g.at > g.end || g.left > 0 || g.run && g.soFar != g.sum {
				return nil, false, errSum
			}
			return nil, false, errOver
		}
		body = g.body()
		if line, err = g.whole(body, bodies); err != nil {
			return nil, false, err
		}
		switch {
		case body && bodies:
			return line, true, nil
		case !body && g.left == 0:
			return nil, false, errSum
		case !body:
			g.left--
			return line, false, nil
		}
	}
}

// body tells whether a body is next in the group.
func (g *groupReader) body() bool {
	if g.at >= g.end {
		return false
	}
	mark, _ := g.r.Peek(len(bodyMark)) // what is missing, reading tells
	return string(mark) == bodyMark
}

// whole reads a line. That of a body may be longer than the buffer; it is only
// collected if it is wanted.
func (g *groupReader) whole(body, want bool) ([]byte, error) {
	g.pieces = g.pieces[:0]
	for {
		b, err := g.r.ReadSlice('\n')
		g.at += int64(len(b))
		if g.run && bytes.IndexByte(b, 0) >= 0 {
			return nil, io.ErrUnexpectedEOF
		}
		if g.run {
			g.soFar = crc32.Update(g.soFar, castagnoli, b)
		}
		switch {
		case err == nil && len(g.pieces) == 0:
			if !body && len(b) > MaxLine+1 {
				return nil, tooLong(len(b) - 1)
			}
			return b[:len(b)-1], nil
		case err == io.EOF:
			return nil, io.ErrUnexpectedEOF
		case err == bufio.ErrBufferFull && !body:
			return nil, tooLong(len(b))
		case err != nil && err != bufio.ErrBufferFull:
			return nil, err
		}
		if want || len(g.pieces) == 0 { // one piece marks that there were some
			g.pieces = append(g.pieces, b...)
		}
		if err == nil {
			return g.pieces[:len(g.pieces)-1], nil
		}
		if g.at > g.end {
			return nil, errSum
		}
	}
}
