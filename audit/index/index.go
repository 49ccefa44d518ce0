// Package index finds entries of the record quickly, by what a reader asks for:
// a SQLite file beside a clone, which the stock sqlite3 reads too (see schema).
//
// It promises:
//
//   - The index is a cache. It finds; what it has found is read from the clone,
//     by hash, and has to be the entry that was looked for. It proves nothing,
//     and verification never looks at it.
//   - It is brought up to date by what is new in the clone. One that is damaged,
//     of another version, of another repository, or half written, is built anew,
//     and that is said.
//   - A branch that does not grow out of what the index has read before was
//     rewritten. That is said, then and each time after, until a person has the
//     index built anew.
//   - Several processes may use one index: one writes at a time, the others wait.
package index

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"countersign/audit"
)

// ErrDamaged: the index does not read, or does not agree with the clone. Built
// anew it will.
var ErrDamaged = errors.New("the index is damaged")

// Config says what is indexed, and where the index lies.
type Config struct {
	// Path is the file, made if missing, with a lock file beside it. Empty: the
	// index is in memory.
	Path string
	Repo audit.Repository
	// Tell is told, in a line, what a reader should know: that the index was built
	// anew and why, that a branch was rewritten, that lines do not read. Nil:
	// nobody.
	Tell func(string)
	// Anew builds the index anew whatever there is, and forgets which branches
	// were rewritten.
	Anew bool
}

// Index is an index that was brought up to date when it was opened. It is used
// by one goroutine at a time.
type Index struct {
	cfg   Config
	db    *sql.DB
	blobs []lines
}

// Open opens the index, and brings it up to date.
func Open(ctx context.Context, cfg Config) (*Index, error) {
	if cfg.Tell == nil {
		cfg.Tell = func(string) {}
	}
	x := &Index{cfg: cfg}
	if err := x.locked(ctx, x.open); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	return x, x.standing(ctx)
}

// Update takes in what is new in the clone.
func (x *Index) Update(ctx context.Context) error { return x.locked(ctx, x.update) }

// Close lets go of the file.
func (x *Index) Close() error {
	if x.db == nil {
		return nil
	}
	err := x.db.Close()
	x.db = nil
	return err
}

// locked runs f while no other process writes this index.
func (x *Index) locked(ctx context.Context, f func(context.Context) error) (err error) {
	if x.cfg.Path == "" {
		return f(ctx)
	}
	lock, err := os.OpenFile(x.cfg.Path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }() // lets go of it
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		x.cfg.Tell("another process brings the index up to date: waiting for it")
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	return f(ctx)
}

func (x *Index) open(ctx context.Context) error {
	if x.cfg.Anew || x.cfg.Path == "" {
		return x.build(ctx, nil)
	}
	why := ""
	switch head, err := header(x.cfg.Path); {
	case errors.Is(err, fs.ErrNotExist):
		return x.build(ctx, nil)
	case err != nil:
		return err
	case head != sqliteHead:
		why = "is not one"
	default:
		if x.db, err = openFile(x.cfg.Path); err != nil {
			return err
		}
		if why, err = x.foreign(ctx); err == nil && why == "" {
			if err = x.remind(ctx); err == nil {
				err = x.update(ctx)
			}
		}
		if err != nil && !errors.Is(err, ErrDamaged) {
			return err
		}
		if err != nil {
			why = "is damaged"
		}
	}
	if why == "" {
		return nil
	}
	x.cfg.Tell(fmt.Sprintf("the index %s %s: it is built anew", x.cfg.Path, why))
	return x.build(ctx, nil)
}

// foreign tells why the file is no index of this version; "" if it is one.
func (x *Index) foreign(ctx context.Context) (string, error) {
	var app, version int64
	err := x.db.QueryRowContext(ctx, "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version)").Scan(&app, &version)
	switch {
	case err != nil:
		return "", told(err)
	case app != application:
		return "is not one", nil
	case version != schemaVersion:
		return fmt.Sprintf("is of version %d, and this program's is %d", version, schemaVersion), nil
	}
	return "", nil
}

// build makes the index from nothing, in a file of another name that takes its
// place when it is whole.
func (x *Index) build(ctx context.Context, rewritten []rewrite) (err error) {
	if err := x.Close(); err != nil {
		return err
	}
	x.blobs = nil
	temp := ""
	if x.cfg.Path != "" {
		f, err := os.CreateTemp(filepath.Dir(x.cfg.Path), filepath.Base(x.cfg.Path)+".new-*")
		if err != nil {
			return err
		}
		temp = f.Name()
		defer func() {
			if err != nil {
				err = errors.Join(err, x.Close(), os.Remove(temp))
			}
		}()
		if err := f.Close(); err != nil {
			return err
		}
	}
	if x.db, err = openFile(temp); err != nil {
		return err
	}
	// Nobody else sees it yet: what a crash leaves of it is thrown away.
	setup := []string{"PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", schema}
	if temp == "" {
		setup = setup[2:] // it stays, and is written again
	}
	for _, s := range setup {
		if _, err := x.db.ExecContext(ctx, s); err != nil {
			return told(err)
		}
	}
	if err := x.take(ctx, rewritten); err != nil || temp == "" {
		return err
	}
	if err := x.Close(); err != nil {
		return err
	}
	// What a crash left of a write to the file before: it must not be taken for
	// this one's.
	if err := os.Remove(x.cfg.Path + "-journal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(temp, x.cfg.Path); err != nil {
		return err
	}
	x.db, err = openFile(x.cfg.Path)
	return err
}

// openFile opens a file, or a database in memory, over one connection: SQLite
// serialises anyway, and what is in memory is the connection's own.
func openFile(path string) (*sql.DB, error) {
	name := "file::memory:"
	if path != "" {
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		name = (&url.URL{Scheme: "file", Path: abs}).String()
	}
	// A rollback journal, no write-ahead log: a file that is replaced while others
	// have it open must not share a log with the one that takes its place.
	db, err := sql.Open("sqlite", name+"?_txlock=immediate&_pragma=busy_timeout(60000)&_pragma=cache_size(-32768)&_pragma=trusted_schema(0)&_pragma=mmap_size(2147483648)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

func header(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	b := make([]byte, len(sqliteHead))
	_, err = io.ReadFull(f, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return string(b), errors.Join(err, f.Close())
}

const sqliteHead = "SQLite format 3\x00"

// told makes an error of SQLite that means damage an ErrDamaged.
func told(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_FORMAT:
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	return err
}

// State is what the index holds.
type State struct {
	Path     string // "": in memory
	Entries  int64
	Branches int
	Bytes    int64
}

// State tells what the index holds.
func (x *Index) State(ctx context.Context) (State, error) {
	s := State{Path: x.cfg.Path}
	err := x.db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM entry), (SELECT count(*) FROM branch),
		(SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)`).Scan(&s.Entries, &s.Branches, &s.Bytes)
	return s, told(err)
}
