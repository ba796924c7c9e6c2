//! What the linkage is and what was agreed, as far as signatures prove it: root key, directory key,
//! directory, what counties list of it, freshness, agreements.

mod delegated;
mod keys;

use crate::key::{key_fingerprint, sha256};
use crate::{signed, tag};
use domain::agreement::{Agreement, Consent, Party};
use domain::directory::{Directory, Gateway, Region};
use domain::freshness::{AHEAD_MINUTES, Freshness, Member, TrustMark};
use domain::kernel::{GatewayId, Reason, RegionId, Timestamp, TrustAge};
use prost::Message as _;
use proto::convert::kernel::decode_time;
use proto::directory::v1 as pb;
use proto::kernel::v1::SignedObject;
use std::collections::BTreeMap;

pub use delegated::{PART_BYTES_MAX, SET_BYTES_MAX};
pub use keys::{KEY_DAYS, change, key_ever};

/// The name under which an authority signs.
pub const AUTHORITY: &str = "authority";

const SET: &str = "what the authority has signed";
const KEY: &str = "the directory key";
const DIRECTORY: &str = "the directory";
const FRESHNESS: &str = "the freshness";
const AGREEMENT: &str = "the agreement";

/// Why a signed object is not believed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The bytes are no such object.
    #[error("{0} is unreadable")]
    Unreadable(&'static str),
    /// A signature is missing or wrong.
    #[error("{what} is not signed as it must be")]
    Unsigned {
        /// The object.
        what: &'static str,
        /// What is wrong.
        source: signed::SignedError,
    },
    /// Signed when the directory key was not valid.
    #[error(
        "the directory key was not valid when this was signed: ask the authority for a new one"
    )]
    KeyExpired,
    /// Signed with a directory key that was replaced.
    #[error("another directory key has replaced the one that signed this")]
    KeyReplaced,
    /// The freshness speaks of another directory, or the directory names nobody who may sign it.
    #[error("the freshness is not one of this directory")]
    NotFresh,
    /// The freshness is of a time to come.
    #[error(
        "the freshness is of a time to come: check the clocks of this machine and the authority's"
    )]
    Ahead,
    /// Two directories of one version.
    #[error("the authority has signed two directories of one version")]
    Forked,
    /// Two texts of one version of an agreement.
    #[error("another text of the version before is held")]
    AgreementForked,
    /// The directory key is another linkage's.
    #[error("the directory and its key name different linkages")]
    OtherLinkage,
    /// The content breaks a rule of its form.
    #[error("{what} is not well formed")]
    Malformed {
        /// The object.
        what: &'static str,
        /// What is wrong.
        source: proto::convert::Violations,
    },
    /// The authority does not let the county list townships.
    #[error("the authority does not let {0} list townships")]
    NotDelegated(RegionId),
    /// The county was revoked.
    #[error("{0}, which lists townships, is revoked")]
    CountyRevoked(RegionId),
    /// The changes of a region's keys are not signed by both keys, or do not lead to the listed ones.
    #[error("the changes of the keys of {0} do not lead to the keys that are listed")]
    KeyChangeBroken(RegionId),
    /// More townships than the authority lets the county list.
    #[error("{0} lists more townships than the authority lets it")]
    TownshipsTooMany(RegionId),
    /// The authority was shown a newer part.
    #[error("{0} has shown the authority a newer list of its townships than this")]
    PartOld(RegionId),
    /// Two parts of one version.
    #[error("{0} has signed two lists of its townships of one version")]
    PartForked(RegionId),
    /// Another county lists one of the townships.
    #[error("{by} lists {township} already: the authority settles whose it is")]
    TownshipTaken {
        /// Listed twice.
        township: RegionId,
        /// By whom it was listed before.
        by: RegionId,
    },
    /// There is no room for it.
    #[error(
        "a county's list of townships is too large, or there is no room for it beside all others"
    )]
    PartTooLarge,
    /// More parts than counties can have.
    #[error("there are more parts than counties can have")]
    PartsTooMany,
    /// A party is not in the directory.
    #[error("party {0} is not in the directory")]
    PartyUnknown(String),
    /// The agreement pins another key than the directory holds.
    #[error("the agreement pins another key of {0} than the directory holds")]
    KeyNotPinned(String),
}

