package quota

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The counts of a day, as they are saved: lines of ASCII, each ending in LF.
//
//	countersign quotas 1 <day>        days since 1970, UTC
//	<quota> <key> <calls>             the quota's id, the key in hex, decimal; sorted
//	sum <hex>                         SHA-256 of all lines before
//
// There is nothing in it that names anybody: keys are hashes (KeyOf). It has no
// more than Snapshot writes: about 10,000 lines a quota.

const header = "countersign quotas 1 "

// MaxState bounds the saved counts, in bytes.
const MaxState = 64 << 20

// ErrDamaged is returned for saved counts that are not as Snapshot wrote them.
var ErrDamaged = errors.New("the saved counts of the quotas are damaged")

// Snapshot returns the day's counts to be saved, nil if nothing has changed
// since the last one. As long as the day's counts are lost it returns nil: what
// was found damaged stays, so that a restart finds it, too.
func (t *Table) Snapshot(now time.Time) []byte {
	type line struct {
		quota string
		key   Key
		n     int
	}
	var lines []line
	today := day(now)
	t.mu.Lock()
	if !t.dirty || t.lost == today {
		t.mu.Unlock()
		return nil
	}
	t.dirty = false
	for id, keys := range t.m {
		for k, c := range keys {
			if c.today > 0 && (c.day == today || c.day-1 == today) {
				lines = append(lines, line{id, k, c.today})
			}
		}
	}
	t.mu.Unlock()
	slices.SortFunc(lines, func(a, b line) int {
		if c := strings.Compare(a.quota, b.quota); c != 0 {
			return c
		}
		return bytes.Compare(a.key[:], b.key[:])
	})
	b := strconv.AppendInt([]byte(header), today, 10)
	b = append(b, '\n')
	for _, l := range lines {
		b = append(b, l.quota...)
		b = append(b, ' ')
		b = hex.AppendEncode(b, l.key[:])
		b = append(b, ' ')
		b = strconv.AppendInt(b, int64(l.n), 10)
		b = append(b, '\n')
	}
	sum := sha256.Sum256(b)
	b = append(b, "sum "...)
	return append(hex.AppendEncode(b, sum[:]), '\n')
}

// Unsaved says that the last Snapshot could not be saved: the next one has it
// all again.
func (t *Table) Unsaved() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dirty = true
}

// Restore takes saved counts in, into a Table that has counted nothing yet;
// those of another day are of no use any more. An error is an ErrDamaged.
func (t *Table) Restore(now time.Time, state []byte) error {
	damaged := func(line int, what string) error { return fmt.Errorf("%w: line %d: %s", ErrDamaged, line, what) }
	at := bytes.LastIndex(state, []byte("\nsum "))
	if at < 0 {
		return damaged(1, "the last line, with the sum, is missing")
	}
	body, last := string(state[:at+1]), string(state[at+1:])
	if sum := sha256.Sum256([]byte(body)); last != "sum "+hex.EncodeToString(sum[:])+"\n" {
		return damaged(strings.Count(body, "\n")+1, "the sum is not that of the lines before")
	}
	lines := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
	first, ok := strings.CutPrefix(lines[0], header)
	then, err := strconv.ParseInt(first, 10, 64)
	if !ok || err != nil {
		return damaged(1, "want "+header+"and a day")
	}
	m := map[string]map[Key]*count{}
	for i, l := range lines[1:] {
		f := strings.Split(l, " ")
		if len(f) != 3 || f[0] == "" {
			return damaged(i+2, "want a quota, a key and a number")
		}
		key, err := hex.DecodeString(f[1])
		n, nerr := strconv.Atoi(f[2])
		if err != nil || len(key) != len(Key{}) || nerr != nil || n <= 0 {
			return damaged(i+2, "want a quota, a key and a number")
		}
		if m[f[0]] == nil {
			m[f[0]] = map[Key]*count{}
		}
		if len(m[f[0]]) > maxKeys {
			return damaged(i+2, "more keys than a quota has")
		}
		c := t.fresh(now)
		c.day, c.today = then, n
		m[f[0]][Key(key)] = c
	}
	if d := day(now); then != d && then != d+1 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.m = m
	return nil
}
