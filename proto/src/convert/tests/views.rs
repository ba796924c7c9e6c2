use super::samples;
use crate::convert::entry::{self, Entry};
use crate::convert::view::Outgoing;
use crate::convert::{body, record, view};
use crate::exchange::v1 as exchange_pb;
use crate::kernel::v1 as pb;
use crate::patrol::v1::{Observation, Patrol, Shift};
use crate::risk::v1::Event;
use bytes::Bytes;
use domain::kernel::{GeoPoint, Kind, Lane, Reason};
use domain::patrol::{SosAlert, SosState, SosTrigger};
use domain::record::{Body, Record};
use domain::sharing::{self, Leave, LeaveReason, View};
use domain::stream::{Parent, Position};
use proptest::prelude::*;
use proptest::sample::subsequence;
use prost::Message;
use prost_types::FileDescriptorSet;

/// A view of the record that shows these fields.
fn view_of(record: &Record, fields: Vec<&'static str>) -> View {
    let all = sharing::fields(record.body.kind());
    let withheld = all.iter().copied().filter(|field| !fields.contains(field)).collect();
    View {
        share_n: 1,
        last: false,
        unverified: true,
        lane: Lane::Routine,
        fields,
        withheld,
        body: None,
        expires_at: record.meta.expires_at,
    }
}

/// The view as a neighbour reads it.
fn sent_of(record: &Record, view: &View) -> pb::View {
    let entry = exchange_pb::Entry::decode(Outgoing::new(record).entry(view)).unwrap().entry;
    let Some(exchange_pb::entry::Entry::View(sent)) = entry else { panic!("no view: {entry:?}") };
    sent
}

fn encode_view(view: pb::View) -> Bytes {
    let entry = Some(exchange_pb::entry::Entry::View(view));
    exchange_pb::Entry { entry }.encode_to_vec().into()
}

#[test]
fn a_coarse_view_goes_instead_of_the_record_and_expires_when_it_says() {
    let mut record = super::sample(samples::record());
    let point = super::sample(samples::point());
    let call = |lon| {
        Body::SosAlert(SosAlert {
            point: Some(GeoPoint { lon, ..point }),
            last_known: None,
            trigger: SosTrigger::Button,
            state: SosState::Raised,
            acknowledged_at: None,
            acknowledge_unit: String::new(),
            patrol_id: None,
            remark: String::new(),
        })
    };
    record.body = call(point.lon);
    record.meta.kind = Kind::SosAlert;
    record.meta.author_ref = Some("s-17".to_owned());
    let whole = view_of(&record, sharing::fields(Kind::SosAlert).to_vec());
    let expires_at = record.meta.expires_at.plus_days(-3);
    let view = View { body: Some(Box::new(call(108.765))), expires_at, ..whole.clone() };
    let (whole, sent) = (sent_of(&record, &whole), sent_of(&record, &view));
    assert_eq!(sent.payload, body::encode(&call(108.765)));
    assert_eq!(whole.payload, body::encode(&record.body));
    let (whole, sent) = (whole.meta.unwrap(), sent.meta.unwrap());
    let expire_time = Some(crate::convert::kernel::encode_time(expires_at));
    assert_eq!(sent, pb::RecordMeta { expire_time, ..whole });
    assert!(sent.author_ref.is_empty());
}

fn any_view() -> impl Strategy<Value = (Record, View)> {
    samples::record().prop_flat_map(|record| {
        let fields = sharing::fields(record.body.kind()).to_vec();
        let count = fields.len();
        (Just(record), subsequence(fields, 0..=count)).prop_map(|(record, fields)| {
            let view = view_of(&record, fields);
            (record, view)
        })
    })
}

