//! What leaves a region: one pure function of the record, the agreement, and what was shown before.
//! It decides and redacts before an entry is numbered, so a hole in a stream always means loss and
//! nobody can ask for more.

mod fields;
mod place;

pub use fields::fields;

use crate::agreement::{Agreement, Clause, Grant, Precision, Release};
use crate::code_table;
use crate::directory::Directory;
use crate::guard;
use crate::kernel::{EmergencyLevel, Kind, Lane, Sensitivity, Timestamp};
use crate::record::{Body, Record};
use crate::risk::{KEPT_HOME, RIVER_AND_FOREST};
use crate::stream::{LastShown, Standing};
use fields::granted_fields;

/// What becomes of a revision under an agreement.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// No entry.
    Nothing(Withhold),
    /// A view is shown.
    Show(View),
    /// What was shown is withdrawn.
    Leave(Leave),
}

/// What the parties see of a revision.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Counts what was shown of the record under the agreement, from 1.
    pub share_n: u64,
    /// Shown for the last time: it no longer qualifies by level or state.
    pub last: bool,
    /// 未核实: no officer of the owner has accepted it.
    pub unverified: bool,
    /// The lane it goes by.
    pub lane: Lane,
    /// Fields of the payload that leave, in proto names.
    pub fields: Vec<&'static str>,
    /// All other fields of the payload.
    pub withheld: Vec<&'static str>,
    /// The body with its places made coarse; `None` where it leaves as it is.
    pub body: Option<Box<Body>>,
    /// When the parties delete it at the latest.
    pub expires_at: Timestamp,
}

/// A record is no longer shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Counts on from the views.
    pub share_n: u64,
    /// The lane it goes by: that of the view before, or a higher one.
    pub lane: Lane,
    /// Why.
    pub reason: LeaveReason,
}

code_table! {
    /// Why a record is no longer shown.
    LeaveReason {
        /// Its category is no longer one of the agreement's.
        Category = 1 "CATEGORY",
        /// Its sensitivity was raised.
        Sensitivity = 2 "SENSITIVITY",
        /// Its approval was taken back, or is now asked for.
        Approval = 3 "APPROVAL",
        /// It does not lie where the agreement holds.
        Place = 4 "PLACE",
        /// It is called off or over, and the party is none of the version in force.
        Over = 5 "OVER",
        /// Another region owns it now.
        Transferred = 6 "TRANSFERRED",
    }
}

code_table! {
    /// Why a revision is withheld, but for the first two in the order in which it is asked. Where several
    /// clauses refuse, the one that comes furthest decides.
    Withhold {
        /// It would leave, but the owner is no party.
        NotAParty = 1 "NOT_A_PARTY",
        /// It would leave, but the agreement is not in force.
        NotInForce = 2 "NOT_IN_FORCE",
        /// It may not travel as far as the parties are.
        Sensitivity = 3 "SENSITIVITY",
        /// Disputes of this kind never leave.
        DisputeKind = 4 "DISPUTE_KIND",
        /// No clause grants the kind.
        Kind = 5 "KIND",
        /// No clause grants the category.
        Category = 6 "CATEGORY",
        /// It does not lie where the clause holds, or nobody knows where it lies.
        Place = 7 "PLACE",
        /// No officer has accepted it.
        Approval = 8 "APPROVAL",
        /// It is below the lowest level granted.
        Level = 9 "LEVEL",
        /// It is over: closed, completed, resolved, called off.
        Over = 10 "OVER",
        /// Its time to be kept has passed.
        Expired = 11 "EXPIRED",
    }
}

impl Withhold {
    /// How a record that was shown takes its leave for this reason; `None` where it does not.
    const fn leave_reason(self) -> Option<LeaveReason> {
        match self {
            Self::Sensitivity => Some(LeaveReason::Sensitivity),
            Self::DisputeKind | Self::Kind | Self::Category => Some(LeaveReason::Category),
            Self::Approval => Some(LeaveReason::Approval),
            Self::Place => Some(LeaveReason::Place),
            Self::NotAParty | Self::NotInForce | Self::Level | Self::Over | Self::Expired => None,
        }
    }
}

impl Decision {
    /// What to remember of it, decided under this version after `before`; `None` leaves the memory as it is.
    pub fn shown(&self, before: Option<&LastShown>, version: u32) -> Option<LastShown> {
        let (share_n, lane, standing) = match self {
            Self::Nothing(_) => return None,
            Self::Show(View { share_n, lane, last: false, .. }) => (share_n, lane, Standing::Shown),
            Self::Show(View { share_n, lane, .. }) => (share_n, lane, Standing::Last),
            Self::Leave(Leave { share_n, lane, .. }) => (share_n, lane, Standing::Left),
        };
        let shown = before.filter(|before| before.standing == Standing::Shown);
        let since_version = shown.map_or(version, |shown| shown.since_version.min(version));
        Some(LastShown { share_n: *share_n, lane: *lane, standing, since_version })
    }
}

