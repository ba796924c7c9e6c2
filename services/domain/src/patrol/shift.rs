//! Who is on duty at a station. Operational presence, not attendance.

use crate::code_table;
use crate::kernel::{
    FieldViolation, LEAD_AND_DESK, Reason, Role, Timestamp, Transition, next_state,
};

code_table! {
    /// State of a shift.
    ShiftState {
        /// On duty.
        Open = 1 "OPEN",
        /// Handed over, waiting for the incoming signature.
        HandoverPending = 2 "HANDOVER_PENDING",
        /// Over.
        Closed = 3 "CLOSED",
    }
}

code_table! {
    /// What may be done to a shift.
    ShiftVerb {
        /// The outgoing side hands over.
        HandOver = 1 "HAND_OVER",
        /// The shift ends.
        Close = 2 "CLOSE",
    }
}

/// Who is on duty, from when to when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift {
    /// Code of the unit on duty.
    pub unit: String,
    /// Station; may be empty.
    pub station: String,
    /// Planned start.
    pub planned_start_at: Option<Timestamp>,
    /// Planned end.
    pub planned_end_at: Option<Timestamp>,
    /// When it was opened.
    pub opened_at: Option<Timestamp>,
    /// When it was closed.
    pub closed_at: Option<Timestamp>,
    /// State.
    pub state: ShiftState,
    /// Number of staff.
    pub staff_count: u32,
    /// Opaque references of the staff; never leave the region.
    pub roster_refs: Vec<String>,
    /// What the next shift must know.
    pub handover_note: String,
}

/// DOMAIN 4.1. There is no short way from open to closed: the incoming side signs first.
pub const SHIFT_TRANSITIONS: &[Transition<ShiftState, ShiftVerb>] = &[
    (ShiftState::Open, ShiftVerb::HandOver, LEAD_AND_DESK, ShiftState::HandoverPending),
    (ShiftState::HandoverPending, ShiftVerb::Close, LEAD_AND_DESK, ShiftState::Closed),
];

impl ShiftState {
    /// The state that follows when this role does the verb.
    ///
    /// # Errors
    /// [`Reason::StateForbidsVerb`] or [`Reason::RoleForbidden`].
    pub fn next(self, verb: ShiftVerb, role: Role) -> Result<Self, Reason> {
        next_state(SHIFT_TRANSITIONS, self, verb, role)
    }

    /// Whether nothing more is to be expected of the shift.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Closed)
    }
}

impl Shift {
    /// What a person typed, by proto field.
    pub fn texts(&self) -> Vec<(&'static str, &str)> {
        let mut texts = vec![
            ("unit", self.unit.as_str()),
            ("station", &self.station),
            ("handover_note", &self.handover_note),
        ];
        texts.extend(self.roster_refs.iter().map(|staff| ("roster_refs", staff.as_str())));
        texts
    }

    /// What is wrong with it, by proto field.
    pub(crate) fn violations(&self) -> Vec<FieldViolation> {
        match (self.planned_start_at, self.planned_end_at) {
            (Some(start), Some(end)) if end <= start => {
                vec![FieldViolation::new("plan_end_time", "must be after plan_start_time")]
            }
            _ => Vec::new(),
        }
    }

    /// The shift as it begins, whatever state was sent.
    pub(crate) fn open(self, at: Timestamp) -> Self {
        Self { state: ShiftState::Open, opened_at: Some(at), closed_at: None, ..self }
    }

    /// The shift after a verb; an empty note keeps the one before.
    pub(crate) fn apply(
        &self,
        verb: ShiftVerb,
        handover_note: &str,
        role: Role,
        at: Timestamp,
    ) -> Result<Self, Reason> {
        let mut shift = Self { state: self.state.next(verb, role)?, ..self.clone() };
        if !handover_note.is_empty() {
            shift.handover_note = handover_note.to_owned();
        }
        if shift.state.is_over() {
            // A phone whose clock was set back cannot close a shift before it was opened.
            shift.closed_at = Some(self.opened_at.map_or(at, |opened| at.max(opened)));
        }
        Ok(shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::check_transitions;

    #[test]
    fn a_shift_moves_only_as_domain_4_1_says() {
        check_transitions(
            &ShiftState::ALL.iter().map(|s| (*s, s.name())).collect::<Vec<_>>(),
            &ShiftVerb::ALL.iter().map(|v| (*v, v.name())).collect::<Vec<_>>(),
            ShiftState::next,
            &["CLOSED"],
            "OPEN             HAND_OVER HANDOVER_PENDING SHIFT_LEAD DISPATCHER DUTY_OFFICER
             HANDOVER_PENDING CLOSE     CLOSED           SHIFT_LEAD DISPATCHER DUTY_OFFICER",
        );
    }
}
