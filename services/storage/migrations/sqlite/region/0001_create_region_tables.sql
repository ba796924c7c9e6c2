-- A region's store. Times are microseconds since the Unix epoch, UTC. Ids are UUIDv7 in 16 bytes.

-- Facts about the store itself.
CREATE TABLE store_fact (
  name  TEXT NOT NULL PRIMARY KEY, -- region_id, epoch
  value BLOB NOT NULL              -- the fact, as bytes
) STRICT, WITHOUT ROWID;

-- The present revision of every record this region owns. A change moves the row to the end of the feed.
CREATE TABLE record (
  feed_seq        INTEGER PRIMARY KEY, -- place in the feed, shared with view
  record_id       BLOB NOT NULL,
  kind            INTEGER NOT NULL,    -- domain::kernel::Kind
  revision_t      INTEGER NOT NULL,    -- ownership transfers so far
  revision_epoch  BLOB NOT NULL,       -- epoch of the owner that made the revision
  revision_n      INTEGER NOT NULL,    -- 1 at birth
  received_at     INTEGER NOT NULL,    -- when this revision was taken
  retention_class INTEGER NOT NULL,    -- domain::kernel::RetentionClass
  expires_at      INTEGER NOT NULL,    -- deleted at the latest
  encoded         BLOB NOT NULL,       -- wuling.kernel.v1.Record; opaque here
  CONSTRAINT record_id_unique UNIQUE (record_id),
  CONSTRAINT record_revision_positive CHECK (revision_n >= 1)
) STRICT;

-- Revisions that were replaced.
CREATE TABLE record_history (
  record_id      BLOB NOT NULL,
  revision_t     INTEGER NOT NULL,
  revision_epoch BLOB NOT NULL,
  revision_n     INTEGER NOT NULL,
  replaced_at    INTEGER NOT NULL,     -- when the next revision was taken
  expires_at     INTEGER NOT NULL,
  encoded        BLOB NOT NULL,        -- wuling.kernel.v1.Record; opaque here
  PRIMARY KEY (record_id, revision_t, revision_epoch, revision_n)
) STRICT, WITHOUT ROWID;

-- Every operation that was answered, so that a repeat has no effect.
CREATE TABLE operation (
  operation_id BLOB NOT NULL PRIMARY KEY,
  digest       BLOB NOT NULL,          -- first 16 bytes of SHA-256 of the operation: tells a repeat from a reuse
  device_id    BLOB,                   -- null for a call from the desk
  record_id    BLOB NOT NULL,
  outcome      INTEGER NOT NULL,       -- domain outcome: 1 applied, 4 rejected, 5 held, 6 quarantined
  reason       INTEGER NOT NULL,       -- domain::kernel::Reason, 0 when there is none
  revision_n   INTEGER NOT NULL,       -- revision it made, 0 when none
  received_at  INTEGER NOT NULL,
  encoded      BLOB                    -- wuling.device.v1.Operation, kept only while held or quarantined
) STRICT, WITHOUT ROWID;

-- What share() has to remember: what was shown of a record under an agreement.
CREATE TABLE shown (
  record_id    BLOB NOT NULL,
  agreement_id BLOB NOT NULL,
  share_n      INTEGER NOT NULL,       -- counts what was shown
  lane         INTEGER NOT NULL,       -- domain::kernel::Lane it went by
  standing     INTEGER NOT NULL,       -- 1 shown, 2 shown for the last time, 3 withdrawn
  PRIMARY KEY (record_id, agreement_id)
) STRICT, WITHOUT ROWID;

-- Streams this region writes.
CREATE TABLE stream (
  stream_no INTEGER PRIMARY KEY,
  stream_id BLOB NOT NULL,             -- domain::stream::StreamId::to_bytes
  last_seq  INTEGER NOT NULL,          -- last entry numbered
  last_h    BLOB NOT NULL,             -- chain hash there
  CONSTRAINT stream_id_unique UNIQUE (stream_id)
) STRICT;

-- Entries of the streams this region writes. Each row is also the disclosure entry of its view.
CREATE TABLE outbox (
  stream_no      INTEGER NOT NULL,
  seq            INTEGER NOT NULL,     -- from 1, without holes
  h              BLOB NOT NULL,        -- chain hash after this entry
  salt           BLOB NOT NULL,        -- 16 random bytes
  entry          BLOB NOT NULL,        -- wuling.exchange.v1.Entry; opaque here
  record_id      BLOB,                 -- null for a control entry
  revision_t     INTEGER,
  revision_epoch BLOB,
  revision_n     INTEGER,
  share_n        INTEGER,
  view_sha256    BLOB,                 -- of the encoded view; null for what is no view
  numbered_at    INTEGER NOT NULL,
  expires_at     INTEGER NOT NULL,
  PRIMARY KEY (stream_no, seq)
) STRICT, WITHOUT ROWID;

