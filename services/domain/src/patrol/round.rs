//! One round of a route: a patrol and its legs (EarthRanger segment, SMART leg).

use crate::code_table;
use crate::kernel::{
    DESK, FIELD, LEAD_AND_DESK, Reason, RecordId, Role, Timestamp, Transition, next_state,
};
use crate::operation::Rejection;

code_table! {
    /// State of a patrol.
    PatrolState {
        /// Not started.
        Planned = 1 "PLANNED",
        /// Under way.
        Active = 2 "ACTIVE",
        /// Resting.
        Paused = 3 "PAUSED",
        /// Finished by the patrol.
        Completed = 4 "COMPLETED",
        /// Read by an officer.
        Reviewed = 5 "REVIEWED",
        /// Called off before it started.
        Cancelled = 6 "CANCELLED",
        /// Never started.
        Missed = 7 "MISSED",
    }
}

code_table! {
    /// What may be done to a patrol.
    PatrolVerb {
        /// Set out.
        Start = 1 "START",
        /// Rest.
        Pause = 2 "PAUSE",
        /// Go on.
        Resume = 3 "RESUME",
        /// Come home.
        Complete = 4 "COMPLETE",
        /// An officer has read the report.
        Review = 5 "REVIEW",
        /// Call off before the start.
        Cancel = 6 "CANCEL",
        /// Mark as never started.
        Miss = 7 "MISS",
    }
}

code_table! {
    /// How a patrol moves.
    PatrolMode {
        /// On foot.
        Foot = 1 "FOOT",
        /// Motorcycle.
        Motorcycle = 2 "MOTORCYCLE",
        /// Car.
        Car = 3 "CAR",
        /// Boat.
        Boat = 4 "BOAT",
        /// Uncrewed aircraft.
        Drone = 5 "DRONE",
    }
}

code_table! {
    /// What a route follows.
    RouteKind {
        /// Streets.
        Street = 1 "STREET",
        /// A village.
        Village = 2 "VILLAGE",
        /// A reach of a river.
        RiverReach = 3 "RIVER_REACH",
        /// A forest compartment.
        ForestCompartment = 4 "FOREST_COMPARTMENT",
        /// Round a school.
        SchoolSurround = 5 "SCHOOL_SURROUND",
        /// A road or railway.
        RoadLine = 6 "ROAD_LINE",
        /// Standing hazard points.
        HazardRound = 7 "HAZARD_ROUND",
        /// A boundary.
        Border = 8 "BORDER",
    }
}

/// A stretch of a patrol with one means of transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// How it moves.
    pub mode: Option<PatrolMode>,
    /// Start.
    pub started_at: Timestamp,
    /// End; `None` while under way.
    pub ended_at: Option<Timestamp>,
}

/// One round of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patrol {
    /// Shift within which it runs.
    pub shift_id: RecordId,
    /// What it is for.
    pub mandate: String,
    /// Name of the route.
    pub route: String,
    /// What the route follows.
    pub route_kind: Option<RouteKind>,
    /// Number of staff.
    pub member_count: u32,
    /// Units of a neighbour that take part.
    pub partner_units: Vec<String>,
    /// Its legs.
    pub legs: Vec<Leg>,
    /// State.
    pub state: PatrolState,
    /// When it set out.
    pub started_at: Option<Timestamp>,
    /// When it came home.
    pub ended_at: Option<Timestamp>,
    /// Opaque reference of its leader; never leaves the region.
    pub leader_ref: Option<String>,
}

/// Legs of one patrol at most.
pub const LEGS_MAX: usize = 64;

/// DOMAIN 4.1. A patrol may come home from a rest, so that one who forgot to go on is not refused.
pub const PATROL_TRANSITIONS: &[Transition<PatrolState, PatrolVerb>] = &[
    (PatrolState::Planned, PatrolVerb::Start, FIELD, PatrolState::Active),
    (PatrolState::Planned, PatrolVerb::Cancel, LEAD_AND_DESK, PatrolState::Cancelled),
    (PatrolState::Planned, PatrolVerb::Miss, LEAD_AND_DESK, PatrolState::Missed),
    (PatrolState::Active, PatrolVerb::Pause, FIELD, PatrolState::Paused),
    (PatrolState::Active, PatrolVerb::Complete, FIELD, PatrolState::Completed),
    (PatrolState::Paused, PatrolVerb::Resume, FIELD, PatrolState::Active),
    (PatrolState::Paused, PatrolVerb::Complete, FIELD, PatrolState::Completed),
    (PatrolState::Completed, PatrolVerb::Review, DESK, PatrolState::Reviewed),
];

