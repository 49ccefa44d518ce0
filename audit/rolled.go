package audit

import (
	"encoding/json"
	"errors"
)

// Rolled is the detail of a KindRolled entry, the last one of a log in one
// repository: from the next entry on, the log is in another. That one's branch
// begins with the file base (see edge), as a month's does, and with the file
// handover: the signed checkpoint of the old repository's last commit, which
// covers this entry.
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