proptest! {
    #[test]
    fn a_view_holds_the_fields_it_shows_and_no_others((record, view) in any_view()) {
        let sent = sent_of(&record, &view);
        let full = numbers(&body::encode(&record.body));
        let shown = numbers(&sent.payload);
        let kept_home = ["roster_refs", "leader_ref"];
        for (field, number) in field_numbers(record.body.kind()) {
            let may = view.fields.contains(&field.as_str()) && !kept_home.contains(&field.as_str());
            prop_assert_eq!(shown.contains(&number), may && full.contains(&number), "{}", field);
        }
        prop_assert_eq!(sent.withheld_fields, view.withheld);
        let meta = sent.meta.unwrap();
        prop_assert_eq!(&meta.author_ref, "");
        let author_ref = pb::RecordMeta::from(&record.meta).author_ref;
        prop_assert_eq!(pb::RecordMeta { author_ref, ..meta }, (&record.meta).into());
    }

    #[test]
    fn an_outgoing_record_is_encoded_as_its_messages_are((record, view) in any_view()) {
        let outgoing = Outgoing::new(&record);
        prop_assert_eq!(outgoing.record(), record::encode(&record).encode_to_vec());
        prop_assert_eq!(outgoing.entry(&view), encode_view(sent_of(&record, &view)));
    }

    #[test]
    fn a_recipient_can_file_any_view((record, view) in any_view()) {
        let sent = sent_of(&record, &view);
        let head = view::check(sent.clone()).unwrap();
        prop_assert_eq!(head.record_id, record.meta.record_id);
        prop_assert_eq!(head.kind, record.body.kind());
        prop_assert_eq!(&head.birth_region, &record.meta.birth_region);
        prop_assert_eq!(&head.owner_region, &record.meta.owner_region);
        prop_assert_eq!(head.revision, record.meta.revision);
        prop_assert_eq!((head.share_n, head.last, head.unverified), (1, false, true));
        prop_assert_eq!(head.occurred_at, record.meta.occurred_at);
        prop_assert_eq!(head.expires_at, record.meta.expires_at);
        let level = record.body.level().filter(|_| view.fields.contains(&"level"));
        prop_assert_eq!(head.level, level);
        let category = record.body.category().filter(|_| view.fields.contains(&"category"));
        prop_assert_eq!(head.category.as_deref(), category);
        let entry = entry::decode(encode_view(sent.clone())).unwrap();
        prop_assert_eq!(entry, Entry::View(head, sent.encode_to_vec().into()));
    }

    #[test]
    fn a_start_and_a_withdrawal_come_back(
        record in samples::record(),
        sha256 in any::<[u8; 32]>(),
        share_n in 1..=u64::MAX,
        reason in proptest::sample::select(LeaveReason::ALL),
    ) {
        let epoch = record.meta.revision.epoch;
        let last = Some(Position { seq: share_n, h: sha256 });
        let parents = vec![Parent { epoch, last }, Parent { epoch, last: None }];
        let start = entry::decode(entry::encode_start(&sha256, None, &parents));
        prop_assert_eq!(start, Ok(Entry::Start { agreement_sha256: sha256, parents }));
        let leave = Leave { share_n, lane: Lane::Alert, reason };
        let read = entry::decode(entry::encode_leave(&record.meta, &leave));
        let meta = record.meta;
        prop_assert_eq!(read, Ok(Entry::Leave {
            record_id: meta.record_id,
            kind: meta.kind,
            birth_region: meta.birth_region,
            revision: meta.revision,
            share_n,
            reason,
            transfers: meta.transfers,
        }));
    }

    #[test]
    fn no_bytes_make_an_entry_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(entry::decode(bytes.into()).is_err());
    }
}

/// The field numbers of an encoded message.
fn numbers(message: &Bytes) -> Vec<i32> {
    let mut rest = message.clone();
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (tag, wire_type) = prost::encoding::decode_key(&mut rest).unwrap();
        prost::encoding::skip_field(wire_type, tag, &mut rest, Default::default()).unwrap();
        out.push(i32::try_from(tag).unwrap());
    }
    out
}

/// Name and number of each field of the kind's message, by the descriptor.
fn field_numbers(kind: Kind) -> Vec<(String, i32)> {
    let name = match kind {
        Kind::Shift => "Shift",
        Kind::Patrol => "Patrol",
        Kind::CheckIn => "CheckIn",
        Kind::TrackBatch => "TrackBatch",
        Kind::Observation => "Observation",
        Kind::Event => "Event",
        Kind::SosAlert => "SosAlert",
    };
    let set = FileDescriptorSet::decode(crate::DESCRIPTOR).unwrap();
    let messages = set.file.into_iter().flat_map(|file| file.message_type);
    let message = messages.into_iter().find(|message| message.name() == name).unwrap();
    message.field.into_iter().map(|field| (field.name().to_owned(), field.number())).collect()
}

