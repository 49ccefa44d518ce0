package audit

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// prepared is what can be found out about one commit without knowing the
// commits before it: what costs time, and is done side by side.
type prepared struct {
	hash, parentTree string
	commit           Commit
	signer           string
	sigErr           error
	commitKey        string

	err     error // what did not read
	changes changes
	path    string // of the batch that it adds, without extension; "": none, or several
	batch   batchFile
	hashes  []byte
	hashErr error
	note    []byte
	noteErr error
	cp      Checkpoint
	cpErr   error
	cpKeys  []string // that signed it
	message string   // that the entries and the note make
}

// batchFile is a file of lines, taken apart.
type batchFile struct {
	err     error
	lines   [][]byte
	leaves  []tlog.Hash
	entries []Entry // up to the first line that does not read
	bad     error   // why that does not
}

func readBatch(b []byte, err error) batchFile {
	if err != nil {
		return batchFile{err: err}
	}
	f := batchFile{lines: trimLines(b)}
	f.leaves = make([]tlog.Hash, len(f.lines))
	f.entries = make([]Entry, 0, len(f.lines))
	text, at := string(b), 0 // whose parts the entries are
	for i, l := range f.lines {
		f.leaves[i] = tlog.RecordHash(l)
		if f.bad == nil {
			var e Entry
			if !fastDecode(text[at:at+len(l)], &e) {
				e, f.bad = Decode(l)
			}
			if f.bad == nil {
				f.entries = append(f.entries, e)
			}
		}
		at += len(l) + 1
	}
	return f
}

// prepare yields the commits of a chain in order, prepared by several workers,
// so many ahead of who takes them, and no more: memory stays bounded. It ends
// early with the context.
func (v *verification) prepare(ctx context.Context, chain []link, parentTree string) iter.Seq[*prepared] {
	return func(yield func(*prepared) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		// Each result has a channel of its own; those channels stand in line.
		line := make(chan chan *prepared, v.cfg.Workers)
		turns := make(chan struct{}, v.cfg.Workers)
		go func() {
			defer close(line)
			for i, c := range chain {
				parent := parentTree
				if i > 0 {
					parent = chain[i-1].tree
				}
				result := make(chan *prepared, 1)
				select {
				case turns <- struct{}{}:
				case <-ctx.Done():
					return
				}
				go func() {
					defer func() { <-turns }()
					result <- v.prepareOne(c, parent)
				}()
				select {
				case line <- result:
				case <-ctx.Done():
					return
				}
			}
		}()
		for result := range line {
			if !yield(<-result) {
				return
			}
		}
	}
}

func (v *verification) prepareOne(at link, parentTree string) *prepared {
	p := &prepared{hash: at.hash, parentTree: parentTree}
	if p.commit, p.err = v.repo.Commit(at.hash); p.err != nil {
		p.err = fmt.Errorf("the commit does not read: %w", p.err)
		return p
	}
	p.signer, p.sigErr = v.cfg.Signer(p.commit.Raw, p.commit.When)
	p.commitKey = commitKey(p.commit.Raw)
	if p.changes, p.err = v.repo.diff(parentTree, p.commit.Tree); p.err != nil {
		p.err = fmt.Errorf("its files do not read: %w", p.err)
		return p
	}
	for path := range p.changes.added {
		if stem, ok := strings.CutSuffix(path, ".jsonl"); ok {
			if p.path != "" {
				p.path = ""
				break
			}
			p.path = stem
		}
	}
	if p.path != "" {
		p.batch = readBatch(v.blob(p.changes.added, p.path+".jsonl"))
		p.hashes, p.hashErr = v.blob(p.changes.added, p.path+".hashes")
	}
	if p.note, p.noteErr = v.blob(p.changes.latest, "checkpoint"); p.noteErr == nil {
		p.cp, p.cpKeys, p.cpErr = v.cfg.Keys.openWith(string(p.note), nil)
		if p.path != "" && p.batch.bad == nil {
			p.message = commitMessage(p.batch.entries, string(p.note))
		}
	}
	return p
}

// at gives the batch at a path, which is the one prepared unless something is
// wrong.
func (p *prepared) at(v *verification, path string) (batchFile, []byte, error) {
	if p.path == path {
		return p.batch, p.hashes, p.hashErr
	}
	f := readBatch(v.blob(p.changes.added, path+".jsonl"))
	hashes, err := v.blob(p.changes.added, path+".hashes")
	return f, hashes, err
}
