//! Where a record is and why; who would see what.

use super::desk::neighbour_view;
use super::device::{failed, region_or_own};
use crate::hosted::{Caller, Hosted};
use crate::operations::{self, Answer, Sender, decode_record};
use crate::status::{malformed, refuse, refuse_field, refuse_fields, unreadable};
use bytes::Bytes;
use domain::agreement::Agreement;
use domain::kernel::{AgreementId, Reason, RecordId, RegionId};
use domain::record::Record;
use domain::sharing::{Decision, View, explain, share};
use domain::stream::{LastShown, Position, StreamId};
use domain::transfer::Direction;
use exchange::status::State;
use prost::Message as _;
use proto::agreement::v1 as pb;
use proto::convert::entry::Entry;
use proto::convert::kernel::encode_time;
use proto::convert::view::Outgoing;
use proto::convert::{self, Path, agreement, entry};
use proto::device::v1 as device;
use proto::kernel::v1 as kernel;
use seal::key::sha256;
use seal::signed;
use std::collections::HashMap;
use storage::ReadError;
use storage::region::{FeedSource, ReceiptRow, ViewFound, Views};
use tonic::Status;

/// Records that a dry run looks at.
const DRY_RUN_RECORDS_MAX: u64 = 100_000;
/// Changes that its answer names.
const DRY_RUN_CHANGES_MAX: usize = 200;
/// Days it looks back, unless it is told.
const DRY_RUN_DAYS: u32 = 30;
const DRY_RUN_DAYS_MAX: u32 = 366;
/// Records read at once.
const PAGE: u32 = 500;

/// Explains one record, own or a neighbour's.
pub(super) async fn explain_record(
    region: &Hosted,
    request: &pb::ExplainRecordRequest,
) -> Result<pb::ExplainRecordResponse, Status> {
    let record = RecordId::from_slice(&request.record_id)
        .ok_or_else(|| refuse_field("record_id", "must be a UUIDv7 in 16 bytes"))?;
    let owner = region_or_own(&request.owner_region, region.region())?;
    let party = match &*request.party_region {
        "" => None,
        id => Some(RegionId::parse(id).map_err(|_| refuse(Reason::RegionUnknown))?),
    };
    let links = region.links.get();
    let (revision, sharings) = if owner == *region.region() {
        own(region, &links, record, party.as_ref()).await?
    } else {
        neighbours(region, &owner, record).await?
    };
    Ok(pb::ExplainRecordResponse {
        revision,
        sharings,
        link_up: links.link_up(),
        link_error: super::agreement::link_error(&links),
        server_time: Some(encode_time(region.now())),
    })
}

type Explained = (Option<kernel::Revision>, Vec<pb::Sharing>);

async fn own(
    region: &Hosted,
    links: &State,
    id: RecordId,
    party: Option<&RegionId>,
) -> Result<Explained, Status> {
    let row = region.store.find_record(id).await.map_err(|error| unreadable(&error))?;
    let Some(row) = row else {
        let transfers = region.store.list_transfers_of(id).await;
        let transfers = transfers.map_err(|error| unreadable(&error))?;
        let gone = transfers.iter().any(|row| row.direction == Direction::Out);
        return Err(refuse(if gone { Reason::NotTheOwner } else { Reason::RecordNotFound }));
    };
    let record = decode_record(&row.encoded).ok_or_else(|| refuse(Reason::Internal))?;
    let receipts = region.store.list_receipts().await.map_err(|error| unreadable(&error))?;
    let receipts: HashMap<_, _> =
        receipts.iter().map(|row| ((&row.stream, &row.party), row)).collect();
    let mut sharings = Vec::new();
    let book = region.book();
    for signed in region.in_force(&book) {
        let agreement = &signed.agreement;
        if party.is_some_and(|party| !agreement.has_party(party)) {
            continue;
        }
        let mut sharing = ruled(region, &record, agreement);
        let mut at = None;
        if let Some(last) = row.shown.get(agreement.agreement_id) {
            at = newest(region, agreement, id, last, &mut sharing)
                .await
                .map_err(|error| unreadable(&error))?;
        }
        let others = agreement.parties.iter().map(|party| &party.region);
        sharing.deliveries = others
            .filter(|other| *other != region.region())
            .filter(|other| party.is_none_or(|party| party == *other))
            .map(|other| {
                // Nothing is sealed any more to one who was revoked or has left.
                let believed = book.find_party(agreement, other).is_some();
                let delivered = at.as_ref().filter(|_| believed).map(|(stream, seq)| {
                    let receipt = receipts.get(&(stream, other)).copied();
                    delivery(region, links, stream, *seq, receipt)
                });
                let party_region = other.to_string();
                pb::Delivery { party_region, ..delivered.unwrap_or_default() }
            })
            .collect();
        sharings.push(sharing);
    }
    Ok((Some((&record.meta.revision).into()), sharings))
}

