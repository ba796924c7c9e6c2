use super::*;
use crate::fixture::*;
use domain::freshness::{Cut, Freshness, Member, Revocation};
use domain::kernel::Lane;
use std::sync::Arc;

fn refused(cursor: Position, reason: Reason) -> Result<Option<Apply>, Outcome> {
    Err(Outcome::Refused(cursor, reason))
}

/// As the recipient `xiaonanhai` finds it.
fn found(cursor: Position, segments: &[Segment]) -> Result<Option<Apply>, Outcome> {
    open(&book("xiaonanhai"), cursor, segments, NOW)
}

fn outcome(result: Result<Option<Apply>, Outcome>) -> Option<Outcome> {
    result.err()
}

fn routine() -> StreamId {
    stream("daluba", Lane::Routine)
}

#[test]
fn a_range_is_opened_from_the_cursor_and_overlaps_are_trimmed() {
    let log = Log::of(&routine(), 9);
    let at = |seq: usize| log.positions[seq];
    let cases: [(usize, &[(usize, usize)], &[u64]); 6] = [
        (0, &[(1, 3)], &[1, 2, 3]),
        (0, &[(1, 3), (4, 4), (5, 9)], &[1, 2, 3, 4, 5, 6, 7, 8, 9]),
        // From another packaging: it begins before the cursor, or before what another reached.
        (2, &[(1, 3)], &[3]),
        (2, &[(1, 5), (4, 6), (1, 2)], &[3, 4, 5, 6]),
        // What was applied before is passed over; what lies beyond a hole waits.
        (4, &[(1, 4), (5, 6)], &[5, 6]),
        (0, &[(1, 2), (4, 5)], &[1, 2]),
    ];
    for (cursor, ranges, seqs) in cases {
        let segments: Vec<_> = ranges.iter().map(|(from, to)| log.segment(*from, *to)).collect();
        let apply = found(at(cursor), &segments).unwrap().unwrap();
        assert_eq!(apply.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), seqs);
        assert_eq!((apply.before, apply.after), (at(cursor), at(*seqs.last().unwrap() as usize)));
    }
    assert!(found(at(4), &[log.segment(1, 4)]).unwrap().is_none());
    assert!(found(at(4), &[]).unwrap().is_none());
    assert_eq!(outcome(found(at(4), &[log.segment(6, 9)])), Some(Outcome::Gap(at(4))));
}

#[test]
fn a_packaging_that_comes_to_another_hash_is_a_fork() {
    let log = Log::of(&routine(), 6);
    let mut other = Log::of(&routine(), 2);
    other.push(Bytes::from_static(b"\x7a\x01x"));
    other.grow(3);
    let cursor = log.positions[4];
    for (from, to) in [(1, 6), (3, 6), (5, 6)] {
        let found = found(cursor, &[other.segment(from, to)]);
        assert_eq!(outcome(found), outcome(refused(cursor, Reason::StreamForked)), "{from}-{to}");
    }
    // The same within one range of segments.
    let start = log.positions[0];
    let both = [log.segment(1, 4), other.segment(4, 6)];
    assert_eq!(outcome(found(start, &both)), outcome(refused(start, Reason::StreamForked)));
}

#[test]
fn a_forged_segment_is_refused_whole() {
    let log = Log::of(&routine(), 4);
    let start = log.positions[0];
    let forged = log.seal_as(&signing("huolu"), 3, 4);
    let forged = Segment::parse(forged.bytes.into()).unwrap();
    let found = found(start, &[log.segment(1, 2), forged]);
    assert!(matches!(found, Err(Outcome::Refused(at, _)) if at == start));
}

