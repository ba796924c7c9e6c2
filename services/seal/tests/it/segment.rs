//! Segments: what was sealed comes out, and nothing else does.

use crate::fixture::{Counter, NOW, bytes, entries, region, sealed, stream};
use bytes::Bytes;
use domain::kernel::{AgreementId, Epoch, Lane, Reason, RegionId};
use domain::stream::{Position, StreamId};
use proptest::prelude::*;
use prost::Message;
use proto::exchange::v1 as pb;
use seal::chain;
use seal::key::{SealingKey, key_id};
use seal::segment::{
    ENTRY_BYTES_MAX, Range, SaltedEntry, SealError, Segment, SegmentError, seal, segment_id,
};

const PARTIES: &[&str] = &["xiaonanhai", "xianfeng", "qianjiang"];

/// Takes a segment through every check, as its recipient 咸丰 does.
fn receive(bytes: Bytes) -> Result<Vec<SaltedEntry>, SegmentError> {
    let segment = Segment::parse(bytes)?;
    segment.verify(&region("xiaonanhai").signing.public())?;
    let xianfeng = region("xianfeng");
    let opened = segment.open(&xianfeng.id, &xianfeng.sealing)?;
    Ok(opened.into_iter().map(|(_, salted)| salted).collect())
}

fn one(lane: Lane) -> Bytes {
    let stream = stream(lane);
    bytes(&sealed(&stream, chain::start(&stream), &entries(&[175]), PARTIES))
}

fn edit(bytes: Bytes, change: impl FnOnce(&mut pb::Segment)) -> Bytes {
    let mut segment = pb::Segment::decode(bytes).unwrap();
    change(&mut segment);
    segment.encode_to_vec().into()
}

fn edit_prefix(bytes: Bytes, change: impl FnOnce(&mut pb::SegmentPrefix)) -> Bytes {
    edit(bytes, |segment| {
        let mut prefix = pb::SegmentPrefix::decode(segment.prefix.clone()).unwrap();
        change(&mut prefix);
        segment.prefix = prefix.encode_to_vec().into();
    })
}

#[test]
fn every_party_opens_what_the_origin_sealed() {
    for lane in Lane::ALL {
        let stream = stream(*lane);
        let entries = entries(&[0, 1, 175, 16_384, ENTRY_BYTES_MAX]);
        let before = Position { seq: 41, h: [9; 32] };
        let sealed = sealed(&stream, before, &entries, PARTIES);
        let segment = Segment::parse(bytes(&sealed)).unwrap();
        segment.verify(&region("xiaonanhai").signing.public()).unwrap();
        assert_eq!(segment.stream(), &stream);
        assert_eq!((segment.first_seq(), segment.last_seq(), segment.count()), (42, 46, 5));
        assert_eq!((segment.before(), segment.after()), (before, sealed.after));
        assert_eq!(segment.expires_at(), NOW);
        assert_eq!(segment.key_id(), key_id(&region("xiaonanhai").signing.public()));
        let names: Vec<_> = segment.parties().map(RegionId::as_str).collect();
        assert_eq!(names, ["qianjiang", "xianfeng", "xiaonanhai"]);
        for party in PARTIES {
            let party = region(party);
            let opened = segment.open(&party.id, &party.sealing).unwrap();
            assert!(opened.iter().map(|(_, salted)| salted).eq(&entries));
            assert_eq!(opened.last().unwrap().0, segment.after());
        }
    }
}

#[test]
fn the_chain_in_a_segment_is_the_chain_of_the_stream() {
    let stream = stream(Lane::Routine);
    let entries = entries(&[10, 20, 30]);
    let start = chain::start(&stream);
    let whole = sealed(&stream, start, &entries, PARTIES);
    let first = sealed(&stream, start, &entries[..1], PARTIES);
    let rest = sealed(&stream, first.after, &entries[1..], PARTIES);
    assert_eq!(rest.after, whole.after);
    let folded =
        entries.iter().fold(start, |p, e| chain::extend(p, &chain::commitment(&e.salt, &e.entry)));
    assert_eq!(folded, whole.after);
}

#[test]
fn any_bit_flip_is_refused_before_the_seal_is_opened() {
    let honest = one(Lane::Routine);
    let key = region("xiaonanhai").signing.public();
    assert!(receive(honest.clone()).is_ok());
    for bit in 0..honest.len() * 8 {
        let mut bent = honest.to_vec();
        bent[bit / 8] ^= 1 << (bit % 8);
        let verdict = Segment::parse(bent.into()).and_then(|segment| segment.verify(&key));
        assert!(verdict.is_err(), "bit {bit} of {}", honest.len() * 8);
    }
}

