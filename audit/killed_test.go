package audit_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"countersign/audit"
	"countersign/fixtures/githost"
	"countersign/fixtures/mishap"
	"countersign/gitsync"
)

// TestKilledAtRandom kills a process that keeps a record under load, again and again, at
// moments that the seed chooses: after so many entries, or when a push has just
// reached the remote, or its answer been lost, or old files are being removed,
// or a month begins, the log goes on in the next repository, a key is replaced,
// bodies are erased or expire. After each death it looks at the disk, now and
// then at the remotes as well, and in the end at all: what Append had returned
// for is there, once, as it was; what was pushed is verified under the first
// keys, over all repositories, and holds all that was ever said to be pushed;
// each call that was begun has one end; and of the bodies those are there that
// were not erased, and no other.
//
// COUNTERSIGN_SOAK_KILLS says how often (`make soak`: 500), COUNTERSIGN_SOAK_SEED
// when.
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	kills, seed := number(t, "COUNTERSIGN_SOAK_KILLS", 40), number(t, "COUNTERSIGN_SOAK_SEED", 20260728)
	t.Logf("%d kills, seed %d", kills, seed)
	k := newKilling(t, uint64(seed))
	for run := range kills {
		p := k.plan(run)
		k.run(run, p)
		k.disk()
		if k.Failed() {
			t.Fatalf("run %d: %s", run, p)
		}
		if run == kills-1 || run%max(10, kills/10) == 9 {
			k.run(run+kills, plan{}) // it ends in order, so that nothing may be missing
			k.disk()
			k.remote()
		}
	}
	for _, what := range slices.Sorted(maps.Keys(k.seen)) {
		t.Logf("%5d × %s", k.seen[what], what)
	}
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number", name, text)
	}
	return n
}

// plan says when a run ends, what its remote is like, and what changes in it.
type plan struct {
	after     int    // entries; 0: it is not killed, and ends in order
	phase     string // or, if it comes first, when this begins …
	nth       int    // … for the nth time
	fault     string // of the remotes
	rolls     bool
	rotates   bool
	erases    int // once in so many commits and pushes; 0: never
	retention time.Duration
}

func (p plan) String() string {
	return fmt.Sprintf("killed after %d entries, or when %q began %d times, with the fault %q; rolls %v, rotates %v, erases %d, retention %v",
		p.after, p.phase, p.nth, p.fault, p.rolls, p.rotates, p.erases, p.retention)
}

// The faults of the remotes.
const (
	remoteDown = "the remote is down"
	pushHeld   = "killed while the remote has yet to take the push, which it does"
	answerLost = "killed when the remote has taken the push, and the answer is lost"
	answersCut = "every other answer to a push is lost"
)

func (k *killing) plan(run int) plan {
	p := plan{after: 1 + k.r.IntN(500), nth: 1 + k.r.IntN(2), rolls: k.r.IntN(5) == 0, rotates: k.r.IntN(3) == 0}
	if k.r.IntN(3) == 0 {
		p.erases = 4
	}
	if k.r.IntN(5) == 0 {
		p.retention = 30 * 24 * time.Hour
	}
	p.phase = []string{"", "", "prune", "month", "recover", "roll", "move", "moved", "rotate", "erase", "rewrite", "rewritten"}[k.r.IntN(12)]
	p.fault = []string{"", "", "", remoteDown, pushHeld, pushHeld, answerLost, answersCut}[k.r.IntN(8)]
	switch p.phase { // what is waited for happens
	case "roll", "move", "moved":
		p.rolls, p.fault, p.nth, p.after = true, "", 1, 600
	case "rotate":
		p.rotates, p.nth = true, 1+k.r.IntN(3)
	case "erase", "rewrite", "rewritten":
		p.erases, p.after = 2, 600
	}
	if run%20 == 19 { // a backlog of several runs is taken to the remote
		p.fault, p.after = "", 1000
	}
	if p.fault == pushHeld || p.fault == answerLost {
		p.after = 4000 // the push comes first, or the machine is very slow
	}
	return p
}

type killing struct {
	*testing.T
	dir    string
	r      *rand.Rand
	orders orders
	proxy  *mishap.Proxy
	verify audit.VerifyConfig
	seen   map[string]int

	mu       sync.Mutex // over what a run's reader writes
	acked    map[string]map[uint64][sha256.Size]byte
	pushed   map[string]string // the newest note that the remote is said to have, by origin
	asked    []string          // erasures
	replaced map[string]bool   // uses of which it is on record that the key of before was replaced
	clock    time.Time
	number   int // of the repository in which the log is
	made     int // repositories
}

// committer is whom the record's commits are by.
const committer = "demo@countersign.example"

