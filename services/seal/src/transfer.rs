//! How a record came to its owner, as far as signatures prove it; and the record, sealed to who may accept it.

use crate::key::{SealingKey, SigningKey, Wrapped, sha256, wrap};
use crate::signed::{self, SignedError};
use crate::tag;
use crate::trust::Trust;
use bytes::Bytes;
use domain::kernel::{RecordId, RegionId, Revision, Timestamp};
use domain::transfer::{Accept, Offer};
use prost::Message as _;
use proto::convert::transfer::{self as convert, AcceptBody};
use proto::kernel::v1::SignedObject;

/// Seals a record to the region that it is offered to; `None` where its key keeps no secret.
pub fn seal(to: &RegionId, public: &[u8; 32], record: &[u8]) -> Option<([u8; 32], Bytes)> {
    let Wrapped { enc, ciphertext } = wrap(public, &info(to), tag::OFFER, record)?;
    Some((enc, ciphertext))
}

/// Opens a sealed record; `None` where it is not for this region.
pub fn open(to: &RegionId, key: &SealingKey, enc: [u8; 32], sealed: &Bytes) -> Option<Vec<u8>> {
    key.unwrap(&info(to), tag::OFFER, &Wrapped { enc, ciphertext: sealed.clone() })
}

fn info(to: &RegionId) -> Vec<u8> {
    [tag::HPKE_INFO, to.as_str().as_bytes()].concat()
}

/// Signs an offer with the key of the owner.
pub fn sign_offer(offer: &Offer, key: &SigningKey) -> SignedObject {
    signed::sign(tag::OFFER, convert::encode_offer(offer), offer.from.as_str(), key)
}

/// Signs an acceptance with the key of the new owner.
pub fn sign_accept(
    offer: SignedObject,
    revision: Revision,
    accepted_at: Timestamp,
    (region, key): (&RegionId, &SigningKey),
) -> SignedObject {
    let body = convert::encode_accept(&AcceptBody { offer, revision, accepted_at });
    signed::sign(tag::ACCEPT, body, region.as_str(), key)
}

/// Reads an offer, when its owner signed it with this key.
///
/// # Errors
/// When it is not well formed, or not signed by who offers.
pub fn offer(object: &SignedObject, trust: &Trust) -> Result<Offer, SignedError> {
    let offer = read_offer(object)?;
    verify(object, tag::OFFER, &offer.from, trust)?;
    Ok(offer)
}

fn read_offer(object: &SignedObject) -> Result<Offer, SignedError> {
    convert::decode_offer(&object.body).map_err(|_| SignedError::Malformed("offer"))
}

/// Reads an acceptance, when both have signed it.
///
/// # Errors
/// When it is not well formed, or a signature is missing.
pub fn accept(object: &SignedObject, trust: &Trust) -> Result<Accept, SignedError> {
    let (accept, offer) = read_accept(object)?;
    verify(&offer, tag::OFFER, &accept.offer.from, trust)?;
    verify(object, tag::ACCEPT, &accept.offer.to, trust)?;
    Ok(accept)
}

fn read_accept(object: &SignedObject) -> Result<(Accept, SignedObject), SignedError> {
    let body =
        convert::decode_accept(&object.body).map_err(|_| SignedError::Malformed("accept"))?;
    let AcceptBody { offer: signed, revision, accepted_at } = body;
    let (offer, offer_sha256) = (read_offer(&signed)?, sha256(&signed.body));
    Ok((Accept { offer, offer_sha256, revision, accepted_at }, signed))
}

/// Names an offer.
pub fn offer_sha256(object: &SignedObject) -> [u8; 32] {
    sha256(&object.body)
}

/// By a key that the directory says it has or had, also of who was revoked since: what it gave away is not its own any more.
fn verify(
    object: &SignedObject,
    tag: &[u8],
    signer: &RegionId,
    trust: &Trust,
) -> Result<(), SignedError> {
    let listed = trust.directory.regions.get(signer);
    let listed = listed.ok_or_else(|| SignedError::KeyUnknown(signer.to_string()))?;
    let key = trust.key_lasting(listed, signed::key_id_of(object));
    signed::verify_one(object, tag, signer.as_str(), &key).map(drop)
}

/// What a chain of acceptances is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It leads from where the record was born to the owner.
    Good,
    /// It leads there, but somebody in it is not listed any more with the key that signed: it proves nothing to who
    /// has not seen the record with this owner before.
    Unknown,
    /// It leads elsewhere, or is forged.
    Bad,
}

/// Whether a record that was born in `birth` and has changed hands so often is `owner`'s. What the chain says beyond
/// that is not looked at.
pub fn proves(
    (birth, record): (&RegionId, RecordId),
    t: u32,
    transfers: &[Vec<u8>],
    owner: &RegionId,
    trust: &Trust,
) -> Proof {
    let Some(transfers) = usize::try_from(t).ok().and_then(|t| transfers.get(..t)) else {
        return Proof::Bad;
    };
    let (mut at, mut proof) = (birth.clone(), Proof::Good);
    for (t, bytes) in (0..).zip(transfers) {
        let Ok(object) = SignedObject::decode(bytes.as_slice()) else { return Proof::Bad };
        let Ok((read, _)) = read_accept(&object) else { return Proof::Bad };
        if !read.follows((birth, record), &at, t) {
            return Proof::Bad;
        }
        match accept(&object, trust) {
            Ok(_) => {}
            Err(SignedError::KeyUnknown(_)) => proof = Proof::Unknown,
            Err(_) => return Proof::Bad,
        }
        at = read.offer.to;
    }
    if at == *owner { proof } else { Proof::Bad }
}
