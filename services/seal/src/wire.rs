//! The few fields that signed messages share, checked on the way in.

use crate::chain;
use bytes::Bytes;
use domain::kernel::{AgreementId, Epoch, Lane, RegionId, Timestamp};
use domain::stream::{Position, StreamId};
use proto::exchange::v1 as pb;

/// Largest seq: storage keeps it in a signed column.
pub(crate) const SEQ_MAX: u64 = i64::MAX.unsigned_abs();

/// The field that is missing, too long, out of range or of the wrong form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

pub(crate) fn stream_to_pb(stream: &StreamId) -> pb::StreamId {
    pb::StreamId {
        origin: stream.origin.as_str().into(),
        epoch: Bytes::copy_from_slice(stream.epoch.as_bytes()),
        agreement_id: Bytes::copy_from_slice(stream.agreement.as_bytes()),
        agreement_version: stream.version,
        lane: stream.lane.code(),
    }
}

pub(crate) fn stream_from_pb(stream: Option<pb::StreamId>) -> Result<StreamId, Malformed> {
    let pb::StreamId { origin, epoch, agreement_id, agreement_version, lane } =
        stream.ok_or(Malformed("stream"))?;
    if agreement_version == 0 {
        return Err(Malformed("stream.agreement_version"));
    }
    Ok(StreamId {
        origin: RegionId::parse(&origin).map_err(|_| Malformed("stream.origin"))?,
        epoch: Epoch::from_slice(&epoch).ok_or(Malformed("stream.epoch"))?,
        agreement: AgreementId::from_slice(&agreement_id)
            .ok_or(Malformed("stream.agreement_id"))?,
        version: agreement_version,
        lane: Lane::try_from(lane).map_err(|_| Malformed("stream.lane"))?,
    })
}

pub(crate) fn position_to_pb(stream: &StreamId, position: &Position) -> pb::StreamPosition {
    pb::StreamPosition {
        stream: Some(stream_to_pb(stream)),
        seq: position.seq,
        h: Bytes::copy_from_slice(&position.h),
    }
}

pub(crate) fn position_from_pb(
    position: Option<pb::StreamPosition>,
) -> Result<(StreamId, Position), Malformed> {
    let pb::StreamPosition { stream, seq, h } = position.ok_or(Malformed("position"))?;
    let stream = stream_from_pb(stream)?;
    if seq > SEQ_MAX {
        return Err(Malformed("position.seq"));
    }
    let position = Position { seq, h: fixed(&h, "position.h")? };
    // There is one chain hash before the first entry; another would pass for the proof of a fork.
    if seq == 0 && position != chain::start(&stream) {
        return Err(Malformed("position.h"));
    }
    Ok((stream, position))
}

pub(crate) fn time_to_pb(time: Timestamp) -> prost_types::Timestamp {
    let nanos = time.micros().rem_euclid(1_000_000) * 1_000;
    prost_types::Timestamp {
        seconds: time.micros().div_euclid(1_000_000),
        nanos: i32::try_from(nanos).expect("a second has less than 2^31 nanoseconds"),
    }
}

pub(crate) fn time_from_pb(
    time: Option<prost_types::Timestamp>,
    field: &'static str,
) -> Result<Timestamp, Malformed> {
    let prost_types::Timestamp { seconds, nanos } = time.ok_or(Malformed(field))?;
    if !(0..1_000_000_000).contains(&nanos) {
        return Err(Malformed(field));
    }
    seconds
        .checked_mul(1_000_000)
        .and_then(|micros| micros.checked_add(i64::from(nanos / 1_000)))
        .map(Timestamp::from_micros)
        .ok_or(Malformed(field))
}

pub(crate) fn fixed<const N: usize>(
    bytes: &[u8],
    field: &'static str,
) -> Result<[u8; N], Malformed> {
    bytes.try_into().map_err(|_| Malformed(field))
}
