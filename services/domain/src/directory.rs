//! Who is in the linkage.

use crate::code_table;
use crate::kernel::{GatewayId, GeoPoint, LinkageId, RegionId, Timestamp};
use crate::outline::Outline;
use std::collections::BTreeMap;

code_table! {
    /// A list of division codes; two lists give one code to different places.
    CodeScheme {
        /// GB/T 2260, six digits.
        Gb2260 = 1 "GB2260",
        /// GB/T 10114, nine digits.
        Mca10114 = 2 "MCA10114",
        /// Statistical codes.
        Nbs = 3 "NBS",
    }
}

code_table! {
    /// What kind of area a region is.
    RegionLevel {
        /// 乡镇街道.
        Township = 1 "TOWNSHIP",
        /// 区县.
        County = 2 "COUNTY",
    }
}

/// A division code, never without its list and edition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DivisionCode {
    /// The list.
    pub scheme: CodeScheme,
    /// The code.
    pub code: String,
    /// Edition of the list.
    pub edition: String,
}

/// A key that signed for a region until the region changed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerKey {
    /// Ed25519 key.
    pub signing_key: [u8; 32],
    /// When it was changed.
    pub changed_at: Timestamp,
    /// The change, as both keys signed it.
    pub signed: Vec<u8>,
}

/// A region of the linkage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its id.
    pub region_id: RegionId,
    /// Kind of area.
    pub level: RegionLevel,
    /// Division codes.
    pub codes: Vec<DivisionCode>,
    /// Name in Chinese.
    pub name_zh: String,
    /// Name in English.
    pub name_en: String,
    /// The region above it.
    pub superior: Option<RegionId>,
    /// Ed25519 key.
    pub signing_key: [u8; 32],
    /// X25519 key.
    pub sealing_key: [u8; 32],
    /// Certificate of its own authority, DER.
    pub authority_certificate: Vec<u8>,
    /// host:port; empty where it only dials out.
    pub endpoint: String,
    /// Its area, as far as it is drawn.
    pub outline: Outline,
    /// Keys that it had before, the oldest first.
    pub former_keys: Vec<FormerKey>,
}

/// A gateway of the linkage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its id.
    pub gateway_id: GatewayId,
    /// Certificate of its own authority, DER.
    pub authority_certificate: Vec<u8>,
    /// host:port.
    pub endpoint: String,
}

/// The linkage as its authority signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The linkage.
    pub linkage_id: LinkageId,
    /// Raised by one with each issue.
    pub version: u64,
    /// When it was signed.
    pub created_at: Timestamp,
    /// Its regions, by id.
    pub regions: BTreeMap<RegionId, Region>,
    /// Its gateways, by id.
    pub gateways: BTreeMap<GatewayId, Gateway>,
    /// Ed25519 key that signs freshness.
    pub freshness_key: Option<[u8; 32]>,
    /// Counties that list their own townships, and how many each may list.
    pub delegations: BTreeMap<RegionId, u32>,
}

/// The townships of one county, as the county signed them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelegatedDirectory {
    /// The linkage.
    pub linkage_id: LinkageId,
    /// The county, the superior of each of the regions.
    pub superior: RegionId,
    /// Raised by one with each issue.
    pub version: u64,
    /// When it was signed.
    pub created_at: Timestamp,
    /// Its townships, by id.
    pub regions: BTreeMap<RegionId, Region>,
}

impl Directory {
    /// The district of a region: its superior, or itself where it is at the top.
    pub fn district<'a>(&'a self, region: &'a RegionId) -> &'a RegionId {
        self.regions.get(region).and_then(|r| r.superior.as_ref()).unwrap_or(region)
    }

    /// The region in whose area a place lies: a township before its county.
    pub fn locate(&self, place: &GeoPoint) -> Option<&Region> {
        let around = self.regions.values().filter(|region| region.outline.contains(place));
        around.min_by_key(|region| region.level)
    }
}
