package mask

import "math"

// An outline tells which brackets of a text open a JSON object or array that is
// closed as it should be. Whether one does depends on what follows it, and on
// nothing before; so what is found out about a bracket holds for each value that
// it is a part of, and no character is read more than twice: once as what is
// between brackets, once as a part of a string.
type outline struct {
	tree
	index  []int32 // of shapes, from 1, by place in the text; 0: not looked at
	shapes []shape
	open   []opened
	clock  *clock
}

// shape is what is known of a bracket.
type shape struct {
	end    int32 // behind what closes it; 0: nothing does
	height int32 // how many values stand one in the other below it
	items  int32 // how many it is, with itself
}

// opened is a bracket on the way from one to what closes it.
type opened struct{ at, height, items int32 }

func newOutline(text []byte, c *clock) *outline {
	return &outline{tree: tree{raw: text}, index: make([]int32, len(text)), clock: c}
}

// opens tells whether a bracket at i opens a value that a tree can hold.
func (o *outline) opens(i int) bool {
	if o.index[i] == 0 {
		o.look(i)
	}
	s := o.shapes[o.index[i]-1]
	return s.end > 0 && s.height <= maxDepth && s.items <= maxTokens
}

// full tells that there are more brackets than memory is had for.
func (o *outline) full() bool { return len(o.shapes)+len(o.open) > maxTokens }

// look finds the shape of the bracket at i, and of all that it meets on the way:
// what is still open when it stops is closed by nothing.
func (o *outline) look(i int) {
	o.open = append(o.open[:0], opened{at: int32(i), items: 1})
	from, empty := i, true // empty: nothing stands in the bracket yet
	i++
	for ok := true; ok && len(o.open) > 0 && !o.full(); {
		i, empty, ok = o.next(i, empty)
	}
	for _, b := range o.open {
		o.note(b, 0)
	}
	o.open = o.open[:0]
	o.clock.work(i - from)
}

// next reads one value of the innermost bracket, or what closes it, or what
// opens another. It returns where it stopped, and whether all was as it should.
func (o *outline) next(i int, empty bool) (int, bool, bool) {
	top := &o.open[len(o.open)-1]
	if i = o.space(i); i >= len(o.raw) {
		return i, false, false
	}
	if o.raw[i] == o.raw[top.at]+2 { // of [ it is ], of { it is }
		return o.shut(i), false, true
	}
	if !empty {
		if o.raw[i] != ',' {
			return i, false, false
		}
		i = o.space(i + 1)
	}
	if o.raw[top.at] == '{' {
		var ok bool
		if i, ok = o.name(i); !ok {
			return i, false, false
		}
	}
	if i >= len(o.raw) {
		return i, false, false
	}
	if c := o.raw[i]; c != '{' && c != '[' {
		end, ok := o.scalar(i)
		top.holds(0, 1)
		return end, false, ok
	}
	if o.index[i] == 0 {
		o.open = append(o.open, opened{at: int32(i), items: 1})
		return i + 1, true, true
	}
	s := o.shapes[o.index[i]-1]
	if s.end == 0 {
		return i, false, false
	}
	top.holds(s.height, s.items)
	return int(s.end), false, true
}

// holds counts a value in the bracket.
func (b *opened) holds(height, items int32) {
	b.height = max(b.height, height+1)
	b.items += min(items, math.MaxInt32-b.items)
}

// shut closes the innermost bracket by what stands at i.
func (o *outline) shut(i int) int {
	n := len(o.open) - 1
	b := o.open[n]
	o.open = o.open[:n]
	o.note(b, int32(i)+1)
	if n > 0 {
		o.open[n-1].holds(b.height, b.items)
	}
	return i + 1
}

func (o *outline) note(b opened, end int32) {
	o.shapes = append(o.shapes, shape{end, b.height, b.items})
	o.index[b.at] = int32(len(o.shapes))
}

// name reads the name of a member with its colon, and returns where its value
// begins.
func (o *outline) name(i int) (int, bool) {
	if i >= len(o.raw) || o.raw[i] != '"' {
		return i, false
	}
	i, ok := o.str(i)
	if i = o.space(i); !ok || i >= len(o.raw) || o.raw[i] != ':' {
		return i, false
	}
	return o.space(i + 1), true
}

func (o *outline) scalar(i int) (int, bool) {
	switch o.raw[i] {
	case '"':
		return o.str(i)
	case 't':
		return o.word(i, "true")
	case 'f':
		return o.word(i, "false")
	case 'n':
		return o.word(i, "null")
	}
	return o.number(i)
}
