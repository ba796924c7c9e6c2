//! Streams: ordered logs of what a region shows under one agreement version, by lane.

use crate::kernel::{AgreementId, Epoch, Lane, RegionId};

/// Names a stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// Region that writes it.
    pub origin: RegionId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The agreement.
    pub agreement: AgreementId,
    /// Its version.
    pub version: u32,
    /// The lane.
    pub lane: Lane,
}

impl StreamId {
    /// The one spelling of a stream id: key in storage and what the chain starts from. Length byte
    /// and slug, epoch, agreement, version big endian, lane.
    pub fn to_bytes(&self) -> Vec<u8> {
        let origin = self.origin.as_str().as_bytes();
        let mut out = Vec::with_capacity(1 + origin.len() + 37);
        // A slug is at most 63 bytes long, so its length always fits.
        out.push(u8::try_from(origin.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(origin);
        out.extend_from_slice(self.epoch.as_bytes());
        out.extend_from_slice(self.agreement.as_bytes());
        out.extend_from_slice(&self.version.to_be_bytes());
        out.push(u8::try_from(self.lane.code()).unwrap_or(u8::MAX));
        out
    }

    /// Reads [`Self::to_bytes`] back; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&len, rest) = bytes.split_first()?;
        let (origin, rest) = rest.split_at_checked(usize::from(len))?;
        let (epoch, rest) = rest.split_at_checked(16)?;
        let (agreement, rest) = rest.split_at_checked(16)?;
        let (version, lane) = rest.split_at_checked(4)?;
        let [lane] = lane else { return None };
        Some(Self {
            origin: RegionId::parse(std::str::from_utf8(origin).ok()?).ok()?,
            epoch: Epoch::from_slice(epoch)?,
            agreement: AgreementId::from_slice(agreement)?,
            version: u32::from_be_bytes(version.try_into().ok()?),
            lane: Lane::try_from(i64::from(*lane)).ok()?,
        })
    }
}

/// A place in a stream: entries up to `seq`, chain hash there. `seq` 0 is before the first entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Entries up to here.
    pub seq: u64,
    /// Chain hash at `seq`.
    pub h: [u8; 32],
}

/// What an origin has shown of a record under an agreement; the memory of `sharing::share`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastShown {
    /// Counts what was shown of this record under this agreement.
    pub share_n: u64,
    /// The lane it went by.
    pub lane: Lane,
    /// What the recipient believes now.
    pub standing: Standing,
}

/// What a recipient believes of a record it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is shown.
    Shown,
    /// It was shown for the last time.
    Last,
    /// It was withdrawn.
    Left,
}
