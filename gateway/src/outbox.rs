//! Frames of a link that go before pieces. What is newer takes the place of what was not sent yet, so a
//! peer that does not read costs no more memory than it has streams.

use domain::kernel::{Lane, Reason, RegionId};
use domain::stream::{Position, StreamId};
use proto::directory::v1::TrustSet;
use proto::exchange::v1 as pb;
use proto::exchange::v1::link_response::Frame;
use proto::kernel::v1::SignedObject;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Refusals that wait; one more pushes out the oldest, which the peer could have read.
const REFUSALS_QUEUED_MAX: usize = 64;
/// Bytes of the detail of a refusal.
const DETAIL_BYTES_MAX: usize = 256;

/// What waits to be sent.
#[derive(Debug, Default)]
pub struct Outbox {
    welcome: Option<pb::Welcome>,
    trust: Option<TrustSet>,
    /// Each is told once a link, so there are never more than the peer has agreements.
    agreements: VecDeque<SignedObject>,
    pong: Option<u64>,
    ping: Option<u64>,
    credit: [u32; Lane::ALL.len()],
    refusals: VecDeque<pb::Refusal>,
    stored: Newest<StreamId, Position>,
    wants: Newest<(StreamId, u64), u64>,
    replaced: Newest<(StreamId, u64), u64>,
    receipts: Newest<(StreamId, RegionId), SignedObject>,
    heads: Newest<StreamId, SignedObject>,
    proposals: Newest<[u8; 32], SignedObject>,
    last: Option<Frame>,
}

/// The newest value of each key, in the order in which the keys came.
#[derive(Debug)]
struct Newest<K, V> {
    order: VecDeque<K>,
    values: HashMap<K, V>,
}

impl Outbox {
    /// The link is open.
    pub fn welcome(&mut self, welcome: pb::Welcome) {
        self.welcome = Some(welcome);
    }

    /// What the authority has signed.
    pub fn trust(&mut self, set: TrustSet) {
        // What was not sent yet may hold the directory that this one leaves out.
        let directory = set.directory.or_else(|| self.trust.take()?.directory);
        self.trust = Some(TrustSet { directory, ..set });
    }

    /// An agreement version; what is sealed under it comes after it.
    pub fn agreement(&mut self, signed: SignedObject) {
        self.agreements.push_back(signed);
    }

    /// A ping of ours.
    pub fn ping(&mut self, token: u64) {
        self.ping = Some(token);
    }

    /// The answer to a ping.
    pub fn pong(&mut self, token: u64) {
        self.pong = Some(token);
    }

    /// More credit.
    pub fn credit(&mut self, lane: Lane, bytes: u32) {
        if let Some(at) = Lane::ALL.iter().position(|other| *other == lane) {
            self.credit[at] = self.credit[at].saturating_add(bytes);
        }
    }

    /// A stream is on disk up to here.
    pub fn stored(&mut self, stream: StreamId, last: Position) {
        self.stored.set(stream, last);
    }

    /// Send again; `to_seq` 0 means to the end.
    pub fn want(&mut self, stream: StreamId, from_seq: u64, to_seq: u64) {
        self.wants.set((stream, to_seq), from_seq);
    }

    /// Each packaging of a range is deleted.
    pub fn replaced(&mut self, stream: StreamId, (from_seq, to_seq): (u64, u64)) {
        self.replaced.set((stream, from_seq), to_seq);
    }

    /// A party's receipt.
    pub fn receipt(&mut self, stream: StreamId, party: RegionId, signed: SignedObject) {
        self.receipts.set((stream, party), signed);
    }

    /// An origin's head.
    pub fn head(&mut self, stream: StreamId, signed: SignedObject) {
        self.heads.set(stream, signed);
    }

    /// A proposal of this text.
    pub fn proposal(&mut self, sha256: [u8; 32], signed: SignedObject) {
        self.proposals.set(sha256, signed);
    }

    /// Something was refused; the link stays open.
    pub fn refuse(&mut self, reason: Reason, stream: Option<&StreamId>, detail: &str) {
        if self.refusals.len() == REFUSALS_QUEUED_MAX {
            self.refusals.pop_front();
        }
        self.refusals.push_back(refusal(reason, stream, detail));
    }

    /// The last frame of the link: why it closes. The first one counts.
    pub fn close(&mut self, frame: Frame) {
        self.last.get_or_insert(frame);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        let Self {
            welcome,
            trust,
            agreements,
            pong,
            ping,
            credit,
            refusals,
            stored,
            wants,
            replaced,
            receipts,
            heads,
            proposals,
            last,
        } = self;
        welcome.is_none()
            && trust.is_none()
            && agreements.is_empty()
            && pong.is_none()
            && ping.is_none()
            && credit.iter().all(|bytes| *bytes == 0)
            && refusals.is_empty()
            && stored.order.is_empty()
            && wants.order.is_empty()
            && replaced.order.is_empty()
            && receipts.order.is_empty()
            && heads.order.is_empty()
            && proposals.order.is_empty()
            && last.is_none()
    }

