package gitsync

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/storer"
)

// What is written here is compressed at the fastest level, once for this disk
// and once for the way: a busy enforcer's record must not take from its calls
// what a few bytes less are worth. The host packs again as it likes.

// tempObject is the name of an object that is being written, for os.CreateTemp;
// "git prune" knows it as one too.
const tempObject = "tmp_obj_*"

// writeLoose stores an object under its name: the zlib stream of
// "<kind> <size>\0" and the content (gitrepository-layout(5), objects), moved
// into its place as a whole. It does not sync: see Repo. r.mu is held.
func (r *Repo) writeLoose(kind plumbing.ObjectType, h plumbing.Hash, data []byte) error {
	var b bytes.Buffer
	b.Grow(len(data)/4 + 128)
	if r.zip == nil {
		r.zip, _ = zlib.NewWriterLevel(&b, zlib.BestSpeed) // fails for other levels only
	}
	r.zip.Reset(&b)
	fmt.Fprintf(r.zip, "%s %d\x00", kind, len(data)) // a buffer takes everything
	if _, err := r.zip.Write(data); err != nil {
		return err
	}
	if err := r.zip.Close(); err != nil {
		return err
	}
	path := r.loose(h)
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	// A name of its own: another writer may be storing the same object.
	tmp, err := os.CreateTemp(filepath.Dir(path), tempObject)
	if err != nil {
		return err
	}
	_, err = tmp.Write(b.Bytes())
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// packKinds are the numbers of the kinds of objects in a pack.
var packKinds = map[plumbing.ObjectType]byte{plumbing.CommitObject: 1, plumbing.TreeObject: 2, plumbing.BlobObject: 3}

// writePack writes a pack (gitformat-pack(5), version 2) of whole objects: no
// deltas, since entries differ.
//
//	"PACK", 4 bytes version, 4 bytes number of objects
//	for each object:
//	  kind in bits 4–6 of the first byte, size in bits 0–3 and then 7 bits a
//	  byte, lowest first; bit 7 says that another byte follows
//	  the zlib stream of the content
//	SHA-1 of all that
func writePack(out io.Writer, st storer.EncodedObjectStorer, objects []plumbing.Hash) error {
	sum := sha1.New()
	w := bufio.NewWriterSize(io.MultiWriter(out, sum), 64<<10)
	head := binary.BigEndian.AppendUint32([]byte("PACK"), 2)
	if _, err := w.Write(binary.BigEndian.AppendUint32(head, uint32(len(objects)))); err != nil {
		return err
	}
	zip, err := zlib.NewWriterLevel(w, zlib.BestSpeed)
	if err != nil {
		return err
	}
	for _, h := range objects {
		if err := packObject(w, zip, st, h); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = out.Write(sum.Sum(nil))
	return err
}

// badObject: an object of ours does not read.
type badObject struct {
	hash  plumbing.Hash
	cause error
}

func (e *badObject) Error() string { return e.hash.String() + ": " + e.cause.Error() }
func (e *badObject) Unwrap() error { return e.cause }

func packObject(w *bufio.Writer, zip *zlib.Writer, st storer.EncodedObjectStorer, h plumbing.Hash) error {
	o, err := st.EncodedObject(plumbing.AnyObject, h)
	if err != nil {
		return &badObject{h, err}
	}
	kind, ok := packKinds[o.Type()]
	if !ok {
		return &badObject{h, fmt.Errorf("a %s has no place in the record", o.Type())}
	}
	size := uint64(o.Size())
	b := kind<<4 | byte(size&15)
	for size >>= 4; size > 0; size >>= 7 {
		if err := w.WriteByte(b | 0x80); err != nil {
			return err
		}
		b = byte(size & 0x7f)
	}
	if err := w.WriteByte(b); err != nil {
		return err
	}
	rd, err := o.Reader()
	if err != nil {
		return &badObject{h, err}
	}
	zip.Reset(w)
	from := &source{Reader: rd}
	n, err := io.Copy(zip, from)
	if err == nil && n != o.Size() {
		from.err = fmt.Errorf("%w: %d bytes of %d", ErrDamaged, n, o.Size())
	}
	if from.err != nil {
		return errors.Join(&badObject{h, from.err}, rd.Close())
	}
	return errors.Join(err, rd.Close(), zip.Close())
}

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