impl TrustError {
    /// Why, by code.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Unreadable(_) | Self::Malformed { .. } => Reason::EntryUnreadable,
            Self::Unsigned { .. }
            | Self::KeyExpired
            | Self::KeyReplaced
            | Self::OtherLinkage
            | Self::Ahead
            | Self::KeyChangeBroken(_)
            | Self::KeyNotPinned(_) => Reason::SignatureInvalid,
            Self::Forked | Self::PartForked(_) => Reason::TrustForked,
            Self::NotFresh | Self::PartOld(_) => Reason::TrustStale,
            Self::NotDelegated(_) => Reason::NotDelegated,
            Self::CountyRevoked(_) => Reason::RegionRevoked,
            Self::TownshipTaken { .. } => Reason::TownshipTaken,
            Self::TownshipsTooMany(_) | Self::PartTooLarge | Self::PartsTooMany => {
                Reason::LimitExceeded
            }
            Self::AgreementForked => Reason::AgreementForked,
            Self::PartyUnknown(_) => Reason::RegionUnknown,
        }
    }
}

/// A linkage as its authority signed it, verified: the root vouches for the directory key, that for the
/// directory, that for the key which says every few minutes what is newest, and names the counties that list
/// their own townships.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Who is in it: whom the authority lists, and the townships that its counties list.
    pub directory: Directory,
    /// What is newest; `None` where nobody says so.
    pub freshness: Option<Freshness>,
    /// How long the key that signed the directory is good.
    pub key_expires_at: Timestamp,
    /// When it was made.
    key_created_at: Timestamp,
    directory_sha256: [u8; 32],
    parts: BTreeMap<RegionId, delegated::Part>,
    signed: pb::TrustSet,
}

/// What of a set is to be believed from now on, where there is news in it, and what of it is passed over.
pub type Offered = (Option<Trust>, Vec<TrustError>);

impl Trust {
    /// Believes what lies together, for the first time; gives also why a county's part was passed over.
    ///
    /// # Errors
    /// When a link of that chain is missing.
    pub fn read(
        root_public: &[u8; 32],
        mut set: pb::TrustSet,
    ) -> Result<(Self, Vec<TrustError>), TrustError> {
        let parts = parts_of(&mut set)?;
        let (trust, _, refused) =
            Self::read_authority(root_public, set)?.with_parts(Vec::new(), parts);
        Ok((trust, refused))
    }

    /// Believes what the authority has signed.
    fn read_authority(root_public: &[u8; 32], set: pb::TrustSet) -> Result<Self, TrustError> {
        let key = set.directory_key.as_ref().ok_or(TrustError::Unreadable(KEY))?;
        let body = signed::verify_one(key, tag::DIRECTORY_KEY, AUTHORITY, root_public)
            .map_err(unsigned(KEY))?;
        let key =
            pb::DirectoryKey::decode(body.clone()).map_err(|_| TrustError::Unreadable(KEY))?;
        let time = |time: Option<_>| time.and_then(decode_time).ok_or(TrustError::Unreadable(KEY));
        let (from, until) = (time(key.create_time)?, time(key.expire_time)?);
        let public = key.key.as_ref().try_into().map_err(|_| TrustError::Unreadable(KEY))?;
        let object = set.directory.as_ref().ok_or(TrustError::Unreadable(DIRECTORY))?;
        let body = signed::verify_one(object, tag::DIRECTORY, AUTHORITY, &public)
            .map_err(unsigned(DIRECTORY))?;
        let directory = proto::convert::directory::decode(body)
            .map_err(|source| TrustError::Malformed { what: DIRECTORY, source })?;
        if directory.linkage_id.as_str() != key.linkage_id {
            return Err(TrustError::OtherLinkage);
        }
        for region in directory.regions.values() {
            keys::verify(&directory.linkage_id, region)?;
        }
        // By when it was signed: a key that has run out signs nothing new, and what it signed grows old.
        if !(from..until).contains(&directory.created_at) {
            return Err(TrustError::KeyExpired);
        }
        let mut trust = Self {
            directory_sha256: sha256(body),
            directory,
            freshness: None,
            key_expires_at: until,
            key_created_at: from,
            parts: BTreeMap::new(),
            signed: pb::TrustSet::default(),
        };
        if let Some(object) = &set.freshness {
            trust.freshness = Some(trust.read_freshness(object)?);
        }
        trust.signed = set;
        Ok(trust)
    }

