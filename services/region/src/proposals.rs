//! The proposals of a region: what may come in, where it lies, and when it goes.
//!
//! ```text
//! regions/<id>/proposals/<agreement>-<version>-<8 hex>.signed     as far as it is signed
//! regions/<id>/proposals/<agreement>-<version>-<8 hex>.declined   that it was declined, and until when that counts
//! ```
//!
//! One task writes here (`trust::Own`), so that what is looked at stays as it is until it is written.

use crate::folder::{self, InstallError};
use crate::hosted::Hosted;
use domain::agreement::Agreement;
use domain::kernel::{Reason, RegionId, Timestamp};
use exchange::book::Book;
use prost::Message as _;
use proto::kernel::v1::SignedObject;
use runtime::ErrorChain;
use runtime::data_dir::{SHARED, write_atomic};
use seal::proposal::{self, Proposal, ProposalError};
use std::io;
use std::path::{Path, PathBuf};

/// Proposals that a region holds.
pub(crate) const PROPOSALS_MAX: usize = 64;
/// Of one agreement.
pub(crate) const PROPOSALS_PER_AGREEMENT_MAX: usize = 8;
/// That one other region has signed and this one has not: nobody fills a neighbour's folder.
pub(crate) const PROPOSALS_PER_SIGNER_MAX: usize = 8;
/// Proposals that stay declined; beyond, the one that counts for the shortest is forgotten.
const DECLINED_MAX: usize = 1_000;

const SIGNED: &str = "signed";
const DECLINED: &str = "declined";

/// Who shows a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// A gateway.
    Wire,
    /// Somebody of the region, who has signed for it.
    Staff,
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Nothing of it is new.
    Known,
    /// It is kept.
    Kept,
    /// It has the signatures that it needs and lies with the agreements.
    Agreed,
}

/// Why a proposal is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    /// It is none, or not believed.
    #[error(transparent)]
    Proposal(#[from] ProposalError),
    /// A version is held already that it would come before, or in the place of.
    #[error("a version is held already that has taken its place")]
    Superseded,
    /// The region has nothing to do with it.
    #[error("the region is no party of the proposal, nor was of the version before")]
    NotAParty,
    /// It was declined here.
    #[error("the proposal was declined here")]
    Declined,
    /// No more are kept.
    #[error("no more proposals are kept: in all, of the agreement, or of who has signed it")]
    Full,
    /// It is signed as it must be, and cannot be held as an agreement.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The folder cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl TakeError {
    /// Why, by code.
    pub(crate) const fn reason(&self) -> Reason {
        match self {
            Self::Proposal(error) => error.reason(),
            Self::Superseded => Reason::AgreementSuperseded,
            Self::NotAParty => Reason::NotAParty,
            Self::Declined => Reason::ProposalDeclined,
            Self::Full => Reason::ProposalsFull,
            Self::Install(error) => error.reason(),
            Self::Write { .. } => Reason::StorageUnavailable,
        }
    }
}

/// Whether the very text is held as an agreement.
///
/// # Errors
/// When another text of the version is, or a later version.
pub(crate) fn is_agreed(book: &Book, proposed: &Agreement) -> Result<bool, TakeError> {
    let held = book.agreement(proposed.agreement_id, proposed.version);
    if held.is_some_and(|held| held.sha256 == proposed.sha256) {
        return Ok(true);
    }
    let mut versions = book.versions(proposed.agreement_id);
    let later = versions.any(|held| held.version >= proposed.version);
    if later { Err(TakeError::Superseded) } else { Ok(false) }
}

/// The version that one takes the place of, if it is held.
pub(crate) fn before<'a>(book: &'a Book, agreement: &Agreement) -> Option<&'a Agreement> {
    book.agreement(agreement.agreement_id, agreement.version.checked_sub(1)?)
}

/// What a region holds when its server starts. What is not believed any more goes.
pub(crate) fn load(data: &Path, book: &Book, now: Timestamp) -> Vec<Proposal> {
    let mut held: Vec<Proposal> = Vec::new();
    for path in files(data, &book.region, SIGNED) {
        let read = std::fs::read(&path).ok().and_then(|bytes| decode(&bytes));
        let believed = read.map(|object| again(book, &object, now));
        match believed {
            Some(Ok(proposal)) => held.push(proposal),
            Some(Err(error)) => dropped(&path, &error),
            None => tracing::warn!(path = %path.display(), "a proposal cannot be read"),
        }
    }
    forget(data, book, now);
    held.sort_by_key(order);
    held
}

