//! The digest of a stream's views, by which origin and recipient find that they hold the same.

use domain::stream::StreamId;
use proto::convert::entry::{self, Entry};
use storage::ReadError;
use storage::region::{DigestRow, Store};

/// Entries read at a time.
const PAGE: u32 = 1_024;

/// The views that this region has shown in a stream, in the digest's order.
///
/// # Errors
/// When the store cannot be read.
pub async fn shown(store: &Store, stream: &StreamId) -> Result<Vec<DigestRow>, ReadError> {
    let (mut rows, mut after) = (Vec::new(), 0);
    loop {
        let entries = store.list_outbox(stream, after, PAGE).await?;
        let Some(last) = entries.last() else { break };
        after = last.position.seq;
        for row in &entries {
            if seal::chain::erased(&row.salt, &row.entry).is_some() {
                continue;
            }
            match entry::decode(row.entry.clone()) {
                Ok(Entry::View(head, _)) => rows.push(DigestRow {
                    record_id: head.record_id,
                    revision: head.revision,
                    share_n: head.share_n,
                    view_sha256: seal::key::sha256(&row.entry),
                }),
                Ok(
                    Entry::Start { .. }
                    | Entry::End
                    | Entry::Erase(..)
                    | Entry::Transfer(_)
                    | Entry::Leave { .. },
                ) => {}
                Err(_) => return Err(ReadError::Inconsistent("outbox.entries")),
            }
        }
    }
    rows.sort_unstable_by_key(|row| (row.record_id, row.revision, row.share_n));
    Ok(rows)
}

/// SHA-256 over the rows in their order: record id, revision (t, epoch, n), SHA-256 of the view.
pub fn digest(rows: &[DigestRow]) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(rows.len() * 76);
    for row in rows {
        bytes.extend_from_slice(row.record_id.as_bytes());
        bytes.extend_from_slice(&row.revision.t.to_be_bytes());
        bytes.extend_from_slice(row.revision.epoch.as_bytes());
        bytes.extend_from_slice(&row.revision.n.to_be_bytes());
        bytes.extend_from_slice(&row.view_sha256);
    }
    seal::key::sha256(&bytes)
}