/// What the terms say of a record now.
fn ruled(region: &Hosted, record: &Record, agreement: &Agreement) -> pb::Sharing {
    let ruling = explain(record, agreement, region.book().directory(), region.now());
    pb::Sharing {
        agreement_id: Bytes::copy_from_slice(agreement.agreement_id.as_bytes()),
        agreement_version: agreement.version,
        title: agreement.title.clone(),
        clause: ruling.clause.map_or(0, |(index, _)| u32::try_from(index + 1).unwrap_or(0)),
        withhold_reason: ruling.withhold.map_or(0, |why| why.code()),
        precision: ruling.clause.map_or(0, |(_, clause)| clause.precision.code()),
        ..pb::Sharing::default()
    }
}

/// Finds the newest entry of a record, and tells what it says.
async fn newest(
    region: &Hosted,
    agreement: &Agreement,
    record: RecordId,
    last: &LastShown,
    sharing: &mut pb::Sharing,
) -> Result<Option<(StreamId, u64)>, ReadError> {
    (sharing.standing, sharing.lane) = (last.standing.code(), last.lane.code());
    sharing.share_n = last.share_n;
    let is_it = |bytes: &Bytes| match entry::decode(bytes.clone()) {
        Ok(Entry::View(head, _)) => (head.record_id, head.share_n) == (record, last.share_n),
        Ok(Entry::Leave { record_id, share_n, .. }) => {
            (record_id, share_n) == (record, last.share_n)
        }
        _ => false,
    };
    // What an earlier version or epoch has shown stays where it was, unless what is open was shown anew.
    let versions = last.since_version..=agreement.version;
    let rows = region.store.list_streams().await?.into_iter().map(|row| row.stream);
    let mut streams: Vec<StreamId> = rows
        .filter(|stream| {
            stream.agreement == agreement.agreement_id
                && stream.lane == last.lane
                && versions.contains(&stream.version)
        })
        .collect();
    streams.sort_unstable_by_key(|stream| std::cmp::Reverse((stream.epoch, stream.version)));
    let mut found = None;
    for stream in streams {
        let entry =
            region.store.find_entry_with(&stream, record, |held| is_it(&held.entry)).await?;
        if let Some(entry) = entry {
            found = Some((stream, entry));
            break;
        }
    }
    let Some((stream, found)) = found else { return Ok(None) };
    match entry::decode(found.entry) {
        Ok(Entry::View(head, view)) => {
            sharing.revision = Some((&head.revision).into());
            sharing.unverified = head.unverified;
            sharing.withheld_fields =
                kernel::View::decode(view).map(|view| view.withheld_fields).unwrap_or_default();
        }
        Ok(Entry::Leave { revision, .. }) => sharing.revision = Some((&revision).into()),
        _ => {}
    }
    let Position { seq, .. } = found.position;
    (sharing.stream, sharing.seq) = (Some((&stream).into()), seq);
    Ok(Some((stream, seq)))
}