    fn read_freshness(&self, object: &SignedObject) -> Result<Freshness, TrustError> {
        let key = self.directory.freshness_key.ok_or(TrustError::NotFresh)?;
        let body = signed::verify_one(object, tag::FRESHNESS, AUTHORITY, &key)
            .map_err(unsigned(FRESHNESS))?;
        let freshness = proto::convert::freshness::decode(body)
            .map_err(|source| TrustError::Malformed { what: FRESHNESS, source })?;
        if freshness.linkage_id != self.directory.linkage_id {
            return Err(TrustError::OtherLinkage);
        }
        let named = (freshness.directory_version, freshness.directory_sha256);
        if named != (self.directory.version, self.directory_sha256) {
            return Err(TrustError::NotFresh);
        }
        if freshness.created_at >= self.key_expires_at {
            return Err(TrustError::KeyExpired);
        }
        Ok(freshness)
    }

    /// Looks at what somebody shows, who may leave out what is held here; gives what is to be held from now
    /// on, where something of it is newer, and why a county's part of it was passed over. What is older is no news:
    /// nobody is led back by it.
    ///
    /// # Errors
    /// When the authority's part of it is not believed, or the authority has signed two of one version.
    pub fn offered(
        &self,
        root_public: &[u8; 32],
        mut set: pb::TrustSet,
        now: Timestamp,
    ) -> Result<Offered, TrustError> {
        let parts = parts_of(&mut set)?;
        let newer = self.offered_authority(root_public, set, now)?;
        if newer.is_none() && parts.is_empty() {
            return Ok((None, Vec::new()));
        }
        let (is_newer, held) = (newer.is_some(), self.signed.delegated.iter().cloned());
        let base = match newer {
            Some(newer) => newer,
            None => Self::read_authority(root_public, self.signed.clone())?,
        };
        let (trust, news, refused) = base.with_parts(held, parts);
        Ok(((is_newer || news).then_some(trust), refused))
    }

    /// The authority's part of it, where that is newer.
    fn offered_authority(
        &self,
        root_public: &[u8; 32],
        set: pb::TrustSet,
        now: Timestamp,
    ) -> Result<Option<Self>, TrustError> {
        let (held, pb::TrustSet { directory_key, directory, freshness, delegated }) =
            (&self.signed, set);
        // A new directory comes with the key that signed it.
        let directory_key = directory_key.or_else(|| held.directory_key.clone());
        let directory = directory.or_else(|| held.directory.clone());
        let set = pb::TrustSet { directory_key, directory, freshness, delegated };
        let offered = Self::read_authority(root_public, set)?;
        // Asked of what is new alone: a machine whose clock was set back starts with what it holds.
        let ahead = now.plus_millis(AHEAD_MINUTES * 60_000);
        if offered.freshness_at().is_some_and(|at| at > ahead) {
            return Err(TrustError::Ahead);
        }
        if offered.directory.linkage_id != self.directory.linkage_id {
            return Err(TrustError::OtherLinkage);
        }
        let (mine, theirs) = (self.directory.version, offered.directory.version);
        if theirs == mine && offered.directory_sha256 != self.directory_sha256 {
            return Err(TrustError::Forked);
        }
        // A directory that is newer than the word on it is not taken without a newer word.
        let is_fresher = offered.freshness_at() > self.freshness_at();
        let is_newer = theirs >= mine && is_fresher || theirs > mine && self.freshness.is_none();
        // A key that another has replaced signs nothing new, whoever has it now.
        if is_newer && offered.key_created_at < self.key_created_at {
            return Err(TrustError::KeyReplaced);
        }
        Ok(is_newer.then_some(offered))
    }

