//! Two regions with an agreement, and a stream of one to the other, for the tests of this crate.

use crate::book::{Book, SignedAgreement};
use bytes::Bytes;
use domain::agreement::{Agreement, AgreementForm, Force, Party};
use domain::directory::{Directory, Region, RegionLevel};
use domain::kernel::{
    AgreementId, Entropy, Epoch, Kind, Lane, LinkageId, Purpose, RecordId, RegionId, Revision,
    Timestamp,
};
use domain::outline::Outline;
use domain::stream::{Position, StreamId};
use prost::Message as _;
use proto::exchange::v1 as pb;
use proto::kernel::v1 as kernel;
use proto::kernel::v1::SignedObject;
use seal::key::{SealingKey, SigningKey, key_fingerprint};
use seal::segment::{Range, SaltedEntry, Sealed, Segment};
use seal::trust::Trust;
use std::sync::Arc;

/// 2026-07-01T00:00:00Z.
pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_782_864_000_000_000);
pub(crate) const AGREEMENT_SHA256: [u8; 32] = [0xa9; 32];

pub(crate) struct Zeros;

impl Entropy for Zeros {
    fn fill(&self, out: &mut [u8]) {
        out.fill(0);
    }
}

pub(crate) fn slug(text: &str) -> RegionId {
    RegionId::parse(text).expect("a slug")
}

/// Keys by the region's name.
pub(crate) fn signing(region: &str) -> SigningKey {
    SigningKey::from_seed(&seal::key::sha256(region.as_bytes()))
}

fn sealing(region: &str) -> SealingKey {
    SealingKey::from_bytes(&seal::key::sha256(region.as_bytes()))
}

pub(crate) fn stream(origin: &str, lane: Lane) -> StreamId {
    StreamId {
        origin: slug(origin),
        epoch: Epoch::mint(Timestamp::from_micros(1_000), &Zeros),
        agreement: AgreementId::mint(Timestamp::from_micros(2_000), &Zeros),
        version: 1,
        lane,
    }
}

/// What `region` knows: `daluba` and `xiaonanhai` share; `huolu` is in the directory only.
pub(crate) fn book(region: &str) -> Book {
    let listed = ["daluba", "huolu", "xiaonanhai"].map(|name| {
        let region = Region {
            region_id: slug(name),
            level: RegionLevel::Township,
            codes: Vec::new(),
            name_zh: name.to_owned(),
            name_en: name.to_owned(),
            superior: None,
            signing_key: signing(name).public(),
            sealing_key: sealing(name).public(),
            authority_certificate: Vec::new(),
            endpoint: String::new(),
            outline: Outline::default(),
            former_keys: Vec::new(),
        };
        (slug(name), region)
    });
    let parties = ["daluba", "xiaonanhai"].map(|name| Party {
        region: slug(name),
        signing_key_sha256: key_fingerprint(&signing(name).public()),
    });
    let agreement = Agreement {
        agreement_id: stream("daluba", Lane::Routine).agreement,
        version: 1,
        form: AgreementForm::Agreement,
        title: "平安边界".to_owned(),
        parties: parties.to_vec(),
        clauses: Vec::new(),
        purposes: vec![Purpose::Duty],
        started_at: NOW.plus_days(-1),
        ended_at: NOW.plus_days(1),
        retention_days: None,
        force: Force::InForce,
        supersedes: None,
        sha256: AGREEMENT_SHA256,
    };
    let key = (agreement.agreement_id, agreement.version);
    let signed = SignedAgreement::new(agreement, SignedObject::default());
    Book {
        region: slug(region),
        signing: signing(region),
        sealing: sealing(region),
        sealing_beside: Vec::new(),
        trust: Arc::new(Trust::of(Directory {
            linkage_id: LinkageId::parse("wuling").expect("a slug"),
            version: 1,
            created_at: NOW,
            regions: listed.into_iter().collect(),
            gateways: Default::default(),
            freshness_key: None,
            delegations: Default::default(),
        })),
        agreements: [(key, signed)].into_iter().collect(),
    }
}

