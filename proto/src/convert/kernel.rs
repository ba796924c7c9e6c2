//! What every noun is made of: revisions, places, times, references, meta.

use super::{Door, Path, Rules, Violations};
use crate::kernel::v1 as pb;
use bytes::Bytes;
use domain::kernel::{
    Datum, Epoch, GeoPoint, RecordId, Revision, Sensitivity, Timestamp, gcj02_to_wgs84,
};
use domain::record::{ExternalRef, RecordMeta};

/// Bytes of the code of a unit.
pub const UNIT_BYTES_MAX: usize = 64;
/// Bytes of an opaque reference of a member of staff.
pub const STAFF_REF_BYTES_MAX: usize = 64;
/// Bytes of the name of an external system.
pub const EXTERNAL_SYSTEM_BYTES_MAX: usize = 64;
/// Bytes of a key in an external system.
pub const EXTERNAL_ID_BYTES_MAX: usize = 128;
/// Regions named by `SENSITIVITY_PARTIES`.
pub const SENSITIVITY_PARTIES_MAX: usize = 64;
/// Degrees east or west.
pub const LON_DEG_MAX: f64 = 180.0;
/// Degrees north or south.
pub const LAT_DEG_MAX: f64 = 90.0;
/// Metres of the radius of a fix.
pub const ACCURACY_M_MAX: f32 = 100_000.0;
/// Metres above the ellipsoid, lowest.
pub const ALTITUDE_M_MIN: f32 = -500.0;
/// Metres above the ellipsoid, highest.
pub const ALTITUDE_M_MAX: f32 = 9_000.0;
/// Seconds of 2000-01-01T00:00:00Z: before it lies only a clock that was never set.
pub const TIME_S_MIN: i64 = 946_684_800;
/// Seconds of 9999-12-31T23:59:59Z, the last that RFC 3339 can spell.
pub const TIME_S_MAX: i64 = 253_402_300_799;

/// A time as the wire says it.
pub fn encode_time(time: Timestamp) -> prost_types::Timestamp {
    let micros = time.micros();
    let nanos = micros.rem_euclid(1_000_000) * 1_000;
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(nanos).expect("a rest of a million times a thousand fits"),
    }
}

/// A time of the wire, cut to microseconds; `None` outside 2000 to 9999.
pub fn decode_time(time: prost_types::Timestamp) -> Option<Timestamp> {
    let prost_types::Timestamp { seconds, nanos } = time;
    let fits = (TIME_S_MIN..=TIME_S_MAX).contains(&seconds) && (0..1_000_000_000).contains(&nanos);
    fits.then(|| Timestamp::from_micros(seconds * 1_000_000 + i64::from(nanos / 1_000)))
}

/// The bytes of an id as the wire carries them.
pub(super) fn encode_id(id: &[u8; 16]) -> Bytes {
    Bytes::copy_from_slice(id)
}

impl From<&Revision> for pb::Revision {
    fn from(revision: &Revision) -> Self {
        let Revision { t, epoch, n } = revision;
        Self { t: *t, epoch: encode_id(epoch.as_bytes()), n: *n }
    }
}

impl TryFrom<pb::Revision> for Revision {
    type Error = Violations;
    fn try_from(revision: pb::Revision) -> Result<Self, Violations> {
        let mut door = Door::new(Rules::Caller);
        let value = self::revision(&mut door, Path::ROOT, revision);
        door.finish(value)
    }
}

/// Checks a revision.
pub fn revision(door: &mut Door, at: Path<'_>, revision: pb::Revision) -> Option<Revision> {
    let pb::Revision { t, epoch, n } = revision;
    let epoch = door.id(at.field("epoch"), &epoch, Epoch::from_slice);
    let n = door.number(at.field("n"), n, 1..=u64::MAX);
    Some(Revision { t, epoch: epoch?, n: n? })
}

impl From<&GeoPoint> for pb::GeoPoint {
    fn from(point: &GeoPoint) -> Self {
        let GeoPoint { lon, lat, accuracy_m, datum, source, altitude_m } = *point;
        Self {
            lon,
            lat,
            accuracy_m,
            datum: datum.code(),
            source: source.map_or(0, |source| source.code()),
            altitude_m,
        }
    }
}

/// Checks a place; a caller's GCJ-02 becomes WGS-84.
pub(super) fn point(door: &mut Door, at: Path<'_>, point: pb::GeoPoint) -> Option<GeoPoint> {
    let pb::GeoPoint { lon, lat, accuracy_m, datum, source, altitude_m } = point;
    let lon = door.number(at.field("lon"), lon, -LON_DEG_MAX..=LON_DEG_MAX);
    let lat = door.number(at.field("lat"), lat, -LAT_DEG_MAX..=LAT_DEG_MAX);
    let accuracy_m = door.number(at.field("accuracy_m"), accuracy_m, 0.0..=ACCURACY_M_MAX);
    // A place without its frame says nothing, so the frame is never withheld from a place shown.
    let datum = match datum {
        0 => {
            door.refuse(at.field("datum"), "must be given: an unmarked point lies up to 555 m off")
        }
        given => self::datum(door, at.field("datum"), given),
    };
    let source = door.optional_code(at.field("source"), source);
    let altitude_m = door.optional(at.field("altitude_m"), altitude_m, |door, at, altitude_m| {
        door.number(at, altitude_m, ALTITUDE_M_MIN..=ALTITUDE_M_MAX)
    });
    let (mut lon, mut lat, mut datum) = (lon?, lat?, datum?);
    if datum == Datum::Gcj02 {
        (lon, lat) = gcj02_to_wgs84(lon, lat);
        datum = Datum::Wgs84;
    }
    Some(GeoPoint {
        lon,
        lat,
        accuracy_m: accuracy_m?,
        datum,
        source: source?,
        altitude_m: altitude_m?,
    })
}

