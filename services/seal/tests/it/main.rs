//! What the linkage's signatures and seals must withstand, through the public doors of the crate.
//! Method: seal or sign honestly, change what came out, expect every change to be refused.

#![expect(clippy::unwrap_used, reason = "what cannot be made or read fails its test")]

mod delegated;
mod fixture;
mod rotation;
mod segment;
mod signed;
mod vectors;
