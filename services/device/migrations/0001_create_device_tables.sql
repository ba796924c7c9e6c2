-- A phone's store. Times are microseconds since the Unix epoch, UTC, by the phone's clock unless said
-- otherwise. Ids are UUIDv7 in 16 bytes.

-- Who this phone is; one row, from enrolment on.
CREATE TABLE enrolment (
  singleton             INTEGER PRIMARY KEY,
  region_id             TEXT NOT NULL, -- slug of the region that took the phone
  endpoint              TEXT NOT NULL, -- host:port of its server
  authority_certificate BLOB NOT NULL, -- DER, the one whose hash the enrolment code named
  response              BLOB NOT NULL, -- wuling.device.v1.EnrolResponse as it came
  CONSTRAINT enrolment_once CHECK (singleton = 1)
) STRICT;

-- How far the talk with the region has come; always one row.
CREATE TABLE sync_state (
  singleton       INTEGER PRIMARY KEY,
  device_seq      INTEGER NOT NULL,    -- last number given to an operation
  epoch           BLOB,                -- newest epoch the region has shown; null before enrolment
  feed_seq        INTEGER NOT NULL,    -- last change read in that epoch, 0 at its start
  last_sync_at    INTEGER,             -- when the region last answered; null before the first time
  clock_offset_ms INTEGER NOT NULL,    -- server clock minus phone clock, as last measured
  CONSTRAINT sync_state_once CHECK (singleton = 1)
) STRICT;
INSERT INTO sync_state (singleton, device_seq, feed_seq, clock_offset_ms) VALUES (1, 0, 0, 0);

-- What was done on this phone: the outbox while unsettled, then kept for 35 days.
CREATE TABLE operation (
  device_seq   INTEGER PRIMARY KEY,    -- counts the operations; never given twice
  operation_id BLOB NOT NULL,
  record_id    BLOB NOT NULL,
  recorded_at  INTEGER NOT NULL,
  urgent       INTEGER NOT NULL,       -- 1 when it is about a call for help
  standing     INTEGER NOT NULL,       -- device::Standing
  asked_at     INTEGER,                -- when the region last said HELD or QUARANTINED; null: ask at once
  settled_at   INTEGER,                -- region's clock where it told the time; null while unsettled
  encoded      BLOB NOT NULL,          -- wuling.device.v1.Operation
  answer       BLOB,                   -- wuling.device.v1.OperationResult, for CONFLICT and REJECTED
  CONSTRAINT operation_id_unique UNIQUE (operation_id),
  CONSTRAINT operation_settled_dated CHECK ((standing >= 6) = (settled_at IS NOT NULL))
) STRICT;
CREATE INDEX operation_unsettled ON operation (device_seq) WHERE settled_at IS NULL;
CREATE INDEX operation_urgent ON operation (device_seq) WHERE settled_at IS NULL AND urgent = 1;
CREATE INDEX operation_of_record ON operation (record_id, device_seq) WHERE settled_at IS NULL;
CREATE INDEX operation_by_standing ON operation (standing, device_seq);
CREATE INDEX operation_settled ON operation (settled_at) WHERE settled_at IS NOT NULL;

-- What an operation rests on.
CREATE TABLE operation_parent (
  child_seq INTEGER NOT NULL REFERENCES operation (device_seq) ON DELETE CASCADE,
  parent_id BLOB NOT NULL,             -- an operation of this phone or of another
  PRIMARY KEY (child_seq, parent_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX operation_parent_by_parent ON operation_parent (parent_id, child_seq);

-- The newest known revision of each record of the region.
CREATE TABLE record (
  record_id      BLOB NOT NULL PRIMARY KEY,
  kind           INTEGER NOT NULL,     -- domain::kernel::Kind
  revision_t     INTEGER NOT NULL,     -- ownership transfers so far
  revision_epoch BLOB NOT NULL,        -- epoch of the owner that made the revision
  revision_n     INTEGER NOT NULL,     -- 1 at birth
  region_epoch   BLOB NOT NULL,        -- epoch in which the region said so; a newer one overrules
  expires_at     INTEGER NOT NULL,     -- deleted at the latest, region's clock
  encoded        BLOB                  -- wuling.kernel.v1.Record; null while only the revision is known
) STRICT, WITHOUT ROWID;
CREATE INDEX record_by_kind ON record (kind, record_id);
CREATE INDEX record_by_expiry ON record (expires_at);

-- The newest view of each neighbour's record under each agreement.
CREATE TABLE view (
  record_id      BLOB NOT NULL,
  agreement_id   BLOB NOT NULL,
  kind           INTEGER NOT NULL,     -- domain::kernel::Kind
  revision_t     INTEGER NOT NULL,     -- 0 when it was withdrawn before it was seen
  revision_epoch BLOB NOT NULL,        -- empty when it was withdrawn before it was seen
  revision_n     INTEGER NOT NULL,     -- 0 when it was withdrawn before it was seen
  share_n        INTEGER NOT NULL,     -- counts what was shown under the agreement
  region_epoch   BLOB NOT NULL,        -- epoch in which the region said so; a newer one overrules
  expires_at     INTEGER NOT NULL,     -- deleted at the latest, region's clock
  encoded        BLOB,                 -- wuling.device.v1.NeighbourView; null when withdrawn
  PRIMARY KEY (record_id, agreement_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX view_by_kind ON view (kind, record_id);
CREATE INDEX view_by_expiry ON view (expires_at);