/// How far an entry has come on its way to the party whose receipt this is.
fn delivery(
    region: &Hosted,
    links: &State,
    stream: &StreamId,
    seq: u64,
    receipt: Option<&ReceiptRow>,
) -> pb::Delivery {
    let Some(receipt) = receipt.filter(|receipt| receipt.position.seq >= seq) else {
        let stored = links.stored(stream);
        let state =
            if stored >= seq { pb::DeliveryState::Stored } else { pb::DeliveryState::Queued };
        return pb::Delivery { state: state.into(), ..pb::Delivery::default() };
    };
    let parked = parked(region, receipt).into_iter().find(|(parked, _)| *parked == seq);
    let state =
        if parked.is_some() { pb::DeliveryState::Parked } else { pb::DeliveryState::Applied };
    pb::Delivery {
        party_region: String::new(),
        state: state.into(),
        receive_time: Some(encode_time(receipt.received_at)),
        parked_reason: parked.map_or(0, |(_, reason)| reason.code()),
    }
}

/// What a receipt names as parked.
fn parked(region: &Hosted, receipt: &ReceiptRow) -> Vec<(u64, Reason)> {
    if receipt.parked_count == 0 {
        return Vec::new();
    }
    let object = kernel::SignedObject::decode(receipt.signed.clone()).ok();
    let book = region.book();
    let party = book.find_region(&receipt.party);
    let read = object.zip(party).and_then(|(object, party)| {
        let key = book.trust.key_lasting(party, signed::key_id_of(&object));
        signed::Receipt::verify(&object, &key).ok()
    });
    read.map(|receipt| receipt.parked).unwrap_or_default()
}

/// How a neighbour's record came, under each agreement.
async fn neighbours(
    region: &Hosted,
    owner: &RegionId,
    record: RecordId,
) -> Result<Explained, Status> {
    let found = region.store.list_views_of(record).await;
    let found = found.map_err(|error| unreadable(&error))?.into_iter();
    let kept = region.store.list_quarantined_of(record).await;
    let kept = kept.map_err(|error| unreadable(&error))?.into_iter();
    let came = |found| came(region, found).ok_or_else(|| refuse(Reason::Internal));
    let of_owner = |came: &(RegionId, pb::Sharing)| came.0 == *owner;
    let all = found.map(came).collect::<Result<Vec<_>, _>>()?;
    let mut sharings: Vec<_> = all.into_iter().filter(of_owner).map(|(_, came)| came).collect();
    // Behind what is shown: of each agreement the newest.
    for kept in kept.map(came).collect::<Result<Vec<_>, _>>()?.into_iter().filter(of_owner) {
        let sharing = pb::Sharing { standing: pb::Standing::Quarantined.into(), ..kept.1 };
        let same = |other: &pb::Sharing| {
            (&other.agreement_id, other.standing) == (&sharing.agreement_id, sharing.standing)
        };
        if !sharings.iter().any(same) {
            sharings.push(sharing);
        }
    }
    if sharings.is_empty() {
        return Err(refuse(Reason::RecordNotFound));
    }
    let newest = sharings.iter().find_map(|sharing| sharing.revision.clone());
    Ok((newest, sharings))
}