/// Checks a reference frame; GCJ-02 passes only where it is converted.
pub(super) fn datum(door: &mut Door, at: Path<'_>, number: i32) -> Option<Datum> {
    let datum = door.code(at, number)?;
    if datum == Datum::Gcj02 && door.rules() != Rules::Caller {
        let what = "must be WGS84 or CGCS2000; GCJ02 is converted by the region it came to";
        return door.refuse(at, what);
    }
    Some(datum)
}

impl From<&ExternalRef> for pb::ExternalRef {
    fn from(external_ref: &ExternalRef) -> Self {
        let ExternalRef { system, id } = external_ref;
        Self { system: system.clone(), id: id.clone() }
    }
}

/// Checks a reference to an external system.
pub(super) fn external_ref(
    door: &mut Door,
    at: Path<'_>,
    external_ref: pb::ExternalRef,
) -> Option<ExternalRef> {
    let pb::ExternalRef { system, id } = external_ref;
    let system = door.text(at.field("system"), system, 1..=EXTERNAL_SYSTEM_BYTES_MAX);
    let id = door.text(at.field("id"), id, 1..=EXTERNAL_ID_BYTES_MAX);
    Some(ExternalRef { system: system?, id: id? })
}

impl From<&RecordMeta> for pb::RecordMeta {
    fn from(meta: &RecordMeta) -> Self {
        let RecordMeta {
            record_id,
            kind,
            birth_region,
            owner_region,
            revision,
            occurred_at,
            recorded_at,
            received_at,
            clock_offset_ms,
            author_unit,
            author_ref,
            sensitivity,
            sensitivity_parties,
            external_ref,
            retention_class,
            expires_at,
            transfers,
        } = meta;
        Self {
            record_id: encode_id(record_id.as_bytes()),
            kind: kind.code(),
            birth_region: birth_region.as_str().to_owned(),
            owner_region: owner_region.as_str().to_owned(),
            revision: Some(revision.into()),
            occur_time: Some(encode_time(*occurred_at)),
            record_time: Some(encode_time(*recorded_at)),
            receive_time: Some(encode_time(*received_at)),
            clock_offset_ms: *clock_offset_ms,
            author_unit: author_unit.clone(),
            author_ref: author_ref.clone().unwrap_or_default(),
            sensitivity: sensitivity.code(),
            sensitivity_parties: sensitivity_parties.iter().map(ToString::to_string).collect(),
            external_ref: external_ref.as_ref().map(Into::into),
            retention_class: retention_class.code(),
            expire_time: Some(encode_time(*expires_at)),
            transfers: super::transfer::encode_chain(transfers),
        }
    }
}

impl TryFrom<pb::RecordMeta> for RecordMeta {
    type Error = Violations;
    fn try_from(meta: pb::RecordMeta) -> Result<Self, Violations> {
        let mut door = Door::new(Rules::Store);
        let value = self::meta(&mut door, Path::ROOT, meta);
        door.finish(value)
    }
}

/// Checks a record's meta.
pub(super) fn meta(door: &mut Door, at: Path<'_>, meta: pb::RecordMeta) -> Option<RecordMeta> {
    let pb::RecordMeta {
        record_id,
        kind,
        birth_region,
        owner_region,
        revision,
        occur_time,
        record_time,
        receive_time,
        clock_offset_ms,
        author_unit,
        author_ref,
        sensitivity,
        sensitivity_parties,
        external_ref,
        retention_class,
        expire_time,
        transfers,
    } = meta;
    let record_id = door.id(at.field("record_id"), &record_id, RecordId::from_slice);
    let kind = door.code(at.field("kind"), kind);
    let birth_region = door.slug(at.field("birth_region"), &birth_region);
    let owner_region = door.slug(at.field("owner_region"), &owner_region);
    let revision = door
        .required(at.field("revision"), revision)
        .and_then(|revision| self::revision(door, at.field("revision"), revision));
    let occurred_at = door.time(at.field("occur_time"), occur_time);
    let recorded_at = door.time(at.field("record_time"), record_time);
    let received_at = door.time(at.field("receive_time"), receive_time);
    let author_unit = door.text(at.field("author_unit"), author_unit, 0..=UNIT_BYTES_MAX);
    let author_ref = door.staff_ref(at.field("author_ref"), author_ref, STAFF_REF_BYTES_MAX);
    let sensitivity = door.optional_code(at.field("sensitivity"), sensitivity);
    let sensitivity_parties = door.list(
        at.field("sensitivity_parties"),
        sensitivity_parties,
        0..=SENSITIVITY_PARTIES_MAX,
        |door, at, region| door.slug(at, &region),
    );
    let external_ref = door.optional(at.field("external_ref"), external_ref, self::external_ref);
    let retention_class = door.code(at.field("retention_class"), retention_class);
    let expires_at = door.time(at.field("expire_time"), expire_time);
    let transfers = super::transfer::chain(door, at.field("transfers"), transfers);
    Some(RecordMeta {
        record_id: record_id?,
        kind: kind?,
        birth_region: birth_region?,
        owner_region: owner_region?,
        revision: revision?,
        occurred_at: occurred_at?,
        recorded_at: recorded_at?,
        received_at: received_at?,
        clock_offset_ms,
        author_unit: author_unit?,
        author_ref: author_ref?,
        // What nobody classed stays at home.
        sensitivity: sensitivity?.unwrap_or(Sensitivity::Local),
        sensitivity_parties: sensitivity_parties?,
        external_ref: external_ref?,
        retention_class: retention_class?,
        expires_at: expires_at?,
        transfers: transfers?,
    })
}
