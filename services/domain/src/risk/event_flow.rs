//! How an event moves (DOMAIN 4.2, GB/T 30428.8). Merging, escalating and referring are not built.

use super::{EmergencyClass, Event, EventState as S, EventVerb as V, category};
use crate::kernel::{
    DESK, EmergencyLevel, FIELD_AND_DESK, FieldViolation, Reason, Role, Timestamp, Transition,
    next_state,
};
use crate::operation::Rejection;

/// Seconds within which a reported event is accepted. All deadlines: DOMAIN 8.11, a proposal.
pub const ACCEPT_S: i64 = 2 * 3_600;
/// Seconds within which an accepted event is filed.
pub const FILE_S: i64 = 4 * 3_600;
/// Seconds within which a filed or returned event is dispatched.
pub const DISPATCH_S: i64 = 2 * 3_600;
/// Seconds within which an urgent event is handled, counted from dispatch.
pub const HANDLE_URGENT_S: i64 = 4 * 3_600;
/// Seconds within which an event is handled, counted from dispatch.
pub const HANDLE_NORMAL_S: i64 = 3 * 86_400;
/// Seconds within which an event that needs works is handled; given at the desk, never by default.
pub const HANDLE_ENGINEERING_S: i64 = 30 * 86_400;
/// Seconds within which a finished event is verified.
pub const VERIFY_S: i64 = 86_400;

/// Who checks what was done; who did it is somebody else.
const VERIFIERS: &[Role] = &[Role::Verifier];

/// DOMAIN 4.2. A reopened event goes back to where it was filed, because it may need another unit.
pub const EVENT_TRANSITIONS: &[Transition<S, V>] = &[
    (S::Reported, V::Accept, DESK, S::Accepted),
    (S::Reported, V::Reject, DESK, S::Rejected),
    (S::Reported, V::Cancel, DESK, S::Cancelled),
    (S::Accepted, V::File, DESK, S::Filed),
    (S::Accepted, V::Cancel, DESK, S::Cancelled),
    (S::Filed, V::Dispatch, DESK, S::Dispatched),
    (S::Filed, V::Cancel, DESK, S::Cancelled),
    (S::Dispatched, V::Handle, FIELD_AND_DESK, S::Handling),
    (S::Dispatched, V::Return, FIELD_AND_DESK, S::Returned),
    (S::Dispatched, V::Cancel, DESK, S::Cancelled),
    (S::Handling, V::FeedBack, FIELD_AND_DESK, S::Feedback),
    (S::Handling, V::Return, FIELD_AND_DESK, S::Returned),
    (S::Handling, V::Suspend, DESK, S::Suspended),
    (S::Handling, V::Cancel, DESK, S::Cancelled),
    (S::Feedback, V::Verify, DESK, S::Verifying),
    (S::Feedback, V::Cancel, DESK, S::Cancelled),
    (S::Verifying, V::Close, VERIFIERS, S::Closed),
    (S::Verifying, V::Rework, VERIFIERS, S::Handling),
    (S::Verifying, V::Cancel, DESK, S::Cancelled),
    (S::Returned, V::Dispatch, DESK, S::Dispatched),
    (S::Returned, V::Cancel, DESK, S::Cancelled),
    (S::Suspended, V::Resume, DESK, S::Handling),
    (S::Suspended, V::Cancel, DESK, S::Cancelled),
    (S::Closed, V::Evaluate, DESK, S::Evaluated),
    (S::Closed, V::Reopen, DESK, S::Filed),
];

impl S {
    /// The state that follows when this role does the verb.
    ///
    /// # Errors
    /// [`Reason::StateForbidsVerb`] or [`Reason::RoleForbidden`].
    pub fn next(self, verb: V, role: Role) -> Result<Self, Reason> {
        next_state(EVENT_TRANSITIONS, self, verb, role)
    }

