//! How the links stand, for whoever asks.

use domain::stream::StreamId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::receive::Standing;

/// How a region's links stand. Cheap to clone; all clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<Mutex<State>>);

/// A copy of the state at one moment.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Links that are open now, of as many as there should be.
    pub links_up: usize,
    /// Why the last one failed; empty when none did since.
    pub error: String,
    /// Streams this region writes: on disk at the gateway up to here.
    pub stored: HashMap<StreamId, u64>,
    /// Streams this region receives.
    pub received: HashMap<StreamId, Standing>,
}

impl Status {
    /// The state now.
    pub fn get(&self) -> State {
        self.with(|state| state.clone())
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        // A poisoned lock still holds whole values: every change here is one assignment.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
