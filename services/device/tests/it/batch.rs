//! What goes out next, and in which order.

use crate::world::{
    Phone, Region, START, check_in, device_seqs, limits, operations, patrol, sos, verb,
};
use device::key::{Sign, SignError};
use device::{
    BATCHES_IN_FLIGHT_MAX, BatchError, Device, HELD_AGAIN_S, Limits, QUARANTINED_AGAIN_S, Store,
    Window,
};
use domain::operation::Change;
use domain::patrol::{PatrolVerb, SosVerb};
use std::sync::Arc;

#[test]
fn an_empty_outbox_sends_nothing() {
    let mut phone = Phone::new();
    assert_eq!(phone.next(), None);
    assert_eq!(phone.window.batches_in_flight(), 0);
}

#[test]
fn operations_go_oldest_first_within_the_limits() {
    let mut phone = Phone::new();
    for _ in 0..7 {
        phone.do_now(check_in());
    }
    phone.window = Window::new(limits(3));
    let sent: Vec<_> = std::iter::from_fn(|| phone.next()).map(|b| device_seqs(&b)).collect();
    assert_eq!(sent, [vec![1, 2, 3], vec![4, 5, 6], vec![7]]);
    phone.window = Window::new(Limits { bytes_max: 1, ..Limits::default() });
    assert_eq!(device_seqs(&phone.next().unwrap()), [1], "one always goes");
    phone.window = Window::new(Limits { operations_max: 0, ..Limits::default() });
    assert_eq!(device_seqs(&phone.next().unwrap()), [1], "one always goes");
}

#[test]
fn a_batch_stays_within_its_bytes() {
    let mut phone = Phone::new();
    for _ in 0..40 {
        phone.do_now(check_in());
    }
    let bytes_max = 1_000;
    phone.window = Window::new(Limits { bytes_max, ..Limits::default() });
    let batch = phone.next().unwrap();
    assert!(operations(&batch).len() > 5);
    // Around the operations stand the region, the device and the time.
    assert!(batch.batch.len() <= bytes_max + 64, "{} bytes", batch.batch.len());
}

#[test]
fn what_is_in_flight_goes_again_only_on_another_connection() {
    let mut phone = Phone::new();
    phone.do_now(check_in());
    let first = phone.next().unwrap();
    assert_eq!(phone.next(), None);
    phone.do_now(check_in());
    assert_eq!(device_seqs(&phone.next().unwrap()), [2]);
    phone.window.clear();
    let again = phone.next().unwrap();
    assert_eq!(device_seqs(&again), [1, 2]);
    assert_eq!(operations(&again)[0], operations(&first)[0], "sent as it was");
}

#[test]
fn a_call_for_help_goes_ahead_with_what_it_rests_on() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    phone.window = Window::new(limits(2));
    for _ in 0..2 * BATCHES_IN_FLIGHT_MAX + 4 {
        phone.do_now(check_in());
    }
    while phone.next().is_some() {}
    assert_eq!(phone.window.batches_in_flight(), BATCHES_IN_FLIGHT_MAX, "a full window");
    let raised = phone.do_now(sos("腿伤,走不了"));
    let answered = phone.change(
        raised.record_id,
        Change::Sos { verb: SosVerb::Acknowledge, unit: "police-1".to_owned() },
    );
    let urgent = phone.next().unwrap();
    assert_eq!(device_seqs(&urgent), [raised.device_seq, answered.device_seq]);
    assert_eq!(phone.next(), None, "not twice on one connection");
    let answer = region.push(&urgent, phone.now());
    assert_eq!(phone.settle(answer).applied, 2);
    phone.window.clear();
    assert_eq!(device_seqs(&phone.next().unwrap()), [1, 2], "the rest follows");
}

#[test]
fn what_a_call_for_help_rests_on_goes_with_it_whatever_its_kind() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let raised = phone.do_now(sos(""));
    phone.push(&mut region);
    for _ in 0..3 {
        phone.do_now(check_in());
    }
    let plan = phone.do_now(patrol());
    let start = phone.change(plan.record_id, verb(PatrolVerb::Start));
    let verb = Change::Sos { verb: SosVerb::Resolve, unit: "police-1".to_owned() };
    let draft = device::Draft {
        parent_ids: vec![start.operation_id],
        ..device::Draft::changing(raised.record_id, verb, START)
    };
    let resolved = phone.device.record(draft).unwrap();
    let expected = [plan.device_seq, start.device_seq, resolved.device_seq];
    assert_eq!(device_seqs(&phone.next().unwrap()), expected);
    assert_eq!(device_seqs(&phone.next().unwrap()), [2, 3, 4]);
}

#[test]
fn what_is_held_or_quarantined_is_asked_for_again_in_its_time() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let elsewhere = crate::world::record_id(3);
    let elsewhere = domain::kernel::OperationId::from_slice(elsewhere.as_bytes()).unwrap();
    let draft =
        device::Draft { parent_ids: vec![elsewhere], ..device::Draft::making(check_in(), START) };
    phone.device.record(draft).unwrap();
    assert_eq!(phone.push(&mut region)[0].held, 1);
    phone.kill();
    assert_eq!(phone.next(), None);
    phone.clock.advance_s(HELD_AGAIN_S);
    assert_eq!(phone.push(&mut region)[0].held, 1);
    region.expired = true;
    phone.do_now(check_in());
    assert_eq!(phone.push(&mut region)[0].quarantined, 1);
    phone.clock.advance_s(HELD_AGAIN_S);
    // With its certificate expired, the region quarantines what it held before.
    assert_eq!(phone.push(&mut region)[0].quarantined, 1);
    phone.clock.advance_s(QUARANTINED_AGAIN_S / 2);
    assert_eq!(phone.next(), None);
    phone.clock.advance_s(QUARANTINED_AGAIN_S / 2);
    assert_eq!(device_seqs(&phone.next().unwrap()), [1, 2]);
    phone.window.clear();
    phone.clock.set(START.plus_days(-300));
    assert_eq!(device_seqs(&phone.next().unwrap()), [1, 2], "a clock set back puts nothing off");
}

struct Locked;
impl Sign for Locked {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, SignError> {
        Err(SignError("the phone is locked".into()))
    }
}

#[test]
fn a_locked_keystore_keeps_the_work() {
    let mut phone = Phone::new();
    phone.do_now(check_in());
    let store = Store::open(&phone.database()).unwrap();
    let clock = Arc::<crate::world::TestClock>::clone(&phone.clock);
    let locked =
        Device::open(store, Arc::new(Locked), clock, Arc::new(crate::world::entropy(9))).unwrap();
    let mut window = Window::default();
    assert!(matches!(locked.next_batch(&mut window), Err(BatchError::Sign(_))));
    assert_eq!(window.batches_in_flight(), 0);
    assert_eq!(phone.device.status().unwrap().queued, 1);
}

#[test]
fn a_long_backlog_goes_out_in_few_full_batches() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    for _ in 0..1_200 {
        phone.do_now(check_in());
    }
    let reports = phone.push(&mut region);
    assert_eq!(reports.iter().map(|report| report.applied).collect::<Vec<_>>(), [1_000, 200]);
}
