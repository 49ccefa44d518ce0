package main

import (
	"fmt"
	"io"
	"os"

	agefile "filippo.io/age"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"countersign/audit"
)

// bodyFlags say whether bodies are shown, and what opens sealed ones.
type bodyFlags struct {
	show       bool
	identities []string
}

func (f *bodyFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.show, "bodies", false, "the masked bodies of requests and answers, too, each checked against its entry")
	cmd.Flags().StringSliceVar(&f.identities, "identity", nil, "file with an SSH private key, or an identity of age, that opens sealed bodies; implies --bodies")
}

// wanted tells whether any are to be shown.
func (f *bodyFlags) wanted() bool { return f.show || len(f.identities) > 0 }

func (f *bodyFlags) open() (all []agefile.Identity, err error) {
	for _, path := range f.identities {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("--identity: %w", err)
		}
		ids, err := audit.ParseIdentities(b, func() ([]byte, error) {
			fmt.Fprintf(os.Stderr, "passphrase of %s: ", path)
			defer fmt.Fprintln(os.Stderr)
			return term.ReadPassword(int(os.Stdin.Fd()))
		})
		if err != nil {
			return nil, fmt.Errorf("--identity %s: %w", path, err)
		}
		all = append(all, ids...)
	}
	return all, nil
}

// print prints the bodies of a story's entries. It returns errFound if one is
// not what its entry says.
func (f *bodyFlags) print(out io.Writer, r *reading, s story) error {
	ids, err := f.open()
	if err != nil {
		return err
	}
	var shelves []*audit.Shelf
	for _, repo := range r.repos {
		shelves = append(shelves, audit.NewShelf(objects(repo)))
	}
	wrong := false
	for _, found := range s.Entries {
		e := found.Entry
		for _, ref := range e.Bodies {
			fmt.Fprintf(out, "\n%s of %s, %d bytes: ", safe(ref.Of), safe(found.ID()), ref.Size)
			var shelf *audit.Shelf
			var state audit.BodyState
			var why, err error
			for _, shelf = range shelves { // it stays where its run began
				if state, why, err = audit.CheckBody(shelf, found.Origin, e.Time, ref, ids...); err != nil {
					return err
				}
				if state != audit.BodyGone {
					break
				}
			}
			switch state {
			case audit.BodyUnkept:
				fmt.Fprintf(out, "not kept (%s)\n", safe(ref.Kept))
			case audit.BodyGone:
				fmt.Fprintln(out, "not here: erased, expired, not published yet, or this clone has no branch bodies/…")
			case audit.BodySealed:
				fmt.Fprintln(out, "sealed; --identity opens it:", safe(why.Error()))
			case audit.BodyWrong:
				wrong = true
				fmt.Fprintln(out, "WRONG, AND NOT SHOWN:", safe(why.Error()))
			case audit.BodyWhole:
				text, err := shelf.Open(found.Origin, e.Time, ref, ids...)
				if err != nil {
					return err
				}
				fmt.Fprintln(out, "it is the one that the entry names")
				barred(out, visible(string(text)))
			}
		}
	}
	if wrong {
		return errFound
	}
	return nil
}
