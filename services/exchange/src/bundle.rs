//! Bundles: the same segments, heads and receipts as a link carries, in a file, for where no line goes.
//!
//! A bundle begins where the party's last receipt ends, so what one bundle lacks a later one brings, in
//! whatever order they come, and what comes again is known.

use crate::book::Book;
use crate::cut::{CutError, cut};
use crate::home::{Home, News};
use crate::receive::Outcome;
use bytes::Bytes;
use domain::kernel::{Reason, RegionId};
use domain::stream::{Position, StreamId};
use prost::Message as _;
use proto::convert::kernel::encode_time;
use proto::directory::v1::TrustSet;
use proto::exchange::v1::{BundleEnd, BundleHeader, BundlePart, bundle_part::Part};
use proto::kernel::v1::SignedObject;
use seal::segment::{ENTRIES_PER_SEGMENT_MAX, Segment};
use seal::signed::Head;
use std::collections::BTreeMap;
use storage::ReadError;
use storage::region::StreamRow;

/// Format of a bundle.
const FORMAT: u32 = 1;
/// Bytes of a directory that goes along, with what counties list.
const DIRECTORY_BYTES_MAX: usize = 512 * 1024;
/// Refusals that are told.
const REFUSALS_MAX: usize = 100;

/// What is to be carried to one party.
pub struct Export<'a> {
    home: &'a Home,
    to: RegionId,
    /// Parts that are ready.
    ready: std::vec::IntoIter<Part>,
    /// Streams to seal, and how far the party has signed for them.
    streams: std::vec::IntoIter<(StreamRow, u64)>,
    /// The stream that is being sealed: from here to there.
    sealing: Option<(StreamId, u64, Position)>,
    /// Parts given so far.
    count: u64,
    ended: bool,
}

impl<'a> Export<'a> {
    /// Looks what the party lacks.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn begin(home: &'a Home, to: &RegionId) -> Result<Self, ReadError> {
        let book = &home.book;
        // Also the version that leaves the party out: it must hear of that.
        let shared: Vec<_> = book
            .agreements
            .iter()
            .filter(|((id, version), signed)| {
                let before = book.agreement(*id, version.saturating_sub(1));
                signed.agreement.has_party(to) || before.is_some_and(|before| before.has_party(to))
            })
            .map(|(_, signed)| signed)
            .collect();
        let concerns = |stream: &StreamId| {
            book.agreement(stream.agreement, stream.version)
                .is_some_and(|agreement| agreement.has_party(to))
        };
        let header = BundleHeader {
            format: FORMAT,
            linkage_id: book.linkage().to_string(),
            from_region: book.region.to_string(),
            to_region: to.to_string(),
            create_time: Some(encode_time(home.clock.now())),
        };
        let mut ready = vec![Part::Header(header), Part::Trust(carried(book))];
        ready.extend(shared.iter().map(|signed| Part::Agreement(signed.signed.clone())));
        for inbox in home.store.list_inboxes().await? {
            let StreamRow { stream, position, parked_count } = inbox;
            if concerns(&stream)
                && let Some(receipt) = home.sign_receipt(stream, position, parked_count).await
            {
                ready.push(Part::Receipt(receipt));
            }
        }
        let receipts = home.store.list_receipts().await?;
        let signed_for = |stream: &StreamId| {
            let own = receipts.iter().find(|row| row.party == *to && row.stream == *stream);
            own.map_or(0, |row| row.position.seq)
        };
        let mut streams = Vec::new();
        for row in home.store.list_streams().await? {
            // What an epoch that was left has shown is shown again in the present one.
            if row.stream.epoch == home.store.epoch() && concerns(&row.stream) {
                let from = signed_for(&row.stream);
                streams.push((row, from));
            }
        }
        Ok(Self {
            home,
            to: to.clone(),
            ready: ready.into_iter(),
            streams: streams.into_iter(),
            sealing: None,
            count: 0,
            ended: false,
        })
    }

    /// The next part; `None` after the last.
    ///
    /// # Errors
    /// When a range cannot be read or sealed.
    pub async fn next(&mut self) -> Result<Option<BundlePart>, CutError> {
        let part = match self.ready.next() {
            Some(part) => part,
            None => match self.stream_part().await? {
                Some(part) => part,
                None if self.ended => return Ok(None),
                None => {
                    self.ended = true;
                    tracing::info!(region.id = %self.home.book.region, peer.id = %self.to, parts = self.count, "bundle made");
                    Part::End(BundleEnd { part_count: self.count })
                }
            },
        };
        self.count += 1;
        Ok(Some(BundlePart { part: Some(part) }))
    }

    /// The next segment of a stream, or the head after its last.
    async fn stream_part(&mut self) -> Result<Option<Part>, CutError> {
        if self.sealing.is_none() {
            let Some((row, from)) = self.streams.next() else { return Ok(None) };
            self.sealing = Some((row.stream, from, row.position));
        }
        let Some((stream, after, last)) = self.sealing.take() else { return Ok(None) };
        if after >= last.seq {
            let head = Head { stream, position: last, created_at: self.home.clock.now() };
            return Ok(Some(Part::Head(head.sign(&self.home.book.signing))));
        }
        let most = u32::try_from(ENTRIES_PER_SEGMENT_MAX).unwrap_or(1);
        let sealed = cut(self.home, &stream, after, last.seq, most).await?;
        self.sealing = Some((stream, sealed.after.seq, last));
        Ok(Some(Part::Segment(sealed.bytes)))
    }
}

