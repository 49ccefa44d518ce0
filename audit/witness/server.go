package witness

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"countersign/audit"
)

// maxLogs bounds the logs of one enforcer: each start of it begins one, and a
// thief of its key could begin any number.
const maxLogs = 100_000

var emptyRoot = tlog.Hash(sha256.Sum256(nil))

// Config says who a witness is, and whose logs it cosigns.
type Config struct {
	Name string             // of its key: like a URL without scheme, witness.example/w1; no spaces, no +
	Key  ed25519.PrivateKey // its own, and for nothing else
	Dir  string             // what it has cosigned; see state
	// Logs are the keys of the enforcers whose logs are cosigned: every origin
	// <enforcer>/<incarnation> of an enforcer in it, if it is signed by a key of
	// that enforcer, or one that is nobody's.
	Logs audit.LogKeys
	Log  *slog.Logger // nil: none
}

// Witness cosigns. It is an http.Handler.
type Witness struct {
	cfg    Config
	signer *torchwood.CosignatureSigner
	state  *state
	lock   io.Closer
	mux    *http.ServeMux
}

// Open takes the state directory for this process (audit.ErrInUse if another
// has it), and reads what was cosigned.
func Open(cfg Config) (*Witness, error) {
	if len(cfg.Logs) == 0 {
		return nil, errors.New("witness: there is no log to cosign")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if unnamed := cfg.Logs.Unnamed(); unnamed != "" {
		cfg.Log.Warn(unnamed)
	}
	signer, err := torchwood.NewCosignatureSigner(cfg.Name, cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("witness: %q: %w", cfg.Name, err)
	}
	lock, err := audit.Lock(cfg.Dir)
	if err != nil {
		return nil, err
	}
	st, err := openState(cfg.Dir)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	w := &Witness{cfg: cfg, signer: signer, state: st, lock: lock, mux: http.NewServeMux()}
	w.mux.HandleFunc("POST /add-checkpoint", w.addCheckpoint)
	w.mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprintln(rw, "ok") })
	return w, nil
}

// Key is the witness's vkey, for policies (c2sp.org/signed-note#verifier-keys).
func (w *Witness) Key() string { return w.signer.Verifier().String() }

// Key is the vkey of a witness with this name and key.
func Key(name string, key ed25519.PrivateKey) (string, error) {
	signer, err := torchwood.NewCosignatureSigner(name, key)
	if err != nil {
		return "", fmt.Errorf("witness: %q: %w", name, err)
	}
	return signer.Verifier().String(), nil
}

// Close waits for the cosignature that is being made, and lets go of the state
// directory. Nothing is cosigned after it.
func (w *Witness) Close() error {
	w.state.mu.Lock()
	defer w.state.mu.Unlock()
	w.state.counts = nil
	return w.lock.Close()
}

func (w *Witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) { w.mux.ServeHTTP(rw, r) }

// What a request is refused with, besides audit.ErrUnknownLog (404),
// audit.ErrCheckpoint (403) and errRequest (400).
var (
	errProof  = errors.New("the proof does not lead from the tree that was cosigned last to this one") // 422
	errMany   = errors.New("this enforcer has begun too many logs")                                    // 429
	errClosed = errors.New("the witness stops")                                                        // 503
)

// conflict is 409: the size of the tree that was cosigned last. forked: it is
// another tree of that size.
type conflict struct {
	size   uint64
	forked bool
}

func (c conflict) Error() string {
	if c.forked {
		return fmt.Sprintf("another tree of %d entries was cosigned: the log forks", c.size)
	}
	return fmt.Sprintf("the last tree cosigned has %d entries", c.size)
}

