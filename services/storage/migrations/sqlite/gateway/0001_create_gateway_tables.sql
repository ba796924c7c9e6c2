-- A gateway's store: sealed segments, how far each party is, and the proofs. Times are microseconds
-- since the Unix epoch, UTC. No column here can hold what a record says.

-- Facts about the store itself.
CREATE TABLE store_fact (
  name  TEXT NOT NULL PRIMARY KEY, -- gateway_id
  value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Agreement versions, signed by every party.
CREATE TABLE agreement (
  agreement_id BLOB NOT NULL,
  version      INTEGER NOT NULL,
  sha256       BLOB NOT NULL,      -- of the signed body
  signed       BLOB NOT NULL,      -- wuling.kernel.v1.SignedObject
  PRIMARY KEY (agreement_id, version)
) STRICT, WITHOUT ROWID;

-- Streams, as far as they are stored.
CREATE TABLE stream (
  stream_no INTEGER PRIMARY KEY,
  stream_id BLOB NOT NULL,         -- domain::stream::StreamId::to_bytes
  origin    TEXT NOT NULL,         -- region id
  last_seq  INTEGER NOT NULL,
  last_h    BLOB NOT NULL,
  head      BLOB,                  -- newest signed head, as it came
  CONSTRAINT stream_id_unique UNIQUE (stream_id)
) STRICT;

-- Segments that some party still lacks.
CREATE TABLE segment (
  stream_no INTEGER NOT NULL,
  first_seq INTEGER NOT NULL,
  last_seq  INTEGER NOT NULL,
  h_before  BLOB NOT NULL,         -- chain hash before its first entry
  h_after   BLOB NOT NULL,         -- chain hash after its last entry
  encoded   BLOB NOT NULL,         -- wuling.exchange.v1.Segment, as it came
  stored_at INTEGER NOT NULL,
  PRIMARY KEY (stream_no, first_seq)
) STRICT, WITHOUT ROWID;

-- How far each party has applied a stream: its newest receipt.
CREATE TABLE receipt (
  stream_no   INTEGER NOT NULL,
  party       TEXT NOT NULL,       -- region id
  seq         INTEGER NOT NULL,
  h           BLOB NOT NULL,
  received_at INTEGER NOT NULL,
  signed      BLOB NOT NULL,       -- wuling.kernel.v1.SignedObject, as it came
  PRIMARY KEY (stream_no, party)
) STRICT, WITHOUT ROWID;
