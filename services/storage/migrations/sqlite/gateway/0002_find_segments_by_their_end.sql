-- A segment is looked for by what still lies behind a position: what a party lacks, what all have, what a
-- refill overlaps. By where it begins each of these looks went through all that lay before.

ALTER TABLE segment RENAME TO segment_by_start;

-- Segments that some party still lacks. No two share an entry.
CREATE TABLE segment (
  stream_no INTEGER NOT NULL,
  last_seq  INTEGER NOT NULL,
  first_seq INTEGER NOT NULL,
  h_before  BLOB NOT NULL,         -- chain hash before its first entry
  h_after   BLOB NOT NULL,         -- chain hash after its last entry
  stored_at INTEGER NOT NULL,
  encoded   BLOB NOT NULL,         -- wuling.exchange.v1.Segment, as it came
  PRIMARY KEY (stream_no, last_seq)
) STRICT, WITHOUT ROWID;

INSERT INTO segment (stream_no, last_seq, first_seq, h_before, h_after, stored_at, encoded)
  SELECT stream_no, last_seq, first_seq, h_before, h_after, stored_at, encoded FROM segment_by_start;

DROP TABLE segment_by_start;