    /// Whether nothing more is to be expected of the event, unless it is opened again.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Closed | Self::Evaluated | Self::Cancelled | Self::Rejected)
    }

    /// Whether an officer has accepted the event.
    pub const fn is_accepted(self) -> bool {
        !matches!(self, Self::Reported | Self::Rejected)
    }

    /// Seconds after which the state must be over; `None` where nothing is due.
    const fn deadline_s(self, urgent: bool) -> Option<i64> {
        match self {
            Self::Reported => Some(ACCEPT_S),
            Self::Accepted => Some(FILE_S),
            Self::Filed | Self::Returned => Some(DISPATCH_S),
            Self::Dispatched | Self::Handling if urgent => Some(HANDLE_URGENT_S),
            Self::Dispatched | Self::Handling => Some(HANDLE_NORMAL_S),
            Self::Feedback | Self::Verifying => Some(VERIFY_S),
            Self::Rejected | Self::Closed | Self::Evaluated | Self::Suspended | Self::Cancelled => {
                None
            }
        }
    }
}

/// A verb on an event, by whom and when.
pub(crate) struct EventStep<'a> {
    /// The verb.
    pub(crate) verb: V,
    /// New level, where it changes.
    pub(crate) level: Option<EmergencyLevel>,
    /// The unit that shall handle it.
    pub(crate) handling_unit: &'a str,
    /// The unit that acts.
    pub(crate) author_unit: &'a str,
    /// The role that acts.
    pub(crate) role: Role,
    /// The server's clock.
    pub(crate) now: Timestamp,
}

impl Event {
    /// What a person typed, by proto field.
    pub fn texts(&self) -> Vec<(&'static str, &str)> {
        vec![("place", &self.place), ("text", &self.text), ("handling_unit", &self.handling_unit)]
    }

    /// What is wrong with it, by proto field.
    pub(crate) fn violations(&self) -> Vec<FieldViolation> {
        let mut violations = Vec::new();
        if category(&self.category).is_none_or(|known| known.domain != self.domain) {
            let description = "is no category code that EventDomain lists for the domain";
            violations.push(FieldViolation::new("category", description));
        }
        if self.level.is_some() && self.is_public_security() {
            violations.push(FieldViolation::new("level", "must be absent for public security"));
        }
        violations
    }

    /// The event as it begins, whatever state was sent.
    pub(crate) fn report(self, now: Timestamp) -> Self {
        let deadline_at = self.deadline_at.or_else(|| deadline(S::Reported, self.urgent, now));
        Self { state: S::Reported, deadline_at, ..self }
    }

    /// The event after a verb.
    pub(crate) fn apply(&self, step: &EventStep<'_>) -> Result<Self, Rejection> {
        let state = self.state.next(step.verb, step.role)?;
        let mut event = Self { state, ..self.clone() };
        if step.level.is_some() {
            if self.is_public_security() {
                let description = "must be absent for public security";
                return Err(Rejection::field("event_transition.level", description));
            }
            event.level = step.level;
        }
        match (step.verb == V::Dispatch, step.handling_unit.is_empty()) {
            (true, false) => step.handling_unit.clone_into(&mut event.handling_unit),
            (false, true) => {}
            (true, true) => {
                let description = "must name the unit that shall handle the event";
                return Err(Rejection::field("event_transition.handling_unit", description));
            }
            (false, false) => {
                return Err(Rejection::field(
                    "event_transition.handling_unit",
                    "only with DISPATCH",
                ));
            }
        }
        if matches!(step.verb, V::Close | V::Rework) {
            self.check_verifier(step.author_unit)?;
        }
        // Setting to work does not win time: the deadline of these two runs from the state before.
        if !matches!(step.verb, V::Handle | V::Verify) {
            event.deadline_at = deadline(state, self.urgent, step.now);
        }
        Ok(event)
    }

    /// Nobody verifies the work of the own unit.
    fn check_verifier(&self, unit: &str) -> Result<(), Rejection> {
        if unit.is_empty() {
            return Err(Rejection::field("author_unit", "must name the unit that verifies"));
        }
        if unit == self.handling_unit {
            return Err(Rejection::of(Reason::RoleForbidden));
        }
        Ok(())
    }

