package rules

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	pgquery "github.com/wasilibs/go-pgquery"
)

// What sql(text) answers: facts from PostgreSQL's own grammar, compiled to
// WebAssembly, about everything in the text however deeply nested. Names are
// as the grammar reads them: unquoted ones in lower case, escapes decoded. A
// qualified name is listed in full and by each of its tails, a name with
// capitals in lower case too, so that a rule about pg_shadow hears of
// pg_catalog.pg_shadow and of "PG_SHADOW".
//
// A text that cannot be read has parsed false and an error, and every other
// truth true; to ask for its lists is an error of the condition, by which a
// deny or approve rule matches and an allow rule does not.
//
// What no parse can show: what a view, a function or a search_path stands
// for. There the grants of the credential have to hold.
type sqlFacts struct {
	parsed     bool
	err        string
	statements []*statement // nested ones follow the one that holds them
	reads      []string     // relations read
	writes     []string     // relations changed, created or dropped
	functions  []string     // functions and procedures called
	multiple   bool         // more than one statement at the top
	writing    bool         // anything but reading: see statement
	dynamic    bool         // runs text that this cannot see: DO, EXECUTE, a function's body, dblink
	files      bool         // reaches files or programs of the database's host
	portable   bool         // no construct that another SQL dialect would split differently
	text       string       // as asked; for what other dialects make of it
}

// A statement is one statement, nested ones included.
type statement struct {
	kind      string // spelled as SQL: SELECT, SELECT INTO, CREATE ROLE, TRANSACTION…
	reads     []string
	writes    []string
	functions []string
	where     bool // has a WHERE that looks at a row: `WHERE true` does not count
	returning bool
	writing   bool // data, schema, roles, the session's settings or its transaction
	dynamic   bool
	files     bool
	nested    bool     // stands inside another statement
	password  bool     // sets a password or a connection string, or names one in its options
	settings  []string // of the server that it shows; "*" is all
	activity  bool     // it shows statements of others

	// For does: in full and as SQL spells them, this statement's own.
	node    any        // of the parse tree
	holder  *statement // the statement that this one stands inside
	sources []string   // relations read
	targets []string   // relations changed
	calls   []string   // functions
}

const (
	maxSQLBytes  = 64 << 10
	maxSQLTokens = 20_000
	// maxSQLDepth bounds what may nest. The parser's stack lies in WebAssembly
	// memory, without a guard: texts of a few thousand nested operators run
	// over its end. See depth.
	maxSQLDepth = 1200
	// maxSQLRun bounds a run of operator characters: PostgreSQL's scanner reads
	// the whole run and gives all but the first back, in "/*/*/*…" at every
	// second character: a minute for what fits maxSQLBytes. No operator is
	// longer than 63; banners in comments are.
	maxSQLRun = 256
	// maxSQLError cuts what the parser says, which can quote the whole text.
	maxSQLError = 200
)

const operatorChars = "~!@#^&|`?+-*/%<>="

// operatorRun is the length of the longest run of operator characters.
func operatorRun(text string) int {
	longest, run := 0, 0
	for i := range len(text) {
		if strings.IndexByte(operatorChars, text[i]) < 0 {
			run = 0
			continue
		}
		run++
		longest = max(longest, run)
	}
	return longest
}

// parserSlots bounds the parser instances, and so the memory: the library
// makes an instance whenever all are busy, and keeps it. That pool is the
// process's, so is its bound.
var parserSlots = make(chan struct{}, min(4, max(1, runtime.GOMAXPROCS(0))))

var warming sync.Mutex

// parserBroken is set when the parser trapped: the library puts the instance
// back into its pool, in whatever state it is, and an answer of it could be
// wrong. From then on no text is readable, which denies; a restart mends it.
var parserBroken atomic.Bool

