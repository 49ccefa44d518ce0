package mask

import "encoding/binary"

// The index finds many fixed strings (needles) in a text at memory speed.
//
// It samples the text: every third position, the four bytes there (a gram)
// are looked up in a bitmap. A needle of at least six bytes contains, wherever
// it starts, one sampled gram out of any three consecutive ones, so three
// grams a needle are enough to miss none. A set bit leads to a hash table of
// grams, and from there to a comparison with the needle itself.
//
// Why not Aho-Corasick: its dense table costs a row of some 300 bytes for
// each byte of each wire form (megabytes for one private key, hundreds of
// megabytes for 10,000 passwords), takes correspondingly long to build at each
// mint, and its inner loop is a chain of dependent loads. Here a secret costs
// its forms plus about 50 bytes a form, and the loop's loads are independent.
// The price is that the worst case is not strictly linear: needles that share
// all their grams are compared one after another. The choice of grams avoids
// that, and the time budget of Message bounds what is left.

const (
	gramLen   = 4
	stride    = 3
	minNeedle = gramLen + stride - 1
)

// needle is one wire form of one secret.
type needle struct {
	form
	secret *secret
}

// entry is one gram of one needle; entries of equal grams form a list.
type entry struct {
	needle int32
	off    int32 // of the gram in the needle
	next   int32 // entry number + 1; 0 ends the list
}

type slot struct {
	gram  uint32
	head  int32 // entry number + 1; 0: the slot is free
	count int32
}

// table maps grams to needles by open addressing.
type table struct {
	needles []needle
	slots   []slot
	entries []entry
	longest int
}

func gramAt(s string, i int) uint32 {
	return uint32(s[i]) | uint32(s[i+1])<<8 | uint32(s[i+2])<<16 | uint32(s[i+3])<<24
}

// gramHash is multiplicative hashing; its upper bits are the good ones.
func gramHash(g uint32) uint32 { return g * 0x9E3779B1 }

func buildTable(secrets []*secret) *table {
	n := 0
	for _, s := range secrets {
		n += len(s.forms)
	}
	size := 16
	for size < n*stride*2 {
		size *= 2
	}
	t := &table{
		needles: make([]needle, 0, n),
		slots:   make([]slot, size),
		entries: make([]entry, 0, n*stride),
	}
	for _, s := range secrets {
		for _, f := range s.forms {
			t.insert(needle{f, s})
		}
	}
	return t
}

func (t *table) insert(n needle) {
	id := int32(len(t.needles))
	t.needles = append(t.needles, n)
	t.longest = max(t.longest, len(n.text))
	off := t.place(n.text)
	for i := off; i < off+stride; i++ {
		g := gramAt(n.text, i)
		s := t.slot(g)
		t.entries = append(t.entries, entry{needle: id, off: int32(i), next: s.head})
		s.gram, s.head = g, int32(len(t.entries))
		s.count++
	}
}

// place chooses where in the needle its three grams are taken: where the
// fewest earlier needles have theirs, so that common parts ("postgres://",
// "-----BEGIN") do not gather long lists.
func (t *table) place(text string) int {
	last := len(text) - minNeedle
	best, bestCost := last/2, int32(1<<30)
	for i := range 5 {
		off := last * ((i + 2) % 5) / 4 // from the middle outwards, roughly
		cost := int32(0)
		for j := off; j < off+stride; j++ {
			cost += t.slot(gramAt(text, j)).count
		}
		if cost < bestCost {
			best, bestCost = off, cost
		}
		if cost == 0 {
			break
		}
	}
	return best
}

// slot finds the slot of a gram, or the free one where it belongs.
func (t *table) slot(g uint32) *slot {
	m := uint32(len(t.slots) - 1)
	for i := (gramHash(g) >> 7) & m; ; i = (i + 1) & m {
		s := &t.slots[i]
		if s.head == 0 || s.gram == g {
			return s
		}
	}
}

// index is an immutable set of needles: a bitmap over the grams of two
// tables. Old holds most secrets; young those that came since old was built,
// so that a mint rebuilds little.
type index struct {
	old, young *table
	base       []uint64 // the bits of old alone
	filter     []uint64 // of both
	shift      uint32
	longest    int
}

// minFilterBits makes the smallest bitmap 16 kB: it stays in the first-level
// cache and has room for the young table.
const minFilterBits = 17

func buildIndex(old *table, base []uint64, shift uint32, young *table) *index {
	ix := &index{old: old, young: young, base: base, shift: shift}
	ix.longest = max(old.longest, young.longest)
	ix.filter = base
	if len(young.entries) > 0 {
		ix.filter = append([]uint64(nil), base...)
		setBits(ix.filter, shift, young)
	}
	return ix
}

// newFilter sizes a bitmap so that at most one bit in sixteen is set.
func newFilter(t *table) (bits []uint64, shift uint32) {
	log := uint32(minFilterBits)
	for 1<<log < len(t.entries)*16 && log < 24 {
		log++
	}
	bits = make([]uint64, 1<<(log-6))
	setBits(bits, 32-log, t)
	return bits, 32 - log
}

func setBits(bits []uint64, shift uint32, t *table) {
	for _, s := range t.slots {
		if s.head != 0 {
			h := gramHash(s.gram) >> shift
			bits[h>>6] |= 1 << (h & 63)
		}
	}
}

func (ix *index) empty() bool { return len(ix.old.entries) == 0 && len(ix.young.entries) == 0 }

// match is a needle found at buf[start:end].
type match struct {
	start, end int
	needle     *needle
}

// scan appends to found every occurrence of every needle in buf. It asks the
// clock now and then, and stops when time is over.
func (ix *index) scan(buf []byte, c *clock, found []match) []match {
	if ix.empty() {
		return found
	}
	filter, shift := ix.filter, ix.shift
	const chunk = stride * 1 << 15
	for lo := 0; lo+gramLen <= len(buf); lo += chunk {
		if c.over() {
			return found
		}
		hi := min(lo+chunk, len(buf)-gramLen+1)
		for p := lo; p < hi; p += stride {
			g := binary.LittleEndian.Uint32(buf[p:])
			h := gramHash(g) >> shift
			if filter[h>>6]&(1<<(h&63)) != 0 {
				found = ix.old.verify(buf, p, g, c, found)
				found = ix.young.verify(buf, p, g, c, found)
			}
		}
	}
	return found
}

func (t *table) verify(buf []byte, p int, g uint32, c *clock, found []match) []match {
	for e := t.slot(g).head; e != 0; {
		en := &t.entries[e-1]
		e = en.next
		n := &t.needles[en.needle]
		start := p - int(en.off)
		end := start + len(n.text)
		if start < 0 || end > len(buf) {
			continue
		}
		if c.work(len(n.text)) {
			return found
		}
		if string(buf[start:end]) == n.text {
			found = append(found, match{start, end, n})
		}
	}
	return found
}
