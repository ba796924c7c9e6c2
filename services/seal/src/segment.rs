//! Segments: sealed and signed ranges of a stream, which is what is stored, forwarded and exported.
//!
//! A segment is packaging. Who may write it stands in the signature, who may read it in the wraps,
//! what it says in the chain; any range may be sealed again. The associated data of both seals is
//! the prefix, so no part of one segment fits another.

use crate::key::{self, SealingKey, SigningKey, Wrapped, key_id, sha256};
use crate::wire::{self, Malformed, SEQ_MAX, fixed};
use crate::{body, chain, tag};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::Bytes;
use domain::kernel::{Entropy, Reason, RegionId, Timestamp};
use domain::stream::{Position, StreamId};
use prost::Message;
use proto::exchange::v1 as pb;
use std::fmt;

/// Most entries in a segment.
pub const ENTRIES_PER_SEGMENT_MAX: usize = 512;
/// Bytes of entries after which a writer cuts; the entry that crosses the line still goes in.
pub const SEGMENT_CUT_BYTES: usize = 256 * 1024;
/// Largest encoded segment. Whatever is cut by the two limits above fits.
pub const SEGMENT_BYTES_MAX: usize = 1024 * 1024;
/// Largest encoded entry.
pub const ENTRY_BYTES_MAX: usize = 128 * 1024;
/// Most parties to which a segment is sealed, the origin among them.
pub const PARTIES_PER_SEGMENT_MAX: usize = 64;

const FORMAT: u32 = 1;
const SUITE: u32 = 1;
const CONTENT_KEY_LEN: usize = 16;
const TAG_LEN: usize = 16;
/// A prefix of this format has at most 258 bytes; a later one has room to grow.
const PREFIX_BYTES_MAX: usize = 1024;
/// A wrap has at most 135 bytes.
const WRAPS_BYTES_MAX: usize = PARTIES_PER_SEGMENT_MAX * 256;

/// An entry as it lies in a segment.
#[derive(Clone, PartialEq, Eq)]
pub struct SaltedEntry {
    /// Random; goes into the commitment.
    pub salt: [u8; 16],
    /// The encoded entry.
    pub entry: Bytes,
}

impl SaltedEntry {
    /// Its commitment.
    pub fn commitment(&self) -> [u8; 32] {
        chain::commitment(&self.salt, &self.entry)
    }
}

impl fmt::Debug for SaltedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SaltedEntry([redacted; {}])", self.entry.len())
    }
}

/// What is to be sealed.
#[derive(Clone, Copy, Debug)]
pub struct Range<'a> {
    /// The stream.
    pub stream: &'a StreamId,
    /// Where the chain stands before the first entry.
    pub before: Position,
    /// 1 to 512 entries.
    pub entries: &'a [SaltedEntry],
    /// When the last of them expires.
    pub expires_at: Timestamp,
}

/// A new segment.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The encoded segment.
    pub bytes: Vec<u8>,
    /// Where the chain stands after its last entry.
    pub after: Position,
    /// Names these bytes on a link.
    pub segment_id: [u8; 16],
}

/// Why a range cannot be sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No entry, or more than 512.
    #[error("a segment holds 1 to {ENTRIES_PER_SEGMENT_MAX} entries, not {0}")]
    EntriesCount(usize),
    /// An entry is over its limit.
    #[error("entry {seq} is larger than {ENTRY_BYTES_MAX} bytes")]
    EntryTooLarge {
        /// Its seq.
        seq: u64,
    },
    /// All together are over the limit.
    #[error("the segment is larger than {SEGMENT_BYTES_MAX} bytes")]
    TooLarge,
    /// The position before the range is none of this stream.
    #[error("the position before the range is none of its stream")]
    BeforeWrong,
    /// No party, too many, one twice, or the origin is not among them.
    #[error("a segment is sealed to 1 to {PARTIES_PER_SEGMENT_MAX} parties and the origin is one")]
    PartiesWrong,
    /// A party's key keeps no secret.
    #[error("the sealing key of {0} is of low order")]
    PartyKeyInvalid(RegionId),
}

