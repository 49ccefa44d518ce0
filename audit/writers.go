package audit

import (
	"strings"
	"time"
)

// writers counts who else writes to a remote, from what it shows of its
// branches at each push. A writer is an origin (<enforcer>/<incarnation>): it
// is live while its branches change. What changed before the first look cannot
// be known; there, an enforcer with a branch of this month counts as one, until
// it has stood still for as long as any other.
//
// Between looks nothing is known, and nothing is forgotten: who pushes rarely
// keeps the count of its last look.
type writers struct {
	others int // live ones, at the last look

	looked time.Time
	tips   map[string]string    // branch → commit, at the last look
	live   map[string]time.Time // origin, or enforcer → when a change was seen last
	ours   map[string]bool      // origins that are pushed from here
}

// see takes in the remote's branches before a push of ours.
func (w *writers) see(refs map[string]string, pushed []string, now time.Time, span time.Duration) {
	if w.ours == nil {
		w.ours, w.live = map[string]bool{}, map[string]time.Time{}
	}
	for _, b := range pushed {
		if enforcer, id, _, ok := splitBranch(b); ok {
			w.ours[enforcer+"/"+id], w.ours[enforcer] = true, true
		}
	}
	month := now.UTC().Format("2006-01")
	tips := map[string]string{}
	for b, tip := range refs {
		enforcer, id, m, ok := splitBranch(b)
		if !ok {
			continue
		}
		tips[b] = tip
		origin := enforcer + "/" + id
		switch {
		case w.ours[origin]:
		case w.tips == nil:
			if m == month && !w.ours[enforcer] {
				w.live[enforcer] = now
			}
		case w.tips[b] != tip:
			w.live[origin] = now
			delete(w.live, enforcer) // known by name now
		}
	}
	for who, at := range w.live {
		if now.Sub(at) > span {
			delete(w.live, who)
		}
	}
	w.tips, w.looked, w.others = tips, now, len(w.live)
}

// splitBranch takes a log's branch name apart; see branchName.
func splitBranch(branch string) (enforcer, incarnation, month string, ok bool) {
	parts := strings.Split(branch, "/")
	if len(parts) != 4 || parts[0] != "audit" || !isMonth(parts[3]) {
		return "", "", "", false
	}
	return parts[1], parts[2], parts[3], true
}
