//! What the region tells, in order, once, and from a copy.

use crate::world::{Phone, Region, START, check_in, epoch, patrol, record_id, region_id, verb};
use bytes::Bytes;
use device::{ALONE_DAYS_MAX, Applied, ApplyError, Standing};
use domain::kernel::{AgreementId, Kind, Lane, RecordId};
use domain::patrol::PatrolVerb;
use proto::convert::kernel::encode_time;
use proto::device::v1 as pb;
use proto::device::v1::change::Subject;
use proto::kernel::v1 as kernel;

fn page(region: &Region, changes: Vec<pb::Change>, end: u64) -> pb::PullResponse {
    pb::PullResponse { changes, next_cursor: Some(region.cursor(end)), more: false }
}

fn source(origin: &str, agreement: u64) -> Option<pb::ViewSource> {
    let agreement = AgreementId::from_slice(record_id(agreement).as_bytes()).unwrap();
    Some(pb::ViewSource {
        origin_region: origin.to_owned(),
        agreement_id: Bytes::copy_from_slice(agreement.as_bytes()),
        agreement_version: 1,
        lane: Lane::Routine.code(),
        seq: 1,
        unconfirmed: false,
    })
}

/// A neighbour's view of one of the region's own patrols, as if it were theirs.
fn view(region: &Region, id: RecordId, share_n: u64, agreement: u64) -> Subject {
    let encoded = proto::convert::record::encode(&region.records[&id]);
    let mut meta = encoded.meta.unwrap();
    meta.author_ref.clear();
    Subject::View(pb::NeighbourView {
        view: Some(kernel::View {
            meta: Some(meta),
            payload: encoded.payload,
            share_n,
            last: false,
            unverified: true,
            withheld_fields: Vec::new(),
        }),
        source: source("xianfeng", agreement),
    })
}

fn withdrawal(id: RecordId, agreement: u64) -> Subject {
    Subject::Withdrawal(pb::Withdrawal {
        record_id: Bytes::copy_from_slice(id.as_bytes()),
        kind: Kind::Patrol.code(),
        source: source("xianfeng", agreement),
        reason: 0,
    })
}

fn change(region: &Region, feed_seq: u64, subject: Subject) -> pb::Change {
    pb::Change { cursor: Some(region.cursor(feed_seq)), subject: Some(subject) }
}

/// A phone and a region with a patrol that the phone has made.
fn world() -> (Phone, Region, RecordId) {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let plan = phone.do_now(patrol());
    phone.push(&mut region);
    (phone, region, plan.record_id)
}

#[test]
fn changes_and_cursor_are_kept_together_and_taken_once() {
    let (mut phone, region, id) = world();
    assert_eq!(phone.device.cursor().unwrap(), pb::Cursor::default());
    let told = page(&region, vec![region.told(4, id)], 9);
    let applied = phone.device.apply_pull(told.clone()).unwrap();
    assert_eq!(applied, Applied { changed: 1, ..Applied::default() });
    phone.kill();
    assert_eq!(phone.device.cursor().unwrap(), region.cursor(9));
    assert_eq!(phone.device.find_record(id).unwrap().unwrap().meta.record_id, id);
    let again = phone.device.apply_pull(told).unwrap();
    assert_eq!(again, Applied { late: 1, ..Applied::default() });
    assert_eq!(phone.device.cursor().unwrap(), region.cursor(9));
}

#[test]
fn a_watch_reads_on_where_a_pull_stopped_and_its_sign_of_life_moves_nothing() {
    let (mut phone, region, id) = world();
    phone.device.apply_pull(page(&region, vec![region.told(4, id)], 4)).unwrap();
    let alive = pb::WatchResponse { server_time: Some(encode_time(START)), ..Default::default() };
    assert_eq!(phone.device.apply_watch(alive).unwrap(), Applied::default());
    let told =
        pb::WatchResponse { changes: vec![region.told(5, id)], cursor: None, server_time: None };
    assert_eq!(phone.device.apply_watch(told).unwrap().changed, 1);
    assert_eq!(phone.device.cursor().unwrap(), region.cursor(5));
}