impl SealError {
    /// The code that goes on the wire.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::EntriesCount(_) | Self::EntryTooLarge { .. } | Self::TooLarge => {
                Reason::LimitExceeded
            }
            Self::BeforeWrong => Reason::ChainBroken,
            Self::PartiesWrong => Reason::NotAParty,
            Self::PartyKeyInvalid(_) => Reason::FieldInvalid,
        }
    }
}

/// Seals a range to its parties and signs it. `entropy` gives the key of the content, which is used
/// for this one message.
///
/// # Errors
/// When the range or its parties are not such as a segment may have.
pub fn seal(
    range: Range<'_>,
    signing: &SigningKey,
    parties: &[(RegionId, [u8; 32])],
    entropy: &dyn Entropy,
) -> Result<Sealed, SealError> {
    let after = range
        .entries
        .iter()
        .fold(range.before, |position, salted| chain::extend(position, &salted.commitment()));
    seal_chained(range, after, signing, parties, entropy)
}

/// [`seal`] for who numbered the entries himself and knows where the chain stands after them: hashing
/// them again would cost as much as all the rest of a large segment.
///
/// # Errors
/// When the range or its parties are not such as a segment may have.
pub fn seal_chained(
    range: Range<'_>,
    after: Position,
    signing: &SigningKey,
    parties: &[(RegionId, [u8; 32])],
    entropy: &dyn Entropy,
) -> Result<Sealed, SealError> {
    check(&range)?;
    let parties = sorted(parties, &range.stream.origin)?;
    let prefix = pb::SegmentPrefix {
        format: FORMAT,
        suite: SUITE,
        key_id: Bytes::copy_from_slice(&key_id(&signing.public())),
        stream: Some(wire::stream_to_pb(range.stream)),
        first_seq: range.before.seq + 1,
        count: u32::try_from(range.entries.len()).expect("at most 512, checked above"),
        h_before: Bytes::copy_from_slice(&range.before.h),
        h_after: Bytes::copy_from_slice(&after.h),
        expire_time: Some(wire::time_to_pb(range.expires_at)),
    };
    let plaintext = body::encode(range.entries, range.stream.lane);
    let bytes = seal_plaintext(&prefix.encode_to_vec(), plaintext, signing, &parties, entropy)?;
    if bytes.len() > SEGMENT_BYTES_MAX {
        return Err(SealError::TooLarge);
    }
    Ok(Sealed { segment_id: segment_id(&bytes), bytes, after })
}

/// Names an encoded segment on a link: first 16 bytes of its SHA-256.
pub fn segment_id(bytes: &[u8]) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&sha256(bytes)[..16]);
    id
}

fn check(range: &Range<'_>) -> Result<(), SealError> {
    let count = range.entries.len();
    if !(1..=ENTRIES_PER_SEGMENT_MAX).contains(&count) {
        return Err(SealError::EntriesCount(count));
    }
    let before = range.before;
    let at_start = before.seq == 0;
    if before.seq >= SEQ_MAX - ENTRIES_PER_SEGMENT_MAX as u64
        || at_start && before != chain::start(range.stream)
    {
        return Err(SealError::BeforeWrong);
    }
    let mut size = 0;
    for (seq, salted) in (before.seq + 1..).zip(range.entries) {
        size += salted.entry.len();
        if salted.entry.len() > ENTRY_BYTES_MAX {
            return Err(SealError::EntryTooLarge { seq });
        }
        if size > SEGMENT_BYTES_MAX {
            return Err(SealError::TooLarge);
        }
    }
    Ok(())
}

type PartyKey = (RegionId, [u8; 32]);

fn sorted<'a>(parties: &'a [PartyKey], origin: &RegionId) -> Result<Vec<&'a PartyKey>, SealError> {
    let mut sorted: Vec<_> = parties.iter().collect();
    sorted.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let once = sorted.is_sorted_by(|(a, _), (b, _)| a < b);
    let origin_is_one = parties.iter().any(|(party, _)| party == origin);
    if once && origin_is_one && parties.len() <= PARTIES_PER_SEGMENT_MAX {
        Ok(sorted)
    } else {
        Err(SealError::PartiesWrong)
    }
}

