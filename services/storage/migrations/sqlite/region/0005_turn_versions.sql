-- One version of an agreement takes another's place.

-- Where a stream was ended: behind it come only withdrawals. Null while it is shown in.
ALTER TABLE stream ADD COLUMN end_seq INTEGER;
ALTER TABLE stream ADD COLUMN end_h BLOB;

-- Versions that have come into force here, and how far what is open was shown under them.
CREATE TABLE turn (
  agreement_id BLOB NOT NULL,
  version      BLOB NOT NULL,       -- 4 bytes, big endian
  after_seq    INTEGER NOT NULL,    -- places of the feed up to here were looked at
  through_seq  INTEGER NOT NULL,    -- what comes behind this place was decided under it anyway
  PRIMARY KEY (agreement_id, version)
) STRICT, WITHOUT ROWID;

-- The agreement and version within domain::stream::StreamId::to_bytes: before the lane (1 byte).
INSERT INTO turn (agreement_id, version, after_seq, through_seq)
SELECT DISTINCT substr(stream_id, -21, 16), substr(stream_id, -5, 4), 0, 0 FROM stream;

-- domain::stream::Shown::to_bytes says of each agreement since which version a record is shown: the newest that
-- was written in.
UPDATE record SET shown = CAST(s.parts AS BLOB) FROM (
  WITH RECURSIVE part (record_id, shown, i) AS (
    SELECT record_id, shown, 0 FROM record WHERE length(shown) > 0
    UNION ALL SELECT record_id, shown, i + 1 FROM part WHERE 26 * (i + 2) <= length(shown)
  )
  SELECT record_id, group_concat(substr(shown, 26 * i + 1, 26) || coalesce(
    (SELECT max(version) FROM turn WHERE agreement_id = substr(shown, 26 * i + 1, 16)), x'00000001'), '' ORDER BY i) AS parts
  FROM part GROUP BY record_id
) s WHERE s.record_id = record.record_id;
