//! What a duty officer of each region sees: the demo reads its figures from there and nowhere else.

use crate::client;
use crate::phone::{Phone, said};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use domain::kernel::{Kind, Purpose, RegionId};
use domain::stream::StreamId;
use proto::agreement::v1 as agreement;
use proto::device::v1 as pb;
use runtime::{OnExit, Tasks};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;

/// One stream and one recipient.
pub(super) type Row = (StreamId, RegionId);

/// What was seen so far, by all duty officers.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When a phone sent a record.
    pub(super) sent: HashMap<Bytes, Instant>,
    /// From phone to neighbour, for each view of a record that a phone just sent.
    pub(super) latencies: Vec<Duration>,
    /// How often each entry had an effect.
    effects: HashMap<(Row, u64), u32>,
    /// What origin and recipient say of each stream.
    pub(super) rows: BTreeMap<Row, RowState>,
    /// Own records and neighbours' views, by region.
    pub(super) counts: BTreeMap<RegionId, (u64, u64)>,
    /// Regions whose link is up.
    pub(super) links_up: BTreeMap<RegionId, bool>,
    /// The newest views, newest last.
    pub(super) newest: Vec<String>,
}

/// What is known of one stream and recipient.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RowState {
    /// Entries the origin has numbered.
    pub(super) last: u64,
    /// Entries the recipient says it has passed.
    pub(super) applied: u64,
    /// Of these, parked.
    pub(super) parked: u64,
    /// Most entries that waited at once, by the origin's count of receipts.
    pub(super) queued_max: u64,
    /// Entries that wait now.
    pub(super) queued: u64,
}

const NEWEST_MAX: usize = 6;

/// Shared by all watchers.
#[derive(Clone, Debug, Default)]
pub(super) struct Board(Arc<Mutex<Seen>>);

impl Board {
    /// Looks at or changes what was seen.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        // Each change leaves it whole.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Most effects that one entry had, by row.
    pub(super) fn effects_max(&self) -> BTreeMap<Row, u32> {
        self.with(|seen| {
            let mut most: BTreeMap<Row, u32> = BTreeMap::new();
            for ((row, _), count) in &seen.effects {
                let max = most.entry(row.clone()).or_default();
                *max = (*max).max(*count);
            }
            most
        })
    }
}

/// Watches as the duty officer of `region`, until the tasks stop.
pub(super) fn watch(board: &Board, tasks: &Tasks, region: RegionId, officer: &Phone) {
    let channel = officer.channel().clone();
    let (soft, of_feed, of_region) = (tasks.soft().clone(), board.clone(), region.clone());
    let feed_channel = channel.clone();
    tasks.spawn("demo.watch", OnExit::Log, async move {
        tokio::select! {
            () = soft.cancelled() => {}
            ended = watch_feed(&of_feed, &of_region, &feed_channel) => log(&of_region, ended),
        }
    });
    let (soft, board) = (tasks.soft().clone(), board.clone());
    tasks.spawn("demo.watch_streams", OnExit::Log, async move {
        tokio::select! {
            () = soft.cancelled() => {}
            ended = watch_streams(&board, &region, &channel) => log(&region, ended),
        }
    });
}

fn log(region: &RegionId, ended: Result<()>) {
    if let Err(error) = ended {
        tracing::error!(region.id = %region, error = %format!("{error:#}"), "a watch ended");
    }
}

async fn watch_feed(board: &Board, region: &RegionId, channel: &Channel) -> Result<()> {
    let request =
        pb::WatchRequest { cursor: None, purpose: Purpose::Duty.code(), kinds: Vec::new() };
    let mut messages =
        client::device_service(channel).watch(request).await.map_err(said)?.into_inner();
    while let Some(message) = messages.message().await.map_err(said)? {
        let now = Instant::now();
        for change in message.changes {
            board
                .with(|seen| seen.change(region, change, now))
                .context("a change is not well formed")?;
        }
    }
    Ok(())
}

async fn watch_streams(board: &Board, region: &RegionId, channel: &Channel) -> Result<()> {
    let request = agreement::WatchStreamsRequest { purpose: Purpose::Operation.code() };
    let mut messages =
        client::agreement_service(channel).watch_streams(request).await.map_err(said)?.into_inner();
    while let Some(message) = messages.message().await.map_err(said)? {
        board
            .with(|seen| {
                seen.links_up.insert(region.clone(), message.link_up);
                message.streams.into_iter().try_for_each(|state| seen.state(region, state))
            })
            .context("a stream's state is not well formed")?;
    }
    Ok(())
}

impl Seen {
    fn change(&mut self, region: &RegionId, change: pb::Change, now: Instant) -> Option<()> {
        let counts = self.counts.entry(region.clone()).or_default();
        let (meta, source) = match change.subject? {
            pb::change::Subject::Record(_) => {
                counts.0 += 1;
                return Some(());
            }
            pb::change::Subject::View(view) => (view.view?.meta?, view.source?),
            // Nothing is withdrawn in the demo.
            pb::change::Subject::Withdrawal(_) => return Some(()),
        };
        counts.1 += 1;
        let revision = meta.revision.as_ref()?;
        let stream = StreamId {
            origin: source.origin_region.parse().ok()?,
            // Nobody hands a record over here, so its epoch is that of its stream.
            epoch: domain::kernel::Epoch::from_slice(&revision.epoch)?,
            agreement: domain::kernel::AgreementId::from_slice(&source.agreement_id)?,
            version: source.agreement_version,
            lane: domain::kernel::Lane::try_from(source.lane).ok()?,
        };
        *self.effects.entry(((stream, region.clone()), source.seq)).or_default() += 1;
        if revision.n == 1
            && let Some(sent) = self.sent.get(&meta.record_id)
        {
            self.latencies.push(now.duration_since(*sent));
        }
        let kind = Kind::try_from(meta.kind).map_or("?", Kind::name);
        self.newest.push(format!("{} → {region}  {kind}", meta.owner_region));
        if self.newest.len() > NEWEST_MAX {
            self.newest.remove(0);
        }
        Some(())
    }

    fn state(&mut self, region: &RegionId, state: agreement::StreamState) -> Option<()> {
        let stream = StreamId::try_from(state.stream?).ok()?;
        let party: RegionId = state.party_region.parse().ok()?;
        let origin = stream.origin == *region;
        let row = self.rows.entry((stream, party)).or_default();
        if origin {
            row.last = state.last_seq;
            row.queued = state.last_seq.saturating_sub(state.applied_seq);
            row.queued_max = row.queued_max.max(row.queued);
        } else {
            row.applied = state.applied_seq;
            row.parked = state.parked_count;
        }
        Some(())
    }
}
