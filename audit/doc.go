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
//
// The parts: Entry and its encoding; Journal (one incarnation, being written)
// and Past (earlier ones, on the same disk); Publisher, from either of them
// to a Store; Verify and VerifyFiles; Replay; Line and Show for people.
package audit
