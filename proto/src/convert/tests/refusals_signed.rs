use super::{NOW_S, by, check, nil, sample, samples, time};
use crate::convert::{Rules, agreement, directory, freshness, stream};
use crate::exchange::v1 as exchange_pb;
use crate::kernel::v1 as kernel_pb;
use crate::{agreement::v1 as agreement_pb, directory::v1 as directory_pb};
use bytes::Bytes;
use prost::Message;

#[test]
fn each_field_of_a_streams_names_is_refused() {
    let id = exchange_pb::StreamId::from(&sample(samples::stream_id()));
    check(
        "wuling.exchange.v1.StreamId",
        &id,
        by(Rules::Caller, stream::stream_id),
        &[],
        &[
            ("origin", |s| s.origin = "A".into()),
            ("epoch", |s| s.epoch = nil()),
            ("agreement_id", |s| s.agreement_id = nil()),
            ("agreement_version", |s| s.agreement_version = 0),
            ("lane", |s| s.lane = 4),
        ],
    );
    let key = agreement_pb::StreamKey::from(&sample(samples::stream_id()));
    check(
        "wuling.agreement.v1.StreamKey",
        &key,
        by(Rules::Caller, stream::stream_key),
        &[],
        &[
            ("origin_region", |s| s.origin_region.clear()),
            ("epoch", |s| s.epoch = nil()),
            ("agreement_id", |s| s.agreement_id = nil()),
            ("agreement_version", |s| s.agreement_version = 0),
            ("lane", |s| s.lane = 0),
        ],
    );
    let position =
        exchange_pb::StreamPosition { stream: Some(id), seq: 0, h: Bytes::from_static(&[7; 32]) };
    let decode = by(Rules::Caller, stream::stream_position);
    check(
        "wuling.exchange.v1.StreamPosition",
        &position,
        decode,
        &["seq"],
        &[
            ("stream", |p| p.stream = None),
            ("stream.lane", |p| p.stream.as_mut().unwrap().lane = 0),
            ("h", |p| p.h = Bytes::new()),
        ],
    );
}

fn ring() -> kernel_pb::Ring {
    kernel_pb::Ring { lon_delta_e7: vec![1, 10, 0], lat_delta_e7: vec![1, 0, 10] }
}

/// The area of the first clause.
fn area(agreement: &mut agreement_pb::Agreement) -> &mut agreement_pb::Area {
    agreement.clauses[0].area.as_mut().unwrap()
}

