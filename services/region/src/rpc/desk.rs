//! What the duty desk writes and reads, the same for every noun.

use super::device::failed;
use crate::hosted::{Caller, Hosted};
use crate::operations::{self, Answer, Incoming, Sender};
use crate::status::{malformed, refuse, refuse_field, refuse_fields, unreadable, unwritten};
use bytes::Bytes;
use domain::kernel::{
    Kind, OperationId, Purpose, Reason, RecordId, Revision, Sensitivity, Timestamp,
};
use domain::operation::{Change, Operation};
use domain::record::Record;
use prost::Message as _;
use proto::device::v1 as device;
use proto::kernel::v1 as kernel;
use std::sync::Arc;
use storage::region::{FeedSource, Views};
use tonic::Status;

/// Records in a page, unless the caller asks for fewer.
const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 1_000;

/// A change from the desk.
pub(crate) struct DeskChange<'a> {
    pub(crate) request_id: &'a [u8],
    pub(crate) record_id: &'a [u8],
    pub(crate) etag: Option<kernel::Revision>,
    pub(crate) occurred_at: Timestamp,
    pub(crate) sensitivity: Option<Sensitivity>,
    pub(crate) change: Change,
}

/// Applies a change from the desk; gives the record as it is then. A repeat gives what the first gave.
pub(crate) async fn write(
    region: &Hosted,
    caller: &Caller,
    desk: DeskChange<'_>,
) -> Result<Record, Status> {
    let id = |bytes, field| id(bytes, field, RecordId::from_slice);
    let record_id = id(desk.record_id, "record_id")?;
    let operation_id = OperationId::from_slice(desk.request_id)
        .ok_or_else(|| refuse_field("request_id", "must be a UUIDv7 in 16 bytes"))?;
    let etag = desk
        .etag
        .map(Revision::try_from)
        .transpose()
        .map_err(|violations| malformed(&violations))?;
    let now = region.now();
    let operation = Operation {
        operation_id,
        record_id,
        parent_ids: Vec::new(),
        base_revision: etag,
        occurred_at: desk.occurred_at,
        recorded_at: now,
        device_seq: 0,
        author_unit: caller.unit.clone(),
        author_ref: None,
        sensitivity: desk.sensitivity,
        external_ref: None,
        change: desk.change,
    };
    // The time of writing differs between a call and its repeat; what was asked for does not.
    let never = Timestamp::from_micros(0);
    let asked = Operation { occurred_at: never, recorded_at: never, ..operation.clone() };
    let digest = operations::digest(&device::Operation::from(&asked).encode_to_vec());
    let encoded = Bytes::from(device::Operation::from(&operation).encode_to_vec());
    let sender = Sender {
        role: caller.role,
        device: Some(caller.device),
        clock_offset_ms: 0,
        now,
        expired: false,
        desk: true,
    };
    let incoming = [Incoming { operation, digest, encoded }];
    let answers =
        operations::apply(region, &sender, &incoming).await.map_err(|error| failed(&error))?;
    region.answers.count(&answers, 0);
    match answers.into_iter().next() {
        Some(Answer::Applied(record)) => Ok(Arc::unwrap_or_clone(record)),
        Some(Answer::Duplicate { record_id, .. }) => {
            own(region, record_id).await?.ok_or_else(|| refuse(Reason::RecordNotFound))
        }
        Some(Answer::Conflict(_)) => Err(refuse(Reason::RevisionStale)),
        Some(Answer::Rejected(rejection)) => {
            Err(refuse_fields(rejection.reason, &rejection.violations))
        }
        Some(Answer::Held | Answer::Quarantined) | None => Err(refuse(Reason::Internal)),
    }
}

fn id<T>(bytes: &[u8], field: &str, parse: fn(&[u8]) -> Option<T>) -> Result<T, Status> {
    parse(bytes).ok_or_else(|| refuse_field(field, "must be a UUIDv7 in 16 bytes"))
}

async fn own(region: &Hosted, record: RecordId) -> Result<Option<Record>, Status> {
    let row = region.store.find_record(record).await.map_err(|error| unreadable(&error))?;
    row.map(|row| operations::decode_record(&row.encoded).ok_or_else(|| refuse(Reason::Internal)))
        .transpose()
}

/// A record or view as a reply carries it.
pub(crate) struct Shown {
    pub(crate) meta: kernel::RecordMeta,
    pub(crate) payload: Bytes,
    /// Where a neighbour's came from.
    pub(crate) from: Vec<kernel::SharedFrom>,
    /// Fields of the payload that were withheld.
    withheld: Vec<String>,
}

/// One record of a kind, own or a neighbour's; noted before it is given.
pub(crate) async fn get(
    region: &Hosted,
    caller: &Caller,
    kind: Kind,
    asked: (&[u8], &str, i32),
    method: &'static str,
) -> Result<Shown, Status> {
    let (record_id, owner, purpose) = asked;
    let purpose = super::purpose(purpose)?;
    let record = id(record_id, "record_id", RecordId::from_slice)?;
    let owner = super::device::region_or_own(owner, region.region())?;
    let found = if owner == *region.region() {
        let row = region.store.find_record(record).await.map_err(|error| unreadable(&error))?;
        row.filter(|row| row.kind == kind)
            .map(|row| shown(FeedSource::Own, row.encoded))
            .transpose()?
    } else {
        let views = region.store.list_views_of(record).await;
        let views = views.map_err(|error| unreadable(&error))?.into_iter();
        let views = views
            .filter(|found| found.kind == kind && found.source != FeedSource::Withdrawal)
            .map(|found| shown(found.source, found.encoded))
            .collect::<Result<Vec<_>, _>>()?;
        merged(views.into_iter().filter(|view| view.meta.owner_region == owner.as_str()))
    };
    let found = found.ok_or_else(|| refuse(Reason::RecordNotFound))?;
    region.disclose(caller, purpose, method, (0, 0), 1).await.map_err(unwritten)?;
    Ok(found)
}

