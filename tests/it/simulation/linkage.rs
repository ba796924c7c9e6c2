//! Three regions, two gateways, and what the regions agreed on.

use super::chance::Chance;
use domain::agreement::{Agreement, AgreementForm, Clause, Force, Grant, Party, Release};
use domain::directory::{Directory, Region, RegionLevel};
use domain::freshness::Freshness;
use domain::kernel::{AgreementId, GatewayId, LinkageId, Purpose, RegionId, Timestamp};
use domain::outline::Outline;
use exchange::book::{Book, SignedAgreement};
use prost::Message as _;
use proto::convert;
use proto::directory::v1::{DirectoryKey, TrustSet};
use proto::kernel::v1::SignedObject;
use seal::key::{SealingKey, SigningKey, key_fingerprint, sha256};
use seal::trust::{AUTHORITY, Trust};
use seal::{signed, tag};
use std::sync::Arc;

/// 2026-07-01T00:00:00Z, where every run begins.
pub(super) const START: Timestamp = Timestamp::from_micros(1_782_864_000_000_000);
pub(super) const REGIONS: [&str; 3] = ["daluba", "huolu", "xiaonanhai"];
pub(super) const GATEWAYS: [&str; 2] = ["gw-1", "gw-2"];

pub(super) struct Linkage {
    pub(super) trust: Arc<Trust>,
    pub(super) agreements: Vec<SignedAgreement>,
    pub(super) authority: Authority,
}

/// What the authority has signed, and signs again.
pub(super) struct Authority {
    root: SigningKey,
    set: TrustSet,
    directory_sha256: [u8; 32],
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

/// The key of somebody who is nobody in the linkage.
pub(super) fn forger() -> SigningKey {
    signing("forger")
}

impl Authority {
    fn new(directory: &Directory) -> Self {
        let (root, key) = (signing("root"), signing("directory"));
        let vouched = DirectoryKey {
            linkage_id: directory.linkage_id.to_string(),
            key: key.public().to_vec().into(),
            create_time: Some(convert::kernel::encode_time(START.plus_days(-60))),
            expire_time: Some(convert::kernel::encode_time(START.plus_days(60))),
        };
        let vouched = vouched.encode_to_vec();
        let body = convert::directory::encode(directory);
        let directory_sha256 = sha256(&body);
        let set = TrustSet {
            directory_key: Some(signed::sign(tag::DIRECTORY_KEY, vouched, AUTHORITY, &root)),
            directory: Some(signed::sign(tag::DIRECTORY, body, AUTHORITY, &key)),
            freshness: None,
            delegated: Vec::new(),
        };
        Self { root, set, directory_sha256 }
    }

    /// The key that all hold to be its own.
    pub(super) fn root(&self) -> [u8; 32] {
        self.root.public()
    }

    /// What it says at a time.
    pub(super) fn word(&self, created_at: Timestamp) -> TrustSet {
        let freshness = Freshness {
            linkage_id: LinkageId::parse("wuling").unwrap(),
            created_at,
            directory_version: 1,
            directory_sha256: self.directory_sha256,
            revocations: Vec::new(),
            agreements: Default::default(),
            delegated: Default::default(),
        };
        let body = convert::freshness::encode(&freshness);
        let key = signing("freshness");
        let freshness = Some(signed::sign(tag::FRESHNESS, body, AUTHORITY, &key));
        TrustSet { freshness, ..self.set.clone() }
    }
}

impl Linkage {
    /// All three share everything at once; two of them also share summaries once accepted. `said_at`: when
    /// the authority last spoke, where it speaks at all.
    pub(super) fn new(chance: &Chance, said_at: Option<Timestamp>) -> Self {
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
                authority_certificate: vec![1],
                endpoint: String::new(),
                outline: Outline::default(),
                former_keys: Vec::new(),
            };
            (region.region_id.clone(), region)
        });
        let directory = Directory {
            linkage_id: LinkageId::parse("wuling").unwrap(),
            version: 1,
            created_at: START,
            regions: regions.into(),
            gateways: Default::default(),
            freshness_key: Some(signing("freshness").public()),
            delegations: Default::default(),
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
        let authority = Authority::new(&directory);
        let trust = match said_at {
            Some(at) => Trust::read(&authority.root(), authority.word(at)).unwrap().0,
            None => Trust::of(directory),
        };
        Self { trust: Arc::new(trust), agreements, authority }
    }

    /// What a region knows.
    pub(super) fn book(&self, index: usize) -> Book {
        let region = region_id(index);
        let of_region = self.agreements.iter().filter(|of| of.agreement.has_party(&region));
        Book {
            signing: signing(REGIONS[index]),
            sealing: sealing(REGIONS[index]),
            sealing_beside: Vec::new(),
            trust: Arc::clone(&self.trust),
            agreements: of_region
                .map(|of| ((of.agreement.agreement_id, of.agreement.version), of.clone()))
                .collect(),
            region,
        }
    }
}

impl Linkage {
    /// What a region would know in whose eyes the forger is everybody else.
    pub(super) fn forged_book(&self, index: usize) -> Book {
        let mut book = self.book(index);
        let mut directory = self.trust.directory.clone();
        for region in directory.regions.values_mut() {
            region.signing_key = forger().public();
        }
        for signed in book.agreements.values_mut() {
            for party in &mut signed.agreement.parties {
                party.signing_key_sha256 = key_fingerprint(&forger().public());
            }
        }
        book.trust = Arc::new(Trust::of(directory));
        book
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
        force: Force::InForce,
        supersedes: None,
        sha256: [0; 32],
    };
    let body = convert::agreement::encode(&agreement);
    agreement.sha256 = sha256(&body);
    let mut signed = SignedObject { body, signatures: Vec::new() };
    for name in parties {
        signed::add_signature(&mut signed, tag::AGREEMENT, name, &signing(name));
    }
    SignedAgreement::new(agreement, signed)
}
