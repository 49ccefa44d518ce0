package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
)

// Rolled is the detail of a KindRolled entry, the last one of a log in one
// repository: from the next entry on, the log is in another. That one's branch
// begins with the file base (see edge), as a month's does, and with the file
// handover: a proof (c2sp.org/tlog-proof) of this entry, by the signed checkpoint
// of the old repository's last commit, whose last entry it is. So the new
// repository shows by itself that the log was handed over to it, and from where;
// "countersign audit proof --check" reads the file, and any program for such
// proofs.
//
// Before there was a proof, handover was that checkpoint alone, which does not
// show that the log rolled: it counts where the old repository is given, too.
type Rolled struct {
	From   string `json:"from"` // URLs, without credentials
	To     string `json:"to"`
	Reason string `json:"reason"` // RolledDate or RolledSize
}

// Why a log goes on in another repository.
const (
	RolledDate = "date"
	RolledSize = "size"
)

// handoverFile is the name of the file beside base.
const handoverFile = "handover"

// rolledTo reads where the log goes on.
func rolledTo(detail json.RawMessage) (string, error) {
	var r Rolled
	if err := json.Unmarshal(detail, &r); err != nil || r.To == "" {
		return "", errors.New("it does not say which repository the log goes on in")
	}
	return r.To, nil
}

// lastLeaf is the last entry of a tree, and the way from it to the root.
type lastLeaf struct {
	seq  uint64
	line []byte
	way  tlog.RecordProof
}

// newLastLeaf takes the line that follows an edge: what stands beside it on the
// way up are the edge's subtrees, the smallest first (RFC 6962 §2.1.1).
func newLastLeaf(before edge, line []byte) *lastLeaf {
	l := &lastLeaf{seq: before.size, line: bytes.Clone(line), way: slices.Clone(before.hashes)}
	slices.Reverse(l.way)
	return l
}

// handover gives the file, by the signed checkpoint of the tree.
func (l *lastLeaf) handover(signed string) string {
	return string(torchwood.FormatProofWithExtraData(int64(l.seq), l.line, l.way, []byte(signed)))
}

// openHandover reads the file, and checks all of it but whether it belongs where
// it is; open checks who signed the checkpoint, and gives the keys. rolled is nil
// if the file proves nothing.
func openHandover(file []byte, open func(signed string) (Checkpoint, []string, error)) (c Checkpoint, keys []string, rolled *Rolled, err error) {
	if !bytes.HasPrefix(file, []byte("c2sp.org/tlog-proof@")) {
		c, keys, err = open(string(file))
		return c, keys, nil, err
	}
	p, err := readProof(file)
	if err != nil {
		return c, nil, nil, err
	}
	if c, keys, err = open(p.signed); err != nil {
		return c, nil, nil, err
	}
	if p.Entry.Kind != KindRolled || p.Entry.Seq+1 != c.Size {
		return c, nil, nil, fmt.Errorf("%w: entry %d of %d, of kind %s, is not the last one of a log that goes on elsewhere", ErrProof, p.Entry.Seq, c.Size, p.Entry.Kind)
	}
	if err := tlog.CheckRecord(p.path, int64(c.Size), c.Root, int64(p.Entry.Seq), tlog.RecordHash(p.line)); err != nil {
		return c, nil, nil, fmt.Errorf("%w: entry %d is not in the tree of %d entries that was signed: %w", ErrProof, p.Entry.Seq, c.Size, err)
	}
	rolled, err = readRolled(p.Entry)
	return c, keys, rolled, err
}

// handedOverFrom reads where a log came from, out of a file that was not checked;
// "" if it does not say.
func handedOverFrom(file []byte) string {
	line, err := torchwood.ProofExtraData(file)
	if err != nil {
		return ""
	}
	e, err := Decode(line)
	if err != nil || e.Kind != KindRolled {
		return ""
	}
	r, err := readRolled(e)
	if err != nil {
		return ""
	}
	return r.From
}

func readRolled(e Entry) (*Rolled, error) {
	r := &Rolled{}
	if err := json.Unmarshal(e.Detail, r); err != nil {
		return nil, fmt.Errorf("%w: entry %d: %w", ErrEntry, e.Seq, err)
	}
	return r, nil
}
