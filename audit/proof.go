package audit

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
)

var (
	// ErrProof is returned for a proof that does not read, or does not hold.
	ErrProof = errors.New("proof")
	// ErrNoEntry: the record has no such entry, or it has more than one.
	ErrNoEntry = errors.New("no such entry")
)

// maxProofFile bounds a proof: an entry in base64, 64 hashes, a checkpoint.
const maxProofFile = 256 << 10

// Proof shows that an entry is in a log: with a public key and nothing else.
type Proof struct {
	Entry      Entry
	Checkpoint Checkpoint
	Cosigned   []Cosignature // by witnesses of the policy that was asked for

	line   []byte
	path   tlog.RecordProof
	signed string
}

// Encode gives the proof as a file (c2sp.org/tlog-proof@v1). Its extra data is
// the entry's line: exactly what the leaf hash is of.
func (p Proof) Encode() []byte {
	return torchwood.FormatProofWithExtraData(int64(p.Entry.Seq), p.line, p.path, []byte(p.signed))
}

// LogKey is what a stranger checks the proof with, beside the file: the log's
// origin and its checkpoint key, as a vkey (c2sp.org/signed-note).
func (p Proof) LogKey(keys LogKeys) (string, error) {
	for _, k := range keys.Of(p.Checkpoint.Origin) {
		if _, err := OpenCheckpoint(p.signed, []ed25519.PublicKey{k}); err == nil {
			v, err := verifier(p.Checkpoint.Origin, k)
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("%s+%08x+%s", v.Name(), v.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{1}, k...))), nil
		}
	}
	return "", fmt.Errorf("%w: no key signed it", ErrProof)
}

// OpenProof reads a proof and checks all of it: that the entry reads as it would
// be written, that the path leads from it to the root, that a key of its log
// signed the checkpoint, and, if there is a quorum, that it is met.
func OpenProof(file []byte, keys LogKeys, q *Quorum) (Proof, error) {
	p, err := readProof(file)
	if err != nil {
		return p, err
	}
	bad := badProof
	if p.Checkpoint, err = keys.Open(p.signed); err != nil {
		return bad("%w", err)
	}
	for _, k := range keys.Of(p.Checkpoint.Origin) {
		v, verr := verifier(p.Checkpoint.Origin, k)
		if verr != nil {
			return bad("%w", verr)
		}
		log := torchwood.ThresholdPolicy(2, torchwood.OriginPolicy(p.Checkpoint.Origin), torchwood.SingleVerifierPolicy(v))
		if err = torchwood.VerifyProof(log, tlog.RecordHash(p.line), file); err == nil {
			break
		}
	}
	if err != nil {
		return bad("entry %d is not in the tree of %d entries that was signed: %w", p.Entry.Seq, p.Checkpoint.Size, err)
	}
	if q != nil {
		if p.Cosigned, err = q.Check(p.signed); err != nil {
			return bad("%w", err)
		}
	}
	return p, nil
}

func badProof(format string, args ...any) (Proof, error) {
	return Proof{}, fmt.Errorf("%w: %w", ErrProof, fmt.Errorf(format, args...))
}

// readProof reads a proof. Nothing is known yet of what it shows: neither that its
// checkpoint is signed, nor that the path leads there.
func readProof(file []byte) (Proof, error) {
	bad := badProof
	if len(file) > maxProofFile {
		return bad("%d bytes", len(file))
	}
	line, err := torchwood.ProofExtraData(file)
	if err != nil {
		return bad("it holds no entry: %w", err)
	}
	p := Proof{line: line}
	if p.Entry, err = Decode(line); err != nil {
		return bad("%w", err)
	}
	head, signed, ok := strings.Cut(string(file), "\n\n")
	if !ok {
		return bad("it holds no checkpoint")
	}
	if p.signed = signed; len(signed) == 0 {
		return bad("it holds no checkpoint")
	}
	for _, l := range strings.Split(head, "\n")[1:] {
		if strings.Contains(l, " ") {
			continue // extra and index
		}
		h, err := tlog.ParseHash(l)
		if err != nil {
			return bad("%q is no hash", l)
		}
		p.path = append(p.path, h)
	}
	if !bytes.Equal(p.Encode(), file) {
		return bad("it is not as it would be written: its index is not the entry's, or something was added")
	}
	return p, nil
}

