//! Goal: nothing leaves that no clause lets leave, and whatever was shown is taken back when it must
//! be. Method: a table for each rule, and random records under random agreements against an oracle
//! that is written as one list of sentences.

use super::fields::GRANTS;
use super::*;
use crate::agreement::{Area, Force, Zone};
use crate::fixture::{
    NOW, agreement, check_in, clause, directory, event, observation, outlines, patrol, point,
    record, region, shift, sos, track_batch,
};
use crate::kernel::{GeoPoint, RegionId};
use crate::outline::Outline;
use crate::patrol::{CheckIn, Patrol, PatrolState, SosAlert, SosState};
use crate::record::Body;
use crate::risk::{CATEGORIES, Event, EventDomain, EventState};
use proptest::prelude::*;

mod closing;
mod oracle;
mod place;

fn pair(clauses: Vec<Clause>) -> Agreement {
    agreement(&["daluba", "xiaonanhai"], clauses)
}

fn event_in(state: EventState) -> Event {
    Event { state, ..event() }
}

fn decide(record: &Record, agreement: &Agreement, last: Option<LastShown>) -> Decision {
    share(record, agreement, &directory(), last.as_ref(), NOW)
}

fn shown(lane: Lane) -> Option<LastShown> {
    Some(LastShown { share_n: 4, lane, standing: Standing::Shown, since_version: 1 })
}

fn view_of(decision: Decision) -> View {
    match decision {
        Decision::Show(view) => view,
        other => panic!("a view, not {other:?}"),
    }
}

fn nothing(why: Withhold) -> Decision {
    Decision::Nothing(why)
}

#[test]
fn nothing_leaves_without_an_agreement_in_force_with_the_owner() {
    let record = record(Body::Event(event()));
    let clauses = vec![clause(Grant::EventSummary)];
    let mut later = pair(clauses.clone());
    later.started_at = NOW.plus_millis(1);
    let mut ended = pair(clauses.clone());
    ended.ended_at = NOW;
    let others = agreement(&["daluba", "zhoubai"], clauses.clone());
    for last in [None, shown(Lane::Routine)] {
        assert_eq!(decide(&record, &later, last), nothing(Withhold::NotInForce));
        assert_eq!(decide(&record, &ended, last), nothing(Withhold::NotInForce));
        assert_eq!(decide(&record, &others, last), nothing(Withhold::NotAParty));
    }
    assert_eq!(view_of(decide(&record, &pair(clauses), None)).share_n, 1);
}

#[test]
fn each_kind_leaves_only_by_its_grants() {
    let bodies = [
        (Body::Shift(shift()), vec![]),
        (Body::Patrol(patrol()), vec![Grant::PatrolSummary]),
        (Body::CheckIn(check_in()), vec![Grant::PatrolSummary]),
        (Body::TrackBatch(track_batch()), vec![]),
        (Body::Observation(observation()), vec![]),
        (Body::Event(event()), vec![Grant::EventSummary, Grant::EventDetail]),
        (Body::SosAlert(sos()), vec![Grant::Sos]),
    ];
    for (body, grants) in bodies {
        let record = record(body);
        for grant in Grant::ALL {
            let decision = decide(&record, &pair(vec![clause(*grant)]), None);
            let shows = matches!(decision, Decision::Show(_));
            assert_eq!(shows, grants.contains(grant), "{:?} {grant:?}", record.meta.kind);
        }
    }
}

#[test]
fn river_and_forest_are_five_categories() {
    let agreement = pair(vec![clause(Grant::RiverForest)]);
    let by_grant = |code: &str| {
        let record = record(Body::Event(Event { category: code.to_owned(), ..event() }));
        matches!(decide(&record, &agreement, None), Decision::Show(_))
    };
    let passing: Vec<_> =
        CATEGORIES.iter().map(|category| category.code).filter(|code| by_grant(code)).collect();
    assert_eq!(
        passing,
        ["FOREST_FIRE", "RIVER_FOUR_DISORDERS", "FOREST_DAMAGE", "POLLUTION", "POACHING"]
    );
}

