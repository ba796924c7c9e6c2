//! How a record changes its owner: the one offers it, the other accepts or returns it. Each acceptance embeds the
//! offer, both signed, so that whoever is shown the record can follow it from where it was born.

use crate::code_table;
use crate::kernel::{AgreementId, Kind, RecordId, RegionId, Revision, Timestamp};

/// Times that a record can change hands.
pub const TRANSFERS_MAX: usize = 16;

/// The owner offers a record to another region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The record.
    pub record_id: RecordId,
    /// Its kind.
    pub kind: Kind,
    /// Where it was born.
    pub birth_region: RegionId,
    /// The revision that is offered.
    pub revision: Revision,
    /// The owner.
    pub from: RegionId,
    /// Who may accept it.
    pub to: RegionId,
    /// The agreement that grants it.
    pub agreement: AgreementId,
    /// SHA-256 of the record, sealed to the other.
    pub sealed_sha256: [u8; 32],
    /// When it was signed.
    pub offered_at: Timestamp,
}

/// The other owns the record from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// What was offered.
    pub offer: Offer,
    /// SHA-256 of the offer as it was signed: names it.
    pub offer_sha256: [u8; 32],
    /// The first revision of the new owner.
    pub revision: Revision,
    /// When it was signed.
    pub accepted_at: Timestamp,
}

code_table! {
    /// Why an offered record is not taken.
    ReturnReason {
        /// It does not lie where the region answers for it.
        NotHere = 1 "NOT_HERE",
        /// It is a matter for others.
        NotCompetent = 2 "NOT_COMPETENT",
        /// More must be known first.
        Incomplete = 3 "INCOMPLETE",
        /// The owner has asked for it back.
        Recalled = 4 "RECALLED",
    }
}

code_table! {
    /// Which way a record goes.
    Direction {
        /// From this region to another.
        Out = 1 "OUT",
        /// From another region to this.
        In = 2 "IN",
    }
}

code_table! {
    /// How an offer stands, as far as a region knows.
    TransferState {
        /// The other has not decided.
        Offered = 1 "OFFERED",
        /// The owner has asked for it back; what the other decided before stands.
        Recalled = 2 "RECALLED",
        /// The other owns it.
        Accepted = 3 "ACCEPTED",
        /// The owner has it back.
        Returned = 4 "RETURNED",
    }
}

impl TransferState {
    /// Whether nobody has decided yet.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Offered | Self::Recalled)
    }
}

impl Accept {
    /// Whether it takes over what `owner` owned after `t` changes of hands.
    pub fn follows(
        &self,
        (birth, record): (&RegionId, RecordId),
        owner: &RegionId,
        t: u32,
    ) -> bool {
        let Offer { record_id, birth_region, from, to, revision: offered, .. } = &self.offer;
        let next = (t.checked_add(1), offered.n.checked_add(1));
        (*record_id, birth_region) == (record, birth)
            && (from, offered.t) == (owner, t)
            && from != to
            && (Some(self.revision.t), Some(self.revision.n)) == next
    }
}
