//! What leaves a region, and what comes from a neighbour.

use super::body::{PAYLOAD_BYTES_MAX, Payload};
use super::{Door, Path, Rules, Violations, kernel};
use crate::kernel::v1 as pb;
use crate::patrol::v1::{CheckIn, Observation, Patrol, Shift, SosAlert, TrackBatch};
use crate::risk::v1::Event;
use crate::splice::splice;
use bytes::Bytes;
use domain::kernel::{EmergencyLevel, Kind, Reason, RecordId, RegionId, Revision, Timestamp};
use domain::record::{Body, Record, RecordMeta};
use domain::sharing::View;
use prost::Message;

/// Fields named as withheld.
pub const WITHHELD_FIELDS_MAX: usize = 64;
/// Bytes of the name of a field.
pub const FIELD_BYTES_MAX: usize = 64;

/// Number of the view in [`crate::exchange::v1::Entry`].
pub(super) const ENTRY_VIEW: u32 = 2;

/// What a recipient must know of a view to file it, whatever is withheld.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewHead {
    /// With `birth_region` the record's identity.
    pub record_id: RecordId,
    /// Kind of the payload.
    pub kind: Kind,
    /// Region where the record was born.
    pub birth_region: RegionId,
    /// Region that owns it; must be the stream's origin.
    pub owner_region: RegionId,
    /// Which revision is shown.
    pub revision: Revision,
    /// Counts what the origin has shown of this record under this agreement.
    pub share_n: u64,
    /// Shown for the last time.
    pub last: bool,
    /// No officer of the owner has accepted it yet.
    pub unverified: bool,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// When it is deleted at the latest.
    pub expires_at: Timestamp,
    /// How it came to its owner: signed acceptances, not verified.
    pub transfers: Vec<Vec<u8>>,
    /// The level, where the kind has one and it is shown.
    pub level: Option<EmergencyLevel>,
    /// The category, where the kind has one and it is shown.
    pub category: Option<String>,
}

/// Why a view cannot be used; it is parked under this reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("view refused as {}", .reason.name())]
pub struct Refusal {
    /// By code.
    pub reason: Reason,
    /// Which fields, where it is fields.
    #[source]
    pub violations: Violations,
}

/// A record on its way to the store and to its neighbours: what is the same in all of them is encoded once.
#[derive(Debug)]
pub struct Outgoing<'a> {
    record: &'a Record,
    /// Its [`pb::RecordMeta`] as neighbours see it.
    meta: Vec<u8>,
    /// Its body, whole.
    payload: Bytes,
}

/// What comes in a [`pb::View`] after meta and payload.
#[derive(Clone, PartialEq, Message)]
struct ViewRest {
    #[prost(uint64, tag = "3")]
    share_n: u64,
    #[prost(bool, tag = "4")]
    last: bool,
    #[prost(bool, tag = "5")]
    unverified: bool,
    #[prost(string, repeated, tag = "6")]
    withheld_fields: Vec<String>,
}

impl<'a> Outgoing<'a> {
    /// Encodes what is the same in all.
    pub fn new(record: &'a Record) -> Self {
        let meta = seen(record).encode_to_vec();
        Self { record, meta, payload: super::body::encode(&record.body) }
    }

    /// The record as phones and officers of its region read it: a [`pb::Record`]. The device stays
    /// behind: the wire has no field for it.
    pub fn record(&self) -> Bytes {
        let with_author;
        let meta = match self.record.meta.author_ref {
            None => &self.meta,
            Some(_) => {
                with_author = pb::RecordMeta::from(&self.record.meta).encode_to_vec();
                &with_author
            }
        };
        splice(None, &[(1, meta), (2, &self.payload)], &())
    }

    /// The entry of a view of the record: a [`pb::View`] with every field cleared that the view does
    /// not show, in a [`crate::exchange::v1::Entry`].
    pub fn entry(&self, view: &View) -> Bytes {
        let View { share_n, last, unverified, lane: _, fields, withheld, body, expires_at } = view;
        let payload = match body {
            None => shown(&self.record.body, &self.payload, fields),
            Some(coarse) => shown(coarse, &super::body::encode(coarse), fields),
        };
        let sooner;
        let meta = if *expires_at == self.record.meta.expires_at {
            &self.meta
        } else {
            let expire_time = Some(kernel::encode_time(*expires_at));
            sooner = pb::RecordMeta { expire_time, ..seen(self.record) }.encode_to_vec();
            &sooner
        };
        let withheld_fields = withheld.iter().map(|&field| field.to_owned()).collect();
        let (share_n, last, unverified) = (*share_n, *last, *unverified);
        let rest = ViewRest { share_n, last, unverified, withheld_fields };
        splice(Some(ENTRY_VIEW), &[(1, meta), (2, &payload)], &rest)
    }
}

/// The meta as neighbours see it: who wrote it stays in the region.
fn seen(record: &Record) -> pb::RecordMeta {
    pb::RecordMeta { author_ref: String::new(), ..(&record.meta).into() }
}

/// Clears every field of a message that is not named. It is taken apart field by field, so that a new
/// field breaks the build; a field after `never` stays behind whatever the view says. Where all are named
/// and none stays behind, the message is what it was.
macro_rules! show {
    ($message:expr, $whole:expr, $shown:expr, $name:ident { $($field:ident),+ } never { $($kept:ident),* }) => {{
        const FIELDS: &[&str] = &[$(stringify!($field)),+];
        const KEPT: &[&str] = &[$(stringify!($kept)),*];
        if KEPT.is_empty() && $shown.len() == FIELDS.len() {
            return $whole.clone();
        }
        let $name { $($field,)+ $($kept: _,)* } = $message;
        $name {
            $($field: if $shown.contains(&stringify!($field)) { $field } else { Default::default() },)+
            $($kept: Default::default(),)*
        }
        .encode_to_vec()
    }};
}