#[test]
fn any_truncation_and_any_addition_is_refused() {
    let honest = one(Lane::Routine);
    for len in 0..honest.len() {
        assert!(Segment::parse(honest.slice(..len)).is_err(), "{len}");
    }
    // An unknown field, a field given twice, a length in more bytes than it needs.
    let more = [&honest[..], &[0x2a, 0]].concat();
    let twice = [&honest[..], &honest[..]].concat();
    let mut long = honest.to_vec();
    let signature_at = long.len() - 66;
    assert_eq!(long[signature_at..signature_at + 2], [0x22, 64]);
    long.splice(signature_at + 1..signature_at + 2, [64 | 0x80, 0]);
    for bytes in [more, twice, long] {
        let refused = Segment::parse(bytes.into()).unwrap_err();
        assert_eq!(refused, SegmentError::Malformed("segment"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_range_of_any_shape_comes_out_as_it_went_in(
        lens in prop::collection::vec(0usize..2_000, 1..40),
        lane in prop::sample::select(Lane::ALL),
        seq in 1u64..1 << 40,
        h in any::<[u8; 32]>(),
    ) {
        let entries = entries(&lens);
        let sealed = sealed(&stream(lane), Position { seq, h }, &entries, PARTIES);
        prop_assert_eq!(segment_id(&sealed.bytes), sealed.segment_id);
        prop_assert_eq!(receive(bytes(&sealed)).unwrap(), entries);
    }

    #[test]
    fn bytes_changed_anywhere_are_refused(
        lens in prop::collection::vec(0usize..2_000, 1..20),
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        let stream = stream(Lane::Bulk);
        let honest = sealed(&stream, chain::start(&stream), &entries(&lens), PARTIES).bytes;
        let mut bent = honest.clone();
        let at = at.index(bent.len());
        for (byte, with) in bent[at..].iter_mut().zip(&with) {
            *byte = *with;
        }
        prop_assume!(bent != honest);
        prop_assert!(receive(bent.into()).is_err());
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(receive(noise.into()).is_err());
    }
}

#[test]
fn parts_of_two_segments_do_not_mix() {
    let stream = stream(Lane::Routine);
    let entries = entries(&[175, 175]);
    let first = sealed(&stream, chain::start(&stream), &entries[..1], PARTIES);
    let second = sealed(&stream, first.after, &entries[1..], PARTIES);
    // The same range again, sealed with another key.
    let entropy = Counter::default();
    domain::kernel::Entropy::fill(&entropy, &mut [0]);
    let keys: Vec<_> =
        PARTIES.iter().map(|p| region(p)).map(|r| (r.id, r.sealing.public())).collect();
    let range = Range {
        stream: &stream,
        before: chain::start(&stream),
        entries: &entries[..1],
        expires_at: NOW,
    };
    let again = seal(range, &region("xiaonanhai").signing, &keys, &entropy).unwrap();
    assert!(receive(bytes(&again)).is_ok());
    for other in [&second, &again] {
        let other = pb::Segment::decode(&other.bytes[..]).unwrap();
        type Mix = fn(&mut pb::Segment, &pb::Segment);
        let mixes: &[Mix] = &[
            |s, other| s.prefix = other.prefix.clone(),
            |s, other| s.sealed = other.sealed.clone(),
            |s, other| s.wraps = other.wraps.clone(),
            |s, other| s.signature = other.signature.clone(),
            |s, other| (s.sealed, s.wraps) = (other.sealed.clone(), other.wraps.clone()),
            |s, other| (s.prefix, s.signature) = (other.prefix.clone(), other.signature.clone()),
        ];
        for (i, mix) in mixes.iter().enumerate() {
            let mixed = edit(bytes(&first), |segment| mix(segment, &other));
            if mixed == bytes(&first) {
                continue;
            }
            assert_eq!(receive(mixed), Err(SegmentError::SignatureInvalid), "mix {i}");
        }
    }
}

#[test]
fn a_segment_is_worth_nothing_in_another_stream() {
    let entropy = Counter::default();
    type Change<'a> = &'a dyn Fn(&mut pb::StreamId);
    let epoch = Bytes::copy_from_slice(Epoch::mint(NOW.plus_days(1), &entropy).as_bytes());
    let agreement =
        Bytes::copy_from_slice(AgreementId::mint(NOW.plus_days(1), &entropy).as_bytes());
    let changes: &[Change<'_>] = &[
        &|stream| stream.origin = "qianjiang".into(),
        &|stream| stream.epoch = epoch.clone(),
        &|stream| stream.agreement_id = agreement.clone(),
        &|stream| stream.agreement_version += 1,
        &|stream| stream.lane = 3,
    ];
    let honest = {
        let entries = entries(&[175]);
        bytes(&sealed(&stream(Lane::Routine), Position { seq: 7, h: [7; 32] }, &entries, PARTIES))
    };
    let origin = region("xiaonanhai");
    let xianfeng = region("xianfeng");
    for (i, change) in changes.iter().enumerate() {
        let moved = edit_prefix(honest.clone(), |prefix| change(prefix.stream.as_mut().unwrap()));
        let segment = Segment::parse(moved.clone()).unwrap();
        let refused = segment.verify(&origin.signing.public());
        assert_eq!(refused, Err(SegmentError::SignatureInvalid), "change {i}");
        // The seal knows its stream too, so even the origin's own signature would not help.
        let refused = segment.open(&xianfeng.id, &xianfeng.sealing);
        assert_eq!(refused, Err(SegmentError::Unopenable), "change {i}");
    }
}

#[test]
fn the_first_segment_starts_at_its_streams_genesis() {
    let moved = edit_prefix(one(Lane::Routine), |prefix| {
        prefix.stream.as_mut().unwrap().agreement_version += 1;
    });
    assert_eq!(Segment::parse(moved).unwrap_err(), SegmentError::ChainBroken);
}

/// The control of every refusal by signature: the seal alone tells nothing of who sealed.
#[test]
fn a_forgery_that_is_sealed_well_opens_for_whoever_does_not_verify() {
    let origin = region("xiaonanhai");
    let stream = stream(Lane::Routine);
    let entries = entries(&[175, 20]);
    let parties: Vec<_> =
        PARTIES.iter().map(|slug| region(slug)).map(|r| (r.id, r.sealing.public())).collect();
    let before = Position { seq: 7, h: [7; 32] };
    let range = Range { stream: &stream, before, entries: &entries, expires_at: NOW };
    let forged = seal(range, &region("laifeng").signing, &parties, &Counter::default()).unwrap();
    let xianfeng = region("xianfeng");
    let segment = Segment::parse(bytes(&forged)).unwrap();
    let refused = segment.verify(&origin.signing.public());
    assert_eq!(refused, Err(SegmentError::KeyUnknown));
    assert_eq!(segment.open(&xianfeng.id, &xianfeng.sealing).unwrap().len(), 2);
}

#[test]
fn nobody_else_opens_it() {
    let segment = Segment::parse(one(Lane::Alert)).unwrap();
    let (xianfeng, stranger) = (region("xianfeng"), region("laifeng"));
    let refused = segment.open(&stranger.id, &stranger.sealing).unwrap_err();
    assert_eq!((refused, refused.reason()), (SegmentError::NotAParty, Reason::NotAParty));
    let refused = segment.open(&xianfeng.id, &stranger.sealing).unwrap_err();
    assert_eq!((refused, refused.reason()), (SegmentError::Unopenable, Reason::EntryUnreadable));
    let qianjiang = region("qianjiang");
    let refused = segment.open(&qianjiang.id, &xianfeng.sealing).unwrap_err();
    assert_eq!(refused, SegmentError::Unopenable);
}

#[test]
fn a_wrap_given_another_name_does_not_open() {
    let renamed = edit(one(Lane::Routine), |segment| {
        let mut wraps = pb::Wraps::decode(segment.wraps.clone()).unwrap();
        wraps.wraps[0].party = "laifeng".into();
        segment.wraps = wraps.encode_to_vec().into();
    });
    let segment = Segment::parse(renamed).unwrap();
    let refused = segment.verify(&region("xiaonanhai").signing.public());
    assert_eq!(refused, Err(SegmentError::SignatureInvalid));
    let laifeng = RegionId::parse("laifeng").unwrap();
    let refused = segment.open(&laifeng, &region("qianjiang").sealing);
    assert_eq!(refused, Err(SegmentError::Unopenable));
}

#[test]
fn a_key_that_was_rotated_is_told_from_a_forgery() {
    let segment = Segment::parse(one(Lane::Routine)).unwrap();
    let other = region("qianjiang").signing;
    let refused = segment.verify(&other.public()).unwrap_err();
    assert_eq!((refused, refused.reason()), (SegmentError::KeyUnknown, Reason::SignatureInvalid));
    let forged = edit_prefix(one(Lane::Routine), |prefix| {
        prefix.key_id = Bytes::copy_from_slice(&key_id(&other.public()));
    });
    let segment = Segment::parse(forged).unwrap();
    assert_eq!(segment.verify(&other.public()), Err(SegmentError::SignatureInvalid));
    let refused = segment.verify(&region("xiaonanhai").signing.public());
    assert_eq!(refused, Err(SegmentError::KeyUnknown));
}

#[test]
fn a_gateway_sees_of_an_alert_only_how_large_it_is_about() {
    let stream = stream(Lane::Alert);
    let size = |len| {
        let sealed = sealed(&stream, chain::start(&stream), &entries(&[len]), PARTIES);
        pb::Segment::decode(&sealed.bytes[..]).unwrap().sealed.len()
    };
    for len in [0, 1, 175, 900] {
        assert_eq!(size(len), 1024 + 16, "{len}");
    }
    assert_eq!(size(1_100), 4096 + 16);
    assert_eq!(size(100_000), 128 * 1024 + 16);
}

#[test]
fn the_largest_cut_fits_in_a_segment() {
    // 256 KiB less a byte, then the entry that crosses the line, none of which can be compressed.
    let mut lens = vec![513; 510];
    lens.push(256 * 1024 - 510 * 513 - 1);
    lens.push(ENTRY_BYTES_MAX);
    let entries = entries(&lens);
    for lane in Lane::ALL {
        let stream = stream(*lane);
        let sealed = sealed(&stream, chain::start(&stream), &entries, PARTIES);
        assert_eq!(receive(bytes(&sealed)).unwrap().len(), 512);
    }
}

#[test]
fn a_range_over_a_limit_is_not_sealed() {
    let stream = stream(Lane::Routine);
    let origin = region("xiaonanhai");
    let check = |before: Position, entries: &[SaltedEntry], parties: &[&str]| {
        let keys: Vec<_> =
            parties.iter().map(|p| region(p)).map(|r| (r.id, r.sealing.public())).collect();
        let range = Range { stream: &stream, before, entries, expires_at: NOW };
        seal(range, &origin.signing, &keys, &Counter::default()).unwrap_err()
    };
    let start = chain::start(&stream);
    let few = entries(&[1]);
    assert_eq!(check(start, &[], PARTIES), SealError::EntriesCount(0));
    assert_eq!(check(start, &entries(&[0; 513]), PARTIES), SealError::EntriesCount(513));
    let large = entries(&[1, ENTRY_BYTES_MAX + 1]);
    assert_eq!(check(start, &large, PARTIES), SealError::EntryTooLarge { seq: 2 });
    let much = entries(&[ENTRY_BYTES_MAX; 8]);
    assert_eq!(check(start, &much, PARTIES), SealError::TooLarge);
    let h = [0; 32];
    assert_eq!(check(Position { seq: 0, h }, &few, PARTIES), SealError::BeforeWrong);
    assert_eq!(check(Position { seq: u64::MAX, h }, &few, PARTIES), SealError::BeforeWrong);
    assert_eq!(check(start, &few, &[]), SealError::PartiesWrong);
    assert_eq!(check(start, &few, &["xianfeng"]), SealError::PartiesWrong);
    let twice = ["xiaonanhai", "xianfeng", "xianfeng"];
    assert_eq!(check(start, &few, &twice), SealError::PartiesWrong);
    let range = Range { stream: &stream, before: start, entries: &few, expires_at: NOW };
    let refused =
        seal(range, &origin.signing, &[(origin.id.clone(), [0; 32])], &Counter::default());
    assert_eq!(refused.unwrap_err(), SealError::PartyKeyInvalid(origin.id));
}

#[test]
fn a_segment_over_its_limit_is_refused_unread() {
    let refused = Segment::parse(vec![0; 1024 * 1024 + 1].into()).unwrap_err();
    assert_eq!((refused, refused.reason()), (SegmentError::TooLarge, Reason::LimitExceeded));
}

#[test]
fn what_is_secret_is_not_printed() {
    let stream: StreamId = stream(Lane::Alert);
    let entry = SaltedEntry { salt: [1; 16], entry: Bytes::from_static(b"canary") };
    assert_eq!(format!("{entry:?}"), "SaltedEntry([redacted; 6])");
    let range = Range {
        stream: &stream,
        before: chain::start(&stream),
        entries: &[entry],
        expires_at: NOW,
    };
    assert!(!format!("{range:?}").contains("canary"));
    assert!(format!("{:?}", SealingKey::generate()).contains("[redacted]"));
}
