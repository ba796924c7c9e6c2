//! State machines as tables, so that rules, authorisation and diagrams come from one place.

use super::{Reason, Role};

/// A row of a state machine: in the first state these roles may do the verb, and the last state follows.
pub type Transition<S, V> = (S, V, &'static [Role], S);

/// Who is out in the field.
pub const FIELD: &[Role] = &[Role::GridWorker, Role::Patroller, Role::ShiftLead];
/// Who sits at the duty desk.
pub const DESK: &[Role] = &[Role::Dispatcher, Role::DutyOfficer];
/// Who leads: the desk, and the lead of a shift.
pub const LEAD_AND_DESK: &[Role] = &[Role::ShiftLead, Role::Dispatcher, Role::DutyOfficer];
/// Everybody who works on patrols and events.
pub const FIELD_AND_DESK: &[Role] =
    &[Role::GridWorker, Role::Patroller, Role::ShiftLead, Role::Dispatcher, Role::DutyOfficer];

/// The state that follows.
///
/// # Errors
/// [`Reason::StateForbidsVerb`] where the table has no such row, [`Reason::RoleForbidden`] where it
/// has one for other roles.
pub fn next_state<S: Copy + PartialEq, V: Copy + PartialEq>(
    table: &[Transition<S, V>],
    state: S,
    verb: V,
    role: Role,
) -> Result<S, Reason> {
    let row = table.iter().find(|(from, by, ..)| *from == state && *by == verb);
    let (_, _, roles, next) = row.ok_or(Reason::StateForbidsVerb)?;
    if roles.contains(&role) { Ok(*next) } else { Err(Reason::RoleForbidden) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fmt::Debug;

    /// Holds a state machine against rows written down independently, one a line: state, verb, next
    /// state, roles. The first state listed is the birth; `finals` are the only dead ends.
    pub(crate) fn check<S: Copy + Debug + PartialEq, V: Copy + Debug>(
        states: &[(S, &'static str)],
        verbs: &[(V, &'static str)],
        next: impl Fn(S, V, Role) -> Result<S, Reason>,
        finals: &[&str],
        oracle: &str,
    ) {
        let rows: Vec<Vec<&str>> =
            oracle.lines().map(|line| line.split_whitespace().collect()).collect();
        let rows: Vec<_> = rows.iter().filter(|row: &&Vec<&str>| !row.is_empty()).collect();
        for (state, state_name) in states {
            for (verb, verb_name) in verbs {
                let row = rows.iter().find(|row| row[0] == *state_name && row[1] == *verb_name);
                for role in Role::ALL {
                    let expected = match row {
                        None => Err(Reason::StateForbidsVerb),
                        Some(row) if !row[3..].contains(&role.name()) => Err(Reason::RoleForbidden),
                        Some(row) => {
                            Ok(states.iter().find(|(_, name)| *name == row[2]).expect("a state").0)
                        }
                    };
                    assert_eq!(next(*state, *verb, *role), expected, "{state:?} {verb:?} {role:?}");
                }
            }
        }
        let mut reached = BTreeSet::from([states[0].1]);
        for _ in states {
            reached.extend(
                rows.iter().filter(|r| reached.contains(r[0])).map(|r| r[2]).collect::<Vec<_>>(),
            );
        }
        let all: BTreeSet<_> = states.iter().map(|(_, name)| *name).collect();
        assert_eq!(reached, all, "every state is reached");
        let left: BTreeSet<_> = rows.iter().map(|row| row[0]).collect();
        let ends: BTreeSet<_> = all.difference(&left).copied().collect();
        assert_eq!(ends, finals.iter().copied().collect(), "only final states are dead ends");
    }
}
