package mask

import "slices"

// A family is a part of the table, as reports and docs/masking.md show it.
type family struct {
	name      string
	detectors []detector
}

// families is all that is looked for. To add a format, add a line to one of
// them: the tests make their samples from it.
var families = []family{
	{"code, packages and builds", codeFormats},
	{"clouds, data and networks", cloudFormats},
	{"language models", modelFormats},
	{"applications", appFormats},
	{"key material and hashes", keyFormats},
	{"key blocks", keyBlocks},
	{"headers", headers},
	{"URLs and files", files},
	{"keyed values", keyedValues},
}

// detectors is the table in one piece.
var detectors = func() (all []detector) {
	for _, f := range families {
		for _, d := range f.detectors {
			d.family = f.name
			all = append(all, d)
		}
	}
	number := map[[2]int]int{}
	for i := range all {
		for n := range all[i].parts {
			p := &all[i].parts[n]
			key := [2]int{int(p.set), min(n, 8)}
			if _, ok := number[key]; !ok {
				number[key] = len(number)
			}
			p.memo = number[key]
		}
	}
	if len(number) > maxRuns {
		panic("mask: more kinds of runs than places for them")
	}
	return all
}()

// Detectors names what is looked for, in order.
func Detectors() []string {
	var names []string
	for i := range detectors {
		names = append(names, detectors[i].name)
	}
	slices.Sort(names)
	return names
}
