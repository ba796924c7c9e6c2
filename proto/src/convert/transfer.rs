//! How a record changes its owner.

use super::kernel::{encode_id, encode_time, revision};
use super::{Door, Path, Rules, Violations};
use crate::exchange::v1 as pb;
use crate::exchange::v1::transfer::Word as Wire;
use crate::kernel::v1::SignedObject;
use bytes::Bytes;
use domain::kernel::{AgreementId, Reason, RecordId, RegionId, Revision, Timestamp};
use domain::transfer::{Offer, ReturnReason, TRANSFERS_MAX};
use prost::Message;

/// Bytes of a sealed record: its payload, its meta, and what sealing adds.
pub const SEALED_BYTES_MAX: usize = 72 * 1024;
/// Bytes of a signed acceptance, with the offer that it embeds.
pub const ACCEPT_BYTES_MAX: usize = 2_048;

/// A word on who owns a record. What was signed is not verified here.
#[derive(Clone, Debug, PartialEq)]
pub enum Word {
    /// An offer, with the record sealed to who may accept it.
    Offer {
        /// An [`Offer`], signed.
        offer: SignedObject,
        /// The encapsulated key.
        enc: [u8; 32],
        /// The sealed record.
        sealed: Bytes,
    },
    /// The owner asks for it back.
    Recall([u8; 32]),
    /// An acceptance, signed.
    Accept(SignedObject),
    /// It is not taken.
    Return([u8; 32], ReturnReason),
}

/// The signed body of an acceptance, with the offer as it was signed.
#[derive(Clone, Debug, PartialEq)]
pub struct AcceptBody {
    /// An [`Offer`], signed.
    pub offer: SignedObject,
    /// The first revision of the new owner.
    pub revision: Revision,
    /// When it was signed.
    pub accepted_at: Timestamp,
}

impl From<Word> for pb::Transfer {
    fn from(word: Word) -> Self {
        let hash = |sha256: [u8; 32]| Bytes::copy_from_slice(&sha256);
        let word = match word {
            Word::Offer { offer, enc, sealed } => {
                Wire::Offer(pb::SealedOffer { offer: Some(offer), enc: hash(enc), sealed })
            }
            Word::Recall(offer) => Wire::Recall(pb::Recall { offer_sha256: hash(offer) }),
            Word::Accept(accept) => Wire::Accept(accept),
            Word::Return(offer, reason) => {
                Wire::Return(pb::Return { offer_sha256: hash(offer), reason: reason.code() })
            }
        };
        Self { word: Some(word) }
    }
}

/// Reads a word.
pub(super) fn word(word: Wire) -> Result<Word, Reason> {
    let mut door = Door::new(Rules::Store);
    let at = Path::from("transfer");
    let word = match word {
        Wire::Offer(pb::SealedOffer { offer, enc, sealed }) => {
            let offer = door.required(at.field("offer"), offer);
            let enc = door.array(at.field("enc"), &enc);
            door.size(at.field("sealed"), sealed.len(), 1..=SEALED_BYTES_MAX);
            offer.zip(enc).map(|(offer, enc)| Word::Offer { offer, enc, sealed })
        }
        Wire::Recall(pb::Recall { offer_sha256 }) => {
            door.array(at.field("offer_sha256"), &offer_sha256).map(Word::Recall)
        }
        Wire::Accept(accept) => Some(Word::Accept(accept)),
        Wire::Return(pb::Return { offer_sha256, reason }) => {
            let offer = door.array(at.field("offer_sha256"), &offer_sha256);
            let reason = door.code(at.field("reason"), reason);
            offer.zip(reason).map(|(offer, reason)| Word::Return(offer, reason))
        }
    };
    let over = door.over_limit();
    let reason = if over { Reason::LimitExceeded } else { Reason::FieldInvalid };
    door.finish(word).map_err(|_| reason)
}

