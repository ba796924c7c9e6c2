//! Three regions, two gateways, and what the regions agreed on.

use super::chance::Chance;
use domain::agreement::{Agreement, AgreementForm, Clause, Grant, Party, Release};
use domain::directory::{Directory, Region, RegionLevel};
use domain::kernel::{AgreementId, GatewayId, LinkageId, Purpose, RegionId, Timestamp};
use domain::outline::Outline;
use exchange::book::{Book, SignedAgreement};
use proto::kernel::v1::SignedObject;
use seal::key::{SealingKey, SigningKey, key_fingerprint, sha256};
use seal::{signed, tag};

/// 2026-07-01T00:00:00Z, where every run begins.
pub(super) const START: Timestamp = Timestamp::from_micros(1_782_864_000_000_000);
pub(super) const REGIONS: [&str; 3] = ["daluba", "huolu", "xiaonanhai"];
pub(super) const GATEWAYS: [&str; 2] = ["gw-1", "gw-2"];

pub(super) struct Linkage {
    pub(super) directory: Directory,
    pub(super) agreements: Vec<SignedAgreement>,
}

pub(super) fn region_id(index: usize) -> RegionId {
    RegionId::parse(REGIONS[index]).unwrap()
}

pub(super) fn gateway_id(index: usize) -> GatewayId {
    GatewayId::parse(GATEWAYS[index]).unwrap()
}

pub(super) fn index_of(region: &RegionId) -> usize {
    REGIONS.iter().position(|name| *name == region.as_str()).unwrap()
}

fn signing(name: &str) -> SigningKey {
    SigningKey::from_seed(&sha256(name.as_bytes()))
}

fn sealing(name: &str) -> SealingKey {
    SealingKey::from_bytes(&sha256(name.as_bytes()))
}

impl Linkage {
    /// All three share everything at once; two of them also share summaries once accepted.
    pub(super) fn new(chance: &Chance) -> Self {
        let regions = REGIONS.map(|name| {
            let region = Region {
                region_id: RegionId::parse(name).unwrap(),
                level: RegionLevel::County,
                codes: Vec::new(),
                name_zh: name.to_owned(),
                name_en: name.to_owned(),
                superior: None,
                signing_key: signing(name).public(),
                sealing_key: sealing(name).public(),
                authority_certificate: Vec::new(),
                endpoint: String::new(),
                outline: Outline::default(),
            };
            (region.region_id.clone(), region)
        });
        let directory = Directory {
            linkage_id: LinkageId::parse("wuling").unwrap(),
            version: 1,
            created_at: START,
            regions: regions.into(),
            gateways: Default::default(),
        };
        let all = [
            Clause::whole(Grant::Sos, Release::AtOnce),
            Clause::whole(Grant::EventDetail, Release::AtOnce),
        ];
        let two = [Clause::whole(Grant::EventSummary, Release::OnAccept)];
        let agreements = vec![
            agree(chance, 1, &REGIONS, &all),
            agree(chance, 2, &[REGIONS[0], REGIONS[2]], &two),
        ];
        Self { directory, agreements }
    }

    /// What a region knows.
    pub(super) fn book(&self, index: usize) -> Book {
        let region = region_id(index);
        let of_region = self.agreements.iter().filter(|of| of.agreement.has_party(&region));
        Book {
            signing: signing(REGIONS[index]),
            sealing: sealing(REGIONS[index]),
            directory: self.directory.clone(),
            agreements: of_region
                .map(|of| ((of.agreement.agreement_id, of.agreement.version), of.clone()))
                .collect(),
            region,
        }
    }
}

fn agree(chance: &Chance, number: i64, parties: &[&str], clauses: &[Clause]) -> SignedAgreement {
    let party = |name: &&str| Party {
        region: RegionId::parse(name).unwrap(),
        signing_key_sha256: key_fingerprint(&signing(name).public()),
    };
    let mut agreement = Agreement {
        agreement_id: AgreementId::mint(START.plus_millis(number), chance),
        version: 1,
        form: AgreementForm::Agreement,
        title: "平安边界".to_owned(),
        parties: parties.iter().map(party).collect(),
        clauses: clauses.to_vec(),
        purposes: vec![Purpose::Duty],
        started_at: START.plus_days(-400),
        ended_at: START.plus_days(4_000),
        retention_days: None,
        sha256: [0; 32],
    };
    let body = proto::convert::agreement::encode(&agreement);
    agreement.sha256 = sha256(&body);
    let mut signed = SignedObject { body, signatures: Vec::new() };
    for name in parties {
        signed::add_signature(&mut signed, tag::AGREEMENT, name, &signing(name));
    }
    SignedAgreement::new(agreement, signed)
}
