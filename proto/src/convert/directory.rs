//! The linkage, as its authority signed it.

use super::kernel::encode_time;
use super::{Door, Path, Rules, Violations, outline};
use crate::directory::v1 as pb;
use crate::kernel::v1::SignedObject;
use bytes::Bytes;
use domain::directory::{
    DelegatedDirectory, Directory, DivisionCode, FormerKey, Gateway, Region, RegionLevel,
};
use domain::kernel::{LinkageId, RegionId, Timestamp};
use prost::Message;
use std::collections::BTreeMap;

/// Regions of one linkage.
pub const REGIONS_MAX: usize = 50_000;
/// Gateways of one linkage.
pub const GATEWAYS_MAX: usize = 256;
/// Counties that list their own townships.
pub const DELEGATIONS_MAX: usize = 1_000;
/// Townships that one county may list.
pub const DELEGATED_REGIONS_MAX: u32 = 1_000;
/// Division codes of one region.
pub const CODES_MAX: usize = 8;
/// Digits of the shortest division code.
pub const CODE_DIGITS_MIN: usize = 6;
/// Digits of the longest division code.
pub const CODE_DIGITS_MAX: usize = 12;
/// Bytes of the shortest edition of a list.
pub const EDITION_BYTES_MIN: usize = 4;
/// Bytes of the longest edition of a list.
pub const EDITION_BYTES_MAX: usize = 10;
/// Bytes of the name of a region.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of a certificate in DER.
pub const CERTIFICATE_BYTES_MAX: usize = 4_096;
/// Bytes of host:port: a host name of 253, a colon, a port of 5.
pub const ENDPOINT_BYTES_MAX: usize = 259;
/// Changes of one region's keys.
pub const KEY_CHANGES_MAX: usize = 16;
/// Bytes of one change's body.
pub const KEY_CHANGE_BYTES_MAX: usize = 512;

/// What a region says when it changes its keys by plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The linkage.
    pub linkage_id: LinkageId,
    /// The region.
    pub region_id: RegionId,
    /// Ed25519 key until then.
    pub former_signing_key: [u8; 32],
    /// Ed25519 key from then on.
    pub signing_key: [u8; 32],
    /// X25519 key from then on.
    pub sealing_key: [u8; 32],
    /// When it was signed.
    pub created_at: Timestamp,
}

/// The body that a region signs with its former and its new key.
pub fn encode_key_change(change: &KeyChange) -> Bytes {
    let KeyChange {
        linkage_id,
        region_id,
        former_signing_key,
        signing_key,
        sealing_key,
        created_at,
    } = change;
    let change = pb::KeyChange {
        linkage_id: linkage_id.to_string(),
        region_id: region_id.to_string(),
        former_signing_key: Bytes::copy_from_slice(former_signing_key),
        signing_key: Bytes::copy_from_slice(signing_key),
        sealing_key: Bytes::copy_from_slice(sealing_key),
        create_time: Some(encode_time(*created_at)),
    };
    change.encode_to_vec().into()
}

/// Reads the body of a change; who signed it is not asked.
///
/// # Errors
/// Everything that is wrong with it.
pub fn decode_key_change(body: &[u8]) -> Result<KeyChange, Violations> {
    let mut door = Door::new(Rules::Caller);
    let value = key_change(&mut door, Path::ROOT, body);
    door.finish(value)
}

fn key_change(door: &mut Door, at: Path<'_>, body: &[u8]) -> Option<KeyChange> {
    door.size(at, body.len(), 1..=KEY_CHANGE_BYTES_MAX)?;
    let pb::KeyChange {
        linkage_id,
        region_id,
        former_signing_key,
        signing_key,
        sealing_key,
        create_time,
    } = door.message(at, body)?;
    let linkage_id = door.slug(at.field("linkage_id"), &linkage_id);
    let region_id = door.slug(at.field("region_id"), &region_id);
    let former = door.array(at.field("former_signing_key"), &former_signing_key);
    let signing_key = door.array(at.field("signing_key"), &signing_key);
    let sealing_key = door.array(at.field("sealing_key"), &sealing_key);
    let created_at = door.time(at.field("create_time"), create_time);
    Some(KeyChange {
        linkage_id: linkage_id?,
        region_id: region_id?,
        former_signing_key: former?,
        signing_key: signing_key?,
        sealing_key: sealing_key?,
        created_at: created_at?,
    })
}

