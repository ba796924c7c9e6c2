//! Names of things: slugs for regions and gateways, `UUIDv7` for everything else.

use super::{Entropy, Timestamp};
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// Why a text is no slug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a slug of 1 to 63 of a-z, 0-9 and -")]
pub struct SlugError;

macro_rules! slug {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a text of 1 to 63 of `[a-z0-9-]`.
            ///
            /// # Errors
            /// When the text has another length or another character.
            pub fn parse(text: &str) -> Result<Self, SlugError> {
                let fits = (1..=63).contains(&text.len())
                    && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
                if fits { Ok(Self(text.into())) } else { Err(SlugError) }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = SlugError;
            fn from_str(text: &str) -> Result<Self, SlugError> {
                Self::parse(text)
            }
        }
    };
}

slug! {
    /// A region of the linkage.
    RegionId
}
slug! {
    /// A gateway of the linkage.
    GatewayId
}
slug! {
    /// A linkage: the regions that trust one authority.
    LinkageId
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// From 16 bytes; `None` for any other length, for nil, and for what is no `UUIDv7`.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                let id = Uuid::from_slice(bytes).ok()?;
                (id.get_version_num() == 7).then_some(Self(id))
            }

            /// The 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// A new id of this moment.
            pub fn mint(now: Timestamp, entropy: &dyn Entropy) -> Self {
                Self(mint_v7(now, entropy))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                Ok(Self(Uuid::parse_str(text)?))
            }
        }
    };
}

uuid_id! {
    /// A record; unique by itself, its identity is (birth region, record id).
    RecordId
}
uuid_id! {
    /// What a phone did, once.
    OperationId
}
uuid_id! {
    /// An enrolled phone.
    DeviceId
}
uuid_id! {
    /// An agreement, in all its versions.
    AgreementId
}
uuid_id! {
    /// The time between two restores of a region from a copy.
    Epoch
}

impl Epoch {
    /// A new epoch, greater than this one whatever the clock says.
    pub fn mint_after(last: Self, now: Timestamp, entropy: &dyn Entropy) -> Self {
        let next = last.minted_at().plus_millis(1);
        Self::mint(now.max(next), entropy)
    }

    /// When it was minted, by its millisecond.
    pub fn minted_at(self) -> Timestamp {
        // The first 48 bits of a UUIDv7 are its milliseconds.
        let [a, b, c, d, e, f, ..] = *self.as_bytes();
        let millis = i64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        Timestamp::from_micros(millis.saturating_mul(1_000))
    }
}

/// Which revision of a record. Compares by (t, epoch, n), as the fields stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Ownership transfers so far.
    pub t: u32,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// 1 at birth, raised by one with each change.
    pub n: u64,
}

fn mint_v7(now: Timestamp, entropy: &dyn Entropy) -> Uuid {
    let mut random = [0u8; 10];
    entropy.fill(&mut random);
    // The 12 bits after the milliseconds carry the microseconds (RFC 9562, method 3), so ids of one
    // maker sort by time within a millisecond too: indexes on random ids cost nine times as much.
    let micros = now.micros().rem_euclid(1_000).unsigned_abs();
    let fraction = (micros * 4_096 / 1_000).to_be_bytes();
    let mut counter_and_random = random;
    counter_and_random[0] = fraction[6];
    counter_and_random[1] = fraction[7];
    let millis = now.millis().max(0).unsigned_abs();
    uuid::Builder::from_unix_timestamp_millis(millis, &counter_and_random).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Zeros;
    impl Entropy for Zeros {
        fn fill(&self, out: &mut [u8]) {
            out.fill(0);
        }
    }

    #[test]
    fn a_slug_holds_only_what_a_host_name_holds() {
        assert!(RegionId::parse("xiaonanhai-1").is_ok());
        for bad in ["", "Xiaonanhai", "小南海", "a.b", "a_b", &"a".repeat(64)] {
            assert_eq!(RegionId::parse(bad), Err(SlugError), "{bad}");
        }
    }

    #[test]
    fn minted_ids_sort_by_time_within_a_millisecond() {
        let ids: Vec<_> = (0..2_000)
            .map(|i| RecordId::mint(Timestamp::from_micros(1_760_000_000_000_000 + i), &Zeros))
            .collect();
        assert!(ids.is_sorted());
        assert!(RecordId::from_slice(ids[0].as_bytes()).is_some());
    }

    #[test]
    fn an_id_of_another_version_is_none() {
        assert!(RecordId::from_slice(&[0; 16]).is_none());
        assert!(RecordId::from_slice(&[7; 15]).is_none());
    }
}