// ProveConfig says which entry is to be proven, and to whom.
type ProveConfig struct {
	Keys   LogKeys // of checkpoints
	Quorum *Quorum // nil: the newest checkpoint will do, whoever cosigned it
	// Earlier are the repositories before, the oldest first, as in VerifyConfig.
	Earlier []Repository
	Prefix  string // limits the logs, as in VerifyConfig
	// The entry: what ended the call, or else the last one that names it, or the
	// last of that kind if one is given; or, without a call, number Seq of the
	// only log that there is. A call may be named by its beginning.
	Call string
	Kind Kind
	Seq  uint64
}

// Prove proves one entry by the newest checkpoint that meets the quorum. Errors
// are ErrNoEntry; ErrQuorum, if it was never met for that entry; ErrProof, if
// the record itself does not hold; and what reading gives.
func Prove(ctx context.Context, repo Repository, cfg ProveConfig) (Proof, error) {
	logs, err := openShelves(append(slices.Clone(cfg.Earlier), repo), cfg.Prefix)
	if err != nil {
		return Proof{}, err
	}
	if cfg.Call == "" && len(logs) > 1 {
		var names []string
		for _, l := range logs {
			names = append(names, "audit/"+l.origin+"/")
		}
		return Proof{}, fmt.Errorf("%w: there are %d logs; choose one: %s", ErrNoEntry, len(logs), strings.Join(names, ", "))
	}
	found := map[string]sought{}
	for _, l := range logs {
		if err := l.find(ctx, cfg, found); err != nil {
			return Proof{}, err
		}
	}
	this, err := cfg.choose(found)
	if err != nil {
		return Proof{}, err
	}
	in, line := this.in, this.line
	e, err := Decode(line)
	if err != nil {
		return Proof{}, fmt.Errorf("%w: %w", ErrProof, err)
	}
	signed, cp, err := in.checkpoint(ctx, e.Seq, cfg)
	if err != nil {
		return Proof{}, err
	}
	base, leaves := in.leaves(e.Seq)
	p := Proof{line: line, Entry: e, Checkpoint: cp, signed: signed}
	if p.path, err = proveEntry(e.Seq, cp.Size, base, leaves); err != nil {
		return Proof{}, err
	}
	return OpenProof(p.Encode(), cfg.Keys, cfg.Quorum)
}

// shelf is one log as it lies in its repositories: its months' newest trees.
type shelf struct {
	repo   Repository
	origin string
	months []month
}

type month struct {
	tip     string
	base    edge
	batches []batchFiles // in order
}

// batchFiles are the blobs of a batch.
type batchFiles struct {
	first         uint64
	lines, hashes string
}

// openShelves finds the logs of repositories, of which each goes on with the one
// before; nothing is verified.
func openShelves(repos []Repository, prefix string) ([]*shelf, error) {
	if prefix == "" {
		prefix = "audit/"
	}
	type found struct {
		branch string
		in     Repository
	}
	var all []found
	for _, r := range repos {
		branches, err := r.Branches(prefix)
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		for _, b := range branches {
			all = append(all, found{b, r})
		}
	}
	slices.SortStableFunc(all, func(a, b found) int { return strings.Compare(a.branch, b.branch) }) // months in order, and in each the repositories
	var logs []*shelf
	for _, f := range all {
		parts := strings.Split(f.branch, "/")
		if len(parts) != 4 || parts[0] != "audit" || !isMonth(parts[3]) {
			continue
		}
		origin := parts[1] + "/" + parts[2]
		if n := len(logs); n == 0 || logs[n-1].origin != origin {
			logs = append(logs, &shelf{repo: together(repos), origin: origin})
		}
		m, err := openMonth(f.in, f.branch)
		if err != nil {
			return nil, fmt.Errorf("audit: %s: %w", f.branch, err)
		}
		l := logs[len(logs)-1]
		l.months = append(l.months, m)
	}
	if len(logs) == 0 {
		return nil, fmt.Errorf("%w: no branch begins with %s", ErrNoEntry, prefix)
	}
	return logs, nil
}

