package rules

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"go.yaml.in/yaml/v3"
)

// What the record keeps of the bodies of a call.
const (
	RecordDigest = "digest" // their size, and a salted digest
	RecordFull   = "full"   // the masked body
)

// Record is what countersign.yaml says about the record.
type Record struct {
	Bodies    string // RecordDigest or RecordFull, where no matching rule says
	Previews  bool   // entries show the beginning of arguments and results
	Pseudonym bool   // subjects stand in entries under a keyed digest
	// Recipients are what bodies are sealed to: age recipients, and SSH public
	// keys as a line of authorized_keys has them. None: bodies are not sealed.
	Recipients []string
	Retention  time.Duration // of bodies; 0: for ever
}

const (
	maxRecipients = 32
	minRetention  = 24 * time.Hour
	maxRetention  = 100 * 365 * 24 * time.Hour
)

// record reads the section of that name.
func (d *document) record(n *yaml.Node, r *Record) {
	f, ok := d.fields(n, "record", "bodies", "previews", "subjects", "recipients", "retention")
	if !ok {
		return
	}
	if v := f["bodies"]; v != nil {
		r.Bodies = d.recordWord(v, "record.bodies")
	}
	if v := f["previews"]; v != nil {
		r.Previews = d.truth(v, "record.previews")
	}
	if v := f["subjects"]; v != nil {
		switch s := d.text(v, "record.subjects"); s {
		case "plain", "":
		case "pseudonym":
			r.Pseudonym = true
		default:
			d.report(v, "record.subjects %q is not known: plain or pseudonym", s)
		}
	}
	r.Recipients = d.recipients(f["recipients"])
	if v := f["retention"]; v != nil {
		r.Retention = d.days(v, "record.retention", minRetention, maxRetention)
	}
}

// recordWord reads what is kept of bodies.
func (d *document) recordWord(n *yaml.Node, what string) string {
	s := d.text(n, what)
	if s != "" && s != RecordDigest && s != RecordFull {
		d.report(n, "%s %q is not known: digest or full", what, s)
	}
	return s
}

// recipients reads whom bodies are sealed to: each must be one that they can
// be sealed to, and all of them together.
func (d *document) recipients(n *yaml.Node) (all []string) {
	const what = "record.recipients"
	var kinds []bool // post-quantum or not, of those read
	d.each(n, what, func(at *yaml.Node, s string) {
		if err := sealable(s); err != nil {
			d.report(at, "%s: %v", what, err)
			return
		}
		all = append(all, s)
		if pq := strings.HasPrefix(s, hybridPrefix); !slices.Contains(kinds, pq) {
			kinds = append(kinds, pq)
		}
	})
	if len(all) > maxRecipients {
		d.report(n, "%s names %d: at most %d", what, len(all), maxRecipients)
	}
	if len(kinds) > 1 {
		d.report(n, "%s mixes %s… with others: age seals to either kind alone, since the others would undo what the first protects", what, hybridPrefix)
	}
	return all
}

const hybridPrefix = "age1pq1"

// sealable tells whether something can be sealed to s, without quoting it:
// who confuses the two keys has put a private one there.
func sealable(s string) (err error) {
	kind, body, _ := strings.Cut(s, " ")
	switch {
	case strings.HasPrefix(strings.ToUpper(s), "AGE-SECRET-KEY-"), strings.Contains(s, "PRIVATE KEY"):
		return fmt.Errorf("this is a private key, which belongs in no policy: replace it, and write its public key here")
	case strings.ContainsAny(s, "\r\n"):
		return fmt.Errorf("one recipient is one line")
	case strings.HasPrefix(s, hybridPrefix):
		_, err = age.ParseHybridRecipient(s)
	case strings.HasPrefix(s, "age1"):
		_, err = age.ParseX25519Recipient(s)
	case (kind == "ssh-ed25519" || kind == "ssh-rsa") && body != "":
		_, err = agessh.ParseRecipient(s)
	default:
		return fmt.Errorf("want an age recipient (age1…) or an SSH public key (ssh-ed25519 or ssh-rsa, and its base64)")
	}
	return err
}

// days reads a duration that may be a number of days, such as 90d.
func (d *document) days(n *yaml.Node, what string, least, most time.Duration) time.Duration {
	s := d.text(n, what)
	if s == "" {
		return 0
	}
	v, err := time.ParseDuration(s)
	if num, ok := strings.CutSuffix(s, "d"); ok {
		var count uint64
		count, err = strconv.ParseUint(num, 10, 16)
		v = time.Duration(count) * 24 * time.Hour
	}
	switch {
	case err != nil:
		d.report(n, "%s must be a number of days such as 90d, not %q", what, s)
	case v < least || v > most:
		d.report(n, "%s is %s: it must lie between %dd and %dd", what, s, least/(24*time.Hour), most/(24*time.Hour))
	default:
		return v
	}
	return 0
}

// recorded is what the record keeps of a call's bodies: digest if any of the
// rules that matched says so, or else full if any does, or else the setting.
func (p *Policy) recorded(matched [3][]*rule) string {
	word := ""
	for _, rs := range matched {
		for _, r := range rs {
			if r.record == RecordDigest {
				return RecordDigest
			}
			if r.record != "" {
				word = r.record
			}
		}
	}
	if word == "" {
		word = p.settings.Record.Bodies
	}
	return word
}