#[test]
fn the_rules_know_every_field_of_every_kind_by_its_name_on_the_wire() {
    for &kind in Kind::ALL {
        let wire: Vec<String> = field_numbers(kind).into_iter().map(|(name, _)| name).collect();
        assert_eq!(sharing::fields(kind), wire, "{kind:?}");
    }
}

fn sent(kind: Kind, payload: Vec<u8>) -> pb::View {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let record =
        proptest::strategy::ValueTree::current(&samples::record().new_tree(&mut runner).unwrap());
    let mut meta = pb::RecordMeta::from(&record.meta);
    meta.kind = kind.code();
    meta.author_ref.clear();
    let payload = payload.into();
    pb::View { meta: Some(meta), payload, share_n: 1, last: true, ..Default::default() }
}

fn check_refused(view: &pb::View, reason: Reason, field: &str) {
    let refused = view::check(view.clone()).unwrap_err();
    assert_eq!(refused.reason, reason, "{:?}", refused.violations);
    let fields: Vec<_> = refused.violations.0.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, if field.is_empty() { vec![] } else { vec![field] });
    assert_eq!(entry::decode(encode_view(view.clone())), Err(reason));
}

#[test]
fn a_view_without_any_field_passes() {
    for &kind in Kind::ALL {
        let head = view::check(sent(kind, Vec::new())).unwrap();
        assert_eq!((head.kind, head.level, head.category), (kind, None, None));
    }
}

#[test]
fn a_view_of_an_unknown_kind_or_without_meta_is_refused() {
    let mut view = sent(Kind::Event, Vec::new());
    view.meta.as_mut().unwrap().kind = 99;
    check_refused(&view, Reason::KindUnknown, "");
    view.meta.as_mut().unwrap().kind = 0;
    check_refused(&view, Reason::KindUnknown, "");
    view.meta = None;
    check_refused(&view, Reason::EntryUnreadable, "");
}

#[test]
fn a_view_that_cannot_be_read_or_is_too_large_is_refused() {
    check_refused(&sent(Kind::Event, vec![0xff]), Reason::EntryUnreadable, "");
    let long = vec![0; body::PAYLOAD_BYTES_MAX + 1];
    check_refused(&sent(Kind::Event, long), Reason::LimitExceeded, "");
    let text = Event { text: "x".repeat(2_001), ..Default::default() };
    check_refused(&sent(Kind::Event, text.encode_to_vec()), Reason::LimitExceeded, "payload.text");
    let mut many = sent(Kind::Event, Vec::new());
    many.withheld_fields = vec!["text".to_owned(); 65];
    check_refused(&many, Reason::LimitExceeded, "withheld_fields");
}

#[test]
fn a_view_that_names_a_member_of_staff_is_refused() {
    let mut view = sent(Kind::Event, Vec::new());
    view.meta.as_mut().unwrap().author_ref = "officer-7".to_owned();
    check_refused(&view, Reason::FieldInvalid, "meta.author_ref");
    let shift = Shift { roster_refs: vec!["officer-7".to_owned()], ..Default::default() };
    let view = sent(Kind::Shift, shift.encode_to_vec());
    check_refused(&view, Reason::FieldInvalid, "payload.roster_refs[0]");
    let patrol = Patrol { leader_ref: "officer-7".to_owned(), ..Default::default() };
    let view = sent(Kind::Patrol, patrol.encode_to_vec());
    check_refused(&view, Reason::FieldInvalid, "payload.leader_ref");
}

#[test]
fn a_view_with_an_unconverted_or_unmarked_place_is_refused() {
    for datum in [pb::Datum::Gcj02, pb::Datum::Unspecified] {
        let point =
            pb::GeoPoint { lon: 108.7, lat: 29.6, datum: datum.into(), ..Default::default() };
        let event = Event { point: Some(point), ..Default::default() };
        let view = sent(Kind::Event, event.encode_to_vec());
        check_refused(&view, Reason::FieldInvalid, "payload.point.datum");
    }
}

