// Package kv keeps the small shared state of enforcers and bots (approvals,
// grants, who owns which session) in buckets of keys that change by
// compare-and-swap only.
//
// It promises:
//
//   - A write that returned nil is durable: the embedded store syncs every
//     write to disk before it acknowledges it; an external cluster acknowledges
//     by quorum.
//   - Of several writers that name the same revision, exactly one succeeds.
//   - Get answers from the leader of the bucket, so that a writer sees its own
//     writes and a reader never acts on a follower's past. Keys and Watch may
//     come from a follower, a moment late: they are for what is done again,
//     sweeps and followers, and decide nothing.
//   - A write that failed with anything but ErrExists or ErrConflict may or may
//     not have happened: Get tells.
//
// The store is NATS JetStream's key-value layer, run inside this process
// (OpenEmbedded) or reached by URL (Connect). Both keep the same promises, and
// one suite tests both.
package kv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What a caller can act upon. Every other error means that the store could
// not be asked, or did not answer.
var (
	ErrNotFound = errors.New("no such key")
	ErrExists   = errors.New("the key exists already")
	ErrConflict = errors.New("the key changed since it was read")
	ErrBadKey   = errors.New("a key is made of letters, digits and - _ = / . and neither starts nor ends with a dot")
)

// tombstone is how long the marker of a deleted key is kept. A watcher that
// was cut off for longer sees the key missing from its next list instead.
const tombstone = 24 * time.Hour

// Store is a connection to one JetStream. It is safe for concurrent use.
type Store struct {
	conn     *nats.Conn
	js       jetstream.JetStream
	replicas int
	stop     func() error // ends what OpenEmbedded started
}

// Bucket is a named set of keys.
type Bucket struct {
	name string
	kv   jetstream.KeyValue
}

// Update is one key's newest state, as Watch delivers it.
type Update struct {
	Key     string
	Value   []byte // nil when Deleted
	Rev     uint64
	Deleted bool
}

// Connect reaches an external NATS cluster and keeps reconnecting for as long
// as the Store is open. New buckets are kept on that many replicas (3 or 5 in
// a cluster; 0 counts as 1), except where the server says that it stands
// alone: there is one then, and a lost disk loses the bucket. The first
// connection must succeed.
func Connect(url string, replicas int, opts ...nats.Option) (*Store, error) {
	opts = append([]nats.Option{
		nats.Name("countersign"),
		nats.MaxReconnects(-1),
		// A write must fail while the cluster is away, not wait in a buffer and
		// happen after its caller has given up.
		nats.ReconnectBufSize(-1),
	}, opts...)
	conn, err := nats.Connect(url, opts...)
	if err != nil {
		return nil, fmt.Errorf("kv: connect to NATS: %w", err)
	}
	return newStore(conn, replicas, func() error { return nil })
}

func newStore(conn *nats.Conn, replicas int, stop func() error) (*Store, error) {
	js, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		return nil, errors.Join(fmt.Errorf("kv: JetStream: %w", err), stop())
	}
	return &Store{conn: conn, js: js, replicas: max(replicas, 1), stop: stop}, nil
}

// Close ends the connection, and with it every Watch; the embedded server, if
// there is one, is shut down and its directory released.
func (s *Store) Close() error {
	s.conn.Close()
	return s.stop()
}

// Bucket opens the bucket, making it if it is not there. Its name is made of
// letters, digits, - and _.
func (s *Store) Bucket(ctx context.Context, name string) (*Bucket, error) {
	bucket, err := s.js.KeyValue(ctx, name)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		if err = s.create(ctx, name); err == nil {
			bucket, err = s.js.KeyValue(ctx, name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("kv: bucket %q: %w", name, err)
	}
	return &Bucket{name: name, kv: bucket}, nil
}

// standsAlone is NATS' error JSStreamReplicasNotSupportedErr: "replicas > 1 not
// supported in non-clustered mode". A cluster that has too few servers up gives
// another, and gets no bucket.
const standsAlone jetstream.ErrorCode = 10074

// create makes the stream that JetStream's key-value layer expects (NATS
// ADR-8), except that reads go to the leader: AllowDirect would let any
// replica answer, with what it knew a moment ago.
func (s *Store) create(ctx context.Context, name string) error {
	config := jetstream.StreamConfig{
		Name:              "KV_" + name,
		Subjects:          []string{"$KV." + name + ".>"},
		MaxMsgsPerSubject: 1,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgSize:        -1,
		MaxConsumers:      -1,
		Storage:           jetstream.FileStorage,
		Replicas:          s.replicas,
		Discard:           jetstream.DiscardNew,
		AllowRollup:       true,
		DenyDelete:        true,
		AllowDirect:       false,
		// Lets a deletion's marker expire; keys never do.
		AllowMsgTTL:            true,
		SubjectDeleteMarkerTTL: tombstone,
	}
	_, err := s.js.CreateStream(ctx, config)
	var said *jetstream.APIError
	if errors.As(err, &said) && said.ErrorCode == standsAlone {
		config.Replicas = 1
		_, err = s.js.CreateStream(ctx, config)
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return nil // another replica was first
	}
	return err
}

// Get returns the key's value and revision, or ErrNotFound.
func (b *Bucket) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	if err := checkKey(key); err != nil {
		return nil, 0, err
	}
	entry, err := b.kv.Get(ctx, key)
	if err != nil {
		return nil, 0, b.failed("get", key, err)
	}
	return entry.Value(), entry.Revision(), nil
}

