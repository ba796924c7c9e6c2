//! Signed objects: a message carried as bytes, with signatures over a tag and exactly these bytes.
//!
//! The tag says what the message is, so a receipt never passes for a head. Agreements and
//! directories are verified by [`verify_all`] and [`verify_one`] and decoded at the door
//! (`proto::convert`); the three small messages of a link are signed and read here.

use crate::key::{self, SigningKey, key_id};
use crate::tag;
use crate::wire::{self, Malformed, fixed};
use bytes::Bytes;
use domain::freshness::TrustMark;
use domain::kernel::{GatewayId, Lane, Reason, RegionId, Timestamp};
use domain::stream::{Position, StreamId};
use prost::Message;
use proto::convert::freshness::decode_mark;
use proto::exchange::v1 as pb;
use proto::kernel::v1::{Signature, SignedObject};

/// Largest body of a signed object.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Most signatures of a signed object.
pub const SIGNATURES_MAX: usize = 64;
/// Most parked entries that a receipt names.
pub const PARKED_PER_RECEIPT_MAX: usize = 100;
/// Most streams that a hello names.
pub const APPLIED_PER_HELLO_MAX: usize = 10_000;
/// Most agreement versions that a hello names.
pub const AGREEMENTS_PER_HELLO_MAX: usize = 1_000;

const SOFTWARE_BYTES_MAX: usize = 64;
/// Bodies of heads and receipts are far smaller; checked before they are decoded.
const HEAD_BYTES_MAX: usize = 1024;
const RECEIPT_BYTES_MAX: usize = 8 * 1024;

/// Why a signed object is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// Over a limit.
    #[error("the signed object or one of its parts is over its limit")]
    TooLarge,
    /// Nobody signed whose signature is asked for.
    #[error("a signature of {0} is missing")]
    SignatureMissing(String),
    /// The signer used another key than the one at hand.
    #[error("{0} signed with another key")]
    KeyUnknown(String),
    /// The signature does not fit.
    #[error("the signature of {0} does not fit")]
    SignatureInvalid(String),
    /// Not exactly one signature where one is asked for, or its signer is no region.
    #[error("the object is not signed by one region")]
    SignerUnclear,
    /// Signed by somebody else than the body names.
    #[error("the object speaks for another region than its signer")]
    SignerWrong,
    /// Signed for another challenge.
    #[error("the hello answers another challenge")]
    NonceWrong,
    /// A field of the body is missing or of the wrong form.
    #[error("{0} is missing or of the wrong form")]
    Malformed(&'static str),
}

impl SignedError {
    /// The code that goes on the wire.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::TooLarge => Reason::LimitExceeded,
            Self::Malformed(_) => Reason::FieldInvalid,
            Self::SignatureMissing(_)
            | Self::KeyUnknown(_)
            | Self::SignatureInvalid(_)
            | Self::SignerUnclear
            | Self::SignerWrong
            | Self::NonceWrong => Reason::SignatureInvalid,
        }
    }
}

impl From<Malformed> for SignedError {
    fn from(Malformed(field): Malformed) -> Self {
        Self::Malformed(field)
    }
}

/// Signs an encoded message.
pub fn sign(tag: &[u8], body: impl Into<Bytes>, signer: &str, key: &SigningKey) -> SignedObject {
    let mut object = SignedObject { body: body.into(), signatures: Vec::new() };
    add_signature(&mut object, tag, signer, key);
    object
}

/// Adds one more signature over the same bytes.
pub fn add_signature(object: &mut SignedObject, tag: &[u8], signer: &str, key: &SigningKey) {
    let signature = key.sign(&[tag, &object.body].concat());
    object.signatures.push(Signature {
        signer: signer.into(),
        key_id: Bytes::copy_from_slice(&key_id(&key.public())),
        signature: Bytes::copy_from_slice(&signature),
    });
}

