// Package witness cosigns the checkpoints of other people's records, and asks
// others to cosign ours (c2sp.org/tlog-witness, c2sp.org/tlog-cosignature).
//
// A cosignature says: as of this time, the largest tree that I have seen of
// this log is this one, and it begins with every other that I have cosigned.
// So whoever demands the cosignatures of a quorum of witnesses can be shown one
// history of a log only, even by somebody who holds the log's own keys, unless
// the witnesses are in it too.
//
// It promises:
//
//   - A [Witness] has the tree that it cosigns on stable storage before the
//     cosignature leaves; it never cosigns two trees of a log of which neither
//     begins with the other, in whatever order requests come and whenever it
//     dies. A lost or restored state directory breaks this promise: such a
//     witness takes a new key.
//   - A [Client] returns within its time limit, with whatever good cosignatures
//     there were by then. Nothing that a witness says gets into a checkpoint,
//     but a cosignature by that witness's key, of that checkpoint, of now.
package witness
