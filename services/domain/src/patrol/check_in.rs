//! A patrol was at a checkpoint. Never refused for bad GPS: it is marked.

use crate::code_table;
use crate::kernel::{GeoPoint, RecordId};

code_table! {
    /// How a check-in was made.
    CheckInMethod {
        /// NFC tag.
        Nfc = 1 "NFC",
        /// QR code.
        Qr = 2 "QR",
        /// By position alone.
        Geofence = 3 "GEOFENCE",
        /// By hand.
        Manual = 4 "MANUAL",
    }
}

code_table! {
    /// How good a check-in is.
    CheckInQuality {
        /// Near and in time.
        Ok = 1 "OK",
        /// Too far away.
        OutOfRange = 2 "OUT_OF_RANGE",
        /// Outside its window.
        Late = 3 "LATE",
        /// Without a position.
        NoFix = 4 "NO_FIX",
        /// By hand.
        Manual = 5 "MANUAL",
    }
}

/// A patrol was at a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckIn {
    /// The patrol.
    pub patrol_id: RecordId,
    /// Name of the checkpoint.
    pub checkpoint: String,
    /// How it was made.
    pub method: CheckInMethod,
    /// Where; `None` without a fix.
    pub point: Option<GeoPoint>,
    /// Distance from the checkpoint.
    pub distance_m: f64,
    /// How good it is.
    pub quality: Option<CheckInQuality>,
    /// Remark; may be empty.
    pub remark: String,
}

impl CheckIn {
    /// What a person typed, by proto field.
    pub fn texts(&self) -> Vec<(&'static str, &str)> {
        vec![("checkpoint", &self.checkpoint), ("remark", &self.remark)]
    }
}
