//! Who is connected, and what they must hear. One task takes each commit and tells the links it is for;
//! telling never waits: a link whose mailbox is full is told that it is behind, and looks for itself.

use crate::book::Book;
use crate::streams::{StreamState, Streams};
use bytes::Bytes;
use domain::kernel::{Lane, RegionId};
use domain::stream::{Position, StreamId};
use proto::kernel::v1::SignedObject;
use proto::link::Assembler;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storage::gateway::{Committed, GatewayReceipt, StoredSegment, StoredStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Things a link may not have heard yet; links listen all the time, so few ever wait.
const WAKES_QUEUED_MAX: usize = 256;

/// A set of lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lanes(u8);

/// Something a link must hear.
#[derive(Clone, Debug)]
pub enum Wake {
    /// A segment for this peer is on disk.
    Segment(StreamId, StoredSegment),
    /// A stream for this peer goes so far.
    Grew(StreamId, u64),
    /// A party's receipt came.
    Receipt(GatewayReceipt),
    /// An origin's head came.
    Head(StreamId, Bytes),
    /// A recipient lacks a range that this peer wrote.
    Want(StreamId, u64, u64),
    /// The authority's word is newer.
    Trust,
    /// Packagings of a stream for this peer were deleted.
    Replaced(StreamId),
    /// An agreement version that concerns the peer.
    Agreement(SignedObject),
    /// A proposal that concerns the peer, and has come to have more signatures.
    Proposal(SignedObject),
}

/// A link's place in the registry.
#[derive(Debug)]
pub struct Ticket {
    /// What it must hear.
    pub wakes: mpsc::Receiver<Wake>,
    /// Cancelled when a newer link of the region has come.
    pub displaced: CancellationToken,
    /// The pieces that earlier links of the region left; free once the link before has ended.
    pub assembler: Arc<tokio::sync::Mutex<Assembler>>,
    behind: Arc<AtomicBool>,
    number: u64,
    region: RegionId,
}

/// What matters to one region, at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Streams it writes, and how far they are stored.
    pub written: Vec<(StreamId, Position)>,
    /// Streams it receives, how far they are stored, and their newest heads.
    pub received: Vec<(StreamId, Position, Option<Bytes>)>,
    /// The receipts of all these streams.
    pub receipts: Vec<(StreamId, RegionId, Position, Bytes)>,
}

/// The live links, and the state of all streams.
#[derive(Debug)]
pub struct Registry {
    book: Arc<Book>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    streams: Streams,
    links: HashMap<RegionId, Vec<Handle>>,
    assemblers: HashMap<(RegionId, Lanes), Arc<tokio::sync::Mutex<Assembler>>>,
    next: u64,
}

#[derive(Debug)]
struct Handle {
    number: u64,
    lanes: Lanes,
    wakes: mpsc::Sender<Wake>,
    behind: Arc<AtomicBool>,
    displaced: CancellationToken,
}

impl Lanes {
    /// The set of these.
    pub fn of(lanes: &[Lane]) -> Self {
        Self(lanes.iter().fold(0, |set, lane| set | Self::bit(*lane)))
    }

    /// Whether a lane is in it.
    pub const fn contains(self, lane: Lane) -> bool {
        self.0 & Self::bit(lane) != 0
    }

    /// The lanes in it, the most urgent first.
    pub fn iter(self) -> impl Iterator<Item = Lane> {
        Lane::ALL.iter().copied().filter(move |lane| self.contains(*lane))
    }

    const fn bit(lane: Lane) -> u8 {
        match lane {
            Lane::Alert => 1,
            Lane::Routine => 2,
            Lane::Bulk => 4,
        }
    }
}

impl Registry {
    /// Nobody is connected; the store holds these streams and receipts.
    pub fn new(book: Arc<Book>, streams: Vec<StoredStream>, receipts: Vec<GatewayReceipt>) -> Self {
        let registry = Self { book, inner: Mutex::default() };
        registry.inner().streams.load(streams, receipts);
        registry
    }

