//! What is newest in a linkage, as its authority says every few minutes: nobody who holds back what is new can
//! pass off what is old for long.

use crate::kernel::{AgreementId, GatewayId, LinkageId, RegionId, Timestamp};
use crate::stream::{Position, StreamId};
use std::collections::BTreeMap;

/// How far the authority's clock may be ahead of one's own.
pub const AHEAD_MINUTES: i64 = 5;

/// A region or a gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// A region.
    Region(RegionId),
    /// A gateway.
    Gateway(GatewayId),
}

/// How far the streams of a revoked region are believed, as others had signed for before its keys were in other
/// hands. One that is not named is void from its start.
pub type Cut = BTreeMap<StreamId, Position>;

/// Somebody who is no longer believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Who.
    pub member: Member,
    /// SHA-256 of the region's Ed25519 key or the gateway's certificate.
    pub key_sha256: [u8; 32],
    /// When it was revoked.
    pub revoked_at: Timestamp,
    /// What its key has signed beyond this is void; `None`: what was taken stays.
    pub cut: Option<Cut>,
}

/// The newest version of an agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgreementHead {
    /// Its number.
    pub version: u32,
    /// SHA-256 of what its parties signed.
    pub sha256: [u8; 32],
}

/// A version of a county's part of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelegatedHead {
    /// Its number.
    pub version: u64,
    /// SHA-256 of what the county signed.
    pub sha256: [u8; 32],
}

/// What is newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// The linkage.
    pub linkage_id: LinkageId,
    /// When it was signed.
    pub created_at: Timestamp,
    /// The newest directory.
    pub directory_version: u64,
    /// SHA-256 of its body.
    pub directory_sha256: [u8; 32],
    /// Who is no longer believed.
    pub revocations: Vec<Revocation>,
    /// The newest version of each agreement that the authority was shown.
    pub agreements: BTreeMap<AgreementId, AgreementHead>,
    /// The newest part of each county that the authority was shown.
    pub delegated: BTreeMap<RegionId, DelegatedHead>,
}

impl Freshness {
    /// Whether this key of a member is no longer believed.
    pub fn revokes(&self, member: &Member, key_sha256: &[u8; 32]) -> bool {
        let of = |revocation: &&Revocation| revocation.member == *member;
        self.revocations.iter().filter(of).any(|revoked| revoked.key_sha256 == *key_sha256)
    }

    /// How far what a key of a region has signed is believed, where it was revoked with a cut. Of a stream whose key
    /// is not known any more any key of the region counts.
    pub fn cut_of(&self, region: &RegionId, key_sha256: Option<&[u8; 32]>) -> Option<&Cut> {
        let of = |revocation: &&Revocation| {
            matches!(&revocation.member, Member::Region(id) if id == region)
                && key_sha256.is_none_or(|key| *key == revocation.key_sha256)
        };
        self.revocations.iter().filter(of).find_map(|revocation| revocation.cut.as_ref())
    }
}

/// How new what somebody holds is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustMark {
    /// Version of the directory; 0 for none.
    pub directory_version: u64,
    /// When the freshness was signed.
    pub freshness_at: Option<Timestamp>,
    /// The part of each county.
    pub delegated: BTreeMap<RegionId, DelegatedHead>,
}

impl TrustMark {
    /// What either holds that is newer.
    #[must_use]
    pub fn newest(mut self, other: Self) -> Self {
        self.directory_version = self.directory_version.max(other.directory_version);
        self.freshness_at = self.freshness_at.max(other.freshness_at);
        for (county, head) in other.delegated {
            let held = self.delegated.entry(county).or_insert(head);
            if head.version >= held.version {
                *held = head;
            }
        }
        self
    }

    /// Whether something of this is newer than what the other holds, or another text of it.
    pub fn exceeds(&self, other: &Self) -> bool {
        let mut parts = self.delegated.iter();
        self.directory_version > other.directory_version
            || self.freshness_at > other.freshness_at
            || parts.any(|(county, head)| other.lacks(county, head))
    }

    /// Whether a county's part is newer than the one held, or another text of its version: two texts are found out
    /// when they meet.
    pub fn lacks(&self, county: &RegionId, head: &DelegatedHead) -> bool {
        self.delegated.get(county).is_none_or(|held| head.version >= held.version && head != held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_with_another_key_is_not_revoked() {
        let region = |id: &str| Member::Region(id.parse().unwrap());
        let freshness = Freshness {
            linkage_id: "wuling".parse().unwrap(),
            created_at: Timestamp::default(),
            directory_version: 1,
            directory_sha256: [0; 32],
            revocations: vec![Revocation {
                member: region("xianfeng"),
                key_sha256: [1; 32],
                revoked_at: Timestamp::default(),
                cut: Some(Cut::new()),
            }],
            agreements: BTreeMap::new(),
            delegated: BTreeMap::new(),
        };
        assert!(freshness.revokes(&region("xianfeng"), &[1; 32]));
        assert!(!freshness.revokes(&region("xianfeng"), &[2; 32]));
        assert!(!freshness.revokes(&region("qianjiang"), &[1; 32]));
        assert!(!freshness.revokes(&Member::Gateway("xianfeng".parse().unwrap()), &[1; 32]));
        let cut = |region: &str, key| freshness.cut_of(&region.parse().unwrap(), key).is_some();
        assert!(cut("xianfeng", Some(&[1; 32])) && cut("xianfeng", None));
        assert!(!cut("xianfeng", Some(&[2; 32])) && !cut("qianjiang", None));
    }

    #[test]
    fn a_mark_exceeds_one_that_lacks_something() {
        let mark = |directory_version, at: Option<i64>| TrustMark {
            directory_version,
            freshness_at: at.map(Timestamp::from_micros),
            delegated: BTreeMap::new(),
        };
        assert!(mark(2, None).exceeds(&mark(1, Some(9))));
        assert!(mark(1, Some(2)).exceeds(&mark(1, Some(1))));
        assert!(mark(1, Some(1)).exceeds(&TrustMark::default()));
        assert!(!mark(1, Some(1)).exceeds(&mark(1, Some(1))));
        assert!(!mark(1, None).exceeds(&mark(1, Some(1))));
        let with = |county: &str, version, sha256| {
            let head = DelegatedHead { version, sha256: [sha256; 32] };
            let delegated = [(county.parse().unwrap(), head)].into();
            TrustMark { delegated, ..mark(1, Some(1)) }
        };
        assert!(with("qianjiang", 1, 1).exceeds(&mark(1, Some(1))));
        assert!(with("qianjiang", 2, 2).exceeds(&with("qianjiang", 1, 1)));
        assert!(!with("qianjiang", 1, 1).exceeds(&with("qianjiang", 2, 2)));
        assert!(!with("qianjiang", 1, 1).exceeds(&with("qianjiang", 1, 1)));
        // Two texts of one version must meet.
        assert!(with("qianjiang", 1, 1).exceeds(&with("qianjiang", 1, 2)));
        assert!(with("qianjiang", 1, 1).exceeds(&with("xianfeng", 1, 1)));
        let both = with("qianjiang", 1, 1).newest(with("qianjiang", 2, 2));
        assert_eq!(both, with("qianjiang", 2, 2));
        assert_eq!(both.clone().newest(with("qianjiang", 1, 1)), both);
    }
}
