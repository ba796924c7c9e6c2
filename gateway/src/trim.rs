//! Keeps what is held for one party within its limit: who is away for long, or takes nothing, fills nobody's disk but
//! its own share. The oldest of what it lacks goes, bulk first; the origin is asked for it when the party is back.

use crate::registry::Registry;
use domain::kernel::RegionId;
use domain::stream::StreamId;
use runtime::ErrorChain;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storage::gateway::Store;
use storage::{ReadError, StoreError};
use tokio_util::sync::CancellationToken;

/// How often it is looked how much is held.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Segments whose sizes are read at a time.
const SEGMENTS_PER_READ_MAX: u32 = 10_000;

/// What a party lacks of a stream, of what is held.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Backlog {
    stream: StreamId,
    /// It has receipted up to here.
    after: u64,
    bytes: u64,
}

/// Looks until the soft stop.
pub(crate) async fn run(
    registry: Arc<Registry>,
    store: Store,
    bytes_max: u64,
    soft: CancellationToken,
) {
    loop {
        // Neither arm holds anything.
        tokio::select! {
            () = soft.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if let Err(error) = look(&registry, &store, bytes_max).await {
            tracing::error!(error = %ErrorChain(&error), "what is held for a party was not looked at");
        }
    }
}

async fn look(registry: &Registry, store: &Store, bytes_max: u64) -> Result<(), StoreError> {
    let held = store.list_sizes().await?;
    if held.iter().map(|(_, bytes)| bytes).sum::<u64>() <= bytes_max {
        return Ok(());
    }
    let mut parties: BTreeMap<RegionId, Vec<Backlog>> = BTreeMap::new();
    for (stream, _) in &held {
        for (party, after) in registry.receipted(stream) {
            let bytes = store.size_behind(stream, after).await?;
            let backlog = Backlog { stream: stream.clone(), after, bytes };
            parties.entry(party).or_default().push(backlog);
        }
    }
    // Where the claim of each party on a stream begins.
    let mut claims: BTreeMap<StreamId, BTreeMap<RegionId, u64>> = BTreeMap::new();
    for (party, backlogs) in parties {
        let bytes: u64 = backlogs.iter().map(|backlog| backlog.bytes).sum();
        for (backlog, frees) in plan(backlogs, bytes_max) {
            let through = reach(store, &backlog, frees).await?;
            tracing::warn!(
                region.id = %party,
                stream.origin = %backlog.stream.origin,
                stream.lane = backlog.stream.lane.name(),
                bytes,
                through,
                "more is held for a region than its limit: the oldest goes, and is asked of its origin again"
            );
            claims.entry(backlog.stream).or_default().insert(party.clone(), through);
        }
    }
    for (stream, claims) in claims {
        // What somebody else still lacks and may claim stays.
        let needed = registry
            .receipted(&stream)
            .into_iter()
            .map(|(party, receipted)| claims.get(&party).copied().unwrap_or(0).max(receipted));
        if let Some(through) = needed.min().filter(|through| *through > 0) {
            store.trim(stream, through).await?;
        }
    }
    Ok(())
}

/// How many bytes of which streams go, so that a quarter of the limit is free afterwards: bulk first, alerts last, the
/// longest first.
fn plan(mut backlogs: Vec<Backlog>, bytes_max: u64) -> Vec<(Backlog, u64)> {
    let total: u64 = backlogs.iter().map(|backlog| backlog.bytes).sum();
    if total <= bytes_max {
        return Vec::new();
    }
    let mut excess = total - bytes_max / 4 * 3;
    // The most urgent lane is the least.
    backlogs.sort_by_key(|backlog| Reverse((backlog.stream.lane, backlog.bytes)));
    let mut goes = Vec::new();
    for backlog in backlogs {
        let frees = backlog.bytes.min(excess);
        excess -= frees;
        if frees > 0 {
            goes.push((backlog, frees));
        }
    }
    goes
}

/// The entry through which so many bytes of what a party lacks lie.
async fn reach(store: &Store, backlog: &Backlog, frees: u64) -> Result<u64, ReadError> {
    let (mut through, mut freed) = (backlog.after, 0);
    loop {
        let sizes =
            store.list_segment_sizes(&backlog.stream, through, SEGMENTS_PER_READ_MAX).await?;
        if sizes.is_empty() {
            return Ok(through);
        }
        for (last_seq, bytes) in sizes {
            if freed >= frees {
                return Ok(through);
            }
            (through, freed) = (last_seq, freed + bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::kernel::{AgreementId, Epoch, Lane};

    fn backlog(lane: Lane, version: u32, bytes: u64) -> Backlog {
        let stream = StreamId {
            origin: "a".parse().unwrap(),
            epoch: Epoch::from_slice(&[0x77; 16]).unwrap(),
            agreement: AgreementId::from_slice(&[0x77; 16]).unwrap(),
            version,
            lane,
        };
        Backlog { stream, after: 0, bytes }
    }

    #[test]
    fn what_is_over_the_limit_goes_bulk_first_and_alerts_last() {
        let all = [
            backlog(Lane::Alert, 1, 50),
            backlog(Lane::Routine, 1, 10),
            backlog(Lane::Routine, 2, 30),
            backlog(Lane::Bulk, 1, 10),
        ];
        assert_eq!(plan(all.to_vec(), 100), []);
        let goes = |bytes_max| -> Vec<_> {
            let goes = plan(all.to_vec(), bytes_max).into_iter();
            goes.map(|(backlog, frees)| (backlog.stream.lane, backlog.stream.version, frees))
                .collect()
        };
        assert_eq!(goes(80), [(Lane::Bulk, 1, 10), (Lane::Routine, 2, 30)]);
        assert_eq!(
            goes(40),
            [
                (Lane::Bulk, 1, 10),
                (Lane::Routine, 2, 30),
                (Lane::Routine, 1, 10),
                (Lane::Alert, 1, 20)
            ]
        );
    }
}
