//! Words that at least two other modules use; a type moves up here when its second user appears.

mod catalogue;
mod code;
mod geo;
mod id;
mod reason;
mod time;
mod transition;
mod trust_age;

pub use code::{
    CodeError, Datum, EmergencyLevel, FixSource, Kind, Lane, Purpose, RetentionClass, Role,
    Sensitivity,
};
pub use geo::{GeoPoint, gcj02_to_wgs84, wgs84_to_gcj02};
pub use id::{
    AgreementId, DeviceId, Epoch, GatewayId, LinkageId, OperationId, RecordId, RegionId, Revision,
    SlugError,
};
pub use reason::{FieldViolation, Reason, ReasonKind};
pub use time::{Clock, Entropy, Timestamp};
#[cfg(test)]
pub(crate) use transition::tests::check as check_transitions;
pub use transition::{DESK, FIELD, FIELD_AND_DESK, LEAD_AND_DESK, Transition, next_state};
pub use trust_age::{GRACE_DAYS, STALE_HOURS, TrustAge};