fn former_key(door: &mut Door, at: Path<'_>, object: SignedObject) -> Option<FormerKey> {
    if object.signatures.len() != 2 {
        return door.refuse(at.field("signatures"), "must be two");
    }
    let change = key_change(door, at.field("body"), &object.body)?;
    Some(FormerKey {
        signing_key: change.former_signing_key,
        changed_at: change.created_at,
        signed: object.encode_to_vec(),
    })
}

/// The body that the authority signs.
pub fn encode(directory: &Directory) -> Bytes {
    pb::Directory::from(directory).encode_to_vec().into()
}

/// Reads the signed body.
///
/// # Errors
/// Everything that is wrong with it.
pub fn decode(body: &[u8]) -> Result<Directory, Violations> {
    let mut door = Door::new(Rules::Caller);
    let value = door
        .message("body".into(), body)
        .and_then(|directory| self::directory(&mut door, Path::ROOT, directory));
    door.finish(value)
}

/// The body that a county signs.
pub fn encode_delegated(part: &DelegatedDirectory) -> Bytes {
    pb::DelegatedDirectory::from(part).encode_to_vec().into()
}

/// Reads the body that a county signed.
///
/// # Errors
/// Everything that is wrong with it.
pub fn decode_delegated(body: &[u8]) -> Result<DelegatedDirectory, Violations> {
    let mut door = Door::new(Rules::Caller);
    let value =
        door.message("body".into(), body).and_then(|part| delegated(&mut door, Path::ROOT, part));
    door.finish(value)
}

fn directory(door: &mut Door, at: Path<'_>, directory: pb::Directory) -> Option<Directory> {
    let pb::Directory {
        linkage_id,
        version,
        create_time,
        regions,
        gateways,
        freshness_key,
        delegations,
    } = directory;
    let linkage_id = door.slug(at.field("linkage_id"), &linkage_id);
    let version = door.number(at.field("version"), version, 1..=u64::MAX);
    let created_at = door.time(at.field("create_time"), create_time);
    let regions = door
        .list(at.field("regions"), regions, 0..=REGIONS_MAX, region)
        .and_then(|regions| by_id(door, at.field("regions"), regions, |r| r.region_id.clone()));
    let gateways = door
        .list(at.field("gateways"), gateways, 0..=GATEWAYS_MAX, gateway)
        .and_then(|gateways| by_id(door, at.field("gateways"), gateways, |g| g.gateway_id.clone()));
    let freshness_key = (!freshness_key.is_empty()).then_some(freshness_key);
    let freshness_key = door
        .optional(at.field("freshness_key"), freshness_key, |door, at, key| door.array(at, &key));
    let (at, regions) = (at.field("delegations"), regions?);
    let delegations = door
        .list(at, delegations, 0..=DELEGATIONS_MAX, delegation)
        .and_then(|counties| by_id(door, at, counties, |(county, _)| county.clone()))?;
    // Otherwise another county could list one of this name, and so lend it the right.
    if delegations.keys().any(|county| !regions.contains_key(county)) {
        return door.refuse(at, "must name regions of this directory");
    }
    Some(Directory {
        linkage_id: linkage_id?,
        version: version?,
        created_at: created_at?,
        regions,
        gateways: gateways?,
        freshness_key: freshness_key?,
        delegations: delegations.into_values().collect(),
    })
}

fn delegation(
    door: &mut Door,
    at: Path<'_>,
    delegation: pb::Delegation,
) -> Option<(RegionId, u32)> {
    let pb::Delegation { region_id, regions_max } = delegation;
    let region_id = door.slug(at.field("region_id"), &region_id);
    let regions_max = door.number(at.field("regions_max"), regions_max, 1..=DELEGATED_REGIONS_MAX);
    Some((region_id?, regions_max?))
}

