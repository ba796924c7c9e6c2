//! The parts of the directory that counties sign: each lists its own townships, where the authority lets it.
//!
//! What is wrong with one county's part harms that county alone: the part is passed over, and the authority's word
//! and all other parts count. A township that two counties claim would else be a matter of who came last, so a part
//! that claims what another holds is refused whole, until the authority was shown one of the two: that one counts
//! everywhere. What the authority lists itself it may list at any time, so there only the one township is passed
//! over: its county's other townships must not fall with it.

use super::{Trust, TrustError, keys, unsigned};
use crate::key::sha256;
use crate::{signed, tag};
use domain::directory::{DelegatedDirectory, Directory, Region};
use domain::freshness::DelegatedHead;
use domain::kernel::RegionId;
use prost::Message as _;
use proto::directory::v1 as pb;
use proto::kernel::v1::SignedObject;
use std::collections::{BTreeMap, BTreeSet};

/// Most that is held and shown, all parts together: it must fit into one frame of a link, which is 1 MiB.
pub const SET_BYTES_MAX: usize = 1_000_000;
/// Bytes of one county's part: no county takes the room of all others.
pub const PART_BYTES_MAX: usize = 128 * 1_024;
/// Bytes around a part in the set.
const AROUND_BYTES: usize = 8;
/// Parts of one set of which it is told that they are not believed.
const REFUSED_MAX: usize = 16;

const PART: &str = "a county's part of the directory";

/// A county's part that is believed.
#[derive(Clone, Debug)]
pub(super) struct Part {
    county: RegionId,
    pub(super) head: DelegatedHead,
    /// What the county lists that the authority does not list itself.
    townships: BTreeSet<RegionId>,
    /// The same until they are in the directory.
    regions: Vec<Region>,
    pub(super) signed: SignedObject,
}

impl Trust {
    /// Puts parts that were held beside the authority's word, and then those that are shown; tells whether one of
    /// these is news, and what of them is not believed. What was held and fits no more is dropped without a word:
    /// the authority has said so.
    pub(super) fn with_parts(
        mut self,
        held: impl IntoIterator<Item = SignedObject>,
        shown: Vec<SignedObject>,
    ) -> (Self, bool, Vec<TrustError>) {
        for part in held {
            if let Ok(part) = self.read_part(part) {
                self.place(part).ok();
            }
        }
        let (mut read, mut refused) = (Vec::new(), Vec::new());
        for object in shown {
            // What is held already need not be proved again.
            if self.parts.values().any(|held| held.signed.body == object.body) {
                continue;
            }
            match self.read_part(object) {
                Ok(part) => read.push(part),
                Err(error) => refused.push(error),
            }
        }
        // Those first that the authority was shown: it decides between two.
        read.sort_by_key(|part| !self.names(part));
        let mut news = false;
        for part in read {
            match self.place(part) {
                Ok(is_news) => news |= is_news,
                Err(error) => refused.push(error),
            }
        }
        self.list();
        refused.truncate(REFUSED_MAX);
        (self, news, refused)
    }

    /// Believes a county's part, when it may list as much, has signed it, and the authority knows of none newer.
    fn read_part(&self, object: SignedObject) -> Result<Part, TrustError> {
        if object.body.len() > PART_BYTES_MAX {
            return Err(TrustError::PartTooLarge);
        }
        let county = signed::signer(&object).map_err(unsigned(PART))?;
        let Directory { linkage_id, regions, delegations, .. } = &self.directory;
        let (Some(listed), Some(most)) = (regions.get(&county), delegations.get(&county)) else {
            return Err(TrustError::NotDelegated(county));
        };
        if self.is_revoked(listed) {
            return Err(TrustError::CountyRevoked(county));
        }
        // A list counts until the next, also where the county has changed its keys since.
        let key = self.key_lasting(listed, signed::key_id_of(&object));
        let (tag, signer) = (tag::DELEGATED_DIRECTORY, county.as_str());
        let body = signed::verify_one(&object, tag, signer, &key).map_err(unsigned(PART))?;
        let part = proto::convert::directory::decode_delegated(body)
            .map_err(|source| TrustError::Malformed { what: PART, source })?;
        if part.linkage_id != *linkage_id {
            return Err(TrustError::OtherLinkage);
        }
        if part.superior != county {
            return Err(TrustError::Unsigned {
                what: PART,
                source: signed::SignedError::SignerWrong,
            });
        }
        if part.regions.len() > usize::try_from(*most).unwrap_or(usize::MAX) {
            return Err(TrustError::TownshipsTooMany(county));
        }
        let head = DelegatedHead { version: part.version, sha256: sha256(body) };
        match self.named(&county) {
            Some(named) if head.version < named.version => return Err(TrustError::PartOld(county)),
            Some(named) if head.version == named.version && head != named => {
                return Err(TrustError::PartForked(county));
            }
            _ => {}
        }
        let own = part.regions.into_values();
        let own: Vec<_> = own.filter(|region| !regions.contains_key(&region.region_id)).collect();
        for region in &own {
            keys::verify(linkage_id, region)?;
        }
        let townships = own.iter().map(|region| region.region_id.clone()).collect();
        Ok(Part { county, head, townships, regions: own, signed: object })
    }

