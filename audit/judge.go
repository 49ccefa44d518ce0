package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// judgment holds lines against a signed tree, and names the first that is not
// in it.
type judgment struct {
	base      edge        // before the lines
	batchFile             // as found
	stored    []tlog.Hash // leaf hashes found beside them
	signed    Checkpoint  // what they must lead to
	when      time.Time   // it was signed; zero if nobody trustworthy says
	last      time.Time   // of the entry before
	month     string      // of the entries; empty: any

	after edge // the result, if all hold
}

// judge returns "" if the lines hold; else what does not, in plain words, and
// which entry that is (-1: it cannot be told).
//
// The hashes beside the lines are not believed for being there. If they lead
// to the signed root, they are the leaves that were signed (a second list
// would be a collision of SHA-256), and comparing shows which line is edited,
// missing, moved or put in. If they do not lead there, they were tampered with
// too, and the first line that contradicts itself or its hash is named, if one
// does; otherwise only the batch.
func (j *judgment) judge() (int64, string) {
	leaves, first := j.leaves, j.base.size
	tree := j.tree(leaves)
	j.after = j.base.with(leaves)
	if len(leaves) > 0 && j.after.size == j.signed.Size && j.after.root() == j.signed.Root {
		if seq, text := j.read(); text != "" {
			return seq, text
		}
		if i := differ(leaves, j.stored); i < max(len(leaves), len(j.stored)) {
			return int64(first) + int64(i), fmt.Sprintf("the leaf hash beside entry %d was changed; the entry itself matches %s", first+uint64(i), tree)
		}
		return -1, ""
	}
	proven := j.base.with(j.stored)
	i := differ(leaves, j.stored)
	seq := first + uint64(i)
	if proven.size == j.signed.Size && proven.root() == j.signed.Root {
		switch {
		case i < len(leaves) && i < len(j.stored) && moved(leaves, j.stored, i):
			return int64(seq), fmt.Sprintf("entry %d does not stand where %s has it: entries were put into another order", seq, tree)
		case i < len(j.stored) && len(leaves) < len(j.stored) && (i == len(leaves) || slices.Contains(j.stored[i+1:], leaves[i])):
			return int64(seq), fmt.Sprintf("entry %d of %s is missing", seq, tree)
		case i < len(leaves) && len(leaves) > len(j.stored) && (i == len(j.stored) || slices.Contains(leaves[i+1:], j.stored[i])):
			return int64(seq), fmt.Sprintf("entry %d does not match %s: a line was put in", seq, tree)
		}
		return int64(seq), fmt.Sprintf("entry %d does not match %s", seq, tree)
	}
	if seq, text := j.read(); text != "" {
		return seq, text + fmt.Sprintf("; it does not match %s", tree)
	}
	if i < max(len(leaves), len(j.stored)) {
		return int64(seq), fmt.Sprintf("entry %d does not match its leaf hash, and neither leads to %s", seq, tree)
	}
	if j.after.size != j.signed.Size { // nothing contradicts itself: lines and signature are of different commits
		return -1, fmt.Sprintf("%s has %d entries, and here are %d: commits were left out, joined or exchanged", tree, j.signed.Size, j.after.size)
	}
	if len(leaves) == 1 {
		return int64(first), fmt.Sprintf("entry %d does not match %s", first, tree)
	}
	return -1, fmt.Sprintf("entries %d to %d do not match %s; the leaf hashes beside them were changed as well, so which one cannot be told",
		first, first+uint64(len(leaves))-1, tree)
}

// tree names the signed tree for a person. A checkpoint carries no time; its
// commit does, if the commit's signature holds. Without, the last entry tells,
// if it is one of those signed.
func (j *judgment) tree(leaves []tlog.Hash) string {
	if !j.when.IsZero() {
		return "the tree signed at " + clock(j.when)
	}
	if a, b := len(leaves), len(j.stored); a > 0 && b > 0 && leaves[a-1] == j.stored[b-1] {
		if proven := j.base.with(j.stored); proven.size == j.signed.Size && proven.root() == j.signed.Root {
			if e, err := Decode(j.lines[a-1]); err == nil {
				return "the tree signed after " + clock(e.Time)
			}
		}
	}
	return fmt.Sprintf("the signed tree of %d entries", j.signed.Size)
}