/// Decides what the parties of the agreement see of this revision. `last` is what they were shown of
/// the record before, `now` the origin's clock at numbering.
///
/// A record that falls out by level or because it is over is shown once more as the last; one that
/// falls out by category, place, sensitivity or approval leaves without its content. After either there is
/// nothing until it qualifies again. Where the agreement is not in force, or not the owner's any more, nothing
/// new leaves, and what was shown is called off and closed all the same.
pub fn share(
    record: &Record,
    agreement: &Agreement,
    directory: &Directory,
    last: Option<&LastShown>,
    now: Timestamp,
) -> Decision {
    let share_n = last.map_or(1, |last| last.share_n.saturating_add(1));
    let shown = last.filter(|last| last.standing == Standing::Shown);
    // What follows a view goes at least as fast as the view did (P14).
    let lane = shown.map_or(lane(record), |shown| shown.lane.min(lane(record)));
    let expires_at = agreement.retention_days.map_or(record.meta.expires_at, |days| {
        record.meta.expires_at.min(now.plus_days(i64::from(days)))
    });
    let show = |clause: &Clause, last| {
        let (fields, withheld, body) = view(record, clause, directory);
        let unverified = !record.body.is_accepted();
        Decision::Show(View { share_n, last, unverified, lane, fields, withheld, body, expires_at })
    };
    let verdict = judge(record, agreement, directory);
    if let (Verdict::In(_), Some(why)) = (&verdict, closing(record, agreement, now)) {
        return Decision::Nothing(why);
    }
    match (verdict, shown) {
        (Verdict::In(_), None) if record.meta.expires_at <= now => {
            Decision::Nothing(Withhold::Expired)
        }
        (Verdict::In(clause), _) => show(clause, false),
        (Verdict::Gone(clause, _), Some(_)) => show(clause, true),
        (Verdict::Gone(_, why), None) | (Verdict::Out(_, why), None) => Decision::Nothing(why),
        (Verdict::Out(_, why), Some(_)) => match why.leave_reason() {
            Some(reason) => Decision::Leave(Leave { share_n, lane, reason }),
            None => Decision::Nothing(why),
        },
    }
}

/// What the terms say of a revision, without regard to what was shown before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling<'a> {
    /// The clause that lets it leave; where none does, the one by which it came furthest.
    pub clause: Option<(usize, &'a Clause)>,
    /// Why it does not leave; `None` where it does.
    pub withhold: Option<Withhold>,
}

/// Says which clause [`share`] goes by, and why.
pub fn explain<'a>(
    record: &Record,
    agreement: &'a Agreement,
    directory: &Directory,
    now: Timestamp,
) -> Ruling<'a> {
    let (clause, withhold) = match judge(record, agreement, directory) {
        Verdict::In(clause) => (Some(clause), closing(record, agreement, now)),
        Verdict::Gone(clause, why) => (Some(clause), Some(why)),
        Verdict::Out(clause, why) => (clause, Some(why)),
    };
    let expired = (record.meta.expires_at <= now).then_some(Withhold::Expired);
    let clause = clause.and_then(|clause| {
        agreement.clauses.iter().enumerate().find(|(_, of)| std::ptr::eq(*of, clause))
    });
    Ruling { clause, withhold: withhold.or(expired) }
}

/// Whether a revision qualifies, without regard to what was shown before.
enum Verdict<'a> {
    /// By this clause.
    In(&'a Clause),
    /// It would by this clause, but for its level or because it is over.
    Gone(&'a Clause, Withhold),
    /// It does not; by this clause it came furthest.
    Out(Option<&'a Clause>, Withhold),
}

/// Why nothing new leaves, whatever it is.
fn closing(record: &Record, agreement: &Agreement, now: Timestamp) -> Option<Withhold> {
    if !agreement.has_party(&record.meta.owner_region) {
        Some(Withhold::NotAParty)
    } else if !agreement.in_force(now) {
        Some(Withhold::NotInForce)
    } else {
        None
    }
}

fn judge<'a>(record: &Record, agreement: &'a Agreement, directory: &Directory) -> Verdict<'a> {
    if let Some(why) = kept_home(record, agreement, directory) {
        return Verdict::Out(None, why);
    }
    let mut verdict = Verdict::Out(None, Withhold::Kind);
    let mut furthest = Withhold::Kind;
    for clause in agreement.clauses.iter().filter(|clause| clause.grant != Grant::Transfer) {
        match obstacle(record, clause, agreement, directory) {
            None if record.body.is_over() => return Verdict::Gone(clause, Withhold::Over),
            None => return Verdict::In(clause),
            Some(why) if why > furthest => {
                furthest = why;
                verdict = if why == Withhold::Level {
                    Verdict::Gone(clause, why)
                } else {
                    Verdict::Out(Some(clause), why)
                };
            }
            Some(_) => {}
        }
    }
    verdict
}

/// What keeps the record at home whatever the clauses grant.
fn kept_home(record: &Record, agreement: &Agreement, directory: &Directory) -> Option<Withhold> {
    let category = record.body.category();
    if !may_travel(record, agreement, directory) {
        Some(Withhold::Sensitivity)
    } else if category.is_some_and(|category| KEPT_HOME.contains(&category)) {
        Some(Withhold::DisputeKind)
    } else {
        None
    }
}