-- The newest receipt of every party for the streams this region writes.
CREATE TABLE receipt (
  stream_no    INTEGER NOT NULL,
  party        TEXT NOT NULL,          -- region id
  seq          INTEGER NOT NULL,       -- applied up to here
  h            BLOB NOT NULL,
  parked_count INTEGER NOT NULL,
  received_at  INTEGER NOT NULL,
  signed       BLOB NOT NULL,          -- wuling.kernel.v1.SignedObject; the proof
  PRIMARY KEY (stream_no, party)
) STRICT, WITHOUT ROWID;

-- Streams this region receives. The row is cursor and receipt in one.
CREATE TABLE inbox (
  inbox_no     INTEGER PRIMARY KEY,
  stream_id    BLOB NOT NULL,          -- domain::stream::StreamId::to_bytes
  applied_seq  INTEGER NOT NULL,       -- applied up to here
  applied_h    BLOB NOT NULL,
  parked_count INTEGER NOT NULL,
  CONSTRAINT inbox_stream_unique UNIQUE (stream_id)
) STRICT;

-- Views of the neighbours' records, one row an entry.
CREATE TABLE view (
  feed_seq       INTEGER PRIMARY KEY,  -- place in the feed, shared with record
  inbox_no       INTEGER NOT NULL,     -- the stream it came by
  seq            INTEGER NOT NULL,     -- its place there
  record_id      BLOB NOT NULL,
  birth_region   TEXT NOT NULL,        -- with record_id the record's identity
  kind           INTEGER NOT NULL,
  revision_t     INTEGER NOT NULL,
  revision_epoch BLOB NOT NULL,
  revision_n     INTEGER NOT NULL,
  share_n        INTEGER NOT NULL,
  withdrawn      INTEGER NOT NULL,     -- 1: the record is no longer shown (tombstone)
  current        INTEGER NOT NULL,     -- 1: was the newest of its record and agreement when it came
  view_sha256    BLOB,                 -- of the encoded view; null for a withdrawal
  expires_at     INTEGER NOT NULL,
  encoded        BLOB NOT NULL,        -- wuling.device.v1.NeighbourView or Withdrawal; opaque here
  CONSTRAINT view_entry_unique UNIQUE (record_id, inbox_no, seq)
) STRICT;

-- Entries that were verified but could not be used.
CREATE TABLE parked (
  inbox_no  INTEGER NOT NULL,
  seq       INTEGER NOT NULL,
  reason    INTEGER NOT NULL,          -- domain::kernel::Reason
  salt      BLOB NOT NULL,
  entry     BLOB NOT NULL,
  parked_at INTEGER NOT NULL,
  PRIMARY KEY (inbox_no, seq)
) STRICT, WITHOUT ROWID;

-- Enrolled phones and desks.
CREATE TABLE device (
  device_id   BLOB NOT NULL PRIMARY KEY,
  role        INTEGER NOT NULL,        -- domain::kernel::Role
  unit        TEXT NOT NULL,           -- code of the unit it belongs to
  public_key  BLOB NOT NULL,           -- P-256, SEC1 uncompressed, 65 bytes
  model       TEXT NOT NULL,
  enrolled_at INTEGER NOT NULL,
  expires_at  INTEGER NOT NULL,        -- end of its certificate
  revoked_at  INTEGER                  -- null while it may work
) STRICT, WITHOUT ROWID;

-- Enrolment codes that were issued.
CREATE TABLE enrolment_code (
  code_sha256 BLOB NOT NULL PRIMARY KEY, -- the code itself is not kept
  role        INTEGER NOT NULL,
  unit        TEXT NOT NULL,
  expires_at  INTEGER NOT NULL,
  device_id   BLOB                     -- the device it became; null while unused
) STRICT, WITHOUT ROWID;

-- Who watches the feed, each time the set changes.
CREATE TABLE watcher_set (
  set_no   INTEGER PRIMARY KEY,
  since_at INTEGER NOT NULL,
  watchers TEXT NOT NULL               -- JSON array of {device_id, purpose}
) STRICT;

-- Every look: insert only, chained.
CREATE TABLE disclosure (
  disclosure_no INTEGER PRIMARY KEY,
  disclosed_at  INTEGER NOT NULL,
  device_id     BLOB,                  -- who read; null for the set of watchers
  set_no        INTEGER,               -- the set of watchers; null for one reader
  purpose       INTEGER NOT NULL,      -- domain::kernel::Purpose, 0 for a set (each has its own)
  method        TEXT NOT NULL,         -- the call
  feed_from     INTEGER NOT NULL,      -- first change shown
  feed_to       INTEGER NOT NULL,      -- last change shown
  count         INTEGER NOT NULL,      -- records shown
  hash          BLOB NOT NULL          -- SHA-256 over the row before's hash and this row
) STRICT;