/// What a list was asked for.
pub(crate) struct Asked<'a> {
    pub(crate) page_size: u32,
    pub(crate) page_token: &'a str,
    pub(crate) purpose: i32,
    pub(crate) views: Views,
    pub(crate) method: &'static str,
}

/// A page of a kind, newest first, and the token of the next; noted before it is given.
pub(crate) async fn list(
    region: &Hosted,
    caller: &Caller,
    kind: Kind,
    asked: Asked<'_>,
) -> Result<(Vec<Shown>, String), Status> {
    let purpose: Purpose = super::purpose(asked.purpose)?;
    let limit = page_size(asked.page_size)?;
    let before = page_token(kind, asked.page_token)?;
    let rows = region
        .store
        .list_kind(kind, asked.views, before, limit)
        .await
        .map_err(|error| unreadable(&error))?;
    let full = rows.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = rows.last().filter(|_| full).map(|row| format!("{}-{}", kind.code(), row.feed_seq));
    let page: Vec<Shown> =
        rows.into_iter().map(|row| shown(row.source, row.encoded)).collect::<Result<_, _>>()?;
    region
        .disclose(caller, purpose, asked.method, (0, before), page.len())
        .await
        .map_err(unwritten)?;
    Ok((page, next.unwrap_or_default()))
}

/// Checks a page size.
pub(crate) fn page_size(asked: u32) -> Result<u32, Status> {
    match asked {
        0 => Ok(PAGE_DEFAULT),
        1..=PAGE_MAX => Ok(asked),
        _ => Err(refuse_field("page_size", "must be 1 to 1000")),
    }
}

/// A token holds the kind, so that one of another query is refused, and the place; it gives no rights.
fn page_token(kind: Kind, token: &str) -> Result<u64, Status> {
    place_of(&kind.code().to_string(), token)
}

/// The place that a token of one query names, the end where there is none.
pub(super) fn place_of(query: &str, token: &str) -> Result<u64, Status> {
    if token.is_empty() {
        return Ok(u64::MAX);
    }
    let place = token.split_once('-').filter(|(of, _)| *of == query).map(|(_, place)| place);
    place.and_then(|place| place.parse().ok()).ok_or_else(|| refuse(Reason::PageTokenInvalid))
}

/// A stored record or view, decoded as far as a reply needs.
pub(crate) fn shown(source: FeedSource, encoded: Bytes) -> Result<Shown, Status> {
    let unreadable = || {
        tracing::error!("a stored record is unreadable");
        refuse(Reason::Internal)
    };
    if source == FeedSource::Own {
        let record = kernel::Record::decode(encoded).map_err(|_| unreadable())?;
        return Ok(Shown {
            meta: record.meta.ok_or_else(unreadable)?,
            payload: record.payload,
            from: Vec::new(),
            withheld: Vec::new(),
        });
    }
    let neighbour = neighbour_view(source, encoded).map_err(|_| unreadable())?;
    let view = neighbour.view.ok_or_else(unreadable)?;
    let source = neighbour.source.ok_or_else(unreadable)?;
    let from = kernel::SharedFrom {
        agreement_id: source.agreement_id,
        agreement_version: source.agreement_version,
        unverified: view.unverified,
        last: view.last,
        fields: Vec::new(),
    };
    Ok(Shown {
        meta: view.meta.ok_or_else(unreadable)?,
        payload: view.payload,
        from: vec![from],
        withheld: view.withheld_fields,
    })
}

/// A neighbour's view as it is shown: one that a person has released is marked 未核实, whatever its origin said.
pub(crate) fn neighbour_view(
    source: FeedSource,
    encoded: Bytes,
) -> Result<device::NeighbourView, prost::DecodeError> {
    let mut neighbour = device::NeighbourView::decode(encoded)?;
    if let (FeedSource::Released, Some(view)) = (source, &mut neighbour.view) {
        view.unverified = true;
    }
    Ok(neighbour)
}

/// The newest view, with the fields that it withholds and others of the same revision show: an older one would
/// show what is no longer so.
fn merged(mut views: impl Iterator<Item = Shown>) -> Option<Shown> {
    let mut whole = views.next()?;
    for mut other in views.filter(|other| other.meta.revision == whole.meta.revision) {
        let (gained, withheld): (Vec<_>, Vec<_>) =
            whole.withheld.into_iter().partition(|field| !other.withheld.contains(field));
        whole.withheld = withheld;
        let filled = proto::splice::fill(&whole.payload, &other.payload);
        if let (Some(payload), Some(mut from), false) =
            (filled, other.from.pop(), gained.is_empty())
        {
            whole.payload = payload;
            from.fields = gained;
            whole.from.push(from);
        }
    }
    Some(whole)
}

/// A record that was just written.
pub(crate) fn written(record: &Record) -> Result<Shown, Status> {
    shown(FeedSource::Own, proto::convert::record::encode(record).encode_to_vec().into())
}

/// The payload as the message of its kind.
pub(crate) fn body<M: prost::Message + Default>(payload: Bytes) -> Result<M, Status> {
    M::decode(payload).map_err(|_| refuse(Reason::Internal))
}