fn shown(body: &Body, whole: &Bytes, fields: &[&'static str]) -> Bytes {
    let bytes = match body {
        Body::Shift(shift) => show!(Shift::from(shift), whole, fields, Shift {
            unit, station, plan_start_time, plan_end_time, open_time, close_time, state,
            staff_count, handover_note
        } never { roster_refs }),
        Body::Patrol(patrol) => show!(Patrol::from(patrol), whole, fields, Patrol {
            shift_id, mandate, route, route_kind, member_count, partner_units, legs, state,
            start_time, end_time
        } never { leader_ref }),
        Body::CheckIn(check_in) => show!(CheckIn::from(check_in), whole, fields, CheckIn {
            patrol_id, checkpoint, method, point, distance_m, quality, remark
        } never {}),
        Body::TrackBatch(batch) => show!(TrackBatch::from(batch), whole, fields, TrackBatch {
            patrol_id, shift_id, start_time, time_delta_s, lon_delta_e7, lat_delta_e7, datum,
            sampling_s, gaps, battery_pct
        } never {}),
        Body::Observation(observation) => {
            show!(Observation::from(observation), whole, fields, Observation {
            patrol_id, category, text, point, suggested_level
        } never {})
        }
        Body::Event(event) => show!(Event::from(event), whole, fields, Event {
            domain, category, emergency_class, level, place, point, text, source, affected_count,
            urgent, deadline_time, state, handling_unit, observation_id
        } never {}),
        Body::SosAlert(alert) => show!(SosAlert::from(alert), whole, fields, SosAlert {
            point, last_known, trigger, state, acknowledge_time, acknowledge_unit, patrol_id, remark
        } never {}),
    };
    bytes.into()
}

/// Checks a neighbour's view. Any field of the payload may be withheld; what is there must be sound.
///
/// # Errors
/// `KindUnknown`, `EntryUnreadable`, `LimitExceeded`, else `FieldInvalid` with the fields.
pub fn check(view: pb::View) -> Result<ViewHead, Refusal> {
    let pb::View { meta, payload, share_n, last, unverified, withheld_fields } = view;
    let Some(meta) = meta else { return Err(Refusal::of(Reason::EntryUnreadable)) };
    let Ok(kind) = Kind::try_from(meta.kind) else {
        return Err(Refusal::of(Reason::KindUnknown));
    };
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Refusal::of(Reason::LimitExceeded));
    }
    let Ok(payload) = Payload::read(kind, &payload) else {
        return Err(Refusal::of(Reason::EntryUnreadable));
    };
    let (level, category) = clause_fields(&payload);
    let meta = own_words(meta, share_n, &withheld_fields)?;
    let mut door = Door::new(Rules::View);
    // Only what is wrong counts: with fields withheld there is no whole body to take.
    payload.check(&mut door, "payload".into());
    refuse_if_wrong(&door)?;
    Ok(ViewHead {
        record_id: meta.record_id,
        kind,
        birth_region: meta.birth_region,
        owner_region: meta.owner_region,
        revision: meta.revision,
        share_n,
        last,
        unverified,
        occurred_at: meta.occurred_at,
        expires_at: meta.expires_at,
        transfers: meta.transfers,
        level,
        category,
    })
}

/// Checks what no agreement withholds: meta, count, names of fields.
fn own_words(
    meta: pb::RecordMeta,
    share_n: u64,
    withheld_fields: &[String],
) -> Result<RecordMeta, Refusal> {
    let mut door = Door::new(Rules::Store);
    let at = Path::ROOT;
    if !meta.author_ref.is_empty() {
        let what = "names a member of staff and must not leave the region";
        door.refuse::<()>(at.field("meta").field("author_ref"), what);
    }
    let meta = kernel::meta(&mut door, at.field("meta"), meta);
    door.number(at.field("share_n"), share_n, 1..=u64::MAX);
    let at = at.field("withheld_fields");
    door.list(at, withheld_fields.iter().collect(), 0..=WITHHELD_FIELDS_MAX, |door, at, field| {
        door.size(at, field.len(), 1..=FIELD_BYTES_MAX)
    });
    refuse_if_wrong(&door)?;
    meta.ok_or_else(|| Refusal::of(Reason::FieldInvalid))
}

fn refuse_if_wrong(door: &Door) -> Result<(), Refusal> {
    if door.violations().is_empty() {
        return Ok(());
    }
    let reason = if door.over_limit() { Reason::LimitExceeded } else { Reason::FieldInvalid };
    let violations = Violations(door.violations().to_vec());
    Err(Refusal { reason, violations })
}

/// The fields that clauses and screens look at, as far as they are shown.
fn clause_fields(payload: &Payload) -> (Option<EmergencyLevel>, Option<String>) {
    let given = |category: &str| (!category.is_empty()).then(|| category.to_owned());
    match payload {
        Payload::Event(event) => {
            (EmergencyLevel::try_from(event.level).ok(), given(&event.category))
        }
        Payload::Observation(observation) => (None, given(&observation.category)),
        Payload::Shift(_)
        | Payload::Patrol(_)
        | Payload::CheckIn(_)
        | Payload::TrackBatch(_)
        | Payload::SosAlert(_) => (None, None),
    }
}

impl Refusal {
    fn of(reason: Reason) -> Self {
        Self { reason, violations: Violations(Vec::new()) }
    }
}
