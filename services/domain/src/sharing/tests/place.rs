//! Goal: what lies elsewhere stays, and a place is seen no more exactly than was agreed. Method: a table for
//! each rule, on the outlines of real regions.

use super::*;

fn zone(name: &str) -> Zone {
    let outline = outlines().into_iter().find(|(id, _)| id.as_str() == name).unwrap().1;
    Zone { name: name.to_owned(), outline }
}

fn at(lon: f64, lat: f64) -> Record {
    record(Body::Event(Event { point: Some(point(lon, lat)), ..event() }))
}

fn holding(area: Area) -> Agreement {
    let clauses = [Grant::EventSummary, Grant::Sos].map(clause);
    agreement(
        &["qianjiang", "xianfeng", "xiaonanhai"],
        clauses.map(|clause| Clause { area: area.clone(), ..clause }).to_vec(),
    )
}

#[test]
fn a_clause_holds_where_its_area_says() {
    // 舟白 lies in 黔江区; 咸丰县 begins to the east of both.
    let zhoubai = at(108.8, 29.55);
    let zones = holding(Area::Zones(vec![zone("qianjiang")]));
    let near = holding(Area::NearParties(10_000));
    let named = holding(Area::Places(vec!["黑溪镇".to_owned()]));
    for (record, agreement, passes) in [
        (zhoubai.clone(), &zones, true),
        (at(109.2, 29.7), &zones, false),
        (zhoubai.clone(), &holding(Area::Zones(vec![zone("xianfeng")])), false),
        // Inside 黔江区, which is a party too.
        (zhoubai.clone(), &near, true),
        (at(110.9, 31.9), &near, false),
        (zhoubai.clone(), &named, true),
        (zhoubai, &holding(Area::Places(vec!["舟白".to_owned()])), false),
        (record(Body::Event(event())), &zones, false),
        (record(Body::Event(event())), &near, false),
        (record(Body::SosAlert(sos())), &zones, true),
        (record(Body::SosAlert(sos())), &near, true),
        (record(Body::SosAlert(sos())), &named, true),
    ] {
        let decision = decide(&record, agreement, None);
        if passes {
            assert!(!view_of(decision).last);
        } else {
            assert_eq!(decision, nothing(Withhold::Place));
            let leave = Leave { share_n: 5, lane: Lane::Routine, reason: LeaveReason::Place };
            let again = decide(&record, agreement, shown(Lane::Routine));
            assert_eq!(again, Decision::Leave(leave));
        }
    }
    // A call whose place is known is held against it; the last fix counts where there is no other.
    let away = Some(point(110.9, 31.9));
    for call in [SosAlert { point: away, ..sos() }, SosAlert { last_known: away, ..sos() }] {
        let decision = decide(&record(Body::SosAlert(call)), &near, None);
        assert_eq!(decision, nothing(Withhold::Place));
    }
}

#[test]
fn near_the_parties_never_means_near_the_owner() {
    let clauses = vec![Clause { area: Area::NearParties(0), ..clause(Grant::EventSummary) }];
    let agreement = agreement(&["xianfeng", "xiaonanhai"], clauses);
    let (lon, lat) = zone("xiaonanhai").outline.middle().unwrap();
    assert!(zone("xiaonanhai").outline.contains(&point(lon, lat)));
    assert_eq!(decide(&at(lon, lat), &agreement, None), nothing(Withhold::Place));
    let (lon, lat) = zone("xianfeng").outline.middle().unwrap();
    assert!(matches!(decide(&at(lon, lat), &agreement, None), Decision::Show(_)));
}

#[test]
fn a_place_is_shown_as_exactly_as_the_clause_says() {
    let shows = |precision, place| {
        let clauses = vec![Clause { precision, ..clause(Grant::EventSummary) }];
        let event = Event { point: place, ..event() };
        view_of(decide(&record(Body::Event(event)), &pair(clauses), None))
    };
    let place = |lon, lat| Some(point(lon, lat));
    let point_of = |view: &View| -> Option<GeoPoint> {
        view.body.as_ref().unwrap().points().next().map(|(_, point)| *point)
    };
    let view = shows(Precision::Exact, place(108.765_43, 29.512_34));
    assert!(view.body.is_none() && view.fields.contains(&"point"));
    for (precision, lon, lat, accuracy_m) in [
        (Precision::HundredMetres, 108.765_5, 29.512_5, 80.0),
        (Precision::Kilometre, 108.765, 29.515, 800.0),
    ] {
        // All of a cell is shown as its middle, whatever else was measured with it.
        for (dx, dy) in [(0.0, 0.0), (0.000_4, 0.000_5)] {
            let view = shows(precision, place(108.765_43 + dx, 29.512_34 + dy));
            let found = point_of(&view).unwrap();
            assert!((found.lon - lon).abs() < 1e-9 && (found.lat - lat).abs() < 1e-9, "{found:?}");
            assert_eq!(
                (found.accuracy_m, found.altitude_m, found.source),
                (accuracy_m, None, None)
            );
            assert!(view.fields.contains(&"point") && view.fields.contains(&"place"));
        }
    }
    let rough = GeoPoint { accuracy_m: 2_000.0, ..point(108.765_43, 29.512_34) };
    let found = point_of(&shows(Precision::Kilometre, Some(rough))).unwrap();
    assert_eq!(found.accuracy_m, 2_000.0);
    // By the township it is the middle of the smallest region drawn around it, and no words.
    let (lon, lat) = zone("zhoubai").outline.middle().unwrap();
    let view = shows(Precision::Township, place(lon + 0.000_1, lat));
    let found = point_of(&view).unwrap();
    assert_eq!((found.lon, found.lat), (lon, lat));
    assert!(found.accuracy_m > 1_000.0);
    assert!(view.fields.contains(&"point") && view.withheld.contains(&"place"));
    let view = shows(Precision::Township, place(100.0, 10.0));
    assert_eq!(point_of(&view), None);
    assert!(view.withheld.contains(&"point") && view.withheld.contains(&"place"));
    assert!(shows(Precision::Township, None).fields.contains(&"point"));
}

#[test]
fn parties_keep_a_view_no_longer_than_agreed() {
    let record = record(Body::Event(event()));
    let mut agreement = pair(vec![clause(Grant::EventSummary)]);
    assert_eq!(view_of(decide(&record, &agreement, None)).expires_at, NOW.plus_days(30));
    for (days, kept) in [(7, 7), (30, 30), (3_650, 30)] {
        agreement.retention_days = Some(days);
        assert_eq!(view_of(decide(&record, &agreement, None)).expires_at, NOW.plus_days(kept));
    }
}