/// The body of an offer, to be signed.
pub fn encode_offer(offer: &Offer) -> Bytes {
    let Offer {
        record_id,
        kind,
        birth_region,
        revision,
        from,
        to,
        agreement,
        sealed_sha256,
        offered_at,
    } = offer;
    let offer = pb::Offer {
        record_id: encode_id(record_id.as_bytes()),
        kind: kind.code(),
        birth_region: birth_region.to_string(),
        revision: Some(revision.into()),
        from_region: from.to_string(),
        to_region: to.to_string(),
        agreement_id: encode_id(agreement.as_bytes()),
        sealed_sha256: Bytes::copy_from_slice(sealed_sha256),
        create_time: Some(encode_time(*offered_at)),
    };
    offer.encode_to_vec().into()
}

/// Reads the signed body of an offer.
///
/// # Errors
/// Everything that is wrong with it.
pub fn decode_offer(body: &[u8]) -> Result<Offer, Violations> {
    let mut door = Door::new(Rules::Store);
    let value = door
        .message("offer".into(), body)
        .and_then(|offer| self::offer(&mut door, Path::from("offer"), offer));
    door.finish(value)
}

fn offer(door: &mut Door, at: Path<'_>, offer: pb::Offer) -> Option<Offer> {
    let pb::Offer {
        record_id,
        kind,
        birth_region,
        revision,
        from_region,
        to_region,
        agreement_id,
        sealed_sha256,
        create_time,
    } = offer;
    let record_id = door.id(at.field("record_id"), &record_id, RecordId::from_slice);
    let kind = door.code(at.field("kind"), kind);
    let birth_region = door.slug(at.field("birth_region"), &birth_region);
    let revision = door
        .required(at.field("revision"), revision)
        .and_then(|revision| self::revision(door, at.field("revision"), revision));
    let from = door.slug::<RegionId>(at.field("from_region"), &from_region);
    let to = door.slug::<RegionId>(at.field("to_region"), &to_region);
    let agreement = door.id(at.field("agreement_id"), &agreement_id, AgreementId::from_slice);
    let sealed_sha256 = door.array(at.field("sealed_sha256"), &sealed_sha256);
    let offered_at = door.time(at.field("create_time"), create_time);
    Some(Offer {
        record_id: record_id?,
        kind: kind?,
        birth_region: birth_region?,
        revision: revision?,
        from: from?,
        to: to?,
        agreement: agreement?,
        sealed_sha256: sealed_sha256?,
        offered_at: offered_at?,
    })
}

/// The body of an acceptance, to be signed.
pub fn encode_accept(accept: &AcceptBody) -> Bytes {
    let AcceptBody { offer, revision, accepted_at } = accept;
    let accept = pb::Accept {
        offer: Some(offer.clone()),
        revision: Some(revision.into()),
        create_time: Some(encode_time(*accepted_at)),
    };
    accept.encode_to_vec().into()
}

/// Reads the signed body of an acceptance; the offer in it is not verified here.
///
/// # Errors
/// Everything that is wrong with it.
pub fn decode_accept(body: &[u8]) -> Result<AcceptBody, Violations> {
    let mut door = Door::new(Rules::Store);
    let at = Path::from("accept");
    let value = door.message("accept".into(), body).and_then(|accept: pb::Accept| {
        let pb::Accept { offer, revision, create_time } = accept;
        let offer = door.required(at.field("offer"), offer);
        let revision = door
            .required(at.field("revision"), revision)
            .and_then(|revision| self::revision(&mut door, at.field("revision"), revision));
        let accepted_at = door.time(at.field("create_time"), create_time);
        Some(AcceptBody { offer: offer?, revision: revision?, accepted_at: accepted_at? })
    });
    door.finish(value)
}

/// How a record came to its owner, as the wire carries it.
pub(super) fn encode_chain(transfers: &[Vec<u8>]) -> Vec<SignedObject> {
    // They came through `chain`, or were signed here.
    transfers.iter().filter_map(|object| SignedObject::decode(object.as_slice()).ok()).collect()
}

