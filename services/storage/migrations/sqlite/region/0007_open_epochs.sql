-- A store that was restored from a copy goes on in a new epoch: its own numbers are taken.

-- Epochs that follow others: this region's, and those that its neighbours' streams have named.
CREATE TABLE epoch (
  region    TEXT NOT NULL,
  epoch     BLOB NOT NULL,
  parents   BLOB NOT NULL,      -- the epochs that it follows, 16 bytes each, the lowest first
  opened_at INTEGER,            -- null: it was opened elsewhere
  PRIMARY KEY (region, epoch)
) STRICT, WITHOUT ROWID;

-- From this place of the feed on also what is over or was taken back is shown again: not all parties have signed
-- for what was said of it in the epoch before. Null where nothing is.
ALTER TABLE turn ADD COLUMN again_from INTEGER;