/// A stream as its origin holds it.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) stream: StreamId,
    pub(crate) entries: Vec<SaltedEntry>,
    /// Where the chain stands before and after each entry.
    pub(crate) positions: Vec<Position>,
}

impl Log {
    pub(crate) fn new(stream: &StreamId) -> Self {
        let positions = vec![seal::chain::start(stream)];
        Self { stream: stream.clone(), entries: Vec::new(), positions }
    }

    /// So many entries of a kind that nobody knows.
    pub(crate) fn of(stream: &StreamId, count: usize) -> Self {
        let mut log = Self::new(stream);
        log.grow(count);
        log
    }

    pub(crate) fn push(&mut self, entry: Bytes) {
        let salted = SaltedEntry { salt: [self.entries.len() as u8; 16], entry };
        self.positions.push(seal::chain::extend(self.last(), &salted.commitment()));
        self.entries.push(salted);
    }

    pub(crate) fn grow(&mut self, count: usize) {
        for _ in 0..count {
            // Field 15 of an entry is of no release yet.
            self.push(vec![15 << 3, self.entries.len() as u8 & 0x7f].into());
        }
    }

    pub(crate) fn last(&self) -> Position {
        self.positions[self.entries.len()]
    }

    /// Entries `from` to `to`, sealed to the parties and signed by `key`.
    pub(crate) fn seal_as(&self, key: &SigningKey, from: usize, to: usize) -> Sealed {
        let parties = ["daluba", "xiaonanhai", "huolu"].map(|p| (slug(p), sealing(p).public()));
        let range = Range {
            stream: &self.stream,
            before: self.positions[from - 1],
            entries: &self.entries[from - 1..to],
            expires_at: NOW,
        };
        seal::segment::seal(range, key, &parties, &Zeros).expect("a range")
    }

    pub(crate) fn seal(&self, from: usize, to: usize) -> Sealed {
        self.seal_as(&signing(self.stream.origin.as_str()), from, to)
    }

    pub(crate) fn segment(&self, from: usize, to: usize) -> Segment {
        Segment::parse(self.seal(from, to).bytes.into()).expect("a segment")
    }
}

pub(crate) fn record_id(n: i64) -> RecordId {
    RecordId::mint(Timestamp::from_micros(n * 1_000), &Zeros)
}

fn revision(stream: &StreamId) -> Option<kernel::Revision> {
    Some((&Revision { t: 0, epoch: stream.epoch, n: 1 }).into())
}

fn encoded(entry: pb::entry::Entry) -> Bytes {
    pb::Entry { entry: Some(entry) }.encode_to_vec().into()
}

pub(crate) fn start() -> Bytes {
    proto::convert::entry::encode_start(&AGREEMENT_SHA256, None, &[])
}

/// A record born in `birth` is no longer shown.
pub(crate) fn leave(stream: &StreamId, birth: &str) -> Bytes {
    encoded(pb::entry::Entry::Leave(pb::Leave {
        record_id: Bytes::copy_from_slice(record_id(1).as_bytes()),
        kind: Kind::Event.code(),
        birth_region: birth.to_owned(),
        revision: revision(stream),
        share_n: 2,
        reason: pb::LeaveReason::Category.into(),
        transfers: Vec::new(),
    }))
}

/// A view of a record with everything withheld.
pub(crate) fn view(stream: &StreamId, birth: &str, owner: &str) -> Bytes {
    let time = Some(proto::convert::kernel::encode_time(NOW));
    encoded(pb::entry::Entry::View(kernel::View {
        meta: Some(kernel::RecordMeta {
            record_id: Bytes::copy_from_slice(record_id(1).as_bytes()),
            kind: Kind::Event.code(),
            birth_region: birth.to_owned(),
            owner_region: owner.to_owned(),
            revision: revision(stream),
            occur_time: time,
            record_time: time,
            receive_time: time,
            author_unit: "police-1".to_owned(),
            sensitivity: domain::kernel::Sensitivity::Region.code(),
            retention_class: Kind::Event.retention_class().code(),
            expire_time: time,
            ..Default::default()
        }),
        share_n: 1,
        ..Default::default()
    }))
}
