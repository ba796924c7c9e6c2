//! Signed objects: who signed, and what.

use crate::fixture::{NOW, region, stream};
use bytes::Bytes;
use domain::kernel::{Lane, Reason};
use domain::stream::Position;
use proptest::prelude::*;
use prost::Message;
use proto::exchange::v1 as pb;
use proto::kernel::v1::SignedObject;
use seal::key::key_fingerprint;
use seal::signed::{
    APPLIED_PER_HELLO_MAX, Head, Hello, Receipt, SignedError, add_signature, sign, signer,
    verify_all, verify_one,
};
use seal::{chain, tag};

fn receipt() -> Receipt {
    Receipt {
        stream: stream(Lane::Routine),
        position: Position { seq: 500, h: [5; 32] },
        party: region("xianfeng").id,
        created_at: NOW,
        parked: vec![(7, Reason::KindUnknown), (90, Reason::EntryUnreadable)],
        parked_count: 2,
    }
}

fn head() -> Head {
    let position = Position { seq: 500, h: [5; 32] };
    Head { stream: stream(Lane::Alert), position, created_at: NOW }
}

fn hello() -> Hello {
    let stream = stream(Lane::Routine);
    let start = chain::start(&stream);
    Hello {
        region: region("xianfeng").id,
        nonce: [8; 32],
        gateway: "gw-1".parse().unwrap(),
        protocol: 1,
        lanes: vec![Lane::Alert, Lane::Routine],
        applied: vec![(stream.clone(), start), (stream, Position { seq: 3, h: [3; 32] })],
        software: "wuling 0.1.0".into(),
        trust: Default::default(),
        agreements: Vec::new(),
        takes_proposals: true,
    }
}

/// Encoded anew with one field changed, and signed again by the same signer.
fn resign<M: Message + Default>(
    object: &SignedObject,
    tag: &[u8],
    change: impl FnOnce(&mut M),
) -> SignedObject {
    let mut body = M::decode(object.body.clone()).unwrap();
    change(&mut body);
    let signer = signer(object).unwrap();
    sign(tag, body.encode_to_vec(), signer.as_str(), &region(signer.as_str()).signing)
}

#[test]
fn what_was_signed_is_read() {
    let (xianfeng, origin) = (region("xianfeng").signing, region("xiaonanhai").signing);
    let object = receipt().sign(&xianfeng);
    assert_eq!(signer(&object), Ok(region("xianfeng").id));
    assert_eq!(Receipt::verify(&object, &xianfeng.public()), Ok(receipt()));
    assert_eq!(Head::verify(&head().sign(&origin), &origin.public()), Ok(head()));
    let object = hello().sign(&xianfeng);
    assert_eq!(
        Hello::verify(&object, &xianfeng.public(), &[8; 32], &"gw-1".parse().unwrap()),
        Ok(hello())
    );
}