/// The body, when `signer` signed it with this key. Other signatures are not looked at.
///
/// # Errors
/// When the object is over a limit, or this signature is missing or does not fit.
pub fn verify_one<'a>(
    object: &'a SignedObject,
    tag: &[u8],
    signer: &str,
    public: &[u8; 32],
) -> Result<&'a Bytes, SignedError> {
    verify_all(object, tag, &[(signer, *public)])
}

/// The body, when every one of the named signers signed it with the key beside the name.
///
/// # Errors
/// When the object is over a limit, no signer is named, or a signature is missing or does not fit.
pub fn verify_all<'a>(
    object: &'a SignedObject,
    tag: &[u8],
    signers: &[(&str, [u8; 32])],
) -> Result<&'a Bytes, SignedError> {
    if object.body.len() > BODY_BYTES_MAX || object.signatures.len() > SIGNATURES_MAX {
        return Err(SignedError::TooLarge);
    }
    // Without this an object that nobody signed would pass.
    if signers.is_empty() {
        return Err(SignedError::SignerUnclear);
    }
    let message = [tag, &object.body].concat();
    for (signer, public) in signers {
        let mut of_signer = object.signatures.iter().filter(|s| s.signer == *signer).peekable();
        if of_signer.peek().is_none() {
            return Err(SignedError::SignatureMissing((*signer).into()));
        }
        let of_key = of_signer
            .find(|s| s.key_id == key_id(public)[..])
            .ok_or_else(|| SignedError::KeyUnknown((*signer).into()))?;
        key::verify(public, &message, &of_key.signature)
            .map_err(|_| SignedError::SignatureInvalid((*signer).into()))?;
    }
    Ok(&object.body)
}

/// Who claims to have signed: a hint where to look for the key, and nothing more.
///
/// # Errors
/// When there is not exactly one signature, or its signer is no region.
pub fn signer(object: &SignedObject) -> Result<RegionId, SignedError> {
    match object.signatures.as_slice() {
        [one] => RegionId::parse(&one.signer).map_err(|_| SignedError::SignerUnclear),
        _ => Err(SignedError::SignerUnclear),
    }
}

/// The key that the first signature claims: a hint which of a region's keys to take. Empty where there is none.
pub fn key_id_of(object: &SignedObject) -> &[u8] {
    object.signatures.first().map_or(&[], |signature| &signature.key_id)
}

/// Whether the first signatures of two encoded objects claim the same key.
pub fn is_same_key(one: &[u8], other: &[u8]) -> bool {
    let claimed = |encoded| {
        let object = SignedObject::decode(encoded).ok()?;
        Some(Bytes::copy_from_slice(key_id_of(&object)))
    };
    claimed(one) == claimed(other)
}

/// Decodes the body of an object that one region signed for itself.
fn verify_own<M: Message + Default>(
    object: &SignedObject,
    tag: &[u8],
    public: &[u8; 32],
    bytes_max: usize,
) -> Result<(RegionId, M), SignedError> {
    if object.body.len() > bytes_max {
        return Err(SignedError::TooLarge);
    }
    let signer = signer(object)?;
    let body = verify_one(object, tag, signer.as_str(), public)?;
    Ok((signer, M::decode(body.clone()).map_err(|_| Malformed("body"))?))
}

fn signed_by(signer: &RegionId, named: &RegionId) -> Result<(), SignedError> {
    if signer == named { Ok(()) } else { Err(SignedError::SignerWrong) }
}

/// A recipient has applied a stream up to here: cursor and proof of delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The stream.
    pub stream: StreamId,
    /// How far.
    pub position: Position,
    /// Who has applied it, and signs.
    pub party: RegionId,
    /// When it was signed.
    pub created_at: Timestamp,
    /// Entries parked so far, in their order; the newest 100 are sent.
    pub parked: Vec<(u64, Reason)>,
    /// How many are parked in all.
    pub parked_count: u64,
}

