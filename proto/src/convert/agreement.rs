//! Agreement versions, as their parties signed them.

use super::kernel::{encode_id, encode_time};
use super::patrol::CATEGORY_BYTES_MAX;
use super::{Door, Path, Rules, Violations, outline};
use crate::agreement::v1 as pb;
use bytes::Bytes;
use domain::agreement::{
    ANNEX_HOURS_MAX, Agreement, AgreementForm, Area, Clause, Force, Party, Precision, Zone,
};
use domain::kernel::AgreementId;
use prost::Message;

/// Bytes of the title.
pub const TITLE_BYTES_MAX: usize = 128;
/// Fewest parties.
pub const PARTIES_MIN: usize = 2;
/// Most parties.
pub const PARTIES_MAX: usize = 64;
/// Clauses of the view rule.
pub const CLAUSES_MAX: usize = 64;
/// Categories of one clause.
pub const CATEGORIES_MAX: usize = 64;
/// Fields of one clause.
pub const FIELDS_MAX: usize = 64;
/// Bytes of the name of a field.
pub const FIELD_BYTES_MAX: usize = 64;
/// Purposes.
pub const PURPOSES_MAX: usize = 8;
/// Zones of one clause.
pub const ZONES_MAX: usize = 16;
/// Bytes of the name of a zone.
pub const ZONE_BYTES_MAX: usize = 64;
/// Places of one clause.
pub const PLACES_MAX: usize = 64;
/// Bytes of the name of a place.
pub const PLACE_BYTES_MAX: usize = 64;
/// Metres around a party.
pub const NEAR_M_MAX: u32 = 50_000;
/// Days that a view is kept.
pub const RETENTION_DAYS_MAX: u32 = 3_650;

/// The body that the parties sign.
pub fn encode(agreement: &Agreement) -> Bytes {
    pb::Agreement::from(agreement).encode_to_vec().into()
}

/// Reads the signed body; `sha256` is the hash of exactly these bytes.
///
/// # Errors
/// Everything that is wrong with it.
pub fn decode(body: &[u8], sha256: [u8; 32]) -> Result<Agreement, Violations> {
    let mut door = Door::new(Rules::Caller);
    let value = door
        .message("body".into(), body)
        .and_then(|agreement| self::agreement(&mut door, Path::ROOT, agreement, sha256));
    door.finish(value)
}

fn agreement(
    door: &mut Door,
    at: Path<'_>,
    agreement: pb::Agreement,
    sha256: [u8; 32],
) -> Option<Agreement> {
    let pb::Agreement {
        agreement_id,
        version,
        form,
        title,
        parties,
        clauses,
        purposes,
        start_time,
        end_time,
        retention_days,
        force,
        supersedes_sha256,
    } = agreement;
    let agreement_id = door.id(at.field("agreement_id"), &agreement_id, AgreementId::from_slice);
    let version = door.number(at.field("version"), version, 1..=u32::MAX);
    let form = door.code(at.field("form"), form);
    let title = door.text(at.field("title"), title, 1..=TITLE_BYTES_MAX);
    let parties = door.list(at.field("parties"), parties, PARTIES_MIN..=PARTIES_MAX, party);
    if let Some(parties) = &parties
        && !parties.is_sorted_by(|left, right| left.region < right.region)
    {
        door.refuse::<()>(at.field("parties"), "must stand in the order of their ids, each once");
    }
    let clauses = door.list(at.field("clauses"), clauses, 1..=CLAUSES_MAX, clause);
    let purposes = door.list(at.field("purposes"), purposes, 1..=PURPOSES_MAX, Door::code);
    let started_at = door.time(at.field("start_time"), start_time);
    let ended_at = door.time(at.field("end_time"), end_time);
    let retention_days =
        door.number(at.field("retention_days"), retention_days, 0..=RETENTION_DAYS_MAX);
    let force = match force {
        0 => Some(Force::InForce),
        code => door.code(at.field("force"), code),
    };
    let supersedes = (!supersedes_sha256.is_empty()).then_some(supersedes_sha256);
    let supersedes =
        door.optional(at.field("supersedes_sha256"), supersedes, |door, at, sha256| {
            door.array(at, &sha256)
        });
    let agreement = Agreement {
        agreement_id: agreement_id?,
        version: version?,
        form: form?,
        title: title?,
        parties: parties?,
        clauses: clauses?,
        purposes: purposes?,
        started_at: started_at?,
        ended_at: ended_at?,
        retention_days: Some(retention_days?).filter(|days| *days > 0),
        force: force?,
        supersedes: supersedes?,
        sha256,
    };
    whole(door, at, &agreement);
    Some(agreement)
}

/// What holds between the fields of one version.
fn whole(door: &mut Door, at: Path<'_>, agreement: &Agreement) {
    let Agreement { version, form, force, supersedes, started_at, ended_at, .. } = agreement;
    if ended_at <= started_at {
        door.refuse::<()>(at.field("end_time"), "must be after start_time");
    }
    if (*version == 1) != supersedes.is_none() {
        let rule = "must be given in each version but the first";
        door.refuse::<()>(at.field("supersedes_sha256"), rule);
    }
    let annex = *form == AgreementForm::Annex;
    let hours = started_at.plus_millis(ANNEX_HOURS_MAX * 3_600_000);
    if annex && *force == Force::InForce && *ended_at > hours {
        door.refuse::<()>(at.field("end_time"), "must be within 72 hours of start_time");
    }
    if !annex && *force == Force::Ready {
        door.refuse::<()>(at.field("force"), "must be one of an annex");
    }
}

