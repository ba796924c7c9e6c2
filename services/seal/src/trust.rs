//! What the linkage is and what was agreed, as far as signatures prove it: root key, directory key,
//! directory, freshness, agreements.

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
            | Self::KeyNotPinned(_) => Reason::SignatureInvalid,
            Self::NotFresh => Reason::TrustStale,
            Self::Forked => Reason::TrustForked,
            Self::AgreementForked => Reason::AgreementForked,
            Self::PartyUnknown(_) => Reason::RegionUnknown,
        }
    }
}

/// A linkage as its authority signed it, verified: the root vouches for the directory key, that for the
/// directory, that for the key which says every few minutes what is newest.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Who is in it.
    pub directory: Directory,
    /// What is newest; `None` where nobody says so.
    pub freshness: Option<Freshness>,
    /// How long the key that signed the directory is good.
    pub key_expires_at: Timestamp,
    /// When it was made.
    key_created_at: Timestamp,
    directory_sha256: [u8; 32],
    signed: pb::TrustSet,
}

impl Trust {
    /// Believes what lies together, for the first time.
    ///
    /// # Errors
    /// When a link of that chain is missing.
    pub fn read(root_public: &[u8; 32], set: pb::TrustSet) -> Result<Self, TrustError> {
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
    /// on, where that is newer. What is older is no news: nobody is led back by it.
    ///
    /// # Errors
    /// When it is not believed, or the authority has signed two of one version.
    pub fn offered(
        &self,
        root_public: &[u8; 32],
        set: pb::TrustSet,
        now: Timestamp,
    ) -> Result<Option<Self>, TrustError> {
        let (held, pb::TrustSet { directory_key, directory, freshness }) = (&self.signed, set);
        // A new directory comes with the key that signed it.
        let directory_key = directory_key.or_else(|| held.directory_key.clone());
        let directory = directory.or_else(|| held.directory.clone());
        let set = pb::TrustSet { directory_key, directory, freshness };
        let offered = Self::read(root_public, set)?;
        // Asked of what is new alone: a machine whose clock was set back starts with what it holds.
        let ahead = now.plus_millis(AHEAD_MINUTES * 60_000);
        if offered.freshness.as_ref().is_some_and(|freshness| freshness.created_at > ahead) {
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
        let is_fresher = offered.mark().freshness_at > self.mark().freshness_at;
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
            signed: pb::TrustSet::default(),
        }
    }

    /// How new it is.
    pub fn mark(&self) -> TrustMark {
        let freshness_at = self.freshness.as_ref().map(|freshness| freshness.created_at);
        TrustMark { directory_version: self.directory.version, freshness_at }
    }

    /// When the authority last said so.
    pub fn signed_at(&self) -> Timestamp {
        self.mark().freshness_at.unwrap_or(self.directory.created_at)
    }

    /// What it is worth by now.
    pub fn age(&self, now: Timestamp) -> TrustAge {
        TrustAge::of(self.signed_at(), now)
    }

    /// As it was signed.
    pub const fn signed(&self) -> &pb::TrustSet {
        &self.signed
    }

    /// As it was signed, without a directory that the other side holds.
    pub fn signed_beyond(&self, mark: TrustMark) -> pb::TrustSet {
        let lacks = mark.directory_version < self.directory.version;
        let directory = lacks.then(|| self.signed.directory.clone()).flatten();
        pb::TrustSet { directory, ..self.signed.clone() }
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
        self.directory_sha256 != other.directory_sha256 || said(self) != said(other)
    }
}

/// What a set says of itself, as far as whoever shows it is concerned: nothing in it is verified.
pub fn shown_mark(set: &pb::TrustSet) -> TrustMark {
    let freshness = set.freshness.as_ref();
    let read = freshness.and_then(|object| proto::convert::freshness::decode(&object.body).ok());
    read.map_or(TrustMark::default(), |freshness| TrustMark {
        directory_version: freshness.directory_version,
        freshness_at: Some(freshness.created_at),
    })
}

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
) -> Result<Option<(Trust, Vec<u8>)>, TrustError> {
    let set = pb::TrustSet::decode(bytes).map_err(|_| TrustError::Unreadable(SET))?;
    let newer = match held {
        None => Some(Trust::read(root_public, set)?),
        Some(held) => held.offered(root_public, set, now)?,
    };
    Ok(newer.map(|trust| {
        let kept = trust.signed.encode_to_vec();
        (trust, kept)
    }))
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
    let directory = &trust.directory;
    all_listed(&agreement, directory)?;
    consented(object, &agreement, before, (directory, Left::Refused(trust)))?;
    Ok(agreement)
}

/// Whether every party is in the directory with the key that the agreement pins.
pub(crate) fn all_listed(agreement: &Agreement, directory: &Directory) -> Result<(), TrustError> {
    for party in &agreement.parties {
        let name = || party.region.to_string();
        let listed = directory.regions.get(&party.region);
        let key = &listed.ok_or_else(|| TrustError::PartyUnknown(name()))?.signing_key;
        if key_fingerprint(key) != party.signing_key_sha256 {
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
    directory: &Directory,
) -> Result<Agreement, TrustError> {
    let agreement = read_agreement(object)?;
    consented(object, &agreement, before, (directory, Left::Taken))?;
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
enum Left<'a> {
    /// It does not count, and neither does that of a region that was revoked where fewer than all must sign.
    Refused(&'a Trust),
    /// It was looked at before.
    Taken,
}

/// Looks at the signatures of all who must have signed and are in the directory with the key that is pinned.
fn consented(
    object: &SignedObject,
    agreement: &Agreement,
    before: Option<&Agreement>,
    (directory, left): (&Directory, Left<'_>),
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
        let key = |party: &Party| {
            let key = directory.regions.get(&party.region)?.signing_key;
            let pinned = key_fingerprint(&key) == party.signing_key_sha256;
            pinned.then(|| (party.region.as_str().to_owned(), key))
        };
        parties.iter().filter_map(key).collect()
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
    if let (Left::Refused(trust), Consent::AllButOne | Consent::Any) = (left, &consent) {
        // Its key may be in other hands.
        let revoked = |party: &Party| trust.find_region(&party.region).is_none();
        let revoked: Vec<_> = agreement.parties.iter().filter(|party| revoked(party)).collect();
        signers.retain(|(signer, _)| !revoked.iter().any(|of| of.region.as_str() == signer));
    }
    let mut missing = None;
    let mut good = 0;
    for (signer, key) in &signers {
        match signed::verify_one(object, tag::AGREEMENT, signer, key) {
            Ok(_) => good += 1,
            Err(source) => missing = Some(source),
        }
    }
    if good >= enough {
        return Ok(());
    }
    let who = || "the party that leaves".to_owned();
    let source = missing.unwrap_or_else(|| signed::SignedError::SignatureMissing(who()));
    Err(TrustError::Unsigned { what: AGREEMENT, source })
}
