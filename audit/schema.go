package audit

import _ "embed" // of the schema

// EntrySchema is the published JSON Schema (draft 2020-12) of an entry, for
// programs that read the record. It accepts every line that Decode accepts and
// that this version writes, and refuses what it can of the rest: it cannot see
// the order and the spelling, which Decode holds lines to as well.
//
//go:embed entry.schema.json
var EntrySchema string
