//! What the gateway holds of every stream, in memory: how far it goes, its newest head, and how far each
//! party is. Filled from the store at start and kept up by its commits, so that a region that connects
//! costs no read.

use crate::book::Version;
use bytes::Bytes;
use domain::kernel::RegionId;
use domain::stream::{Position, StreamId};
use std::collections::{BTreeMap, HashMap};
use storage::gateway::{GatewayReceipt, StoredStream};

/// Streams of one region that the gateway keeps: as many as a welcome can name.
pub(crate) const STREAMS_PER_ORIGIN_MAX: usize = 10_000;

/// All streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    by_version: HashMap<Version, BTreeMap<StreamId, StreamState>>,
    per_origin: HashMap<RegionId, usize>,
}

/// One stream.
#[derive(Clone, Debug)]
pub(crate) struct StreamState {
    /// How far it is stored.
    pub(crate) last: Position,
    /// The newest head, as it came.
    pub(crate) head: Option<Bytes>,
    /// The newest receipt of each party: how far it is, and the receipt as it came.
    pub(crate) receipts: BTreeMap<RegionId, (Position, Bytes)>,
}

impl Streams {
    /// Takes in what the store holds.
    pub(crate) fn load(&mut self, streams: Vec<StoredStream>, receipts: Vec<GatewayReceipt>) {
        for StoredStream { stream, last, head, .. } in streams {
            let state = self.entry(&stream);
            state.last = last;
            state.head = head.or(state.head.take());
        }
        for receipt in receipts {
            self.receipted(&receipt);
        }
    }

    /// A stream goes so far.
    pub(crate) fn grew(&mut self, stream: &StreamId, last: Position) {
        let state = self.entry(stream);
        if last.seq > state.last.seq {
            state.last = last;
        }
    }

    /// A head came.
    pub(crate) fn headed(&mut self, stream: &StreamId, signed: Bytes) {
        self.entry(stream).head = Some(signed);
    }

    /// A receipt came. Two hashes for one place prove that somebody was shown another stream.
    pub(crate) fn receipted(&mut self, receipt: &GatewayReceipt) {
        let GatewayReceipt { stream, party, position, signed, .. } = receipt;
        let state = self.entry(stream);
        let others = state.receipts.iter().map(|(other, (at, _))| (Some(other), *at));
        let own = [(None, state.last)];
        let contradicts = |at: &Position| at.seq == position.seq && at.h != position.h;
        if let Some((other, _)) = others.chain(own).find(|(_, at)| contradicts(at)) {
            tracing::error!(
                region.id = %party,
                stream.origin = %stream.origin,
                stream.lane = stream.lane.name(),
                agreement.id = %stream.agreement,
                seq = position.seq,
                against = other.map(tracing::field::display),
                "a receipt proves a fork"
            );
        }
        state.receipts.insert(party.clone(), (*position, signed.clone()));
    }

    /// What is held of one stream.
    pub(crate) fn find(&self, stream: &StreamId) -> Option<&StreamState> {
        self.by_version.get(&(stream.agreement, stream.version))?.get(stream)
    }

    /// All streams of an agreement version.
    pub(crate) fn of_version(
        &self,
        version: Version,
    ) -> impl Iterator<Item = (&StreamId, &StreamState)> {
        self.by_version.get(&version).into_iter().flatten()
    }

    /// How many streams of a region there are.
    pub(crate) fn count_of(&self, origin: &RegionId) -> usize {
        self.per_origin.get(origin).copied().unwrap_or(0)
    }

    fn entry(&mut self, stream: &StreamId) -> &mut StreamState {
        let of_version = self.by_version.entry((stream.agreement, stream.version)).or_default();
        if !of_version.contains_key(stream) {
            *self.per_origin.entry(stream.origin.clone()).or_default() += 1;
        }
        of_version.entry(stream.clone()).or_insert_with(|| StreamState {
            last: seal::chain::start(stream),
            head: None,
            receipts: BTreeMap::new(),
        })
    }
}
