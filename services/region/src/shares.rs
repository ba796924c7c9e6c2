//! What leaves with a revision: every agreement in force is asked, and what it shows becomes an entry.

use crate::hosted::Hosted;
use domain::kernel::Timestamp;
use domain::record::Record;
use domain::sharing::{Decision, share};
use domain::stream::{Shown, StreamId};
use exchange::book::SignedAgreement;
use proto::convert::entry;
use proto::convert::view::Outgoing;
use storage::region::ShareWrite;

/// Entries that a revision makes, given what was shown before; `shown` is what is remembered afterwards.
pub(crate) fn shares(
    region: &Hosted,
    record: &Record,
    outgoing: &Outgoing<'_>,
    shown: &mut Shown,
    now: Timestamp,
) -> Vec<ShareWrite> {
    let agreements = region.book.agreements.values();
    agreements.filter_map(|signed| one(region, signed, record, outgoing, shown, now)).collect()
}

fn one(
    region: &Hosted,
    signed: &SignedAgreement,
    record: &Record,
    outgoing: &Outgoing<'_>,
    shown: &mut Shown,
    now: Timestamp,
) -> Option<ShareWrite> {
    let (book, agreement) = (&region.book, &signed.agreement);
    let last = shown.get(agreement.agreement_id);
    let decision = share(record, agreement, &book.directory, last, now);
    let shows = decision.shown()?;
    let (entry, expires_at) = match &decision {
        Decision::Nothing(_) => return None,
        Decision::Show(view) => (outgoing.entry(view), view.expires_at),
        Decision::Leave(leave) => {
            (entry::encode_leave(&record.meta, leave), record.meta.expires_at)
        }
    };
    shown.set(agreement.agreement_id, shows);
    let mut salts = [[0; 16]; 2];
    salts.iter_mut().for_each(|salt| region.entropy.fill(salt));
    let [salt, start_salt] = salts;
    Some(ShareWrite {
        stream: StreamId {
            origin: book.region.clone(),
            epoch: region.store.epoch(),
            agreement: agreement.agreement_id,
            version: agreement.version,
            lane: shows.lane,
        },
        entry,
        salt,
        expires_at,
        start: (signed.start.clone(), start_salt),
    })
}