/// The cryptography alone, so that tests can sign what an honest origin never would.
fn seal_plaintext(
    prefix: &[u8],
    mut plaintext: Vec<u8>,
    signing: &SigningKey,
    parties: &[&PartyKey],
    entropy: &dyn Entropy,
) -> Result<Vec<u8>, SealError> {
    let mut content_key = [0; CONTENT_KEY_LEN];
    entropy.fill(&mut content_key);
    aead(&content_key)
        .seal_in_place_append_tag(zero_nonce(), Aad::from(prefix), &mut plaintext)
        .expect("a body is far below the limit of AES-GCM");
    let wraps = parties
        .iter()
        .map(|(party, public)| {
            let wrapped = key::wrap(public, &hpke_info(party), prefix, &content_key)
                .ok_or_else(|| SealError::PartyKeyInvalid(party.clone()))?;
            Ok(pb::Wrap {
                party: party.as_str().into(),
                enc: Bytes::copy_from_slice(&wrapped.enc),
                ciphertext: wrapped.ciphertext,
            })
        })
        .collect::<Result<_, _>>()?;
    let wraps = pb::Wraps { wraps }.encode_to_vec();
    let signature = signing.sign(&signed_message(prefix, &plaintext, &wraps));
    let segment = pb::Segment {
        prefix: Bytes::copy_from_slice(prefix),
        sealed: plaintext.into(),
        wraps: wraps.into(),
        signature: Bytes::copy_from_slice(&signature),
    };
    Ok(segment.encode_to_vec())
}

/// Why a segment is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Over a limit.
    #[error("the segment or one of its parts is over its limit")]
    TooLarge,
    /// A field is missing or of the wrong form.
    #[error("{0} is missing or of the wrong form")]
    Malformed(&'static str),
    /// Another format than 1.
    #[error("segment format {0} is not known here")]
    FormatUnknown(u32),
    /// Another suite than 1.
    #[error("suite {} is not known here", suite_name(*.0))]
    SuiteUnknown(u32),
    /// Signed by another key of the origin than the one at hand.
    #[error("the segment is signed by another key")]
    KeyUnknown,
    /// The signature does not fit.
    #[error("the signature of the segment does not fit")]
    SignatureInvalid,
    /// The chain does not go from where the segment says to where it says.
    #[error("the chain does not go from h_before to h_after")]
    ChainBroken,
    /// Not sealed to this party.
    #[error("the segment is not sealed to this party")]
    NotAParty,
    /// The party's wrap or the content does not open.
    #[error("the seal does not open")]
    Unopenable,
    /// The seal opens, and what is under it is no body.
    #[error("what is under the seal is no segment body")]
    Unreadable,
    /// The body holds more or fewer entries than the prefix says.
    #[error("the body holds another number of entries than the prefix says")]
    CountWrong,
}

impl SegmentError {
    /// The code that goes on the wire.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::TooLarge => Reason::LimitExceeded,
            Self::Malformed(_) => Reason::FieldInvalid,
            Self::FormatUnknown(_) | Self::SuiteUnknown(_) => Reason::SuiteUnknown,
            Self::KeyUnknown | Self::SignatureInvalid => Reason::SignatureInvalid,
            Self::ChainBroken => Reason::ChainBroken,
            Self::NotAParty => Reason::NotAParty,
            Self::Unopenable | Self::Unreadable | Self::CountWrong => Reason::EntryUnreadable,
        }
    }
}

impl From<Malformed> for SegmentError {
    fn from(Malformed(field): Malformed) -> Self {
        Self::Malformed(field)
    }
}

fn suite_name(suite: u32) -> String {
    if suite == 2 { "2 (SM2/SM3/SM4)".into() } else { suite.to_string() }
}

/// A segment as it came: well formed, and nothing more until [`Segment::verify`] says so.
#[derive(Clone, Debug)]
pub struct Segment {
    prefix: Bytes,
    sealed: Bytes,
    wraps_bytes: Bytes,
    signature: Bytes,
    key_id: [u8; 8],
    stream: StreamId,
    before: Position,
    after: Position,
    expires_at: Timestamp,
    wraps: Vec<PartyWrap>,
}

#[derive(Clone, Debug)]
struct PartyWrap {
    party: RegionId,
    enc: [u8; 32],
    ciphertext: Bytes,
}