/// What the authority and its counties signed, without a directory that would not fit beside it, nor what of it
/// counties list where that would not.
fn carried(book: &Book) -> TrustSet {
    let mut whole = book.trust.signed().clone();
    let mut room = DIRECTORY_BYTES_MAX;
    let mut fits = |object: &SignedObject| match room.checked_sub(object.encoded_len()) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    };
    whole.directory = whole.directory.filter(&mut fits);
    whole.delegated.retain(&mut fits);
    whole
}

/// Why a bundle is not taken at all.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The first part is no header, or one comes again.
    #[error("a bundle begins with its one header")]
    Header,
    /// Of a format that this program does not know.
    #[error("the bundle is of format {0}")]
    Format(u32),
    /// Of another linkage.
    #[error("the bundle is of linkage {0}")]
    OtherLinkage(String),
    /// For another region.
    #[error("the bundle is for region {0}")]
    OtherRegion(String),
    /// A part is none of those that are known.
    #[error("a part of the bundle is of no known kind")]
    Unknown,
    /// The end came before, or names another number of parts.
    #[error("the bundle is cut off or put together wrongly")]
    CutOff,
    /// The store cannot be read.
    #[error("the store could not be read")]
    Read(#[from] ReadError),
    /// The store cannot write.
    #[error("the store cannot write")]
    Unwritten,
}

/// A part that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Number of the part.
    pub part: u64,
    /// The stream, where it can be told.
    pub stream: Option<StreamId>,
    /// Why.
    pub reason: Reason,
}

/// How a stream fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fared {
    /// Applied before.
    pub before: u64,
    /// Applied now.
    pub applied: Position,
    /// Parked in all.
    pub parked_count: u64,
    /// Furthest entry that the bundle knows of.
    pub known_seq: u64,
}

/// A bundle that is being taken.
pub struct Import {
    home: Home,
    parts: u64,
    ended: bool,
    held: BTreeMap<StreamId, StreamRow>,
    /// How every stream fared of which there was a segment or a head.
    pub streams: BTreeMap<StreamId, Fared>,
    /// Receipts that were kept.
    pub receipts: u64,
    /// What was refused.
    pub refusals: Vec<Refusal>,
}

