package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// A file of a journal (format 2) holds lines of JSON, for people too: less,
// grep and jq read it. It begins with its head, and goes on with groups, each
// a head and what was written and made durable together, with one fdatasync:
//
//	 {"segment":{"format":2,"origin":"gate/r1","first":7,"after":"00000000000000000000.jsonl","at":5120},"crc32c":"0f3a…"}
//	 {"group":{"first":7,"entries":2,"bytes":1843,"crc32c":"99c1…"},"crc32c":"51d0…"}
//	{"seq":7,…}
//	{"seq":8,…}
//	{"body":{"seq":8,"index":0,"of":"response","to":["age1…"],"salt":"…","text":"…"}}
//
// The line of an entry is its leaf. A body follows the entry that it belongs
// to; it is its index-th (see BodyRef), and no leaf. What is not UTF-8, or is
// shorter that way, stands under "base64" instead of "text". Under "to" stand
// those whom it is to be sealed to, see ParseRecipients; none of them is nobody.
// A body without "to" (earlier versions wrote none) is sealed as the policy has
// it that is in force when it is published.
//
// A group's bytes are those between its head and the next one; its inner
// crc32c (CRC-32C, 8 hex digits) is of them, the last one of a head is of the
// head's own line before the comma. Heads begin with a space, which no other
// line contains between tokens, and no string can feign the bare quotation
// marks: where headMark stands, a group was begun, and so everything before it
// was durable.
//
// The name of a file is the number of its first entry (20 digits). When a
// write or a sync failed, that file is never written again: the next one
// begins with the first entry that was not made durable, and what the failed
// one holds from there on, though it may read well, was acknowledged to nobody
// and is no part of the journal. Its head says so: after is the file before
// it, at how much of that counts. A file that failed before its first entry
// leaves its number to the next one, which is called <first>-<try>: of those
// with one number, the last counts.
//
// The room that a file keeps ahead reads as zeroes, which no line contains.
const (
	headMark    = "\n {\"" // before a head, but for a file's own
	segmentMark = ` {"segment":`
	groupMark   = ` {"group":`
	bodyMark    = `{"body":`

	maxHead = 512 // bytes of a head's line
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segmentHead is the first line of a file.
type segmentHead struct {
	Format int    `json:"format"` // 2
	Origin string `json:"origin"`
	First  uint64 `json:"first"`           // number of the first entry
	After  string `json:"after,omitempty"` // name of the file before, if there was one
	At     int64  `json:"at,omitempty"`    // how many of its bytes count
}

func (h segmentHead) line() ([]byte, error) {
	b, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return endHead(append([]byte(segmentMark), b...)), nil
}

// endHead appends a head's own sum.
func endHead(b []byte) []byte {
	return fmt.Appendf(b, `,"crc32c":"%08x"}`+"\n", crc32.Checksum(b, castagnoli))
}

const headEnd = len(`,"crc32c":"01234567"}`)

// cutHead gives what stands in a head's line (without line feed) between its
// mark and its sum; false if the sum is not right.
func cutHead(line []byte, mark string) ([]byte, bool) {
	n := len(line) - headEnd
	if n < len(mark) || !bytes.HasPrefix(line, []byte(mark)) ||
		!bytes.Equal(endHead(bytes.Clone(line[:n])), append(bytes.Clone(line), '\n')) {
		return nil, false
	}
	return line[len(mark):n], true
}

func parseSegmentHead(line []byte) (h segmentHead, ok bool) {
	b, ok := cutHead(line, segmentMark)
	return h, ok && json.Unmarshal(b, &h) == nil && h.Format == 2
}

// group is the head of a group.
type group struct {
	first   uint64
	entries uint64
	bytes   int64
	sum     uint32
}

func (g group) appendTo(b []byte) []byte {
	start := len(b)
	b = append(append(b, groupMark...), `{"first":`...)
	b = strconv.AppendUint(b, g.first, 10)
	b = strconv.AppendUint(append(b, `,"entries":`...), g.entries, 10)
	b = strconv.AppendInt(append(b, `,"bytes":`...), g.bytes, 10)
	b = fmt.Appendf(b, `,"crc32c":"%08x"}`, g.sum)
	return append(b[:start], endHead(b[start:])...)
}

func parseGroup(line []byte) (g group, ok bool) {
	b, ok := cutHead(line, groupMark)
	if !ok {
		return g, false
	}
	var j struct {
		First   uint64 `json:"first"`
		Entries uint64 `json:"entries"`
		Bytes   int64  `json:"bytes"`
		Sum     string `json:"crc32c"`
	}
	if err := json.Unmarshal(b, &j); err != nil {
		return g, false
	}
	sum, err := strconv.ParseUint(j.Sum, 16, 32)
	g = group{first: j.First, entries: j.Entries, bytes: j.Bytes, sum: uint32(sum)}
	return g, err == nil && g.bytes >= 0 && g.entries <= uint64(g.bytes) && g.first+g.entries >= g.first &&
		bytes.Equal(g.appendTo(nil), append(bytes.Clone(line), '\n'))
}

// Kept is a body that the journal holds until it is published.
type Kept struct {
	Seq   uint64 // of its entry
	Index int    // which of the entry's Bodies it is
	Of    string
	To    []string // whom to seal it to; nil: not said
	Salt  []byte
	Text  []byte
	Bytes int64 // of its line in the journal, line feed included
}

// Ref is what the entry says of it.
func (k Kept) Ref() BodyRef {
	return BodyRef{Of: k.Of, Size: int64(len(k.Text)), Digest: bodyDigest(k.Salt, k.Text), Kept: KeptFull}
}

// saltBytes is the length of a salt.
const saltBytes = 32

// appendKeptHead and appendKeptTail make a body's line: the number of the
// entry is known late.
func appendKeptHead(b []byte, seq uint64) []byte {
	return strconv.AppendUint(append(b, bodyMark+`{"seq":`...), seq, 10)
}

func appendKeptTail(b []byte, index int, of string, to []string, salt, text []byte) ([]byte, error) {
	b = strconv.AppendInt(append(b, `,"index":`...), int64(index), 10)
	b = appendString(append(b, `,"of":`...), of)
	if to != nil {
		b = append(b, `,"to":[`...)
		for i, r := range to {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, r)
		}
		b = append(b, ']')
	}
	b = base64.StdEncoding.AppendEncode(append(b, `,"salt":"`...), salt)
	if plain := escapedLen(text); plain <= base64.StdEncoding.EncodedLen(len(text))+2 {
		var err error
		if b, err = jsontext.AppendQuote(append(b, `","text":`...), text); err != nil {
			return nil, fmt.Errorf("%w: body: %v", ErrEntry, err)
		}
	} else {
		b = base64.StdEncoding.AppendEncode(append(b, `","base64":"`...), text)
		b = append(b, '"')
	}
	return append(b, "}}\n"...), nil
}

