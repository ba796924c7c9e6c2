//! Chains, segments, heads, receipts and every other signature of the linkage: bytes in, verdict out.
//!
//! *Is* the only crate that hashes, signs, seals and opens, so suite 1 is written down in one place:
//! SHA-256, Ed25519, HPKE (RFC 9180 base, X25519/HKDF-SHA256/AES-128-GCM), AES-128-GCM, zstd; phones
//! sign their batches with ECDSA P-256, which their keystores have. `tests/vectors.json` holds what
//! another implementation must reproduce.
//!
//! *Never* does I/O, reads a clock, keeps a key, or decides whether a signer may: it says whose
//! signature it is and what exactly was signed. Peer bytes never panic, and are bounded before
//! anything is allocated for them. Nothing is encoded again to be verified.
//!
//! *Start at* [`segment`] for what is stored and forwarded, [`chain`] for what lasts, [`signed`] for
//! receipts, heads and hellos.

pub mod batch;
mod body;
pub mod chain;
pub mod entry;
pub mod key;
pub mod proposal;
pub mod segment;
pub mod signed;
pub mod tag;
pub mod transfer;
pub mod trust;
mod wire;
