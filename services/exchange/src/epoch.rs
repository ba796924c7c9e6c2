//! How a region finds out that its store went back: it is shown what it has signed and does not know. Its numbers
//! are taken then, and it goes on in a new epoch.

use crate::home::Home;
use crate::link::{Exchange, OPENING_TIMEOUT};
use domain::kernel::{Entropy, Epoch, Reason, RegionId, Timestamp};
use domain::stream::{Parent, Position, StreamId};
use proto::convert::entry::{self, Entry};
use proto::exchange::v1::FetchRequest;
use proto::exchange::v1::exchange_service_client::ExchangeServiceClient;
use runtime::ErrorChain;
use seal::segment::Segment;
use seal::signed::Receipt;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use storage::region::{OpenEpoch, Recipients, Store};
use storage::{ReadError, StoreError, WriteError};
use tokio::sync::Mutex;
use tonic::transport::Channel;

/// Streams of which others hold something else than this store, as far as was found out since the server was started.
pub type Lost = Arc<std::sync::Mutex<HashSet<StreamId>>>;

/// Places that a gateway is asked to show.
const ASKED_MAX: usize = 16;
/// Epochs beside the one that is left, that the next one follows too.
const BESIDE_MAX: usize = 15;
/// How far the clock of another copy may be ahead.
const CLOCK_AHEAD_MS_MAX: i64 = 3_600_000;

/// Whether the region has left an epoch since its server was started; held by who is about to.
///
/// It leaves one by itself once a run: whoever is shown again and again what it has signed and does not know is one
/// of two copies at work, and a person must say which of them stays.
pub type Left = Arc<Mutex<bool>>;

/// What a gateway says that it holds of this region's streams, and this store does not.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// What it could not show: its word alone moves nobody.
    unproved: BTreeMap<StreamId, Position>,
}

impl Claims {
    /// Whether the gateway says of the stream what the receipt of a party says too.
    pub(crate) fn agree(&self, receipt: &Receipt) -> bool {
        let claim = self.unproved.get(&receipt.stream);
        claim.is_some_and(|claim| claim.seq >= receipt.position.seq)
    }
}

impl Exchange {
    /// Holds what the gateway has of this region's streams against the store. Leaves the epoch when the gateway
    /// shows that there is more of it than this store knows.
    pub(crate) async fn compare(
        &self,
        client: &mut ExchangeServiceClient<Channel>,
        stored: &[(StreamId, Position)],
    ) -> Result<Claims, StoreError> {
        let home = &self.home;
        let mut claims = Claims::default();
        let mut asked = 0;
        for (stream, position) in stored {
            if position.seq == 0 || home.knows(stream, *position).await? {
                continue;
            }
            home.lose(stream);
            let present = home.store.epoch();
            if stream.epoch < present {
                // It was left for that.
                continue;
            }
            // A gateway can make up as many as it likes, and one of the true ones is enough.
            asked += 1;
            let likely = asked <= ASKED_MAX && home.may_follow(stream.epoch);
            let proof = if likely { self.proof(client, stream, *position).await? } else { None };
            match proof {
                None => {
                    home.alarm(Some(stream), Reason::WentBack);
                    claims.unproved.insert(stream.clone(), *position);
                }
                Some(parents) if stream.epoch != present => {
                    let own = home.store.parents();
                    if !parents.contains(&present) && parents.iter().any(|of| own.contains(of)) {
                        // Until a person has chosen which of the two stays.
                        let region = home.book.region.clone();
                        home.store.note_epoch_beside(region, stream.epoch).await?;
                        home.alarm(Some(stream), Reason::RegionCloned);
                    } else {
                        home.leave_epoch(present, vec![stream.epoch]).await?;
                    }
                }
                Some(_) => home.leave_epoch(present, Vec::new()).await?,
            }
        }
        Ok(claims)
    }