func openMonth(repo Repository, branch string) (m month, err error) {
	var ok bool
	if m.tip, ok, err = repo.Tip(branch); err != nil || !ok {
		return m, fmt.Errorf("the branch does not read: %w", err)
	}
	c, err := repo.Commit(m.tip)
	if err != nil {
		return m, err
	}
	batches := map[uint64]*batchFiles{}
	var walk func(dir, tree string, depth int) error
	walk = func(dir, tree string, depth int) error {
		nodes, err := repo.Tree(tree)
		if err != nil || depth > 12 {
			return err
		}
		for _, n := range nodes {
			p := path.Join(dir, n.Name)
			stem, ext, _ := strings.Cut(n.Name, ".")
			switch {
			case n.Mode == modeDir && (dir != "" || n.Name == "entries"):
				if err := walk(p, n.Hash, depth+1); err != nil {
					return err
				}
			case p == "base":
				b, err := repo.Blob(n.Hash)
				if err != nil {
					return err
				}
				if m.base, err = parseBase(b); err != nil {
					return err
				}
			case ext == "jsonl" || ext == "hashes":
				first, err := strconv.ParseUint(stem, 10, 63)
				if err != nil || batchPath(first)+"."+ext != p {
					continue
				}
				if batches[first] == nil {
					batches[first] = &batchFiles{first: first}
				}
				if ext == "jsonl" {
					batches[first].lines = n.Hash
				} else {
					batches[first].hashes = n.Hash
				}
			}
		}
		return nil
	}
	if err := walk("", c.Tree, 0); err != nil {
		return m, err
	}
	for _, b := range batches {
		m.batches = append(m.batches, *b)
	}
	slices.SortFunc(m.batches, func(a, b batchFiles) int { return cmp.Compare(a.first, b.first) })
	return m, nil
}

// sought is an entry that may be the one that is asked for.
type sought struct {
	in    *shelf
	line  []byte
	ended bool // it says how the call ended
}

const shortestName = 4 // of a call, by its beginning

// choose picks the entry from those of each call that may be meant.
func (cfg ProveConfig) choose(found map[string]sought) (sought, error) {
	if s, ok := found[cfg.Call]; ok {
		return s, nil
	}
	what := fmt.Sprintf("number %d", cfg.Seq)
	if cfg.Call != "" {
		what = "of call " + cfg.Call
	}
	if cfg.Kind != "" {
		what += ", of kind " + string(cfg.Kind)
	}
	calls := slices.Sorted(maps.Keys(found))
	switch {
	case len(calls) == 1:
		return found[calls[0]], nil
	case len(calls) > 1:
		return sought{}, fmt.Errorf("%w: %s is the beginning of several calls: %s", ErrNoEntry, cfg.Call, strings.Join(calls, ", "))
	}
	return sought{}, fmt.Errorf("%w in this record: %s", ErrNoEntry, what)
}

