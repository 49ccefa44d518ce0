package audit

import (
	"encoding/json"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// refuse has entries that begin something refused, three seconds apart.
func refuse(t testing.TB, c *clockAt, j *Journal, want error, entries ...Entry) (counted tally) {
	t.Helper()
	for _, e := range entries {
		if _, err := j.Append(t.Context(), e); !errors.Is(err, want) {
			t.Fatalf("%s: %v, want %v", e.Kind, err, want)
		}
		counted = counted.plus(tallyOf(&e))
		c.Set(c.Now().Add(3 * time.Second))
	}
	return counted
}

var someRefusals = []Entry{
	{Kind: KindIntent, Call: "c_1"}, // its refusal follows, which is what counts
	{Kind: KindRefused, Call: "c_1"}, {Kind: KindRefused, Call: "c_2", Effect: "deny"},
	{Kind: KindAuthFailed}, {Kind: KindAuthFailed, Detail: json.RawMessage(`{"source":"10.0.0.1","more":41}`)},
}

// fullJournal is one that takes no call any more; what it holds, a publisher has
// not pushed yet.
func fullJournal(t testing.TB, c *clockAt, dir string, previous ...*Past) (*Journal, *Publisher) {
	t.Helper()
	j := openJournal(t, Config{Dir: dir, Incarnation: []string{"i1", "i2", "i3", "i4"}[len(previous)], Previous: previous, Now: c.Now, MaxBytes: 512 << 10})
	p := newPublisher(t, PublisherConfig{Journal: j, Store: newStore(), Now: c.Now})
	for j.State().Refuses == nil {
		add(t, j, Entry{Kind: KindIntent, Reason: strings.Repeat("r", 2000)})
	}
	for {
		_, err := j.Append(t.Context(), Entry{Kind: KindIntent, Reason: "r"})
		if errors.Is(err, ErrFull) {
			return j, p
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// unrecordedIn lists what entries tell of what was refused.
func unrecordedIn(t testing.TB, entries iter.Seq2[Entry, error]) (all []Unrecorded) {
	t.Helper()
	for e, err := range entries {
		if err != nil {
			t.Fatal(err)
		}
		var d Unrecorded
		if e.Kind == KindUnrecorded {
			if err := json.Unmarshal(e.Detail, &d); err != nil {
				t.Fatal(err)
			}
			all = append(all, d)
		}
	}
	return all
}

func sum(lists ...[]Unrecorded) (t tally) {
	for _, l := range lists {
		for _, d := range l {
			t = t.plus(d.tally)
		}
	}
	return t
}

// crashed is the state directory as a process that dies now leaves it.
func crashed(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// start is the next start on a state directory.
func start(t testing.TB, c *clockAt, dir, id string) (*Journal, []*Past) {
	t.Helper()
	previous, err := Previous(dir)
	if err != nil {
		t.Fatal(err)
	}
	j := openJournal(t, Config{Dir: dir, Incarnation: id, Previous: previous, Now: c.Now})
	if err := j.Recount(t.Context(), previous); err != nil {
		t.Fatal(err)
	}
	return j, previous
}

// What is refused while the journal is full is counted exactly: told once a
// minute out of the reserve, as long as half of it lasts, and all of it when
// there is room.
func TestRefusalsWithoutRoomAreCounted(t *testing.T) {
	c := &clockAt{t: noon}
	j, p := fullJournal(t, c, t.TempDir())
	before := j.State().Entries
	var want tally
	for range 40 { // ten minutes
		want = want.plus(refuse(t, c, j, ErrFull, someRefusals...))
	}
	for j.durableEntries() < j.headNow() {
		<-j.ready
	}
	told := unrecordedIn(t, j.Read())
	if n := j.State().Entries - before; n != uint64(len(told)) || n < 8 || n > 11 {
		t.Errorf("%d entries in ten minutes, %d of them of this kind", n, len(told))
	}
	for range 4000 { // most of a day: the reserve does not last
		want = want.plus(refuse(t, c, j, ErrFull, someRefusals...))
	}
	s := j.State()
	if s.Bytes > s.MaxBytes-s.MaxBytes/32 {
		t.Errorf("%d of %d bytes: what is kept for outcomes was used", s.Bytes, s.MaxBytes)
	}
	add(t, j, Entry{Kind: KindOutcome, Reason: strings.Repeat("r", 1000)})
	c.Set(c.Now().Add(time.Hour))
	flush(t, p) // there is room again, and it is told without anybody coming
	flush(t, p)
	for j.missedLeft() != (tally{}) {
		<-j.ready
	}
	told = unrecordedIn(t, j.Read())
	if got := sum(told); got != want || want.Refused != 2*4040 || want.AuthFailed != 42*4040 {
		t.Errorf("%+v are told, and %+v were refused", got, want)
	}
	last := told[len(told)-1]
	if last.Short || last.Run != "" || !strings.Contains(last.Why, "wait to be published to Git") || !last.Since.After(told[len(told)-2].Until) || last.Until.After(c.Now().Add(-time.Hour)) {
		t.Errorf("%+v", last)
	}
	flush(t, p)
	rep := holds(t, p.cfg.Store.(*memStore), j.State().Entries)
	if rep.Checked.Unrecorded != int(want.Refused+want.AuthFailed) {
		t.Errorf("%+v", rep.Checked)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(j.inc.dir, unrecordedFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the counts are still there: %v", err)
	}
}

// A crash loses no count, and none is told twice, wherever it falls.
func TestCountsOutlastACrash(t *testing.T) {
	c := &clockAt{t: noon}
	dir := t.TempDir()
	j, _ := fullJournal(t, c, dir)
	file := filepath.Join("journal", "i1", unrecordedFile)
	want := refuse(t, c, j, ErrFull, someRefusals[1])
	before, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	want = want.plus(refuse(t, c, j, ErrFull, someRefusals[2:]...))
	for j.durableEntries() < j.headNow() { // what was told meanwhile
		<-j.ready
	}
	for what, put := range map[string][]byte{"as it is": nil, "the file is older than an entry": before} {
		at := crashed(t, dir)
		want := want
		if put != nil {
			if err := os.WriteFile(filepath.Join(at, file), put, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		next, past := start(t, c, at, "i2")
		here, there := unrecordedIn(t, next.Read()), unrecordedIn(t, past[0].Read())
		if put != nil { // what came after that write is lost, and nothing is counted twice
			want = sum(there)
		}
		if got := sum(here, there); got != want || len(there) != 1 {
			t.Errorf("%s: %+v are told, and %+v were refused; %+v", what, got, want, there)
		}
		if put == nil && (len(here) != 1 || here[0].Run != "i1" || !here[0].Short) {
			t.Errorf("%s: %+v", what, here)
		}
		// It dies after it told, before the file is gone.
		kept, err := os.ReadFile(filepath.Join(dir, file))
		if err == nil {
			err = os.WriteFile(filepath.Join(at, file), kept, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		third, _ := start(t, c, crashed(t, at), "i3")
		if again := unrecordedIn(t, third.Read()); put == nil && len(again) != 0 {
			t.Errorf("%s: told again: %+v", what, again)
		}
	}
	// Counts that do not read are told as what they are.
	at := crashed(t, dir)
	if err := os.WriteFile(filepath.Join(at, file), []byte("{\"all\":"), 0o600); err != nil {
		t.Fatal(err)
	}
	next, _ := start(t, c, at, "i2")
	if d := unrecordedIn(t, next.Read()); len(d) != 1 || !d[0].Short || d[0].Why != countsUnread || d[0].tally != (tally{}) {
		t.Errorf("%+v", d)
	}
}

// A run that ends in order tells all, and if it has no room for that, the next
// one has the exact count.
func TestCountsAtTheEndOfARun(t *testing.T) {
	for what, crowd := range map[string]bool{"in the reserve": false, "when that is used up": true} {
		c := &clockAt{t: noon}
		dir := t.TempDir()
		j, _ := fullJournal(t, c, dir)
		for _, n := range []int{2000, 200, 1} {
			for crowd {
				if _, err := j.Append(t.Context(), Entry{Kind: KindOutcome, Reason: strings.Repeat("x", n)}); err != nil {
					break
				}
			}
		}
		want := refuse(t, c, j, ErrFull, someRefusals...)
		_, err := j.Append(t.Context(), Entry{Kind: KindStop})
		if (err != nil) != crowd {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		next, past := start(t, c, dir, "i2")
		here, there := unrecordedIn(t, next.Read()), unrecordedIn(t, past[0].Read())
		if got := sum(here, there); got != want || len(here) > 0 != crowd || crowd && here[0].Short {
			t.Errorf("%s: %+v are told, and %+v were refused; %+v", what, got, want, here)
		}
	}
}

// While the disk is broken it is the same; what was in the write that failed
// counts, too.
func TestRefusalsWithABrokenDiskAreCounted(t *testing.T) {
	c := &clockAt{t: noon}
	due, disk := newDueTimes(), &sick{}
	j := openJournal(t, Config{Disk: disk, After: due.after, Now: c.Now})
	disk.set(func() { disk.sync = syscall.EIO; disk.create = syscall.EIO })
	want := refuse(t, c, j, ErrDisk, someRefusals[1:]...)
	disk.set(func() { disk.sync, disk.create = nil, nil })
	for j.missedLeft() != (tally{}) {
		select {
		case due.fire <- time.Time{}:
		case <-j.ready:
		}
	}
	if told := unrecordedIn(t, j.Read()); sum(told) != want || !strings.Contains(told[0].Why, "disk failed") {
		t.Errorf("%+v are told, and %+v were refused", told, want)
	}
}

// missedLeft is what no durable entry tells yet.
func (j *Journal) missedLeft() tally {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.missed.toldIn >= j.durable.entries {
		return tally{Refused: 1}
	}
	return j.missed.left()
}

func (j *Journal) headNow() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.head.entries
}