#[test]
fn the_category_list_narrows_the_grant() {
    let listed = |codes: &[&str]| {
        let categories = codes.iter().map(|code| (*code).to_owned()).collect();
        pair(vec![Clause { categories, ..clause(Grant::EventSummary) }])
    };
    let record = record(Body::Event(event()));
    assert!(matches!(decide(&record, &listed(&["GEOLOGICAL"]), None), Decision::Show(_)));
    assert!(matches!(decide(&record, &listed(&[]), None), Decision::Show(_)));
    let other = listed(&["FLASH_FLOOD"]);
    assert_eq!(decide(&record, &other, None), nothing(Withhold::Category));
    let leave = Leave { share_n: 5, lane: Lane::Routine, reason: LeaveReason::Category };
    assert_eq!(decide(&record, &other, shown(Lane::Routine)), Decision::Leave(leave));
    let ungranted = pair(vec![clause(Grant::Sos)]);
    assert_eq!(decide(&record, &ungranted, shown(Lane::Routine)), Decision::Leave(leave));
}

#[test]
fn a_level_passes_from_the_lowest_granted_up() {
    use EmergencyLevel::{I, II, III, IV};
    for (level, min_level, passes) in [
        (Some(I), Some(II), true),
        (Some(II), Some(II), true),
        (Some(III), Some(II), false),
        (Some(IV), Some(IV), true),
        (None, Some(IV), false),
        (None, None, true),
        (Some(IV), None, true),
    ] {
        let record = record(Body::Event(Event { level, ..event() }));
        let agreement = pair(vec![Clause { min_level, ..clause(Grant::EventSummary) }]);
        let decision = decide(&record, &agreement, None);
        if passes {
            assert!(!view_of(decision).last);
        } else {
            assert_eq!(decision, nothing(Withhold::Level));
            assert!(view_of(decide(&record, &agreement, shown(Lane::Routine))).last);
        }
    }
    let min_level = Some(IV);
    let agreement = pair(vec![Clause { min_level, ..clause(Grant::Sos) }]);
    let record = record(Body::SosAlert(sos()));
    assert_eq!(decide(&record, &agreement, None), nothing(Withhold::Level));
}

#[test]
fn on_accept_waits_for_an_officer_and_at_once_says_unverified() {
    let release = Release::OnAccept;
    let waiting = pair(vec![Clause { release, ..clause(Grant::EventSummary) }]);
    let at_once = pair(vec![clause(Grant::EventSummary)]);
    let reported = record(Body::Event(event_in(EventState::Reported)));
    let accepted = record(Body::Event(event_in(EventState::Accepted)));
    assert_eq!(decide(&reported, &waiting, None), nothing(Withhold::Approval));
    let leave = Leave { share_n: 5, lane: Lane::Routine, reason: LeaveReason::Approval };
    assert_eq!(decide(&reported, &waiting, shown(Lane::Routine)), Decision::Leave(leave));
    assert!(view_of(decide(&reported, &at_once, None)).unverified);
    for agreement in [&waiting, &at_once] {
        assert!(!view_of(decide(&accepted, agreement, None)).unverified);
    }
    let waiting = pair(vec![Clause { release, ..clause(Grant::Sos) }]);
    assert!(!view_of(decide(&record(Body::SosAlert(sos())), &waiting, None)).unverified);
}

#[test]
fn sensitivity_is_asked_before_any_clause() {
    let grants = || Grant::ALL.iter().map(|grant| clause(*grant)).collect();
    let abroad = agreement(&["daluba", "xiaonanhai"], grants());
    let at_home = agreement(&["qianjiang", "xiaonanhai", "zhoubai"], grants());
    let mixed = agreement(&["daluba", "qianjiang", "xiaonanhai"], grants());
    let stranger = agreement(&["unknown", "xiaonanhai"], grants());
    let named = vec![region("daluba"), region("qianjiang")];
    for (sensitivity, parties, agreement, passes) in [
        (Sensitivity::Public, vec![], &abroad, true),
        (Sensitivity::Region, vec![], &abroad, true),
        (Sensitivity::District, vec![], &abroad, false),
        (Sensitivity::District, vec![], &mixed, false),
        (Sensitivity::District, vec![], &stranger, false),
        (Sensitivity::District, vec![], &at_home, true),
        (Sensitivity::Parties, vec![], &abroad, false),
        (Sensitivity::Parties, vec![region("daluba")], &abroad, true),
        (Sensitivity::Parties, vec![region("daluba")], &mixed, false),
        (Sensitivity::Parties, named, &mixed, true),
        (Sensitivity::Local, vec![], &at_home, false),
        (Sensitivity::Local, vec![region("daluba")], &abroad, false),
    ] {
        let mut record = record(Body::Event(event()));
        record.meta.sensitivity = sensitivity;
        record.meta.sensitivity_parties = parties;
        let fresh = decide(&record, agreement, None);
        let again = decide(&record, agreement, shown(Lane::Routine));
        if passes {
            assert!(!view_of(fresh).last);
        } else {
            assert_eq!(fresh, nothing(Withhold::Sensitivity));
            let reason = LeaveReason::Sensitivity;
            let leave = Leave { share_n: 5, lane: Lane::Routine, reason };
            assert_eq!(again, Decision::Leave(leave));
        }
    }
}

