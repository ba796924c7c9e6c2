//! A phone trades a code for a certificate.

use crate::world::*;
use domain::kernel::Role;
use proto::device::v1 as pb;
use tonic::Code;

fn invalid() -> (Code, String) {
    (Code::PermissionDenied, "ENROLMENT_CODE_INVALID".to_owned())
}

#[tokio::test]
async fn a_code_enrols_one_phone_once() {
    let world = World::new().await;
    let code = world.code("xiaonanhai", Role::Patroller);
    let phone = world.enrol("xiaonanhai", &code).await.unwrap();
    assert_eq!(phone.device_id.len(), 16);
    // Its certificate lets it in.
    assert!(phone.pull(None).await.0.is_empty());
    assert_eq!(refused(world.enrol("xiaonanhai", &code).await.map(drop)), invalid());
}

#[tokio::test]
async fn a_wrong_code_or_one_older_than_15_minutes_enrols_nobody() {
    let world = World::new().await;
    let code = world.code("xiaonanhai", Role::Patroller);
    let wrong = world.enrol("xiaonanhai", "enrolment-code-wrong").await;
    assert_eq!(refused(wrong.map(drop)), invalid());
    // A code of one region is none of another.
    assert_eq!(refused(world.enrol("zhoubai", &code).await.map(drop)), invalid());
    world.clock.advance(15 * 60_000);
    assert_eq!(refused(world.enrol("xiaonanhai", &code).await.map(drop)), invalid());
    let devices: i64 = world
        .beside("xiaonanhai")
        .query_row("SELECT count(*) FROM device", [], |row| row.get(0))
        .unwrap();
    assert_eq!(devices, 0);
}

#[tokio::test]
async fn what_is_no_request_for_a_certificate_is_refused_by_field() {
    let world = World::new().await;
    let code = world.code("xiaonanhai", Role::Patroller);
    let good = pb::EnrolRequest {
        region_id: "xiaonanhai".to_owned(),
        code,
        certificate_request: vec![1, 2, 3].into(),
        model: "phone".to_owned(),
    };
    let channel = world.channel("xiaonanhai", None);
    let mut client = pb::device_service_client::DeviceServiceClient::new(channel);
    let cases = [
        (good.clone(), "certificate_request"),
        (pb::EnrolRequest { code: "short".to_owned(), ..good.clone() }, "code"),
        (pb::EnrolRequest { model: "x".repeat(65), ..good.clone() }, "model"),
    ];
    for (request, field) in cases {
        let status = in_time(client.enrol(request)).await.unwrap_err();
        assert_eq!((status.code(), &reason(&status)[..]), (Code::InvalidArgument, "FIELD_INVALID"));
        assert!(status.message().starts_with(field), "{}", status.message());
    }
    let unknown = pb::EnrolRequest { region_id: "huolu".to_owned(), ..good };
    let status = in_time(client.enrol(unknown)).await.unwrap_err();
    assert_eq!((status.code(), &reason(&status)[..]), (Code::NotFound, "REGION_UNKNOWN"));
}
