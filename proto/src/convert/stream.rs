//! Names of streams and places in them.

use super::kernel::encode_id;
use super::{Door, Path, Rules, Violations};
use crate::agreement::v1 as agreement_pb;
use crate::exchange::v1 as pb;
use bytes::Bytes;
use domain::kernel::{AgreementId, Epoch};
use domain::stream::{Position, StreamId};

impl From<&StreamId> for pb::StreamId {
    fn from(stream: &StreamId) -> Self {
        let StreamId { origin, epoch, agreement, version, lane } = stream;
        Self {
            origin: origin.as_str().to_owned(),
            epoch: encode_id(epoch.as_bytes()),
            agreement_id: encode_id(agreement.as_bytes()),
            agreement_version: *version,
            lane: lane.code(),
        }
    }
}

impl TryFrom<pb::StreamId> for StreamId {
    type Error = Violations;
    fn try_from(stream: pb::StreamId) -> Result<Self, Violations> {
        let mut door = Door::new(Rules::Caller);
        let value = stream_id(&mut door, Path::ROOT, stream);
        door.finish(value)
    }
}

/// Checks the name of a stream.
pub fn stream_id(door: &mut Door, at: Path<'_>, stream: pb::StreamId) -> Option<StreamId> {
    let pb::StreamId { origin, epoch, agreement_id, agreement_version, lane } = stream;
    let origin = door.slug(at.field("origin"), &origin);
    let epoch = door.id(at.field("epoch"), &epoch, Epoch::from_slice);
    let agreement = door.id(at.field("agreement_id"), &agreement_id, AgreementId::from_slice);
    let version = door.number(at.field("agreement_version"), agreement_version, 1..=u32::MAX);
    let lane = door.code(at.field("lane"), lane);
    Some(StreamId {
        origin: origin?,
        epoch: epoch?,
        agreement: agreement?,
        version: version?,
        lane: lane?,
    })
}

impl From<(&StreamId, Position)> for pb::StreamPosition {
    fn from((stream, position): (&StreamId, Position)) -> Self {
        let Position { seq, h } = position;
        Self { stream: Some(stream.into()), seq, h: Bytes::copy_from_slice(&h) }
    }
}

impl TryFrom<pb::StreamPosition> for (StreamId, Position) {
    type Error = Violations;
    fn try_from(position: pb::StreamPosition) -> Result<Self, Violations> {
        let mut door = Door::new(Rules::Caller);
        let value = stream_position(&mut door, Path::ROOT, position);
        door.finish(value)
    }
}

/// Checks a place in a stream.
pub fn stream_position(
    door: &mut Door,
    at: Path<'_>,
    position: pb::StreamPosition,
) -> Option<(StreamId, Position)> {
    let pb::StreamPosition { stream, seq, h } = position;
    let stream = door
        .required(at.field("stream"), stream)
        .and_then(|stream| stream_id(door, at.field("stream"), stream));
    let h = door.array(at.field("h"), &h);
    Some((stream?, Position { seq, h: h? }))
}

impl From<&StreamId> for agreement_pb::StreamKey {
    fn from(stream: &StreamId) -> Self {
        let pb::StreamId { origin, epoch, agreement_id, agreement_version, lane } = stream.into();
        Self { origin_region: origin, epoch, agreement_id, agreement_version, lane }
    }
}

impl TryFrom<agreement_pb::StreamKey> for StreamId {
    type Error = Violations;
    fn try_from(key: agreement_pb::StreamKey) -> Result<Self, Violations> {
        let mut door = Door::new(Rules::Caller);
        let value = stream_key(&mut door, Path::ROOT, key);
        door.finish(value)
    }
}

/// Checks the name of a stream as officers give it.
pub fn stream_key(door: &mut Door, at: Path<'_>, key: agreement_pb::StreamKey) -> Option<StreamId> {
    let agreement_pb::StreamKey { origin_region, epoch, agreement_id, agreement_version, lane } =
        key;
    let origin = door.slug(at.field("origin_region"), &origin_region);
    let epoch = door.id(at.field("epoch"), &epoch, Epoch::from_slice);
    let agreement = door.id(at.field("agreement_id"), &agreement_id, AgreementId::from_slice);
    let version = door.number(at.field("agreement_version"), agreement_version, 1..=u32::MAX);
    let lane = door.code(at.field("lane"), lane);
    Some(StreamId {
        origin: origin?,
        epoch: epoch?,
        agreement: agreement?,
        version: version?,
        lane: lane?,
    })
}
