package gitsync

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
)

// packFrom is how many new objects make a pack. Fewer are files of their own: a
// commit of the log has eight or so, and there are many of those.
const packFrom = 64

// Names of what is being written, for os.CreateTemp, which "git prune" knows as
// such, too; an index is written by writeDurable.
const (
	tempObject = "tmp_obj_*"
	tempPack   = "tmp_pack_*"
)

// additions are objects that are to be stored together. r.mu is held.
type additions struct {
	r     *Repo
	new   []object
	names []plumbing.Hash // of all, also of those that were there
	had   map[plumbing.Hash]bool
}

type object struct {
	hash plumbing.Hash
	kind plumbing.ObjectType
	data []byte
}

// add takes an object in, unless it is there and whole: what a crash left
// half-written under the same name must not be taken for written.
func (a *additions) add(kind plumbing.ObjectType, data []byte) (plumbing.Hash, error) {
	h := plumbing.ComputeHash(kind, data)
	if a.had[h] {
		return h, nil
	}
	if a.r.st.HasEncodedObject(h) == nil {
		_, err := readObject(a.r.st, kind, h, maxObject)
		if err == nil {
			a.note(h)
			return h, nil
		}
		if rerr := os.Remove(a.r.loose(h)); rerr != nil {
			return h, errors.Join(err, rerr)
		}
	}
	a.note(h)
	a.new = append(a.new, object{h, kind, data})
	return h, nil
}

func (a *additions) note(h plumbing.Hash) {
	if a.had == nil {
		a.had = map[plumbing.Hash]bool{}
	}
	a.had[h] = true
	a.names = append(a.names, h)
}

// store writes what is new: a few objects each under its name, and not synced,
// many as one pack, durably. A file and a folder for each of many, and a sync of
// each before it is sent, would cost the disk a hundred times as much.
func (a *additions) store() error {
	if len(a.new) >= packFrom {
		return a.r.storePack(len(a.new), func(p *packer) error {
			for _, o := range a.new {
				if err := p.add(o.hash, o.kind, int64(len(o.data)), bytes.NewReader(o.data)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, o := range a.new {
		if err := a.r.storeLoose(o); err != nil {
			return err
		}
	}
	return nil
}

// storeLoose stores an object under its name: the zlib stream of
// "<kind> <size>\0" and the content (gitrepository-layout(5), objects), moved
// into its place as a whole. It does not sync: see Repo.
func (r *Repo) storeLoose(o object) error {
	var b bytes.Buffer
	b.Grow(len(o.data)/4 + 128)
	if r.zip == nil {
		r.zip, _ = zlib.NewWriterLevel(&b, zlib.BestSpeed) // fails for other levels only
	}
	r.zip.Reset(&b)
	fmt.Fprintf(r.zip, "%s %d\x00", o.kind, len(o.data)) // a buffer takes everything
	if _, err := r.zip.Write(o.data); err != nil {
		return err
	}
	if err := r.zip.Close(); err != nil {
		return err
	}
	path := r.loose(o.hash)
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

// storePack stores a pack of so many objects, which fill gives, and its index,
// so that whatever refers to one of them comes after all are durable: the pack
// is synced, then the index stands beside it, and then the pack has its name,
// since who sees a pack reads its index. What a crash leaves before that, the
// next start removes.
func (r *Repo) storePack(count int, fill func(*packer) error) (err error) {
	dir := filepath.Join(r.dir, "objects", "pack")
	f, err := os.CreateTemp(dir, tempPack)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = joinErr(err, os.Remove(f.Name()))
		}
	}()
	sum, index, err := fillPack(f, count, fill)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	stem := filepath.Join(dir, "pack-"+sum.String())
	if err = writeDurable(stem+".idx", index); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), stem+".pack"); err != nil {
		return err
	}
	r.st.ObjectStorage.Reindex()
	return syncPath(dir)
}

// fillPack writes a pack, and makes its index.
func fillPack(out io.Writer, count int, fill func(*packer) error) (sum plumbing.Hash, index []byte, err error) {
	p, err := newPacker(out, count)
	if err == nil {
		err = fill(p)
	}
	if err == nil {
		sum, err = p.end()
	}
	if err != nil {
		return sum, nil, err
	}
	idx, err := p.index.Index()
	if err != nil {
		return sum, nil, err
	}
	var b bytes.Buffer
	_, err = idxfile.NewEncoder(&b).Encode(idx)
	return sum, b.Bytes(), err
}