// Warm makes the parser instances, which takes a second or two: whoever serves
// a policy that UsesSQL calls it before being ready.
func Warm() error {
	warming.Lock() // two at once would wait for each other's slots
	defer warming.Unlock()
	n := cap(parserSlots)
	errs := make([]error, n)
	var start, done sync.WaitGroup
	start.Add(n)
	for i := range n {
		done.Go(func() {
			parserSlots <- struct{}{}
			defer func() { <-parserSlots }()
			start.Done()
			start.Wait() // all at once, so that each gets an instance of its own
			_, errs[i] = guarded("select 1")
		})
	}
	done.Wait()
	return errors.Join(errs...)
}

// parseSQL reads a text. It never fails: what it cannot read is unreadable.
func parseSQL(text string) *sqlFacts {
	f := readSQL(text)
	f.text = text
	return f
}

func readSQL(text string) *sqlFacts {
	switch {
	case len(text) > maxSQLBytes:
		return unreadable(fmt.Sprintf("longer than %d bytes", maxSQLBytes))
	case strings.ContainsRune(text, 0):
		return unreadable("holds a NUL byte")
	case operatorRun(text) > maxSQLRun:
		return unreadable(fmt.Sprintf("holds more than %d operator characters in a row", maxSQLRun))
	}
	parserSlots <- struct{}{}
	f, err := guarded(text)
	<-parserSlots
	if err != nil {
		return unreadable(err.Error())
	}
	f.portable = portable(text)
	return f
}

var errParserBroken = errors.New("the SQL parser broke on an earlier text and is out of use until a restart")

// firstInstance is made by one goroutine alone: the WebAssembly runtime below
// initialises a variable without a lock when it is first used.
var firstInstance sync.Once

// guarded scans, bounds and parses a text with one parser instance.
func guarded(text string) (f *sqlFacts, err error) {
	if parserBroken.Load() {
		return nil, errParserBroken
	}
	defer func() {
		if p := recover(); p != nil {
			parserBroken.Store(true)
			f, err = nil, errors.New("the SQL parser broke on this text")
		}
	}()
	var first error
	firstInstance.Do(func() { _, first = pgquery.Scan("select 1") })
	if first != nil {
		return nil, first
	}
	scan, err := pgquery.Scan(text)
	if err != nil {
		return nil, err
	}
	if n := len(scan.GetTokens()); n > maxSQLTokens {
		return nil, fmt.Errorf("holds %d tokens, more than %d", n, maxSQLTokens)
	}
	if d := depth(scan.GetTokens()); d > maxSQLDepth {
		return nil, fmt.Errorf("may nest %d levels, more than %d", d, maxSQLDepth)
	}
	tree, err := pgquery.Parse(text)
	if err != nil {
		return nil, err
	}
	if len(tree.GetStmts()) == 0 {
		return nil, errors.New("holds no statement")
	}
	return gather(tree), nil
}

func unreadable(why string) *sqlFacts {
	if len(why) > maxSQLError {
		why = strings.ToValidUTF8(why[:maxSQLError], "") + "…"
	}
	return &sqlFacts{err: why, multiple: true, writing: true, dynamic: true, files: true}
}

// portable tells whether other SQL dialects cut the text into the same tokens
// as PostgreSQL does. Where they do not, text that is a comment or a string to
// one is a statement to the other: a server over SQLite or MySQL wants
// !portable denied. It looks at bytes, so that it errs towards false.
func portable(text string) bool {
	if strings.ContainsAny(text, "\\`#[") || strings.Contains(text, "/*!") {
		return false
	}
	for i := range len(text) {
		next := byte(' ')
		if i+1 < len(text) {
			next = text[i+1]
		}
		switch {
		case text[i] == '$' && (next < '0' || next > '9'): // dollar quotes
			return false
		case text[i] == '&' && (next == '\'' || next == '"'): // U&'…' UESCAPE
			return false
		case text[i] == '-' && next == '-' && i+2 < len(text) && text[i+2] > ' ': // not a comment to MySQL
			return false
		case text[i] == '/' && next == '*':
			body, _, closed := strings.Cut(text[i+2:], "*/")
			if !closed || strings.Contains(body, "/*") { // PostgreSQL nests comments
				return false
			}
		case text[i] == '\r' && next != '\n': // ends a comment to PostgreSQL only
			return false
		}
	}
	return true
}
