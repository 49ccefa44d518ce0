package index

// schemaVersion changes with schema, or with what is put in. An index of another
// version is built anew.
const schemaVersion = 1

// application is the application_id of the file: "CSix".
const application = 0x43536978

// schema of the index. It is documented in docs/record.md for who reads it with
// the stock sqlite3: view entries has a row for each entry of the record, in
// words. Times are in microseconds since 1970, UTC.
//
// Text that comes again and again is in word, once for each column that it
// stands in, and what entries have in common is in combo, once for each
// combination, so that a year of entries stays small, and a condition is held
// against combinations first. decision and rules of an outcome are those of its
// intent, which has them in the record.
//
// An entry's line is not here. batch says which file of the clone it stands in,
// and at which line, from 0.
//
// tally has the calls that ended on a day. calls is a sequence of unsigned
// varints (encoding/binary): a combination's id, how many values were masked, how
// many calls there are, and how long each took, in microseconds; and so on.
const schema = `
PRAGMA application_id = 0x43536978;
PRAGMA user_version = 1;
CREATE TABLE branch (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,    -- audit/<enforcer>/<incarnation>/<yyyy-mm>
  tip TEXT NOT NULL,            -- the commit up to which it was read
  unread INTEGER NOT NULL,      -- lines that are no entries, or are there twice
  first_unread TEXT NOT NULL    -- where the first of them is, and what is wrong with it
);
CREATE TABLE batch (
  id INTEGER PRIMARY KEY,
  branch INTEGER NOT NULL,
  path TEXT NOT NULL,
  blob TEXT NOT NULL,           -- Git's hash of the file
  first INTEGER NOT NULL        -- earliest time of an entry in it
);
CREATE TABLE word (
  id INTEGER PRIMARY KEY,
  col TEXT NOT NULL,            -- the column of combo or entry
  text TEXT NOT NULL,           -- of rules: a JSON array
  UNIQUE (col, text)
);
CREATE TABLE combo (
  id INTEGER PRIMARY KEY,
  kind INTEGER, policy INTEGER, issuer INTEGER, sub INTEGER, client INTEGER, server INTEGER, method INTEGER, tool INTEGER,
  decision INTEGER, rules INTEGER, status INTEGER
);
CREATE TABLE entry (
  time INTEGER NOT NULL,
  branch INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  batch INTEGER NOT NULL,
  at INTEGER NOT NULL,
  combo INTEGER NOT NULL,
  call TEXT, approval TEXT,
  holder INTEGER, session INTEGER, reason INTEGER, lease INTEGER,
  took INTEGER,                 -- microseconds
  masked INTEGER,               -- values
  PRIMARY KEY (time, branch, seq)
) WITHOUT ROWID;
CREATE INDEX entry_call ON entry (call) WHERE call IS NOT NULL;
CREATE INDEX entry_approval ON entry (approval) WHERE approval IS NOT NULL;
CREATE INDEX entry_session ON entry (session) WHERE session IS NOT NULL;
CREATE INDEX entry_holder ON entry (holder) WHERE holder IS NOT NULL;
CREATE INDEX entry_lease ON entry (lease) WHERE lease IS NOT NULL;
CREATE TABLE tally (
  id INTEGER PRIMARY KEY,
  day INTEGER NOT NULL,         -- days since 1970
  calls BLOB NOT NULL
);
CREATE INDEX tally_day ON tally (day);
CREATE TABLE approval (
  id TEXT PRIMARY KEY,
  sub INTEGER, client INTEGER, server INTEGER, tool INTEGER,
  asked INTEGER NOT NULL,
  decided INTEGER,              -- when people had approved or denied it, or it ended without
  outcome TEXT,                 -- approved, denied, expired, withdrawn, revoked, break-glass
  people TEXT NOT NULL          -- who voted so: a JSON array
) WITHOUT ROWID;
CREATE TABLE rewritten (at INTEGER NOT NULL, branch TEXT NOT NULL, was TEXT NOT NULL, became TEXT NOT NULL);
CREATE VIEW entries AS
SELECT strftime('%Y-%m-%dT%H:%M:%S', e.time / 1000000, 'unixepoch') || printf('.%06dZ', e.time % 1000000) AS time,
  b.name AS branch, e.seq, e.call, e.approval,
  (SELECT text FROM word WHERE id = c.kind) AS kind,
  (SELECT text FROM word WHERE id = c.policy) AS policy,
  (SELECT text FROM word WHERE id = c.issuer) AS issuer,
  (SELECT text FROM word WHERE id = c.sub) AS sub,
  (SELECT text FROM word WHERE id = c.client) AS client,
  (SELECT text FROM word WHERE id = e.holder) AS holder,
  (SELECT text FROM word WHERE id = e.session) AS session,
  (SELECT text FROM word WHERE id = c.server) AS server,
  (SELECT text FROM word WHERE id = c.method) AS method,
  (SELECT text FROM word WHERE id = c.tool) AS tool,
  (SELECT text FROM word WHERE id = c.decision) AS decision,
  (SELECT text FROM word WHERE id = c.rules) AS rules,
  (SELECT text FROM word WHERE id = e.reason) AS reason,
  (SELECT text FROM word WHERE id = e.lease) AS lease,
  (SELECT text FROM word WHERE id = c.status) AS status,
  e.took / 1000.0 AS ms, e.masked
FROM entry e JOIN branch b ON b.id = e.branch JOIN combo c ON c.id = e.combo;
`