#[test]
fn an_older_revision_that_comes_late_changes_nothing() {
    let (mut phone, mut region, id) = world();
    let old = region.told(5, id);
    phone.change(id, verb(PatrolVerb::Start));
    phone.push(&mut region);
    let new = region.told(4, id);
    let applied = phone.device.apply_pull(page(&region, vec![new, old], 5)).unwrap();
    assert_eq!((applied.changed, applied.late), (1, 1));
    let revision = phone.device.find_record(id).unwrap().unwrap().meta.revision;
    assert_eq!(revision, region.records[&id].meta.revision);
}

#[test]
fn the_next_change_rests_on_the_revision_that_was_read() {
    let (mut phone, mut region, id) = world();
    region.touch(id);
    phone.device.apply_pull(page(&region, vec![region.told(2, id)], 2)).unwrap();
    phone.change(id, verb(PatrolVerb::Start));
    assert_eq!(phone.push(&mut region)[0].applied, 1);
}

#[test]
fn what_cannot_be_read_is_counted_and_passed() {
    let (mut phone, region, id) = world();
    let mut newer = proto::convert::record::encode(&region.records[&id]);
    newer.meta.as_mut().unwrap().kind = 99;
    let mut own = view(&region, id, 1, 1);
    if let Subject::View(view) = &mut own {
        view.source = source(region_id().as_str(), 1);
    }
    let changes = vec![
        pb::Change { cursor: Some(region.cursor(2)), subject: None },
        change(&region, 3, Subject::Record(newer)),
        change(&region, 4, Subject::View(pb::NeighbourView::default())),
        change(&region, 5, Subject::Withdrawal(pb::Withdrawal::default())),
        change(&region, 6, own),
        region.told(7, id),
    ];
    let applied = phone.device.apply_pull(page(&region, changes, 7)).unwrap();
    assert_eq!((applied.changed, applied.unreadable), (1, 5));
    assert_eq!(phone.device.cursor().unwrap(), region.cursor(7));
}

#[test]
fn a_page_without_a_place_is_refused_whole() {
    let (mut phone, region, id) = world();
    let nowhere = pb::Cursor { epoch: Bytes::from_static(b"no"), feed_seq: 3 };
    let beyond = pb::Cursor { feed_seq: u64::MAX, ..region.cursor(0) };
    for cursor in [nowhere, beyond] {
        let changes = vec![region.told(3, id)];
        let page = pb::PullResponse { changes, next_cursor: Some(cursor), more: false };
        let refused = phone.device.apply_pull(page).unwrap_err();
        assert!(matches!(refused, ApplyError::CursorInvalid));
    }
    assert_eq!(phone.device.find_record(id).unwrap(), None);
    assert_eq!(phone.device.cursor().unwrap(), pb::Cursor::default());
}

#[test]
fn of_a_neighbours_record_the_newest_view_is_shown_until_it_is_withdrawn() {
    let (mut phone, region, id) = world();
    let mut feed_seq = 10;
    let mut tell = |phone: &mut Phone, subject: Subject| {
        feed_seq += 1;
        let told = page(&region, vec![change(&region, feed_seq, subject)], feed_seq);
        phone.device.apply_pull(told).unwrap().changed
    };
    let shown = |phone: &Phone| -> Vec<u64> {
        let views = phone.device.list_views(Kind::Patrol, None, 10).unwrap();
        views.iter().map(|view| view.view.as_ref().unwrap().share_n).collect()
    };
    assert_eq!(tell(&mut phone, view(&region, id, 2, 1)), 1);
    assert_eq!(tell(&mut phone, view(&region, id, 1, 1)), 0, "late");
    assert_eq!(shown(&phone), [2]);
    assert_eq!(tell(&mut phone, view(&region, id, 3, 2)), 1);
    assert_eq!(shown(&phone), [3], "the newest of two agreements");
    tell(&mut phone, withdrawal(id, 2));
    assert_eq!(shown(&phone), [2]);
    tell(&mut phone, withdrawal(id, 1));
    assert_eq!(shown(&phone), []);
    assert_eq!(tell(&mut phone, view(&region, id, 2, 1)), 0, "withdrawn stays withdrawn");
    phone.kill();
    assert_eq!(shown(&phone), []);
    assert_eq!(tell(&mut phone, view(&region, id, 4, 1)), 1, "shown anew");
    assert_eq!(shown(&phone), [4]);
}

