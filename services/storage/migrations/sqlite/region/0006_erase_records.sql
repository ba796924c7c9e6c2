-- Records that were erased: what stays of them here, and who has confirmed that it erased them too.

CREATE TABLE erasure (
  feed_seq  INTEGER PRIMARY KEY,  -- place in the feed, shared with record and view
  record_id BLOB NOT NULL,
  kind      INTEGER NOT NULL,     -- domain::kernel::Kind
  erased_at INTEGER NOT NULL,
  reason    INTEGER NOT NULL,     -- domain::erasure::EraseReason
  device_id BLOB,                 -- who asked
  encoded   BLOB NOT NULL,        -- wuling.device.v1.Withdrawal; opaque here
  CONSTRAINT erasure_record_unique UNIQUE (record_id)
) STRICT;

-- Streams that held it.
CREATE TABLE erasure_stream (
  feed_seq  INTEGER NOT NULL,     -- the erasure
  stream_no INTEGER NOT NULL,
  from_seq  INTEGER NOT NULL,     -- first of its entries
  to_seq    INTEGER NOT NULL,     -- last of them
  said_seq  INTEGER NOT NULL,     -- the entry that says so: a receipt up to here confirms it
  PRIMARY KEY (feed_seq, stream_no)
) STRICT, WITHOUT ROWID;

-- Gateways that have said that they deleted each packaging of those entries.
CREATE TABLE erasure_gateway (
  feed_seq   INTEGER NOT NULL,
  stream_no  INTEGER NOT NULL,
  gateway_id TEXT NOT NULL,
  PRIMARY KEY (feed_seq, stream_no, gateway_id)
) STRICT, WITHOUT ROWID;

-- An id is not given to another record.
CREATE TRIGGER record_not_erased BEFORE INSERT ON record
WHEN EXISTS (SELECT 1 FROM erasure WHERE record_id = NEW.record_id)
BEGIN
  SELECT RAISE(ABORT, 'the record was erased');
END;

-- Operations on a record that wait.
CREATE INDEX operation_waiting ON operation (record_id) WHERE encoded IS NOT NULL;
