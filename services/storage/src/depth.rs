//! How far parties are behind what is held for them; for who watches a server. The same rows for both
//! stores: what a region wrote itself, what a gateway holds.

use crate::ReadError;
use crate::sqlite::uint;
use domain::kernel::{RegionId, Timestamp};
use domain::stream::StreamId;
use sqlx::{Row as _, SqlitePool};
use std::collections::HashSet;

/// How far a party of a stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DepthRow {
    /// The stream.
    pub stream: StreamId,
    /// The party; `None` stands for each that has sent no receipt yet.
    pub party: Option<RegionId>,
    /// Entries it has not receipted.
    pub depth: u64,
    /// Since when the oldest of them waits; `None` when there is none.
    pub oldest_at: Option<Timestamp>,
}

/// How far each party of each stream is behind: as its receipt says, or by all of it. `recipients` are the
/// parties of a stream without its origin.
pub fn behind(
    rows: &[DepthRow],
    recipients: impl Fn(&StreamId) -> Vec<RegionId>,
) -> impl Iterator<Item = (RegionId, &DepthRow)> {
    let receipted: HashSet<(&StreamId, &RegionId)> =
        rows.iter().filter_map(|row| Some((&row.stream, row.party.as_ref()?))).collect();
    rows.iter().flat_map(move |row| {
        let mut parties = match &row.party {
            Some(party) => vec![party.clone()],
            None => recipients(&row.stream),
        };
        parties.retain(|party| row.party.is_some() || !receipted.contains(&(&row.stream, party)));
        parties.into_iter().map(move |party| (party, row))
    })
}

/// In a region's store: since an entry was numbered. What an epoch that was left has shown is shown again in the
/// present one; the epoch within domain::stream::StreamId::to_bytes stands before agreement, version and lane.
pub(crate) const REGION: &str = "WITH present AS (SELECT * FROM stream
      WHERE substr(stream_id, -37, 16) = (SELECT value FROM store_fact WHERE name = 'epoch'))
    SELECT s.stream_id, r.party, s.last_seq - r.seq,
      (SELECT o.numbered_at FROM outbox o WHERE o.stream_no = s.stream_no AND o.last_seq > r.seq ORDER BY o.last_seq LIMIT 1)
    FROM present s JOIN receipt r ON r.stream_no = s.stream_no
    UNION ALL
    SELECT s.stream_id, NULL, s.last_seq,
      (SELECT o.numbered_at FROM outbox o WHERE o.stream_no = s.stream_no ORDER BY o.last_seq LIMIT 1)
    FROM present s ORDER BY 1, 2";

/// In a gateway's store: since a segment was stored.
pub(crate) const GATEWAY: &str = "SELECT s.stream_id, r.party, s.last_seq - r.seq,
      (SELECT g.stored_at FROM segment g WHERE g.stream_no = s.stream_no AND g.last_seq > r.seq ORDER BY g.last_seq LIMIT 1)
    FROM stream s JOIN receipt r ON r.stream_no = s.stream_no
    UNION ALL
    SELECT s.stream_id, NULL, s.last_seq,
      (SELECT g.stored_at FROM segment g WHERE g.stream_no = s.stream_no ORDER BY g.last_seq LIMIT 1)
    FROM stream s ORDER BY 1, 2";

pub(crate) async fn read(
    readers: &SqlitePool,
    sql: &'static str,
) -> Result<Vec<DepthRow>, ReadError> {
    let rows = sqlx::query(sql).fetch_all(readers).await?;
    rows.iter()
        .map(|row| {
            let stream = StreamId::from_bytes(row.try_get(0)?);
            let party = row.try_get::<Option<&str>, _>(1)?.map(RegionId::parse).transpose();
            let oldest_at: Option<i64> = row.try_get(3)?;
            Ok(DepthRow {
                stream: stream.ok_or(ReadError::Inconsistent("stream.stream_id"))?,
                party: party.map_err(|_| ReadError::Inconsistent("receipt.party"))?,
                depth: uint(row.try_get(2)?),
                oldest_at: oldest_at.map(Timestamp::from_micros),
            })
        })
        .collect()
}