impl PatrolState {
    /// The state that follows when this role does the verb.
    ///
    /// # Errors
    /// [`Reason::StateForbidsVerb`] or [`Reason::RoleForbidden`].
    pub fn next(self, verb: PatrolVerb, role: Role) -> Result<Self, Reason> {
        next_state(PATROL_TRANSITIONS, self, verb, role)
    }

    /// Whether nothing more is to be expected of the patrol.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Reviewed | Self::Cancelled | Self::Missed)
    }
}

impl Patrol {
    /// What a person typed, by proto field.
    pub fn texts(&self) -> Vec<(&'static str, &str)> {
        let mut texts = vec![("mandate", self.mandate.as_str()), ("route", &self.route)];
        texts.extend(self.partner_units.iter().map(|unit| ("partner_units", unit.as_str())));
        texts.extend(self.leader_ref.iter().map(|leader| ("leader_ref", leader.as_str())));
        texts
    }

    /// The patrol as it is planned, whatever legs and state were sent.
    pub(crate) fn plan(self) -> Self {
        Self {
            legs: Vec::new(),
            state: PatrolState::Planned,
            started_at: None,
            ended_at: None,
            ..self
        }
    }

    /// The patrol after a verb.
    pub(crate) fn apply(
        &self,
        verb: PatrolVerb,
        mode: Option<PatrolMode>,
        role: Role,
        at: Timestamp,
    ) -> Result<Self, Rejection> {
        let mut patrol = Self { state: self.state.next(verb, role)?, ..self.clone() };
        match verb {
            PatrolVerb::Start => {
                patrol.started_at = Some(at);
                patrol.begin_leg(mode, at)?;
            }
            PatrolVerb::Resume => patrol.begin_leg(mode, at)?,
            PatrolVerb::Pause => patrol.end_leg(at),
            PatrolVerb::Complete => {
                patrol.end_leg(at);
                patrol.ended_at = Some(patrol.not_before_the_last(at));
            }
            PatrolVerb::Review | PatrolVerb::Cancel | PatrolVerb::Miss => {}
        }
        let begins = matches!(verb, PatrolVerb::Start | PatrolVerb::Resume);
        if mode.is_some() && !begins {
            return Err(Rejection::field("patrol_transition.mode", "only with START and RESUME"));
        }
        Ok(patrol)
    }

    fn begin_leg(&mut self, mode: Option<PatrolMode>, at: Timestamp) -> Result<(), Reason> {
        if self.legs.len() >= LEGS_MAX {
            return Err(Reason::LimitExceeded);
        }
        let mode = mode.or_else(|| self.legs.last().and_then(|leg| leg.mode));
        let started_at = self.not_before_the_last(at);
        self.legs.push(Leg { mode, started_at, ended_at: None });
        Ok(())
    }

    fn end_leg(&mut self, at: Timestamp) {
        let at = self.not_before_the_last(at);
        if let Some(leg) = self.legs.last_mut() {
            leg.ended_at.get_or_insert(at);
        }
    }

