//! What an origin could sign if it lied: signed and sealed as it should be, and still refused.

use super::*;
use domain::kernel::{AgreementId, Epoch, Lane};

struct Ones;

impl Entropy for Ones {
    fn fill(&self, out: &mut [u8]) {
        out.fill(1);
    }
}

/// A range of three entries, and the keys to seal it to its origin.
struct Origin {
    stream: StreamId,
    signing: SigningKey,
    sealing: SealingKey,
    entries: Vec<SaltedEntry>,
}

impl Origin {
    fn new() -> Self {
        let now = Timestamp::from_micros(1_760_000_000_000_000);
        Self {
            stream: StreamId {
                origin: RegionId::parse("xiaonanhai").unwrap(),
                epoch: Epoch::mint(now, &Ones),
                agreement: AgreementId::mint(now, &Ones),
                version: 1,
                lane: Lane::Routine,
            },
            signing: SigningKey::from_seed(&[1; 32]),
            sealing: SealingKey::from_bytes(&[2; 32]),
            entries: (1..=3)
                .map(|i| SaltedEntry { salt: [i; 16], entry: vec![i; 100].into() })
                .collect(),
        }
    }

    fn prefix(&self) -> pb::SegmentPrefix {
        let before = chain::start(&self.stream);
        let after =
            self.entries.iter().fold(before, |p, salted| chain::extend(p, &salted.commitment()));
        pb::SegmentPrefix {
            format: FORMAT,
            suite: SUITE,
            key_id: Bytes::copy_from_slice(&key_id(&self.signing.public())),
            stream: Some(wire::stream_to_pb(&self.stream)),
            first_seq: 1,
            count: 3,
            h_before: Bytes::copy_from_slice(&before.h),
            h_after: Bytes::copy_from_slice(&after.h),
            expire_time: Some(wire::time_to_pb(Timestamp::from_micros(5))),
        }
    }

    /// Signs whatever it is given and takes it through every check.
    fn check(&self, prefix: &pb::SegmentPrefix, plaintext: Vec<u8>) -> Result<usize, SegmentError> {
        let party = (self.stream.origin.clone(), self.sealing.public());
        let prefix = prefix.encode_to_vec();
        let bytes = seal_plaintext(&prefix, plaintext, &self.signing, &[&party], &Ones).unwrap();
        let segment = Segment::parse(bytes.into())?;
        segment.verify(&self.signing.public())?;
        Ok(segment.open(&self.stream.origin, &self.sealing)?.len())
    }
}

#[test]
fn an_honest_segment_passes() {
    let origin = Origin::new();
    let plaintext = body::encode(&origin.entries, Lane::Routine);
    assert_eq!(origin.check(&origin.prefix(), plaintext), Ok(3));
}

#[test]
fn entries_in_another_order_break_the_chain() {
    let mut origin = Origin::new();
    let prefix = origin.prefix();
    origin.entries.swap(0, 2);
    let plaintext = body::encode(&origin.entries, Lane::Routine);
    assert_eq!(origin.check(&prefix, plaintext), Err(SegmentError::ChainBroken));
}

#[test]
fn another_entry_or_salt_breaks_the_chain() {
    for change in [
        |salted: &mut SaltedEntry| salted.salt[15] ^= 1,
        |salted: &mut SaltedEntry| salted.entry = Bytes::from_static(b"other"),
    ] {
        let mut origin = Origin::new();
        let prefix = origin.prefix();
        change(&mut origin.entries[1]);
        let plaintext = body::encode(&origin.entries, Lane::Routine);
        assert_eq!(origin.check(&prefix, plaintext), Err(SegmentError::ChainBroken));
    }
}

#[test]
fn a_body_of_another_size_than_signed_is_refused() {
    let origin = Origin::new();
    for kept in [1, 2] {
        let plaintext = body::encode(&origin.entries[..kept], Lane::Routine);
        assert_eq!(origin.check(&origin.prefix(), plaintext), Err(SegmentError::CountWrong));
    }
    let more = body::encode(&[&origin.entries[..], &origin.entries[..1]].concat(), Lane::Routine);
    assert_eq!(origin.check(&origin.prefix(), more), Err(SegmentError::CountWrong));
}

#[test]
fn a_bomb_in_a_signed_segment_is_refused() {
    let origin = Origin::new();
    let bomb = body::frame(&vec![0; 64 << 20], Lane::Routine);
    assert_eq!(origin.check(&origin.prefix(), bomb), Err(SegmentError::TooLarge));
    let noise = b"no frame".repeat(9);
    assert_eq!(origin.check(&origin.prefix(), noise), Err(SegmentError::Unreadable));
}

#[test]
fn an_unknown_suite_or_format_is_named() {
    let origin = Origin::new();
    let refuse = |prefix: &pb::SegmentPrefix| origin.check(prefix, vec![0; 64]).unwrap_err();
    let suite = refuse(&pb::SegmentPrefix { suite: 2, ..origin.prefix() });
    assert_eq!(suite, SegmentError::SuiteUnknown(2));
    assert_eq!(suite.to_string(), "suite 2 (SM2/SM3/SM4) is not known here");
    assert_eq!(suite.reason(), Reason::SuiteUnknown);
    // Its other fields need not make sense to us.
    let prefix = pb::SegmentPrefix { suite: 9, h_after: Bytes::new(), ..origin.prefix() };
    assert_eq!(refuse(&prefix).to_string(), "suite 9 is not known here");
    let prefix = pb::SegmentPrefix { format: 3, ..origin.prefix() };
    assert_eq!(refuse(&prefix), SegmentError::FormatUnknown(3));
}

