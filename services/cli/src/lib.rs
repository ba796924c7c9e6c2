//! The `wuling` command: sets a linkage up, plays a phone, shows the demo.
//!
//! *Is* the administrator's and the newcomer's tool, and the library that the tests set up their
//! linkages with.
//!
//! *Never* has a rule or a format of its own: it calls the same crates as the servers.
//!
//! *Start at* [`linkage`] for what a linkage is made of, [`demo`] for the main job in one process.

pub mod authority;
pub mod bench;
pub mod bundle;
pub mod client;
pub mod cut;
pub mod demo;
pub mod erase;
pub mod explain;
pub mod geojson;
pub mod linkage;
pub mod phone;
mod progress;
pub mod proposals;
pub mod quarantine;
pub mod terms;
pub mod transfer;
pub mod verify;