fn party(door: &mut Door, at: Path<'_>, party: pb::Party) -> Option<Party> {
    let pb::Party { region_id, signing_key_sha256 } = party;
    let region = door.slug(at.field("region_id"), &region_id);
    let key = door.array(at.field("signing_key_sha256"), &signing_key_sha256);
    Some(Party { region: region?, signing_key_sha256: key? })
}

fn clause(door: &mut Door, at: Path<'_>, clause: pb::Clause) -> Option<Clause> {
    let pb::Clause { grant, categories, min_level, release, fields, area, precision } = clause;
    let grant = door.code(at.field("grant"), grant);
    let categories =
        door.list(at.field("categories"), categories, 0..=CATEGORIES_MAX, |door, at, category| {
            door.text(at, category, 1..=CATEGORY_BYTES_MAX)
        });
    let min_level = door.optional_code(at.field("min_level"), min_level);
    let release = door.code(at.field("release"), release);
    let fields = door.list(at.field("fields"), fields, 0..=FIELDS_MAX, |door, at, field| {
        door.text(at, field, 1..=FIELD_BYTES_MAX)
    });
    let area = door.optional(at.field("area"), area, self::area);
    let precision = door.optional_code(at.field("precision"), precision);
    Some(Clause {
        grant: grant?,
        categories: categories?,
        min_level: min_level?,
        release: release?,
        fields: fields?,
        area: area?.unwrap_or(Area::Everywhere),
        precision: precision?.unwrap_or(Precision::Exact),
    })
}

fn area(door: &mut Door, at: Path<'_>, area: pb::Area) -> Option<Area> {
    let pb::Area { zones, near_parties_m, places } = area;
    match (zones.is_empty(), near_parties_m, places.is_empty()) {
        (false, 0, true) => {
            door.list(at.field("zones"), zones, 1..=ZONES_MAX, zone).map(Area::Zones)
        }
        (true, 1.., true) => door
            .number(at.field("near_parties_m"), near_parties_m, 1..=NEAR_M_MAX)
            .map(Area::NearParties),
        (true, 0, false) => door
            .list(at.field("places"), places, 1..=PLACES_MAX, |door, at, place| {
                door.text(at, place, 1..=PLACE_BYTES_MAX)
            })
            .map(Area::Places),
        _ => door.refuse(at, "must be exactly one of zones, near_parties_m and places"),
    }
}

fn zone(door: &mut Door, at: Path<'_>, zone: pb::Zone) -> Option<Zone> {
    let pb::Zone { name, rings } = zone;
    let name = door.text(at.field("name"), name, 1..=ZONE_BYTES_MAX);
    let outline = outline::outline(door, at.field("rings"), rings, 1);
    Some(Zone { name: name?, outline: outline? })
}

impl From<&Agreement> for pb::Agreement {
    fn from(agreement: &Agreement) -> Self {
        let Agreement {
            agreement_id,
            version,
            form,
            title,
            parties,
            clauses,
            purposes,
            started_at,
            ended_at,
            retention_days,
            force,
            supersedes,
            sha256: _,
        } = agreement;
        Self {
            agreement_id: encode_id(agreement_id.as_bytes()),
            version: *version,
            form: form.code(),
            title: title.clone(),
            parties: parties.iter().map(Into::into).collect(),
            clauses: clauses.iter().map(Into::into).collect(),
            purposes: purposes.iter().map(|purpose| purpose.code()).collect(),
            start_time: Some(encode_time(*started_at)),
            end_time: Some(encode_time(*ended_at)),
            retention_days: retention_days.unwrap_or(0),
            force: force.code(),
            supersedes_sha256: supersedes
                .map(|sha256| Bytes::copy_from_slice(&sha256))
                .unwrap_or_default(),
        }
    }
}

impl From<&Party> for pb::Party {
    fn from(party: &Party) -> Self {
        let Party { region, signing_key_sha256 } = party;
        Self {
            region_id: region.as_str().to_owned(),
            signing_key_sha256: Bytes::copy_from_slice(signing_key_sha256),
        }
    }
}

impl From<&Clause> for pb::Clause {
    fn from(clause: &Clause) -> Self {
        let Clause { grant, categories, min_level, release, fields, area, precision } = clause;
        Self {
            grant: grant.code(),
            categories: categories.clone(),
            min_level: min_level.map_or(0, |level| level.code()),
            release: release.code(),
            fields: fields.clone(),
            area: encode_area(area),
            precision: precision.code(),
        }
    }
}

fn encode_area(area: &Area) -> Option<pb::Area> {
    let zone =
        |zone: &Zone| pb::Zone { name: zone.name.clone(), rings: outline::encode(&zone.outline) };
    let none = pb::Area::default();
    Some(match area {
        Area::Everywhere => return None,
        Area::Zones(zones) => pb::Area { zones: zones.iter().map(zone).collect(), ..none },
        Area::NearParties(metres) => pb::Area { near_parties_m: *metres, ..none },
        Area::Places(places) => pb::Area { places: places.clone(), ..none },
    })
}
