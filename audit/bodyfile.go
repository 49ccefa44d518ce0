package audit

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	agefile "filippo.io/age"
)

// The masked bodies of requests and answers are kept apart from the log, on
// branches of their own, so that they can be dropped and the log still proves
// itself: bodies/<enforcer>/<incarnation>/<yyyy-mm>, the entry's month. A body
// whose entry says "kept":"full" has the path
//
//	<dd>/<hh>/<mm>/<first two digits>/<digest>
//
// of the entry's day, hour and minute (UTC), the digest being the hex of its
// BodyRef: whoever has the entry knows where to look, and what to find there.
// The file is a header, one line of JSON, and the gzip stream of the masked
// text:
//
//	{"v":1,"of":"response","size":1843,"salt":"<hex>","encoding":"gzip"}
//
// size is the text's, and SHA-256(salt ‖ text) the digest. What is larger than
// maxBodyFile then is cut: the file is the header alone, with
//
//	"parts":[{"size":1000000,"sha256":"<hex>"},…]
//
// as its last member, and beside it are files of those sizes and hashes,
// <digest>.0, <digest>.1 and so on, which together are the gzip stream.
//
// Where the policy names recipients, each of these files is an age file
// (age-encryption.org/v1, not armored) with that content; a part's size and
// hash are those of the age file. It shows its size, and how many may open it.
//
// The branch's file "position" says how far it has come; see position.
const (
	bodiesPrefix = "bodies/"

	maxBodyFile = 1 << 20   // of one file, sealed or not
	bodyChunk   = 960 << 10 // of compressed text in one file: sealing takes the rest at most
	maxParts    = 2 * MaxBody / bodyChunk
	maxHeader   = 8 << 10

	sealedMark = "age-encryption.org/v1\n"
	digestMark = "sha256:"
)

var (
	// ErrBody is returned for what is no body as it would be written.
	ErrBody = errors.New("audit: body")
	// ErrBodySealed: none of the identities opens it.
	ErrBodySealed = errors.New("audit: the body is sealed")
	// ErrBodyDiffers: it reads, but it is not the one that the entry names.
	ErrBodyDiffers = errors.New("audit: the body is not the one that its entry names")
)

type bodyHeader struct {
	V        int        `json:"v"`
	Of       string     `json:"of"`
	Size     int64      `json:"size"`
	Salt     string     `json:"salt"`
	Encoding string     `json:"encoding"`
	Parts    []bodyPart `json:"parts,omitempty"`
}

type bodyPart struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// bodyPlace gives the branch and the path of an entry's body.
func bodyPlace(origin string, at time.Time, ref BodyRef) (branch, path string, err error) {
	digest, ok := strings.CutPrefix(ref.Digest, digestMark)
	if b, err := hex.DecodeString(digest); !ok || err != nil || len(b) != sha256.Size || strings.ToLower(digest) != digest {
		return "", "", fmt.Errorf("%w: %q is not a digest", ErrBody, ref.Digest)
	}
	at = at.UTC()
	return bodiesPrefix + origin + "/" + at.Format("2006-01"), at.Format("02/15/04/") + digest[:2] + "/" + digest, nil
}

// encodeBody makes a body's files, by their paths; seal may be nil.
func encodeBody(path string, of string, salt, text []byte, seal func([]byte) ([]byte, error)) (map[string][]byte, error) {
	if seal == nil {
		seal = func(b []byte) ([]byte, error) { return b, nil }
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, err := w.Write(text)
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("audit: %w", err) // a buffer takes everything
	}
	files := map[string][]byte{}
	h := bodyHeader{V: 1, Of: of, Size: int64(len(text)), Salt: hex.EncodeToString(salt), Encoding: "gzip"}
	rest := z.Bytes()
	if len(rest) > bodyChunk {
		for i := 0; len(rest) > 0; i++ {
			n := min(len(rest), bodyChunk)
			part, err := seal(rest[:n])
			if err != nil {
				return nil, err
			}
			sum := sha256.Sum256(part)
			h.Parts = append(h.Parts, bodyPart{int64(len(part)), hex.EncodeToString(sum[:])})
			files[partPath(path, i)] = part
			rest = rest[n:]
		}
	}
	head, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if files[path], err = seal(append(append(head, '\n'), rest...)); err != nil {
		return nil, err
	}
	for p, b := range files {
		if len(b) > maxBodyFile {
			return nil, fmt.Errorf("%w: %s has %d bytes, more than %d: are there too many recipients?", ErrBody, p, len(b), maxBodyFile)
		}
	}
	return files, nil
}

func partPath(path string, i int) string { return path + "." + strconv.Itoa(i) }