    /// A directory that is believed for another reason: of a bench, of a simulated linkage.
    pub fn of(directory: Directory) -> Self {
        let body = proto::convert::directory::encode(&directory);
        Self {
            directory_sha256: sha256(&body),
            key_expires_at: directory.created_at,
            key_created_at: directory.created_at,
            directory,
            freshness: None,
            parts: BTreeMap::new(),
            signed: pb::TrustSet::default(),
        }
    }

    /// How new it is.
    pub fn mark(&self) -> TrustMark {
        TrustMark {
            directory_version: self.directory.version,
            freshness_at: self.freshness_at(),
            delegated: self.delegated(),
        }
    }

    fn freshness_at(&self) -> Option<Timestamp> {
        self.freshness.as_ref().map(|freshness| freshness.created_at)
    }

    /// When the authority last said so.
    pub fn signed_at(&self) -> Timestamp {
        self.freshness_at().unwrap_or(self.directory.created_at)
    }

    /// What it is worth by now.
    pub fn age(&self, now: Timestamp) -> TrustAge {
        TrustAge::of(self.signed_at(), now)
    }

    /// As it was signed.
    pub const fn signed(&self) -> &pb::TrustSet {
        &self.signed
    }

    /// As it was signed, without a directory and parts that the other side holds.
    pub fn signed_beyond(&self, mark: &TrustMark) -> pb::TrustSet {
        let lacks = mark.directory_version < self.directory.version;
        let directory = lacks.then(|| self.signed.directory.clone()).flatten();
        let parts = self.parts.iter().filter(|(county, part)| mark.lacks(county, &part.head));
        let delegated = parts.map(|(_, part)| part.signed.clone()).collect();
        pb::TrustSet { directory, delegated, ..self.signed.clone() }
    }

    /// Whom the authority lists itself.
    ///
    /// # Errors
    /// When nobody has signed it.
    pub fn authority_directory(&self) -> Result<Directory, TrustError> {
        let object = self.signed.directory.as_ref().ok_or(TrustError::Unreadable(DIRECTORY))?;
        proto::convert::directory::decode(&object.body)
            .map_err(|source| TrustError::Malformed { what: DIRECTORY, source })
    }

    /// SHA-256 of the directory's body.
    pub const fn directory_sha256(&self) -> [u8; 32] {
        self.directory_sha256
    }

    /// A region that is in the linkage and believed.
    pub fn find_region(&self, region: &RegionId) -> Option<&Region> {
        self.directory.regions.get(region).filter(|listed| !self.is_revoked(listed))
    }

    /// Whether a listed region is no longer believed.
    pub fn is_revoked(&self, region: &Region) -> bool {
        self.freshness.as_ref().is_some_and(|freshness| {
            let member = Member::Region(region.region_id.clone());
            !freshness.revocations.is_empty()
                && freshness.revokes(&member, &key_fingerprint(&region.signing_key))
        })
    }

    /// A gateway that is in the linkage and believed.
    pub fn find_gateway(&self, gateway: &GatewayId) -> Option<&Gateway> {
        let listed = self.directory.gateways.get(gateway)?;
        let key_sha256 = sha256(&listed.authority_certificate);
        let revoked = self.freshness.as_ref().is_some_and(|freshness| {
            freshness.revokes(&Member::Gateway(gateway.clone()), &key_sha256)
        });
        (!revoked).then_some(listed)
    }

