//! Something that needs handling: a place, a kind, counts; never a person.

use crate::code_table;
use crate::kernel::{EmergencyLevel, GeoPoint, RecordId, Timestamp};

code_table! {
    /// Part of the work.
    EventDomain {
        /// 治安.
        Security = 1 "SECURITY",
        /// 安全.
        Safety = 2 "SAFETY",
        /// 矛盾纠纷.
        Dispute = 3 "DISPUTE",
        /// 环境.
        Environment = 4 "ENVIRONMENT",
        /// 设施.
        Facility = 5 "FACILITY",
        /// 服务.
        Service = 6 "SERVICE",
    }
}

code_table! {
    /// Class of an emergency.
    EmergencyClass {
        /// 自然灾害.
        NaturalDisaster = 1 "NATURAL_DISASTER",
        /// 事故灾难.
        Accident = 2 "ACCIDENT",
        /// 公共卫生.
        PublicHealth = 3 "PUBLIC_HEALTH",
        /// 社会安全; carries no level.
        PublicSecurity = 4 "PUBLIC_SECURITY",
    }
}

code_table! {
    /// Where an event was first heard of.
    EventSource {
        /// A patrol.
        Patrol = 1 "PATROL",
        /// A grid worker.
        Grid = 2 "GRID",
        /// The reception hall.
        Hall = 3 "HALL",
        /// Online.
        Online = 4 "ONLINE",
        /// A neighbouring region.
        Partner = 5 "PARTNER",
        /// An instrument.
        Sensor = 6 "SENSOR",
    }
}

code_table! {
    /// State of an event.
    EventState {
        /// 上报.
        Reported = 1 "REPORTED",
        /// 受理.
        Accepted = 2 "ACCEPTED",
        /// 不予受理.
        Rejected = 3 "REJECTED",
        /// 立案.
        Filed = 4 "FILED",
        /// 派遣.
        Dispatched = 5 "DISPATCHED",
        /// 处置.
        Handling = 6 "HANDLING",
        /// 反馈.
        Feedback = 7 "FEEDBACK",
        /// 核查.
        Verifying = 8 "VERIFYING",
        /// 结案.
        Closed = 9 "CLOSED",
        /// 评价.
        Evaluated = 10 "EVALUATED",
        /// 回退.
        Returned = 11 "RETURNED",
        /// 挂账.
        Suspended = 12 "SUSPENDED",
        /// 作废.
        Cancelled = 13 "CANCELLED",
    }
}

code_table! {
    /// What may be done to an event.
    EventVerb {
        /// 受理.
        Accept = 1 "ACCEPT",
        /// 不予受理.
        Reject = 2 "REJECT",
        /// 立案.
        File = 3 "FILE",
        /// 派遣.
        Dispatch = 4 "DISPATCH",
        /// 开始处置.
        Handle = 5 "HANDLE",
        /// 反馈.
        FeedBack = 6 "FEED_BACK",
        /// 送核查.
        Verify = 7 "VERIFY",
        /// 结案.
        Close = 8 "CLOSE",
        /// 返工.
        Rework = 9 "REWORK",
        /// 评价.
        Evaluate = 10 "EVALUATE",
        /// 回退.
        Return = 11 "RETURN",
        /// 挂账.
        Suspend = 12 "SUSPEND",
        /// 恢复.
        Resume = 13 "RESUME",
        /// 作废.
        Cancel = 14 "CANCEL",
        /// 重新打开.
        Reopen = 15 "REOPEN",
    }
}

/// Something that needs handling.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Part of the work.
    pub domain: EventDomain,
    /// Category code.
    pub category: String,
    /// Class of emergency, where it is one.
    pub emergency_class: Option<EmergencyClass>,
    /// Level, where there is one.
    pub level: Option<EmergencyLevel>,
    /// Place in words; may be empty.
    pub place: String,
    /// Place on the ground.
    pub point: Option<GeoPoint>,
    /// What happened; may be empty.
    pub text: String,
    /// Where it was first heard of.
    pub source: EventSource,
    /// Number of people affected.
    pub affected_count: u32,
    /// Needs handling within hours.
    pub urgent: bool,
    /// When the present state must be over.
    pub deadline_at: Option<Timestamp>,
    /// State.
    pub state: EventState,
    /// Code of the unit that handles it; may be empty.
    pub handling_unit: String,
    /// The observation it came from.
    pub observation_id: Option<RecordId>,
}