fn delegated(
    door: &mut Door,
    at: Path<'_>,
    part: pb::DelegatedDirectory,
) -> Option<DelegatedDirectory> {
    let pb::DelegatedDirectory { linkage_id, superior_region, version, create_time, regions } =
        part;
    let linkage_id = door.slug(at.field("linkage_id"), &linkage_id);
    let superior: RegionId = door.slug(at.field("superior_region"), &superior_region)?;
    let version = door.number(at.field("version"), version, 1..=u64::MAX);
    let created_at = door.time(at.field("create_time"), create_time);
    let most = usize::try_from(DELEGATED_REGIONS_MAX).unwrap_or(usize::MAX);
    let township = |door: &mut Door, at: Path<'_>, listed| {
        let region = region(door, at, listed)?;
        if region.level != RegionLevel::Township {
            return door.refuse(at.field("level"), "must be a township");
        }
        let below = region.superior.as_ref() == Some(&superior);
        if below {
            Some(region)
        } else {
            door.refuse(at.field("superior_region"), "must be the county")
        }
    };
    let regions = door
        .list(at.field("regions"), regions, 0..=most, township)
        .and_then(|regions| by_id(door, at.field("regions"), regions, |r| r.region_id.clone()));
    Some(DelegatedDirectory {
        linkage_id: linkage_id?,
        version: version?,
        created_at: created_at?,
        regions: regions?,
        superior,
    })
}

/// Two entries of one id would leave it to chance whose key counts.
fn by_id<K: Ord, V>(
    door: &mut Door,
    at: Path<'_>,
    items: Vec<V>,
    id: impl Fn(&V) -> K,
) -> Option<BTreeMap<K, V>> {
    let whole = items.len();
    let map: BTreeMap<K, V> = items.into_iter().map(|item| (id(&item), item)).collect();
    if map.len() == whole { Some(map) } else { door.refuse(at, "must hold each id once") }
}

fn region(door: &mut Door, at: Path<'_>, region: pb::Region) -> Option<Region> {
    let pb::Region {
        region_id,
        level,
        codes,
        name_zh,
        name_en,
        superior_region,
        signing_key,
        sealing_key,
        authority_certificate,
        endpoint,
        outline: rings,
        key_changes,
    } = region;
    let region_id = door.slug(at.field("region_id"), &region_id);
    let level = door.code(at.field("level"), level);
    let codes = door.list(at.field("codes"), codes, 0..=CODES_MAX, division_code);
    let name_zh = door.text(at.field("name_zh"), name_zh, 1..=NAME_BYTES_MAX);
    let name_en = door.text(at.field("name_en"), name_en, 1..=NAME_BYTES_MAX);
    let superior = (!superior_region.is_empty()).then_some(superior_region);
    let superior = door.optional(at.field("superior_region"), superior, |door, at, superior| {
        door.slug(at, &superior)
    });
    let signing_key = door.array(at.field("signing_key"), &signing_key);
    let sealing_key = door.array(at.field("sealing_key"), &sealing_key);
    let certificate = certificate(door, at.field("authority_certificate"), authority_certificate);
    let endpoint = self::endpoint(door, at.field("endpoint"), endpoint, 0);
    let outline = outline::outline(door, at.field("outline"), rings, 0);
    let former_keys =
        door.list(at.field("key_changes"), key_changes, 0..=KEY_CHANGES_MAX, former_key);
    Some(Region {
        region_id: region_id?,
        level: level?,
        codes: codes?,
        name_zh: name_zh?,
        name_en: name_en?,
        superior: superior?,
        signing_key: signing_key?,
        sealing_key: sealing_key?,
        authority_certificate: certificate?,
        endpoint: endpoint?,
        outline: outline?,
        former_keys: former_keys?,
    })
}

fn division_code(door: &mut Door, at: Path<'_>, code: pb::DivisionCode) -> Option<DivisionCode> {
    let pb::DivisionCode { scheme, code, edition } = code;
    let scheme = door.code(at.field("scheme"), scheme);
    let digits = code.bytes().all(|byte| byte.is_ascii_digit());
    let code = if digits {
        door.text(at.field("code"), code, CODE_DIGITS_MIN..=CODE_DIGITS_MAX)
    } else {
        door.refuse(at.field("code"), "must be digits only")
    };
    let edition = door.text(at.field("edition"), edition, EDITION_BYTES_MIN..=EDITION_BYTES_MAX);
    Some(DivisionCode { scheme: scheme?, code: code?, edition: edition? })
}

