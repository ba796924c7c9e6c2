//! Goal: a region's keys change along a chain that both keys sign, and no other way; what a former key signed counts as
//! long as it should. Method: a region of an authority's word changes its keys once and twice.

use crate::delegated::{Word, linkage, listed, root};
use crate::fixture::{Counter, NOW, region};
use domain::agreement::{Agreement, AgreementForm, Clause, Force, Grant, Party, Release};
use domain::directory::{FormerKey, Region};
use domain::freshness::{Member, Revocation};
use domain::kernel::{AgreementId, Purpose, Reason, Timestamp};
use prost::Message as _;
use proto::convert;
use proto::convert::directory::KeyChange;
use proto::kernel::v1::SignedObject;
use seal::key::{key_fingerprint, key_id};
use seal::trust::{self, KEY_DAYS, Trust, TrustError};
use seal::{signed, tag};

const COUNTY: &str = "qianjiang";
const OTHER: &str = "xianfeng";
/// Whose keys the county has after each change.
const SECOND: &str = "second";
const THIRD: &str = "third";

/// One change, from the keys of one name to those of another.
fn change(from: &str, to: &str, at: Timestamp) -> KeyChange {
    KeyChange {
        linkage_id: linkage(),
        region_id: region(COUNTY).id,
        former_signing_key: region(from).signing.public(),
        signing_key: region(to).signing.public(),
        sealing_key: region(to).sealing.public(),
        created_at: at,
    }
}

fn signed_change(from: &str, to: &str, at: Timestamp) -> FormerKey {
    trust::change(&change(from, to, at), &region(from).signing, &region(to).signing)
}

/// The county with the keys of this name, and these changes.
fn county(keys: &str, former_keys: Vec<FormerKey>) -> Region {
    let keys = region(keys);
    Region {
        signing_key: keys.signing.public(),
        sealing_key: keys.sealing.public(),
        former_keys,
        ..listed(COUNTY, None)
    }
}

fn read(county: Region) -> Result<Trust, TrustError> {
    let mut word = Word::new();
    word.listed = vec![county, listed(OTHER, None)];
    Trust::read(&root(), word.set(&[])).map(|(trust, _)| trust)
}

/// After two changes, the second an hour ago.
fn twice() -> Trust {
    let changes = vec![
        signed_change(COUNTY, SECOND, NOW.plus_days(-9)),
        signed_change(SECOND, THIRD, NOW.plus_days(-1)),
    ];
    read(county(THIRD, changes)).unwrap()
}

fn revoking(mut trust: Trust, keys: &str) -> Trust {
    trust.freshness.as_mut().unwrap().revocations.push(Revocation {
        member: Member::Region(region(COUNTY).id),
        key_sha256: key_fingerprint(&region(keys).signing.public()),
        revoked_at: NOW,
        cut: None,
    });
    trust
}

/// An agreement that pins the county's keys of one name and is signed with those of another.
fn agreed(pinned: &str, signed_with: &str) -> SignedObject {
    let party = |slug: &str, keys: &str| Party {
        region: region(slug).id,
        signing_key_sha256: key_fingerprint(&region(keys).signing.public()),
    };
    let agreement = Agreement {
        agreement_id: AgreementId::mint(NOW, &Counter::default()),
        version: 1,
        form: AgreementForm::Agreement,
        title: "平安边界".to_owned(),
        parties: vec![party(COUNTY, pinned), party(OTHER, OTHER)],
        clauses: vec![Clause::whole(Grant::EventDetail, Release::AtOnce)],
        purposes: vec![Purpose::Duty],
        started_at: NOW,
        ended_at: NOW.plus_days(90),
        retention_days: None,
        force: Force::InForce,
        supersedes: None,
        sha256: [0; 32],
    };
    let body = convert::agreement::encode(&agreement);
    let mut object = signed::sign(tag::AGREEMENT, body, COUNTY, &region(signed_with).signing);
    signed::add_signature(&mut object, tag::AGREEMENT, OTHER, &region(OTHER).signing);
    object
}

fn key_at(trust: &Trust, keys: &str, now: Timestamp) -> bool {
    let key = region(keys).signing.public();
    trust.key_of(&region(COUNTY).id, &key_id(&key), now) == Some(key)
}

#[test]
fn a_chain_that_both_keys_sign_is_believed_and_written_again_as_it_was() {
    let trust = twice();
    let former = &trust.directory.regions[&region(COUNTY).id].former_keys;
    let keys: Vec<_> = former.iter().map(|former| former.signing_key).collect();
    assert_eq!(keys, [COUNTY, SECOND].map(|keys| region(keys).signing.public()));
    let again = convert::directory::encode(&trust.directory);
    assert_eq!(seal::key::sha256(&again), trust.directory_sha256());
    // Older changes may be left out.
    let late = signed_change(SECOND, THIRD, NOW);
    assert!(read(county(THIRD, vec![late])).is_ok());
}

