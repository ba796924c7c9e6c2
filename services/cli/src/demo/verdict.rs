//! Whether all that was shared arrived: once, in order, the same on both sides.

use super::observe::{Board, Row, RowState};
use super::plan::CUT_FOR;
use super::world::{CUT, World};
use crate::client;
use crate::linkage::hex;
use crate::phone::{Phone, said};
use anyhow::Result;
use domain::kernel::{Purpose, RegionId};
use proto::agreement::v1::{GetStreamDigestRequest, GetStreamDigestResponse};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Rows and entries below which the demo has shown nothing.
const ROWS_MIN: usize = 3;
const ENTRIES_MIN: u64 = 700;

/// The verdict, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) ok: bool,
    pub(super) cut_s: u64,
    pub(super) streams: Vec<StreamVerdict>,
    pub(super) latency_ms: Latency,
    pub(super) failures: Vec<String>,
}

/// One stream and recipient.
#[derive(Debug, Serialize)]
pub(super) struct StreamVerdict {
    pub(super) stream: String,
    pub(super) party: String,
    pub(super) entries: u64,
    pub(super) applied: u64,
    pub(super) parked: u64,
    pub(super) queued_max: u64,
    pub(super) digest_origin: String,
    pub(super) digest_recipient: String,
    pub(super) effects_max: u32,
}

/// From phone to neighbour.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// Asks both sides of every stream and compares.
pub(super) async fn judge(
    world: &World,
    board: &Board,
    officers: &BTreeMap<RegionId, Phone>,
    mut failures: Vec<String>,
) -> Result<Verdict> {
    let effects = board.effects_max();
    let rows = board.with(|seen| seen.rows.clone());
    let mut streams = Vec::with_capacity(rows.len());
    for (row, state) in rows {
        let (stream, party) = &row;
        let origin = digest(officers, &stream.origin, &row).await?;
        let recipient = digest(officers, party, &row).await?;
        let verdict = StreamVerdict {
            stream: format!(
                "{}/{}/{}/{}",
                stream.origin,
                stream.agreement,
                stream.version,
                stream.lane.name()
            ),
            party: party.to_string(),
            entries: origin.entry_count,
            applied: recipient.entry_count.saturating_sub(recipient.parked_count),
            parked: recipient.parked_count,
            queued_max: state.queued_max,
            digest_origin: hex(&origin.digest),
            digest_recipient: hex(&recipient.digest),
            effects_max: effects.get(&row).copied().unwrap_or(0),
        };
        failures.extend(faults(
            &verdict,
            &state,
            party.as_str() == CUT || stream.origin.as_str() == CUT,
        ));
        streams.push(verdict);
    }
    let entries: u64 = streams.iter().map(|stream| stream.entries).sum();
    if streams.len() < ROWS_MIN || entries < ENTRIES_MIN {
        failures.push(format!("only {} streams with {entries} entries", streams.len()));
    }
    if world.tasks.failed().is_some() {
        failures.push("a server ended by itself".to_owned());
    }
    let mut latencies = board.with(|seen| seen.latencies.clone());
    if latencies.is_empty() {
        failures.push("no record was seen on its way from phone to neighbour".to_owned());
    }
    let latency_ms = latency(&mut latencies);
    Ok(Verdict { ok: failures.is_empty(), cut_s: CUT_FOR.as_secs(), streams, latency_ms, failures })
}

fn faults(verdict: &StreamVerdict, state: &RowState, of_cut_link: bool) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |holds: bool, what: &str| {
        if !holds {
            faults.push(format!("{} to {}: {what}", verdict.stream, verdict.party));
        }
    };
    check(verdict.entries > 0, "no entries");
    check(verdict.entries == verdict.applied + verdict.parked, "entries are missing");
    check(verdict.digest_origin == verdict.digest_recipient, "the two sides hold different views");
    check(verdict.effects_max == 1, "an entry had no effect, or more than one");
    check(!of_cut_link || state.queued_max > 0, "nothing queued while the link was cut");
    faults
}

async fn digest(
    officers: &BTreeMap<RegionId, Phone>,
    at: &RegionId,
    row: &Row,
) -> Result<GetStreamDigestResponse> {
    let Some(officer) = officers.get(at) else { return Ok(GetStreamDigestResponse::default()) };
    let request = GetStreamDigestRequest {
        stream: Some((&row.0).into()),
        purpose: Purpose::Operation.code(),
    };
    match client::agreement_service(officer.channel()).get_stream_digest(request).await {
        Ok(answer) => Ok(answer.into_inner()),
        // Nothing of the stream has come there: the comparison says so.
        Err(status) if status.code() == tonic::Code::NotFound => {
            Ok(GetStreamDigestResponse::default())
        }
        Err(status) => Err(said(status)),
    }
}

fn latency(all: &mut [Duration]) -> Latency {
    all.sort_unstable();
    let at = |share: usize| {
        let index = (all.len() * share / 100).min(all.len().saturating_sub(1));
        all.get(index).map_or(0.0, |latency| (latency.as_secs_f64() * 1e5).round() / 100.0)
    };
    Latency { p50: at(50), p99: at(99), max: at(100) }
}
