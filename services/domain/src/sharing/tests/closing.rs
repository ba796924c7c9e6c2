//! What leaves when nothing new does, and since when something is shown.

use super::*;

#[test]
fn what_was_shown_is_called_off_and_closed_when_nothing_new_leaves() {
    let mut suspended = pair(vec![clause(Grant::EventSummary)]);
    suspended.force = Force::Suspended;
    let others = agreement(&["daluba", "zhoubai"], suspended.clauses.clone());
    let mut ended = pair(suspended.clauses.clone());
    ended.ended_at = NOW;
    let closed = record(Body::Event(event_in(EventState::Closed)));
    let mut raised = record(Body::Event(event()));
    raised.meta.sensitivity = Sensitivity::Local;
    for terms in [&suspended, &others, &ended] {
        let last = shown(Lane::Routine);
        assert!(view_of(decide(&closed, terms, last)).last);
        assert!(matches!(decide(&raised, terms, last), Decision::Leave(_)));
        assert_eq!(decide(&closed, terms, None), nothing(Withhold::Over));
    }
}

#[test]
fn it_is_remembered_since_which_version_something_is_shown() {
    let terms = pair(vec![clause(Grant::EventSummary)]);
    let open = record(Body::Event(event()));
    let over = record(Body::Event(event_in(EventState::Closed)));
    let mut last = None;
    let mut since = |record: &Record, version| {
        let decision = decide(record, &terms, last);
        last = decision.shown(last.as_ref(), version);
        last.map(|last| last.since_version)
    };
    let seen = [(&open, 3), (&open, 4), (&over, 5), (&open, 6)].map(|(it, v)| since(it, v));
    assert_eq!(seen, [Some(3), Some(3), Some(3), Some(6)]);
}
