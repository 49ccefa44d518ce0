package audit

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
)

// ErrQuorum is returned for a checkpoint without the cosignatures that it needs.
var ErrQuorum = errors.New("not cosigned as it must be")

// Witness is one who cosigns checkpoints (c2sp.org/tlog-witness).
type Witness struct {
	Name string         // in the policy; for people
	Key  *WitnessKey    // what its cosignatures verify under
	URL  string         // where it is asked, without the slash at the end; empty: nowhere
	note note.Verifiers // Key alone
}

// WitnessKey verifies the cosignatures (c2sp.org/tlog-cosignature, Ed25519) of
// one witness; its String is a vkey.
type WitnessKey = torchwood.CosignatureVerifier

// Cosignature says who cosigned a checkpoint, and when, by that one's clock.
type Cosignature struct {
	Witness string
	Time    time.Time
	Line    string // of the note, with its line feed
}

// Quorum says whose cosignatures a checkpoint needs.
type Quorum struct {
	Witnesses []Witness
	policy    torchwood.Policy
	needs     string
}

// ParseQuorum reads a policy of witnesses (c2sp.org/tlog-policy):
//
//	witness <name> <vkey> [<URL>]
//	group <name> all|any|<k> <name>...
//	quorum <name>|none
//
// Lines that define logs are skipped: which logs there are, the record says, and
// who may sign them is given by keys. Other than the specification, one key is
// refused in two witnesses whatever their order, and the URL must be https, or
// http.
func ParseQuorum(file []byte) (*Quorum, error) {
	fail := func(line int, format string, args ...any) (*Quorum, error) {
		return nil, fmt.Errorf("witness policy: line %d: %s", line+1, fmt.Sprintf(format, args...))
	}
	q := &Quorum{}
	member := map[string]bool{}
	lines := strings.Split(string(file), "\n")
	for i, l := range lines {
		if strings.ContainsFunc(l, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return fail(i, "a control character")
		}
		text, _, _ := strings.Cut(l, "#")
		fields := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' })
		if len(fields) == 0 {
			continue
		}
		switch fields[0] {
		case "log":
			lines[i] = ""
		case "witness":
			if len(fields) < 3 || len(fields) > 4 {
				return fail(i, "want witness <name> <vkey> [<URL>]")
			}
			w, err := newWitness(fields[1], fields[2])
			if err != nil {
				return fail(i, "%v", err)
			}
			if w.Name == "none" || slices.ContainsFunc(q.Witnesses, func(o Witness) bool { return o.Name == w.Name || sameKey(o.Key, w.Key) }) {
				return fail(i, "witness %s: its name or its key is there twice", w.Name)
			}
			if len(fields) == 4 {
				w.URL = strings.TrimSuffix(fields[3], "/")
				if !strings.HasPrefix(w.URL, "https://") && !strings.HasPrefix(w.URL, "http://") {
					return fail(i, "witness %s: %q is no URL", w.Name, fields[3])
				}
			}
			q.Witnesses = append(q.Witnesses, w)
		case "group":
			for _, name := range fields[min(3, len(fields)):] {
				if member[name] {
					return fail(i, "%s is a member twice: it would count twice", name)
				}
				member[name] = true
			}
		case "quorum":
			q.needs = "the quorum " + fields[min(1, len(fields)-1)]
		}
	}
	var err error
	if q.policy, err = torchwood.ParsePolicy([]byte(strings.Join(lines, "\n"))); err != nil {
		return nil, fmt.Errorf("witness policy: %w", err)
	}
	return q, nil
}

// NewQuorum makes a policy of n cosignatures by any of the witnesses with these
// vkeys.
func NewQuorum(vkeys []string, n int) (*Quorum, error) {
	if n < 1 || n > len(vkeys) {
		return nil, fmt.Errorf("quorum: %d of %d witnesses", n, len(vkeys))
	}
	q := &Quorum{needs: fmt.Sprintf("%d of %d witnesses", n, len(vkeys))}
	var each []torchwood.Policy
	for _, vkey := range vkeys {
		w, err := newWitness("", vkey)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(q.Witnesses, func(o Witness) bool { return sameKey(o.Key, w.Key) }) {
			return nil, fmt.Errorf("witness key %s is given twice", vkey)
		}
		w.Name = w.Key.Name()
		q.Witnesses = append(q.Witnesses, w)
		each = append(each, torchwood.SingleVerifierPolicy(w.Key))
	}
	q.policy = torchwood.ThresholdPolicy(n, each...)
	return q, nil
}