/// Why the agreement does not let the record be handed over to a party; `None` where it does. It goes whole, so a
/// clause says which records, not what of them.
pub fn may_transfer(
    record: &Record,
    agreement: &Agreement,
    directory: &Directory,
    now: Timestamp,
) -> Option<Withhold> {
    let kept = closing(record, agreement, now).or_else(|| kept_home(record, agreement, directory));
    if let Some(why) = kept {
        return Some(why);
    }
    if record.body.is_over() {
        return Some(Withhold::Over);
    }
    if record.meta.expires_at <= now {
        return Some(Withhold::Expired);
    }
    let mut furthest = Withhold::Kind;
    for clause in agreement.clauses.iter().filter(|clause| clause.grant == Grant::Transfer) {
        match obstacle(record, clause, agreement, directory) {
            None => return None,
            Some(why) => furthest = furthest.max(why),
        }
    }
    Some(furthest)
}

/// What keeps the record from leaving by this clause. Level comes last: only a clause that would let
/// the record pass but for its level may show it once more.
fn obstacle(
    record: &Record,
    clause: &Clause,
    agreement: &Agreement,
    directory: &Directory,
) -> Option<Withhold> {
    let body = &record.body;
    let category = body.category();
    let listed = |list: &[String]| {
        list.is_empty() || list.iter().any(|code| category == Some(code.as_str()))
    };
    let by_grant = clause.grant != Grant::RiverForest
        || category.is_some_and(|category| RIVER_AND_FOREST.contains(&category));
    let covers = if clause.grant == Grant::Transfer {
        body.kind() == Kind::Event
    } else {
        !granted_fields(body.kind(), clause.grant).is_empty()
    };
    if !covers {
        Some(Withhold::Kind)
    } else if !by_grant || !listed(&clause.categories) {
        Some(Withhold::Category)
    } else if !place::holds(record, clause, agreement, directory) {
        Some(Withhold::Place)
    } else if clause.release == Release::OnAccept && !body.is_accepted() {
        Some(Withhold::Approval)
    } else if clause.min_level.is_some_and(|min| body.level().is_none_or(|level| level > min)) {
        Some(Withhold::Level)
    } else {
        None
    }
}

/// Whether the sensitivity lets the record travel to every party.
fn may_travel(record: &Record, agreement: &Agreement, directory: &Directory) -> bool {
    let owner = &record.meta.owner_region;
    let mut others = agreement.parties.iter().map(|p| &p.region).filter(|region| *region != owner);
    match record.meta.sensitivity {
        Sensitivity::Public | Sensitivity::Region => true,
        Sensitivity::Parties => {
            others.all(|region| record.meta.sensitivity_parties.contains(region))
        }
        Sensitivity::District => {
            others.all(|region| directory.district(region) == directory.district(owner))
        }
        Sensitivity::Local => false,
    }
}

fn lane(record: &Record) -> Lane {
    match (record.body.kind(), record.body.level()) {
        (Kind::SosAlert, _) | (Kind::Event, Some(EmergencyLevel::I | EmergencyLevel::II)) => {
            Lane::Alert
        }
        (Kind::TrackBatch, _) => Lane::Bulk,
        _ => Lane::Routine,
    }
}

/// The fields of the grant, narrowed by the clause, and all others; the body, where its places are made
/// coarse. Texts that name a person stay behind: a record may be older than the guard. So do places that
/// cannot be made coarse, and places in words where the ground is shown by the township.
fn view(
    record: &Record,
    clause: &Clause,
    directory: &Directory,
) -> (Vec<&'static str>, Vec<&'static str>, Option<Box<Body>>) {
    let Record { body, .. } = record;
    let coarse = (clause.precision != Precision::Exact)
        .then(|| body.with_points(|point| place::coarse(point, clause.precision, directory)))
        .map(Box::new);
    let lost = |field: &str| {
        coarse.as_ref().is_some_and(|coarse| {
            let has = |body: &Body| body.points().any(|(name, _)| name == field);
            let words = body.place().is_some_and(|(name, _)| name == field);
            (has(body) && !has(coarse)) || (words && clause.precision == Precision::Township)
        })
    };
    // In the order of the kind's fields, as a test holds.
    let mut granted = granted_fields(body.kind(), clause.grant).iter().peekable();
    let texts = body.texts();
    let mut leaves = |field: &str| {
        granted.next_if(|granted| **granted == field).is_some()
            && (clause.fields.is_empty() || clause.fields.iter().any(|listed| listed == field))
            && !texts.iter().any(|(name, text)| *name == field && guard::find(text).is_some())
            && !lost(field)
    };
    let all = fields(body.kind());
    let (mut fields, mut withheld) = (Vec::with_capacity(all.len()), Vec::new());
    for &field in all {
        if leaves(field) { &mut fields } else { &mut withheld }.push(field);
    }
    (fields, withheld, coarse)
}

#[cfg(test)]
mod tests;
