//! What `share` must answer, said a second time without its code: each clause is a list of
//! complaints, and the answer is read off the lists.

use super::super::{Decision, Leave, LeaveReason, View, Withhold};
use crate::agreement::{Agreement, Clause};
use crate::fixture::NOW;
use crate::kernel::{Lane, Sensitivity};
use crate::record::{Body, Record};
use crate::stream::{LastShown, Standing};
use std::collections::BTreeSet;

const SUMMARY: &str = "domain category emergency_class level place point source affected_count urgent \
                       deadline_time state handling_unit";

/// Fields by kind and grant; `None` where the grant has nothing to say of the kind.
fn fields(record: &Record, clause: &Clause) -> Option<String> {
    match (record.body.kind().name(), clause.grant.name()) {
        ("PATROL", "PATROL_SUMMARY") => Some(
            "shift_id route route_kind member_count partner_units legs state start_time end_time"
                .to_owned(),
        ),
        ("CHECK_IN", "PATROL_SUMMARY") => {
            Some("patrol_id checkpoint method point distance_m quality".to_owned())
        }
        ("EVENT", "EVENT_SUMMARY" | "RIVER_FOREST") => Some(SUMMARY.to_owned()),
        ("EVENT", "EVENT_DETAIL") => Some(format!("{SUMMARY} text")),
        ("SOS_ALERT", "SOS") => Some(
            "point last_known trigger state acknowledge_time acknowledge_unit patrol_id remark"
                .to_owned(),
        ),
        _ => None,
    }
}

fn state(record: &Record) -> &'static str {
    match &record.body {
        Body::Event(event) => event.state.name(),
        Body::Patrol(patrol) => patrol.state.name(),
        Body::SosAlert(sos) => sos.state.name(),
        _ => "NONE",
    }
}

fn complaints(record: &Record, clause: &Clause) -> BTreeSet<&'static str> {
    let mut complaints = BTreeSet::new();
    if fields(record, clause).is_none() {
        complaints.insert("kind");
    }
    let code = match &record.body {
        Body::Event(event) => event.category.clone(),
        Body::Observation(observation) => observation.category.clone(),
        _ => "NONE".to_owned(),
    };
    let river = "RIVER_FOUR_DISORDERS FOREST_DAMAGE POACHING FOREST_FIRE POLLUTION";
    if clause.grant.name() == "RIVER_FOREST" && !river.split(' ').any(|listed| listed == code) {
        complaints.insert("category");
    }
    if !clause.categories.is_empty() && !clause.categories.contains(&code) {
        complaints.insert("category");
    }
    let waits = ["REPORTED", "REJECTED"].contains(&state(record));
    if clause.release.name() == "ON_ACCEPT" && waits && matches!(record.body, Body::Event(_)) {
        complaints.insert("approval");
    }
    if let Some(min) = clause.min_level {
        let level = if let Body::Event(event) = &record.body { event.level } else { None };
        if level.map_or(99, |level| level.code()) > min.code() {
            complaints.insert("level");
        }
    }
    complaints
}

/// Whether the parties are where the sensitivity lets the record go; the districts are those of the
/// fixture.
fn travels(record: &Record, agreement: &Agreement) -> bool {
    let home = ["qianjiang", "xiaonanhai", "zhoubai"];
    agreement.parties.iter().all(|party| {
        let itself = party.region == record.meta.owner_region;
        match record.meta.sensitivity {
            Sensitivity::Public | Sensitivity::Region => true,
            Sensitivity::Parties => {
                itself || record.meta.sensitivity_parties.contains(&party.region)
            }
            Sensitivity::District => home.contains(&party.region.as_str()),
            Sensitivity::Local => false,
        }
    })
}

