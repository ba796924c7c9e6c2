-- What a recipient needs to follow a stream's chain over what it keeps, so that a row that was changed, put in
-- or taken out is found.

ALTER TABLE view ADD COLUMN salt BLOB;   -- 16 bytes; null for what came before this column
ALTER TABLE view ADD COLUMN entry BLOB;  -- as it came, where it is not the encoded view in its plain wrapping

-- Entries of neighbours' streams that leave nothing else behind.
CREATE TABLE control (
  inbox_no INTEGER NOT NULL,
  seq      INTEGER NOT NULL,
  salt     BLOB NOT NULL,
  entry    BLOB NOT NULL,                -- wuling.exchange.v1.Entry; opaque here
  PRIMARY KEY (inbox_no, seq)
) STRICT, WITHOUT ROWID;
