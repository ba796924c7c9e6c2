-- Entries that were numbered together lie together, and what was shown of a record lies with it: a row
-- costs more than what is in it, and a region writes both for every record it shares.

ALTER TABLE outbox RENAME TO outbox_entry;

-- Entries of the streams this region writes, in the runs in which they were numbered. They are also the
-- disclosure entries of their views.
CREATE TABLE outbox (
  stream_no   INTEGER NOT NULL,
  last_seq    INTEGER NOT NULL,        -- last entry of the run
  first_seq   INTEGER NOT NULL,        -- its first; entries are numbered from 1, without holes
  h_before    BLOB,                    -- chain hash before its first; null where the stream begins
  numbered_at INTEGER NOT NULL,
  expires_at  INTEGER NOT NULL,        -- of the entry that expires last
  -- For each entry: chain hash after it (32 bytes), salt (16), when it expires (8, big endian), length (4,
  -- big endian), wuling.exchange.v1.Entry; opaque here.
  entries     BLOB NOT NULL,
  PRIMARY KEY (stream_no, last_seq)
) STRICT, WITHOUT ROWID;

INSERT INTO outbox (stream_no, last_seq, first_seq, h_before, numbered_at, expires_at, entries)
SELECT stream_no, seq, seq, lag(h) OVER (PARTITION BY stream_no ORDER BY seq), numbered_at, expires_at,
  CAST(h || salt || unhex(printf('%016X', expires_at)) || unhex(printf('%08X', length(entry))) || entry AS BLOB)
FROM outbox_entry ORDER BY stream_no, seq;

DROP TABLE outbox_entry;

-- What share() has to remember of the record: domain::stream::Shown::to_bytes.
ALTER TABLE record ADD COLUMN shown BLOB NOT NULL DEFAULT x'';

UPDATE record SET shown = CAST(s.parts AS BLOB) FROM (
  SELECT record_id, group_concat(agreement_id || unhex(printf('%016X%02X%02X', share_n, lane, standing)), '' ORDER BY agreement_id) AS parts
  FROM shown GROUP BY record_id
) s WHERE s.record_id = record.record_id;

DROP TABLE shown;
