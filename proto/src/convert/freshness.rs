//! What is newest, as the authority signed it.

use super::directory::DELEGATIONS_MAX;
use super::kernel::{encode_id, encode_time};
use super::{Door, Path, Rules, Violations};
use crate::directory::v1 as pb;
use crate::exchange::v1::TrustMark as TrustMarkPb;
use bytes::Bytes;
use domain::freshness::{
    AgreementHead, Cut, DelegatedHead, Freshness, Member, Revocation, TrustMark,
};
use domain::kernel::{AgreementId, Epoch, RegionId};
use domain::stream::{Position, StreamId};
use prost::Message;
use std::collections::BTreeMap;

/// Revocations in force.
pub const REVOCATIONS_MAX: usize = 1_000;
/// Streams that are named in the cuts of all revocations together.
pub const CUT_STREAMS_MAX: usize = 1_000;
/// Agreements that the authority was shown.
pub const AGREEMENTS_MAX: usize = 10_000;

/// The body that the authority signs.
pub fn encode(freshness: &Freshness) -> Bytes {
    pb::Freshness::from(freshness).encode_to_vec().into()
}

/// Reads the signed body.
///
/// # Errors
/// Everything that is wrong with it.
pub fn decode(body: &[u8]) -> Result<Freshness, Violations> {
    let mut door = Door::new(Rules::Caller);
    let value = door
        .message("body".into(), body)
        .and_then(|freshness| self::freshness(&mut door, Path::ROOT, freshness));
    door.finish(value)
}

fn freshness(door: &mut Door, at: Path<'_>, freshness: pb::Freshness) -> Option<Freshness> {
    let pb::Freshness {
        linkage_id,
        create_time,
        directory_version,
        directory_sha256,
        revocations,
        agreements,
        delegated,
    } = freshness;
    let linkage_id = door.slug(at.field("linkage_id"), &linkage_id);
    let created_at = door.time(at.field("create_time"), create_time);
    let version = door.number(at.field("directory_version"), directory_version, 1..=u64::MAX);
    let sha256 = door.array(at.field("directory_sha256"), &directory_sha256);
    let revocations =
        door.list(at.field("revocations"), revocations, 0..=REVOCATIONS_MAX, revocation);
    let streams = |revocation: &Revocation| revocation.cut.as_ref().map_or(0, Cut::len);
    let revocations = revocations.and_then(|revocations| {
        let too_many = "must name at most 1000 streams in all cuts together";
        let fits = revocations.iter().map(streams).sum::<usize>() <= CUT_STREAMS_MAX;
        if fits { Some(revocations) } else { door.refuse(at.field("revocations"), too_many) }
    });
    let heads = door.list(at.field("agreements"), agreements, 0..=AGREEMENTS_MAX, agreement_head);
    let agreements = heads.and_then(|heads| {
        let whole = heads.len();
        let map: BTreeMap<_, _> = heads.into_iter().collect();
        let twice = "must hold each id once";
        if map.len() == whole { Some(map) } else { door.refuse(at.field("agreements"), twice) }
    });
    let parts = door.list(at.field("delegated"), delegated, 0..=DELEGATIONS_MAX, delegated_head);
    let delegated = parts.and_then(|parts| {
        let whole = parts.len();
        let map: BTreeMap<_, _> = parts.into_iter().collect();
        let twice = "must hold each county once";
        if map.len() == whole { Some(map) } else { door.refuse(at.field("delegated"), twice) }
    });
    Some(Freshness {
        linkage_id: linkage_id?,
        created_at: created_at?,
        directory_version: version?,
        directory_sha256: sha256?,
        revocations: revocations?,
        agreements: agreements?,
        delegated: delegated?,
    })
}

fn revocation(door: &mut Door, at: Path<'_>, revocation: pb::Revocation) -> Option<Revocation> {
    let pb::Revocation { region_id, gateway_id, key_sha256, revoke_time, is_cut, cut } = revocation;
    let member = match (region_id.is_empty(), gateway_id.is_empty()) {
        (false, true) => door.slug(at.field("region_id"), &region_id).map(Member::Region),
        (true, false) => door.slug(at.field("gateway_id"), &gateway_id).map(Member::Gateway),
        _ => door.refuse(at.field("region_id"), "must name a region, or gateway_id a gateway"),
    };
    let key_sha256 = door.array(at.field("key_sha256"), &key_sha256);
    let revoked_at = door.time(at.field("revoke_time"), revoke_time);
    let (member, at) = (member?, at.field("cut"));
    let cut = match (&member, is_cut, cut.is_empty()) {
        (Member::Region(region), true, _) => Some(self::cut(door, at, region, cut)?),
        (_, false, true) => None,
        _ => return door.refuse(at, "must be empty, unless is_cut says so of a region"),
    };
    Some(Revocation { member, key_sha256: key_sha256?, revoked_at: revoked_at?, cut })
}