func (w *Witness) addCheckpoint(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxBody))
	if err != nil {
		var long *http.MaxBytesError
		if errors.As(err, &long) {
			http.Error(rw, fmt.Sprintf("more than %d bytes", maxBody), http.StatusRequestEntityTooLarge)
		} else {
			http.Error(rw, "the body could not be read", http.StatusBadRequest)
		}
		return
	}
	line, err := w.cosign(r.Context(), body)
	var other conflict
	status := http.StatusInternalServerError
	switch {
	case err == nil:
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if _, err := io.WriteString(rw, line); err != nil {
			w.cfg.Log.Debug("a cosignature was not taken", "err", err)
		}
		return
	case errors.As(err, &other):
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.WriteHeader(http.StatusConflict)
		fmt.Fprintf(rw, "%d\n", other.size)
		return
	case errors.Is(err, errRequest):
		status = http.StatusBadRequest
	case errors.Is(err, audit.ErrUnknownLog):
		status = http.StatusNotFound
	case errors.Is(err, audit.ErrCheckpoint):
		status = http.StatusForbidden
	case errors.Is(err, errProof):
		status = http.StatusUnprocessableEntity
	case errors.Is(err, errMany):
		status = http.StatusTooManyRequests
	case errors.Is(err, context.Canceled), errors.Is(err, errClosed):
		status = http.StatusServiceUnavailable
	default:
		w.cfg.Log.Error("a checkpoint could not be cosigned", "err", err)
		err = errors.New("the witness cannot write its state")
	}
	http.Error(rw, err.Error(), status)
}

// cosign checks a request, and returns our line of the checkpoint's note.
func (w *Witness) cosign(ctx context.Context, body []byte) (string, error) {
	r, err := parse(body)
	if err != nil {
		return "", err
	}
	c, err := w.cfg.Logs.Open(r.signed)
	if err != nil {
		// A log of others, whose origin or extension lines are not as ours write
		// them, is unknown before it is anything else.
		origin, _, _ := strings.Cut(r.signed, "\n")
		if len(w.cfg.Logs.Of(origin)) == 0 {
			err = audit.ErrUnknownLog
		}
		return "", err
	}
	switch {
	case r.old > c.Size:
		return "", fmt.Errorf("%w: old size %d, of a tree of %d entries", errRequest, r.old, c.Size)
	case c.Size == 0 && c.Root != emptyRoot:
		return "", fmt.Errorf("%w: an empty tree with a root of its own", errProof)
	case r.old == 0 && len(r.proof) > 0:
		return "", fmt.Errorf("%w: from nothing no proof leads", errProof)
	}
	log := w.cfg.Log.With("origin", c.Origin, "size", c.Size)

	// From here to the end nobody else moves this log on: between a look and a
	// write another tree could slip in, and be rolled back.
	w.state.mu.Lock()
	defer w.state.mu.Unlock()
	if w.state.counts == nil {
		return "", errClosed
	}
	last, err := w.state.last(c.Origin)
	switch {
	case err != nil:
		return "", err
	case last.Size != r.old:
		return "", conflict{size: last.Size}
	case last.Size == c.Size && last.Root != c.Root:
		// The note, whole: with the one that is kept it proves that the key signed
		// two histories.
		log.Error("two trees of one size: the log forks, or its key was stolen", "signed", r.signed, "cosigned", last.Root.String())
		return "", conflict{size: last.Size, forked: true}
	}
	if last.Size > 0 {
		if err := tlog.CheckTree(r.proof, int64(c.Size), c.Root, int64(last.Size), last.Root); err != nil {
			log.Error("a tree that does not begin with the one cosigned last: the log forks, or its key was stolen", "signed", r.signed, "last_size", last.Size, "cosigned", last.Root.String())
			return "", errProof
		}
	}
	if enforcer, _, _ := strings.Cut(c.Origin, "/"); last.Size == 0 && w.state.counts[enforcer] >= maxLogs {
		log.Error("this enforcer has begun too many logs: no more are cosigned")
		return "", errMany
	}
	text, _, _ := strings.Cut(r.signed, "\n\n")
	both, err := note.Sign(&note.Note{Text: text + "\n"}, w.signer)
	if err != nil {
		return "", fmt.Errorf("witness: %w", err)
	}
	_, line, _ := strings.Cut(string(both), "\n\n")
	if err := ctx.Err(); err != nil {
		return "", err // nobody waits for it
	}
	if err := w.state.keep(c.Origin, r.signed+line); err != nil {
		return "", err
	}
	log.Info("cosigned", "from", last.Size)
	return line, nil
}
