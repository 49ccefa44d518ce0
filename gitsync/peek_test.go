package gitsync

import (
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"countersign/fixtures/githost"
)

// Others' newest commits are seen, with none of their files: from a host that
// leaves out what was not asked for, and from one that cannot.
func TestPeek(t *testing.T) {
	for _, filters := range []string{"true", "false"} {
		t.Run("filters "+filters, func(t *testing.T) {
			remote := filepath.Join(t.TempDir(), "remote.git")
			if err := githost.Init(remote); err != nil {
				t.Fatal(err)
			}
			git(t, remote, "config", "uploadpack.allowFilter", filters)
			writer := audit(t, filepath.Join(t.TempDir(), "writer"), remote, sshKey(t, "w@example.com").PEM())
			reader := audit(t, filepath.Join(t.TempDir(), "reader"), remote, sshKey(t, "r@example.com").PEM())
			peek := func(wants ...Want) []Seen {
				t.Helper()
				seen, err := reader.Peek(t.Context(), func(map[string]string) []Want { return wants })
				if err != nil {
					t.Fatal(err)
				}
				return seen
			}
			if seen := peek(); len(seen) != 0 {
				t.Errorf("an empty remote: %+v", seen)
			}
			const one, two = "audit/one/r1/2026-03", "audit/two/r1/2026-03"
			big := make([]byte, 3<<20)
			if _, err := rand.Read(big); err != nil {
				t.Fatal(err)
			}
			first := commit(t, writer, one, "", "entries/000/big", string(big))
			tip := first
			var made []string
			for i := range 30 {
				tip = commit(t, writer, one, tip, fmt.Sprintf("entries/000/%d", i), strings.Repeat("x", 5000))
				made = append(made, tip)
			}
			other := commit(t, writer, two, "", "entries/000/0", "{}\n")
			if err := push(writer, t.Context(), one, two); err != nil {
				t.Fatal(err)
			}
			git(t, remote, "gc", "-q") // commits may be deltas of each other now

			seen, err := reader.Peek(t.Context(), func(tips map[string]string) []Want {
				if tips[one] != tip || tips[two] != other || len(tips) != 2 {
					t.Errorf("tips: %v", tips)
				}
				return []Want{{Branch: one}, {Branch: two, Since: other}, {Branch: "audit/none/r1/2026-03"}}
			})
			if err != nil || len(seen) != 3 {
				t.Fatalf("%+v, %v", seen, err)
			}
			for _, s := range seen {
				switch s.Branch {
				case one:
					if len(s.Commits) != 1 || s.Commits[0].Hash != tip || !strings.HasPrefix(s.Commits[0].Message, "1 call\n") || s.Err != nil {
						t.Errorf("the tip: %+v", s)
					}
				case two:
					if len(s.Commits) != 0 || s.Err != nil {
						t.Errorf("nothing new: %+v", s)
					}
				default:
					if !errors.Is(s.Err, ErrNotFound) {
						t.Errorf("a branch that is not there: %+v", s)
					}
				}
			}
			s := peek(Want{Branch: one, Since: first})[0]
			var hashes []string
			for _, c := range s.Commits {
				hashes = append(hashes, c.Hash)
			}
			slices.Reverse(made)
			if !slices.Equal(hashes, made) || s.Err != nil {
				t.Errorf("since the first: %d commits, %v", len(hashes), s.Err)
			}
			if names, err := reader.Branches(""); err != nil || len(names) != 0 {
				t.Errorf("it kept %v, %v", names, err)
			}
			// Taken back, and written anew.
			git(t, remote, "update-ref", "refs/heads/"+one, first)
			if s := peek(Want{Branch: one, Since: tip})[0]; !errors.Is(s.Err, ErrRejected) {
				t.Errorf("taken back: %+v", s)
			}
			if s := peek(Want{Branch: two, Since: tip})[0]; !errors.Is(s.Err, ErrRejected) {
				t.Errorf("another history: %+v", s)
			}
		})
	}
}
