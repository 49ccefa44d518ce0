// Package audit keeps the record: what every request asked, which policy
// decided it, and what became of it.
//
// It promises:
//
//   - Append returns only when the entry is durable in the local journal, or
//     with an error; after an error of the disk nothing is accepted until a
//     new file is durable. What cannot be recorded must not happen.
//   - What is in the journal reaches Git, once and in order: a batch becomes a
//     commit that carries a signed checkpoint (c2sp.org/tlog-checkpoint) of the
//     RFC 6962 tree over all lines of this incarnation. A crash at any moment
//     neither loses, doubles nor forks what was acknowledged.
//   - Verify, offline, with public keys only, finds any edit, reorder, gap,
//     insertion or fork, and any cut before the newest checkpoint that an
//     anchor holds, and names the first entry that does not hold. It cannot
//     show that the holder of both keys rewrote what no anchor had seen.
//   - Masked bodies are kept apart from the log, which has their salted digests:
//     they can be erased, and the log still verifies.
//
// The parts: Entry and its encoding, Decode; Journal (one incarnation, being
// written) and Past (earlier ones, on the same disk). From either of them
// Publisher takes the log to a Store, and Bodies the bodies, each a Part of an
// Outlet, which pushes; Eraser drops bodies. Rotate has an old key name its
// successor, Rolled leads to the next repository. What others hold of a log:
// Neighbours (other enforcers), Quorum (witnesses). From a Repository, which is
// a copy of the record, Verify checks all of it, Prove one entry, and CheckBody
// a body; Replay decides it again; Line and Show are for people.
package audit