#[test]
fn disputes_of_families_and_patients_stay_at_home() {
    let agreement = pair(vec![clause(Grant::EventSummary), clause(Grant::EventDetail)]);
    for category in CATEGORIES.iter().filter(|c| c.domain == EventDomain::Dispute) {
        let domain = EventDomain::Dispute;
        let record =
            record(Body::Event(Event { domain, category: category.code.to_owned(), ..event() }));
        let decision = decide(&record, &agreement, None);
        if ["FAMILY", "MEDICAL"].contains(&category.code) {
            assert_eq!(decision, nothing(Withhold::DisputeKind));
        } else {
            assert!(matches!(decision, Decision::Show(_)), "{}", category.code);
        }
    }
}

#[test]
fn an_expired_record_is_not_shown_anew() {
    let mut record = record(Body::Event(event()));
    record.meta.expires_at = NOW;
    let agreement = pair(vec![clause(Grant::EventSummary)]);
    assert_eq!(decide(&record, &agreement, None), nothing(Withhold::Expired));
    for standing in [Standing::Last, Standing::Left] {
        let last = Some(LastShown { share_n: 2, lane: Lane::Routine, standing, since_version: 1 });
        assert_eq!(decide(&record, &agreement, last), nothing(Withhold::Expired));
    }
    record.meta.sensitivity = Sensitivity::Local;
    assert!(matches!(decide(&record, &agreement, shown(Lane::Routine)), Decision::Leave(_)));
}

#[test]
fn fields_are_those_of_the_grant() {
    let agreement = |grant| pair(vec![clause(grant)]);
    for (body, grant, withheld) in [
        (Body::Patrol(patrol()), Grant::PatrolSummary, vec!["mandate", "leader_ref"]),
        (Body::CheckIn(check_in()), Grant::PatrolSummary, vec!["remark"]),
        (Body::Event(event()), Grant::EventSummary, vec!["text", "observation_id"]),
        (Body::Event(event()), Grant::EventDetail, vec!["observation_id"]),
        (Body::SosAlert(sos()), Grant::Sos, vec![]),
    ] {
        let all = fields(body.kind());
        let view = view_of(decide(&record(body), &agreement(grant), None));
        assert_eq!(view.withheld, withheld, "{grant:?}");
        let rest: Vec<_> = all.iter().filter(|f| !withheld.contains(*f)).copied().collect();
        assert_eq!(view.fields, rest);
    }
}

#[test]
fn granted_fields_are_fields_of_their_kind_in_its_order() {
    for (kind, _, granted) in GRANTS {
        assert!(!granted.is_empty());
        let mut fields = fields(*kind).iter();
        assert!(granted.iter().all(|field| fields.any(|of| of == field)), "{kind:?}");
    }
}

#[test]
fn a_clause_narrows_the_fields_and_never_widens_them() {
    let narrowed = |fields: &[&str]| {
        let fields = fields.iter().map(|field| (*field).to_owned()).collect();
        pair(vec![Clause { fields, ..clause(Grant::EventSummary) }])
    };
    let record = record(Body::Event(event()));
    let agreement = narrowed(&["text", "state", "category", "author_ref", "observation_id"]);
    let view = view_of(decide(&record, &agreement, None));
    assert_eq!(view.fields, ["category", "state"]);
    assert_eq!(view.fields.len() + view.withheld.len(), fields(Kind::Event).len());
    assert!(view_of(decide(&record, &narrowed(&["text"]), None)).fields.is_empty());
}

#[test]
fn a_text_older_than_the_guard_is_withheld_if_it_names_a_person() {
    let place = "13812345678家门口".to_owned();
    let record = record(Body::Event(Event { place, ..event() }));
    let view = view_of(decide(&record, &pair(vec![clause(Grant::EventDetail)]), None));
    assert_eq!(view.withheld, ["place", "observation_id"]);
}