    /// Lists a link. It displaces older ones of the region on the same lanes: they are most likely what
    /// a broken line left behind.
    pub fn enter(&self, region: &RegionId, lanes: Lanes) -> Ticket {
        let (sender, wakes) = mpsc::channel(WAKES_QUEUED_MAX);
        let (displaced, behind) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let mut inner = self.inner();
        let number = inner.next;
        inner.next += 1;
        let links = inner.links.entry(region.clone()).or_default();
        for older in links.extract_if(.., |older| older.lanes.0 & lanes.0 != 0) {
            older.displaced.cancel();
        }
        links.push(Handle {
            number,
            lanes,
            wakes: sender,
            behind: Arc::clone(&behind),
            displaced: displaced.clone(),
        });
        let assembler = inner.assemblers.entry((region.clone(), lanes)).or_insert_with(|| {
            Arc::new(tokio::sync::Mutex::new(Assembler::new(seal::key::sha256)))
        });
        let assembler = Arc::clone(assembler);
        Ticket { wakes, displaced, assembler, behind, number, region: region.clone() }
    }

    /// Takes a link off the list.
    pub fn leave(&self, ticket: &Ticket) {
        let mut inner = self.inner();
        if let Some(links) = inner.links.get_mut(&ticket.region) {
            links.retain(|link| link.number != ticket.number);
            if links.is_empty() {
                inner.links.remove(&ticket.region);
            }
        }
    }

    /// Ends the links of these regions; what they may have now, they get when they dial again.
    pub fn displace(&self, whose: impl Fn(&RegionId) -> bool) {
        let inner = self.inner();
        let links = inner.links.iter().filter(|(region, _)| whose(region));
        links.flat_map(|(_, links)| links).for_each(|link| link.displaced.cancel());
    }

    /// Tells every link.
    pub fn tell_all(&self, wake: &Wake) {
        for link in self.inner().links.values().flatten() {
            link.tell(wake.clone());
        }
    }

    /// Tells the recipients of a stream that packagings of it were deleted.
    pub fn tell_replaced(&self, stream: &StreamId) {
        let recipients = self.recipients(stream);
        let inner = self.inner();
        for region in &recipients {
            inner.tell(region, stream.lane, Wake::Replaced(stream.clone()));
        }
    }

    /// Tells each of these regions of an agreement version, once.
    pub fn tell_agreement(&self, regions: &[RegionId], signed: &SignedObject) {
        let inner = self.inner();
        for link in regions.iter().filter_map(|region| inner.links.get(region)?.last()) {
            link.tell(Wake::Agreement(signed.clone()));
        }
    }

    /// Tells each of these regions of a proposal, on the link that carries them.
    pub fn tell_proposal(&self, regions: &[RegionId], signed: &SignedObject) {
        let inner = self.inner();
        for region in regions {
            inner.tell(region, Lane::Routine, Wake::Proposal(signed.clone()));
        }
    }

    /// How many links each region has that is connected.
    pub fn connected(&self) -> BTreeMap<RegionId, usize> {
        self.inner().links.iter().map(|(region, links)| (region.clone(), links.len())).collect()
    }

    /// What matters to a region on these lanes. What is committed later is told to its ticket.
    pub fn snapshot(&self, region: &RegionId, lanes: Lanes) -> Snapshot {
        let versions = self.book.versions_of(region);
        let inner = self.inner();
        let mut snapshot = Snapshot::default();
        let streams = versions.into_iter().flat_map(|version| inner.streams.of_version(version));
        for (stream, StreamState { last, head, receipts, .. }) in
            streams.filter(|(stream, _)| lanes.contains(stream.lane) && self.is_believed(stream))
        {
            if stream.origin == *region {
                snapshot.written.push((stream.clone(), *last));
            } else {
                snapshot.received.push((stream.clone(), *last, head.clone()));
            }
            // One who came back with another key is another.
            let terms = self.book.terms_of(stream);
            let receipts = receipts
                .iter()
                .filter(|(party, _)| terms.as_ref().is_some_and(|terms| terms.admits(party)))
                .map(|(party, (at, signed))| (stream.clone(), party.clone(), *at, signed.clone()));
            snapshot.receipts.extend(receipts);
        }
        snapshot
    }

    /// Whether the origin of a stream is in the linkage still: nobody takes the rest of it from one who is not.
    fn is_believed(&self, stream: &StreamId) -> bool {
        self.book.terms_of(stream).is_some_and(|terms| terms.admits(&stream.origin))
    }

