package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fills appends intents, each of a call with an outcome of its own, until
// there is no room for more, and then the outcomes.
func fills(t testing.TB, j *Journal, line string) (calls int) {
	t.Helper()
	for {
		_, err := j.Append(t.Context(), Entry{Kind: KindIntent, Call: fmt.Sprint("c_", calls), Reason: line})
		if errors.Is(err, ErrDiskFull) {
			break
		}
		if err != nil || calls > 100_000 {
			t.Fatalf("call %d: %v", calls, err)
		}
		calls++
	}
	for _, kind := range []Kind{KindIntent, KindRefused, KindAuthFailed} {
		if _, err := j.Append(t.Context(), Entry{Kind: kind}); !errors.Is(err, ErrDiskFull) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	s := j.State()
	if s.Err != nil || !errors.Is(s.Refuses, ErrDiskFull) || !strings.Contains(s.Alert, "disk of the journal is full") || s.Failures != 0 {
		t.Errorf("state %+v", s)
	}
	body := Body{Of: "response", Text: make([]byte, 1<<20)}
	for i := range calls {
		var bodies []Body
		if i == 0 {
			bodies = append(bodies, body) // for which there is no room, and no outcome is lost for that
		}
		e, err := j.Append(t.Context(), Entry{Kind: KindOutcome, Call: fmt.Sprint("c_", i), Status: StatusOK}, bodies...)
		if err != nil {
			t.Fatalf("outcome %d of %d: %v", i, calls, err)
		}
		if i == 0 && (len(e.Bodies) != 1 || e.Bodies[0].Kept != KeptOver || e.Bodies[0].Size != 1<<20) {
			t.Errorf("%+v", e.Bodies)
		}
	}
	return calls
}

// A disk that fills up refuses what begins, records how what runs ends, and
// goes on by itself when it has room again.
func TestDiskFull(t *testing.T) {
	due := newDueTimes()
	dir := t.TempDir()
	disk := newCrashDisk(dir)
	disk.room = 10 << 20
	j := openJournal(t, Config{Dir: filepath.Join(dir, "state"), Disk: disk, After: due.after, Now: (&clockAt{t: noon}).Now})
	calls := fills(t, j, strings.Repeat("r", 2000))
	if calls < 100 {
		t.Errorf("full after %d calls", calls)
	}
	if got := <-due.asked; got != roomAgain {
		t.Errorf("looks again after %v", got)
	}
	disk.mu.Lock()
	disk.room = 100 << 20
	disk.mu.Unlock()
	due.fire <- time.Time{}
	for hang := time.After(2 * time.Minute); j.State().Refuses != nil || j.State().Entries < uint64(2*calls+2); {
		select {
		case <-time.After(time.Millisecond): // the writer looks, and tells what was refused
		case <-hang:
			t.Fatalf("it does not go on: %+v", j.State())
		}
	}
	e := add(t, j, Entry{Kind: KindIntent})
	if e.Seq != uint64(2*calls+2) {
		t.Errorf("entry %d after %d calls", e.Seq, calls)
	}
	if len(j.inc.files()) != 1 {
		t.Error("another file was begun, though nothing failed")
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if p := onlyPast(t, filepath.Join(dir, "state")); p.Entries != e.Seq+1 || p.Torn != 0 {
		t.Errorf("%d entries, %d torn", p.Entries, p.Torn)
	}
}

// A file that cannot be begun for want of room leaves the one before in use.
func TestNoRoomForANewFile(t *testing.T) {
	dir := t.TempDir()
	disk := newCrashDisk(dir)
	disk.room = 5 << 20
	j := openJournal(t, Config{Dir: filepath.Join(dir, "state"), Disk: disk, After: never, SegmentBytes: 3_500_000})
	fills(t, j, strings.Repeat("r", 5000))
	if s := j.State(); s.Err != nil || s.Failures != 0 {
		t.Errorf("%+v", s)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	onlyPast(t, filepath.Join(dir, "state"))
}

// What does not fit all at once is refused, and the file stays good.
func TestABurstThatDoesNotFit(t *testing.T) {
	dir := t.TempDir()
	disk := newCrashDisk(dir)
	disk.room = 4 << 20
	salts := NewSalts(nil)
	j := openJournal(t, Config{Dir: filepath.Join(dir, "state"), Disk: disk, After: never, Salts: salts})
	add(t, j, Entry{Kind: KindIntent, Call: "c_1"})
	text := make([]byte, 8<<20)
	_, err := j.Append(t.Context(), Entry{Kind: KindOutcome, Call: "c_1", Status: StatusOK}, Body{Of: "response", Text: text})
	if !errors.Is(err, ErrDiskFull) {
		t.Fatalf("got %v", err)
	}
	for j.State().Entries < 3 { // the outcome is written all the same, without
		<-j.ready
	}
	for e, err := range j.Read() {
		if err != nil || e.Seq == 2 && (e.Status != StatusBlocked || e.Bodies[0].Kept != KeptOver) {
			t.Errorf("%+v, %v", e, err)
		}
		if e.Seq == 2 { // its digest is one that can be shown to be the body's
			if _, err := salts.Prove("demo/i1", Start{Salts: salts.Name()}, e, 0, text); err != nil {
				t.Error(err)
			}
		}
	}
	if s := j.State(); s.Err != nil || s.Failures != 0 {
		t.Errorf("%+v", s)
	}
}

// The same on a real file system that is small, where this machine gives one
// to processes without privileges; else the tests above are all there is.
func TestDiskFullForReal(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestDiskFullChild$", "-test.v")
	cmd.Env = append(os.Environ(), "AUDIT_TEST_SMALL="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "small: ") {
		t.Logf("%s", out)
		if err != nil {
			t.Error(err)
		}
		return
	}
	t.Logf("no small file system here: %v", err)
}

func TestDiskFullChild(t *testing.T) {
	dir := os.Getenv("AUDIT_TEST_SMALL")
	if dir == "" {
		return // it is TestDiskFullForReal's other half
	}
	if err := syscall.Mount("small", dir, "tmpfs", 0, "size=12m"); err != nil {
		t.Fatal(err)
	}
	j := openJournal(t, Config{Dir: dir, Now: (&clockAt{t: noon}).Now, After: func(time.Duration) <-chan time.Time { return time.After(time.Millisecond) }})
	calls := fills(t, j, strings.Repeat("r", 2000))
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, "size=40m"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for (j.State().Refuses != nil || j.State().Entries < uint64(2*calls+2)) && ctx.Err() == nil {
		<-time.After(time.Millisecond)
	}
	if e := add(t, j, Entry{Kind: KindIntent}); e.Seq != uint64(2*calls+2) {
		t.Errorf("entry %d after %d calls", e.Seq, calls)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if p := onlyPast(t, dir); p.Entries != uint64(2*calls+3) || p.Torn != 0 {
		t.Errorf("%d entries, %d torn", p.Entries, p.Torn)
	}
	fmt.Println("small: ", calls, "calls")
}
