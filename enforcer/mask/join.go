package mask

// join fills d.joins: for each name (object key or array index) the string
// values that stand under it, in document order. A value split over the text
// of two content blocks, or over a column of rows, is whole there. Of a long
// string only the ends matter, reach bytes each: the rest is in d.values.
func (d *document) join(reach int) {
	d.next = append(d.next[:0], make([]int32, len(d.tokens))...)
	d.chain()
	b := &d.joins
	for i := range d.tokens {
		if d.next[i] <= 0 {
			continue // not the first of several
		}
		for j := int32(i); j > 0 || j == int32(i); {
			t := &d.tokens[j]
			text := d.values.text[t.at : t.at+t.size]
			b.begin(int(j), 0)
			if t.size <= 2*reach {
				b.text = append(b.text, text...)
			} else {
				b.text = append(b.text, text[:reach]...)
				b.separate()
				b.begin(int(j), t.size-reach)
				b.text = append(b.text, text[t.size-reach:]...)
			}
			following := d.next[j]
			d.next[j] = -1 // done
			if following <= 0 {
				break
			}
			j = following
		}
		b.separate()
	}
}

// chain links each string value to the next of its group.
func (d *document) chain() {
	const few = 24
	if len(d.tokens) <= few {
		var last [few]int
		n := 0
	tokens:
		for i := range d.tokens {
			if d.tokens[i].kind != value {
				continue
			}
			for k := range n {
				if d.tokens[last[k]].group == d.tokens[i].group {
					d.next[last[k]] = int32(i)
					last[k] = i
					continue tokens
				}
			}
			last[n] = i
			n++
		}
		return
	}
	last := make(map[uint64]int32)
	for i := range d.tokens {
		if t := &d.tokens[i]; t.kind == value {
			if j, ok := last[t.group]; ok {
				d.next[j] = int32(i)
			}
			last[t.group] = int32(i)
		}
	}
}