#[test]
fn each_field_of_the_prefix_is_checked() {
    let origin = Origin::new();
    type Change = fn(&mut pb::SegmentPrefix);
    let malformed = SegmentError::Malformed;
    let cases: &[(SegmentError, Change)] = &[
        (malformed("key_id"), |p| p.key_id = Bytes::from_static(&[1; 7])),
        (malformed("stream"), |p| p.stream = None),
        (malformed("stream.origin"), |p| p.stream.as_mut().unwrap().origin = "A".into()),
        (malformed("stream.epoch"), |p| p.stream.as_mut().unwrap().epoch = vec![7; 15].into()),
        (malformed("stream.agreement_id"), |p| {
            p.stream.as_mut().unwrap().agreement_id = vec![0; 16].into();
        }),
        (malformed("stream.agreement_version"), |p| {
            p.stream.as_mut().unwrap().agreement_version = 0;
        }),
        (malformed("stream.lane"), |p| p.stream.as_mut().unwrap().lane = 4),
        (malformed("first_seq"), |p| p.first_seq = 0),
        (malformed("first_seq"), |p| p.first_seq = u64::MAX),
        (malformed("first_seq"), |p| p.first_seq = SEQ_MAX - 1),
        (malformed("count"), |p| p.count = 0),
        (SegmentError::TooLarge, |p| p.count = 513),
        (malformed("h_before"), |p| p.h_before = vec![0; 31].into()),
        (malformed("h_after"), |p| p.h_after = vec![0; 33].into()),
        (SegmentError::ChainBroken, |p| p.h_before = vec![0; 32].into()),
        (malformed("expire_time"), |p| p.expire_time = None),
        (malformed("expire_time"), |p| p.expire_time.as_mut().unwrap().nanos = 1_000_000_000),
        (malformed("expire_time"), |p| p.expire_time.as_mut().unwrap().seconds = i64::MAX),
        (SegmentError::TooLarge, |p| p.stream.as_mut().unwrap().origin = "a".repeat(1024)),
    ];
    for (expected, change) in cases {
        let mut prefix = origin.prefix();
        change(&mut prefix);
        let plaintext = body::encode(&origin.entries, Lane::Routine);
        assert_eq!(origin.check(&prefix, plaintext), Err(*expected), "{prefix:?}");
    }
}

#[test]
fn wraps_name_each_party_once_in_order_and_the_origin_among_them() {
    let origin = Origin::new();
    let plaintext = body::encode(&origin.entries, Lane::Routine);
    let party = |name: &str| (RegionId::parse(name).unwrap(), origin.sealing.public());
    let parse = |names: &[&str]| {
        let parties: Vec<_> = names.iter().map(|name| party(name)).collect();
        let parties: Vec<_> = parties.iter().collect();
        let prefix = origin.prefix().encode_to_vec();
        let plaintext = plaintext.clone();
        let bytes = seal_plaintext(&prefix, plaintext, &origin.signing, &parties, &Ones).unwrap();
        Segment::parse(bytes.into()).map(|segment| segment.wraps.len())
    };
    assert_eq!(parse(&["qianjiang", "xianfeng", "xiaonanhai"]), Ok(3));
    let refused = Err(SegmentError::Malformed("wraps"));
    assert_eq!(parse(&[]), refused);
    assert_eq!(parse(&["qianjiang"]), refused);
    assert_eq!(parse(&["xiaonanhai", "qianjiang"]), refused);
    assert_eq!(parse(&["xiaonanhai", "xiaonanhai"]), refused);
    let many: Vec<_> = (0..64).map(|i| format!("a-{i:03}")).collect();
    let mut many: Vec<_> = many.iter().map(String::as_str).collect();
    many.push("xiaonanhai");
    assert_eq!(parse(&many), Err(SegmentError::TooLarge));
    assert_eq!(parse(&many[1..]), Ok(64));
}

/// 300,000 empty wraps would take 30 MB before they could be counted.
#[test]
fn a_flood_of_wraps_is_refused_before_it_is_decoded() {
    let segment = pb::Segment {
        prefix: Origin::new().prefix().encode_to_vec().into(),
        sealed: vec![0; 64].into(),
        wraps: [0x0a, 0].repeat(300_000).into(),
        signature: vec![0; 64].into(),
    };
    let refused = Segment::parse(segment.encode_to_vec().into());
    assert_eq!(refused.unwrap_err(), SegmentError::TooLarge);
}

#[test]
fn two_parties_with_one_key_cannot_swap_their_wraps() {
    let origin = Origin::new();
    let other = RegionId::parse("qianjiang").unwrap();
    let key = origin.sealing.public();
    let parties = [(other.clone(), key), (origin.stream.origin.clone(), key)];
    let parties: Vec<_> = parties.iter().collect();
    let plaintext = body::encode(&origin.entries, Lane::Routine);
    let prefix = origin.prefix().encode_to_vec();
    let bytes = seal_plaintext(&prefix, plaintext, &origin.signing, &parties, &Ones).unwrap();
    let mut segment = Segment::parse(bytes.into()).unwrap();
    assert!(segment.open(&other, &origin.sealing).is_ok());
    segment.wraps[0] = PartyWrap { party: other.clone(), ..segment.wraps[1].clone() };
    assert_eq!(segment.open(&other, &origin.sealing), Err(SegmentError::Unopenable));
}