/// Takes a proposal, as far as it is signed.
///
/// # Errors
/// When it is none, concerns others, or there is no room for it.
pub(crate) fn take(
    data: &Path,
    region: &Hosted,
    object: &SignedObject,
    by: By,
    now: Timestamp,
) -> Result<Taken, TakeError> {
    let (book, held) = (region.book(), region.proposals.held());
    let proposed = proposal::read(object)?;
    if is_agreed(&book, &proposed)? {
        return Ok(Taken::Known);
    }
    let before = before(&book, &proposed);
    let concerns = |of: &Agreement| of.has_party(&book.region);
    if !concerns(&proposed) && before.is_none_or(|before| !concerns(before)) {
        return Err(TakeError::NotAParty);
    }
    if by == By::Wire && is_declined(data, &book.region, &proposed) {
        return Err(TakeError::Declined);
    }
    let shown = Proposal::verify(object, before, &book.trust, now)?;
    let known = held.iter().find(|held| held.agreement.sha256 == proposed.sha256);
    let united = match known {
        Some(known) => {
            let mut united = known.clone();
            if !united.unite(&shown) {
                return Ok(Taken::Known);
            }
            united
        }
        None if has_room(&held, &shown, &book.region, by) => shown,
        None => return Err(TakeError::Full),
    };
    let path = path(data, &book.region, &proposed, SIGNED);
    let others = held.iter().filter(|held| held.agreement.sha256 != proposed.sha256).cloned();
    let mut others: Vec<_> = others.collect();
    if seal::trust::agreement(&united.signed, before, &book.trust).is_ok() {
        folder::install(data, &book.region, &united.signed, &book.trust, now)?;
        remove(&path);
        region.proposals.put(others);
        return Ok(Taken::Agreed);
    }
    write(&path, &united.signed.encode_to_vec())?;
    if by == By::Staff {
        remove(&path.with_extension(DECLINED));
    }
    others.push(united);
    others.sort_by_key(order);
    region.proposals.put(others);
    Ok(Taken::Kept)
}

/// Drops a proposal, and does not take it from a gateway any more.
///
/// # Errors
/// When there is none of this text, or the folder cannot be written.
pub(crate) fn decline(
    data: &Path,
    region: &Hosted,
    sha256: &[u8; 32],
    now: Timestamp,
) -> Result<(), Reason> {
    let (book, held) = (region.book(), region.proposals.held());
    let is_it = |held: &&Proposal| held.agreement.sha256 == *sha256;
    let declined = held.iter().find(is_it).ok_or(Reason::ProposalUnknown)?;
    let path = path(data, &book.region, &declined.agreement, DECLINED);
    let until = declined.agreement.proposal_expires_at().micros();
    let written = write(&path, &[&sha256[..], &until.to_be_bytes()].concat());
    written.map_err(|error| {
        tracing::error!(error = %ErrorChain(&error), "a proposal was not declined");
        error.reason()
    })?;
    remove(&path.with_extension(SIGNED));
    region.proposals.put(held.iter().filter(|held| !is_it(held)).cloned().collect());
    forget(data, &book, now);
    Ok(())
}

/// Drops what has had its time, or whose place another version has taken; with newer trust (`anew`) also what is not
/// believed any more.
pub(crate) fn sweep(data: &Path, region: &Hosted, anew: bool, now: Timestamp) {
    let (book, held) = (region.book(), region.proposals.held());
    let goes = |held: &Proposal| {
        let agreement = &held.agreement;
        now >= agreement.proposal_expires_at() || !matches!(is_agreed(&book, agreement), Ok(false))
    };
    if !anew && !held.iter().any(goes) {
        return;
    }
    let mut kept = Vec::with_capacity(held.len());
    for held in held.iter() {
        match again(&book, &held.signed, now) {
            Ok(proposal) => kept.push(proposal),
            Err(error) => dropped(&path(data, &book.region, &held.agreement, SIGNED), &error),
        }
    }
    let signatures =
        |of: &[Proposal]| of.iter().map(|held| held.signed.clone()).collect::<Vec<_>>();
    // Who waits for a change need not look where there is none.
    if signatures(&kept) != signatures(&held) {
        region.proposals.put(kept);
    }
    forget(data, &book, now);
}