impl Receipt {
    /// Signs it with the key of its party.
    pub fn sign(&self, key: &SigningKey) -> SignedObject {
        let newest = self.parked.len().saturating_sub(PARKED_PER_RECEIPT_MAX);
        let body = pb::Receipt {
            position: Some(wire::position_to_pb(&self.stream, &self.position)),
            party: self.party.as_str().into(),
            create_time: Some(wire::time_to_pb(self.created_at)),
            parked: self.parked[newest..]
                .iter()
                .map(|(seq, reason)| pb::Parked { seq: *seq, reason: reason.code() })
                .collect(),
            parked_count: self.parked_count,
        };
        sign(tag::RECEIPT, body.encode_to_vec(), self.party.as_str(), key)
    }

    /// Reads it, when its party signed it with this key ([`signer`] says whose to take).
    ///
    /// # Errors
    /// When the signature does not fit, is not the party's, or a field is not well formed.
    pub fn verify(object: &SignedObject, public: &[u8; 32]) -> Result<Self, SignedError> {
        let (signer, body) = verify_own(object, tag::RECEIPT, public, RECEIPT_BYTES_MAX)?;
        let pb::Receipt { position, party, create_time, parked, parked_count } = body;
        let (stream, position) = wire::position_from_pb(position)?;
        let party = RegionId::parse(&party).map_err(|_| Malformed("party"))?;
        signed_by(&signer, &party)?;
        if parked.len() > PARKED_PER_RECEIPT_MAX {
            return Err(SignedError::TooLarge);
        }
        if parked_count < parked.len() as u64 || parked_count > position.seq {
            return Err(SignedError::Malformed("parked_count"));
        }
        if parked.iter().any(|parked| !(1..=position.seq).contains(&parked.seq)) {
            return Err(SignedError::Malformed("parked.seq"));
        }
        // A party of a later release may park for a reason that has no name here. Its receipt is
        // good all the same: refused, it would hold up retention for ever.
        let reason = |code| Reason::try_from(code).unwrap_or(Reason::EntryUnreadable);
        Ok(Self {
            stream,
            position,
            party,
            created_at: wire::time_from_pb(create_time, "create_time")?,
            parked: parked.iter().map(|parked| (parked.seq, reason(parked.reason))).collect(),
            parked_count,
        })
    }
}

/// The origin's word on how far a stream goes; each segment is one, this one covers silence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The stream; its origin signs.
    pub stream: StreamId,
    /// How far it goes.
    pub position: Position,
    /// When it was signed.
    pub created_at: Timestamp,
}

impl Head {
    /// Signs it with the key of the stream's origin.
    pub fn sign(&self, key: &SigningKey) -> SignedObject {
        let body = pb::Head {
            position: Some(wire::position_to_pb(&self.stream, &self.position)),
            create_time: Some(wire::time_to_pb(self.created_at)),
        };
        sign(tag::HEAD, body.encode_to_vec(), self.stream.origin.as_str(), key)
    }

    /// Reads it, when the stream's origin signed it with this key.
    ///
    /// # Errors
    /// When the signature does not fit, is not the origin's, or a field is not well formed.
    pub fn verify(object: &SignedObject, public: &[u8; 32]) -> Result<Self, SignedError> {
        let (signer, body) = verify_own(object, tag::HEAD, public, HEAD_BYTES_MAX)?;
        let pb::Head { position, create_time } = body;
        let (stream, position) = wire::position_from_pb(position)?;
        signed_by(&signer, &stream.origin)?;
        Ok(Self { stream, position, created_at: wire::time_from_pb(create_time, "create_time")? })
    }
}

