//! A region's keys in its folder, and how they are changed by plan: the next ones lie beside the present ones until the
//! directory lists them.

use super::{FolderError, fixed, region_dir};
use domain::directory::{FormerKey, Region};
use domain::kernel::{Entropy, LinkageId, Timestamp};
use proto::convert::directory::KeyChange;
use runtime::data_dir::{PRIVATE, write_atomic};
use seal::key::{SealingKey, SigningKey};
use seal::trust::KEY_DAYS;
use std::path::Path;

/// Where the signing key lies.
pub(super) const SIGNING: &str = "signing.key";
/// Where the sealing key lies.
pub(super) const SEALING: &str = "sealing.key";
/// Where the next sealing key lies; it is written first.
pub(super) const SEALING_NEXT: &str = "sealing.next";
const SIGNING_NEXT: &str = "signing.next";
const SEALING_FORMER: &str = "sealing.former";

/// Takes the next keys in the place of the present ones, where the directory lists them. Each file is written whole
/// from what was read, so whoever finds it half done, or does it at the same time, comes to the same.
pub(super) fn take_next(dir: &Path, listed: &Region) -> Result<(), FolderError> {
    let next = |name: &str| match fixed(&dir.join(name)) {
        Err(FolderError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        read => read.map(Some),
    };
    let (Some(signing), Some(sealing)) = (next(SIGNING_NEXT)?, next(SEALING_NEXT)?) else {
        return Ok(());
    };
    if SigningKey::from_seed(&signing).public() != listed.signing_key
        || SealingKey::from_bytes(&sealing).public() != listed.sealing_key
    {
        return Ok(());
    }
    let present: [u8; 32] = fixed(&dir.join(SEALING))?;
    if present != sealing {
        write(dir, SEALING_FORMER, &present)?;
        write(dir, SEALING, &sealing)?;
    }
    write(dir, SIGNING, &signing)?;
    for name in [SIGNING_NEXT, SEALING_NEXT] {
        // Another may have done so.
        std::fs::remove_file(dir.join(name)).ok();
    }
    Ok(())
}

/// What else opens what is sealed to the region: the next key, of which others may hear first, and for some time the
/// one before.
pub(super) fn beside(dir: &Path, listed: Option<&Region>, now: Timestamp) -> Vec<SealingKey> {
    let changed_at =
        listed.and_then(|listed| listed.former_keys.last()).map(|last| last.changed_at);
    let former = changed_at.is_some_and(|at| now < at.plus_days(KEY_DAYS));
    let names = [Some(SEALING_NEXT), former.then_some(SEALING_FORMER)];
    let read = names.into_iter().flatten().filter_map(|name| fixed(&dir.join(name)).ok());
    read.map(|bytes| SealingKey::from_bytes(&bytes)).collect()
}

/// Draws the keys that a region changes to, unless they lie there already; gives its card with the change, signed
/// with the present and the next key.
///
/// # Errors
/// When the folder cannot be read or written.
pub fn rotate(
    data: &Path,
    linkage: &LinkageId,
    listed: &Region,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<Region, FolderError> {
    let dir = region_dir(data, &listed.region_id);
    take_next(&dir, listed)?;
    let present = SigningKey::from_seed(&fixed(&dir.join(SIGNING))?);
    if present.public() != listed.signing_key {
        return Err(FolderError::NotListed(listed.region_id.clone()));
    }
    if !dir.join(SIGNING_NEXT).exists() || !dir.join(SEALING_NEXT).exists() {
        write(&dir, SEALING_NEXT, &SealingKey::generate().private())?;
        write(&dir, SIGNING_NEXT, &SigningKey::generate(entropy).seed())?;
    }
    let next = SigningKey::from_seed(&fixed(&dir.join(SIGNING_NEXT))?);
    let sealing = SealingKey::from_bytes(&fixed(&dir.join(SEALING_NEXT))?);
    let change = KeyChange {
        linkage_id: linkage.clone(),
        region_id: listed.region_id.clone(),
        former_signing_key: present.public(),
        signing_key: next.public(),
        sealing_key: sealing.public(),
        created_at: now,
    };
    let mut former_keys: Vec<FormerKey> = listed.former_keys.clone();
    former_keys.push(seal::trust::change(&change, &present, &next));
    // The oldest make room: what they signed is of long ago.
    let over = former_keys.len().saturating_sub(proto::convert::directory::KEY_CHANGES_MAX);
    former_keys.drain(..over);
    let (signing_key, sealing_key) = (next.public(), sealing.public());
    Ok(Region { signing_key, sealing_key, former_keys, ..listed.clone() })
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), FolderError> {
    let path = dir.join(name);
    write_atomic(&path, bytes, PRIVATE).map_err(|source| FolderError::Write { path, source })
}