fn again(book: &Book, object: &SignedObject, now: Timestamp) -> Result<Proposal, TakeError> {
    let proposed = proposal::read(object)?;
    if is_agreed(book, &proposed)? {
        return Err(TakeError::Superseded);
    }
    Ok(Proposal::verify(object, before(book, &proposed), &book.trust, now)?)
}

/// Whether one more may be kept. A proposal is on the account of each of its signers, and needs one that has room.
fn has_room(held: &[Proposal], new: &Proposal, region: &RegionId, by: By) -> bool {
    let id = new.agreement.agreement_id;
    let of_agreement = held.iter().filter(|held| held.agreement.agreement_id == id).count();
    let waiting = |signer: &str| {
        let signed = |held: &&Proposal| {
            !held.is_signed_by(region) && held.signed.signatures.iter().any(|s| s.signer == signer)
        };
        held.iter().filter(signed).count()
    };
    let has_account = by == By::Staff
        || new.is_signed_by(region)
        || new.signed.signatures.iter().any(|s| waiting(&s.signer) < PROPOSALS_PER_SIGNER_MAX);
    // The name of a file holds eight digits: who makes a text to fit another's does not take its place.
    let name = |of: &Agreement| (of.agreement_id, of.version, of.sha256[..4].to_vec());
    let is_free = held.iter().all(|held| name(&held.agreement) != name(&new.agreement));
    held.len() < PROPOSALS_MAX
        && of_agreement < PROPOSALS_PER_AGREEMENT_MAX
        && has_account
        && is_free
}

fn order(held: &Proposal) -> (domain::kernel::AgreementId, u32, [u8; 32]) {
    (held.agreement.agreement_id, held.agreement.version, held.agreement.sha256)
}

fn path(data: &Path, region: &RegionId, agreement: &Agreement, is: &str) -> PathBuf {
    let [a, b, c, d, ..] = agreement.sha256;
    let (id, version) = (agreement.agreement_id, agreement.version);
    folder(data, region).join(format!("{id}-{version}-{a:02x}{b:02x}{c:02x}{d:02x}.{is}"))
}

fn folder(data: &Path, region: &RegionId) -> PathBuf {
    folder::region_dir(data, region).join("proposals")
}

fn files(data: &Path, region: &RegionId, are: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder(data, region)).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == are)).collect()
}

/// The text that a file declines, and until when.
fn declined(path: &Path) -> Option<([u8; 32], Timestamp)> {
    let bytes = std::fs::read(path).ok()?;
    let (sha256, until) = bytes.split_first_chunk::<32>()?;
    let until = i64::from_be_bytes(until.try_into().ok()?);
    Some((*sha256, Timestamp::from_micros(until)))
}

fn is_declined(data: &Path, region: &RegionId, proposed: &Agreement) -> bool {
    let declined = declined(&path(data, region, proposed, DECLINED));
    declined.is_some_and(|(sha256, _)| sha256 == proposed.sha256)
}

/// Forgets what was declined and could not be signed any more, and the first of what is too many.
fn forget(data: &Path, book: &Book, now: Timestamp) {
    let files = files(data, &book.region, DECLINED).into_iter();
    let mut found: Vec<_> =
        files.map(|path| (declined(&path).map_or(now, |(_, until)| until), path)).collect();
    found.sort();
    let too_many = found.len().saturating_sub(DECLINED_MAX);
    for (index, (until, path)) in found.into_iter().enumerate() {
        if until <= now || index < too_many {
            remove(&path);
        }
    }
}

fn decode(bytes: &[u8]) -> Option<SignedObject> {
    SignedObject::decode(bytes).ok()
}

fn dropped(path: &Path, error: &TakeError) {
    remove(path);
    let (path, reason) = (path.display(), error.reason().name());
    tracing::info!(%path, error.reason = reason, "a proposal is dropped");
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TakeError> {
    let written = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let written = written.and_then(|()| write_atomic(path, bytes, SHARED));
    written.map_err(|source| TakeError::Write { path: path.to_owned(), source })
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!(path = %path.display(), error = %error, "a file was not removed");
        }
        _ => {}
    }
}