    /// How far a stream is stored; 0 where nothing is.
    pub fn last(&self, stream: &StreamId) -> Position {
        let inner = self.inner();
        inner.streams.find(stream).map_or_else(|| seal::chain::start(stream), |state| state.last)
    }

    /// How far each live recipient of a stream has receipted it.
    pub fn receipted(&self, stream: &StreamId) -> Vec<(RegionId, u64)> {
        let recipients = self.recipients(stream);
        let inner = self.inner();
        let receipts = inner.streams.find(stream).map(|state| &state.receipts);
        let seq = |party: &RegionId| receipts?.get(party).map(|(at, _)| at.seq);
        recipients.into_iter().map(|party| (party.clone(), seq(&party).unwrap_or(0))).collect()
    }

    /// Whether a stream is there, or its origin may have one more.
    pub fn has_room_for(&self, stream: &StreamId) -> bool {
        let inner = self.inner();
        inner.streams.find(stream).is_some()
            || inner.streams.count_of(&stream.origin) < crate::streams::STREAMS_PER_ORIGIN_MAX
    }

    /// Tells a commit to all it is for.
    pub fn route(&self, committed: &Committed) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let mut told = HashMap::new();
        for (stream, segment) in &*committed.segments {
            told.insert(stream, segment.last_seq);
            let recipients = self.recipients(stream);
            for party in &recipients {
                inner.tell(party, stream.lane, Wake::Segment(stream.clone(), segment.clone()));
            }
            if let Some((from, to)) = inner.streams.packable(stream, segment, &recipients) {
                inner.tell(&stream.origin, stream.lane, Wake::Want(stream.clone(), from, to));
            }
        }
        for (stream, last) in &*committed.streams {
            inner.streams.grew(stream, *last);
            if told.get(stream) == Some(&last.seq) {
                continue;
            }
            for party in self.recipients(stream) {
                inner.tell(&party, stream.lane, Wake::Grew(stream.clone(), last.seq));
            }
        }
        for receipt in &*committed.receipts {
            inner.streams.receipted(receipt);
            let Some(terms) = self.book.terms_of(&receipt.stream) else { continue };
            for party in terms.live.iter().filter(|party| **party != receipt.party) {
                inner.tell(party, receipt.stream.lane, Wake::Receipt(receipt.clone()));
            }
        }
        for (stream, signed) in &*committed.heads {
            inner.streams.headed(stream, signed.clone());
            for party in self.recipients(stream) {
                inner.tell(&party, stream.lane, Wake::Head(stream.clone(), signed.clone()));
            }
        }
    }

    /// Takes the store's word in place of commits that were not heard; all links look for themselves.
    pub fn reload(&self, streams: Vec<StoredStream>, receipts: Vec<GatewayReceipt>) {
        let mut inner = self.inner();
        inner.streams.load(streams, receipts);
        for link in inner.links.values().flatten() {
            link.behind.store(true, Ordering::Release);
        }
    }

    /// Asks a stream's origin for a range, if it is connected. Who asks must ask again.
    pub fn ask_origin(&self, stream: &StreamId, from_seq: u64, to_seq: u64) {
        let wake = Wake::Want(stream.clone(), from_seq, to_seq);
        self.inner().tell(&stream.origin, stream.lane, wake);
    }

    fn recipients(&self, stream: &StreamId) -> Vec<RegionId> {
        let terms = self.book.terms_of(stream);
        terms.map(|terms| terms.recipients(&stream.origin).cloned().collect()).unwrap_or_default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change leaves it whole, so a panic elsewhere did not break it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tell(&self, region: &RegionId, lane: Lane, wake: Wake) {
        let links = self.links.get(region).into_iter().flatten();
        if let Some(link) = links.rev().find(|link| link.lanes.contains(lane)) {
            link.tell(wake);
        }
    }
}

impl Handle {
    fn tell(&self, wake: Wake) {
        if self.wakes.try_send(wake).is_err() {
            self.behind.store(true, Ordering::Release);
        }
    }
}

impl Ticket {
    /// Whether something was not told; asked once, it is forgotten.
    pub fn fell_behind(&self) -> bool {
        self.behind.swap(false, Ordering::AcqRel)
    }
}