fn cut(
    door: &mut Door,
    at: Path<'_>,
    region: &RegionId,
    positions: Vec<pb::CutPosition>,
) -> Option<Cut> {
    let position = |door: &mut Door, at: Path<'_>, position: pb::CutPosition| {
        let pb::CutPosition { epoch, agreement_id, agreement_version, lane, seq, h } = position;
        let epoch = door.id(at.field("epoch"), &epoch, Epoch::from_slice);
        let agreement = door.id(at.field("agreement_id"), &agreement_id, AgreementId::from_slice);
        let version = door.number(at.field("agreement_version"), agreement_version, 1..=u32::MAX);
        let lane = door.code(at.field("lane"), lane);
        let seq = door.number(at.field("seq"), seq, 1..=i64::MAX.cast_unsigned());
        let h = door.array(at.field("h"), &h);
        let (origin, epoch, agreement) = (region.clone(), epoch?, agreement?);
        let stream = StreamId { origin, epoch, agreement, version: version?, lane: lane? };
        Some((stream, Position { seq: seq?, h: h? }))
    };
    let positions = door.list(at, positions, 0..=CUT_STREAMS_MAX, position)?;
    let whole = positions.len();
    let cut: Cut = positions.into_iter().collect();
    if cut.len() == whole { Some(cut) } else { door.refuse(at, "must name each stream once") }
}

fn agreement_head(
    door: &mut Door,
    at: Path<'_>,
    head: pb::AgreementHead,
) -> Option<(AgreementId, AgreementHead)> {
    let pb::AgreementHead { agreement_id, version, sha256 } = head;
    let id = door.id(at.field("agreement_id"), &agreement_id, AgreementId::from_slice);
    let version = door.number(at.field("version"), version, 1..=u32::MAX);
    let sha256 = door.array(at.field("sha256"), &sha256);
    Some((id?, AgreementHead { version: version?, sha256: sha256? }))
}

fn delegated_head(
    door: &mut Door,
    at: Path<'_>,
    head: pb::DelegatedHead,
) -> Option<(RegionId, DelegatedHead)> {
    let pb::DelegatedHead { superior_region, version, sha256 } = head;
    let county = door.slug(at.field("superior_region"), &superior_region);
    let version = door.number(at.field("version"), version, 1..=u64::MAX);
    let sha256 = door.array(at.field("sha256"), &sha256);
    Some((county?, DelegatedHead { version: version?, sha256: sha256? }))
}

fn encode_heads(heads: &BTreeMap<RegionId, DelegatedHead>) -> Vec<pb::DelegatedHead> {
    let encode = |(county, head): (&RegionId, &DelegatedHead)| {
        let DelegatedHead { version, sha256 } = head;
        pb::DelegatedHead {
            superior_region: county.to_string(),
            version: *version,
            sha256: Bytes::copy_from_slice(sha256),
        }
    };
    heads.iter().map(encode).collect()
}

impl From<&Freshness> for pb::Freshness {
    fn from(freshness: &Freshness) -> Self {
        let Freshness {
            linkage_id,
            created_at,
            directory_version,
            directory_sha256,
            revocations,
            agreements,
            delegated,
        } = freshness;
        Self {
            linkage_id: linkage_id.as_str().to_owned(),
            create_time: Some(encode_time(*created_at)),
            directory_version: *directory_version,
            directory_sha256: Bytes::copy_from_slice(directory_sha256),
            revocations: revocations.iter().map(Into::into).collect(),
            agreements: agreements
                .iter()
                .map(|(id, AgreementHead { version, sha256 })| pb::AgreementHead {
                    agreement_id: encode_id(id.as_bytes()),
                    version: *version,
                    sha256: Bytes::copy_from_slice(sha256),
                })
                .collect(),
            delegated: encode_heads(delegated),
        }
    }
}

impl From<&Revocation> for pb::Revocation {
    fn from(revocation: &Revocation) -> Self {
        let Revocation { member, key_sha256, revoked_at, cut } = revocation;
        let (region_id, gateway_id) = match member {
            Member::Region(region) => (region.as_str().to_owned(), String::new()),
            Member::Gateway(gateway) => (String::new(), gateway.as_str().to_owned()),
        };
        Self {
            region_id,
            gateway_id,
            key_sha256: Bytes::copy_from_slice(key_sha256),
            revoke_time: Some(encode_time(*revoked_at)),
            is_cut: cut.is_some(),
            cut: cut.iter().flatten().map(cut_position).collect(),
        }
    }
}

fn cut_position((stream, position): (&StreamId, &Position)) -> pb::CutPosition {
    pb::CutPosition {
        epoch: encode_id(stream.epoch.as_bytes()),
        agreement_id: encode_id(stream.agreement.as_bytes()),
        agreement_version: stream.version,
        lane: stream.lane.code(),
        seq: position.seq,
        h: Bytes::copy_from_slice(&position.h),
    }
}

impl From<&TrustMark> for TrustMarkPb {
    fn from(mark: &TrustMark) -> Self {
        let TrustMark { directory_version, freshness_at, delegated } = mark;
        Self {
            directory_version: *directory_version,
            freshness_time: freshness_at.map(encode_time),
            delegated: encode_heads(delegated),
        }
    }
}

/// A mark on its way in; one that is absent or makes no sense holds nothing.
pub fn decode_mark(mark: Option<TrustMarkPb>) -> TrustMark {
    let TrustMarkPb { directory_version, freshness_time, delegated } = mark.unwrap_or_default();
    let head = |head| delegated_head(&mut Door::new(Rules::Caller), Path::ROOT, head);
    TrustMark {
        directory_version,
        freshness_at: freshness_time.and_then(super::kernel::decode_time),
        delegated: delegated.into_iter().take(DELEGATIONS_MAX).filter_map(head).collect(),
    }
}
