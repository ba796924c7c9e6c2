//! The terms under which regions share. One version = one view rule, one set of parties.

use crate::code_table;
use crate::kernel::{AgreementId, EmergencyLevel, Purpose, RegionId, Timestamp};

code_table! {
    /// What kind of agreement it is.
    AgreementForm {
        /// 属地协议: a region and its superior.
        Charter = 1 "CHARTER",
        /// Between any regions.
        Agreement = 2 "AGREEMENT",
    }
}

code_table! {
    /// What is granted (DOMAIN 8.10).
    Grant {
        /// Patrols and check-ins.
        PatrolSummary = 1 "PATROL_SUMMARY",
        /// Events: category, place, level, state.
        EventSummary = 2 "EVENT_SUMMARY",
        /// Events with their text.
        EventDetail = 3 "EVENT_DETAIL",
        /// Events of river and forest.
        RiverForest = 4 "RIVER_FOREST",
        /// Calls for help.
        Sos = 5 "SOS",
    }
}

code_table! {
    /// When a record may leave.
    Release {
        /// At once, marked 未核实 until an officer accepts it.
        AtOnce = 1 "AT_ONCE",
        /// After the owner's officer has accepted it.
        OnAccept = 2 "ON_ACCEPT",
    }
}

/// One line of the view rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// What is granted.
    pub grant: Grant,
    /// Categories granted; empty means all of the grant.
    pub categories: Vec<String>,
    /// Lowest level granted; `None` means any, also none.
    pub min_level: Option<EmergencyLevel>,
    /// When it may leave.
    pub release: Release,
    /// Fields that may leave, in proto names; empty means those of the grant.
    pub fields: Vec<String>,
}

/// A party, pinned by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// The region.
    pub region: RegionId,
    /// SHA-256 of its Ed25519 key.
    pub signing_key_sha256: [u8; 32],
}

/// One version of an agreement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The agreement in all its versions.
    pub agreement_id: AgreementId,
    /// From 1.
    pub version: u32,
    /// Kind of agreement.
    pub form: AgreementForm,
    /// Title.
    pub title: String,
    /// Its parties, by id.
    pub parties: Vec<Party>,
    /// The view rule.
    pub clauses: Vec<Clause>,
    /// Purposes for which parties may read.
    pub purposes: Vec<Purpose>,
    /// In force from.
    pub started_at: Timestamp,
    /// In force until, by the origin's clock at numbering.
    pub ended_at: Timestamp,
    /// SHA-256 of the signed bytes.
    pub sha256: [u8; 32],
}

impl Agreement {
    /// Whether the region is a party.
    pub fn has_party(&self, region: &RegionId) -> bool {
        self.parties.iter().any(|party| party.region == *region)
    }

    /// Whether the agreement is in force at this moment.
    pub fn in_force(&self, now: Timestamp) -> bool {
        self.started_at <= now && now < self.ended_at
    }
}