#[test]
fn what_a_view_shows_must_be_sound() {
    let event = Event { state: 99, ..Default::default() };
    let view = sent(Kind::Event, event.encode_to_vec());
    check_refused(&view, Reason::FieldInvalid, "payload.state");
    let observation = Observation { patrol_id: Bytes::from_static(b"x"), ..Default::default() };
    let view = sent(Kind::Observation, observation.encode_to_vec());
    check_refused(&view, Reason::FieldInvalid, "payload.patrol_id");
    let mut view = sent(Kind::Event, Vec::new());
    view.share_n = 0;
    check_refused(&view, Reason::FieldInvalid, "share_n");
    view.share_n = 1;
    view.meta.as_mut().unwrap().revision = None;
    check_refused(&view, Reason::FieldInvalid, "meta.revision");
}

#[test]
fn staff_references_stay_at_home_even_when_a_view_names_them() {
    let shift = domain::patrol::Shift {
        unit: "unit".to_owned(),
        station: String::new(),
        planned_start_at: None,
        planned_end_at: None,
        opened_at: None,
        closed_at: None,
        state: domain::patrol::ShiftState::Open,
        staff_count: 1,
        roster_refs: vec!["officer-7".to_owned()],
        handover_note: String::new(),
    };
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let any =
        proptest::strategy::ValueTree::current(&samples::record().new_tree(&mut runner).unwrap());
    let mut record = Record { body: Body::Shift(shift), ..any };
    record.meta.kind = Kind::Shift;
    let sent = sent_of(&record, &view_of(&record, vec!["unit", "roster_refs"]));
    let shown = Shift::decode(sent.payload).unwrap();
    assert_eq!((shown.unit.as_str(), shown.roster_refs.len()), ("unit", 0));
}

#[test]
fn an_entry_of_another_kind_or_unsound_is_parked_under_its_reason() {
    assert_eq!(entry::decode(Bytes::new()), Err(Reason::KindUnknown));
    // Field 15, a message this release does not know.
    assert_eq!(entry::decode(Bytes::from_static(b"\x7a\x00")), Err(Reason::KindUnknown));
    assert_eq!(entry::decode(Bytes::from_static(b"\xff")), Err(Reason::EntryUnreadable));
    assert_eq!(
        entry::decode(vec![0; entry::ENTRY_BYTES_MAX + 1].into()),
        Err(Reason::LimitExceeded)
    );
    let wrap = |entry| exchange_pb::Entry { entry: Some(entry) }.encode_to_vec();
    let start = exchange_pb::Start {
        agreement_sha256: Bytes::from_static(b"short"),
        ..exchange_pb::Start::default()
    };
    let start = wrap(exchange_pb::entry::Entry::Start(start));
    assert_eq!(entry::decode(start.clone().into()), Err(Reason::FieldInvalid));
    // Of two kinds at once; of a view twice, the last is the one that is checked and kept.
    let good = encode_view(sent(Kind::Event, Vec::new()));
    let both = [&good[..], &start].concat();
    assert_eq!(entry::decode(both.into()), Err(Reason::EntryUnreadable));
    let empty = [&good[..], &wrap(exchange_pb::entry::Entry::View(pb::View::default()))].concat();
    assert_eq!(entry::decode(empty.into()), Err(Reason::EntryUnreadable));
    let sound = exchange_pb::Leave {
        record_id: Bytes::from_static(&[0x77; 16]),
        kind: 6,
        birth_region: "xiaonanhai".to_owned(),
        revision: Some(pb::Revision { t: 0, epoch: Bytes::from_static(&[0x77; 16]), n: 1 }),
        share_n: 2,
        reason: 1,
        transfers: Vec::new(),
    };
    let decode = |leave| entry::decode(wrap(exchange_pb::entry::Entry::Leave(leave)).into());
    assert!(decode(sound.clone()).is_ok());
    let spoilt = exchange_pb::Leave { kind: 0, ..sound.clone() };
    assert_eq!(decode(spoilt), Err(Reason::KindUnknown));
    for spoilt in [
        exchange_pb::Leave { record_id: Bytes::new(), ..sound.clone() },
        exchange_pb::Leave { birth_region: String::new(), ..sound.clone() },
        exchange_pb::Leave { revision: None, ..sound.clone() },
        exchange_pb::Leave { share_n: 0, ..sound.clone() },
        exchange_pb::Leave { reason: 7, ..sound.clone() },
        exchange_pb::Leave { transfers: vec![Default::default()], ..sound.clone() },
    ] {
        assert_eq!(decode(spoilt), Err(Reason::FieldInvalid));
    }
}