/// Holds a decision against the oracle.
pub(super) fn check(
    record: &Record,
    agreement: &Agreement,
    last: Option<&LastShown>,
    decision: &Decision,
) {
    let owner_signed = agreement.parties.iter().any(|p| p.region.as_str() == "xiaonanhai");
    if !owner_signed || agreement.ended_at <= NOW {
        let why = if owner_signed { Withhold::NotInForce } else { Withhold::NotAParty };
        assert_eq!(decision, &Decision::Nothing(why));
        return;
    }
    let all: Vec<_> =
        agreement.clauses.iter().map(|clause| (clause, complaints(record, clause))).collect();
    let by = |wanted: &[&'static str]| {
        all.iter().find(|(_, found)| found.iter().eq(wanted.iter())).map(|(clause, _)| *clause)
    };
    let any_without = |words: &[&'static str]| {
        all.iter().any(|(_, found)| words.iter().all(|word| !found.contains(word)))
    };
    let family = matches!(&record.body, Body::Event(e) if ["FAMILY", "MEDICAL"].contains(&e.category.as_str()));
    let over = [
        "CLOSED",
        "EVALUATED",
        "CANCELLED",
        "REJECTED",
        "COMPLETED",
        "REVIEWED",
        "MISSED",
        "RESOLVED",
    ]
    .contains(&state(record));
    let visible = last.is_some_and(|last| last.standing == Standing::Shown);

    if !travels(record, agreement) {
        withdrawn(decision, visible, Withhold::Sensitivity, Some(LeaveReason::Sensitivity));
    } else if family {
        withdrawn(decision, visible, Withhold::DisputeKind, Some(LeaveReason::Category));
    } else if let Some(clause) = by(&[]) {
        match (over, visible) {
            (false, false) if record.meta.expires_at <= NOW => {
                assert_eq!(decision, &Decision::Nothing(Withhold::Expired));
            }
            (true, false) => assert_eq!(decision, &Decision::Nothing(Withhold::Over)),
            _ => shows(record, clause, decision, last, over),
        }
    } else if let Some(clause) = by(&["level"]) {
        if visible {
            shows(record, clause, decision, last, true);
        } else {
            assert_eq!(decision, &Decision::Nothing(Withhold::Level));
        }
    } else if any_without(&["kind", "category"]) {
        withdrawn(decision, visible, Withhold::Approval, Some(LeaveReason::Approval));
    } else if any_without(&["kind"]) {
        withdrawn(decision, visible, Withhold::Category, Some(LeaveReason::Category));
    } else {
        withdrawn(decision, visible, Withhold::Kind, Some(LeaveReason::Category));
    }
    counts(record, last, decision);
}

fn withdrawn(decision: &Decision, visible: bool, why: Withhold, reason: Option<LeaveReason>) {
    match decision {
        Decision::Leave(leave) => assert_eq!((visible, Some(leave.reason)), (true, reason)),
        other => assert_eq!((visible, other), (false, &Decision::Nothing(why))),
    }
}

fn shows(
    record: &Record,
    clause: &Clause,
    decision: &Decision,
    last: Option<&LastShown>,
    is_last: bool,
) {
    let Decision::Show(view) = decision else { panic!("a view of {record:?}, not {decision:?}") };
    assert_eq!(view.last, is_last, "after {last:?}");
    let unverified =
        matches!(record.body, Body::Event(_)) && ["REPORTED", "REJECTED"].contains(&state(record));
    assert_eq!(view.unverified, unverified);
    let granted = fields(record, clause).expect("the clause grants the kind");
    let expected: BTreeSet<&str> = granted
        .split_whitespace()
        .filter(|field| clause.fields.is_empty() || clause.fields.iter().any(|f| f == field))
        .collect();
    assert_eq!(view.fields.iter().copied().collect::<BTreeSet<_>>(), expected);
    assert!(view.withheld.iter().all(|field| !expected.contains(field)));
}

fn counts(record: &Record, last: Option<&LastShown>, decision: &Decision) {
    let (Decision::Show(View { share_n, lane, .. }) | Decision::Leave(Leave { share_n, lane, .. })) =
        decision
    else {
        return;
    };
    assert_eq!(*share_n, 1 + last.map_or(0, |last| last.share_n));
    let grave = matches!(&record.body, Body::Event(e) if e.level.is_some_and(|l| l.code() <= 2));
    let own = match record.body {
        Body::SosAlert(_) => Lane::Alert,
        Body::TrackBatch(_) => Lane::Bulk,
        _ if grave => Lane::Alert,
        _ => Lane::Routine,
    };
    let before = last.filter(|last| last.standing == Standing::Shown).map(|last| last.lane);
    let expected = [Some(own), before].into_iter().flatten().min_by_key(|lane| lane.code());
    assert_eq!(Some(*lane), expected);
}