#[test]
fn only_parties_of_the_agreement_and_never_oneself_are_heard() {
    for (origin, reason) in [("xiaonanhai", Reason::NotAParty), ("huolu", Reason::NotAParty)] {
        let log = Log::of(&stream(origin, Lane::Routine), 1);
        let start = log.positions[0];
        assert_eq!(outcome(found(start, &[log.segment(1, 1)])), outcome(refused(start, reason)));
    }
    let log = Log::of(&StreamId { version: 2, ..routine() }, 1);
    let start = log.positions[0];
    let found = found(start, &[log.segment(1, 1)]);
    assert_eq!(outcome(found), outcome(refused(start, Reason::AgreementUnknown)));
}

#[test]
fn what_was_not_sealed_to_this_region_is_refused() {
    let log = Log::of(&routine(), 1);
    let start = log.positions[0];
    let mut book = book("xiaonanhai");
    book.sealing = seal::key::SealingKey::from_bytes(&[9; 32]);
    let found = open(&book, start, &[log.segment(1, 1)], NOW);
    assert!(matches!(found, Err(Outcome::Refused(at, _)) if at == start));
}

/// What each entry comes to, by reason where it was parked.
fn items(entries: &[Bytes]) -> Vec<&'static str> {
    let mut log = Log::new(&routine());
    entries.iter().for_each(|entry| log.push(entry.clone()));
    let apply = found(log.positions[0], &[log.segment(1, entries.len())]).unwrap().unwrap();
    let name = |entry: &InboxEntry| match &entry.item {
        InboxItem::View(_) => "view",
        InboxItem::Withdrawal(_) => "withdrawal",
        InboxItem::Erase(..) => "erase",
        InboxItem::Control { .. } => "control",
        InboxItem::Transfer { .. } => "transfer",
        InboxItem::Parked { reason, .. } => reason.name(),
    };
    apply.entries.iter().map(name).collect()
}

#[test]
fn entries_become_views_and_withdrawals_and_the_first_a_start() {
    let of = routine();
    let entries = [start(), view(&of, "daluba", "daluba"), leave(&of, "daluba")];
    assert_eq!(items(&entries), ["control", "view", "withdrawal"]);
}

#[test]
fn what_cannot_be_used_is_parked_and_the_rest_goes_on() {
    let of = routine();
    let other = entry::encode_start(&[1; 32], None, &[]);
    let entries = [
        other,
        start(),
        Bytes::from_static(b"\x7a\x01x"),
        Bytes::from_static(&[0xff; 3]),
        view(&of, "daluba", "daluba"),
    ];
    let parked = ["AGREEMENT_UNKNOWN", "AGREEMENT_UNKNOWN", "KIND_UNKNOWN", "ENTRY_UNREADABLE"];
    assert_eq!(items(&entries), [&parked[..], &["view"]].concat());
    // Looked at again they stay where they are, but for what is of use now.
    let aside = (1..).zip(entries).map(|(seq, entry)| ParkedEntry { seq, salt: [1; 16], entry });
    let released = reopen(&book("xiaonanhai"), &of, aside.collect(), NOW);
    let [InboxEntry { seq: 5, item: InboxItem::View(_) }] = released.as_slice() else {
        panic!("{released:?}")
    };
    let aside = vec![ParkedEntry { seq: 5, salt: [1; 16], entry: view(&of, "daluba", "daluba") }];
    let unknown = StreamId { version: 9, ..of.clone() };
    assert!(reopen(&book("xiaonanhai"), &unknown, aside.clone(), NOW).is_empty());
    // Nor does what a thief may have written come out of it by a later release.
    let revoked = revoking(book("xiaonanhai"), "daluba");
    assert!(reopen(&revoked, &of, aside.clone(), NOW).is_empty());
    assert_eq!(reopen(&book("xiaonanhai"), &of, aside, NOW).len(), 1);
}

/// The book once the key of a region is revoked and all that it signed is void.
fn revoking(mut book: Book, region: &str) -> Book {
    let trust = Arc::get_mut(&mut book.trust).unwrap();
    let key_sha256 = seal::key::key_fingerprint(&signing(region).public());
    let member = Member::Region(slug(region));
    let cut = Some(Cut::new());
    trust.freshness = Some(Freshness {
        linkage_id: trust.directory.linkage_id.clone(),
        created_at: NOW,
        directory_version: 1,
        directory_sha256: [0; 32],
        revocations: vec![Revocation { member, key_sha256, revoked_at: NOW, cut }],
        delegated: Default::default(),
        agreements: Default::default(),
    });
    book
}

