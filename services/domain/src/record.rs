//! A record: what is the same for every kind, and a body.

use crate::kernel::{
    DeviceId, EmergencyLevel, GeoPoint, Kind, RecordId, RegionId, RetentionClass, Revision,
    Sensitivity, Timestamp,
};
use crate::patrol::{CheckIn, Observation, Patrol, Shift, SosAlert, TrackBatch};
use crate::risk::Event;

/// The key of the same thing in a system that existed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalRef {
    /// Name of the system.
    pub system: String,
    /// Its key there.
    pub id: String,
}

/// What is the same for every kind of record.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordMeta {
    /// With `birth_region` the record's identity.
    pub record_id: RecordId,
    /// Kind of the body.
    pub kind: Kind,
    /// Region where it was born.
    pub birth_region: RegionId,
    /// Region that owns it now.
    pub owner_region: RegionId,
    /// Only the owner raises it.
    pub revision: Revision,
    /// When it happened: the device's clock, corrected with the measured offset.
    pub occurred_at: Timestamp,
    /// When it was written down, by the device's clock as it stood.
    pub recorded_at: Timestamp,
    /// When the region server took it.
    pub received_at: Timestamp,
    /// Server clock minus device clock.
    pub clock_offset_ms: i64,
    /// Code of the unit that wrote it; may be empty.
    pub author_unit: String,
    /// Opaque reference of the member of staff; never leaves the region.
    pub author_ref: Option<String>,
    /// How far it may travel.
    pub sensitivity: Sensitivity,
    /// The regions meant by [`Sensitivity::Parties`].
    pub sensitivity_parties: Vec<RegionId>,
    /// Key in a system that existed before.
    pub external_ref: Option<ExternalRef>,
    /// How long it is kept.
    pub retention_class: RetentionClass,
    /// When it is deleted at the latest.
    pub expires_at: Timestamp,
    /// How it came to its owner, one signed word each time that it changed hands; opaque here.
    pub transfers: Vec<Vec<u8>>,
}

/// What the kinds do not share.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Who is on duty.
    Shift(Shift),
    /// A round.
    Patrol(Patrol),
    /// At a checkpoint.
    CheckIn(CheckIn),
    /// Positions.
    TrackBatch(TrackBatch),
    /// Something noticed.
    Observation(Observation),
    /// Something to handle.
    Event(Event),
    /// A call for help.
    SosAlert(SosAlert),
}

/// One revision of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What is the same for every kind.
    pub meta: RecordMeta,
    /// What is not.
    pub body: Body,
    /// The device that made this revision, where one did; stays in the region.
    pub device: Option<DeviceId>,
}

impl Body {
    /// The kind of the body.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Shift(_) => Kind::Shift,
            Self::Patrol(_) => Kind::Patrol,
            Self::CheckIn(_) => Kind::CheckIn,
            Self::TrackBatch(_) => Kind::TrackBatch,
            Self::Observation(_) => Kind::Observation,
            Self::Event(_) => Kind::Event,
            Self::SosAlert(_) => Kind::SosAlert,
        }
    }

    /// The level an agreement's clause looks at, where the kind has one.
    pub const fn level(&self) -> Option<EmergencyLevel> {
        match self {
            Self::Event(event) => event.level,
            Self::Shift(_)
            | Self::Patrol(_)
            | Self::CheckIn(_)
            | Self::TrackBatch(_)
            | Self::Observation(_)
            | Self::SosAlert(_) => None,
        }
    }

    /// The category an agreement's clause looks at, where the kind has one.
    pub fn category(&self) -> Option<&str> {
        match self {
            Self::Event(event) => Some(&event.category),
            Self::Observation(observation) => Some(&observation.category),
            Self::Shift(_)
            | Self::Patrol(_)
            | Self::CheckIn(_)
            | Self::TrackBatch(_)
            | Self::SosAlert(_) => None,
        }
    }

    /// Whether nothing more is to be expected of it: closed, completed, resolved, called off. Kinds
    /// without states are never over.
    pub const fn is_over(&self) -> bool {
        match self {
            Self::Event(event) => event.state.is_over(),
            Self::Patrol(patrol) => patrol.state.is_over(),
            Self::SosAlert(sos) => sos.state.is_over(),
            Self::Shift(shift) => shift.state.is_over(),
            Self::CheckIn(_) | Self::TrackBatch(_) | Self::Observation(_) => false,
        }
    }

    /// Whether an officer of the owner has accepted it; kinds that nobody accepts always are.
    pub const fn is_accepted(&self) -> bool {
        match self {
            Self::Event(event) => event.state.is_accepted(),
            Self::Shift(_)
            | Self::Patrol(_)
            | Self::CheckIn(_)
            | Self::TrackBatch(_)
            | Self::Observation(_)
            | Self::SosAlert(_) => true,
        }
    }

    /// Where it is on the ground, as far as that is known, by proto field; the best comes first.
    pub fn points(&self) -> impl Iterator<Item = (&'static str, &GeoPoint)> {
        let (point, last_known) = match self {
            Self::CheckIn(check_in) => (&check_in.point, &None),
            Self::Observation(observation) => (&observation.point, &None),
            Self::Event(event) => (&event.point, &None),
            Self::SosAlert(sos) => (&sos.point, &sos.last_known),
            Self::Shift(_) | Self::Patrol(_) | Self::TrackBatch(_) => (&None, &None),
        };
        let point = point.as_ref().map(|point| ("point", point));
        point.into_iter().chain(last_known.as_ref().map(|point| ("last_known", point)))
    }

    /// The same with every place on the ground put elsewhere, or taken out. A track, which is nothing but
    /// places, is left as it is: no grant covers it.
    pub fn with_points(&self, put: impl Fn(&GeoPoint) -> Option<GeoPoint>) -> Self {
        let put = |point: &Option<GeoPoint>| point.as_ref().and_then(&put);
        match self {
            Self::CheckIn(it) => Self::CheckIn(CheckIn { point: put(&it.point), ..it.clone() }),
            Self::Observation(it) => {
                Self::Observation(Observation { point: put(&it.point), ..it.clone() })
            }
            Self::Event(it) => Self::Event(Event { point: put(&it.point), ..it.clone() }),
            Self::SosAlert(it) => Self::SosAlert(SosAlert {
                point: put(&it.point),
                last_known: put(&it.last_known),
                ..it.clone()
            }),
            Self::Shift(_) | Self::Patrol(_) | Self::TrackBatch(_) => self.clone(),
        }
    }

    /// Where it is in words, by proto field, where the kind says so.
    pub fn place(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Patrol(patrol) => Some(("route", &patrol.route)),
            Self::CheckIn(check_in) => Some(("checkpoint", &check_in.checkpoint)),
            Self::Event(event) => Some(("place", &event.place)),
            Self::Shift(_) | Self::TrackBatch(_) | Self::Observation(_) | Self::SosAlert(_) => None,
        }
    }

    /// Everything in it that a person typed, by proto field; what the guard reads.
    pub fn texts(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Shift(shift) => shift.texts(),
            Self::Patrol(patrol) => patrol.texts(),
            Self::CheckIn(check_in) => check_in.texts(),
            Self::TrackBatch(batch) => batch.texts(),
            Self::Observation(observation) => observation.texts(),
            Self::Event(event) => event.texts(),
            Self::SosAlert(sos) => sos.texts(),
        }
    }
}