#[test]
fn the_first_clause_that_lets_it_pass_decides() {
    let min_level = Some(EmergencyLevel::II);
    let detail = Clause { min_level, ..clause(Grant::EventDetail) };
    let agreement = pair(vec![detail, clause(Grant::EventSummary)]);
    let at = |level| {
        let record = record(Body::Event(Event { level: Some(level), ..event() }));
        view_of(decide(&record, &agreement, None)).fields.contains(&"text")
    };
    assert!(at(EmergencyLevel::I));
    assert!(!at(EmergencyLevel::III));
    let reversed = pair(vec![clause(Grant::EventSummary), clause(Grant::EventDetail)]);
    let view = view_of(decide(&record(Body::Event(event())), &reversed, None));
    assert!(!view.fields.contains(&"text"));
}

#[test]
fn the_clause_that_comes_furthest_names_the_reason() {
    let min_level = Some(EmergencyLevel::I);
    let level = Clause { min_level, ..clause(Grant::EventDetail) };
    let approval = Clause { release: Release::OnAccept, ..clause(Grant::EventSummary) };
    let category = Clause { categories: vec!["HELP".to_owned()], ..clause(Grant::EventSummary) };
    let record = record(Body::Event(event_in(EventState::Reported)));
    let kind = clause(Grant::Sos);
    for (clauses, why) in [
        (vec![], Withhold::Kind),
        (vec![kind.clone()], Withhold::Kind),
        (vec![category.clone(), kind.clone()], Withhold::Category),
        (vec![kind.clone(), approval.clone(), category.clone()], Withhold::Approval),
        (vec![approval.clone(), level.clone(), category], Withhold::Level),
    ] {
        assert_eq!(decide(&record, &pair(clauses), None), nothing(why));
    }
    // Only the clause that it fails by level alone shows it for the last time, with its own fields.
    let view = view_of(decide(&record, &pair(vec![approval, level]), shown(Lane::Routine)));
    assert!(view.last && view.fields.contains(&"text"));
    let both = Clause { release: Release::OnAccept, min_level, ..clause(Grant::EventDetail) };
    let decision = decide(&record, &pair(vec![both]), shown(Lane::Routine));
    assert!(matches!(decision, Decision::Leave(Leave { reason: LeaveReason::Approval, .. })));
}

#[test]
fn what_is_over_is_shown_once_more_and_never_for_the_first_time() {
    let agreement = pair(Grant::ALL.iter().map(|grant| clause(*grant)).collect());
    let events = EventState::ALL.iter().map(|state| {
        let over = ["CLOSED", "EVALUATED", "CANCELLED", "REJECTED"].contains(&state.name());
        (Body::Event(event_in(*state)), over)
    });
    let patrols = PatrolState::ALL.iter().map(|state| {
        let over = ["COMPLETED", "REVIEWED", "CANCELLED", "MISSED"].contains(&state.name());
        (Body::Patrol(Patrol { state: *state, ..patrol() }), over)
    });
    let calls = SosState::ALL.iter().map(|state| {
        let over = ["RESOLVED", "CANCELLED"].contains(&state.name());
        (Body::SosAlert(SosAlert { state: *state, ..sos() }), over)
    });
    for (body, over) in
        events.chain(patrols).chain(calls).chain([(Body::CheckIn(check_in()), false)])
    {
        let record = record(body);
        let again = view_of(decide(&record, &agreement, shown(Lane::Routine)));
        assert_eq!((again.last, again.share_n), (over, 5), "{:?}", record.body);
        for standing in [None, Some(Standing::Last), Some(Standing::Left)] {
            let last =
                standing.map(|standing| LastShown { standing, ..shown(Lane::Bulk).unwrap() });
            let decision = decide(&record, &agreement, last);
            if over {
                assert_eq!(decision, nothing(Withhold::Over));
            } else {
                let view = view_of(decision);
                assert!(!view.last);
                assert_eq!(view.share_n, if last.is_some() { 5 } else { 1 });
            }
        }
    }
}

#[test]
fn a_reopened_event_is_shown_again() {
    let agreement = pair(vec![clause(Grant::EventSummary)]);
    let mut last = None;
    let mut seen = Vec::new();
    for state in [
        EventState::Accepted,
        EventState::Closed,
        EventState::Evaluated,
        EventState::Filed,
        EventState::Cancelled,
    ] {
        let decision = decide(&record(Body::Event(event_in(state))), &agreement, last);
        if let Decision::Show(view) = &decision {
            seen.push((view.share_n, view.last));
        }
        last = decision.shown(last.as_ref(), 1).or(last);
    }
    assert_eq!(seen, [(1, false), (2, true), (3, false), (4, true)]);
}