// escapedLen is how long text is as a string of JSON, quotation marks included,
// or, if it is not UTF-8, more than anything.
func escapedLen(text []byte) int {
	if !utf8.Valid(text) {
		return math.MaxInt
	}
	n := len(text) + 2
	for _, c := range text {
		switch {
		case c == '"', c == '\\', c == '\b', c == '\f', c == '\n', c == '\r', c == '\t':
			n++
		case c < 0x20:
			n += 5
		}
	}
	return n
}

// parseKept reads a body's line, without its line feed.
func parseKept(line []byte) (Kept, error) {
	var l struct {
		Body struct {
			Seq    uint64   `json:"seq"`
			Index  int      `json:"index"`
			Of     string   `json:"of"`
			To     []string `json:"to"`
			Salt   []byte   `json:"salt"`
			Text   *string  `json:"text"`
			Base64 []byte   `json:"base64"`
		} `json:"body"`
	}
	if err := json.Unmarshal(line, &l); err != nil {
		return Kept{}, fmt.Errorf("%w: body: %v", ErrEntry, err)
	}
	k := Kept{Seq: l.Body.Seq, Index: l.Body.Index, Of: l.Body.Of, To: l.Body.To, Salt: l.Body.Salt, Text: l.Body.Base64, Bytes: int64(len(line)) + 1}
	if l.Body.Text != nil {
		k.Text = []byte(*l.Body.Text)
	}
	if len(k.Salt) != saltBytes || k.Index < 0 {
		return Kept{}, fmt.Errorf("%w: body without a salt or an index", ErrEntry)
	}
	return k, nil
}

// segment names a file of a journal.
type segment struct {
	first uint64
	try   int
}

func (s segment) name() string {
	if s.try == 0 {
		return fmt.Sprintf("%020d%s", s.first, segmentExt)
	}
	return fmt.Sprintf("%020d-%d%s", s.first, s.try, segmentExt)
}

func (s segment) compare(t segment) int {
	switch {
	case s.first != t.first && s.first < t.first, s.first == t.first && s.try < t.try:
		return -1
	case s == t:
		return 0
	}
	return 1
}

// parseSegments gives the files that count among the names of a directory, in
// order, and the names of those that do not: whose number another one has.
func parseSegments(dir string, des []fs.DirEntry) (chain []segment, dead []string, err error) {
	for _, de := range des {
		stem, ok := strings.CutSuffix(de.Name(), segmentExt)
		if !ok {
			continue
		}
		var s segment
		first, try, tried := strings.Cut(stem, "-")
		s.first, err = strconv.ParseUint(first, 10, 64)
		if err == nil && tried {
			s.try, err = strconv.Atoi(try)
		}
		if err != nil || s.name() != de.Name() {
			return nil, nil, fmt.Errorf("%w: file name %s", ErrDamaged, filepath.Join(dir, de.Name()))
		}
		chain = append(chain, s)
	}
	slices.SortFunc(chain, segment.compare)
	live := chain[:0]
	for _, s := range chain {
		if n := len(live); n > 0 && live[n-1].first == s.first {
			dead = append(dead, live[n-1].name())
			live = live[:n-1]
		}
		live = append(live, s)
	}
	return live, dead, nil
}
