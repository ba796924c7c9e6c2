use super::samples;
use crate::convert::kernel::{decode_time, encode_time};
use crate::convert::{agreement, body, directory, operation, record};
use crate::risk::v1 as risk_pb;
use crate::{
    agreement::v1 as agreement_pb, device::v1 as device_pb, directory::v1 as directory_pb,
};
use crate::{exchange::v1 as exchange_pb, kernel::v1 as pb, patrol::v1 as patrol_pb};
use domain::kernel::Revision;
use domain::operation::Operation;
use domain::record::RecordMeta;
use domain::stream::{Position, StreamId};
use proptest::prelude::*;
use prost::Message;

proptest! {
    #[test]
    fn a_time_comes_back(time in samples::time()) {
        prop_assert_eq!(decode_time(encode_time(time)), Some(time));
    }

    #[test]
    fn a_revision_comes_back(revision in samples::revision()) {
        prop_assert_eq!(Revision::try_from(pb::Revision::from(&revision)), Ok(revision));
    }

    #[test]
    fn an_operation_comes_back_over_the_wire(operation in samples::operation()) {
        let bytes = device_pb::Operation::from(&operation).encode_to_vec();
        let read = device_pb::Operation::decode(&bytes[..]).unwrap();
        prop_assert_eq!(Operation::try_from(read), Ok(operation));
    }

    #[test]
    fn a_body_comes_back_from_its_bytes(body in samples::body()) {
        let bytes = body::encode(&body);
        prop_assert!(bytes.len() <= body::PAYLOAD_BYTES_MAX);
        prop_assert_eq!(body::decode(body.kind(), &bytes), Ok(body));
    }

    #[test]
    fn a_record_comes_back_but_for_its_device(record in samples::record()) {
        let read = record::decode(record::encode(&record));
        let meta = RecordMeta::try_from(pb::RecordMeta::from(&record.meta));
        prop_assert_eq!(meta.as_ref(), Ok(&record.meta));
        prop_assert_eq!(read, Ok(record));
    }

    #[test]
    fn a_stream_comes_back_under_both_its_names(
        stream in samples::stream_id(),
        position in samples::position(),
    ) {
        let read = StreamId::try_from(exchange_pb::StreamId::from(&stream));
        prop_assert_eq!(read.as_ref(), Ok(&stream));
        let read = StreamId::try_from(agreement_pb::StreamKey::from(&stream));
        prop_assert_eq!(read.as_ref(), Ok(&stream));
        let read = <(StreamId, Position)>::try_from(exchange_pb::StreamPosition::from((&stream, position)));
        prop_assert_eq!(read, Ok((stream, position)));
    }

    #[test]
    fn an_agreement_comes_back_from_its_body(agreement in samples::agreement()) {
        let read = agreement::decode(&agreement::encode(&agreement), agreement.sha256);
        prop_assert_eq!(read, Ok(agreement));
    }

    #[test]
    fn a_directory_comes_back_from_its_body(directory in samples::directory()) {
        prop_assert_eq!(directory::decode(&directory::encode(&directory)), Ok(directory));
    }

    #[test]
    fn a_countys_part_comes_back_from_its_body(part in samples::delegated()) {
        let read = directory::decode_delegated(&directory::encode_delegated(&part));
        prop_assert_eq!(read, Ok(part));
    }

    #[test]
    fn no_bytes_make_the_door_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(operation) = device_pb::Operation::decode(&bytes[..]) {
            prop_assert!(operation::decode(operation, "operations").is_err());
        }
        for &kind in domain::kernel::Kind::ALL {
            prop_assert!(body::decode(kind, &bytes).is_err() || !bytes.is_empty());
        }
        prop_assert!(agreement::decode(&bytes, [0; 32]).is_err());
        prop_assert!(directory::decode(&bytes).is_err());
        prop_assert!(directory::decode_delegated(&bytes).is_err());
    }
}

/// Holds a table of the domain against the one on the wire, number by number and name by name.
macro_rules! same_tables {
    ($($domain:ty = $wire:ty, $prefix:literal;)+) => {$(
        for number in -1_i32..100 {
            let wire = <$wire>::try_from(number).ok().filter(|_| number != 0);
            let name = wire.map(|value| value.as_str_name().strip_prefix($prefix).unwrap());
            let ours = <$domain>::try_from(number).ok();
            assert_eq!(ours.map(|value| value.name()), name, "{} {number}", stringify!($domain));
            assert_eq!(ours.map(|value| value.code()), wire.map(|_| number));
        }
    )+};
}

#[test]
fn the_code_tables_of_wire_and_domain_are_the_same() {
    use domain::{agreement, directory, kernel, patrol, risk, sharing};
    same_tables! {
        kernel::Kind = pb::Kind, "KIND_";
        kernel::Lane = pb::Lane, "LANE_";
        kernel::Datum = pb::Datum, "DATUM_";
        kernel::FixSource = pb::FixSource, "FIX_SOURCE_";
        kernel::Sensitivity = pb::Sensitivity, "SENSITIVITY_";
        kernel::EmergencyLevel = pb::EmergencyLevel, "EMERGENCY_LEVEL_";
        kernel::Purpose = pb::Purpose, "PURPOSE_";
        kernel::Role = pb::Role, "ROLE_";
        kernel::RetentionClass = pb::RetentionClass, "RETENTION_CLASS_";
        kernel::Reason = pb::ErrorReason, "ERROR_REASON_";
        patrol::ShiftState = patrol_pb::ShiftState, "SHIFT_STATE_";
        patrol::ShiftVerb = patrol_pb::ShiftVerb, "SHIFT_VERB_";
        patrol::PatrolState = patrol_pb::PatrolState, "PATROL_STATE_";
        patrol::PatrolVerb = patrol_pb::PatrolVerb, "PATROL_VERB_";
        patrol::PatrolMode = patrol_pb::PatrolMode, "PATROL_MODE_";
        patrol::RouteKind = patrol_pb::RouteKind, "ROUTE_KIND_";
        patrol::CheckInMethod = patrol_pb::CheckInMethod, "CHECK_IN_METHOD_";
        patrol::CheckInQuality = patrol_pb::CheckInQuality, "CHECK_IN_QUALITY_";
        patrol::SosTrigger = patrol_pb::SosTrigger, "SOS_TRIGGER_";
        patrol::SosState = patrol_pb::SosState, "SOS_STATE_";
        patrol::SosVerb = patrol_pb::SosVerb, "SOS_VERB_";
        risk::EventDomain = risk_pb::EventDomain, "EVENT_DOMAIN_";
        risk::EmergencyClass = risk_pb::EmergencyClass, "EMERGENCY_CLASS_";
        risk::EventSource = risk_pb::EventSource, "EVENT_SOURCE_";
        risk::EventState = risk_pb::EventState, "EVENT_STATE_";
        risk::EventVerb = risk_pb::EventVerb, "EVENT_VERB_";
        agreement::AgreementForm = agreement_pb::AgreementForm, "AGREEMENT_FORM_";
        agreement::Grant = agreement_pb::Grant, "GRANT_";
        agreement::Release = agreement_pb::Release, "RELEASE_";
        directory::CodeScheme = directory_pb::CodeScheme, "CODE_SCHEME_";
        directory::RegionLevel = directory_pb::RegionLevel, "REGION_LEVEL_";
        sharing::LeaveReason = exchange_pb::LeaveReason, "LEAVE_REASON_";
    }
}
