package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// sectorBytes is what a disk writes as a whole or not at all.
const sectorBytes = 512

// torn decides what a group that does not read is: the remains of the last
// write, which nobody was told of, or damage to what was durable.
func (p *Past) torn(files []segment, c *cursor, cause error) error {
	last := files[len(files)-1]
	file, _ := p.inc.file(c.first)
	at := c.g.start
	if c.off == 0 {
		at = 0 // the head of the file
	}
	if c.f != nil && !c.in && file == last {
		rest, err := readFrom(p.inc.path(last), at)
		if err != nil {
			return err
		}
		if cutShort(rest, at) {
			p.Torn = int64(len(bytes.TrimRight(rest, "\x00")))
			return nil
		}
	}
	return p.damaged(p.inc.path(file), at, cause)
}

func (p *Past) damaged(path string, at int64, cause error) error {
	if errors.Is(cause, io.EOF) {
		cause = errors.New("it is not there, and a later file is")
	}
	return fmt.Errorf("%w: %s, byte %d: entry %d, or one soon after it, does not read: %w. It may have been acknowledged, so nothing is repaired. Put the file back from a copy; or move the directory %s away, to start without what of it is not in Git, and keep it",
		ErrDamaged, path, at, p.Entries, cause, p.inc.dir)
}

func readFrom(path string, at int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, at, 1<<62))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return b, nil
}

// cutShort tells whether the end of the last file, from a head (which is at
// that byte of the file) on, can be what a crash left of one write. Such a
// write leaves any of its sectors, since a disk takes them in the order that
// it likes, and zeroes or the end of the file in place of the others. And it
// is the last: once the head of another group is there, the one before was
// durable, as was the head of the file.
func cutShort(rest []byte, at int64) bool {
	there := bytes.TrimRight(rest, "\x00")
	if len(there) == 0 {
		return true
	}
	if bytes.Contains(there[1:], []byte(groupMark)) {
		return false
	}
	head, _, whole := bytes.Cut(there, []byte("\n"))
	if !whole || bytes.IndexByte(head, 0) >= 0 {
		return true
	}
	g, ok := parseGroup(head)
	if !ok {
		return false // it was not cut, and is not what was written
	}
	lines := rest[len(head)+1:]
	if int64(len(lines)) < g.bytes || g.bytes > 0 && lines[g.bytes-1] == 0 {
		return true
	}
	lines, at = lines[:g.bytes], at+int64(len(head))+1
	for len(lines) > 0 {
		n := min(int64(len(lines)), sectorBytes-at%sectorBytes)
		if len(bytes.Trim(lines[:n], "\x00")) == 0 {
			return true
		}
		lines, at = lines[n:], at+n
	}
	return false
}

// tornLines is torn for format 1, where a line that is there in full and does
// not read, with whole entries after it, was not cut.
func (p *Past) tornLines(files []segment, cause error) error {
	last := files[len(files)-1]
	b, err := readFrom(p.inc.path(last), 0)
	if err != nil {
		return err
	}
	off := int64(0) // find where the bad line begins in the last file
	for seq := last.first; seq < p.Entries; seq++ {
		n := bytes.IndexByte(b[off:], '\n')
		if n < 0 {
			break
		}
		off += int64(n) + 1
	}
	rest := bytes.TrimRight(b[off:], "\x00")
	bad, after, _ := bytes.Cut(rest, []byte("\n"))
	damaged := last.first > p.Entries
	if len(rest) > 0 {
		damaged = damaged || bytes.Contains(rest[1:], []byte(spaceHead))
	}
	if bytes.IndexByte(bad, 0) < 0 {
		for l := range bytes.SplitSeq(after, []byte("\n")) {
			_, err := Decode(l)
			damaged = damaged || err == nil
		}
	}
	if damaged {
		return p.damaged(p.inc.path(last), off, cause)
	}
	p.Torn = int64(len(rest))
	return nil
}
