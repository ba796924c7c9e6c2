//! From a code on a screen to a device, and what is not taken on the way.

use crate::world::{Phone, START, authority, code, device_id, enrol, enrol_response, region_id};
use bytes::Bytes;
use device::enrolment::{CodeError, EnrolError, EnrolmentCode};
use device::key::{KeyFile, KeyFileError};
use device::{Device, OpenError, Store};
use domain::kernel::{RegionId, Role};
use proto::device::v1 as pb;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

fn text(linkage: &str, region: &str, endpoint: &str, ca: &str, code: &str) -> String {
    format!(
        "wuling:enrol?linkage={linkage}&region={region}&endpoint={endpoint}&ca={ca}&code={code}"
    )
}

#[test]
fn a_code_says_the_same_when_it_is_read_back() {
    let code = code();
    assert_eq!(EnrolmentCode::parse(&code.to_string()), Ok(code.clone()));
    assert_eq!(EnrolmentCode::parse(&format!("{code}&later=1")), Ok(code.clone()));
    assert!(code.names_authority(authority().der()));
    assert!(!code.names_authority(b"another"));
}

#[test]
fn a_code_of_the_wrong_form_is_refused_by_the_field_that_is_wrong() {
    let ca = "ab".repeat(32);
    let secret = "0123456789abcdef";
    let check = |text: &str, expect: Result<(), CodeError>| {
        assert_eq!(EnrolmentCode::parse(text).map(|_| ()), expect, "{text}");
    };
    check(&text("w", "a", "h:7443", &ca, secret), Ok(()));
    check(&text("w", "a", "[::1]:7443", &ca, secret), Ok(()));
    check("https://example.org", Err(CodeError::NotACode));
    check(&text("w", "a", &"h".repeat(2_000), &ca, secret), Err(CodeError::NotACode));
    check("wuling:enrol?region=a", Err(CodeError::NotOnce("linkage")));
    check(&text("w", "a&region=b", "h:1", &ca, secret), Err(CodeError::NotOnce("region")));
    check(&text("", "a", "h:1", &ca, secret), Err(CodeError::Invalid("linkage")));
    check(&text("w", "A", "h:1", &ca, secret), Err(CodeError::Invalid("region")));
    for endpoint in ["h", "h:", ":1", "h:0", "h:+1", "h:65536", "h/x:1", "小:1"] {
        check(&text("w", "a", endpoint, &ca, secret), Err(CodeError::Invalid("endpoint")));
    }
    for ca in [&ca[1..], &ca[2..], &"xy".repeat(32), &"小".repeat(32)] {
        check(&text("w", "a", "h:1", ca, secret), Err(CodeError::Invalid("ca")));
    }
    for secret in ["short", &"x".repeat(65), "0123456789abcde!", "0123456789abcde小"] {
        check(&text("w", "a", "h:1", &ca, secret), Err(CodeError::Invalid("code")));
    }
}

#[test]
fn the_secret_of_a_code_is_not_printed() {
    let shown = format!("{:?}", code());
    assert!(!shown.contains(&code().code), "{shown}");
}

#[test]
fn a_phone_is_who_the_region_said_it_is_after_a_restart_too() {
    let mut phone = Phone::new();
    for _ in 0..2 {
        let identity = phone.device.identity();
        assert_eq!(identity.region_id, region_id());
        assert_eq!(identity.device_id, device_id());
        assert_eq!(identity.role, Role::ShiftLead);
        assert_eq!(identity.expires_at, START.plus_days(30));
        assert_eq!(identity.certificate_chain.len(), 2);
        assert_eq!(identity.authority_certificate.as_ref(), authority().der().as_ref());
        phone.kill();
    }
}

#[test]
fn a_store_without_an_enrolment_is_no_device() {
    let phone = Phone::new();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("phone.sqlite")).unwrap();
    let clock = phone.clock;
    let refused = Device::open(store, phone.key, clock, Arc::new(Silent)).unwrap_err();
    assert!(matches!(refused, OpenError::NotEnrolled));
}

struct Silent;
impl domain::kernel::Entropy for Silent {
    fn fill(&self, out: &mut [u8]) {
        out.fill(0);
    }
}

#[test]
fn an_answer_that_does_not_hold_what_it_must_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyFile::open_or_create(&dir.path().join("device.key")).unwrap();
    let mut store = Store::open(&dir.path().join("phone.sqlite")).unwrap();
    let good = enrol_response(&key.certificate_request().unwrap());
    let mut check = |response: pb::EnrolResponse, fits: fn(&EnrolError) -> bool| {
        let refused = store.enrol(&code(), &key.public(), &response).unwrap_err();
        assert!(fits(&refused), "{refused:?}");
    };
    let other = KeyFile::open_or_create(&dir.path().join("other.key")).unwrap();
    let other = enrol_response(&other.certificate_request().unwrap());
    check(other, |error| matches!(error, EnrolError::OtherKey));
    let alone = pb::EnrolResponse {
        certificate_chain: good.certificate_chain[..1].to_vec(),
        ..good.clone()
    };
    check(alone, |error| matches!(error, EnrolError::AuthorityMissing));
    let mut swapped = good.clone();
    swapped.certificate_chain.reverse();
    check(swapped, |error| matches!(error, EnrolError::OtherKey));
    let nobody = pb::EnrolResponse { device_id: Bytes::new(), ..good.clone() };
    check(nobody, |error| matches!(error, EnrolError::ResponseInvalid("device_id")));
    let roleless = pb::EnrolResponse { role: 0, ..good.clone() };
    check(roleless, |error| matches!(error, EnrolError::ResponseInvalid("role")));
    let endless = pb::EnrolResponse { expire_time: None, ..good.clone() };
    check(endless, |error| matches!(error, EnrolError::ResponseInvalid("expire_time")));
    let timeless = pb::EnrolResponse { epoch: Bytes::from_static(&[0; 16]), ..good.clone() };
    check(timeless, |error| matches!(error, EnrolError::ResponseInvalid("epoch")));
    store.enrol(&code(), &key.public(), &good).unwrap();
}

#[test]
fn a_store_stays_with_its_region() {
    let dir = tempfile::tempdir().unwrap();
    let key = enrol(dir.path());
    let mut store = Store::open(&dir.path().join("phone.sqlite")).unwrap();
    let response = enrol_response(&key.certificate_request().unwrap());
    store.enrol(&code(), &key.public(), &response).unwrap();
    let elsewhere = EnrolmentCode { region_id: RegionId::parse("heixi").unwrap(), ..code() };
    let refused = store.enrol(&elsewhere, &key.public(), &response).unwrap_err();
    assert!(matches!(refused, EnrolError::OtherRegion(region) if region == region_id()));
}

#[test]
fn a_key_file_is_private_and_read_back_as_it_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("device.key");
    let made = KeyFile::open_or_create(&path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(KeyFile::open_or_create(&path).unwrap().public(), made.public());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let exposed = KeyFile::open_or_create(&path).unwrap_err();
    assert!(matches!(exposed, KeyFileError::Exposed(0o640)));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, b"no key").unwrap();
    assert!(matches!(KeyFile::open_or_create(&path), Err(KeyFileError::NotAKey)));
}