    /// A phone whose clock was set back must not make a leg end before it began.
    fn not_before_the_last(&self, at: Timestamp) -> Timestamp {
        self.legs.last().map_or(at, |leg| at.max(leg.started_at).max(leg.ended_at.unwrap_or(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::check_transitions;

    #[test]
    fn a_patrol_moves_only_as_domain_4_1_says() {
        check_transitions(
            &PatrolState::ALL.iter().map(|s| (*s, s.name())).collect::<Vec<_>>(),
            &PatrolVerb::ALL.iter().map(|v| (*v, v.name())).collect::<Vec<_>>(),
            PatrolState::next,
            &["REVIEWED", "CANCELLED", "MISSED"],
            "PLANNED   START    ACTIVE    GRID_WORKER PATROLLER SHIFT_LEAD
             PLANNED   CANCEL   CANCELLED SHIFT_LEAD DISPATCHER DUTY_OFFICER
             PLANNED   MISS     MISSED    SHIFT_LEAD DISPATCHER DUTY_OFFICER
             ACTIVE    PAUSE    PAUSED    GRID_WORKER PATROLLER SHIFT_LEAD
             ACTIVE    COMPLETE COMPLETED GRID_WORKER PATROLLER SHIFT_LEAD
             PAUSED    RESUME   ACTIVE    GRID_WORKER PATROLLER SHIFT_LEAD
             PAUSED    COMPLETE COMPLETED GRID_WORKER PATROLLER SHIFT_LEAD
             COMPLETED REVIEW   REVIEWED  DISPATCHER DUTY_OFFICER",
        );
    }

    fn walk(steps: &[(PatrolVerb, Option<PatrolMode>, i64)]) -> Patrol {
        let mut patrol = crate::fixture::patrol();
        for (verb, mode, at) in steps {
            patrol = patrol
                .apply(*verb, *mode, Role::Patroller, Timestamp::from_micros(*at))
                .expect("the walk is allowed");
        }
        patrol
    }

    #[test]
    fn legs_follow_start_pause_resume_and_complete() {
        let patrol = walk(&[
            (PatrolVerb::Start, Some(PatrolMode::Foot), 10),
            (PatrolVerb::Pause, None, 20),
            (PatrolVerb::Resume, Some(PatrolMode::Boat), 30),
            (PatrolVerb::Pause, None, 40),
            (PatrolVerb::Resume, None, 50),
            (PatrolVerb::Complete, None, 60),
        ]);
        let legs: Vec<_> = patrol
            .legs
            .iter()
            .map(|leg| (leg.mode, leg.started_at.micros(), leg.ended_at.map(Timestamp::micros)))
            .collect();
        assert_eq!(
            legs,
            [
                (Some(PatrolMode::Foot), 10, Some(20)),
                (Some(PatrolMode::Boat), 30, Some(40)),
                (Some(PatrolMode::Boat), 50, Some(60)),
            ]
        );
        assert_eq!(patrol.started_at, Some(Timestamp::from_micros(10)));
        assert_eq!(patrol.ended_at, Some(Timestamp::from_micros(60)));
    }

    #[test]
    fn coming_home_from_a_rest_does_not_lengthen_the_leg() {
        let patrol = walk(&[
            (PatrolVerb::Start, None, 10),
            (PatrolVerb::Pause, None, 20),
            (PatrolVerb::Complete, None, 30),
        ]);
        assert_eq!(patrol.legs[0].ended_at, Some(Timestamp::from_micros(20)));
        assert_eq!(patrol.ended_at, Some(Timestamp::from_micros(30)));
    }

    #[test]
    fn a_clock_set_back_makes_no_leg_end_before_it_began() {
        let patrol = walk(&[
            (PatrolVerb::Start, None, 100),
            (PatrolVerb::Pause, None, 50),
            (PatrolVerb::Resume, None, 20),
            (PatrolVerb::Complete, None, 0),
        ]);
        assert!(patrol.legs.iter().all(|leg| leg.ended_at == Some(Timestamp::from_micros(100))));
        assert_eq!(patrol.ended_at, Some(Timestamp::from_micros(100)));
    }

    #[test]
    fn a_patrol_of_too_many_legs_can_still_come_home() {
        let mut steps = vec![(PatrolVerb::Start, None, 1)];
        for i in 1..64 {
            steps.extend([(PatrolVerb::Pause, None, 2 * i), (PatrolVerb::Resume, None, 2 * i + 1)]);
        }
        steps.push((PatrolVerb::Pause, None, 200));
        let patrol = walk(&steps);
        assert_eq!(patrol.legs.len(), LEGS_MAX);
        let at = Timestamp::from_micros(201);
        let resumed = patrol.apply(PatrolVerb::Resume, None, Role::Patroller, at);
        assert_eq!(resumed, Err(Rejection::of(Reason::LimitExceeded)));
        assert!(patrol.apply(PatrolVerb::Complete, None, Role::Patroller, at).is_ok());
    }

    #[test]
    fn a_mode_comes_only_with_a_leg_that_begins() {
        let patrol = walk(&[(PatrolVerb::Start, None, 1)]);
        let paused = patrol.apply(
            PatrolVerb::Pause,
            Some(PatrolMode::Car),
            Role::Patroller,
            Timestamp::from_micros(2),
        );
        assert_eq!(paused.expect_err("refused").reason, Reason::FieldInvalid);
    }
}
