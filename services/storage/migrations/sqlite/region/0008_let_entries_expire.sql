-- What has had its time goes from the streams this region writes, entry by entry.

-- When the first entry of the run expires that says something of a record and has not expired yet; null where none
-- does. Before this column it was not known: the first look at the run finds it.
ALTER TABLE outbox ADD COLUMN expires_first INTEGER;

UPDATE outbox SET expires_first = 0;