func newWitness(name, vkey string) (Witness, error) {
	key, err := torchwood.NewCosignatureVerifier(vkey)
	if err != nil {
		return Witness{}, fmt.Errorf("witness key %q: %w (want a vkey of type 4, Ed25519 cosignatures)", vkey, err)
	}
	return Witness{Name: name, Key: key, note: note.VerifierList(key)}, nil
}

// sameKey tells whether two vkeys hold one key, whatever they call it: it would
// be one witness with two votes.
func sameKey(a, b *WitnessKey) bool {
	return a.String()[strings.LastIndex(a.String(), "+"):] == b.String()[strings.LastIndex(b.String(), "+"):]
}

// Needs says in words what it takes.
func (q *Quorum) Needs() string { return q.needs }

// Check gives the cosignatures of a signed checkpoint by witnesses of the
// policy; an error, ErrQuorum, if they do not suffice, or one of them is false.
// The log's own signature is for others to check.
func (q *Quorum) Check(signed string) ([]Cosignature, error) {
	c, err := ReadCheckpoint(signed)
	if err != nil {
		return nil, err
	}
	n, err := note.Open([]byte(signed), q.policy)
	var none *note.UnverifiedNoteError
	if errors.As(err, &none) {
		n = &note.Note{}
	} else if err != nil {
		return nil, fmt.Errorf("%w: %s, size %d: %w", ErrQuorum, c.Origin, c.Size, &falseCosignature{err})
	}
	var by []Cosignature
	for _, s := range n.Sigs {
		t, err := torchwood.CosignatureTimestamp(s)
		if err != nil {
			return by, fmt.Errorf("%w: %v", ErrQuorum, err)
		}
		cs := Cosignature{Witness: s.Name, Time: time.Unix(t, 0).UTC(), Line: fmt.Sprintf("— %s %s\n", s.Name, s.Base64)}
		for _, w := range q.Witnesses {
			if w.Key.Name() == s.Name && w.Key.KeyHash() == s.Hash {
				cs.Witness = w.Name
			}
		}
		by = append(by, cs)
	}
	if err := q.policy.Check(c.Origin, n.Sigs); err != nil {
		return by, fmt.Errorf("%w: %s, size %d: it takes %s, and these cosigned: %s", ErrQuorum, c.Origin, c.Size, q.needs, names(by))
	}
	return by, nil
}

// falseCosignature is a line with a witness's name and key, and a signature that
// is not by it.
type falseCosignature struct{ error }

func names(by []Cosignature) string {
	if len(by) == 0 {
		return "nobody"
	}
	var out []string
	for _, b := range by {
		out = append(out, b.Witness)
	}
	return strings.Join(out, ", ")
}

// Cosigned takes from a witness's answer the cosignature of a signed checkpoint,
// which must be by its key; whatever else is in the answer is ignored.
func (w *Witness) Cosigned(signed, answer string) (Cosignature, error) {
	_, sigs, _ := strings.Cut(signed, "\n\n")
	text := strings.TrimSuffix(signed, "\n"+sigs)
	n, err := note.Open([]byte(text+"\n"+answer), w.note)
	if err != nil {
		return Cosignature{}, fmt.Errorf("%w: the answer of witness %s: %v", ErrQuorum, w.Name, err)
	}
	t, err := torchwood.CosignatureTimestamp(n.Sigs[0])
	if err != nil {
		return Cosignature{}, fmt.Errorf("%w: the answer of witness %s: %v", ErrQuorum, w.Name, err)
	}
	return Cosignature{Witness: w.Name, Time: time.Unix(t, 0).UTC(), Line: fmt.Sprintf("— %s %s\n", n.Sigs[0].Name, n.Sigs[0].Base64)}, nil
}
