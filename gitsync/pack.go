package gitsync

import (
	"bufio"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/storer"
)

// packKinds are the numbers of the kinds of objects in a pack.
var packKinds = map[plumbing.ObjectType]byte{plumbing.CommitObject: 1, plumbing.TreeObject: 2, plumbing.BlobObject: 3}

// What is written here is compressed at the fastest level, once for this disk
// and once for the way: a busy enforcer's record must not take from its calls
// what a few bytes less are worth. The host packs again as it likes.

// packer writes a pack (gitformat-pack(5), version 2) of whole objects: no
// deltas, since entries differ, and bodies are compressed.
//
//	"PACK", 4 bytes version, 4 bytes number of objects
//	for each object:
//	  kind in bits 4–6 of the first byte, size in bits 0–3 and then 7 bits a
//	  byte, lowest first; bit 7 says that another byte follows
//	  the zlib stream of the content
//	SHA-1 of all that
type packer struct {
	out   io.Writer
	sum   hash.Hash
	w     *bufio.Writer
	zip   *zlib.Writer
	at    int64  // bytes so far
	crc   uint32 // of the object's
	index idxfile.Writer
}

func newPacker(out io.Writer, count int) (*packer, error) {
	p := &packer{out: out, sum: sha1.New()}
	p.w = bufio.NewWriterSize(io.MultiWriter(out, p.sum), 64<<10)
	var err error
	if p.zip, err = zlib.NewWriterLevel(p, zlib.BestSpeed); err != nil {
		return nil, err
	}
	head := binary.BigEndian.AppendUint32([]byte("PACK"), 2)
	if _, err := p.Write(binary.BigEndian.AppendUint32(head, uint32(count))); err != nil {
		return nil, err
	}
	return p, p.index.OnHeader(uint32(count))
}

func (p *packer) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.at += int64(n)
	p.crc = crc32.Update(p.crc, crc32.IEEETable, b[:n])
	return n, err
}

// add writes one object.
func (p *packer) add(h plumbing.Hash, kind plumbing.ObjectType, size int64, content io.Reader) error {
	k, ok := packKinds[kind]
	if !ok {
		return &badObject{h, fmt.Errorf("a %s has no place in the record", kind)}
	}
	from := p.at
	p.crc = 0
	var head []byte
	b, rest := k<<4|byte(size&15), uint64(size)>>4
	for ; rest > 0; rest >>= 7 {
		head = append(head, b|0x80)
		b = byte(rest & 0x7f)
	}
	if _, err := p.Write(append(head, b)); err != nil {
		return err
	}
	p.zip.Reset(p)
	in := &source{Reader: content}
	n, err := io.Copy(p.zip, in)
	if err == nil && n != size {
		in.err = fmt.Errorf("%w: %d bytes of %d", ErrDamaged, n, size)
	}
	if in.err != nil {
		return &badObject{h, in.err}
	}
	if err := errors.Join(err, p.zip.Close()); err != nil {
		return err
	}
	p.index.Add(h, uint64(from), p.crc)
	return nil
}

// addFrom writes objects of a store.
func (p *packer) addFrom(st storer.EncodedObjectStorer, objects []plumbing.Hash) error {
	for _, h := range objects {
		o, err := st.EncodedObject(plumbing.AnyObject, h)
		if err != nil {
			return &badObject{h, err}
		}
		rd, err := o.Reader()
		if err != nil {
			return &badObject{h, err}
		}
		if err := errors.Join(p.add(h, o.Type(), o.Size(), rd), rd.Close()); err != nil {
			return err
		}
	}
	return nil
}

// end completes the pack, and gives the sum that it ends in.
func (p *packer) end() (sum plumbing.Hash, err error) {
	if err := p.w.Flush(); err != nil {
		return sum, err
	}
	copy(sum[:], p.sum.Sum(nil))
	if _, err := p.out.Write(sum[:]); err != nil {
		return sum, err
	}
	return sum, p.index.OnFooter(sum)
}

// writePack writes a pack of objects of a store.
func writePack(out io.Writer, st storer.EncodedObjectStorer, objects []plumbing.Hash) error {
	p, err := newPacker(out, len(objects))
	if err != nil {
		return err
	}
	if err := p.addFrom(st, objects); err != nil {
		return err
	}
	_, err = p.end()
	return err
}

// badObject: an object of ours does not read.
type badObject struct {
	hash  plumbing.Hash
	cause error
}

func (e *badObject) Error() string { return e.hash.String() + ": " + e.cause.Error() }
func (e *badObject) Unwrap() error { return e.cause }

// source remembers what failed in reading, as against in writing.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}
