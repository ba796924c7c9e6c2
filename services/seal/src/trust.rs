//! What the linkage is and what was agreed, as far as signatures prove it: root key, directory key,
//! directory, agreements.

use crate::key::{key_fingerprint, sha256};
use crate::{signed, tag};
use domain::agreement::Agreement;
use domain::directory::Directory;
use domain::kernel::{Reason, Timestamp};
use prost::Message as _;
use proto::convert::kernel::decode_time;
use proto::directory::v1 as pb;
use proto::kernel::v1::SignedObject;

/// The name under which an authority signs.
pub const AUTHORITY: &str = "authority";

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
    /// The directory key is not valid now.
    #[error("the directory key is not valid now: ask the authority for a new one")]
    KeyExpired,
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
            | Self::OtherLinkage
            | Self::KeyNotPinned(_) => Reason::SignatureInvalid,
            Self::PartyUnknown(_) => Reason::RegionUnknown,
        }
    }
}

/// Believes a directory: the root vouches for the directory key, the directory key for the directory.
///
/// # Errors
/// When a link of that chain is missing.
pub fn directory(
    root_public: &[u8; 32],
    directory_key_signed: &[u8],
    directory_signed: &[u8],
    now: Timestamp,
) -> Result<Directory, TrustError> {
    const KEY: &str = "the directory key";
    const DIRECTORY: &str = "the directory";
    let unsigned = |what| move |source| TrustError::Unsigned { what, source };
    let object =
        SignedObject::decode(directory_key_signed).map_err(|_| TrustError::Unreadable(KEY))?;
    let body = signed::verify_one(&object, tag::DIRECTORY_KEY, AUTHORITY, root_public)
        .map_err(unsigned(KEY))?;
    let key = pb::DirectoryKey::decode(body.clone()).map_err(|_| TrustError::Unreadable(KEY))?;
    let time = |time: Option<_>| time.and_then(decode_time).ok_or(TrustError::Unreadable(KEY));
    if now < time(key.create_time)? || now >= time(key.expire_time)? {
        return Err(TrustError::KeyExpired);
    }
    let public: [u8; 32] = key.key.as_ref().try_into().map_err(|_| TrustError::Unreadable(KEY))?;
    let object =
        SignedObject::decode(directory_signed).map_err(|_| TrustError::Unreadable(DIRECTORY))?;
    let body = signed::verify_one(&object, tag::DIRECTORY, AUTHORITY, &public)
        .map_err(unsigned(DIRECTORY))?;
    let directory = proto::convert::directory::decode(body)
        .map_err(|source| TrustError::Malformed { what: DIRECTORY, source })?;
    if directory.linkage_id.as_str() != key.linkage_id {
        return Err(TrustError::OtherLinkage);
    }
    Ok(directory)
}

/// Believes an agreement version: every party is in the directory with the key that the agreement pins,
/// and has signed.
///
/// # Errors
/// When a party or its signature is missing.
pub fn agreement(object: &SignedObject, directory: &Directory) -> Result<Agreement, TrustError> {
    const WHAT: &str = "the agreement";
    let agreement = proto::convert::agreement::decode(&object.body, sha256(&object.body))
        .map_err(|source| TrustError::Malformed { what: WHAT, source })?;
    let mut signers = Vec::with_capacity(agreement.parties.len());
    for party in &agreement.parties {
        let name = party.region.to_string();
        let Some(region) = directory.regions.get(&party.region) else {
            return Err(TrustError::PartyUnknown(name));
        };
        if key_fingerprint(&region.signing_key) != party.signing_key_sha256 {
            return Err(TrustError::KeyNotPinned(name));
        }
        signers.push((name, region.signing_key));
    }
    let named: Vec<(&str, [u8; 32])> =
        signers.iter().map(|(name, key)| (name.as_str(), *key)).collect();
    signed::verify_all(object, tag::AGREEMENT, &named)
        .map_err(|source| TrustError::Unsigned { what: WHAT, source })?;
    Ok(agreement)
}
