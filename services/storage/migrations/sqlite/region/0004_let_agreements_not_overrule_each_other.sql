-- Views of two agreements do not overrule each other: `current` says how a view stands beside others of its
-- record and agreement. 0: it came late; 1: it is the newest; 2: it was when it came, and is none any more.
UPDATE view AS v SET current = CASE WHEN NOT EXISTS (
  SELECT 1 FROM view w JOIN inbox j ON j.inbox_no = w.inbox_no JOIN inbox i ON i.inbox_no = v.inbox_no
  WHERE w.record_id = v.record_id AND w.birth_region = v.birth_region
    -- The agreement within domain::stream::StreamId::to_bytes: before version (4 bytes) and lane (1).
    AND substr(j.stream_id, -21, 16) = substr(i.stream_id, -21, 16)
    AND (w.revision_t, w.revision_epoch, w.revision_n, w.share_n, w.feed_seq)
      > (v.revision_t, v.revision_epoch, v.revision_n, v.share_n, v.feed_seq)
) THEN 1 WHEN current = 1 THEN 2 ELSE 0 END;