#[test]
fn each_field_of_an_agreement_is_refused() {
    let mut sound = agreement_pb::Agreement::from(&sample(samples::agreement()));
    let zone = agreement_pb::Zone { name: "中坝河".into(), rings: vec![ring()] };
    sound.clauses[0].area = Some(agreement_pb::Area { zones: vec![zone], ..Default::default() });
    let decode =
        |agreement: agreement_pb::Agreement| agreement::decode(&agreement.encode_to_vec(), [0; 32]);
    check(
        "wuling.agreement.v1.Agreement",
        &sound,
        decode,
        &[],
        &[
            ("agreement_id", |a| a.agreement_id = nil()),
            ("version", |a| a.version = 0),
            ("form", |a| a.form = 4),
            ("end_time", |a| (a.form, a.force) = (3, 1)),
            ("force", |a| a.force = 5),
            ("force", |a| (a.form, a.force) = (2, 4)),
            ("supersedes_sha256", |a| {
                (a.version, a.supersedes_sha256) = (2, Bytes::from_static(&[3; 31]))
            }),
            ("supersedes_sha256", |a| (a.version, a.supersedes_sha256) = (2, Bytes::new())),
            ("supersedes_sha256", |a| {
                (a.version, a.supersedes_sha256) = (1, Bytes::from_static(&[3; 32]))
            }),
            ("title", |a| a.title.clear()),
            ("title", |a| a.title = "x".repeat(129)),
            ("parties", |a| a.parties.truncate(1)),
            ("parties", |a| a.parties = vec![agreement_pb::Party::default(); 65]),
            ("parties", |a| a.parties.reverse()),
            ("parties", |a| a.parties = vec![a.parties[0].clone(), a.parties[0].clone()]),
            ("parties[0].region_id", |a| a.parties[0].region_id.clear()),
            ("parties[1].signing_key_sha256", |a| {
                a.parties[1].signing_key_sha256 = Bytes::from_static(&[1; 31]);
            }),
            ("clauses", |a| a.clauses.clear()),
            ("clauses", |a| a.clauses = vec![agreement_pb::Clause::default(); 65]),
            ("clauses[0].grant", |a| a.clauses[0].grant = 0),
            ("clauses[0].categories", |a| a.clauses[0].categories = vec!["A".into(); 65]),
            ("clauses[0].categories[0]", |a| a.clauses[0].categories = vec!["x".repeat(33)]),
            ("clauses[0].min_level", |a| a.clauses[0].min_level = 5),
            ("clauses[0].release", |a| a.clauses[0].release = 0),
            ("clauses[0].fields", |a| a.clauses[0].fields = vec!["a".into(); 65]),
            ("clauses[0].fields[0]", |a| a.clauses[0].fields = vec![String::new()]),
            ("clauses[0].area", |a| a.clauses[0].area = Some(agreement_pb::Area::default())),
            ("clauses[0].area", |a| area(a).near_parties_m = 1),
            ("clauses[0].area", |a| area(a).places = vec!["后山".into()]),
            ("clauses[0].area.zones", |a| area(a).zones = vec![area(a).zones[0].clone(); 17]),
            ("clauses[0].area.zones[0].name", |a| area(a).zones[0].name.clear()),
            ("clauses[0].area.zones[0].rings", |a| area(a).zones[0].rings.clear()),
            ("clauses[0].area.zones[0].rings", |a| {
                area(a).zones[0].rings = vec![area(a).zones[0].rings[0].clone(); 65];
            }),
            ("clauses[0].area.zones[0].rings", |a| {
                area(a).zones[0].rings[0].lon_delta_e7 = vec![0; 4_097];
            }),
            ("clauses[0].area.zones[0].rings[0].lon_delta_e7", |a| {
                area(a).zones[0].rings[0].lon_delta_e7.truncate(2);
            }),
            ("clauses[0].area.zones[0].rings[0].lon_delta_e7", |a| {
                area(a).zones[0].rings[0].lon_delta_e7[0] = 1_800_000_001;
            }),
            ("clauses[0].area.zones[0].rings[0].lat_delta_e7", |a| {
                area(a).zones[0].rings[0].lat_delta_e7[0] = -900_000_001;
            }),
            ("clauses[0].area.zones[0].rings[0].lat_delta_e7", |a| {
                area(a).zones[0].rings[0].lat_delta_e7.push(1);
            }),
            ("clauses[0].area.near_parties_m", |a| {
                let near = agreement_pb::Area { near_parties_m: 50_001, ..Default::default() };
                a.clauses[0].area = Some(near);
            }),
            ("clauses[0].area.places", |a| {
                let places = vec!["后山".into(); 65];
                a.clauses[0].area = Some(agreement_pb::Area { places, ..Default::default() });
            }),
            ("clauses[0].area.places[0]", |a| {
                let places = vec![String::new()];
                a.clauses[0].area = Some(agreement_pb::Area { places, ..Default::default() });
            }),
            ("clauses[0].precision", |a| a.clauses[0].precision = 5),
            ("retention_days", |a| a.retention_days = 3_651),
            ("purposes", |a| a.purposes.clear()),
            ("purposes", |a| a.purposes = vec![1; 9]),
            ("purposes[0]", |a| a.purposes = vec![5]),
            ("start_time", |a| a.start_time = None),
            ("end_time", |a| a.end_time = a.start_time),
        ],
    );
    assert_eq!(agreement::decode(b"\xff", [0; 32]).unwrap_err().0[0].field, "body");
}