#[test]
fn lanes_follow_kind_and_level_and_never_fall_behind_what_was_shown() {
    use EmergencyLevel::{I, II, III, IV};
    let agreement = pair(Grant::ALL.iter().map(|grant| clause(*grant)).collect());
    let at = |level| record(Body::Event(Event { level, ..event() }));
    for (record, lane) in [
        (at(Some(I)), Lane::Alert),
        (at(Some(II)), Lane::Alert),
        (at(Some(III)), Lane::Routine),
        (at(Some(IV)), Lane::Routine),
        (at(None), Lane::Routine),
        (record(Body::SosAlert(sos())), Lane::Alert),
        (record(Body::Patrol(patrol())), Lane::Routine),
        (record(Body::CheckIn(check_in())), Lane::Routine),
    ] {
        assert_eq!(view_of(decide(&record, &agreement, None)).lane, lane);
        assert_eq!(view_of(decide(&record, &agreement, shown(Lane::Alert))).lane, Lane::Alert);
        assert_eq!(view_of(decide(&record, &agreement, shown(Lane::Bulk))).lane, lane);
    }
    assert_eq!(lane(&record(Body::TrackBatch(track_batch()))), Lane::Bulk);
    let mut local = at(Some(IV));
    local.meta.sensitivity = Sensitivity::Local;
    let decision = decide(&local, &agreement, shown(Lane::Alert));
    assert!(matches!(decision, Decision::Leave(Leave { lane: Lane::Alert, .. })));
}

fn points() -> impl Strategy<Value = Option<GeoPoint>> {
    prop::option::of((108.3..109.4_f64, 28.9..30.1_f64).prop_map(|(lon, lat)| point(lon, lat)))
}

fn areas() -> impl Strategy<Value = Area> {
    let all = outlines();
    let zones = prop::sample::subsequence(all, 1..4).prop_map(|zones| {
        let zone = |(id, outline): (RegionId, Outline)| Zone { name: id.to_string(), outline };
        Area::Zones(zones.into_iter().map(zone).collect())
    });
    let places = prop::sample::subsequence(vec!["黑溪镇", "后山", "左岸", "界桩"], 1..4)
        .prop_map(|names| Area::Places(names.into_iter().map(str::to_owned).collect()));
    let near = prop::sample::select(vec![0_u32, 500, 5_000, 30_000]);
    prop_oneof![
        3 => Just(Area::Everywhere),
        3 => zones,
        3 => near.prop_map(Area::NearParties),
        1 => places,
    ]
}

fn bodies() -> impl Strategy<Value = Body> {
    let codes = prop::sample::select(vec!["GEOLOGICAL", "POLLUTION", "FAMILY", "BOUNDARY"]);
    let levels = prop::option::of(prop::sample::select(EmergencyLevel::ALL));
    let events = (codes, levels, prop::sample::select(EventState::ALL), points()).prop_map(
        |(code, level, state, point)| {
            Body::Event(Event { category: code.to_owned(), level, state, point, ..event() })
        },
    );
    let patrols = prop::sample::select(PatrolState::ALL)
        .prop_map(|state| Body::Patrol(Patrol { state, ..patrol() }));
    let calls = (prop::sample::select(SosState::ALL), points(), points()).prop_map(
        |(state, point, last_known)| Body::SosAlert(SosAlert { state, point, last_known, ..sos() }),
    );
    let check_ins = points().prop_map(|point| Body::CheckIn(CheckIn { point, ..check_in() }));
    prop_oneof![
        8 => events,
        2 => patrols,
        2 => calls,
        1 => check_ins,
        1 => Just(Body::Shift(shift())),
        1 => Just(Body::TrackBatch(track_batch())),
        1 => Just(Body::Observation(observation())),
    ]
}

fn regions() -> impl Strategy<Value = Vec<RegionId>> {
    let all = ["daluba", "qianjiang", "xianfeng", "xiaonanhai", "zhoubai"].map(region).to_vec();
    prop::sample::subsequence(all, 0..=5)
}

