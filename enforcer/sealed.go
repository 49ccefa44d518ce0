package enforcer

import (
	"encoding/base64"
	"encoding/json"

	"countersign/enforcer/approval"
	"countersign/enforcer/freeze"
	"countersign/rules"
)

// Where the record does not name subjects, an approval's entries, and those of a
// freeze, still have to hold what the next start rebuilds them from: the
// pseudonym stands in them for people, and beside it, under "sealed", who it is,
// for the enforcer alone (see sealer). With the key of the state directory, or
// the one that all enforcers share, that is gone for good; what cannot be opened
// stays under its pseudonym.

// RecordedApproval is an approval as its entries have it in their detail.
type RecordedApproval struct {
	approval.Approval
	Sealed string `json:"sealed,omitempty"`
}

// whose is what is sealed of an approval.
type whose struct {
	Subject rules.Subject `json:"subject"`
	Holder  string        `json:"holder"`
}

// Approval is how the policy has the record tell of an approval. A nil policy
// names nobody.
func (n Names) Approval(p *rules.Policy, a approval.Approval) (RecordedApproval, error) {
	s := n.Subject(p, a.Subject)
	if s.Sub == a.Subject.Sub {
		return RecordedApproval{Approval: a}, nil
	}
	sealed, err := n.seal("approval "+a.ID, whose{a.Subject, a.Holder})
	a.Subject, a.Holder = s, n.Holder(a.Holder)
	return RecordedApproval{a, sealed}, err
}

// reveal opens what Approval sealed. An approval that stays under its pseudonym
// is found by nobody who asks again, and approved by nobody.
func (n Names) reveal(r RecordedApproval) approval.Approval {
	a := r.Approval
	if r.Sealed == "" {
		return a
	}
	var w whose
	if n.unseal("approval "+a.ID, r.Sealed, &w) != nil {
		a.Partial, a.Cut = true, true
		return a
	}
	a.Subject, a.Holder = w.Subject, w.Holder
	return a
}

// Frozen is how the policy has the record tell of a freeze, and who it is about,
// sealed, where that is not in the open.
func (n Names) Frozen(p *rules.Policy, f freeze.Freeze) (freeze.Freeze, string, error) {
	s := n.Subject(p, rules.Subject{Issuer: f.Issuer, Sub: f.Sub})
	if s.Sub == f.Sub {
		return f, "", nil
	}
	sealed, err := n.seal("freeze "+f.ID, f.Sub)
	f.Sub = s.Sub
	return f, sealed, err
}

// thaw opens what Frozen sealed. A freeze under a pseudonym still stops its
// subject, as long as pseudonyms are made with the same key.
func (n Names) thaw(f freeze.Freeze, sealed string) freeze.Freeze {
	var sub string
	if sealed != "" && n.unseal("freeze "+f.ID, sealed, &sub) == nil {
		f.Sub = sub
	}
	return f
}

func (n Names) seal(place string, v any) (string, error) {
	s, err := newSealer(n.digest)
	if err != nil {
		return "", err
	}
	plain, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(s.seal(plain, place)), nil
}

func (n Names) unseal(place, sealed string, v any) error {
	s, err := newSealer(n.digest)
	if err != nil {
		return err
	}
	raw, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil {
		return err
	}
	plain, err := s.open(raw, place)
	if err != nil {
		return err
	}
	return json.Unmarshal(plain, v)
}