impl Import {
    /// Nothing is taken yet.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn begin(home: Home) -> Result<Self, ReadError> {
        let held = home.store.list_inboxes().await?;
        Ok(Self {
            parts: 0,
            ended: false,
            home,
            held: held.into_iter().map(|row| (row.stream.clone(), row)).collect(),
            streams: BTreeMap::new(),
            receipts: 0,
            refusals: Vec::new(),
        })
    }

    /// Takes the next part. What is wrong with one part keeps none of the others.
    ///
    /// # Errors
    /// When the bundle is none for this region, or the store fails: what was taken so far stays taken.
    pub async fn take(&mut self, part: BundlePart) -> Result<(), ImportError> {
        let part = part.part.ok_or(ImportError::Unknown)?;
        if self.ended || (self.parts == 0) != matches!(part, Part::Header(_)) {
            return Err(if self.ended { ImportError::CutOff } else { ImportError::Header });
        }
        match part {
            Part::Header(header) => self.header(header)?,
            Part::Trust(set) => self.trust(set).await,
            Part::Agreement(object) => self.agreement(object).await,
            Part::Segment(bytes) => self.segment(bytes).await?,
            Part::Head(object) => self.head(&object),
            Part::Receipt(object) => self.receipt(&object).await,
            Part::End(end) if end.part_count == self.parts => self.ended = true,
            Part::End(_) => return Err(ImportError::CutOff),
        }
        self.parts += 1;
        Ok(())
    }

    /// The bundle is over.
    ///
    /// # Errors
    /// When its end is missing: it was cut off. What was taken stays taken.
    pub fn end(&self) -> Result<(), ImportError> {
        if self.ended { Ok(()) } else { Err(ImportError::CutOff) }
    }

    fn header(&self, header: BundleHeader) -> Result<(), ImportError> {
        let BundleHeader { format, linkage_id, from_region: _, to_region, create_time: _ } = header;
        if format != FORMAT {
            return Err(ImportError::Format(format));
        }
        if linkage_id != self.home.book.linkage().as_str() {
            return Err(ImportError::OtherLinkage(linkage_id));
        }
        if to_region != self.home.book.region.as_str() {
            return Err(ImportError::OtherRegion(to_region));
        }
        Ok(())
    }

    /// What the authority signed counts for what comes after it.
    async fn trust(&mut self, set: TrustSet) {
        match self.home.show(News::Trust(set)).await {
            Ok(()) => self.home.book = self.home.shelf.book(),
            Err(reason) => self.refuse(None, reason),
        }
    }

    /// An agreement counts for what comes after it.
    async fn agreement(&mut self, object: SignedObject) {
        let region = self.home.book.region.clone();
        match self.home.show(News::Agreement(region, object)).await {
            Ok(()) => self.home.book = self.home.shelf.book(),
            Err(reason) => self.refuse(None, reason),
        }
    }

    async fn segment(&mut self, bytes: Bytes) -> Result<(), ImportError> {
        let segment = match Segment::parse(bytes) {
            Ok(segment) => segment,
            Err(error) => {
                self.refuse(None, error.reason());
                return Ok(());
            }
        };
        let stream = segment.stream().clone();
        let mut fared = self.fared(&stream);
        loop {
            match self.home.take(fared.applied, vec![segment.clone()]).await {
                Outcome::Known => {}
                Outcome::Applied { position, parked_count, .. }
                | Outcome::Passed { position, parked_count } => {
                    (fared.applied, fared.parked_count) = (position, parked_count);
                }
                // A link went on meanwhile: once more from there.
                Outcome::Gap(position) if position.seq > fared.applied.seq => {
                    fared.applied = position;
                    continue;
                }
                // It waits in its file.
                Outcome::Gap(_) => {}
                Outcome::Refused(position, reason) => {
                    fared.applied = position;
                    if reason == Reason::StreamForked {
                        self.home.alarm(Some(&stream), reason);
                    }
                    self.refuse(Some(stream.clone()), reason);
                    // Nothing that it says of itself is believed.
                    self.streams.entry(stream).or_insert(fared);
                    return Ok(());
                }
                Outcome::Unwritten => return Err(ImportError::Unwritten),
            }
            break;
        }
        fared.known_seq = fared.known_seq.max(segment.last_seq()).max(fared.applied.seq);
        self.streams.insert(stream, fared);
        Ok(())
    }

    fn fared(&self, stream: &StreamId) -> Fared {
        if let Some(fared) = self.streams.get(stream) {
            return *fared;
        }
        let (applied, parked_count) = self.held.get(stream).map_or_else(
            || (seal::chain::start(stream), 0),
            |row| (row.position, row.parked_count),
        );
        Fared { before: applied.seq, applied, parked_count, known_seq: applied.seq }
    }

    /// The origin's word on how far its stream goes.
    fn head(&mut self, object: &SignedObject) {
        let Some(key) = self.home.key_of_signer(object) else {
            return self.refuse(None, Reason::RegionUnknown);
        };
        let head = match Head::verify(object, &key) {
            Ok(head) => head,
            Err(error) => return self.refuse(None, error.reason()),
        };
        let mut fared = self.fared(&head.stream);
        if head.position.seq == fared.applied.seq && head.position != fared.applied {
            self.home.alarm(Some(&head.stream), Reason::StreamForked);
            return self.refuse(Some(head.stream), Reason::StreamForked);
        }
        fared.known_seq = fared.known_seq.max(head.position.seq);
        self.streams.insert(head.stream, fared);
    }

    async fn receipt(&mut self, object: &SignedObject) {
        let receipt = match self.home.receipt(object) {
            Ok(receipt) => receipt,
            Err(reason) => return self.refuse(None, reason),
        };
        if receipt.stream.origin != self.home.book.region {
            return;
        }
        let stream = receipt.stream.clone();
        match self.home.keep_receipt(receipt, object).await {
            Ok(()) => self.receipts += 1,
            Err(reason) => self.refuse(Some(stream), reason),
        }
    }

    fn refuse(&mut self, stream: Option<StreamId>, reason: Reason) {
        if self.refusals.len() < REFUSALS_MAX {
            self.refusals.push(Refusal { part: self.parts, stream, reason });
        }
    }
}
