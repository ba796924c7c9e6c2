//! Holds a gateway's store against the signatures in it: every segment, how they join on, every receipt.

use domain::directory::Directory;
use domain::stream::Position;
use prost::Message as _;
use proto::kernel::v1::SignedObject;
use seal::segment::Segment;
use seal::signed::{Head, Receipt, key_id_of};
use seal::trust::key_ever;
use std::collections::HashMap;
use storage::ReadError;
use storage::audit::{Report, What};
use storage::gateway::{Store, StoredStream};

/// Bytes read at once.
const READ_BYTES_MAX: usize = 1_024 * 1_024;

/// Looks at everything; `tell` hears how many rows are done.
///
/// # Errors
/// When the store cannot be read at all.
pub async fn audit(
    store: &Store,
    directory: &Directory,
    tell: &mut (dyn FnMut(u64) + Send),
) -> Result<Report, ReadError> {
    let mut report = Report::default();
    let mut stored = HashMap::new();
    for stream in store.list_streams().await? {
        segments(store, directory, &stream, &mut report, tell).await?;
        stored.insert(stream.stream, (stream.oldest_seq, stream.last));
    }
    for row in store.list_receipts().await? {
        report.rows += 1;
        let object = SignedObject::decode(row.signed).ok();
        let party = directory.regions.get(&row.party);
        let signed = object.zip(party).and_then(|(object, party)| {
            let key = key_ever(party, key_id_of(&object));
            Receipt::verify(&object, &key).ok()
        });
        let fits = signed.is_some_and(|signed| {
            (&signed.stream, &signed.position, &signed.party)
                == (&row.stream, &row.position, &row.party)
        });
        let seq = row.position.seq;
        if !fits {
            report.find("receipt", Some(&row.stream), seq, What::SignatureInvalid);
            continue;
        }
        let Some((oldest_seq, last)) = stored.get(&row.stream) else { continue };
        if last.seq < seq {
            report.find("receipt", Some(&row.stream), seq, What::OtherHistory);
        } else if seq + 1 < *oldest_seq {
            // The party lacks what lies between.
            report.find("segment", Some(&row.stream), seq + 1, What::Missing);
        }
    }
    Ok(report)
}

/// A stream's segments: each signed by its origin, each where the one before ends, the last where the stream
/// stands.
async fn segments(
    store: &Store,
    directory: &Directory,
    stored: &StoredStream,
    report: &mut Report,
    tell: &mut (dyn FnMut(u64) + Send),
) -> Result<(), ReadError> {
    let StoredStream { stream, last, oldest_seq, head } = stored;
    let origin = directory.regions.get(&stream.origin);
    let mut at: Option<Position> = None;
    let mut after = oldest_seq - 1;
    loop {
        let rows = store.list_segments(stream, after, READ_BYTES_MAX).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            report.rows += 1;
            after = row.last_seq;
            let Ok(segment) = Segment::parse(row.encoded) else {
                report.find("segment", Some(stream), row.first_seq, What::Unreadable);
                at = None;
                continue;
            };
            let key = origin.map(|origin| key_ever(origin, &segment.key_id()));
            let signed = key.is_some_and(|key| segment.verify(&key).is_ok());
            if !signed {
                report.find("segment", Some(stream), row.first_seq, What::SignatureInvalid);
            }
            let named = (segment.stream(), segment.first_seq(), segment.last_seq());
            if named != (stream, row.first_seq, row.last_seq) {
                report.find("segment", Some(stream), row.first_seq, What::OutOfPlace);
            } else if let Some(at) = at
                && segment.before() != at
            {
                let gap = segment.before().seq > at.seq;
                let what = if gap { What::Missing } else { What::OutOfPlace };
                report.find("segment", Some(stream), at.seq + 1, what);
            }
            at = Some(segment.after());
        }
        tell(report.rows);
    }
    if at.is_some_and(|at| at != *last) || (at.is_none() && *oldest_seq <= last.seq) {
        report.find("stream", Some(stream), last.seq, What::OtherHistory);
    }
    if let Some(head) = head {
        let object = SignedObject::decode(head.clone()).ok();
        let signed = object.zip(origin).and_then(|(object, origin)| {
            let key = key_ever(origin, key_id_of(&object));
            Head::verify(&object, &key).ok()
        });
        if signed.is_none_or(|signed| signed.stream != *stream) {
            report.find("stream", Some(stream), last.seq, What::SignatureInvalid);
        }
    }
    Ok(())
}
