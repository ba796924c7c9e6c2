//! Handing a record over, as a duty officer does.

use crate::client::transfer_service;
use crate::explain::beijing;
use crate::linkage::hex;
use crate::phone::{Phone, said};
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use domain::kernel::{Kind, Purpose, RecordId, RegionId};
use domain::transfer::{Direction, ReturnReason, TransferState};
use proto::agreement::v1 as pb;
use proto::convert::kernel::decode_time;
use serde_json::{Value, json};

/// What is done about an offer.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// Asks for the record back.
    Recall,
    /// Becomes its owner.
    Accept,
    /// Does not take it.
    Return(ReturnReason),
}

/// Offers a record to another region.
///
/// # Errors
/// When the region refuses or does not answer.
pub async fn offer(phone: &Phone, record: RecordId, to: &RegionId, as_json: bool) -> Result<()> {
    let request = pb::OfferRecordRequest {
        record_id: Bytes::copy_from_slice(record.as_bytes()),
        etag: None,
        to_region: to.to_string(),
        purpose: Purpose::Duty.code(),
    };
    let mut service = transfer_service(phone.channel());
    let answer = service.offer_record(request).await.map_err(said)?.into_inner();
    print(answer.transfer, as_json)
}

/// Decides about an offer, which is named by the first digits of its hash.
///
/// # Errors
/// When no offer or several begin so, or the region refuses or does not answer.
pub async fn answer(phone: &Phone, offer: &str, answer: Answer, as_json: bool) -> Result<()> {
    let offers = listed(phone).await?.into_iter().map(|transfer| transfer.offer_sha256);
    let named: Vec<_> = offers.filter(|sha256| hex(sha256).starts_with(offer)).collect();
    let [offer_sha256] = named.as_slice() else {
        bail!("{} offers begin with `{offer}`: see `wuling transfer list`", named.len());
    };
    let (offer_sha256, purpose) = (offer_sha256.clone(), Purpose::Duty.code());
    let mut service = transfer_service(phone.channel());
    let transfer = match answer {
        Answer::Recall => {
            let request = pb::RecallOfferRequest { offer_sha256, purpose };
            service.recall_offer(request).await.map_err(said)?.into_inner().transfer
        }
        Answer::Accept => {
            let request = pb::AcceptOfferRequest { offer_sha256, purpose };
            service.accept_offer(request).await.map_err(said)?.into_inner().transfer
        }
        Answer::Return(reason) => {
            let reason = reason.code();
            let request = pb::ReturnOfferRequest { offer_sha256, reason, purpose };
            service.return_offer(request).await.map_err(said)?.into_inner().transfer
        }
    };
    print(transfer, as_json)
}

/// Lists offers by and to the region.
///
/// # Errors
/// When the region refuses or does not answer.
#[expect(clippy::print_stdout, reason = "the answer is what the command is for")]
pub async fn list(phone: &Phone, as_json: bool) -> Result<()> {
    let transfers = listed(phone).await?;
    if as_json {
        let transfers: Vec<_> = transfers.iter().map(told).collect();
        println!("{}", Value::from(transfers));
        return Ok(());
    }
    for transfer in &transfers {
        println!("{}", text(transfer));
    }
    Ok(())
}

async fn listed(phone: &Phone) -> Result<Vec<pb::Transfer>> {
    let request = pb::ListTransfersRequest { purpose: Purpose::Duty.code() };
    let mut service = transfer_service(phone.channel());
    Ok(service.list_transfers(request).await.map_err(said)?.into_inner().transfers)
}

#[expect(clippy::print_stdout, reason = "the answer is what the command is for")]
fn print(transfer: Option<pb::Transfer>, as_json: bool) -> Result<()> {
    let transfer = transfer.context("the region did not say how the offer stands")?;
    println!("{}", if as_json { told(&transfer).to_string() } else { text(&transfer) });
    Ok(())
}

fn told(transfer: &pb::Transfer) -> Value {
    let reason = ReturnReason::try_from(transfer.return_reason);
    json!({
        "offer": hex(&transfer.offer_sha256),
        "direction": Direction::try_from(transfer.direction).map_or("", |of: Direction| of.name()),
        "state": state(transfer),
        "record_id": RecordId::from_slice(&transfer.record_id).map(|id| id.to_string()),
        "kind": Kind::try_from(transfer.kind).map_or("", |kind: Kind| kind.name()),
        "birth_region": transfer.birth_region,
        "from_region": transfer.from_region,
        "to_region": transfer.to_region,
        "return_reason": reason.map_or("", |reason: ReturnReason| reason.name()),
    })
}

fn state(transfer: &pb::Transfer) -> &'static str {
    TransferState::try_from(transfer.state).map_or("", |state: TransferState| state.name())
}

fn text(transfer: &pb::Transfer) -> String {
    let id = RecordId::from_slice(&transfer.record_id);
    let id = id.map_or_else(|| hex(&transfer.record_id), |id| id.to_string());
    let at = transfer.offer_time.and_then(decode_time);
    let at = at.map_or_else(String::new, |at| beijing(at.micros()));
    let offer = hex(&transfer.offer_sha256);
    format!(
        "{at} {} {id}\n  {} → {}: {}",
        offer.get(..12).unwrap_or_default(),
        transfer.from_region,
        transfer.to_region,
        state(transfer)
    )
}
