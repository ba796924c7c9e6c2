//! The terms under which regions share. One version = one view rule, one set of parties.

use crate::code_table;
use crate::kernel::{AgreementId, EmergencyLevel, Purpose, RegionId, Timestamp};
use crate::outline::Outline;

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

code_table! {
    /// How exactly places on the ground leave.
    Precision {
        /// As they were measured.
        Exact = 1 "EXACT",
        /// To a grid of a thousandth of a degree, about 100 m.
        HundredMetres = 2 "100_M",
        /// To a grid of a hundredth of a degree, about 1 km.
        Kilometre = 3 "1_KM",
        /// The middle of the township, else of the county; places in words do not leave.
        Township = 4 "TOWNSHIP",
    }
}

/// Where a clause holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Area {
    /// Everywhere.
    Everywhere,
    /// In one of these zones.
    Zones(Vec<Zone>),
    /// In the area of another party, or no further from its boundary than so many metres.
    NearParties(u32),
    /// Where the place in words holds one of these names.
    Places(Vec<String>),
}

/// An area that an agreement draws.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its name.
    pub name: String,
    /// Its edge.
    pub outline: Outline,
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
    /// Where it holds.
    pub area: Area,
    /// How exactly places on the ground leave.
    pub precision: Precision,
}

impl Clause {
    /// A clause that lets all of its grant leave, from everywhere, as it is.
    pub const fn whole(grant: Grant, release: Release) -> Self {
        Self {
            grant,
            categories: Vec::new(),
            min_level: None,
            release,
            fields: Vec::new(),
            area: Area::Everywhere,
            precision: Precision::Exact,
        }
    }
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
    /// Days that parties keep a view after it was shown, where the record is kept for longer.
    pub retention_days: Option<u32>,
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
