//! What `share` must answer, said a second time without its code: each clause is a list of
//! complaints, and the answer is read off the lists.

use super::super::{Decision, Leave, LeaveReason, Ruling, View, Withhold};
use crate::agreement::{Agreement, Area, Clause};
use crate::fixture::{NOW, outlines};
use crate::kernel::{GeoPoint, Lane, Sensitivity};
use crate::outline::Outline;
use crate::outline::tests::{Piece, oracle, pieces};
use crate::record::{Body, Record};
use crate::stream::{LastShown, Standing};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

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

static DRAWN: LazyLock<BTreeMap<String, Vec<Piece>>> = LazyLock::new(|| {
    outlines().into_iter().map(|(id, outline)| (id.to_string(), pieces(&outline))).collect()
});

/// Regions of the fixture's directory that are drawn.
const REGIONS: [&str; 4] = ["qianjiang", "xiaonanhai", "zhoubai", "xianfeng"];

fn place(record: &Record) -> Option<&GeoPoint> {
    match &record.body {
        Body::Event(event) => event.point.as_ref(),
        Body::CheckIn(check_in) => check_in.point.as_ref(),
        Body::SosAlert(sos) => sos.point.as_ref().or(sos.last_known.as_ref()),
        _ => None,
    }
}

fn lies(record: &Record, clause: &Clause, other: impl Fn(&str) -> bool) -> bool {
    let sos = matches!(record.body, Body::SosAlert(_));
    let inside = |place: &GeoPoint, outline: &Outline| oracle(&pieces(outline), place).1;
    match (&clause.area, place(record)) {
        (Area::Everywhere, _) => true,
        (Area::Places(names), _) => {
            let words = match &record.body {
                Body::Event(event) => &event.place,
                Body::CheckIn(check_in) => &check_in.checkpoint,
                Body::Patrol(patrol) => &patrol.route,
                _ => return sos,
            };
            names.iter().any(|name| words.contains(name))
        }
        (_, None) => sos,
        (Area::Zones(zones), Some(place)) => zones.iter().any(|zone| inside(place, &zone.outline)),
        (Area::NearParties(metres), Some(place)) => REGIONS.iter().any(|region| {
            let (distance, within) = oracle(&DRAWN[*region], place);
            other(region) && (within || distance <= f64::from(*metres))
        }),
    }
}

/// Whether the record lies far enough from every line that rounding cannot decide.
pub(super) fn is_clear(record: &Record, agreement: &Agreement) -> bool {
    let Some(place) = place(record) else { return true };
    let clear = |distance: f64, metres: f64| (distance - metres).abs() > 1.0 + metres / 2_000.0;
    let drawn =
        |metres: f64| REGIONS.iter().all(|region| clear(oracle(&DRAWN[*region], place).0, metres));
    agreement.clauses.iter().all(|clause| match &clause.area {
        Area::Zones(zones) => {
            zones.iter().all(|zone| clear(oracle(&pieces(&zone.outline), place).0, 0.0))
        }
        Area::NearParties(metres) => drawn(f64::from(*metres)) && drawn(0.0),
        Area::Everywhere | Area::Places(_) => drawn(0.0),
    })
}

fn complaints(record: &Record, clause: &Clause, agreement: &Agreement) -> BTreeSet<&'static str> {
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
    if !lies(record, clause, |region| {
        let owner = region == record.meta.owner_region.as_str();
        !owner && agreement.parties.iter().any(|party| party.region.as_str() == region)
    }) {
        complaints.insert("place");
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
    let stops = match (owner_signed, agreement.force.name()) {
        (false, _) => Some(Withhold::NotAParty),
        (true, "IN_FORCE") if agreement.ended_at > NOW => None,
        (true, _) => Some(Withhold::NotInForce),
    };
    let all: Vec<_> = agreement
        .clauses
        .iter()
        .map(|clause| (clause, complaints(record, clause, agreement)))
        .collect();
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
            (false, _) if stops.is_some() => {
                assert_eq!(Some(decision.clone()), stops.map(Decision::Nothing));
            }
            (false, false) if record.meta.expires_at <= NOW => {
                assert_eq!(decision, &Decision::Nothing(Withhold::Expired));
            }
            (true, false) => assert_eq!(decision, &Decision::Nothing(Withhold::Over)),
            _ => shows(record, clause, agreement, decision, last, over),
        }
    } else if let Some(clause) = by(&["level"]) {
        if visible {
            shows(record, clause, agreement, decision, last, true);
        } else {
            assert_eq!(decision, &Decision::Nothing(Withhold::Level));
        }
    } else if any_without(&["kind", "category", "place"]) {
        withdrawn(decision, visible, Withhold::Approval, Some(LeaveReason::Approval));
    } else if any_without(&["kind", "category"]) {
        withdrawn(decision, visible, Withhold::Place, Some(LeaveReason::Place));
    } else if any_without(&["kind"]) {
        withdrawn(decision, visible, Withhold::Category, Some(LeaveReason::Category));
    } else {
        withdrawn(decision, visible, Withhold::Kind, Some(LeaveReason::Category));
    }
    counts(record, last, decision);
}