/// Checks the size of a chain; it is verified by who knows the keys.
pub(super) fn chain(
    door: &mut Door,
    at: Path<'_>,
    transfers: Vec<SignedObject>,
) -> Option<Vec<Vec<u8>>> {
    let object = |door: &mut Door, at: Path<'_>, object: SignedObject| {
        door.size(at, object.encoded_len(), 1..=ACCEPT_BYTES_MAX);
        Some(object.encode_to_vec())
    };
    door.list(at, transfers, 0..=TRANSFERS_MAX, object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::entry::{Entry, decode, encode_transfer};
    use domain::kernel::{Epoch, Kind};

    fn offer() -> Offer {
        Offer {
            record_id: RecordId::from_slice(&[0x77; 16]).unwrap(),
            kind: Kind::Event,
            birth_region: "xiaonanhai".parse().unwrap(),
            revision: Revision { t: 0, epoch: Epoch::from_slice(&[0x77; 16]).unwrap(), n: 3 },
            from: "xiaonanhai".parse().unwrap(),
            to: "xianfeng".parse().unwrap(),
            agreement: AgreementId::from_slice(&[0x78; 16]).unwrap(),
            sealed_sha256: [7; 32],
            offered_at: Timestamp::from_micros(1_782_864_000_000_000),
        }
    }

    #[test]
    fn what_is_said_of_an_owner_comes_back() {
        let offer = offer();
        assert_eq!(decode_offer(&encode_offer(&offer)), Ok(offer.clone()));
        let signed = SignedObject { body: encode_offer(&offer), signatures: Vec::new() };
        let accept = AcceptBody {
            offer: signed.clone(),
            revision: Revision { t: 1, n: 4, ..offer.revision },
            accepted_at: offer.offered_at,
        };
        assert_eq!(decode_accept(&encode_accept(&accept)), Ok(accept.clone()));
        let accept = SignedObject { body: encode_accept(&accept), signatures: Vec::new() };
        let sealed = Bytes::from_static(b"sealed");
        for word in [
            Word::Offer { offer: signed, enc: [1; 32], sealed },
            Word::Recall([2; 32]),
            Word::Accept(accept),
            Word::Return([3; 32], ReturnReason::NotHere),
        ] {
            assert_eq!(decode(encode_transfer(word.clone())), Ok(Entry::Transfer(word)));
        }
    }

    #[test]
    fn a_word_that_is_unsound_is_parked_under_its_reason() {
        let wrap = |word| {
            let entry = pb::entry::Entry::Transfer(pb::Transfer { word });
            Bytes::from(pb::Entry { entry: Some(entry) }.encode_to_vec())
        };
        // A word of a later release.
        assert_eq!(decode(wrap(None)), Err(Reason::KindUnknown));
        let offer = |enc: &'static [u8], sealed: Vec<u8>| {
            let (offer, enc) = (Some(SignedObject::default()), Bytes::from_static(enc));
            wrap(Some(Wire::Offer(pb::SealedOffer { offer, enc, sealed: sealed.into() })))
        };
        assert!(decode(offer(&[1; 32], vec![1; SEALED_BYTES_MAX])).is_ok());
        let long = decode(offer(&[1; 32], vec![1; SEALED_BYTES_MAX + 1]));
        assert_eq!(long, Err(Reason::LimitExceeded));
        assert_eq!(decode(offer(&[1; 31], vec![1])), Err(Reason::FieldInvalid));
        let nothing = Wire::Offer(pb::SealedOffer::default());
        assert_eq!(decode(wrap(Some(nothing))), Err(Reason::FieldInvalid));
        let short = Wire::Recall(pb::Recall { offer_sha256: Bytes::from_static(&[1; 31]) });
        assert_eq!(decode(wrap(Some(short))), Err(Reason::FieldInvalid));
        let why = pb::Return { offer_sha256: Bytes::from_static(&[1; 32]), reason: 9 };
        assert_eq!(decode(wrap(Some(Wire::Return(why)))), Err(Reason::FieldInvalid));
    }
}
