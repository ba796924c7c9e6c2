//! What leaves with a revision: the version of every agreement that is in force is asked, and what it shows becomes
//! an entry.

use crate::hosted::Hosted;
use domain::kernel::Timestamp;
use domain::record::Record;
use domain::sharing::{Decision, Leave, LeaveReason, share};
use domain::stream::{LastShown, Shown, Standing, StreamId};
use exchange::book::{Book, SignedAgreement};
use proto::convert::entry;
use proto::convert::view::Outgoing;
use storage::region::{Opening, ShareWrite};

/// Entries that a revision makes, given what was shown before; `shown` is what is remembered afterwards.
pub(crate) fn shares(
    region: &Hosted,
    book: &Book,
    record: &Record,
    outgoing: &Outgoing<'_>,
    shown: &mut Shown,
    now: Timestamp,
) -> Vec<ShareWrite> {
    let in_force = region.in_force(book);
    in_force.flat_map(|signed| one(region, book, signed, record, outgoing, shown, now)).collect()
}

/// Entries that a revision makes under one agreement.
pub(crate) fn one(
    region: &Hosted,
    book: &Book,
    signed: &SignedAgreement,
    record: &Record,
    outgoing: &Outgoing<'_>,
    shown: &mut Shown,
    now: Timestamp,
) -> Vec<ShareWrite> {
    let agreement = &signed.agreement;
    let last = shown.get(agreement.agreement_id);
    let decision = share(record, agreement, book.directory(), last, now);
    let Some(shows) = decision.shown(last, agreement.version) else { return Vec::new() };
    let (entry, expires_at) = match &decision {
        Decision::Nothing(_) => return Vec::new(),
        Decision::Show(view) => (outgoing.entry(view), view.expires_at),
        Decision::Leave(leave) => {
            (entry::encode_leave(&record.meta, leave), record.meta.expires_at)
        }
    };
    shown.set(agreement.agreement_id, shows);
    let mut writes = Vec::with_capacity(1);
    if agreement.has_party(&book.region) {
        let opening = opening(region, signed);
        let (stream, salt) = (stream(region, signed, &shows), salt(region));
        writes.push(ShareWrite { stream, entry, salt, expires_at, opening, behind_end: false });
    }
    if shows.standing != Standing::Shown {
        writes.extend(call_off(region, book, signed, record, &shows));
    }
    writes
}

/// Tells those who hold a record under an earlier version, and whom the version in force leaves out, that it is
/// called off or over: what it has become is not theirs to see.
fn call_off(
    region: &Hosted,
    book: &Book,
    signed: &SignedAgreement,
    record: &Record,
    shows: &LastShown,
) -> Vec<ShareWrite> {
    let agreement = &signed.agreement;
    let (id, version) = (agreement.agreement_id, agreement.version);
    let earlier = book.agreements.range((id, shows.since_version)..(id, version));
    let left_out = earlier.map(|(_, earlier)| earlier).filter(|earlier| {
        let mut parties = earlier.agreement.parties.iter().map(|party| &party.region);
        parties.any(|party| *party != book.region && !agreement.has_party(party))
            || !agreement.has_party(&book.region)
    });
    let leave = Leave { share_n: shows.share_n, lane: shows.lane, reason: LeaveReason::Over };
    let entry = entry::encode_leave(&record.meta, &leave);
    let write = |earlier: &SignedAgreement| ShareWrite {
        stream: stream(region, earlier, shows),
        entry: entry.clone(),
        salt: salt(region),
        expires_at: record.meta.expires_at,
        opening: opening(region, earlier),
        behind_end: true,
    };
    left_out.map(write).collect()
}

/// Tells whoever was shown a record that another region owns it now, as its acceptance says.
pub(crate) fn transferred(
    region: &Hosted,
    book: &Book,
    record: &Record,
    shown: &Shown,
    accept: &[u8],
) -> Vec<ShareWrite> {
    let mut meta = record.meta.clone();
    meta.transfers.push(accept.to_vec());
    let mut writes = Vec::new();
    for signed in region.in_force(book) {
        let agreement = &signed.agreement;
        let last = shown.get(agreement.agreement_id);
        let Some(last) = last.filter(|last| last.standing == Standing::Shown) else { continue };
        let (share_n, standing) = (last.share_n.saturating_add(1), Standing::Left);
        let shows = LastShown { share_n, standing, ..*last };
        if agreement.has_party(&book.region) {
            let leave = Leave { share_n, lane: last.lane, reason: LeaveReason::Transferred };
            writes.push(ShareWrite {
                stream: stream(region, signed, &shows),
                entry: entry::encode_leave(&meta, &leave),
                salt: salt(region),
                expires_at: meta.expires_at,
                opening: opening(region, signed),
                behind_end: false,
            });
        }
        writes.extend(call_off(region, book, signed, record, &shows));
    }
    writes
}

fn stream(region: &Hosted, signed: &SignedAgreement, shows: &LastShown) -> StreamId {
    StreamId {
        origin: region.region.clone(),
        epoch: region.store.epoch(),
        agreement: signed.agreement.agreement_id,
        version: signed.agreement.version,
        lane: shows.lane,
    }
}

/// How a stream of the version opens.
pub(crate) fn opening(region: &Hosted, signed: &SignedAgreement) -> Opening {
    Opening { agreement_sha256: signed.agreement.sha256, salts: [salt(region), salt(region)] }
}

pub(crate) fn salt(region: &Hosted) -> [u8; 16] {
    let mut salt = [0; 16];
    region.entropy.fill(&mut salt);
    salt
}
