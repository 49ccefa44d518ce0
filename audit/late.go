package audit

import (
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	lateAfter  = 30 * time.Second // from a commit that was not cosigned to the first time that it is asked for again
	lateSeldom = 5 * time.Minute  // doubled each time, no more than this: well within DefaultGrace
)

// lateReason is the reason of the entry that has late cosignatures.
const lateReason = "cosignatures that this checkpoint was published without"

// late is what the newest checkpoint lacks. The next commit has others asked
// about all that there is; but an enforcer that has nothing to record makes
// none, and its last entries would stay without cosignatures for as long.
type late struct {
	lacks bool
	tries int       // since a commit had all its cosignatures
	due   time.Time // not before
}

// committed takes in a commit, with all its cosignatures or not.
func (l *late) committed(all bool, now time.Time, rand func() float64) {
	if l.lacks = !all; all {
		l.tries = 0
		return
	}
	wait := min(lateAfter<<min(l.tries, 16), lateSeldom)
	if rand != nil {
		wait += time.Duration(rand() * float64(wait) / 5)
	}
	l.due = now.Add(wait)
}

// askAgain asks for what the newest checkpoint lacks, if it is time to, and
// tells whether there is something to commit now. What comes cannot be put into
// a commit that is published, nor is there one without entries: so an entry
// holds it, of kind anchor, and that entry's commit is cosigned in its turn. It
// is made only if somebody answered who had been missing: as long as they are
// away, nothing is written. The log of an earlier run is not asked for: the checkpoint of this
// one, which names its end, stands for it.
func (p *Publisher) askAgain(ctx context.Context) (more bool, err error) {
	j := p.cfg.Journal
	now := p.cfg.Now()
	if j == nil || p.cfg.Cosign == nil || !p.late.lacks || now.Before(p.late.due) || p.at.size != p.end() || p.at.next != "" {
		return false, nil
	}
	p.late.tries++
	p.late.committed(false, now, p.cfg.Rand)
	c := Checkpoint{Origin: p.inc.origin(), Size: p.at.size, Root: p.at.root()}
	signed, err := c.SignWith(ctx, p.keys()...)
	if err != nil {
		return false, err
	}
	got, err := p.cosigned(ctx, c, signed, p.at.edge, func(ctx context.Context, old uint64) (tlog.TreeProof, error) {
		return p.proofs.from(ctx, old, c.Size, nil, p.at.last)
	})
	p.late.lacks = err != nil // which is logged, and they are asked again
	if !newSigner(strings.TrimPrefix(got, signed), p.at.signed) {
		return false, nil
	}
	p.late.lacks = true // until a commit has what came
	if len(got) > maxAnchored {
		got = signed // whoever verifies has the next commit's
	}
	detail, err := Detail(Anchor{Checkpoint: got, Commit: p.at.commit})
	if err != nil {
		return false, err
	}
	if _, err := j.Append(ctx, Entry{Kind: KindAnchor, Reason: lateReason, Detail: detail}); err != nil {
		if !errors.Is(err, ErrClosed) {
			p.cfg.Log.Warn("late cosignatures could not be recorded", "origin", c.Origin, "size", c.Size, "err", err)
		}
		return false, nil
	}
	return true, nil
}

// cosigned gives the note with the signatures of others, as far as they come
// in time; the error, if not all did, is logged.
func (p *Publisher) cosigned(ctx context.Context, c Checkpoint, signed string, at edge, proof func(context.Context, uint64) (tlog.TreeProof, error)) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, cosignTime)
	defer cancel()
	got, err := p.cfg.Cosign(ctx, Cosigning{Checkpoint: c, Signed: signed, Proof: proof})
	if !adds(got, signed) {
		got, err = signed, errors.Join(err, errors.New("what came back is not the note with lines added"))
	}
	if err != nil {
		p.cfg.Log.Warn("a checkpoint has not all the cosignatures that it should have", "origin", c.Origin, "size", c.Size, "err", err)
	}
	p.proofs.asked(at, strings.TrimPrefix(got, signed))
	return got, err
}

// newSigner tells whether lines of signatures have a name that a note has not.
func newSigner(lines, note string) bool {
	for l := range strings.Lines(lines) {
		name, _, _ := strings.Cut(strings.TrimPrefix(l, "— "), " ")
		if !strings.Contains(note, "\n— "+name+" ") {
			return true
		}
	}
	return false
}

// adds tells whether a note is another one with signature lines added.
func adds(got, signed string) bool {
	more, ok := strings.CutPrefix(got, signed)
	if !ok || len(got) > maxNote {
		return false
	}
	for _, l := range trimLines([]byte(more)) {
		if !strings.HasPrefix(string(l), "— ") || strings.ContainsFunc(string(l), hidden) {
			return false
		}
	}
	return more == "" || strings.HasSuffix(more, "\n")
}