#[test]
fn a_chain_that_is_forged_or_leads_elsewhere_is_refused() {
    let refused = |keys: &str, changes: Vec<FormerKey>| {
        let error = read(county(keys, changes)).unwrap_err();
        assert!(matches!(error, TrustError::KeyChangeBroken(_)), "{error}");
        assert_eq!(error.reason(), Reason::SignatureInvalid);
    };
    let good = || signed_change(COUNTY, SECOND, NOW);
    assert!(read(county(SECOND, vec![good()])).is_ok(), "the control");
    // To other keys than are listed, or with a gap, or in the other order of time.
    refused(THIRD, vec![good()]);
    refused(THIRD, vec![good(), signed_change("another", THIRD, NOW)]);
    refused(THIRD, vec![good(), signed_change(SECOND, THIRD, NOW.plus_days(-1))]);
    // The thief of neither, or of one key.
    let by = |former: &str, new: &str| {
        let thief = |keys: &str| region(keys).signing;
        let made = trust::change(&change(COUNTY, SECOND, NOW), &thief(former), &thief(new));
        FormerKey { signing_key: region(COUNTY).signing.public(), ..made }
    };
    refused(SECOND, vec![by("thief", "thief")]);
    refused(SECOND, vec![by(COUNTY, "thief")]);
    refused(SECOND, vec![by("thief", SECOND)]);
    // Of another region, or another linkage.
    let other = KeyChange { region_id: region(OTHER).id, ..change(COUNTY, SECOND, NOW) };
    let keys = [COUNTY, SECOND].map(|keys| region(keys).signing);
    refused(SECOND, vec![trust::change(&other, &keys[0], &keys[1])]);
    let other = KeyChange { linkage_id: "another".parse().unwrap(), ..change(COUNTY, SECOND, NOW) };
    refused(SECOND, vec![trust::change(&other, &keys[0], &keys[1])]);
    // Any bit of a signature.
    let mut object = SignedObject::decode(good().signed.as_slice()).unwrap();
    for which in 0..2 {
        let mut bytes = object.signatures[which].signature.to_vec();
        bytes[5] ^= 1;
        let before = std::mem::replace(&mut object.signatures[which].signature, bytes.into());
        refused(SECOND, vec![FormerKey { signed: object.encode_to_vec(), ..good() }]);
        object.signatures[which].signature = before;
    }
}

#[test]
fn a_former_key_counts_for_its_days_and_one_that_is_revoked_not_at_all() {
    let trust = twice();
    assert!([COUNTY, SECOND, THIRD].iter().all(|keys| key_at(&trust, keys, NOW)));
    assert!(!key_at(&trust, "another", NOW));
    let last = NOW.plus_days(-9 + KEY_DAYS);
    assert!(key_at(&trust, COUNTY, last.plus_millis(-1)));
    assert!(!key_at(&trust, COUNTY, last));
    assert!(key_at(&trust, SECOND, last), "it was changed later");
    assert!(key_at(&trust, THIRD, NOW.plus_days(9_999)));
    // Agreements and who owns a record last.
    let listed = &trust.directory.regions[&region(COUNTY).id];
    let first = region(COUNTY).signing.public();
    assert_eq!(trust.key_lasting(listed, &key_id(&first)), first);
    let revoked = revoking(twice(), COUNTY);
    assert!(!key_at(&revoked, COUNTY, NOW) && key_at(&revoked, SECOND, NOW));
    assert_eq!(revoked.key_lasting(listed, &key_id(&first)), listed.signing_key);
    assert!(revoked.find_region(&region(COUNTY).id).is_some());
    // With its present key the region itself is revoked.
    assert!(!key_at(&revoking(twice(), THIRD), SECOND, NOW));
}

#[test]
fn an_agreement_goes_on_under_the_keys_that_came_after_the_one_it_pins() {
    let trust = twice();
    let believed = |object: &SignedObject, trust: &Trust| trust::agreement(object, None, trust);
    for (pinned, with) in
        [(COUNTY, COUNTY), (COUNTY, THIRD), (SECOND, SECOND), (SECOND, THIRD), (THIRD, THIRD)]
    {
        let object = agreed(pinned, with);
        assert!(believed(&object, &trust).is_ok(), "{pinned} {with}");
        assert!(trust::agreement_again(&object, None, &trust).is_ok(), "{pinned} {with}");
    }
    // A key that came before the one that is pinned signs nothing new.
    for (pinned, with) in [(SECOND, COUNTY), (THIRD, SECOND), (COUNTY, "another")] {
        let refused = believed(&agreed(pinned, with), &trust).unwrap_err();
        assert!(matches!(refused, TrustError::Unsigned { .. }), "{pinned} {with}");
    }
    // Without the chain the same change is another region's.
    let bare = read(county(SECOND, Vec::new())).unwrap();
    let refused = believed(&agreed(COUNTY, COUNTY), &bare).unwrap_err();
    assert!(matches!(refused, TrustError::KeyNotPinned(_)));
    // Nor does it go on under a key that was revoked.
    let refused = believed(&agreed(COUNTY, COUNTY), &revoking(twice(), COUNTY)).unwrap_err();
    assert!(matches!(refused, TrustError::KeyNotPinned(_)));
    let refused = believed(&agreed(COUNTY, SECOND), &revoking(twice(), SECOND)).unwrap_err();
    assert!(matches!(refused, TrustError::Unsigned { .. }));
}