    /// The next frame.
    pub fn pop(&mut self) -> Option<Frame> {
        if let Some(welcome) = self.welcome.take() {
            return Some(Frame::Welcome(welcome));
        }
        if let Some(trust) = self.trust.take() {
            return Some(Frame::Trust(trust));
        }
        if let Some(signed) = self.agreements.pop_front() {
            return Some(Frame::Agreement(signed));
        }
        if let Some(token) = self.pong.take() {
            return Some(Frame::Ping(pb::Ping { reply: true, token }));
        }
        if let Some(token) = self.ping.take() {
            return Some(Frame::Ping(pb::Ping { reply: false, token }));
        }
        for (lane, bytes) in Lane::ALL.iter().zip(&mut self.credit) {
            let size = std::mem::take(bytes);
            if size > 0 {
                return Some(Frame::Credit(pb::Credit { lane: lane.code(), size }));
            }
        }
        if let Some(refusal) = self.refusals.pop_front() {
            return Some(Frame::Refusal(refusal));
        }
        if let Some((stream, last)) = self.stored.pop() {
            return Some(Frame::Stored((&stream, last).into()));
        }
        if let Some(((stream, to_seq), from_seq)) = self.wants.pop() {
            let stream = Some((&stream).into());
            return Some(Frame::Want(pb::Want { stream, from_seq, to_seq }));
        }
        if let Some(((stream, from_seq), to_seq)) = self.replaced.pop() {
            let stream = Some((&stream).into());
            return Some(Frame::Replaced(pb::Replace { stream, from_seq, to_seq }));
        }
        if let Some((_, receipt)) = self.receipts.pop() {
            return Some(Frame::Receipt(receipt));
        }
        if let Some((_, head)) = self.heads.pop() {
            return Some(Frame::Head(head));
        }
        if let Some((_, signed)) = self.proposals.pop() {
            return Some(Frame::Proposal(signed));
        }
        self.last.take()
    }
}

/// A refusal that closes the link.
pub fn fatal(reason: Reason, detail: &str) -> Frame {
    Frame::Refusal(pb::Refusal { fatal: true, ..refusal(reason, None, detail) })
}

fn refusal(reason: Reason, stream: Option<&StreamId>, detail: &str) -> pb::Refusal {
    let detail = detail[..detail.floor_char_boundary(DETAIL_BYTES_MAX)].to_owned();
    pb::Refusal { reason: reason.code(), stream: stream.map(Into::into), detail, fatal: false }
}

impl<K: Clone + Eq + Hash, V> Newest<K, V> {
    fn set(&mut self, key: K, value: V) {
        if self.values.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
    }

    fn pop(&mut self) -> Option<(K, V)> {
        self.values.remove_entry(&self.order.pop_front()?)
    }
}

impl<K, V> Default for Newest<K, V> {
    fn default() -> Self {
        Self { order: VecDeque::new(), values: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::kernel::{AgreementId, Entropy, Epoch, Timestamp};

    struct Zeros;
    impl Entropy for Zeros {
        fn fill(&self, out: &mut [u8]) {
            out.fill(0);
        }
    }

    fn stream(origin: &str) -> StreamId {
        StreamId {
            origin: RegionId::parse(origin).unwrap(),
            epoch: Epoch::mint(Timestamp::default(), &Zeros),
            agreement: AgreementId::mint(Timestamp::default(), &Zeros),
            version: 1,
            lane: Lane::Routine,
        }
    }

    #[test]
    fn what_is_newer_takes_the_place_of_what_was_not_sent() {
        let mut outbox = Outbox::default();
        for seq in 1..=3 {
            outbox.stored(stream("a"), Position { seq, h: [0; 32] });
            outbox.stored(stream("b"), Position { seq, h: [0; 32] });
            outbox.credit(Lane::Bulk, 10);
        }
        assert_eq!(outbox.pop(), Some(Frame::Credit(pb::Credit { lane: 3, size: 30 })));
        for origin in ["a", "b"] {
            let Some(Frame::Stored(stored)) = outbox.pop() else { panic!("a position") };
            assert_eq!((stored.stream.unwrap().origin.as_str(), stored.seq), (origin, 3));
        }
        assert!(outbox.is_empty());
        assert_eq!(outbox.pop(), None);
    }

    #[test]
    fn refusals_are_bounded_and_the_reason_to_close_comes_last() {
        let mut outbox = Outbox::default();
        outbox.close(fatal(Reason::ProtocolViolation, "first"));
        outbox.close(fatal(Reason::Internal, "second"));
        for _ in 0..REFUSALS_QUEUED_MAX + 10 {
            outbox.refuse(Reason::ChainBroken, None, &"段".repeat(200));
        }
        let frames: Vec<_> = std::iter::from_fn(|| outbox.pop()).collect();
        assert_eq!(frames.len(), REFUSALS_QUEUED_MAX + 1);
        let Some(Frame::Refusal(last)) = frames.last() else { panic!("a refusal") };
        assert_eq!((last.fatal, last.detail.as_str()), (true, "first"));
        let Some(Frame::Refusal(first)) = frames.first() else { panic!("a refusal") };
        assert_eq!(first.detail.len(), 255);
    }
}