// Create writes a key that is not there, or that was deleted, and returns its
// revision; ErrExists if it is there.
func (b *Bucket) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	return b.settled(ctx, key, value, func(ctx context.Context) (uint64, error) {
		rev, err := b.kv.Create(ctx, key, value)
		if err != nil {
			return 0, b.failed("create", key, err)
		}
		return rev, nil
	})
}

// Update replaces the value if the key still is at revision rev, and returns
// the new revision; ErrConflict if it is not.
func (b *Bucket) Update(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	if rev == 0 { // to JetStream, revision 0 means "create"
		return 0, fmt.Errorf("kv: update %s/%s: revision 0 was never read: %w", b.name, key, ErrConflict)
	}
	return b.settled(ctx, key, value, func(ctx context.Context) (uint64, error) {
		next, err := b.kv.Update(ctx, key, value, rev)
		if err != nil {
			return 0, b.failed("update", key, err)
		}
		return next, nil
	})
}

// Delete removes the key if it still is at revision rev (ErrConflict if not);
// revision 0 removes it whatever it holds. Deleting what is not there is fine.
func (b *Bucket) Delete(ctx context.Context, key string, rev uint64) error {
	if err := checkKey(key); err != nil {
		return err
	}
	opts := []jetstream.KVDeleteOpt{jetstream.PurgeTTL(tombstone)}
	if rev != 0 {
		opts = append(opts, jetstream.LastRevision(rev))
	}
	if err := b.kv.Purge(ctx, key, opts...); err != nil {
		return b.failed("delete", key, err)
	}
	return nil
}

// Keys lists the keys that start with prefix, sorted. In a cluster the list may
// come from a replica that lags: it is complete as of a moment ago.
func (b *Bucket) Keys(ctx context.Context, prefix string) ([]string, error) {
	filter, err := subject(prefix)
	if err != nil {
		return nil, err
	}
	watcher, err := b.kv.Watch(ctx, filter, jetstream.IgnoreDeletes(), jetstream.MetaOnly())
	if err != nil {
		return nil, b.failed("list", prefix, err)
	}
	var keys []string
	for {
		select {
		case entry, ok := <-watcher.Updates():
			switch {
			case !ok: // half a list must not pass for a whole one
				return nil, b.failed("list", prefix, errCut)
			case entry != nil:
				if strings.HasPrefix(entry.Key(), prefix) {
					keys = append(keys, entry.Key())
				}
				continue
			}
		case <-ctx.Done():
			return nil, b.failed("list", prefix, errors.Join(ctx.Err(), stop(watcher)))
		}
		break // nil: the present state is complete
	}
	if err := stop(watcher); err != nil {
		return nil, b.failed("list", prefix, err)
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}

var errCut = errors.New("the connection was cut before the end")

// stop ends a watcher and empties its channel, which its subscription would
// otherwise block on.
func stop(w jetstream.KeyWatcher) error {
	err := w.Stop()
	go func() {
		for range w.Updates() {
		}
	}()
	return err
}

// Watch delivers the present state of every key that starts with prefix, then
// each change. Of several quick changes to one key only the last is certain to
// arrive. The channel closes when ctx ends, when the store is closed, or when
// the watch broke beyond repair: a watcher that wants more calls Watch again.
func (b *Bucket) Watch(ctx context.Context, prefix string) (<-chan Update, error) {
	filter, err := subject(prefix)
	if err != nil {
		return nil, err
	}
	watcher, err := b.kv.Watch(ctx, filter)
	if err != nil {
		return nil, b.failed("watch", prefix, err)
	}
	out := make(chan Update)
	go func() {
		defer close(out)
		// To the end of its updates, even after ctx: the subscription blocks on
		// a channel that nobody empties.
		for entry := range watcher.Updates() {
			if entry == nil || !strings.HasPrefix(entry.Key(), prefix) {
				continue // nil: the present state is complete
			}
			u := Update{Key: entry.Key(), Rev: entry.Revision(), Deleted: entry.Operation() != jetstream.KeyValuePut}
			if !u.Deleted {
				u.Value = entry.Value()
			}
			select {
			case out <- u:
			case <-ctx.Done():
			}
		}
	}()
	return out, nil
}

// failed turns the client's errors into ours.
func (b *Bucket) failed(doing, key string, err error) error {
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound): // ErrKeyDeleted is one too
		err = ErrNotFound
	case errors.Is(err, jetstream.ErrKeyRevisionMismatch):
		err = ErrConflict
	case errors.Is(err, jetstream.ErrKeyExists):
		err = ErrExists
	}
	return fmt.Errorf("kv: %s %s/%s: %w", doing, b.name, key, err)
}

// subject is the NATS filter for a prefix: whole tokens are filtered by the
// server, the rest by the caller.
func subject(prefix string) (string, error) {
	if prefix == "" {
		return ">", nil
	}
	if err := checkKey(strings.TrimSuffix(prefix, ".")); err != nil {
		return "", err
	}
	return prefix[:strings.LastIndexByte(prefix, '.')+1] + ">", nil
}

// checkKey keeps NATS wildcards and the separators of its protocol out.
func checkKey(key string) error {
	ok := key != "" && key[0] != '.' && key[len(key)-1] != '.' && !strings.Contains(key, "..")
	for i := 0; ok && i < len(key); i++ {
		c := key[i]
		ok = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_=/.", c) >= 0
	}
	if !ok {
		return fmt.Errorf("kv: key %q: %w", key, ErrBadKey)
	}
	return nil
}
