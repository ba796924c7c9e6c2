//! Something a patrol noticed; becomes an event when an officer accepts it.

use crate::kernel::{EmergencyLevel, FieldViolation, GeoPoint, RecordId};
use crate::risk::{EventDomain, category};

/// Something a patrol noticed.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The patrol, if it was on one.
    pub patrol_id: Option<RecordId>,
    /// Category code.
    pub category: String,
    /// What was seen.
    pub text: String,
    /// Where.
    pub point: Option<GeoPoint>,
    /// Level that the patrol suggests.
    pub suggested_level: Option<EmergencyLevel>,
}

impl Observation {
    /// What a person typed, by proto field.
    pub fn texts(&self) -> Vec<(&'static str, &str)> {
        vec![("text", &self.text)]
    }

    /// What is wrong with it, by proto field. Disputes are events from the start: nobody observes one.
    pub(crate) fn violations(&self) -> Vec<FieldViolation> {
        match category(&self.category) {
            Some(known) if known.domain != EventDomain::Dispute => Vec::new(),
            _ => {
                let description = "is no category code that EventDomain lists, or one of a dispute";
                vec![FieldViolation::new("category", description)]
            }
        }
    }
}