impl Segment {
    /// Takes an encoded segment apart. The parts share its memory.
    ///
    /// # Errors
    /// When it is over a limit, of an unknown format or suite, not well formed, or begins a stream
    /// anywhere but at the stream's genesis.
    pub fn parse(bytes: Bytes) -> Result<Self, SegmentError> {
        let size = bytes.len();
        if size > SEGMENT_BYTES_MAX {
            return Err(SegmentError::TooLarge);
        }
        let outer = pb::Segment::decode(bytes).map_err(|_| Malformed("segment"))?;
        // No signature covers what stands beside the four fields, so nothing may stand there.
        if outer.encoded_len() != size {
            return Err(SegmentError::Malformed("segment"));
        }
        let pb::Segment { prefix, sealed, wraps: wraps_bytes, signature } = outer;
        if prefix.len() > PREFIX_BYTES_MAX || wraps_bytes.len() > WRAPS_BYTES_MAX {
            return Err(SegmentError::TooLarge);
        }
        let fields = pb::SegmentPrefix::decode(prefix.clone()).map_err(|_| Malformed("prefix"))?;
        // Another format or suite may have other fields, so it is named before they are looked at.
        if fields.format != FORMAT {
            return Err(SegmentError::FormatUnknown(fields.format));
        }
        if fields.suite != SUITE {
            return Err(SegmentError::SuiteUnknown(fields.suite));
        }
        if sealed.len() <= TAG_LEN {
            return Err(SegmentError::Malformed("sealed"));
        }
        if signature.len() != 64 {
            return Err(SegmentError::Malformed("signature"));
        }
        let key_id = fixed(&fields.key_id, "key_id")?;
        let expires_at = wire::time_from_pb(fields.expire_time, "expire_time")?;
        let stream = wire::stream_from_pb(fields.stream)?;
        let last_seq = last_seq(fields.first_seq, fields.count)?;
        let before =
            Position { seq: fields.first_seq - 1, h: fixed(&fields.h_before, "h_before")? };
        let after = Position { seq: last_seq, h: fixed(&fields.h_after, "h_after")? };
        if before.seq == 0 && before != chain::start(&stream) {
            return Err(SegmentError::ChainBroken);
        }
        let wraps = parse_wraps(wraps_bytes.clone(), &stream.origin)?;
        Ok(Self {
            prefix,
            sealed,
            wraps_bytes,
            signature,
            key_id,
            stream,
            before,
            after,
            expires_at,
            wraps,
        })
    }

    /// The stream.
    pub const fn stream(&self) -> &StreamId {
        &self.stream
    }

    /// Seq of its first entry, from 1.
    pub const fn first_seq(&self) -> u64 {
        self.before.seq + 1
    }

    /// Seq of its last entry.
    pub const fn last_seq(&self) -> u64 {
        self.after.seq
    }

    /// Number of entries, 1 to 512.
    pub const fn count(&self) -> u64 {
        self.after.seq - self.before.seq
    }

    /// Where the chain stands before its first entry.
    pub const fn before(&self) -> Position {
        self.before
    }

    /// Where the chain stands after its last entry.
    pub const fn after(&self) -> Position {
        self.after
    }

    /// When the last of its entries expires.
    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// The parties to which it is sealed, by id; the origin is one.
    pub fn parties(&self) -> impl ExactSizeIterator<Item = &RegionId> {
        self.wraps.iter().map(|wrap| &wrap.party)
    }

    /// The key that signed it.
    pub const fn key_id(&self) -> [u8; 8] {
        self.key_id
    }

    /// Checks that the holder of this key signed every byte of it.
    ///
    /// # Errors
    /// When another key signed, or the signature does not fit.
    pub fn verify(&self, signing_public: &[u8; 32]) -> Result<(), SegmentError> {
        if self.key_id != key_id(signing_public) {
            return Err(SegmentError::KeyUnknown);
        }
        let message = signed_message(&self.prefix, &self.sealed, &self.wraps_bytes);
        key::verify(signing_public, &message, &self.signature)
            .map_err(|_| SegmentError::SignatureInvalid)
    }

