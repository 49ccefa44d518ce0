package witness

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	maxProof = 63       // lines of a consistency proof
	maxLines = 64       // of a checkpoint: its text, and who signed it
	maxBody  = 32 << 10 // of a request
)

// errRequest: the body is no add-checkpoint request.
var errRequest = errors.New("bad request")

// request is the body of add-checkpoint:
//
//	old <size>            of the checkpoint that the witness cosigned last
//	<hash>                of the consistency proof, base64, up to 63 lines
//
//	<signed checkpoint>
type request struct {
	old    uint64
	proof  tlog.TreeProof
	signed string
}

func (r request) encode() []byte {
	b := fmt.Appendf(nil, "old %d\n", r.old)
	for _, h := range r.proof {
		b = append(base64.StdEncoding.AppendEncode(b, h[:]), '\n')
	}
	return append(append(b, '\n'), r.signed...)
}

// parse reads a body strictly: it accepts nothing that encode would not write.
func parse(body []byte) (request, error) {
	head, signed, ok := strings.Cut(string(body), "\n\n")
	if !ok || signed == "" {
		return request{}, fmt.Errorf("%w: no empty line with a checkpoint after it", errRequest)
	}
	if strings.Count(signed, "\n") > maxLines {
		return request{}, fmt.Errorf("%w: a checkpoint of more than %d lines", errRequest, maxLines)
	}
	lines := strings.Split(head, "\n")
	size, ok := strings.CutPrefix(lines[0], "old ")
	old, err := strconv.ParseUint(size, 10, 63)
	if !ok || err != nil || strconv.FormatUint(old, 10) != size {
		return request{}, fmt.Errorf("%w: the first line is not the word old and a size", errRequest)
	}
	if len(lines)-1 > maxProof {
		return request{}, fmt.Errorf("%w: a proof of more than %d lines", errRequest, maxProof)
	}
	r := request{old: old, signed: signed}
	for i, l := range lines[1:] {
		h, err := base64.StdEncoding.Strict().DecodeString(l)
		if err != nil || len(h) != tlog.HashSize || strings.ContainsAny(l, "\r") {
			return request{}, fmt.Errorf("%w: line %d of the proof is no hash", errRequest, i+1)
		}
		r.proof = append(r.proof, tlog.Hash(h))
	}
	return r, nil
}