/// Opens a link: who dials, over the nonce it was challenged with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The region that dials, and signs.
    pub region: RegionId,
    /// The nonce of the challenge.
    pub nonce: [u8; 32],
    /// The gateway that is dialled: another cannot pass the hello on as its own.
    pub gateway: GatewayId,
    /// Version of the link protocol.
    pub protocol: u32,
    /// Lanes that this connection carries.
    pub lanes: Vec<Lane>,
    /// How far it has applied each stream it receives; the first 10,000 are sent, and what is not
    /// named comes again from its start, which a recipient bears.
    pub applied: Vec<(StreamId, Position)>,
    /// Software and version, at most 64 bytes.
    pub software: String,
    /// How new the trust is that it holds.
    pub trust: TrustMark,
    /// SHA-256 of the bodies of the agreement versions that it holds; the first 1,000 are sent.
    pub agreements: Vec<[u8; 32]>,
    /// Whether it takes proposals on this link.
    pub takes_proposals: bool,
}

impl Hello {
    /// Signs it with the key of the region.
    pub fn sign(&self, key: &SigningKey) -> SignedObject {
        let body = pb::Hello {
            region_id: self.region.as_str().into(),
            nonce: Bytes::copy_from_slice(&self.nonce),
            protocol: self.protocol,
            lanes: self.lanes.iter().map(|lane| lane.code()).collect(),
            applied: self
                .applied
                .iter()
                .take(APPLIED_PER_HELLO_MAX)
                .map(|(stream, position)| wire::position_to_pb(stream, position))
                .collect(),
            gateway_id: self.gateway.as_str().into(),
            software: self.software.clone(),
            trust: (self.trust != TrustMark::default()).then(|| (&self.trust).into()),
            agreement_sha256s: self
                .agreements
                .iter()
                .take(AGREEMENTS_PER_HELLO_MAX)
                .map(|sha256| Bytes::copy_from_slice(sha256))
                .collect(),
            takes_proposals: self.takes_proposals,
        };
        sign(tag::HELLO, body.encode_to_vec(), self.region.as_str(), key)
    }

    /// Reads it, when the region signed it with this key over the nonce it was challenged with.
    ///
    /// # Errors
    /// When the signature does not fit, is not the region's, answers another challenge, or a field
    /// is not well formed.
    pub fn verify(
        object: &SignedObject,
        public: &[u8; 32],
        challenge: &[u8; 32],
        gateway: &GatewayId,
    ) -> Result<Self, SignedError> {
        let (signer, body) = verify_own(object, tag::HELLO, public, BODY_BYTES_MAX)?;
        let pb::Hello {
            region_id,
            nonce,
            protocol,
            lanes,
            applied,
            gateway_id,
            software,
            trust,
            agreement_sha256s,
            takes_proposals,
        } = body;
        let region = RegionId::parse(&region_id).map_err(|_| Malformed("region_id"))?;
        signed_by(&signer, &region)?;
        let nonce = fixed(&nonce, "nonce")?;
        if nonce != *challenge || gateway_id != gateway.as_str() {
            return Err(SignedError::NonceWrong);
        }
        if applied.len() > APPLIED_PER_HELLO_MAX
            || lanes.len() > Lane::ALL.len()
            || agreement_sha256s.len() > AGREEMENTS_PER_HELLO_MAX
        {
            return Err(SignedError::TooLarge);
        }
        if software.len() > SOFTWARE_BYTES_MAX || software.chars().any(char::is_control) {
            return Err(SignedError::Malformed("software"));
        }
        let lanes: Vec<_> = lanes
            .into_iter()
            .map(|lane| Lane::try_from(lane).map_err(|_| Malformed("lanes")))
            .collect::<Result<_, _>>()?;
        if lanes.is_empty() {
            return Err(SignedError::Malformed("lanes"));
        }
        let applied = applied
            .into_iter()
            .map(|position| wire::position_from_pb(Some(position)))
            .collect::<Result<_, _>>()?;
        let agreements = agreement_sha256s
            .iter()
            .map(|sha256| fixed(sha256, "agreement_sha256s"))
            .collect::<Result<_, _>>()?;
        let (gateway, trust) = (gateway.clone(), decode_mark(trust));
        Ok(Self {
            region,
            nonce,
            gateway,
            protocol,
            lanes,
            applied,
            software,
            trust,
            agreements,
            takes_proposals,
        })
    }
}