#[test]
fn an_object_under_another_tag_is_refused() {
    let key = region("xianfeng").signing;
    let invalid = SignedError::SignatureInvalid("xianfeng".into());
    let body = receipt().sign(&key).body;
    for other in [tag::HEAD, tag::HELLO, tag::AGREEMENT, tag::DIRECTORY, tag::SEGMENT, b""] {
        let object = sign(other, body.clone(), "xianfeng", &key);
        assert_eq!(Receipt::verify(&object, &key.public()), Err(invalid.clone()));
    }
    for tag in [tag::HEAD, tag::RECEIPT] {
        let object = sign(tag, hello().sign(&key).body, "xianfeng", &key);
        assert_eq!(
            Hello::verify(&object, &key.public(), &[8; 32], &"gw-1".parse().unwrap()),
            Err(invalid.clone())
        );
    }
    let origin = region("xiaonanhai").signing;
    let object = sign(tag::RECEIPT, head().sign(&origin).body, "xiaonanhai", &origin);
    assert_eq!(invalid.reason(), Reason::SignatureInvalid);
    assert!(Head::verify(&object, &origin.public()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_bit_flip_in_a_signed_object_is_refused(bit in any::<prop::sample::Index>()) {
        let key = region("xianfeng").signing;
        for (object, verify) in [
            (receipt().sign(&key), (|o, p| Receipt::verify(o, p).is_ok()) as fn(&_, &_) -> bool),
            (hello().sign(&key), |o, p| Hello::verify(o, p, &[8; 32], &"gw-1".parse().unwrap()).is_ok()),
        ] {
            let mut bent = object.encode_to_vec();
            let bit = bit.index(bent.len() * 8);
            bent[bit / 8] ^= 1 << (bit % 8);
            if let Ok(bent) = SignedObject::decode(&bent[..]) {
                prop_assert!(!verify(&bent, &key.public()));
            }
        }
    }
}

#[test]
fn nobody_signs_for_another_region() {
    let key = region("qianjiang").signing;
    let wrong = SignedError::SignerWrong;
    let by_qianjiang = |tag: &[u8], object: SignedObject| sign(tag, object.body, "qianjiang", &key);
    let object = by_qianjiang(tag::RECEIPT, receipt().sign(&key));
    assert_eq!(Receipt::verify(&object, &key.public()).unwrap_err(), wrong);
    let object = by_qianjiang(tag::HEAD, head().sign(&key));
    assert_eq!(Head::verify(&object, &key.public()).unwrap_err(), wrong);
    let object = by_qianjiang(tag::HELLO, hello().sign(&key));
    assert_eq!(
        Hello::verify(&object, &key.public(), &[8; 32], &"gw-1".parse().unwrap()).unwrap_err(),
        wrong
    );
}

#[test]
fn a_hello_answers_one_challenge() {
    let key = region("xianfeng").signing;
    let refused =
        Hello::verify(&hello().sign(&key), &key.public(), &[9; 32], &"gw-1".parse().unwrap());
    assert_eq!(refused, Err(SignedError::NonceWrong));
}

#[test]
fn a_rotated_key_is_told_from_a_forgery() {
    let (old, new) = (region("xianfeng").signing, region("qianjiang").signing);
    let mut object = receipt().sign(&old);
    let refused = Receipt::verify(&object, &new.public());
    assert_eq!(refused, Err(SignedError::KeyUnknown("xianfeng".into())));
    // During a rotation an object may carry both.
    add_signature(&mut object, tag::RECEIPT, "xianfeng", &new);
    assert!(verify_one(&object, tag::RECEIPT, "xianfeng", &old.public()).is_ok());
    assert!(verify_one(&object, tag::RECEIPT, "xianfeng", &new.public()).is_ok());
}

#[test]
fn every_named_signer_must_have_signed() {
    let (a, b, c) = (region("xiaonanhai"), region("xianfeng"), region("qianjiang"));
    let mut object = sign(tag::AGREEMENT, &b"terms"[..], a.id.as_str(), &a.signing);
    add_signature(&mut object, tag::AGREEMENT, b.id.as_str(), &b.signing);
    let named = |r: &crate::fixture::Region| (r.id.as_str().to_owned(), r.signing.public());
    let check = |object: &SignedObject, signers: &[(String, [u8; 32])]| {
        let signers: Vec<_> = signers.iter().map(|(name, key)| (name.as_str(), *key)).collect();
        verify_all(object, tag::AGREEMENT, &signers).cloned()
    };
    assert_eq!(check(&object, &[named(&a), named(&b)]), Ok(Bytes::from_static(b"terms")));
    assert_eq!(check(&object, &[named(&b)]), Ok(Bytes::from_static(b"terms")));
    let missing = SignedError::SignatureMissing("qianjiang".into());
    assert_eq!(check(&object, &[named(&a), named(&c), named(&b)]), Err(missing));
    assert_eq!(check(&object, &[]), Err(SignedError::SignerUnclear));
    let bent = SignedObject { body: Bytes::from_static(b"Terms"), ..object.clone() };
    let invalid = SignedError::SignatureInvalid("xiaonanhai".into());
    assert_eq!(check(&bent, &[named(&a), named(&b)]), Err(invalid));
    object.signatures.swap(0, 1);
    let names: Vec<_> = object.signatures.iter().map(|s| s.signer.clone()).collect();
    object.signatures[0].signer.clone_from(&names[1]);
    object.signatures[1].signer.clone_from(&names[0]);
    assert!(check(&object, &[named(&a)]).is_err());
}

#[test]
fn limits_hold_before_anything_is_verified() {
    let key = region("xianfeng").signing;
    let large = sign(tag::DIRECTORY, vec![0; 1024 * 1024 + 1], "xianfeng", &key);
    let refused = verify_one(&large, tag::DIRECTORY, "xianfeng", &key.public()).unwrap_err();
    assert_eq!((&refused, refused.reason()), (&SignedError::TooLarge, Reason::LimitExceeded));
    let mut many = receipt().sign(&key);
    let one = many.signatures[0].clone();
    many.signatures.resize(65, one);
    let refused = verify_one(&many, tag::RECEIPT, "xianfeng", &key.public());
    assert_eq!(refused, Err(SignedError::TooLarge));
    let long = sign(tag::RECEIPT, vec![0; 8 * 1024 + 1], "xianfeng", &key);
    assert_eq!(Receipt::verify(&long, &key.public()), Err(SignedError::TooLarge));
}

#[test]
fn a_receipt_names_the_newest_hundred_parked_entries() {
    let key = region("xianfeng").signing;
    let many = Receipt {
        parked: (1..=300).map(|seq| (seq, Reason::KindUnknown)).collect(),
        parked_count: 300,
        ..receipt()
    };
    let read = Receipt::verify(&many.sign(&key), &key.public()).unwrap();
    assert_eq!(read.parked, many.parked[200..]);
    assert_eq!(read.parked_count, 300);
}

#[test]
fn a_receipt_with_a_reason_of_a_later_release_is_taken() {
    let key = region("xianfeng").signing;
    let object = resign::<pb::Receipt>(&receipt().sign(&key), tag::RECEIPT, |body| {
        body.parked[0].reason = 9_999;
    });
    let read = Receipt::verify(&object, &key.public()).unwrap();
    assert_eq!(read.parked[0], (7, Reason::EntryUnreadable));
}

#[test]
fn each_field_of_a_receipt_is_checked() {
    let key = region("xianfeng").signing;
    type Change = fn(&mut pb::Receipt);
    let cases: &[(&str, Change)] = &[
        ("position", |r| r.position = None),
        ("stream", |r| r.position.as_mut().unwrap().stream = None),
        ("position.seq", |r| r.position.as_mut().unwrap().seq = u64::MAX),
        ("position.h", |r| r.position.as_mut().unwrap().h = vec![1; 31].into()),
        ("position.h", |r| r.position.as_mut().unwrap().seq = 0),
        ("party", |r| r.party = "咸丰".into()),
        ("create_time", |r| r.create_time = None),
        ("parked.seq", |r| r.parked[0].seq = 0),
        ("parked.seq", |r| r.parked[1].seq = 501),
        ("parked_count", |r| r.parked_count = 1),
        ("parked_count", |r| r.parked_count = 501),
    ];
    for (field, change) in cases {
        let object = resign(&receipt().sign(&key), tag::RECEIPT, change);
        let refused = Receipt::verify(&object, &key.public());
        assert_eq!(refused, Err(SignedError::Malformed(field)));
    }
}

#[test]
fn each_field_of_a_hello_is_checked() {
    let key = region("xianfeng").signing;
    type Change = fn(&mut pb::Hello);
    let malformed = SignedError::Malformed;
    let cases: &[(SignedError, Change)] = &[
        (malformed("region_id"), |h| h.region_id.clear()),
        (malformed("nonce"), |h| h.nonce = vec![8; 31].into()),
        (malformed("lanes"), |h| h.lanes.clear()),
        (malformed("lanes"), |h| h.lanes[0] = 0),
        (SignedError::TooLarge, |h| h.lanes = vec![1; 4]),
        (malformed("software"), |h| h.software = "a".repeat(65)),
        (malformed("software"), |h| h.software = "a\nb".into()),
        (malformed("stream"), |h| h.applied[1].stream = None),
        (SignedError::TooLarge, |h| {
            h.applied = vec![pb::StreamPosition::default(); APPLIED_PER_HELLO_MAX + 1];
        }),
    ];
    for (expected, change) in cases {
        let object = resign(&hello().sign(&key), tag::HELLO, change);
        let refused = Hello::verify(&object, &key.public(), &[8; 32], &"gw-1".parse().unwrap());
        assert_eq!(refused, Err(expected.clone()));
    }
}

#[test]
fn a_fingerprint_begins_with_the_key_id() {
    let public = region("xianfeng").signing.public();
    assert_eq!(key_fingerprint(&public)[..8], seal::key::key_id(&public));
}