    /// Whether something besides the time of its freshness has changed since another.
    pub fn differs(&self, other: &Self) -> bool {
        let said = |trust: &Self| {
            let freshness = trust.freshness.clone();
            freshness.map(|Freshness { revocations, agreements, .. }| (revocations, agreements))
        };
        self.directory_sha256 != other.directory_sha256
            || said(self) != said(other)
            || self.delegated() != other.delegated()
    }
}

/// The counties' parts of a set.
fn parts_of(set: &mut pb::TrustSet) -> Result<Vec<SignedObject>, TrustError> {
    let parts = std::mem::take(&mut set.delegated);
    if parts.len() > proto::convert::directory::DELEGATIONS_MAX {
        return Err(TrustError::PartsTooMany);
    }
    Ok(parts)
}

/// What a set says of itself, as far as whoever shows it is concerned: nothing in it is verified.
pub fn shown_mark(set: &pb::TrustSet) -> TrustMark {
    let freshness = set.freshness.as_ref();
    let read = freshness.and_then(|object| proto::convert::freshness::decode(&object.body).ok());
    let mut mark = read.map_or_else(TrustMark::default, |freshness| TrustMark {
        directory_version: freshness.directory_version,
        freshness_at: Some(freshness.created_at),
        delegated: BTreeMap::new(),
    });
    mark.delegated.extend(set.delegated.iter().filter_map(delegated::shown_head));
    mark
}

/// What of a set counts from now on and as what it is kept, where there is news in it, and what of it is passed
/// over.
pub type Believed = (Option<(Trust, Vec<u8>)>, Vec<TrustError>);

/// Looks at an encoded [`pb::TrustSet`]: one that lies where nothing is held yet, or one that is shown to who
/// holds something. Gives what is to be believed from now on and as what it is kept, where that is newer.
///
/// # Errors
/// When it is not believed.
pub fn believe(
    root_public: &[u8; 32],
    held: Option<&Trust>,
    bytes: &[u8],
    now: Timestamp,
) -> Result<Believed, TrustError> {
    let set = pb::TrustSet::decode(bytes).map_err(|_| TrustError::Unreadable(SET))?;
    let (newer, refused) = match held {
        None => Trust::read(root_public, set).map(|(trust, refused)| (Some(trust), refused))?,
        Some(held) => held.offered(root_public, set, now)?,
    };
    let newer = newer.map(|trust| {
        let kept = trust.signed.encode_to_vec();
        (trust, kept)
    });
    Ok((newer, refused))
}

fn unsigned(what: &'static str) -> impl Fn(signed::SignedError) -> TrustError {
    move |source| TrustError::Unsigned { what, source }
}

/// Believes an agreement version: every party is in the directory with the key that the agreement pins, and those
/// have signed who must. `before` is the version that it takes the place of, where that is held: without it, all
/// must have signed.
///
/// # Errors
/// When a party or a signature is missing, or it takes the place of another text of the version before.
pub fn agreement(
    object: &SignedObject,
    before: Option<&Agreement>,
    trust: &Trust,
) -> Result<Agreement, TrustError> {
    let agreement = read_agreement(object)?;
    all_listed(&agreement, trust)?;
    consented(object, &agreement, before, trust, Left::Refused)?;
    Ok(agreement)
}

/// Whether every party is in the directory, and the key that the agreement pins is or was its own.
pub(crate) fn all_listed(agreement: &Agreement, trust: &Trust) -> Result<(), TrustError> {
    for party in &agreement.parties {
        let name = || party.region.to_string();
        if !trust.directory.regions.contains_key(&party.region) {
            return Err(TrustError::PartyUnknown(name()));
        }
        if !trust.is_pinned(party) {
            return Err(TrustError::KeyNotPinned(name()));
        }
    }
    Ok(())
}

