//! A member of staff needs help.

use crate::code_table;
use crate::kernel::{
    GeoPoint, LEAD_AND_DESK, Reason, RecordId, Role, Timestamp, Transition, next_state,
};

code_table! {
    /// What set off a call for help.
    SosTrigger {
        /// The button.
        Button = 1 "BUTTON",
        /// A fall.
        Fall = 2 "FALL",
        /// No movement.
        NoMove = 3 "NO_MOVE",
        /// A check-in that did not come.
        MissedCheckIn = 4 "MISSED_CHECK_IN",
    }
}

code_table! {
    /// State of a call for help.
    SosState {
        /// Nobody has answered.
        Raised = 1 "RAISED",
        /// A person has answered.
        Acknowledged = 2 "ACKNOWLEDGED",
        /// Helped.
        Resolved = 3 "RESOLVED",
        /// Raised by mistake.
        Cancelled = 4 "CANCELLED",
    }
}

code_table! {
    /// What may be done to a call for help.
    SosVerb {
        /// A person answers.
        Acknowledge = 1 "ACKNOWLEDGE",
        /// Help is done.
        Resolve = 2 "RESOLVE",
        /// It was a mistake.
        Cancel = 3 "CANCEL",
    }
}

/// A member of staff needs help.
#[derive(Clone, Debug, PartialEq)]
pub struct SosAlert {
    /// Where; `None` without a fix.
    pub point: Option<GeoPoint>,
    /// Last fix before.
    pub last_known: Option<GeoPoint>,
    /// What set it off.
    pub trigger: SosTrigger,
    /// State.
    pub state: SosState,
    /// When a person answered.
    pub acknowledged_at: Option<Timestamp>,
    /// Code of the unit that answered; may be empty.
    pub acknowledge_unit: String,
    /// The patrol, if it was on one.
    pub patrol_id: Option<RecordId>,
    /// Remark; may be empty.
    pub remark: String,
}

/// Seconds within which a person answers a call for help (DOMAIN 8.11, a proposal).
pub const SOS_ACKNOWLEDGE_S: i64 = 60;

/// Who answers may also cancel; the phone that called may not, because whoever holds it then need not
/// be the one who called.
pub const SOS_TRANSITIONS: &[Transition<SosState, SosVerb>] = &[
    (SosState::Raised, SosVerb::Acknowledge, LEAD_AND_DESK, SosState::Acknowledged),
    (SosState::Raised, SosVerb::Resolve, LEAD_AND_DESK, SosState::Resolved),
    (SosState::Raised, SosVerb::Cancel, LEAD_AND_DESK, SosState::Cancelled),
    (SosState::Acknowledged, SosVerb::Resolve, LEAD_AND_DESK, SosState::Resolved),
    (SosState::Acknowledged, SosVerb::Cancel, LEAD_AND_DESK, SosState::Cancelled),
];

impl SosState {
    /// The state that follows when this role does the verb.
    ///
    /// # Errors
    /// [`Reason::StateForbidsVerb`] or [`Reason::RoleForbidden`].
    pub fn next(self, verb: SosVerb, role: Role) -> Result<Self, Reason> {
        next_state(SOS_TRANSITIONS, self, verb, role)
    }

    /// Whether nothing more is to be expected of the call.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Resolved | Self::Cancelled)
    }
}

impl SosAlert {
    /// What a person typed, by proto field.
    pub fn texts(&self) -> Vec<(&'static str, &str)> {
        vec![("acknowledge_unit", &self.acknowledge_unit), ("remark", &self.remark)]
    }

    /// The call as it begins, whatever answer was sent.
    pub(crate) fn raise(self) -> Self {
        Self {
            state: SosState::Raised,
            acknowledged_at: None,
            acknowledge_unit: String::new(),
            ..self
        }
    }

    /// The call after a verb. The first verb of any kind is a person's answer.
    pub(crate) fn apply(
        &self,
        verb: SosVerb,
        unit: &str,
        role: Role,
        at: Timestamp,
    ) -> Result<Self, Reason> {
        let mut sos = Self { state: self.state.next(verb, role)?, ..self.clone() };
        if self.acknowledged_at.is_none() {
            sos.acknowledged_at = Some(at);
            sos.acknowledge_unit = unit.to_owned();
        }
        Ok(sos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::check_transitions;

    #[test]
    fn a_call_for_help_is_answered_by_who_leads() {
        check_transitions(
            &SosState::ALL.iter().map(|s| (*s, s.name())).collect::<Vec<_>>(),
            &SosVerb::ALL.iter().map(|v| (*v, v.name())).collect::<Vec<_>>(),
            SosState::next,
            &["RESOLVED", "CANCELLED"],
            "RAISED       ACKNOWLEDGE ACKNOWLEDGED SHIFT_LEAD DISPATCHER DUTY_OFFICER
             RAISED       RESOLVE     RESOLVED     SHIFT_LEAD DISPATCHER DUTY_OFFICER
             RAISED       CANCEL      CANCELLED    SHIFT_LEAD DISPATCHER DUTY_OFFICER
             ACKNOWLEDGED RESOLVE     RESOLVED     SHIFT_LEAD DISPATCHER DUTY_OFFICER
             ACKNOWLEDGED CANCEL      CANCELLED    SHIFT_LEAD DISPATCHER DUTY_OFFICER",
        );
    }
}
