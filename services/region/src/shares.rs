//! What leaves with a revision: every agreement in force is asked, and what it shows becomes an entry.

use bytes::Bytes;
use domain::kernel::{Entropy, Epoch, Timestamp};
use domain::record::Record;
use domain::sharing::{Decision, share};
use domain::stream::{LastShown, Standing, StreamId};
use exchange::book::{Book, SignedAgreement};
use proto::convert::{entry, view};
use seal::key::sha256;
use storage::region::{ShareWrite, ShownMap};

/// Entries that a revision makes, given what was shown before.
pub(crate) fn shares(
    book: &Book,
    epoch: Epoch,
    record: &Record,
    shown: &ShownMap,
    entropy: &dyn Entropy,
    now: Timestamp,
) -> Vec<ShareWrite> {
    book.agreements
        .values()
        .filter_map(|signed| one(book, epoch, signed, record, shown, entropy, now))
        .collect()
}

fn one(
    book: &Book,
    epoch: Epoch,
    signed: &SignedAgreement,
    record: &Record,
    shown: &ShownMap,
    entropy: &dyn Entropy,
    now: Timestamp,
) -> Option<ShareWrite> {
    let agreement = &signed.agreement;
    let last = shown.get(&(record.meta.record_id, agreement.agreement_id));
    let (entry, shown, is_view) = match share(record, agreement, &book.directory, last, now) {
        Decision::Nothing(_) => return None,
        Decision::Show(decided) => {
            let standing = if decided.last { Standing::Last } else { Standing::Shown };
            let shown = LastShown { share_n: decided.share_n, lane: decided.lane, standing };
            (entry::encode_view(view::encode(record, &decided)), shown, true)
        }
        Decision::Leave(leave) => {
            let shown =
                LastShown { share_n: leave.share_n, lane: leave.lane, standing: Standing::Left };
            (entry::encode_leave(&record.meta, &leave), shown, false)
        }
    };
    let stream = StreamId {
        origin: book.region.clone(),
        epoch,
        agreement: agreement.agreement_id,
        version: agreement.version,
        lane: shown.lane,
    };
    let mut salts = [[0; 16]; 2];
    salts.iter_mut().for_each(|salt| entropy.fill(salt));
    Some(ShareWrite {
        stream,
        record_id: record.meta.record_id,
        revision: record.meta.revision,
        seen_share_n: last.map_or(0, |last| last.share_n),
        shown,
        view_sha256: is_view.then(|| sha256(&entry)),
        entry,
        salt: salts[0],
        expires_at: record.meta.expires_at,
        start: start(agreement.sha256, salts[1]),
    })
}

fn start(agreement_sha256: [u8; 32], salt: [u8; 16]) -> (Bytes, [u8; 16]) {
    (entry::encode_start(&agreement_sha256), salt)
}