/// How one view or withdrawal came, and from whom; `None` where it cannot be read.
fn came(region: &Hosted, found: ViewFound) -> Option<(RegionId, pb::Sharing)> {
    let (source, view) = if found.source == FeedSource::Withdrawal {
        (device::Withdrawal::decode(found.encoded).ok()?.source?, None)
    } else {
        let came = neighbour_view(found.source, found.encoded).ok()?;
        (came.source?, came.view)
    };
    let id = AgreementId::from_slice(&source.agreement_id);
    let book = region.book();
    let agreement = id.and_then(|id| book.agreement(id, source.agreement_version));
    let standing = match &view {
        None => pb::Standing::Left,
        Some(view) if view.last => pb::Standing::Last,
        Some(_) => pb::Standing::Shown,
    };
    let view = view.unwrap_or_default();
    let origin = RegionId::parse(&source.origin_region).ok()?;
    let sharing = pb::Sharing {
        agreement_id: source.agreement_id,
        agreement_version: source.agreement_version,
        title: agreement.map(|agreement| agreement.title.clone()).unwrap_or_default(),
        standing: standing.into(),
        unverified: view.unverified,
        withheld_fields: view.withheld_fields,
        share_n: view.share_n,
        lane: source.lane,
        seq: source.seq,
        revision: view.meta.and_then(|meta| meta.revision),
        deliveries: vec![pb::Delivery {
            party_region: region.region().to_string(),
            state: pb::DeliveryState::Applied.into(),
            ..pb::Delivery::default()
        }],
        ..pb::Sharing::default()
    };
    Some((origin, sharing))
}

/// Who would see what of an operation.
pub(super) async fn preview(
    region: &Hosted,
    caller: &Caller,
    operation: Option<device::Operation>,
) -> Result<pb::PreviewOperationResponse, Status> {
    let operation = operation.ok_or_else(|| refuse_field("operation", "must be given"))?;
    let operation = convert::operation::decode(operation, Path::ROOT.field("operation"))
        .map_err(|violations| malformed(&violations))?;
    let sender = Sender {
        role: caller.role,
        device: Some(caller.device),
        clock_offset_ms: 0,
        now: region.now(),
        expired: false,
        desk: true,
    };
    let (answer, shown) =
        operations::try_out(region, &sender, operation).await.map_err(|error| failed(&error))?;
    let record = match answer {
        Answer::Applied(record) => record,
        Answer::Conflict(_) => return Err(refuse(Reason::RevisionStale)),
        Answer::Rejected(rejection) => {
            return Err(refuse_fields(rejection.reason, &rejection.violations));
        }
        // A preview rests on what is here; what it waits for would have to come first.
        Answer::Held | Answer::Quarantined | Answer::Duplicate { .. } => {
            return Err(refuse_field(
                "operation.parent_ids",
                "must be operations that are applied",
            ));
        }
    };
    let outgoing = Outgoing::new(&record);
    let book = region.book();
    let agreements = region.in_force(&book).map(|signed| &signed.agreement);
    let sharings = agreements
        .map(|agreement| {
            let last = shown.get(agreement.agreement_id);
            let decision = share(&record, agreement, book.directory(), last, region.now());
            let view = match &decision {
                Decision::Show(view) => view_of(&outgoing, view),
                Decision::Nothing(_) | Decision::Leave(_) => None,
            };
            let mut sharing = ruled(region, &record, agreement);
            decided(&mut sharing, &decision, last);
            sharing.deliveries = undelivered(region, agreement);
            pb::PreviewedSharing { sharing: Some(sharing), view }
        })
        .collect();
    Ok(pb::PreviewOperationResponse { sharings })
}

/// The view as it would lie in its entry.
fn view_of(outgoing: &Outgoing<'_>, view: &View) -> Option<kernel::View> {
    match entry::decode(outgoing.entry(view)) {
        Ok(Entry::View(_, bytes)) => kernel::View::decode(bytes).ok(),
        _ => None,
    }
}

/// Tells a decision; where it is nothing, what was shown before stands.
fn decided(sharing: &mut pb::Sharing, decision: &Decision, last: Option<&LastShown>) {
    if let Decision::Show(view) = decision {
        sharing.unverified = view.unverified;
        sharing.withheld_fields = view.withheld.iter().map(|&field| field.to_owned()).collect();
    }
    if let Some(shown) = decision.shown(last, sharing.agreement_version).as_ref().or(last) {
        (sharing.standing, sharing.lane) = (shown.standing.code(), shown.lane.code());
        sharing.share_n = shown.share_n;
    }
}

