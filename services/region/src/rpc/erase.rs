//! Erasing a record, and who has confirmed that it erased it too.

use crate::hosted::{Caller, Hosted};
use crate::operations::decode_record;
use crate::shares::opening;
use crate::status::{refuse, refuse_field, unreadable, unwritten};
use bytes::Bytes;
use domain::agreement::Agreement;
use domain::erasure::EraseReason;
use domain::kernel::{DeviceId, Kind, Reason, RecordId, RegionId};
use prost::Message as _;
use proto::agreement::v1 as pb;
use proto::convert::kernel::encode_time;
use proto::device::v1 as device;
use std::collections::{BTreeSet, HashMap};
use storage::region::{Erasing, ErasureRow};
use tonic::Status;

/// Erasures that are listed.
pub(super) const ERASURES_MAX: u32 = 1_000;
/// Words of erasure of one record: it holds more entries than any record will ever have.
const WORDS_MAX: usize = 4_096;
/// For how long the word of erasure itself is kept by all: what it stands for must not come back.
const KEPT_DAYS: i64 = 3_650;

/// Erases a record of this region.
pub(super) async fn erase(
    region: &Hosted,
    caller: &Caller,
    request: &pb::EraseRecordRequest,
) -> Result<pb::EraseRecordResponse, Status> {
    let record_id = RecordId::from_slice(&request.record_id)
        .ok_or_else(|| refuse_field("record_id", "must be a UUIDv7 in 16 bytes"))?;
    let reason = EraseReason::try_from(request.reason)
        .map_err(|_| refuse_field("reason", "must say why"))?;
    if region.store.is_offered(record_id) {
        return Err(refuse(Reason::RecordOffered));
    }
    let erasing = erasing(region, record_id, reason, Some(caller.device));
    let found = region.store.erase(erasing).await.map_err(unwritten)?;
    let erasures = list(region, ERASURES_MAX).await?;
    let id = record_id.as_bytes().as_slice();
    let erasure = erasures.into_iter().find(|erasure| erasure.record_id == id);
    if !found && erasure.is_none() {
        return Err(refuse(Reason::RecordNotFound));
    }
    tracing::warn!(region.id = %region.region, device.id = %caller.device, reason = reason.name(), "a record was erased");
    Ok(pb::EraseRecordResponse { erasure })
}

/// All that erasing a record takes.
pub(crate) fn erasing(
    region: &Hosted,
    record_id: RecordId,
    reason: EraseReason,
    device: Option<DeviceId>,
) -> Erasing {
    let now = region.now();
    let salt = |_| {
        let mut salt = [0; 16];
        region.entropy.fill(&mut salt);
        salt
    };
    let book = region.book();
    let own = book.agreements.values().filter(|signed| signed.agreement.has_party(&region.region));
    let openings = own.map(|signed| {
        let Agreement { agreement_id, version, .. } = signed.agreement;
        (agreement_id, version, opening(region, signed))
    });
    Erasing {
        record_id,
        reason,
        device,
        salts: (0..WORDS_MAX).map(salt).collect(),
        openings: openings.collect(),
        origin,
        encoded: withdrawal,
        expires_at: now.plus_days(KEPT_DAYS),
        now,
    }
}

/// Where a stored record was born, and how it came to this region.
fn origin(record: &[u8]) -> Option<(RegionId, Vec<Vec<u8>>)> {
    let meta = decode_record(&Bytes::copy_from_slice(record))?.meta;
    Some((meta.birth_region, meta.transfers))
}

/// What those who have the record are told.
fn withdrawal(record_id: RecordId, kind: Kind) -> Bytes {
    let record_id = Bytes::copy_from_slice(record_id.as_bytes());
    device::Withdrawal { record_id, kind: kind.code(), source: None, reason: 0 }
        .encode_to_vec()
        .into()
}

/// What was erased, the newest first.
pub(super) async fn list(region: &Hosted, limit: u32) -> Result<Vec<pb::Erasure>, Status> {
    let erasures = region.store.list_erasures(limit).await.map_err(|error| unreadable(&error))?;
    let receipts = region.store.list_receipts().await.map_err(|error| unreadable(&error))?;
    let receipts: HashMap<_, _> = receipts
        .iter()
        .map(|receipt| ((&receipt.stream, &receipt.party), receipt.position.seq))
        .collect();
    let book = region.book();
    let told = |erasure: ErasureRow| {
        let (mut confirmed, mut unconfirmed) = (BTreeSet::new(), BTreeSet::new());
        // Of what stands in an epoch that was left, the word stands elsewhere.
        for from in erasure.streams.iter().filter(|from| from.said_seq > 0) {
            let agreement = book.agreement(from.stream.agreement, from.stream.version);
            let parties = agreement.iter().flat_map(|agreement| &agreement.parties);
            for party in parties.map(|party| &party.region).filter(|id| **id != region.region) {
                let signed = receipts.get(&(&from.stream, party));
                let has = signed.is_some_and(|seq| *seq >= from.said_seq);
                if has { &mut confirmed } else { &mut unconfirmed }.insert(party.to_string());
            }
        }
        // Of several streams, all.
        let confirmed = confirmed.difference(&unconfirmed).cloned().collect();
        let mut gateways = erasure
            .streams
            .iter()
            .filter(|from| from.from_seq > 0)
            .map(|from| from.gateways.iter().map(ToString::to_string).collect::<BTreeSet<_>>());
        let first = gateways.next().unwrap_or_default();
        let everywhere =
            gateways.fold(first, |all, some| all.intersection(&some).cloned().collect());
        pb::Erasure {
            record_id: Bytes::copy_from_slice(erasure.record_id.as_bytes()),
            kind: erasure.kind.code(),
            erase_time: Some(encode_time(erasure.erased_at)),
            reason: erasure.reason.code(),
            confirmed_regions: confirmed,
            unconfirmed_regions: unconfirmed.into_iter().collect(),
            confirmed_gateways: everywhere.into_iter().collect(),
        }
    };
    Ok(erasures.into_iter().map(told).collect())
}