#[test]
fn nobody_shows_or_withdraws_what_is_not_its_own() {
    let of = routine();
    let entries = [
        start(),
        view(&of, "huolu", "huolu"),
        view(&of, "huolu", "daluba"),
        view(&of, "daluba", "huolu"),
        leave(&of, "huolu"),
        leave(&of, "xiaonanhai"),
    ];
    assert_eq!(items(&entries)[1..], ["NOT_THE_OWNER"; 5]);
}

/// The acceptance by which `huolu`'s record came to `daluba`, as the one and the other have signed it.
fn accepted(from_key: &str, to_key: &str, record: RecordId) -> SignedObject {
    let of = routine();
    let offer = Offer {
        record_id: record,
        kind: Kind::Event,
        birth_region: slug("huolu"),
        revision: Revision { t: 0, epoch: of.epoch, n: 4 },
        from: slug("huolu"),
        to: slug("daluba"),
        agreement: of.agreement,
        sealed_sha256: [1; 32],
        offered_at: NOW,
    };
    let object = transfer::sign_offer(&offer, &signing(from_key));
    let revision = Revision { t: 1, epoch: of.epoch, n: 5 };
    let signer = (&slug("daluba"), &signing(to_key));
    transfer::sign_accept(object, revision, NOW, signer)
}

#[test]
fn a_record_from_elsewhere_is_its_new_owners_when_both_have_signed() {
    let of = routine();
    let shown = |t: u32, transfers: Vec<SignedObject>| {
        let view = entry::decode(view(&of, "huolu", "daluba")).unwrap();
        let Entry::View(_, bytes) = view else { panic!("a view") };
        let mut view = kernel::View::decode(bytes).unwrap();
        let meta = view.meta.as_mut().unwrap();
        meta.revision = Some((&Revision { t, epoch: of.epoch, n: 5 }).into());
        meta.transfers = transfers;
        entry::wrap(&view.encode_to_vec())
    };
    let good = || accepted("huolu", "daluba", record_id(1));
    let cases = [
        (shown(1, vec![good()]), "view"),
        // What comes behind says where it went.
        (shown(1, vec![good(), good()]), "view"),
        (shown(1, Vec::new()), "NOT_THE_OWNER"),
        (shown(0, vec![good()]), "NOT_THE_OWNER"),
        (shown(2, vec![good(), good()]), "NOT_THE_OWNER"),
        (shown(1, vec![accepted("huolu", "daluba", record_id(2))]), "NOT_THE_OWNER"),
    ];
    for (entry, expected) in cases {
        assert_eq!(items(&[start(), entry])[1], expected);
    }
    // Signed by nobody who is listed with that key: to be seen before, or parked where it is filed.
    let claims = |transfers: Vec<SignedObject>| {
        let mut log = Log::new(&of);
        [start(), shown(1, transfers)].into_iter().for_each(|entry| log.push(entry));
        let apply = found(log.positions[0], &[log.segment(1, 2)]).unwrap().unwrap();
        let InboxItem::View(row) = &apply.entries[1].item else { panic!("a view") };
        row.claim
    };
    assert_eq!(claims(vec![good()]), Claim::Proven);
    assert_eq!(claims(vec![accepted("another", "daluba", record_id(1))]), Claim::Unproven);
    assert_eq!(claims(vec![accepted("huolu", "another", record_id(1))]), Claim::Unproven);
    let mut forged = good();
    forged.signatures[0].signature = Bytes::from_static(&[1; 64]);
    assert_eq!(items(&[start(), shown(1, vec![forged])])[1], "NOT_THE_OWNER");
}