fn undelivered(region: &Hosted, agreement: &Agreement) -> Vec<pb::Delivery> {
    let others = agreement.parties.iter().filter(|party| party.region != *region.region());
    let to = |party_region| pb::Delivery { party_region, ..pb::Delivery::default() };
    others.map(|party| to(party.region.to_string())).collect()
}

/// Shows the records of the last days as an agreement version would.
pub(super) async fn dry_run(
    region: &Hosted,
    request: &pb::DryRunAgreementRequest,
) -> Result<pb::DryRunAgreementResponse, Status> {
    let days = match request.days {
        0 => DRY_RUN_DAYS,
        1..=DRY_RUN_DAYS_MAX => request.days,
        _ => return Err(refuse_field("days", "must be 1 to 366")),
    };
    let after = agreement::decode(&request.agreement, sha256(&request.agreement))
        .map_err(|violations| malformed(&violations))?;
    if !after.has_party(region.region()) {
        return Err(refuse_field("agreement.parties", "must name this region"));
    }
    let now = region.now();
    let book = region.book();
    let mut in_force = region.in_force(&book).map(|signed| &signed.agreement);
    let before =
        in_force.find(|known| known.agreement_id == after.agreement_id && known.in_force(now));
    let mut answer = pb::DryRunAgreementResponse {
        version_before: before.map_or(0, |before| before.version),
        ..Default::default()
    };
    for kind in domain::kernel::Kind::ALL {
        let mut place = u64::MAX;
        loop {
            let rows = region.store.list_kind(*kind, Views::Without, place, PAGE).await;
            let rows = rows.map_err(|error| unreadable(&error))?;
            let Some(last) = rows.last() else { break };
            place = last.feed_seq;
            let records = rows.iter().map(|row| decode_record(&row.encoded));
            let records: Vec<_> =
                records.collect::<Option<_>>().ok_or_else(|| refuse(Reason::Internal))?;
            let since = now.plus_days(-i64::from(days));
            let old = records.iter().any(|record| record.meta.received_at < since);
            for record in records.iter().filter(|record| record.meta.received_at >= since) {
                if answer.record_count == DRY_RUN_RECORDS_MAX {
                    answer.more = true;
                    return Ok(answer);
                }
                compare(region, record, before, &after, &mut answer);
            }
            // The feed is in the order in which revisions were taken.
            if old {
                break;
            }
        }
    }
    Ok(answer)
}

fn compare(
    region: &Hosted,
    record: &Record,
    before: Option<&Agreement>,
    after: &Agreement,
    answer: &mut pb::DryRunAgreementResponse,
) {
    let (book, now) = (region.book(), region.now());
    let decide = |agreement: &Agreement| {
        // One that begins later is judged as of its beginning.
        let now = now.max(agreement.started_at);
        let decision = share(record, agreement, book.directory(), None, now);
        if let Decision::Show(view) = decision { Some(view) } else { None }
    };
    let (shown_before, shown) = (before.and_then(decide), decide(after));
    answer.record_count += 1;
    answer.shown_before_count += u64::from(shown_before.is_some());
    answer.shown_count += u64::from(shown.is_some());
    match (&shown_before, &shown) {
        (None, None) => return,
        (None, Some(_)) => answer.gained_count += 1,
        (Some(_), None) => answer.lost_count += 1,
        (Some(before), Some(after)) if before == after => return,
        (Some(_), Some(_)) => answer.changed_count += 1,
    }
    if answer.changes.len() < DRY_RUN_CHANGES_MAX {
        let sharing = |agreement: &Agreement, view: Option<View>| {
            let mut sharing = ruled(region, record, agreement);
            if let Some(view) = view {
                decided(&mut sharing, &Decision::Show(view), None);
            }
            sharing
        };
        answer.changes.push(pb::DryRunChange {
            record_id: Bytes::copy_from_slice(record.meta.record_id.as_bytes()),
            kind: record.meta.kind.code(),
            before: before.map(|agreement| sharing(agreement, shown_before)),
            after: Some(sharing(after, shown)),
        });
    }
}
