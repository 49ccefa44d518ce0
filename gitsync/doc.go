// Package gitsync brings Git in and out: policy comes in as verified
// snapshots, the record goes out as signed commits on branches that only grow.
//
// What it promises:
//
//   - A [Snapshot] is a commit whose signature chain was checked against keys
//     that the operator trusts: every first-parent commit since the last
//     accepted one, or the annotated tag that the reference names. Only
//     descendants of the last accepted commit follow it; going back or
//     sideways takes an explicit reset. What fails is a [*Rejected], and
//     changes nothing on disk.
//   - Git says nothing about commits on the other side of a merge: the merge
//     commit's own signature vouches for them. Who lets the Git host merge
//     lets the host's key vouch, and must list that key; rebase merges are
//     signed by nobody and do not pass.
//   - A [Repo] appends. A branch moves only by compare-and-swap from the commit
//     that the caller named, locally and on the remote; nothing is forced. The
//     one exception are branches under bodies/: [Repo.Rewrite] writes them anew,
//     and on the remote they replace exactly what stood here before.
//   - Nothing is shelled out to, except for file URLs, which stock Git serves.
//     No credential appears in an error.
//
// Objects are written and read raw. The worktree is never used: it costs time
// in proportion to the tree, and it runs the repository's own filters.
package gitsync
