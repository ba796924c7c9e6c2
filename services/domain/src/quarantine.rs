//! What lies beyond the cut of a revoked region is kept and shown to nobody, until a person knows that it is right.

use crate::code_table;

code_table! {
    /// Why something is released that was quarantined.
    ReleaseReason {
        /// The owner's people say that it is theirs.
        OwnerConfirmed = 1 "OWNER_CONFIRMED",
        /// Somebody of this region has seen that it is so.
        Seen = 2 "SEEN",
        /// A lawful order.
        Order = 3 "ORDER",
    }
}