// find notes the entry, or of each call that may be meant the best one, in found.
func (l *shelf) find(ctx context.Context, cfg ProveConfig, found map[string]sought) error {
	call := appendString(nil, cfg.Call)
	if len(cfg.Call) >= shortestName {
		call = call[:len(call)-1] // without the quote at its end
	}
	for _, m := range slices.Backward(l.months) {
		for i, b := range slices.Backward(m.batches) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if cfg.Call == "" && (cfg.Seq < b.first || i+1 < len(m.batches) && cfg.Seq >= m.batches[i+1].first) {
				continue
			}
			text, err := l.repo.Blob(b.lines)
			if err != nil {
				return err
			}
			if cfg.Call != "" && !bytes.Contains(text, call) {
				continue
			}
			for _, line := range slices.Backward(trimLines(text)) {
				e, err := Decode(line)
				if err != nil {
					return fmt.Errorf("%w: %s, after entry %d: %w", ErrProof, l.origin, b.first, err)
				}
				if cfg.Call == "" {
					if e.Seq == cfg.Seq {
						found[""] = sought{in: l, line: line}
						return nil
					}
					continue
				}
				if e.Call != cfg.Call && (len(cfg.Call) < shortestName || !strings.HasPrefix(e.Call, cfg.Call)) || cfg.Kind != "" && e.Kind != cfg.Kind {
					continue
				}
				this := sought{l, line, cfg.Kind != "" || e.Kind == KindOutcome || e.Kind == KindRefused || e.Kind == KindRecovered}
				if was, ok := found[e.Call]; !ok || this.ended && !was.ended {
					found[e.Call] = this
				}
				if e.Call == cfg.Call && this.ended {
					return nil
				}
			}
		}
	}
	return nil
}

// checkpoint finds the newest one that has the entry and meets the quorum.
func (l *shelf) checkpoint(ctx context.Context, seq uint64, cfg ProveConfig) (string, Checkpoint, error) {
	var why error
	for _, m := range slices.Backward(l.months) {
		for hash := m.tip; hash != ""; {
			if err := ctx.Err(); err != nil {
				return "", Checkpoint{}, err
			}
			c, err := l.repo.Commit(hash)
			if err != nil {
				return "", Checkpoint{}, err
			}
			nodes, err := l.repo.Tree(c.Tree)
			if err != nil {
				return "", Checkpoint{}, err
			}
			i := slices.IndexFunc(nodes, func(n Node) bool { return n.Name == "checkpoint" })
			if i < 0 {
				return "", Checkpoint{}, fmt.Errorf("%w: commit %s has no checkpoint", ErrProof, hash)
			}
			b, err := l.repo.Blob(nodes[i].Hash)
			if err != nil {
				return "", Checkpoint{}, err
			}
			cp, err := cfg.Keys.Open(string(b))
			if err == nil && cp.Origin != l.origin {
				err = fmt.Errorf("commit %s has a checkpoint of another log, %s", hash, cp.Origin)
			}
			if err != nil {
				return "", Checkpoint{}, fmt.Errorf("%w: %w", ErrProof, err)
			}
			if cp.Size <= seq {
				if why == nil {
					why = fmt.Errorf("%w: entry %d is not in a checkpoint yet", ErrNoEntry, seq)
				}
				return "", Checkpoint{}, why
			}
			if cfg.Quorum == nil {
				return string(b), cp, nil
			}
			if _, err = cfg.Quorum.Check(string(b)); err == nil {
				return string(b), cp, nil
			}
			if why == nil {
				why = err
			}
			if hash = ""; len(c.Parents) > 0 {
				hash = c.Parents[0]
			}
		}
	}
	return "", Checkpoint{}, why
}

// leaves gives the newest edge before an entry that the months hold, and the
// leaf hashes from there on.
func (l *shelf) leaves(seq uint64) (edge, iter.Seq2[tlog.Hash, error]) {
	from := 0
	for i, m := range l.months {
		if m.base.size <= seq {
			from = i
		}
	}
	return l.months[from].base, func(yield func(tlog.Hash, error) bool) {
		for _, m := range l.months[from:] {
			for _, b := range m.batches {
				text, err := l.repo.Blob(b.hashes)
				if err != nil {
					yield(tlog.Hash{}, fmt.Errorf("audit: the leaf hashes from entry %d on: %w", b.first, err))
					return
				}
				for _, h := range splitHashes(text) {
					if !yield(h, nil) {
						return
					}
				}
			}
		}
	}
}