func newKilling(t *testing.T, seed uint64) *killing {
	k := &killing{T: t, dir: t.TempDir(), r: rand.New(rand.NewPCG(seed, 0)), seen: map[string]int{}, number: 1, replaced: map[string]bool{},
		acked: map[string]map[uint64][sha256.Size]byte{}, pushed: map[string]string{}, clock: time.Date(2026, 11, 23, 14, 31, 7, 0, time.UTC)}
	host, err := githost.ServeHTTP(k.dir, "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Close)
	if k.proxy, err = mishap.Start(host.URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.proxy.Close(); err != nil {
			t.Error(err)
		}
	})
	commitKey, commitPub := keyPair(t)
	logKey, logPub := keyPair(t)
	trust, err := gitsync.Signers{AllowedSigners: []byte(committer + " namespaces=\"git\" " + string(commitPub))}.Parse()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := audit.ParseLogKeys(logPub)
	if err != nil {
		t.Fatal(err)
	}
	// Of the keys the verifier is given the first ones; those that replace them
	// are on record.
	k.verify = audit.VerifyConfig{Keys: keys, Signer: trust.Commit, Bodies: true,
		Committer: func(key, _ string, when time.Time) (string, error) { return trust.Key(key, committer, when) },
		SignedBy: func(raw []byte, when time.Time, key string) error {
			_, err := gitsync.VerifyCommit(raw, gitsync.Signers{AllowedSigners: []byte("successor namespaces=\"git\" " + key + "\n")}, when)
			return err
		}}
	k.orders = orders{
		Dir: filepath.Join(k.dir, "state"), URL: k.proxy.URL, Keys: signingKey{commitKey, logKey}, Seed: seed,
		Step: 20 * time.Minute, Writers: 16, SegmentBytes: 16 << 10, Window: 20 * time.Millisecond, LongestPause: 100 * time.Millisecond,
	}
	return k
}

// prepare says what a run is to do, and makes the repositories that it may need.
func (k *killing) prepare(n int, p plan) orders {
	k.Helper()
	for ; k.made < k.number+2; k.made++ {
		if err := githost.Init(filepath.Join(k.dir, repoName(k.made+1))); err != nil {
			k.Fatal(err)
		}
	}
	if b := k.orders.Before; p.rotates && b.Commit == nil && b.Log == nil {
		which := 1 + k.r.IntN(3)
		if which&1 != 0 {
			k.orders.Before.Commit = k.orders.Keys.Commit
			k.orders.Keys.Commit, _ = keyPair(k)
		}
		if which&2 != 0 {
			k.orders.Before.Log = k.orders.Keys.Log
			k.orders.Keys.Log, _ = keyPair(k)
		}
		clear(k.replaced)
		k.seen["a key is replaced"]++
	}
	o := k.orders
	o.Run, o.Keep, o.Now = n, k.r.IntN(3), k.clock
	o.Rolls, o.Erases, o.Retention = p.rolls, p.erases, p.retention
	return o
}

// run starts the process, kills it by the plan, and returns when it is gone.
func (k *killing) run(n int, p plan) {
	k.Helper()
	text, err := json.Marshal(k.prepare(n, p))
	if err != nil {
		k.Fatal(err)
	}
	const push = "/git-receive-pack"
	release := make(chan struct{})
	switch p.fault {
	case remoteDown:
		k.proxy.Set(mishap.Fault{Path: "/info/refs", Status: 503})
	case pushHeld:
		k.proxy.Set(mishap.Fault{Path: push, Times: 1, Held: release})
	case answerLost:
		k.proxy.Set(mishap.Fault{Path: push, Times: 1, CutAfter: true})
	case answersCut:
		var every []mishap.Fault
		passed := make(chan struct{})
		close(passed)
		for range 100 {
			every = append(every, mishap.Fault{Path: push, Times: 1, CutAfter: true}, mishap.Fault{Path: push, Times: 1, Held: passed})
		}
		k.proxy.Set(every...)
	default:
		k.proxy.Clear()
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asKilled+"="+string(text), "TMPDIR="+k.dir) // a clone of what is killed is left there
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		k.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		k.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		k.Fatal(err)
	}
	var once sync.Once
	why := ""
	kill := func(reason string) {
		once.Do(func() {
			why = reason
			_ = cmd.Process.Kill() // it may have ended by itself, which is looked at below
		})
	}
	over := make(chan struct{})
	var met sync.WaitGroup
	if p.fault == pushHeld || p.fault == answerLost {
		met.Go(func() {
			if k.proxy.Met(over, push, 1) == nil {
				kill(p.fault)
			}
		})
	}
	hung := time.AfterFunc(10*time.Minute, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) }) // it tells where it is
	defer hung.Stop()
	clean, entries, phases, waits := false, 0, 0, ""
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		what, rest, _ := strings.Cut(lines.Text(), " ")
		switch what {
		case "A":
			k.acknowledged(rest)
			if entries++; p.after > 0 && entries >= p.after {
				kill("killed amid the entries")
			} else if p.after == 0 && entries == 200 {
				if err := stdin.Close(); err != nil {
					k.Error(err)
				}
			}
		case "P":
			k.published(rest)
		case "E":
			k.asked = append(k.asked, rest)
		case "key":
			k.replaced[rest] = true
		case "repo":
			k.goesOn(n, rest)
		case "phase":
			if rest != p.phase {
				continue
			}
			if phases++; phases == p.nth && p.after > 0 {
				kill("killed at the phase " + rest)
			}
		case "waits":
			waits = rest
		case "clean":
			clean = true
		}
	}
	err = cmd.Wait()
	close(over)
	met.Wait()
	close(release)
	k.proxy.Clear()
	if p.after == 0 {
		if !clean || err != nil {
			k.Fatalf("the last run: %v, waiting for %s\n%s", err, waits, &stderr)
		}
		return
	}
	if why == "" || stderr.Len() > 0 {
		k.Fatalf("run %d ended by itself: %v\n%s\n%s", n, err, &stderr, p)
	}
	k.seen[why]++
	if p.fault == remoteDown || p.fault == answersCut {
		k.seen[p.fault]++
	}
}