#[test]
fn records_are_listed_those_born_last_first() {
    let (mut phone, mut region, first) = world();
    let ids: Vec<_> = (0..3).map(|_| phone.do_now(patrol()).record_id).collect();
    phone.do_now(check_in());
    phone.push(&mut region);
    let all: Vec<_> = region.records.keys().copied().collect();
    let changes = all.iter().zip(1..).map(|(id, seq)| region.told(seq, *id)).collect();
    phone.device.apply_pull(page(&region, changes, 5)).unwrap();
    let listed = |before, limit| -> Vec<RecordId> {
        let records = phone.device.list_records(Kind::Patrol, before, limit).unwrap();
        records.iter().map(|record| record.meta.record_id).collect()
    };
    assert_eq!(listed(None, 2), [ids[2], ids[1]]);
    assert_eq!(listed(Some(ids[1]), 9), [ids[0], first]);
}

#[test]
fn a_record_past_its_date_is_neither_shown_nor_kept() {
    let (mut phone, region, id) = world();
    phone.device.apply_pull(page(&region, vec![region.told(3, id)], 3)).unwrap();
    let expires_at = region.records[&id].meta.expires_at;
    phone.clock.set(expires_at.plus_millis(-1_000));
    assert!(phone.device.find_record(id).unwrap().is_some());
    phone.clock.set(expires_at.plus_millis(1));
    assert_eq!(phone.device.find_record(id).unwrap(), None);
    phone.device.apply_pull(page(&region, Vec::new(), 3)).unwrap();
    phone.clock.set(START);
    assert_eq!(phone.device.find_record(id).unwrap(), None, "deleted");
}

#[test]
fn a_phone_long_alone_forgets_what_the_region_told_but_not_what_it_did() {
    let (mut phone, mut region, id) = world();
    phone.device.apply_pull(page(&region, vec![region.told(3, id)], 3)).unwrap();
    phone.do_now(check_in());
    phone.clock.set(START.plus_days(ALONE_DAYS_MAX - 1));
    phone.kill();
    assert!(phone.device.find_record(id).unwrap().is_some());
    phone.clock.set(START.plus_days(ALONE_DAYS_MAX + 1));
    phone.kill();
    assert_eq!(phone.device.find_record(id).unwrap(), None);
    assert_eq!(phone.device.cursor().unwrap(), pb::Cursor::default());
    assert_eq!(phone.device.status().unwrap().queued, 1);
    region.touch(id);
    phone.change(id, verb(PatrolVerb::Start));
    let report = &phone.push(&mut region)[0];
    assert_eq!((report.applied, report.conflicts.len()), (1, 1), "the revision is remembered");
}

