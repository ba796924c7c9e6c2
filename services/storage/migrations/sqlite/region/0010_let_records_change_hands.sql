-- Records that change their owner: offered by this region, or to it.
CREATE TABLE transfer (
  offer_sha256   BLOB NOT NULL PRIMARY KEY, -- of the body of the signed offer: names it
  direction      INTEGER NOT NULL,          -- domain::transfer::Direction
  state          INTEGER NOT NULL,          -- domain::transfer::TransferState
  due            INTEGER NOT NULL,          -- what has yet to be done here: 1 what was decided, 2 its content erased; added up
  record_id      BLOB NOT NULL,
  birth_region   TEXT NOT NULL,             -- with record_id the record's identity
  kind           INTEGER NOT NULL,          -- domain::kernel::Kind
  revision_t     INTEGER NOT NULL,          -- the revision that was offered
  revision_epoch BLOB NOT NULL,
  revision_n     INTEGER NOT NULL,
  party          TEXT NOT NULL,             -- the other region
  agreement_id   BLOB NOT NULL,             -- what grants it
  offered_at     INTEGER NOT NULL,
  expires_at     INTEGER NOT NULL,          -- when its content here is deleted; far away once that is done
  decided_at     INTEGER,                   -- when this region decided or heard; null before
  return_reason  INTEGER NOT NULL DEFAULT 0, -- domain::transfer::ReturnReason; 0 where it was not returned
  offer          BLOB NOT NULL,             -- kernel.v1.SignedObject
  accept         BLOB,                      -- kernel.v1.SignedObject
  record         BLOB,                      -- what is offered to this region, until it has decided; kernel.v1.Record
  feed_seq       INTEGER,                   -- place in the feed where it is told that the record is not this region's any more
  gone           BLOB,                      -- what watchers are sent there: device.v1.Withdrawal
  shown          BLOB                       -- what this region had shown of it then: domain::stream::Shown::to_bytes
) STRICT, WITHOUT ROWID;

-- A record is offered to one region at a time.
CREATE UNIQUE INDEX transfer_open ON transfer (record_id) WHERE direction = 1 AND state <= 2;
CREATE INDEX transfer_due ON transfer (offer_sha256) WHERE due > 0;
CREATE INDEX transfer_feed ON transfer (feed_seq) WHERE feed_seq IS NOT NULL;
CREATE INDEX transfer_expires ON transfer (expires_at);
CREATE INDEX transfer_record ON transfer (record_id);
