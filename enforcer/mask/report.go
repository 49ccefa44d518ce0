package mask

// Hit says that something was masked: what found it, where, how often. It
// never holds a value.
type Hit struct {
	Detector string // "known", "key", or a name out of Detectors
	Label    string // known: the label given to Add; key: the key's name
	Place    string // JSON path such as result.content[0].text; empty in plain text
	Count    int
}

// maxPlaces bounds a report: what is masked behind that many places is counted
// under elsewhere.
const (
	maxPlaces = 100
	elsewhere = "(elsewhere)"
)

// Report lists what was masked, in document order. Its zero value says that
// nothing was.
type Report struct {
	Hits []Hit
}

// Masked tells whether anything was.
func (r Report) Masked() bool { return len(r.Hits) > 0 }

func (r *Report) add(h Hit) {
	for i := range r.Hits {
		if o := &r.Hits[i]; o.Detector == h.Detector && o.Label == h.Label && o.Place == h.Place {
			o.Count += h.Count
			return
		}
	}
	r.Hits = append(r.Hits, h)
}
