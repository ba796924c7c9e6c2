-- How far each neighbour's stream had been applied at moments past, so that it can be signed for afterwards; and what
-- lies beyond the cut of a revoked region.

-- When the stream was last applied, never earlier than before. Before this column it is not known: at this time at the
-- latest.
ALTER TABLE inbox ADD COLUMN applied_at INTEGER NOT NULL DEFAULT 0;
UPDATE inbox SET applied_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER);

-- Where a stream stood when a minute was over in which something of it was applied; the row in inbox goes on from there.
CREATE TABLE inbox_log (
  inbox_no    INTEGER NOT NULL,
  applied_at  INTEGER NOT NULL,    -- when the last entry of that minute was applied
  applied_seq INTEGER NOT NULL,    -- applied up to here
  applied_h   BLOB NOT NULL,       -- chain hash there
  PRIMARY KEY (inbox_no, applied_at)
) STRICT, WITHOUT ROWID;

-- Streams of revoked regions that are cut.
CREATE TABLE cut (
  inbox_no    INTEGER NOT NULL PRIMARY KEY,
  after_seq   INTEGER NOT NULL,    -- entries behind this one are quarantined
  through_seq INTEGER NOT NULL,    -- as far as the stream was applied when that was done
  listed_seq  INTEGER,             -- the place that the revocation names; null where it does not name the stream
  listed_h    BLOB                 -- chain hash there, as the revocation names it
) STRICT;

-- `view.current` is 3 where the view is quarantined: it is shown to nobody.
CREATE INDEX view_quarantined ON view (inbox_no) WHERE current = 3 AND withdrawn = 0;

-- Places of the feed that say that a view went into quarantine, or is shown again.
CREATE TABLE quarantine_note (
  feed_seq   INTEGER PRIMARY KEY,  -- place in the feed, shared with record, view and erasure
  view_seq   INTEGER NOT NULL,     -- the view, by its own place there
  kind       INTEGER NOT NULL,     -- domain::kernel::Kind
  withdrawal BLOB                  -- wuling.device.v1.Withdrawal, opaque here; null where the view is shown again
) STRICT;

-- Views that were released by a person: no cut quarantines them again.
CREATE TABLE quarantine_release (
  view_seq    INTEGER PRIMARY KEY, -- the view, by its place in the feed
  released_at INTEGER NOT NULL,
  device_id   BLOB NOT NULL,       -- who asked
  reason      INTEGER NOT NULL     -- domain::quarantine::ReleaseReason
) STRICT;
