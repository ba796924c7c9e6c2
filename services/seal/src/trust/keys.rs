//! Which keys may have signed for a region: the listed one, and those that it had before, as far as a chain of
//! changes leads from one to the next.

use super::{Trust, TrustError};
use crate::key::{SigningKey, key_fingerprint, key_id};
use crate::{signed, tag};
use domain::agreement::Party;
use domain::directory::{FormerKey, Region};
use domain::freshness::Member;
use domain::kernel::{LinkageId, RegionId, Timestamp};
use prost::Message as _;
use proto::convert::directory::{KeyChange, decode_key_change, encode_key_change};
use proto::kernel::v1::SignedObject;

/// Days for which what a former key has signed is taken, after the change: as long as gateways keep what nobody has
/// fetched.
pub const KEY_DAYS: i64 = 35;

/// Signs a change with both keys.
pub fn change(change: &KeyChange, former: &SigningKey, new: &SigningKey) -> FormerKey {
    let signer = change.region_id.as_str();
    let mut object = signed::sign(tag::KEY_CHANGE, encode_key_change(change), signer, former);
    signed::add_signature(&mut object, tag::KEY_CHANGE, signer, new);
    FormerKey {
        signing_key: former.public(),
        changed_at: change.created_at,
        signed: object.encode_to_vec(),
    }
}

/// Believes the keys that a region had before: each change is signed with both keys, begins where the one before
/// ended, and the last leads to the listed keys.
pub(super) fn verify(linkage: &LinkageId, region: &Region) -> Result<(), TrustError> {
    let refuse = || TrustError::KeyChangeBroken(region.region_id.clone());
    let mut at: Option<KeyChange> = None;
    for former in &region.former_keys {
        let object = SignedObject::decode(former.signed.as_slice()).map_err(|_| refuse())?;
        let read = decode_key_change(&object.body).map_err(|_| refuse())?;
        let signer = region.region_id.as_str();
        let both = [(signer, read.former_signing_key), (signer, read.signing_key)];
        signed::verify_all(&object, tag::KEY_CHANGE, &both).map_err(|_| refuse())?;
        let joins = at.as_ref().is_none_or(|at| {
            at.signing_key == read.former_signing_key && at.created_at <= read.created_at
        });
        let changes = read.former_signing_key != read.signing_key;
        let own = (&read.linkage_id, &read.region_id) == (linkage, &region.region_id);
        if !joins || !changes || !own || read.former_signing_key != former.signing_key {
            return Err(refuse());
        }
        at = Some(read);
    }
    let leads = at.is_none_or(|last| {
        (last.signing_key, last.sealing_key) == (region.signing_key, region.sealing_key)
    });
    if leads { Ok(()) } else { Err(refuse()) }
}

/// The key with which a region has signed under this key id, whenever that was: the listed one where it had no such
/// key. Whether it was revoked is not asked.
pub fn key_ever(region: &Region, id: &[u8]) -> [u8; 32] {
    key_where(region, id, |_| true)
}

fn key_where(region: &Region, id: &[u8], counts: impl Fn(&FormerKey) -> bool) -> [u8; 32] {
    let named = |key: &[u8; 32]| key_id(key)[..] == *id;
    if named(&region.signing_key) {
        return region.signing_key;
    }
    let former = region.former_keys.iter().filter(|former| counts(former));
    former.map(|former| former.signing_key).find(named).unwrap_or(region.signing_key)
}

impl Trust {
    /// The key with which a region that is believed may have signed, under this key id, what is taken now: the
    /// listed one, or for [`KEY_DAYS`] one that it had before.
    pub fn key_of(&self, region: &RegionId, id: &[u8], now: Timestamp) -> Option<[u8; 32]> {
        let listed = self.find_region(region)?;
        let counts = |former: &FormerKey| {
            now < former.changed_at.plus_days(KEY_DAYS) && !self.revokes_former(region, former)
        };
        Some(key_where(listed, id, counts))
    }

    /// The same for what lasts: agreements, and who owns a record. A former key that was revoked does not count; of
    /// the region itself that is not asked.
    pub fn key_lasting(&self, listed: &Region, id: &[u8]) -> [u8; 32] {
        key_where(listed, id, |former| !self.revokes_former(&listed.region_id, former))
    }

    /// The keys with which a party of an agreement may have signed it: the one that it pins, and those that came
    /// after. `None` where the party is not listed, or the key that is pinned is none of its own.
    pub(crate) fn keys_of(&self, party: &Party) -> Option<Vec<[u8; 32]>> {
        let listed = self.directory.regions.get(&party.region)?;
        let former = listed.former_keys.iter();
        let former = former.filter(|former| !self.revokes_former(&party.region, former));
        let keys = former.map(|former| former.signing_key).chain([listed.signing_key]);
        let keys: Vec<_> =
            keys.skip_while(|key| key_fingerprint(key) != party.signing_key_sha256).collect();
        (!keys.is_empty()).then_some(keys)
    }

    /// Whether an agreement pins a key that the party has or had.
    pub fn is_pinned(&self, party: &Party) -> bool {
        self.keys_of(party).is_some()
    }

    fn revokes_former(&self, region: &RegionId, former: &FormerKey) -> bool {
        self.freshness.as_ref().is_some_and(|freshness| {
            let member = Member::Region(region.clone());
            !freshness.revocations.is_empty()
                && freshness.revokes(&member, &key_fingerprint(&former.signing_key))
        })
    }
}
