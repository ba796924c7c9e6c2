//! Streams: ordered logs of what a region shows under one agreement version, by lane.

use crate::code_table;
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

/// An epoch that another follows, because the origin's store was restored from a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The epoch.
    pub epoch: Epoch,
    /// The last entry that the origin knows of its stream of the same agreement, version and lane.
    pub last: Option<Position>,
}

impl Parent {
    /// What it says of the stream before one of the epoch that follows; `None` where the origin knows nothing of it.
    pub fn known(&self, stream: &StreamId) -> Option<(StreamId, Position)> {
        Some((StreamId { epoch: self.epoch, ..stream.clone() }, self.last?))
    }
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
    /// The first version of the agreement under which it has been shown without a break: the parties of all
    /// versions since then hold it.
    pub since_version: u32,
}

code_table! {
    /// What a recipient believes of a record it was shown.
    Standing {
        /// It is shown.
        Shown = 1 "SHOWN",
        /// It was shown for the last time.
        Last = 2 "LAST",
        /// It was withdrawn.
        Left = 3 "LEFT",
    }
}

/// What an origin has shown of a record, by agreement: all that `sharing::share` remembers of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown(Vec<(AgreementId, LastShown)>);

impl Shown {
    /// Bytes of one agreement's part.
    const BYTES_EACH: usize = 30;

    /// What was shown under the agreement.
    pub fn get(&self, agreement: AgreementId) -> Option<&LastShown> {
        self.0.iter().find(|(of, _)| *of == agreement).map(|(_, last)| last)
    }

    /// Remembers what is shown under the agreement from now on.
    pub fn set(&mut self, agreement: AgreementId, last: LastShown) {
        match self.0.iter_mut().find(|(of, _)| *of == agreement) {
            Some((_, held)) => *held = last,
            None => {
                let at = self.0.partition_point(|(of, _)| *of < agreement);
                self.0.insert(at, (agreement, last));
            }
        }
    }

    /// The one spelling, as a store keeps it: for each agreement, in the order of their ids, its id,
    /// `share_n` big endian, lane, standing, `since_version` big endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() * Self::BYTES_EACH);
        for (agreement, LastShown { share_n, lane, standing, since_version }) in &self.0 {
            out.extend_from_slice(agreement.as_bytes());
            out.extend_from_slice(&share_n.to_be_bytes());
            out.push(u8::try_from(lane.code()).unwrap_or(u8::MAX));
            out.push(u8::try_from(standing.code()).unwrap_or(u8::MAX));
            out.extend_from_slice(&since_version.to_be_bytes());
        }
        out
    }

    /// Reads [`Self::to_bytes`] back; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (parts, rest) = bytes.as_chunks::<{ Self::BYTES_EACH }>();
        let read = |part: &[u8; Self::BYTES_EACH]| {
            let (agreement, rest) = part.split_at(16);
            let (share_n, rest) = rest.split_at(8);
            let &[lane, standing, ref since_version @ ..] = rest else { return None };
            let share_n = u64::from_be_bytes(share_n.try_into().ok()?);
            let lane = Lane::try_from(i64::from(lane)).ok()?;
            let standing = Standing::try_from(i64::from(standing)).ok()?;
            let since_version = u32::from_be_bytes(since_version.try_into().ok()?);
            let last = LastShown { share_n, lane, standing, since_version };
            Some((AgreementId::from_slice(agreement)?, last))
        };
        let parts: Vec<_> = parts.iter().map(read).collect::<Option<_>>()?;
        let ordered = parts.is_sorted_by(|(one, _), (next, _)| one < next);
        (rest.is_empty() && ordered).then_some(Self(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreement(n: u8) -> AgreementId {
        AgreementId::from_slice(&[n; 16].map(|byte| byte | 0x70)).unwrap()
    }

    #[test]
    fn what_was_shown_is_spelled_in_one_way() {
        let last =
            |share_n, standing| LastShown { share_n, lane: Lane::Bulk, standing, since_version: 2 };
        let mut shown = Shown::default();
        assert_eq!(Shown::from_bytes(&shown.to_bytes()), Some(shown.clone()));
        for (n, standing) in [(9, Standing::Left), (1, Standing::Last), (9, Standing::Shown)] {
            shown.set(agreement(n), last(u64::from(n), standing));
        }
        assert_eq!(shown.get(agreement(9)), Some(&last(9, Standing::Shown)));
        assert_eq!(shown.get(agreement(2)), None);
        let bytes = shown.to_bytes();
        assert_eq!(bytes.len(), 60);
        assert_eq!(Shown::from_bytes(&bytes), Some(shown));
        let (first, second) = bytes.split_at(30);
        for bad in [&bytes[1..], &[second, first].concat(), &[first, first].concat()] {
            assert_eq!(Shown::from_bytes(bad), None);
        }
        for (at, byte) in [(24, 0), (25, 0), (25, 4), (6, 0)] {
            let mut bad = bytes.clone();
            bad[at] = byte;
            assert_eq!(Shown::from_bytes(&bad), None);
        }
    }
}
