//! The contract: proto files, the code generated from them, and the one checked door between wire
//! and domain.
//!
//! ```text
//! bytes <-> generated messages <-> [convert: the door, checks every field] <-> domain values
//! ```
//!
//! *Is* the only crate that knows field numbers and wire limits.
//!
//! *Never* decides: a value that passes the door is well formed, not permitted.
//!
//! *Start at* `wuling/kernel/v1/record.proto`, then [`convert`].

pub mod convert;
pub mod link;
pub mod splice;

/// Generated code, one module a package. Made by `cargo xtask proto`.
#[expect(missing_docs, clippy::all, reason = "generated")]
#[cfg_attr(
    feature = "rpc",
    expect(
        unused_qualifications,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::clone_on_ref_ptr,
        clippy::disallowed_methods,
        reason = "generated"
    )
)]
pub mod wuling {
    pub mod kernel {
        pub mod v1 {
            include!("gen/wuling.kernel.v1.rs");
        }
    }
    pub mod directory {
        pub mod v1 {
            include!("gen/wuling.directory.v1.rs");
        }
    }
    pub mod patrol {
        pub mod v1 {
            include!("gen/wuling.patrol.v1.rs");
        }
    }
    pub mod risk {
        pub mod v1 {
            include!("gen/wuling.risk.v1.rs");
        }
    }
    pub mod device {
        pub mod v1 {
            include!("gen/wuling.device.v1.rs");
        }
    }
    pub mod agreement {
        pub mod v1 {
            include!("gen/wuling.agreement.v1.rs");
        }
    }
    pub mod exchange {
        pub mod v1 {
            include!("gen/wuling.exchange.v1.rs");
        }
    }
}

pub use wuling::{agreement, device, directory, exchange, kernel, patrol, risk};

/// The descriptor of every package, with comments and privacy classes.
pub const DESCRIPTOR: &[u8] = include_bytes!("gen/descriptor.binpb");