// acknowledged notes what Append returned for.
func (k *killing) acknowledged(text string) {
	var inc, sum string
	var seq uint64
	var micros int64
	if _, err := fmt.Sscanf(text, "%s %d %d %s", &inc, &seq, &micros, &sum); err != nil {
		k.Fatalf("%q: %v", text, err)
	}
	b, err := hex.DecodeString(sum)
	if err != nil || len(b) != sha256.Size {
		k.Fatalf("%q: %v", text, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.acked[inc] == nil {
		k.acked[inc] = map[uint64][sha256.Size]byte{}
	}
	if _, twice := k.acked[inc][seq]; twice {
		k.Errorf("entry %d of %s was acknowledged twice", seq, inc)
	}
	k.acked[inc][seq] = [sha256.Size]byte(b)
	if t := time.UnixMicro(micros).UTC(); t.After(k.clock) {
		k.clock = t
	}
}

// published notes what the remote is said to have.
func (k *killing) published(text string) {
	note, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		k.Fatal(err)
	}
	c, err := audit.ReadCheckpoint(string(note))
	if err != nil {
		k.Fatal(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pushed[c.Origin] = string(note)
}

// goesOn notes in which repository the log is, or is to go on.
func (k *killing) goesOn(run int, text string) {
	number, err := strconv.Atoi(text)
	if err != nil || number < k.number {
		k.Fatalf("the log of run %d is in repository %q, and was in %d: %v", run, text, k.number, err)
	}
	k.number = number
}

// disk looks at the journals that are left: they read, and hold what was
// acknowledged, but for a beginning that is on the remote.
func (k *killing) disk() {
	k.Helper()
	past, err := audit.Previous(k.orders.Dir)
	if err != nil {
		k.Fatal(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	waits := false
	for _, p := range past {
		waits = waits || !p.Published()
		acked, seen := k.acked[p.Incarnation], uint64(0)
		first, any := uint64(0), false
		for e, err := range p.Read() {
			if err != nil {
				k.Fatal(err)
			}
			if !any {
				first, any = e.Seq, true
			}
			line, err := e.Encode()
			if err != nil {
				k.Fatal(err)
			}
			if sum, ok := acked[e.Seq]; ok {
				if seen++; sum != sha256.Sum256(line) {
					k.Errorf("entry %d of %s is not what was acknowledged: %s", e.Seq, p.Incarnation, line)
				}
			}
		}
		if c := k.pushed["demo/"+p.Incarnation]; first > 0 && size(k.T, c) < first {
			k.Errorf("%s begins with entry %d on this disk; published were said to be %d", p.Incarnation, first, size(k.T, c))
		}
		for seq := range acked {
			if seq >= max(first, p.Entries) {
				k.Errorf("entry %d of %s was acknowledged, and is lost: the journal has %d", seq, p.Incarnation, p.Entries)
			}
		}
		if p.Torn > 0 {
			k.seen["the last write was torn"]++
		}
	}
	// The operator takes the old key away when the record says what follows it,
	// and nothing that it began waits.
	b := k.orders.Before
	if !waits && (b.Commit == nil || k.replaced[audit.UseCommit]) && (b.Log == nil || k.replaced[audit.UseCheckpoint]) {
		k.orders.Before = signingKey{}
	}
}

func size(t *testing.T, note string) uint64 {
	t.Helper()
	if note == "" {
		return 0
	}
	c, err := audit.ReadCheckpoint(note)
	if err != nil {
		t.Fatal(err)
	}
	return c.Size
}
