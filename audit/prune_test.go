package audit

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// never is a clock on which nothing is due.
func never(time.Duration) <-chan time.Time { return nil }

// fill appends entries that nothing waits for until the journal has more files.
func fill(t *testing.T, j *Journal, files int) {
	t.Helper()
	had := j.inc.files()
	for i := 0; ; i++ {
		now := j.inc.files()
		if i > 1000 {
			t.Fatal(len(now))
		}
		if len(now) >= len(had)+files {
			return
		}
		add(t, j, Entry{Kind: KindCredential, Reason: "some reason or other"})
	}
}

// pruned publishes everything, prunes all that is old enough, which is all, and
// returns the first entry that is left.
func pruned(t *testing.T, j *Journal) uint64 {
	t.Helper()
	j.published(j.durableEntries(), 1)
	if err := j.Prune(noon.Add(48 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	for e, err := range j.Read() {
		if err != nil {
			t.Fatal(err)
		}
		return e.Seq
	}
	t.Fatal("nothing is left")
	return 0
}

// However old and published: an intent stays until its outcome is durable, or
// a start after a crash would not know that the call may have run.
func TestPruneKeepsOpenIntents(t *testing.T) {
	broken := errors.New("disk is gone")
	var file *faultyFile
	var spoil func() error
	j, err := Open(Config{Dir: t.TempDir(), Enforcer: "demo", Incarnation: "i1", Now: (&clockAt{t: noon}).Now, SegmentBytes: 500,
		After: never, Disk: diskOf(func(path string) (File, error) {
			f, err := openData(path)
			file = &faultyFile{File: f, sync: spoil}
			return file, err
		})})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, j, 2)
	first := add(t, j, Entry{Kind: KindIntent, Call: "c_1", Method: "tools/call"})
	fill(t, j, 2)
	second := add(t, j, Entry{Kind: KindIntent, Call: "c_2", Method: "tools/call"})
	add(t, j, Entry{Kind: KindIntent, Call: "c_1", Method: "server:sampling/createMessage"})
	add(t, j, Entry{Kind: KindRefused, Call: "c_3"})
	fill(t, j, 2)
	if seq, ok := j.OldestOpen(); !ok || seq != first.Seq {
		t.Errorf("oldest open: %d, %v", seq, ok)
	}
	if left := pruned(t, j); left == 0 || left > first.Seq {
		t.Errorf("left from %d on, the open intent is %d", left, first.Seq)
	}
	add(t, j, Entry{Kind: KindOutcome, Call: "c_1"})
	// What an upstream asks once the call is over leaves nothing open.
	add(t, j, Entry{Kind: KindIntent, Call: "c_1", Method: "server:sampling/createMessage"})
	fill(t, j, 2)
	if seq, ok := j.OldestOpen(); !ok || seq != second.Seq {
		t.Errorf("oldest open: %d, %v", seq, ok)
	}
	if left := pruned(t, j); left <= first.Seq || left > second.Seq {
		t.Errorf("left from %d on, the open intent is %d", left, second.Seq)
	}
	add(t, j, Entry{Kind: KindOutcome, Call: "c_2"})
	fill(t, j, 2)
	if seq, ok := j.OldestOpen(); ok {
		t.Errorf("oldest open: %d", seq)
	}
	third := add(t, j, Entry{Kind: KindIntent, Call: "c_4", Method: "tools/call"})
	if left := pruned(t, j); left <= second.Seq || left > third.Seq {
		t.Errorf("left from %d on", left)
	}
	fill(t, j, 2)
	spoil = func() error { return broken } // of any new file, too
	file.sync = spoil
	if _, err := j.Append(t.Context(), Entry{Kind: KindOutcome, Call: "c_4"}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if left := pruned(t, j); left > third.Seq {
		t.Errorf("left from %d on, but the outcome of %d was lost", left, third.Seq)
	}
	if err := j.Close(); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// What closed an earlier run's call stays for as long as that run's journal.
func TestPruneKeepsWhatClosedEarlierCalls(t *testing.T) {
	dir := t.TempDir()
	was := openJournal(t, Config{Dir: dir, Incarnation: "i0"})
	add(t, was, Entry{Kind: KindIntent, Call: "c_1"})
	if err := was.Close(); err != nil {
		t.Fatal(err)
	}
	past, err := Previous(dir)
	if err != nil {
		t.Fatal(err)
	}
	flush(t, newPublisher(t, PublisherConfig{Past: past[0], Store: newStore()}))
	j := openJournal(t, Config{Dir: dir, SegmentBytes: 500, Previous: past})
	fill(t, j, 2)
	closing := add(t, j, Entry{Kind: KindRecovered, Call: "c_1", Status: StatusUnknown})
	fill(t, j, 2)
	if left := pruned(t, j); left == 0 || left > closing.Seq {
		t.Errorf("left from %d on, the call was closed at %d", left, closing.Seq)
	}
	if stay, err := Prune(past, 0, noon.Add(48*time.Hour)); err != nil || len(stay) != 0 {
		t.Fatal(stay, err)
	}
	if left := pruned(t, j); left <= closing.Seq {
		t.Errorf("left from %d on", left)
	}
}

// Calls that are over are not held in memory.
func TestOpenCallsAreForgotten(t *testing.T) {
	j := openJournal(t, Config{})
	for i := range 100 {
		add(t, j, Entry{Kind: KindIntent, Call: fmt.Sprint("c_", i)})
		add(t, j, Entry{Kind: KindOutcome, Call: fmt.Sprint("c_", i)})
	}
	if n := len(j.open.intents); n != 0 {
		t.Errorf("%d are held", n)
	}
}