#[test]
fn each_field_of_a_directory_is_refused() {
    let sound = directory_pb::Directory {
        linkage_id: "wuling".into(),
        version: 1,
        create_time: time(NOW_S),
        regions: vec![listed()],
        gateways: vec![directory_pb::Gateway {
            gateway_id: "gateway".into(),
            authority_certificate: Bytes::from_static(b"der"),
            endpoint: "host:7444".into(),
        }],
        freshness_key: Bytes::from_static(&[3; 32]),
        delegations: vec![directory_pb::Delegation {
            region_id: "xiaonanhai".into(),
            regions_max: 1,
        }],
    };
    let decode = |directory: directory_pb::Directory| directory::decode(&directory.encode_to_vec());
    check(
        "wuling.directory.v1.Directory",
        &sound,
        decode,
        &[],
        &[
            ("linkage_id", |d| d.linkage_id.clear()),
            ("version", |d| d.version = 0),
            ("create_time", |d| d.create_time = None),
            ("freshness_key", |d| d.freshness_key = Bytes::from_static(&[3; 31])),
            ("regions", |d| d.regions = vec![d.regions[0].clone(), d.regions[0].clone()]),
            ("regions[0].region_id", |d| d.regions[0].region_id = "x".repeat(64)),
            ("regions[0].level", |d| d.regions[0].level = 3),
            ("regions[0].codes", |d| d.regions[0].codes = vec![d.regions[0].codes[0].clone(); 9]),
            ("regions[0].codes[0].scheme", |d| d.regions[0].codes[0].scheme = 0),
            ("regions[0].codes[0].code", |d| d.regions[0].codes[0].code = "50011".into()),
            ("regions[0].codes[0].code", |d| d.regions[0].codes[0].code = "50011x".into()),
            ("regions[0].codes[0].edition", |d| d.regions[0].codes[0].edition = "23".into()),
            ("regions[0].name_zh", |d| d.regions[0].name_zh.clear()),
            ("regions[0].name_en", |d| d.regions[0].name_en = "x".repeat(65)),
            ("regions[0].superior_region", |d| d.regions[0].superior_region = "Q".into()),
            ("regions[0].signing_key", |d| d.regions[0].signing_key = Bytes::new()),
            ("regions[0].sealing_key", |d| d.regions[0].sealing_key = Bytes::from_static(&[2; 33])),
            ("regions[0].authority_certificate", |d| {
                d.regions[0].authority_certificate = Bytes::new();
            }),
            ("regions[0].endpoint", |d| d.regions[0].endpoint = "host".into()),
            ("regions[0].endpoint", |d| d.regions[0].endpoint = "host:0".into()),
            ("regions[0].outline", |d| d.regions[0].outline = vec![ring(); 65]),
            ("regions[0].outline[0].lon_delta_e7", |d| {
                d.regions[0].outline[0].lon_delta_e7.clear();
            }),
            ("regions[0].outline[0].lat_delta_e7", |d| {
                d.regions[0].outline[0].lat_delta_e7[1] = 900_000_000;
            }),
            ("gateways", |d| d.gateways = vec![d.gateways[0].clone(); 257]),
            ("gateways[0].gateway_id", |d| d.gateways[0].gateway_id.clear()),
            ("gateways[0].authority_certificate", |d| {
                d.gateways[0].authority_certificate = Bytes::from(vec![0; 4_097]);
            }),
            ("gateways[0].endpoint", |d| d.gateways[0].endpoint.clear()),
            ("delegations", |d| d.delegations = vec![d.delegations[0].clone(); 2]),
            ("delegations", |d| d.delegations[0].region_id = "elsewhere".into()),
            ("delegations[0].region_id", |d| d.delegations[0].region_id.clear()),
            ("delegations[0].regions_max", |d| d.delegations[0].regions_max = 0),
            ("delegations[0].regions_max", |d| d.delegations[0].regions_max = 1_001),
        ],
    );
}