    /// Opens the seal and follows the chain over what is under it; gives each entry with the place where
    /// the chain stands after it. Anybody can seal to a party, so call [`Self::verify`] first.
    ///
    /// # Errors
    /// When it is not sealed to this party and key, or what is under the seal is not what the prefix
    /// says.
    pub fn open(
        &self,
        party: &RegionId,
        key: &SealingKey,
    ) -> Result<Vec<(Position, SaltedEntry)>, SegmentError> {
        let wrap = self
            .wraps
            .binary_search_by(|wrap| wrap.party.cmp(party))
            .map(|at| &self.wraps[at])
            .map_err(|_| SegmentError::NotAParty)?;
        let wrapped = Wrapped { enc: wrap.enc, ciphertext: wrap.ciphertext.clone() };
        let content_key: [u8; CONTENT_KEY_LEN] = key
            .unwrap(&hpke_info(party), &self.prefix, &wrapped)
            .and_then(|key| key.try_into().ok())
            .ok_or(SegmentError::Unopenable)?;
        let mut sealed = self.sealed.to_vec();
        let plaintext = aead(&content_key)
            .open_in_place(zero_nonce(), Aad::from(&self.prefix), &mut sealed)
            .map_err(|_| SegmentError::Unopenable)?;
        let count = usize::try_from(self.count()).map_err(|_| SegmentError::TooLarge)?;
        let mut position = self.before;
        let place = |salted: SaltedEntry| {
            position = chain::extend(position, &salted.commitment());
            (position, salted)
        };
        let entries: Vec<_> = body::decode(plaintext, count)?.into_iter().map(place).collect();
        if position == self.after { Ok(entries) } else { Err(SegmentError::ChainBroken) }
    }
}

fn last_seq(first_seq: u64, count: u32) -> Result<u64, SegmentError> {
    let count = u64::from(count);
    if count > ENTRIES_PER_SEGMENT_MAX as u64 {
        return Err(SegmentError::TooLarge);
    }
    if count == 0 {
        return Err(SegmentError::Malformed("count"));
    }
    first_seq
        .checked_add(count - 1)
        .filter(|last| first_seq >= 1 && *last <= SEQ_MAX)
        .ok_or(SegmentError::Malformed("first_seq"))
}

fn parse_wraps(bytes: Bytes, origin: &RegionId) -> Result<Vec<PartyWrap>, SegmentError> {
    let pb::Wraps { wraps } = pb::Wraps::decode(bytes).map_err(|_| Malformed("wraps"))?;
    if wraps.len() > PARTIES_PER_SEGMENT_MAX {
        return Err(SegmentError::TooLarge);
    }
    let wraps = wraps
        .into_iter()
        .map(|pb::Wrap { party, enc, ciphertext }| {
            if ciphertext.len() != CONTENT_KEY_LEN + TAG_LEN {
                return Err(Malformed("wraps.ciphertext"));
            }
            let party = RegionId::parse(&party).map_err(|_| Malformed("wraps.party"))?;
            Ok(PartyWrap { party, enc: fixed(&enc, "wraps.enc")?, ciphertext })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let once = wraps.is_sorted_by(|a, b| a.party < b.party);
    if !once || !wraps.iter().any(|wrap| wrap.party == *origin) {
        return Err(SegmentError::Malformed("wraps"));
    }
    Ok(wraps)
}

fn signed_message(prefix: &[u8], sealed: &[u8], wraps: &[u8]) -> Vec<u8> {
    // Only the prefix has no fixed length, so the parts can be told apart.
    [tag::SEGMENT, prefix, &sha256(sealed), &sha256(wraps)].concat()
}

/// Names the party, so that two parties with one key still cannot swap their wraps.
fn hpke_info(party: &RegionId) -> Vec<u8> {
    [tag::HPKE_INFO, party.as_str().as_bytes()].concat()
}

fn aead(content_key: &[u8; CONTENT_KEY_LEN]) -> LessSafeKey {
    let key = UnboundKey::new(&AES_128_GCM, content_key).expect("AES-128 takes 16 bytes");
    LessSafeKey::new(key)
}

/// Each content key seals one message, so no nonce can repeat.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests;
