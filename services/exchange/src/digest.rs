//! The digest of a stream's views, by which origin and recipient find that they hold the same.

use storage::region::DigestRow;

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