fn gateway(door: &mut Door, at: Path<'_>, gateway: pb::Gateway) -> Option<Gateway> {
    let pb::Gateway { gateway_id, authority_certificate, endpoint } = gateway;
    let gateway_id = door.slug(at.field("gateway_id"), &gateway_id);
    let certificate = certificate(door, at.field("authority_certificate"), authority_certificate);
    let endpoint = self::endpoint(door, at.field("endpoint"), endpoint, 1);
    Some(Gateway {
        gateway_id: gateway_id?,
        authority_certificate: certificate?,
        endpoint: endpoint?,
    })
}

fn certificate(door: &mut Door, at: Path<'_>, der: Bytes) -> Option<Vec<u8>> {
    door.blob(at, der, 1..=CERTIFICATE_BYTES_MAX).map(Into::into)
}

/// Checks an address of at least so many bytes: 0 where a region may only dial out.
fn endpoint(door: &mut Door, at: Path<'_>, text: String, bytes_min: usize) -> Option<String> {
    let text = door.text(at, text, bytes_min..=ENDPOINT_BYTES_MAX)?;
    let fits = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse().is_ok_and(|port: u16| port > 0)
    });
    if fits || text.is_empty() { Some(text) } else { door.refuse(at, "must be host:port") }
}

impl From<&Directory> for pb::Directory {
    fn from(directory: &Directory) -> Self {
        let Directory {
            linkage_id,
            version,
            created_at,
            regions,
            gateways,
            freshness_key,
            delegations,
        } = directory;
        Self {
            linkage_id: linkage_id.as_str().to_owned(),
            version: *version,
            create_time: Some(encode_time(*created_at)),
            regions: regions.values().map(Into::into).collect(),
            gateways: gateways.values().map(Into::into).collect(),
            freshness_key: freshness_key
                .map(|key| Bytes::copy_from_slice(&key))
                .unwrap_or_default(),
            delegations: delegations
                .iter()
                .map(|(county, regions_max)| pb::Delegation {
                    region_id: county.to_string(),
                    regions_max: *regions_max,
                })
                .collect(),
        }
    }
}

impl From<&DelegatedDirectory> for pb::DelegatedDirectory {
    fn from(part: &DelegatedDirectory) -> Self {
        let DelegatedDirectory { linkage_id, superior, version, created_at, regions } = part;
        Self {
            linkage_id: linkage_id.to_string(),
            superior_region: superior.to_string(),
            version: *version,
            create_time: Some(encode_time(*created_at)),
            regions: regions.values().map(Into::into).collect(),
        }
    }
}

impl From<&Region> for pb::Region {
    fn from(region: &Region) -> Self {
        let Region {
            region_id,
            level,
            codes,
            name_zh,
            name_en,
            superior,
            signing_key,
            sealing_key,
            authority_certificate,
            endpoint,
            outline,
            former_keys,
        } = region;
        Self {
            region_id: region_id.as_str().to_owned(),
            level: level.code(),
            codes: codes.iter().map(Into::into).collect(),
            name_zh: name_zh.clone(),
            name_en: name_en.clone(),
            superior_region: superior.as_ref().map(ToString::to_string).unwrap_or_default(),
            signing_key: Bytes::copy_from_slice(signing_key),
            sealing_key: Bytes::copy_from_slice(sealing_key),
            authority_certificate: Bytes::copy_from_slice(authority_certificate),
            endpoint: endpoint.clone(),
            outline: outline::encode(outline),
            // What is held was read before, so that each can be read again.
            key_changes: former_keys
                .iter()
                .filter_map(|former| SignedObject::decode(former.signed.as_slice()).ok())
                .collect(),
        }
    }
}

impl From<&DivisionCode> for pb::DivisionCode {
    fn from(code: &DivisionCode) -> Self {
        let DivisionCode { scheme, code, edition } = code;
        Self { scheme: scheme.code(), code: code.clone(), edition: edition.clone() }
    }
}

impl From<&Gateway> for pb::Gateway {
    fn from(gateway: &Gateway) -> Self {
        let Gateway { gateway_id, authority_certificate, endpoint } = gateway;
        Self {
            gateway_id: gateway_id.as_str().to_owned(),
            authority_certificate: Bytes::copy_from_slice(authority_certificate),
            endpoint: endpoint.clone(),
        }
    }
}