#[test]
fn each_field_of_a_freshness_is_refused() {
    let position = directory_pb::CutPosition {
        epoch: sample(samples::stream_id()).epoch.as_bytes().to_vec().into(),
        agreement_id: sample(samples::stream_id()).agreement.as_bytes().to_vec().into(),
        agreement_version: 1,
        lane: 2,
        seq: 1,
        h: Bytes::from_static(&[7; 32]),
    };
    let revocation = directory_pb::Revocation {
        region_id: "xianfeng".into(),
        gateway_id: String::new(),
        key_sha256: Bytes::from_static(&[3; 32]),
        revoke_time: time(NOW_S),
        is_cut: true,
        cut: vec![position],
    };
    let agreement = directory_pb::AgreementHead {
        agreement_id: sample(samples::stream_id()).agreement.as_bytes().to_vec().into(),
        version: 1,
        sha256: Bytes::from_static(&[3; 32]),
    };
    let head = directory_pb::DelegatedHead {
        superior_region: "qianjiang".into(),
        version: 1,
        sha256: Bytes::from_static(&[1; 32]),
    };
    let sound = directory_pb::Freshness {
        linkage_id: "wuling".into(),
        create_time: time(NOW_S),
        directory_version: 1,
        directory_sha256: Bytes::from_static(&[3; 32]),
        revocations: vec![revocation],
        agreements: vec![agreement],
        delegated: vec![head],
    };
    let decode = |freshness: directory_pb::Freshness| freshness::decode(&freshness.encode_to_vec());
    // What is read is what was said.
    let read = decode(sound.clone()).unwrap();
    assert_eq!(directory_pb::Freshness::from(&read), sound);
    check(
        "wuling.directory.v1.Freshness",
        &sound,
        decode,
        &[],
        &[
            ("linkage_id", |f| f.linkage_id.clear()),
            ("create_time", |f| f.create_time = None),
            ("directory_version", |f| f.directory_version = 0),
            ("directory_sha256", |f| f.directory_sha256 = Bytes::from_static(&[3; 31])),
            ("revocations", |f| f.revocations = vec![f.revocations[0].clone(); 1_001]),
            ("revocations[0].region_id", |f| f.revocations[0].region_id.clear()),
            ("revocations[0].region_id", |f| f.revocations[0].gateway_id = "gw-1".into()),
            ("revocations[0].key_sha256", |f| f.revocations[0].key_sha256 = Bytes::new()),
            ("revocations[0].revoke_time", |f| f.revocations[0].revoke_time = None),
            ("revocations[0].cut", |f| f.revocations[0].is_cut = false),
            ("revocations[0].cut", |f| {
                let revoked = &mut f.revocations[0];
                (revoked.region_id, revoked.gateway_id) = (String::new(), "gw-1".into());
            }),
            ("revocations[0].cut", |f| {
                let revoked = &mut f.revocations[0];
                revoked.cut = vec![revoked.cut[0].clone(); 2];
            }),
            ("revocations[0].cut", |f| {
                let revoked = &mut f.revocations[0];
                revoked.cut = vec![revoked.cut[0].clone(); 1_001];
            }),
            ("revocations", |f| {
                let streams = 1..=501;
                let of = |version| {
                    let known = &f.revocations[0].cut[0];
                    directory_pb::CutPosition { agreement_version: version, ..known.clone() }
                };
                f.revocations[0].cut = streams.map(of).collect();
                f.revocations = vec![f.revocations[0].clone(); 2];
            }),
            ("revocations[0].cut[0].epoch", |f| f.revocations[0].cut[0].epoch = nil()),
            ("revocations[0].cut[0].agreement_id", |f| {
                f.revocations[0].cut[0].agreement_id = nil();
            }),
            ("revocations[0].cut[0].agreement_version", |f| {
                f.revocations[0].cut[0].agreement_version = 0;
            }),
            ("revocations[0].cut[0].lane", |f| f.revocations[0].cut[0].lane = 4),
            ("revocations[0].cut[0].seq", |f| f.revocations[0].cut[0].seq = 0),
            ("revocations[0].cut[0].h", |f| f.revocations[0].cut[0].h = Bytes::new()),
            ("agreements", |f| f.agreements = vec![f.agreements[0].clone(); 2]),
            ("agreements[0].agreement_id", |f| f.agreements[0].agreement_id = nil()),
            ("agreements[0].version", |f| f.agreements[0].version = 0),
            ("agreements[0].sha256", |f| f.agreements[0].sha256 = Bytes::new()),
            ("delegated", |f| f.delegated = vec![f.delegated[0].clone(); 2]),
            ("delegated", |f| f.delegated = vec![f.delegated[0].clone(); 1_001]),
            ("delegated[0].superior_region", |f| f.delegated[0].superior_region.clear()),
            ("delegated[0].version", |f| f.delegated[0].version = 0),
            ("delegated[0].sha256", |f| f.delegated[0].sha256 = Bytes::new()),
        ],
    );
}

fn listed() -> directory_pb::Region {
    directory_pb::Region {
        region_id: "xiaonanhai".into(),
        level: 1,
        codes: vec![directory_pb::DivisionCode {
            scheme: 3,
            code: "500114117".into(),
            edition: "2023".into(),
        }],
        name_zh: "小南海镇".into(),
        name_en: "Xiaonanhai".into(),
        superior_region: "qianjiang".into(),
        signing_key: Bytes::from_static(&[1; 32]),
        sealing_key: Bytes::from_static(&[2; 32]),
        authority_certificate: Bytes::from_static(b"der"),
        endpoint: "host:7443".into(),
        outline: vec![ring()],
        key_changes: Vec::new(),
    }
}

#[test]
fn each_field_of_a_countys_part_is_refused() {
    let sound = directory_pb::DelegatedDirectory {
        linkage_id: "wuling".into(),
        superior_region: "qianjiang".into(),
        version: 1,
        create_time: time(NOW_S),
        regions: vec![listed()],
    };
    let decode =
        |part: directory_pb::DelegatedDirectory| directory::decode_delegated(&part.encode_to_vec());
    check(
        "wuling.directory.v1.DelegatedDirectory",
        &sound,
        decode,
        &[],
        &[
            ("linkage_id", |d| d.linkage_id.clear()),
            ("superior_region", |d| d.superior_region = "Q".into()),
            ("version", |d| d.version = 0),
            ("create_time", |d| d.create_time = None),
            ("regions", |d| d.regions = vec![d.regions[0].clone(); 1_001]),
            ("regions", |d| d.regions = vec![d.regions[0].clone(); 2]),
            ("regions[0].level", |d| d.regions[0].level = 2),
            ("regions[0].superior_region", |d| d.regions[0].superior_region.clear()),
            ("regions[0].superior_region", |d| d.superior_region = "xianfeng".into()),
        ],
    );
}
