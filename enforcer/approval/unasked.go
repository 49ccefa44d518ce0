package approval

import (
	"context"
	"maps"
	"strings"
)

// maxUnasked bounds what is kept of why a set could not be asked.
const maxUnasked = 500

// Unasked notes why a set could not be asked, "" when it could after all: for
// the enforcers, where the bot that asks is another process, and for whoever
// looks at what waits. Of an approval that no longer waits it notes nothing.
func (b *Book) Unasked(ctx context.Context, id, set, why string) error {
	if len(why) > maxUnasked {
		why = strings.ToValidUTF8(why[:maxUnasked], "")
	}
	_, err := b.change(ctx, id, func(a *Approval) (string, error) {
		if a.State != Pending || a.Unasked[set] == why {
			return "", nil
		}
		a.Unasked = maps.Clone(a.Unasked)
		if why == "" {
			delete(a.Unasked, set)
			return EventCard, nil
		}
		if a.Unasked == nil {
			a.Unasked = map[string]string{}
		}
		a.Unasked[set] = why
		return EventCard, nil
	})
	return err
}