fn records() -> impl Strategy<Value = Record> {
    let sensitivity = prop_oneof![
        4 => Just(Sensitivity::Region),
        1 => prop::sample::select(Sensitivity::ALL),
    ];
    (bodies(), sensitivity, regions(), -1_i64..20).prop_map(|(body, sensitivity, parties, days)| {
        let mut record = record(body);
        record.meta.sensitivity = sensitivity;
        record.meta.sensitivity_parties = parties;
        record.meta.expires_at = NOW.plus_days(days);
        record
    })
}

fn clauses() -> impl Strategy<Value = Clause> {
    let categories = prop::sample::subsequence(vec!["GEOLOGICAL", "POLLUTION", "BOUNDARY"], 0..=3);
    let fields =
        prop::sample::subsequence(vec!["state", "text", "level", "remark", "route"], 0..=5);
    let owned = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<_>>();
    (
        prop::sample::select(Grant::ALL),
        categories,
        prop::option::of(prop::sample::select(EmergencyLevel::ALL)),
        prop::sample::select(Release::ALL),
        fields,
        areas(),
        prop::sample::select(Precision::ALL),
    )
        .prop_map(move |(grant, categories, min_level, release, fields, area, precision)| {
            Clause {
                grant,
                categories: owned(categories),
                min_level,
                release,
                fields: owned(fields),
                area,
                precision,
            }
        })
}

fn agreements() -> impl Strategy<Value = Agreement> {
    let parties = prop_oneof![
        4 => Just(vec!["daluba", "xiaonanhai"]),
        2 => Just(vec!["qianjiang", "xiaonanhai"]),
        1 => Just(vec!["daluba", "qianjiang", "xiaonanhai"]),
        2 => Just(vec!["xianfeng", "xiaonanhai", "zhoubai"]),
        1 => Just(vec!["daluba", "zhoubai"]),
    ];
    let retention = prop::option::of(1_u32..20);
    let force = prop_oneof![6 => Just(Force::InForce), 1 => prop::sample::select(Force::ALL)];
    (parties, prop::collection::vec(clauses(), 0..5), 0_i64..12, retention, force).prop_map(
        |(parties, clauses, days, retention_days, force)| {
            let mut agreement = agreement(&parties, clauses);
            agreement.force = force;
            agreement.retention_days = retention_days;
            agreement.ended_at = NOW.plus_days(days);
            agreement
        },
    )
}

fn memories() -> impl Strategy<Value = Option<LastShown>> {
    let standings = vec![Standing::Shown, Standing::Last, Standing::Left];
    let memory =
        (1_u64..9, prop::sample::select(Lane::ALL), prop::sample::select(standings)).prop_map(
            |(share_n, lane, standing)| LastShown { share_n, lane, standing, since_version: 1 },
        );
    prop::option::of(memory)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn share_agrees_with_the_oracle(
        record in records(),
        agreement in agreements(),
        last in memories(),
    ) {
        let directory = directory();
        let decision = share(&record, &agreement, &directory, last.as_ref(), NOW);
        prop_assert_eq!(&decision, &share(&record, &agreement, &directory, last.as_ref(), NOW));
        prop_assume!(oracle::is_clear(&record, &agreement));
        oracle::check(&record, &agreement, last.as_ref(), &decision);
        let ruling = explain(&record, &agreement, &directory, NOW);
        oracle::check_ruling(&record, &agreement, last.as_ref(), &decision, &ruling);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_life_of_revisions_keeps_the_promises(
        revisions in prop::collection::vec((records(), agreements()), 1..12),
    ) {
        let mut last: Option<LastShown> = None;
        for (record, agreement) in revisions {
            let decision = share(&record, &agreement, &directory(), last.as_ref(), NOW);
            let visible = last.is_some_and(|last| last.standing == Standing::Shown);
            match &decision {
                Decision::Show(view) => {
                    prop_assert!(record.meta.sensitivity != Sensitivity::Local);
                    prop_assert!(visible || !view.last, "a last view follows a view");
                    let allowed = |field: &&str| GRANTS.iter().any(|(kind, _, fields)| {
                        *kind == record.meta.kind && fields.contains(field)
                    });
                    prop_assert!(view.fields.iter().all(allowed));
                }
                Decision::Leave(_) => prop_assert!(visible, "a leave follows a view"),
                Decision::Nothing(_) => {}
            }
            if let Some(shown) = decision.shown(last.as_ref(), 1) {
                prop_assert!(last.is_none_or(|last| last.share_n < shown.share_n));
                prop_assert!(!visible || last.is_some_and(|last| shown.lane <= last.lane));
                last = Some(shown);
            }
        }
    }
}
