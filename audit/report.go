package audit

import (
	"fmt"
	"strings"
	"time"
)

// Report is what Verify found. Its JSON form is what `countersign audit verify
// --json` prints; members are added, never renamed.
type Report struct {
	Verdict  string    `json:"verdict"` // holds, fails, or empty: there is no record
	Logs     []Log     `json:"logs"`
	Entries  uint64    `json:"entries"`
	Commits  int       `json:"commits"` // each has a checkpoint
	Anchors  int       `json:"anchors"` // checkpoints held elsewhere that were compared
	Problems []Problem `json:"problems"`
	Notes    []string  `json:"notes"` // not wrong, but worth knowing
	Checked  Checked   `json:"checked"`
}

// Log is one incarnation's part of a report, as far as it holds.
type Log struct {
	Enforcer    string     `json:"enforcer"`
	Incarnation string     `json:"incarnation"`
	Entries     uint64     `json:"entries"`
	Commits     int        `json:"commits"`
	First       time.Time  `json:"first,omitzero"`
	Last        time.Time  `json:"last,omitzero"`
	Checkpoint  Checkpoint `json:"checkpoint"`         // the newest
	Signed      time.Time  `json:"signed,omitzero"`    // when that was committed
	Signers     []string   `json:"signers"`            // of commits
	Previous    string     `json:"previous,omitempty"` // origin of the incarnation before, as the first entry says; empty: none
	Tip         string     `json:"tip,omitempty"`      // newest commit
	Resumed     uint64     `json:"resumed,omitempty"`  // entries that an earlier run of Verify had checked
	Cosigned    uint64     `json:"cosigned,omitempty"` // entries of the newest tree that meets the quorum, if one was asked for
	CosignedAt  time.Time  `json:"cosigned_at,omitzero"`
}

func (l Log) origin() string { return l.Enforcer + "/" + l.Incarnation }

// Checked counts what was checked of what the entries say, beside that nobody
// changed them.
type Checked struct {
	Calls     int `json:"calls"`     // forwarded: each has an intent
	Closed    int `json:"closed"`    // of them: with an outcome
	Recovered int `json:"recovered"` // of them: closed by a later incarnation
	Open      int `json:"open"`      // of them: neither, at the end of the record
	Refused   int `json:"refused"`   // requests that were not forwarded
	// Unrecorded were refused while the journal had no room, or its disk failed:
	// there is a count of them, and no entry of each.
	Unrecorded int `json:"unrecorded,omitempty"`
	Answered   int `json:"answered"` // requests that the enforcer answered itself
	Asked      int `json:"asked"`    // what servers asked of clients
	Before     int `json:"before"`   // outcomes and approved calls that rest on entries in a repository before, which was not read

	Approved  int `json:"approved"`  // of the calls: those that people approved
	Approvals int `json:"approvals"` // that calls ran on: quorum, people, time, use
	Votes     int `json:"votes"`     // that count in them
	Elsewhere int `json:"elsewhere"` // of the votes: no log that was read has an entry of its own for them
	Bound     int `json:"bound"`     // approved calls whose digest covers the caller's credential as well, so that the two cannot be compared

	Policies  int            `json:"policies"`            // commits read from the policy repository
	Decided   int            `json:"decided"`             // requests decided again, with the same result
	Undecided map[string]int `json:"undecided,omitempty"` // requests that cannot be decided again, by the reason
	Members   int            `json:"members"`             // votes whose voter the policy has in the set
	Groups    int            `json:"groups"`              // votes by a group, as the voter's recorded sign-in showed it
	Unknown   int            `json:"unknown"`             // votes by a group of which the record has no sign-in

	Messages int `json:"messages"` // commit messages made again, and equal
	Bodies   int `json:"bodies"`   // bodies that match their entry
	Sealed   int `json:"sealed"`   // bodies that are there, and sealed to somebody's key
	Erased   int `json:"erased"`   // bodies that are not there (erased, expired, or their branch was not cloned)
}

// Class says what kind of thing does not hold.
type Class string

// The classes of problems. A program may go by them.
const (
	ClassUnread     Class = "unread"     // an object is missing or damaged
	ClassBranch     Class = "branch"     // a branch, file or commit that is no part of a record
	ClassSignature  Class = "signature"  // of a commit
	ClassCheckpoint Class = "checkpoint" // not signed, or of another log
	ClassEntry      Class = "entry"      // changed, missing, put in, moved, or not as it would be written
	ClassMissing    Class = "missing"    // entries that an anchor knows, or that a later branch follows
	ClassFork       Class = "fork"       // two histories where one belongs
	ClassMessage    Class = "message"    // a commit's message says what its entries do not
	ClassAnchor     Class = "anchor"     // a checkpoint kept elsewhere does not verify
	ClassCall       Class = "call"       // intent, outcome and refusal do not fit each other
	ClassApproval   Class = "approval"   // a call ran without the approval it needed
	ClassPolicy     Class = "policy"     // a policy that was not in force, or is not in its repository
	ClassDecision   Class = "decision"   // the policy named decides otherwise
	ClassRotation   Class = "rotation"   // a key entry that proves nothing
	ClassRetired    Class = "retired"    // by a key that another had replaced before
	ClassHandover   Class = "handover"   // a repository does not continue the one before
	ClassBody       Class = "body"       // a body is not what its entry says
	ClassQuorum     Class = "quorum"     // too few witnesses
	ClassState      Class = "state"      // it is not what an earlier run of Verify saw
)

// Problem is one thing that does not hold.
type Problem struct {
	Class  Class  `json:"class"`
	Origin string `json:"origin,omitempty"`
	Branch string `json:"branch,omitempty"`
	Commit string `json:"commit,omitempty"`
	Entry  int64  `json:"entry"` // -1: no single one
	Text   string `json:"text"`
}

func (p Problem) String() string {
	where := p.Origin
	if p.Branch != "" {
		where = p.Branch
	}
	if p.Commit != "" {
		where += ", commit " + short(p.Commit)
	}
	if where == "" {
		return p.Text
	}
	return p.Text + " (" + where + ")"
}

// The verdicts.
const (
	Holds = "holds"
	Fails = "fails"
	Empty = "empty"
)

// OK tells whether there is a record, and everything holds.
func (r *Report) OK() bool { return len(r.Problems) == 0 && len(r.Logs) > 0 }

// String is the report in a line, or a line for each problem.
func (r *Report) String() string {
	if len(r.Problems) > 0 {
		var lines []string
		for _, p := range r.Problems {
			lines = append(lines, p.String())
		}
		return strings.Join(lines, "\n")
	}
	if len(r.Logs) == 0 {
		return "no record here"
	}
	return fmt.Sprintf("%d %s, %d %s, all links hold", r.Entries, plural(int(r.Entries), "entry", "entries"),
		r.Commits, plural(r.Commits, "checkpoint", "checkpoints"))
}