    /// Asks for what is not known here: a segment that this region has signed, whose place is another in this store.
    /// Gives the epochs that its own follows, where it shows that; `None` where there is no such segment.
    async fn proof(
        &self,
        client: &mut ExchangeServiceClient<Channel>,
        stream: &StreamId,
        position: Position,
    ) -> Result<Option<Vec<Epoch>>, ReadError> {
        let home = &self.home;
        let rows = home.store.list_streams().await?;
        let own = rows.iter().find(|row| row.stream == *stream).map_or(0, |row| row.position.seq);
        let request = FetchRequest {
            stream: Some(stream.into()),
            from_seq: if own < position.seq { own + 1 } else { position.seq },
            max_size: 0,
            ..FetchRequest::default()
        };
        let answer = match tokio::time::timeout(OPENING_TIMEOUT, client.fetch(request)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                tracing::warn!(error = %ErrorChain(&status), "what the gateway says it holds was not shown");
                return Ok(None);
            }
            Err(_) => return Ok(None),
        };
        let (book, now) = (&home.book, home.clock.now());
        for bytes in answer.segments {
            let Ok(segment) = Segment::parse(bytes) else { continue };
            let key = book.trust.key_of(&book.region, &segment.key_id(), now);
            let signed =
                segment.stream() == stream && key.is_some_and(|key| segment.verify(&key).is_ok());
            if signed && !home.knows(stream, segment.after()).await? {
                return Ok(Some(self.parents(&segment)));
            }
        }
        Ok(None)
    }

    /// The epochs that a stream's own follows, by its first entry.
    fn parents(&self, segment: &Segment) -> Vec<Epoch> {
        let book = &self.home.book;
        let opened = book.open(segment).unwrap_or_default();
        let first = opened.into_iter().next().map(|(_, salted)| entry::decode(salted.entry));
        match first {
            Some(Ok(Entry::Start { parents, .. })) => {
                parents.iter().map(|Parent { epoch, .. }| *epoch).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Home {
    /// Others hold something else of one of this region's streams: it is not sent any more.
    fn lose(&self, stream: &StreamId) {
        self.lost().insert(stream.clone());
    }

    /// Whether a stream is sent still.
    pub(crate) fn is_lost(&self, stream: &StreamId) -> bool {
        self.lost().contains(stream)
    }

    fn lost(&self) -> MutexGuard<'_, HashSet<StreamId>> {
        // Each change leaves it whole.
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an epoch may be one of this region's: none was minted in the future.
    fn may_follow(&self, epoch: Epoch) -> bool {
        epoch.minted_at() <= self.clock.now().plus_millis(CLOCK_AHEAD_MS_MAX)
    }

    /// Whether this place of one of this region's streams is as the store has it.
    pub(crate) async fn knows(
        &self,
        stream: &StreamId,
        position: Position,
    ) -> Result<bool, ReadError> {
        let known = self.store.find_outbox_hash(stream, position.seq).await?;
        Ok(known == Some(position.h))
    }

    /// Looks whether a party has signed for what the gateway says that it holds and this store does not. The gateway
    /// has deleted what it would show, if all have signed for it.
    pub(crate) async fn compare_claim(&self, receipt: &Receipt) -> Result<(), StoreError> {
        let Receipt { stream, position, party, .. } = receipt;
        let agreement = self.book.agreement(stream.agreement, stream.version);
        let is_party = agreement.is_some_and(|agreement| agreement.has_party(party));
        let present = self.store.epoch();
        let counts = is_party && stream.epoch >= present && self.may_follow(stream.epoch);
        if counts && !self.knows(stream, *position).await? {
            let beside = Some(stream.epoch).filter(|epoch| *epoch > present);
            self.leave_epoch(present, beside.into_iter().collect()).await?;
        }
        Ok(())
    }

    /// Looks whether a receipt that this region has signed in its present epoch goes beyond its cursor.
    pub(crate) async fn compare_own(&self, receipt: &Receipt) -> Result<(), StoreError> {
        let present = self.store.epoch();
        // One that is older is explained by the restore that opened the epoch.
        if receipt.created_at <= present.minted_at() {
            return Ok(());
        }
        let inboxes = self.store.list_inboxes().await?;
        let applied = inboxes.iter().find(|row| row.stream == receipt.stream);
        if applied.map_or(0, |row| row.position.seq) >= receipt.position.seq {
            return Ok(());
        }
        Ok(self.leave_epoch(present, Vec::new()).await?)
    }

    /// Leaves an epoch for a new one; `beside` are epochs that were opened elsewhere. Only once a run.
    pub async fn leave_epoch(&self, left: Epoch, beside: Vec<Epoch>) -> Result<(), WriteError> {
        let mut has_left = self.left.lock().await;
        // Another link may have found it out at the same time.
        if self.store.epoch() != left {
            return Ok(());
        }
        let region = &self.book.region;
        if *has_left {
            for epoch in beside {
                if self.store.epochs_beside().len() < BESIDE_MAX {
                    self.store.note_epoch_beside(region.clone(), epoch).await?;
                }
            }
            self.alarm(None, Reason::RegionCloned);
            return Ok(());
        }
        // Before anything is written: who waits for it may be dropped meanwhile.
        *has_left = true;
        let (clock, entropy) = (self.clock.as_ref(), self.entropy.as_ref());
        let leaving = Leaving { left, beside, recipients: self.book.recipients() };
        let opened = open_next(&self.store, region, leaving, clock.now(), entropy).await;
        if opened.is_err() {
            *has_left = false;
        }
        let present = opened?;
        tracing::error!(
            region.id = %region,
            error.reason = Reason::WentBack.name(),
            %left,
            epoch = %present,
            "this store was restored from a copy: a new epoch is open"
        );
        Ok(())
    }
}

/// An epoch that is left.
#[derive(Debug)]
pub struct Leaving {
    /// The epoch.
    pub left: Epoch,
    /// Epochs that were opened elsewhere.
    pub beside: Vec<Epoch>,
    /// Who receives what is shown under each agreement version.
    pub recipients: Recipients,
}

/// Leaves an epoch for one that is greater than all that are known. Gives the one that the store is in then.
///
/// # Errors
/// When nothing could be written.
pub async fn open_next(
    store: &Store,
    region: &RegionId,
    Leaving { left, mut beside, recipients }: Leaving,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<Epoch, WriteError> {
    beside.extend(store.epochs_beside());
    beside.sort_unstable();
    beside.drain(..beside.len().saturating_sub(BESIDE_MAX));
    let newest = beside.iter().copied().fold(left, Epoch::max);
    let epoch = Epoch::mint_after(newest, now, entropy);
    let region = region.clone();
    store.open_epoch(OpenEpoch { region, left, epoch, beside, recipients, now }).await
}
