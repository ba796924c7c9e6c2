//! A region gives its own streams to those who are parties of them, and asks no gateway: the origin's side of the
//! second path.

use crate::book::Book;
use crate::cut::{CutError, cut};
use crate::home::Home;
use domain::kernel::{Lane, Reason, RegionId, TrustAge};
use domain::stream::{Position, StreamId};
use proto::convert::fetch::Wanted;
use proto::exchange::v1::FetchResponse;
use proto::kernel::v1::SignedObject;
use seal::segment::ENTRIES_PER_SEGMENT_MAX;
use seal::signed::Head;
use storage::ReadError;

/// Segments of one answer.
const SEGMENTS_MAX: usize = 16;
/// Heads of one answer.
pub(crate) const HEADS_MAX: usize = 1_000;

/// Why a party is given nothing.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It may not have it.
    #[error("refused: {}", .0.name())]
    Refused(Reason),
    /// The store cannot be read.
    #[error("the store could not be read")]
    Read(#[from] ReadError),
    /// A range cannot be sealed.
    #[error("a range could not be sealed")]
    Cut(#[from] CutError),
}

/// A party that asks.
#[derive(Clone, Copy, Debug)]
pub struct Party<'a> {
    /// The region, by its certificate.
    pub region: &'a RegionId,
    /// It may have the alert lane alone: what its authority has revoked is not known.
    pub is_restricted: bool,
}

impl Party<'_> {
    /// Whether a stream of this region is for it: no more of them than a gateway would give it.
    fn may_have(self, book: &Book, stream: &StreamId) -> bool {
        let agreement = book.agreement(stream.agreement, stream.version);
        *self.region != book.region
            && stream.origin == book.region
            && agreement.is_some_and(|agreement| book.find_party(agreement, self.region).is_some())
    }

    fn may_have_lane(self, home: &Home, lane: Lane) -> bool {
        let lapsed = home.book.trust.age(home.clock.now()) == TrustAge::Lapsed;
        lane == Lane::Alert || !(self.is_restricted || lapsed)
    }
}

/// How far each stream goes that is for the party.
///
/// # Errors
/// When the store cannot be read.
pub async fn heads(home: &Home, party: Party<'_>) -> Result<FetchResponse, ServeError> {
    let book = &home.book;
    if book.find_region(&book.region).is_none() {
        return Err(ServeError::Refused(Reason::RegionRevoked));
    }
    let rows = home.store.list_streams().await?.into_iter();
    let told = rows.filter(|row| {
        row.position.seq > 0
            && row.stream.epoch == home.store.epoch()
            && !home.is_lost(&row.stream)
            && party.may_have(book, &row.stream)
            && party.may_have_lane(home, row.stream.lane)
    });
    let heads = told.take(HEADS_MAX).map(|row| head(home, row.stream, row.position)).collect();
    Ok(FetchResponse { segments: Vec::new(), last: None, heads })
}

/// A part of a stream, and how far it goes; `receipt` says what the party has applied of it.
///
/// # Errors
/// When the party may not have it, or holds another history than this region; when it cannot be read or sealed.
pub async fn range(
    home: &Home,
    party: Party<'_>,
    wanted: Wanted,
    receipt: Option<SignedObject>,
) -> Result<FetchResponse, ServeError> {
    let Wanted { stream, from_seq, bytes_max } = wanted;
    let (book, refused) = (&home.book, |reason| Err(ServeError::Refused(reason)));
    if book.find_region(&book.region).is_none() {
        return refused(Reason::RegionRevoked);
    }
    // Whether an agreement exists is the business of its parties alone.
    if !party.may_have(book, &stream) {
        return refused(Reason::NotAParty);
    }
    if !party.may_have_lane(home, stream.lane) {
        return refused(Reason::RoleForbidden);
    }
    // Others hold something else of it, and would see a fork.
    if home.is_lost(&stream) {
        return refused(Reason::WentBack);
    }
    if let Some(receipt) = receipt {
        keep(home, party, &stream, &receipt).await.map_err(ServeError::Refused)?;
    }
    let row = home.store.list_streams().await?.into_iter().find(|row| row.stream == stream);
    let last = row.map_or_else(|| seal::chain::start(&stream), |row| row.position);
    let most = u32::try_from(ENTRIES_PER_SEGMENT_MAX).unwrap_or(1);
    let (mut segments, mut size, mut after) = (Vec::new(), 0, from_seq - 1);
    while after < last.seq && segments.len() < SEGMENTS_MAX {
        let sealed = cut(home, &stream, after, last.seq, most).await?;
        size += sealed.bytes.len();
        if size > bytes_max && !segments.is_empty() {
            break;
        }
        after = sealed.after.seq;
        segments.push(sealed.bytes);
    }
    // Of an epoch that was left nothing more is said.
    let present = stream.epoch == home.store.epoch() && last.seq > 0;
    let heads = present.then(|| head(home, stream.clone(), last)).into_iter().collect();
    Ok(FetchResponse { segments, last: Some((&stream, last).into()), heads })
}

fn head(home: &Home, stream: StreamId, position: Position) -> SignedObject {
    let created_at = home.status.head_time(home.clock.now());
    Head { stream, position, created_at }.sign(&home.book.signing)
}

/// Keeps what the party has signed for.
async fn keep(
    home: &Home,
    party: Party<'_>,
    stream: &StreamId,
    object: &SignedObject,
) -> Result<(), Reason> {
    let receipt = home.receipt(object)?;
    if receipt.party != *party.region || receipt.stream != *stream {
        return Err(Reason::RoleForbidden);
    }
    home.keep_receipt(receipt, object).await
}
