//! Bodies of records as they are stored: the encoded message of the kind.

use super::{Door, Path, Rules, Violations, patrol, risk, track};
use crate::{patrol::v1 as patrol_pb, risk::v1 as risk_pb};
use bytes::Bytes;
use domain::kernel::Kind;
use domain::record::Body;
use prost::{DecodeError, Message};

/// Bytes of an encoded body.
pub const PAYLOAD_BYTES_MAX: usize = 65_536;

/// The encoded message of the body.
pub fn encode(body: &Body) -> Bytes {
    let bytes = match body {
        Body::Shift(shift) => patrol_pb::Shift::from(shift).encode_to_vec(),
        Body::Patrol(patrol) => patrol_pb::Patrol::from(patrol).encode_to_vec(),
        Body::CheckIn(check_in) => patrol_pb::CheckIn::from(check_in).encode_to_vec(),
        Body::TrackBatch(batch) => patrol_pb::TrackBatch::from(batch).encode_to_vec(),
        Body::Observation(observation) => patrol_pb::Observation::from(observation).encode_to_vec(),
        Body::Event(event) => risk_pb::Event::from(event).encode_to_vec(),
        Body::SosAlert(alert) => patrol_pb::SosAlert::from(alert).encode_to_vec(),
    };
    bytes.into()
}

/// Reads a body of our own back; nothing may be missing.
///
/// # Errors
/// Everything that is wrong with it, or that it is no message of the kind.
pub fn decode(kind: Kind, payload: &[u8]) -> Result<Body, Violations> {
    let mut door = Door::new(Rules::Store);
    let body = read(&mut door, "payload".into(), kind, payload);
    door.finish(body)
}

pub(super) fn read(door: &mut Door, at: Path<'_>, kind: Kind, payload: &[u8]) -> Option<Body> {
    door.size(at, payload.len(), 0..=PAYLOAD_BYTES_MAX)?;
    match Payload::read(kind, payload) {
        Ok(message) => message.check(door, at),
        Err(_) => door.refuse(at, "cannot be decoded as the message of its kind"),
    }
}

/// The message of a payload, not yet checked.
pub(super) enum Payload {
    Shift(patrol_pb::Shift),
    Patrol(patrol_pb::Patrol),
    CheckIn(patrol_pb::CheckIn),
    TrackBatch(patrol_pb::TrackBatch),
    Observation(patrol_pb::Observation),
    Event(risk_pb::Event),
    SosAlert(patrol_pb::SosAlert),
}

impl Payload {
    pub(super) fn read(kind: Kind, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(match kind {
            Kind::Shift => Self::Shift(Message::decode(payload)?),
            Kind::Patrol => Self::Patrol(Message::decode(payload)?),
            Kind::CheckIn => Self::CheckIn(Message::decode(payload)?),
            Kind::TrackBatch => Self::TrackBatch(Message::decode(payload)?),
            Kind::Observation => Self::Observation(Message::decode(payload)?),
            Kind::Event => Self::Event(Message::decode(payload)?),
            Kind::SosAlert => Self::SosAlert(Message::decode(payload)?),
        })
    }

    pub(super) fn check(self, door: &mut Door, at: Path<'_>) -> Option<Body> {
        Some(match self {
            Self::Shift(shift) => Body::Shift(patrol::shift(door, at, shift)?),
            Self::Patrol(patrol) => Body::Patrol(patrol::patrol(door, at, patrol)?),
            Self::CheckIn(check_in) => Body::CheckIn(patrol::check_in(door, at, check_in)?),
            Self::TrackBatch(batch) => Body::TrackBatch(track::track_batch(door, at, batch)?),
            Self::Observation(observation) => {
                Body::Observation(patrol::observation(door, at, observation)?)
            }
            Self::Event(event) => Body::Event(risk::event(door, at, event)?),
            Self::SosAlert(alert) => Body::SosAlert(patrol::sos_alert(door, at, alert)?),
        })
    }
}