#[test]
fn a_region_that_came_back_from_a_copy_gets_again_what_was_done_since() {
    let (mut phone, mut region, id) = world();
    phone.device.apply_pull(page(&region, vec![region.told(3, id)], 3)).unwrap();
    let mut copy = region.clone();
    copy.epoch = epoch(1);
    let start = phone.change(id, verb(PatrolVerb::Start));
    let lost = phone.do_now(check_in());
    phone.push(&mut region);
    phone.device.apply_pull(page(&region, vec![region.told(8, id)], 8)).unwrap();
    region = copy;
    assert_ne!(region.records[&id].meta.revision, seen_revision(&phone, id));

    // The page that tells of the new epoch was not read from its start.
    let told = phone.device.apply_pull(page(&region, Vec::new(), 2)).unwrap();
    assert_eq!((told.offered_again, told.read_again), (Some(3), true));
    phone.kill();
    assert_eq!(phone.device.cursor().unwrap(), pb::Cursor::default());
    let told = phone.device.apply_pull(page(&region, vec![region.told(1, id)], 1)).unwrap();
    assert_eq!(told, Applied { changed: 1, ..Applied::default() }, "offered again only once");
    assert_eq!(seen_revision(&phone, id), region.records[&id].meta.revision);

    let report = &phone.push(&mut region)[0];
    assert_eq!((report.duplicate, report.applied), (1, 2));
    assert_eq!(region.effects[&start.operation_id], 1);
    assert_eq!(region.effects[&lost.operation_id], 1);
    assert_eq!(phone.kept(Standing::Applied).len(), 3);
    assert_eq!(phone.device.status().unwrap().unsettled(), 0);
}

fn seen_revision(phone: &Phone, id: RecordId) -> domain::kernel::Revision {
    phone.device.find_record(id).unwrap().unwrap().meta.revision
}

#[test]
fn a_feed_that_is_read_from_the_start_tells_the_new_epoch() {
    let (mut phone, mut region, id) = world();
    phone.device.apply_pull(page(&region, vec![region.told(3, id)], 3)).unwrap();
    region.epoch = epoch(1);
    // The region answers EPOCH_CHANGED.
    phone.device.restart_feed().unwrap();
    assert_eq!(phone.device.cursor().unwrap(), pb::Cursor::default());
    let told = phone.device.apply_pull(page(&region, vec![region.told(1, id)], 1)).unwrap();
    assert_eq!(told, Applied { changed: 1, offered_again: Some(1), ..Applied::default() });
    assert_eq!(phone.device.cursor().unwrap(), region.cursor(1));
}

#[test]
fn an_epoch_that_is_over_is_not_believed() {
    let (mut phone, mut region, id) = world();
    let before = page(&region, vec![region.told(3, id)], 3);
    region.epoch = epoch(1);
    phone.device.apply_pull(page(&region, Vec::new(), 1)).unwrap();
    let refused = phone.device.apply_pull(before).unwrap_err();
    assert!(matches!(refused, ApplyError::EpochOver));
    assert_eq!(phone.device.cursor().unwrap(), region.cursor(1));
}

#[test]
fn what_is_quarantined_makes_room_for_what_was_shown_before() {
    let (mut phone, mut region, id) = world();
    let before = view(&region, id, 1, 1);
    phone.device.apply_pull(page(&region, vec![change(&region, 1, before.clone())], 1)).unwrap();
    phone.change(id, verb(PatrolVerb::Start));
    phone.push(&mut region);
    let thiefs = view(&region, id, 2, 1);
    phone.device.apply_pull(page(&region, vec![change(&region, 2, thiefs)], 2)).unwrap();
    let shown = |phone: &Phone| {
        let views = phone.device.list_views(Kind::Patrol, None, 9).unwrap();
        views.into_iter().map(|view| view.view.unwrap().share_n).collect::<Vec<_>>()
    };
    assert_eq!(shown(&phone), [2]);
    // Taken back by its owner, an older one that comes late does not bring it back.
    let back = |reason: i32, from: u64| {
        let Subject::Withdrawal(gone) = withdrawal(id, 1) else { unreachable!() };
        let gone = Subject::Withdrawal(pb::Withdrawal { reason, ..gone });
        [change(&region, from, gone), change(&region, from + 1, before.clone())].to_vec()
    };
    phone.device.apply_pull(page(&region, back(0, 3), 4)).unwrap();
    assert_eq!(shown(&phone), [0_u64; 0]);
    let quarantined = domain::kernel::Reason::RecordQuarantined.code();
    phone.device.apply_pull(page(&region, back(quarantined, 5), 6)).unwrap();
    assert_eq!(shown(&phone), [1]);
}