/// Believes again an agreement version that was believed before. A party may have left the linkage since, or
/// come back with another key: it is no party any more, and its signature cannot be looked at; everybody else's
/// is.
///
/// # Errors
/// When a signature of a party that is left is missing.
pub fn agreement_again(
    object: &SignedObject,
    before: Option<&Agreement>,
    trust: &Trust,
) -> Result<Agreement, TrustError> {
    let agreement = read_agreement(object)?;
    consented(object, &agreement, before, trust, Left::Taken)?;
    Ok(agreement)
}

/// Reads an agreement version without asking who has signed it.
///
/// # Errors
/// When it is not well formed.
pub fn read_agreement(object: &SignedObject) -> Result<Agreement, TrustError> {
    proto::convert::agreement::decode(&object.body, sha256(&object.body))
        .map_err(|source| TrustError::Malformed { what: AGREEMENT, source })
}

/// What becomes of a signature that cannot be looked at, because who signed has left the linkage or has another key.
#[derive(Clone, Copy)]
enum Left {
    /// It does not count, and neither does that of a region that was revoked where fewer than all must sign.
    Refused,
    /// It was looked at before.
    Taken,
}

/// Looks at the signatures of all who must have signed and are in the directory with the key that is pinned.
fn consented(
    object: &SignedObject,
    agreement: &Agreement,
    before: Option<&Agreement>,
    trust: &Trust,
    left: Left,
) -> Result<(), TrustError> {
    let before = before.filter(|before| before.version.checked_add(1) == Some(agreement.version));
    let consent = match (before, agreement.supersedes) {
        (Some(before), Some(named)) if before.sha256 != named => {
            return Err(TrustError::AgreementForked);
        }
        (Some(before), Some(_)) => before.consent(agreement),
        _ => Consent::All,
    };
    let pinned = |parties: &[Party]| -> Vec<_> {
        let keys = |party: &Party| Some((party.region.as_str().to_owned(), trust.keys_of(party)?));
        parties.iter().filter_map(keys).collect()
    };
    let mut signers = pinned(&agreement.parties);
    let enough = match &consent {
        Consent::All => signers.len(),
        Consent::AllButOne => signers.len().saturating_sub(1),
        // Whoever called it up may be the one who has left.
        Consent::Any if matches!(left, Left::Taken) && signers.len() < agreement.parties.len() => 0,
        Consent::Any => 1,
        Consent::Leaver(leaver) => {
            signers = pinned(before.map_or(&[], |before| &before.parties));
            signers.retain(|(signer, _)| signer == leaver.as_str());
            if matches!(left, Left::Taken) { signers.len() } else { 1 }
        }
    };
    if let (Left::Refused, Consent::AllButOne | Consent::Any) = (left, &consent) {
        // Its key may be in other hands.
        let revoked = |party: &Party| trust.find_region(&party.region).is_none();
        let revoked: Vec<_> = agreement.parties.iter().filter(|party| revoked(party)).collect();
        signers.retain(|(signer, _)| !revoked.iter().any(|of| of.region.as_str() == signer));
    }
    let mut missing = None;
    let mut good = 0;
    for (signer, keys) in &signers {
        let verify = |key| signed::verify_one(object, tag::AGREEMENT, signer, key).map(drop);
        // The newest is looked at last, and what is wrong is said of it.
        let verdict = keys.iter().map(verify).reduce(|before, next| before.or(next));
        match verdict {
            Some(Err(source)) => missing = Some(source),
            _ => good += 1,
        }
    }
    if good >= enough {
        return Ok(());
    }
    let who = || "the party that leaves".to_owned();
    let source = missing.unwrap_or_else(|| signed::SignedError::SignatureMissing(who()));
    Err(TrustError::Unsigned { what: AGREEMENT, source })
}