// parseBodyHeader reads a header strictly: it takes nothing that encodeBody
// would not have written.
func parseBodyHeader(file []byte) (h bodyHeader, rest []byte, err error) {
	line, _, ok := bytes.Cut(file[:min(len(file), maxHeader)], []byte("\n"))
	if !ok {
		return h, nil, fmt.Errorf("%w: it has no header", ErrBody)
	}
	rest = file[len(line)+1:]
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&h); err != nil {
		return h, nil, fmt.Errorf("%w: header: %v", ErrBody, err)
	}
	again, err := json.Marshal(h)
	if err != nil || !bytes.Equal(again, line) {
		return h, nil, fmt.Errorf("%w: its header is not as it would be written", ErrBody)
	}
	salt, err := hex.DecodeString(h.Salt)
	switch {
	case h.V != 1:
		err = fmt.Errorf("%w: version %d, which this program does not know", ErrBody, h.V)
	case err != nil || len(salt) != saltBytes:
		err = fmt.Errorf("%w: its salt is not %d bytes in hex", ErrBody, saltBytes)
	case h.Encoding != "gzip":
		err = fmt.Errorf("%w: encoding %q", ErrBody, h.Encoding)
	case h.Size < 0 || h.Size > MaxBody:
		err = fmt.Errorf("%w: %d bytes, more than %d", ErrBody, h.Size, MaxBody)
	case len(h.Parts) > maxParts || len(h.Parts) > 0 && len(rest) > 0:
		err = fmt.Errorf("%w: %d parts, and %d bytes beside them", ErrBody, len(h.Parts), len(rest))
	}
	for _, p := range h.Parts {
		if err == nil && (p.Size <= 0 || p.Size > maxBodyFile) {
			err = fmt.Errorf("%w: a part of %d bytes", ErrBody, p.Size)
		}
	}
	return h, rest, err
}

// OpenBody reads the body that ref names from its files, and checks it against
// the digest: the text is returned only if it is the one. file gives the file
// whose name is the digest with a suffix ("", ".0", ".1", …). Errors:
// fs.ErrNotExist, wrapped, if there is none (erased, expired, or not in this
// clone), ErrBodySealed, ErrBodyDiffers, ErrBody. What files hold is not
// trusted: never more than MaxBody is unpacked.
func OpenBody(ref BodyRef, file func(suffix string) ([]byte, error), identities ...agefile.Identity) ([]byte, error) {
	read := func(suffix string) (stored, plain []byte, err error) {
		if stored, err = file(suffix); err != nil {
			return nil, nil, err
		}
		if len(stored) > maxBodyFile {
			return nil, nil, fmt.Errorf("%w: a file of %d bytes", ErrBody, len(stored))
		}
		plain, err = unseal(stored, identities)
		return stored, plain, err
	}
	stored, plain, err := read("")
	if err != nil {
		return nil, err
	}
	h, z, err := parseBodyHeader(plain)
	if err != nil {
		return nil, err
	}
	sealed := isSealed(stored)
	for i, p := range h.Parts {
		stored, plain, err := read("." + strconv.Itoa(i))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: part %d is missing (%v)", ErrBody, i, err)
		}
		if err != nil {
			return nil, err
		}
		if sum := sha256.Sum256(stored); int64(len(stored)) != p.Size || hex.EncodeToString(sum[:]) != p.SHA256 || isSealed(stored) != sealed {
			return nil, fmt.Errorf("%w: part %d is not the one that the header names", ErrBody, i)
		}
		z = append(z, plain...)
	}
	text, err := gunzip(z, h.Size)
	if err != nil {
		return nil, err
	}
	salt, err := hex.DecodeString(h.Salt)
	if err != nil {
		return nil, fmt.Errorf("%w: salt: %v", ErrBody, err)
	}
	if got := bodyDigest(salt, text); got != ref.Digest || h.Of != ref.Of || h.Size != ref.Size {
		return nil, fmt.Errorf("%w: it is a %s of %d bytes with digest %s; the entry has a %s of %d bytes with digest %s",
			ErrBodyDiffers, h.Of, h.Size, got, ref.Of, ref.Size, ref.Digest)
	}
	return text, nil
}

// gunzip unpacks one whole gzip stream of exactly size bytes.
func gunzip(z []byte, size int64) ([]byte, error) {
	rest := bytes.NewReader(z)
	r, err := gzip.NewReader(rest)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBody, err)
	}
	r.Multistream(false)
	text, err := io.ReadAll(io.LimitReader(r, size+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %v", ErrBody, err)
	case int64(len(text)) != size:
		return nil, fmt.Errorf("%w: its text has not the %d bytes that the header says", ErrBody, size)
	}
	// Only now has the end been read, and with it the checksum.
	if _, err := r.Read(make([]byte, 1)); err != io.EOF || rest.Len() > 0 {
		return nil, fmt.Errorf("%w: the compressed text does not end where it should (%v)", ErrBody, err)
	}
	return text, nil
}

func isSealed(file []byte) bool { return bytes.HasPrefix(file, []byte(sealedMark)) }

// unseal gives what an age file holds; any other file as it is.
func unseal(file []byte, identities []agefile.Identity) ([]byte, error) {
	if !isSealed(file) {
		return file, nil
	}
	if len(identities) == 0 {
		return nil, ErrBodySealed
	}
	r, err := agefile.Decrypt(bytes.NewReader(file), identities...)
	if no := new(agefile.NoIdentityMatchError); errors.As(err, &no) {
		return nil, fmt.Errorf("%w, and not for this identity", ErrBodySealed)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBody, err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxBodyFile+1))
	if err != nil || len(plain) > maxBodyFile {
		return nil, fmt.Errorf("%w: sealed file: %v", ErrBody, err)
	}
	return plain, nil
}
