package index

import (
	"errors"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"countersign/audit"
)

// Together makes one repository of those that a record was rolled over, the
// oldest first. A log that rolled has a branch of one name in two of them: so
// the branches of all but the newest are named with a tilde, which no branch's
// name can hold, and the repository's number: audit/prod-1/r1/2026-11~1.
func Together(all []audit.Repository) audit.Repository {
	newest := len(all) - 1
	at := newest // where the last object was found: what is read goes together
	return audit.Repository{
		Branches: func(prefix string) (names []string, err error) {
			for i, r := range all {
				some, err := r.Branches(prefix)
				if err != nil {
					return nil, err
				}
				for _, name := range some {
					if i < newest {
						name += tilde + strconv.Itoa(i+1)
					}
					names = append(names, name)
				}
			}
			return names, nil
		},
		Tip: func(branch string) (string, bool, error) {
			name, number := placed(branch)
			if number > newest {
				number = newest + 1
			}
			return all[number-1].Tip(name)
		},
		Commit: func(hash string) (audit.Commit, error) {
			return anywhere(all, &at, func(r audit.Repository) (audit.Commit, error) { return r.Commit(hash) })
		},
		Tree: func(hash string) ([]audit.Node, error) {
			return anywhere(all, &at, func(r audit.Repository) ([]audit.Node, error) { return r.Tree(hash) })
		},
		Blob: func(hash string) ([]byte, error) {
			return anywhere(all, &at, func(r audit.Repository) ([]byte, error) { return r.Blob(hash) })
		},
	}
}

// tilde stands between a branch and the number of its repository.
const tilde = "~"

// placed takes the name of a branch apart; that of the newest repository, or of
// the only one, has the highest number.
func placed(name string) (branch string, number int) {
	branch, in, ok := strings.Cut(name, tilde)
	if n, err := strconv.Atoi(in); ok && err == nil && n > 0 {
		return branch, n
	}
	return name, math.MaxInt
}

// anywhere reads an object where it is found: it is named by its hash.
func anywhere[T any](all []audit.Repository, at *int, read func(audit.Repository) (T, error)) (T, error) {
	v, err := read(all[*at])
	if err == nil {
		return v, nil
	}
	errs := []error{err}
	for i, r := range slices.Backward(all) {
		if i == *at {
			continue
		}
		if v, err := read(r); err == nil {
			*at = i
			return v, nil
		} else {
			errs = append(errs, err)
		}
	}
	return v, errors.Join(errs...)
}

// byMonth orders branches so that the logs of one time are read one after the
// other, and a log that rolled in its own order.
func byMonth(a, b string) int {
	a, in := placed(a)
	b, of := placed(b)
	if d := strings.Compare(path.Base(a), path.Base(b)); d != 0 {
		return d
	}
	return in - of
}
