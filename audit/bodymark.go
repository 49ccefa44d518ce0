package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

const (
	bodiesMarkFile = "bodies.json"
	positionFile   = "position"
)

// bodyPoint is how far some work on the bodies has come.
type bodyPoint struct {
	Next   uint64 `json:"entry"`  // all before it is done
	Bytes  int64  `json:"bytes"`  // of the bodies' lines before it, see Kept
	File   uint64 `json:"file"`   // where it begins …
	Offset int64  `json:"offset"` // … and where in it, for a cursor
}

// dirtyBranch has commits that the remote lacks, up to tip.
type dirtyBranch struct {
	Branch string `json:"branch"`
	Tip    string `json:"tip"`
}

// bodiesMark is the content of bodies.json in the incarnation's directory. It is
// replaced, durably, after each commit, before that may be pushed.
type bodiesMark struct {
	Pushed bodyPoint     `json:"pushed"` // the remote has all bodies before
	Dirty  []dirtyBranch `json:"dirty,omitempty"`
}

// bodyPosition is the file "position" on a branch of bodies: everything before
// entry next of the origin has been looked at. It is one line of JSON.
type bodyPosition struct {
	Origin string `json:"origin"`
	Next   uint64 `json:"next"`
}

func (i *incarnation) readBodiesMark() (m bodiesMark, err error) {
	b, err := os.ReadFile(filepath.Join(i.dir, bodiesMarkFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		return m, fmt.Errorf("%w: %s: %w", ErrDamaged, filepath.Join(i.dir, bodiesMarkFile), err)
	}
	return m, nil
}

func (b *Bodies) note() error {
	text, err := json.Marshal(b.mark)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if err := writeDurably(b.inc.disk, filepath.Join(b.inc.dir, bodiesMarkFile), text); err != nil {
		return err
	}
	b.noted = b.mark.Pushed.Next
	return nil
}

// stain notes that a branch has commits to be pushed, before they may be.
func (b *Bodies) stain(branch, tip string) error {
	i := slices.IndexFunc(b.mark.Dirty, func(d dirtyBranch) bool { return d.Branch == branch })
	if i < 0 {
		b.mark.Dirty = append(b.mark.Dirty, dirtyBranch{branch, tip})
	} else {
		b.mark.Dirty[i].Tip = tip
	}
	return b.note()
}

// tip gives a branch's tip, "" if there is none, and how far it has come.
func (b *Bodies) tip(branch string) (tip string, next uint64, err error) {
	tip, ok, err := b.cfg.Store.Tip(branch)
	if err != nil || !ok {
		return "", 0, err
	}
	text, err := b.cfg.Store.File(tip, positionFile)
	if err != nil {
		return "", 0, fmt.Errorf("audit: %s: %w", branch, err)
	}
	var p bodyPosition
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil || p.Origin != b.inc.origin() {
		return "", 0, fmt.Errorf("%w: %s is at %s, whose position is not one of %s", ErrForked, branch, tip, b.inc.origin())
	}
	if p.Next > b.end() {
		return "", 0, fmt.Errorf("%w: %s is at %s, with bodies up to entry %d; the journal has %d", ErrForked, branch, tip, p.Next, b.end())
	}
	return tip, p.Next, nil
}

// skip goes on to where a branch has come, counting what lies between.
func (b *Bodies) skip(branch, tip string, to uint64) (err error) {
	c := b.inc.bodiesFrom(b.at.Next, b.at.File, b.at.Offset)
	defer func() { err = errors.Join(err, c.close()) }()
	bytes := b.at.Bytes
	for {
		k, err := c.next(to)
		if err == io.EOF {
			b.at = bodyPoint{to, bytes, c.first, c.off}
			return b.stain(branch, tip)
		}
		if err != nil {
			return fmt.Errorf("%w: %s, bodies from entry %d on: %w", ErrDamaged, b.inc.dir, b.at.Next, err)
		}
		bytes += k.Bytes
	}
}

// recover finds out where the branches are. Up to the mark everything is on the
// remote. After it, a branch tells itself how far it has come; one that a crash
// took back is restored to the commit of the mark, or else that was never sent,
// and its bodies are committed once more.
func (b *Bodies) recover() error {
	if !b.begun {
		m, err := b.inc.readBodiesMark()
		if err != nil {
			return err
		}
		b.mark, b.noted, b.begun = m, m.Pushed.Next, true
		if files := b.inc.files(); len(files) > 0 && files[0].first > m.Pushed.Next { // what was pruned was published
			b.mark.Pushed = bodyPoint{Next: files[0].first, Bytes: m.Pushed.Bytes, File: files[0].first}
		}
	}
	b.at = b.mark.Pushed
	dirty := b.mark.Dirty
	b.mark.Dirty = nil
	for _, d := range dirty {
		tip, next, err := b.tip(d.Branch)
		if err != nil {
			return err
		}
		if tip != d.Tip {
			// If it cannot be restored, it is gone from here, and was never sent.
			if b.cfg.Store.Restore(d.Branch, d.Tip) == nil {
				if tip, next, err = b.tip(d.Branch); err != nil {
					return err
				}
			}
		}
		if tip != "" && next > b.at.Next {
			if err := b.skip(d.Branch, tip, next); err != nil {
				return err
			}
		}
	}
	return nil
}