    fn is_public_security(&self) -> bool {
        let of_category = category(&self.category).and_then(|known| known.class);
        [self.emergency_class, of_category].contains(&Some(EmergencyClass::PublicSecurity))
    }
}

fn deadline(state: S, urgent: bool, now: Timestamp) -> Option<Timestamp> {
    state.deadline_s(urgent).map(|seconds| now.plus_millis(seconds.saturating_mul(1_000)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::kernel::check_transitions;

    #[test]
    fn an_event_moves_only_as_domain_4_2_says() {
        check_transitions(
            &S::ALL.iter().map(|s| (*s, s.name())).collect::<Vec<_>>(),
            &V::ALL.iter().map(|v| (*v, v.name())).collect::<Vec<_>>(),
            S::next,
            &["REJECTED", "EVALUATED", "CANCELLED"],
            "REPORTED   ACCEPT    ACCEPTED   DISPATCHER DUTY_OFFICER
             REPORTED   REJECT    REJECTED   DISPATCHER DUTY_OFFICER
             ACCEPTED   FILE      FILED      DISPATCHER DUTY_OFFICER
             FILED      DISPATCH  DISPATCHED DISPATCHER DUTY_OFFICER
             RETURNED   DISPATCH  DISPATCHED DISPATCHER DUTY_OFFICER
             DISPATCHED HANDLE    HANDLING   GRID_WORKER PATROLLER SHIFT_LEAD DISPATCHER DUTY_OFFICER
             HANDLING   FEED_BACK FEEDBACK   GRID_WORKER PATROLLER SHIFT_LEAD DISPATCHER DUTY_OFFICER
             DISPATCHED RETURN    RETURNED   GRID_WORKER PATROLLER SHIFT_LEAD DISPATCHER DUTY_OFFICER
             HANDLING   RETURN    RETURNED   GRID_WORKER PATROLLER SHIFT_LEAD DISPATCHER DUTY_OFFICER
             FEEDBACK   VERIFY    VERIFYING  DISPATCHER DUTY_OFFICER
             VERIFYING  CLOSE     CLOSED     VERIFIER
             VERIFYING  REWORK    HANDLING   VERIFIER
             HANDLING   SUSPEND   SUSPENDED  DISPATCHER DUTY_OFFICER
             SUSPENDED  RESUME    HANDLING   DISPATCHER DUTY_OFFICER
             CLOSED     EVALUATE  EVALUATED  DISPATCHER DUTY_OFFICER
             CLOSED     REOPEN    FILED      DISPATCHER DUTY_OFFICER
             REPORTED   CANCEL    CANCELLED  DISPATCHER DUTY_OFFICER
             ACCEPTED   CANCEL    CANCELLED  DISPATCHER DUTY_OFFICER
             FILED      CANCEL    CANCELLED  DISPATCHER DUTY_OFFICER
             DISPATCHED CANCEL    CANCELLED  DISPATCHER DUTY_OFFICER
             HANDLING   CANCEL    CANCELLED  DISPATCHER DUTY_OFFICER
             FEEDBACK   CANCEL    CANCELLED  DISPATCHER DUTY_OFFICER
             VERIFYING  CANCEL    CANCELLED  DISPATCHER DUTY_OFFICER
             RETURNED   CANCEL    CANCELLED  DISPATCHER DUTY_OFFICER
             SUSPENDED  CANCEL    CANCELLED  DISPATCHER DUTY_OFFICER",
        );
    }

    fn step(verb: V, role: Role) -> EventStep<'static> {
        let now = Timestamp::from_micros(0);
        EventStep { verb, level: None, handling_unit: "", author_unit: "", role, now }
    }

    fn event(state: S) -> Event {
        Event { state, handling_unit: "police-1".to_owned(), ..fixture::event() }
    }

    #[test]
    fn nobody_verifies_the_work_of_the_own_unit() {
        for verb in [V::Close, V::Rework] {
            let check = |author_unit| {
                event(S::Verifying).apply(&EventStep { author_unit, ..step(verb, Role::Verifier) })
            };
            assert_eq!(check("police-1"), Err(Rejection::of(Reason::RoleForbidden)));
            assert_eq!(check("").expect_err("no unit").violations[0].field, "author_unit");
            assert!(check("centre").is_ok());
        }
    }

    #[test]
    fn dispatch_and_only_dispatch_names_the_unit_that_handles() {
        let dispatch = EventStep { handling_unit: "fire-2", ..step(V::Dispatch, Role::Dispatcher) };
        assert_eq!(event(S::Filed).apply(&dispatch).expect("dispatched").handling_unit, "fire-2");
        let nobody = event(S::Filed).apply(&step(V::Dispatch, Role::Dispatcher));
        assert_eq!(
            nobody.expect_err("refused").violations[0].field,
            "event_transition.handling_unit"
        );
        let accept = EventStep { handling_unit: "fire-2", ..step(V::Accept, Role::Dispatcher) };
        assert_eq!(
            event(S::Reported).apply(&accept).expect_err("refused").reason,
            Reason::FieldInvalid
        );
    }

    #[test]
    fn public_security_carries_no_level() {
        let by_category = Event {
            domain: super::super::EventDomain::Security,
            category: "PUBLIC_ORDER".to_owned(),
            level: None,
            ..event(S::Reported)
        };
        let by_class = Event {
            emergency_class: Some(EmergencyClass::PublicSecurity),
            level: None,
            ..event(S::Reported)
        };
        for calm in [by_category, by_class] {
            assert!(calm.violations().is_empty());
            let loud = Event { level: Some(EmergencyLevel::I), ..calm.clone() };
            assert_eq!(loud.violations()[0].field, "level");
            let level = Some(EmergencyLevel::I);
            let raised = calm.apply(&EventStep { level, ..step(V::Accept, Role::DutyOfficer) });
            assert_eq!(raised.expect_err("refused").violations[0].field, "event_transition.level");
        }
    }

    #[test]
    fn a_category_belongs_to_its_domain() {
        let domain = super::super::EventDomain::Dispute;
        let wrong = Event { domain, ..event(S::Reported) };
        assert_eq!(wrong.violations()[0].field, "category");
        let unknown = Event { category: "PETITION".to_owned(), ..event(S::Reported) };
        assert_eq!(unknown.violations()[0].field, "category");
        let right = Event { domain, category: "BOUNDARY".to_owned(), ..event(S::Reported) };
        assert!(right.violations().is_empty());
    }

    #[test]
    fn each_state_has_its_deadline_and_setting_to_work_wins_no_time() {
        let now = Timestamp::from_micros(0);
        let due = |event: &Event| event.deadline_at.map(|at| at.millis() / 1_000);
        let reported = Event { deadline_at: None, urgent: true, ..event(S::Reported) }.report(now);
        assert_eq!(due(&reported), Some(ACCEPT_S));
        let dispatch = EventStep { handling_unit: "fire-2", ..step(V::Dispatch, Role::Dispatcher) };
        let urgent =
            Event { urgent: true, ..event(S::Filed) }.apply(&dispatch).expect("dispatched");
        assert_eq!(due(&urgent), Some(HANDLE_URGENT_S));
        let later = now.plus_millis(1_000);
        let handling = urgent.apply(&EventStep { now: later, ..step(V::Handle, Role::Patroller) });
        assert_eq!(due(&handling.expect("handled")), Some(HANDLE_URGENT_S));
        let normal =
            Event { urgent: false, ..event(S::Filed) }.apply(&dispatch).expect("dispatched");
        assert_eq!(due(&normal), Some(HANDLE_NORMAL_S));
        let cancelled = normal.apply(&step(V::Cancel, Role::DutyOfficer)).expect("cancelled");
        assert_eq!(due(&cancelled), None);
    }
}
