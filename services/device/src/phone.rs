//! The enrolled phone: a store, a key, a clock.

use crate::enrolment::{self, Identity};
use crate::key::Sign;
use crate::store::{Store, StoreError};
use crate::sync;
use domain::kernel::{Clock, Entropy, Timestamp};
use proto::convert::kernel::{TIME_S_MAX, TIME_S_MIN};
use std::fmt;
use std::sync::Arc;

/// An enrolled phone. Everything it knows is on disk: two of them may work on one store, and one that
/// is killed leaves nothing behind.
pub struct Device {
    pub(crate) store: Store,
    pub(crate) identity: Identity,
    pub(crate) signer: Arc<dyn Sign>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

/// Why a store is no enrolled phone's.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No region has taken this phone yet.
    #[error("the phone is not enrolled")]
    NotEnrolled,
    /// The store failed.
    #[error("the store could not be read")]
    Store(#[from] StoreError),
}

impl Device {
    /// Takes up the store of an enrolled phone; `signer` holds the key it was enrolled with.
    ///
    /// # Errors
    /// When the store is of no enrolled phone, or fails.
    pub fn open(
        mut store: Store,
        signer: Arc<dyn Sign>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenError> {
        let identity = enrolment::find(store.conn())?.ok_or(OpenError::NotEnrolled)?;
        let now = clock.now();
        store.write(|tx| sync::wipe_when_alone(tx, now))?;
        Ok(Self { store, identity, signer, clock, entropy })
    }

    /// Who the phone is.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({} of {})", self.identity.device_id, self.identity.region_id)
    }
}

/// The nearest time that the wire can say. A phone whose clock was never set must not have its work
/// refused for it: the region corrects times with the offset it measures, which is off by as much.
pub(crate) fn sayable(time: Timestamp) -> Timestamp {
    const FIRST: i64 = TIME_S_MIN * 1_000_000;
    const LAST: i64 = TIME_S_MAX * 1_000_000;
    Timestamp::from_micros(time.micros().clamp(FIRST, LAST))
}
