-- Runs that hold something that expires, by when: one entry a run, a small part of what the run costs.
CREATE INDEX outbox_expires ON outbox (expires_first) WHERE expires_first IS NOT NULL;