// read checks what the lines say of themselves.
func (j *judgment) read() (int64, string) {
	last := j.last
	year, month := 0, time.Month(0)
	if t, err := time.Parse("2006-01", j.month); err == nil {
		year, month = t.Year(), t.Month()
	}
	for i := range j.entries {
		seq, e := j.base.size+uint64(i), &j.entries[i]
		y, m, _ := e.Time.Date()
		switch {
		case e.Seq != seq:
			return int64(seq), fmt.Sprintf("entry %d stands where entry %d belongs", e.Seq, seq)
		case e.Time.Before(last):
			return int64(seq), fmt.Sprintf("entry %d is dated before the entry that it follows", seq)
		case j.month != "" && (y != year || m != month):
			return int64(seq), fmt.Sprintf("entry %d is of another month than its branch", seq)
		}
		last = e.Time
	}
	if j.bad != nil {
		seq := j.base.size + uint64(len(j.entries))
		return int64(seq), fmt.Sprintf("entry %d does not read: %v", seq, j.bad)
	}
	return -1, ""
}

// differ gives the first index at which two lists differ, or their length.
func differ(a, b []tlog.Hash) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return i
}

// moved tells whether the lists have the same hashes in another order, given
// that they first differ at i.
func moved(a, b []tlog.Hash, i int) bool {
	if len(a) != len(b) {
		return false
	}
	n := map[tlog.Hash]int{}
	for k := i; k < len(a); k++ {
		n[a[k]]++
		n[b[k]]--
	}
	for _, c := range n {
		if c != 0 {
			return false
		}
	}
	return true
}

func splitHashes(b []byte) []tlog.Hash {
	var hs []tlog.Hash
	for ; len(b) >= tlog.HashSize; b = b[tlog.HashSize:] {
		hs = append(hs, tlog.Hash(b[:tlog.HashSize]))
	}
	return hs
}

// clock shows a moment, the time first: it is what a reader compares.
func clock(t time.Time) string { return t.UTC().Format("15:04:05 on 2006-01-02") }

// VerifyFiles checks one branch's files as they lie in a folder (a working
// copy, an export) against the checkpoint among them. report is what Verify
// found in the repository, nil if there is none: it tells when a checkpoint
// was signed. Who has only files can be shown a shorter record: only Verify
// with anchors sees that.
func VerifyFiles(fsys fs.FS, cfg VerifyConfig, report *Report) ([]Problem, error) {
	note, err := fs.ReadFile(fsys, "checkpoint")
	if err != nil {
		return nil, fmt.Errorf("audit: no record here: %w", err)
	}
	cp, err := cfg.Keys.Open(string(note))
	if err != nil {
		return []Problem{{Class: ClassCheckpoint, Entry: -1, Text: err.Error()}}, nil
	}
	bad := func(entry int64, text string) []Problem {
		return []Problem{{Class: ClassEntry, Origin: cp.Origin, Entry: entry, Text: text}}
	}
	j := judgment{signed: cp}
	if b, err := fs.ReadFile(fsys, "base"); err == nil {
		if j.base, err = parseBase(b); err != nil {
			return bad(-1, err.Error()), nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("audit: %w", err)
	}
	var firsts, hashed []uint64
	stray := ""
	err = fs.WalkDir(fsys, "entries", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		stem, ext, _ := strings.Cut(path.Base(p), ".")
		n, err := strconv.ParseUint(stem, 10, 63)
		if err != nil || batchPath(n)+"."+ext != p || ext != "jsonl" && ext != "hashes" {
			stray = p
			return nil
		}
		if ext == "jsonl" {
			firsts = append(firsts, n)
		} else {
			hashed = append(hashed, n)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	slices.Sort(firsts)
	counts := map[uint64]uint64{}
	var all []byte
	for _, n := range firsts {
		b, err := fs.ReadFile(fsys, batchPath(n)+".jsonl")
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		b = append(bytes.TrimSuffix(b, []byte("\n")), '\n')
		all = append(all, b...)
		counts[n] = uint64(bytes.Count(b, []byte("\n")))
	}
	j.batchFile = readBatch(all, nil)
	slices.Sort(hashed)
	for _, n := range hashed {
		h, err := fs.ReadFile(fsys, batchPath(n)+".hashes")
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		j.stored = append(j.stored, splitHashes(h)...)
	}
	if report != nil {
		for _, l := range report.Logs {
			if l.Checkpoint == cp {
				j.when = l.Signed
			}
		}
	}
	if entry, text := j.judge(); text != "" {
		return bad(entry, text), nil
	}
	next := j.base.size
	for _, n := range firsts {
		if n != next {
			return bad(int64(next), fmt.Sprintf("entry %d is not in the file that its number says", next)), nil
		}
		next += counts[n]
	}
	if stray != "" {
		return bad(-1, fmt.Sprintf("%q is no part of the record", stray)), nil
	}
	return nil, nil
}