    /// The part of a county that the authority was shown.
    fn named(&self, county: &RegionId) -> Option<DelegatedHead> {
        self.freshness.as_ref()?.delegated.get(county).copied()
    }

    /// Whether the authority was shown just this part.
    fn names(&self, part: &Part) -> bool {
        self.named(&part.county) == Some(part.head)
    }

    /// Takes a part in the place of an older one of its county; tells whether it is news.
    fn place(&mut self, part: Part) -> Result<bool, TrustError> {
        if let Some(held) = self.parts.get(&part.county) {
            if held.head == part.head || held.head.version > part.head.version {
                return Ok(false);
            }
            if held.head.version == part.head.version {
                return Err(TrustError::PartForked(part.county));
            }
        }
        let others = || self.parts.values().filter(|other| other.county != part.county);
        let counts = self.names(&part);
        let claimed = |other: &&Part| !other.townships.is_disjoint(&part.townships);
        if let Some(by) = others().filter(claimed).find(|other| !counts || self.names(other)) {
            let township = by.townships.intersection(&part.townships).next();
            let township = township.unwrap_or(&by.county).clone();
            return Err(TrustError::TownshipTaken { township, by: by.county.clone() });
        }
        let gone: Vec<_> = others().filter(claimed).map(|other| other.county.clone()).collect();
        let beside = others().filter(|other| !gone.contains(&other.county)).map(Part::size);
        let authority = pb::TrustSet { delegated: Vec::new(), ..self.signed.clone() };
        if authority.encoded_len() + part.size() + beside.sum::<usize>() > SET_BYTES_MAX {
            return Err(TrustError::PartTooLarge);
        }
        self.parts.retain(|county, _| !gone.contains(county));
        self.parts.insert(part.county.clone(), part);
        Ok(true)
    }

    /// Puts the townships of all parts into the directory, and the parts beside what the authority has signed.
    fn list(&mut self) {
        for part in self.parts.values_mut() {
            let regions = std::mem::take(&mut part.regions).into_iter();
            let regions = regions.map(|region| (region.region_id.clone(), region));
            self.directory.regions.extend(regions);
        }
        self.signed.delegated = self.parts.values().map(|part| part.signed.clone()).collect();
    }

    /// What a county lists, as it signed it.
    pub fn delegated_directory(&self, county: &RegionId) -> Option<DelegatedDirectory> {
        let part = self.parts.get(county)?;
        proto::convert::directory::decode_delegated(&part.signed.body).ok()
    }

    /// Which part of each county is believed.
    pub fn delegated(&self) -> BTreeMap<RegionId, DelegatedHead> {
        self.parts.iter().map(|(county, part)| (county.clone(), part.head)).collect()
    }
}

/// Which part of which county an object says that it is; nothing of it is verified.
pub(super) fn shown_head(object: &SignedObject) -> Option<(RegionId, DelegatedHead)> {
    if object.body.len() > PART_BYTES_MAX {
        return None;
    }
    let part = pb::DelegatedDirectory::decode(object.body.clone()).ok()?;
    let county = RegionId::parse(&part.superior_region).ok()?;
    Some((county, DelegatedHead { version: part.version, sha256: sha256(&object.body) }))
}

impl Part {
    fn size(&self) -> usize {
        self.signed.encoded_len() + AROUND_BYTES
    }
}
