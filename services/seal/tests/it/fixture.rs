//! Three regions, their keys, and streams between them; the same in every run.

use bytes::Bytes;
use domain::kernel::{AgreementId, Entropy, Epoch, Lane, RegionId, Timestamp};
use domain::stream::{Position, StreamId};
use seal::key::{SealingKey, SigningKey, sha256};
use seal::segment::{Range, SaltedEntry, Sealed, seal};
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_760_000_000_123_456);

/// Random bytes that repeat from run to run.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Entropy for Counter {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            let n = self.0.fetch_add(1, Ordering::Relaxed);
            chunk.copy_from_slice(&sha256(&n.to_be_bytes())[..chunk.len()]);
        }
    }
}

pub(crate) struct Region {
    pub(crate) id: RegionId,
    pub(crate) signing: SigningKey,
    pub(crate) sealing: SealingKey,
}

pub(crate) fn region(slug: &str) -> Region {
    let seed = sha256(slug.as_bytes());
    Region {
        id: RegionId::parse(slug).unwrap(),
        signing: SigningKey::from_seed(&seed),
        sealing: SealingKey::from_bytes(&sha256(&seed)),
    }
}

pub(crate) fn stream(lane: Lane) -> StreamId {
    let entropy = Counter::default();
    StreamId {
        origin: region("xiaonanhai").id,
        epoch: Epoch::mint(NOW, &entropy),
        agreement: AgreementId::mint(NOW, &entropy),
        version: 3,
        lane,
    }
}

pub(crate) fn entries(lens: &[usize]) -> Vec<SaltedEntry> {
    let entropy = Counter::default();
    lens.iter()
        .map(|len| {
            let mut salt = [0; 16];
            entropy.fill(&mut salt);
            let mut entry = vec![0; *len];
            entropy.fill(&mut entry);
            SaltedEntry { salt, entry: entry.into() }
        })
        .collect()
}

/// Sealed by the stream's origin to these regions.
pub(crate) fn sealed(
    stream: &StreamId,
    before: Position,
    entries: &[SaltedEntry],
    parties: &[&str],
) -> Sealed {
    let keys: Vec<_> =
        parties.iter().map(|slug| region(slug)).map(|r| (r.id, r.sealing.public())).collect();
    let range = Range { stream, before, entries, expires_at: NOW };
    seal(range, &region(stream.origin.as_str()).signing, &keys, &Counter::default()).unwrap()
}

pub(crate) fn bytes(sealed: &Sealed) -> Bytes {
    Bytes::copy_from_slice(&sealed.bytes)
}