/// Holds what is explained against what was decided, and the clause it names against its complaints.
pub(super) fn check_ruling(
    record: &Record,
    agreement: &Agreement,
    last: Option<&LastShown>,
    decision: &Decision,
    ruling: &Ruling<'_>,
) {
    let visible = last.is_some_and(|last| last.standing == Standing::Shown);
    match decision {
        Decision::Nothing(why) => assert_eq!(ruling.withhold, Some(*why)),
        Decision::Leave(leave) => {
            assert_eq!(ruling.withhold.and_then(Withhold::leave_reason), Some(leave.reason));
        }
        Decision::Show(View { last: true, .. }) => {
            assert!(matches!(ruling.withhold, Some(Withhold::Level | Withhold::Over)));
        }
        Decision::Show(_) => {
            assert!(ruling.withhold.is_none() || (visible && record.meta.expires_at <= NOW));
        }
    }
    let Some((index, clause)) = ruling.clause else {
        assert!(ruling.withhold.is_some());
        return;
    };
    assert_eq!(Some(clause), agreement.clauses.get(index));
    let found = complaints(record, clause, agreement);
    let word = match ruling.withhold {
        Some(Withhold::Category) => "category",
        Some(Withhold::Place) => "place",
        Some(Withhold::Approval) => "approval",
        Some(Withhold::Level) => "level",
        _ => return assert_eq!(found, BTreeSet::new()),
    };
    let order = ["kind", "category", "place", "approval", "level"];
    assert_eq!(order.iter().find(|word| found.contains(*word)), Some(&word));
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
    agreement: &Agreement,
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
        .filter(|field| !hidden(record, clause, field))
        .collect();
    assert_eq!(view.fields.iter().copied().collect::<BTreeSet<_>>(), expected);
    assert!(view.withheld.iter().all(|field| !expected.contains(field)));
    coarse(record, clause, view);
    let kept =
        agreement.retention_days.map_or(i64::MAX, |days| NOW.plus_days(days.into()).micros());
    assert_eq!(view.expires_at.micros(), record.meta.expires_at.micros().min(kept));
}

/// Whether the field says more of the place than the clause lets be seen, and cannot say less.
fn hidden(record: &Record, clause: &Clause, field: &str) -> bool {
    let drawn = |point: &GeoPoint| REGIONS.iter().any(|region| oracle(&DRAWN[*region], point).1);
    let lost = |point: &Option<GeoPoint>| point.as_ref().is_some_and(|point| !drawn(point));
    clause.precision.name() == "TOWNSHIP"
        && match (field, &record.body) {
            ("place", Body::Event(_)) | ("checkpoint", _) | ("route", _) => true,
            ("point", Body::Event(event)) => lost(&event.point),
            ("point", Body::CheckIn(check_in)) => lost(&check_in.point),
            ("point", Body::SosAlert(sos)) => lost(&sos.point),
            ("last_known", Body::SosAlert(sos)) => lost(&sos.last_known),
            _ => false,
        }
}

/// Every place that is shown is the middle of a cell or of a region, and not the place that was measured.
fn coarse(record: &Record, clause: &Clause, view: &View) {
    let Some(body) = &view.body else {
        assert_eq!(clause.precision.name(), "EXACT");
        return;
    };
    assert_eq!(body.kind(), record.body.kind());
    for (name, point) in body.points() {
        let (_, before) = record.body.points().find(|(of, _)| *of == name).expect("it was there");
        let cells = match clause.precision.name() {
            "100_M" => 1_000.0,
            "1_KM" => 100.0,
            "TOWNSHIP" => {
                assert!(point.accuracy_m > 1_000.0);
                continue;
            }
            other => panic!("{other} changes nothing"),
        };
        for (shown, measured) in [(point.lon, before.lon), (point.lat, before.lat)] {
            assert!(((shown * cells).fract() - 0.5).abs() < 1e-6, "{shown} is no middle");
            assert!((shown - measured).abs() <= 0.5 / cells + 1e-9);
        }
    }
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
