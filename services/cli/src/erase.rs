//! Taking a record back and erasing it, as a duty officer does.

use crate::client::agreement_service;
use crate::explain::beijing;
use crate::linkage::hex;
use crate::phone::{Phone, said};
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use device::Draft;
use domain::erasure::EraseReason;
use domain::kernel::{Clock as _, Kind, Purpose, RecordId};
use domain::operation::Change;
use proto::agreement::v1 as pb;
use proto::convert::kernel::decode_time;
use runtime::clock::SystemClock;
use serde_json::{Value, json};

/// Takes a record back: it stays in its region, and leaves everybody who was shown it.
///
/// # Errors
/// When the record is not known here, or the region refuses or does not answer.
pub async fn withdraw(phone: &mut Phone, record: RecordId) -> Result<()> {
    phone.sync().await?;
    let found = phone.device.find_record(record)?;
    let kind = found.context("this desk has no such record of its region")?.meta.kind;
    let draft = Draft::changing(record, Change::Withdraw(kind), SystemClock.now());
    phone.device.record(draft)?;
    let pushed = phone.push().await?;
    if pushed.applied == 0 {
        bail!("the region did not apply it: see `wuling phone status`");
    }
    Ok(())
}

/// Erases a record: its content here, at every party that was shown it, and at the gateways.
///
/// # Errors
/// When the region refuses or does not answer.
#[expect(clippy::print_stdout, reason = "the answer is what the command is for")]
pub async fn erase(
    phone: &Phone,
    record: RecordId,
    reason: EraseReason,
    as_json: bool,
) -> Result<()> {
    let request = pb::EraseRecordRequest {
        record_id: Bytes::copy_from_slice(record.as_bytes()),
        reason: reason.code(),
        purpose: Purpose::Operation.code(),
    };
    let mut service = agreement_service(phone.channel());
    let answer = service.erase_record(request).await.map_err(said)?.into_inner();
    let erasure = answer.erasure.context("the region did not say how it stands")?;
    println!("{}", if as_json { told(&erasure).to_string() } else { text(&erasure) });
    Ok(())
}

/// Lists what was erased, and who has not confirmed it.
///
/// # Errors
/// When the region refuses or does not answer.
#[expect(clippy::print_stdout, reason = "the answer is what the command is for")]
pub async fn list(phone: &Phone, as_json: bool) -> Result<()> {
    let request = pb::ListErasuresRequest { purpose: Purpose::Operation.code() };
    let mut service = agreement_service(phone.channel());
    let answer = service.list_erasures(request).await.map_err(said)?.into_inner();
    if as_json {
        let erasures: Vec<_> = answer.erasures.iter().map(told).collect();
        println!("{}", Value::from(erasures));
        return Ok(());
    }
    for erasure in &answer.erasures {
        println!("{}", text(erasure));
    }
    Ok(())
}

fn told(erasure: &pb::Erasure) -> Value {
    json!({
        "record_id": RecordId::from_slice(&erasure.record_id).map(|id| id.to_string()),
        "kind": Kind::try_from(erasure.kind).map_or("", |kind: Kind| kind.name()),
        "reason": EraseReason::try_from(erasure.reason).map_or("", |reason: EraseReason| reason.name()),
        "confirmed": erasure.confirmed_regions,
        "unconfirmed": erasure.unconfirmed_regions,
        "gateways": erasure.confirmed_gateways,
    })
}

fn text(erasure: &pb::Erasure) -> String {
    let id = RecordId::from_slice(&erasure.record_id);
    let id = id.map_or_else(|| hex(&erasure.record_id), |id| id.to_string());
    let at = erasure.erase_time.and_then(decode_time);
    let at = at.map_or_else(String::new, |at| beijing(at.micros()));
    let list = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    format!(
        "{at} {id}\n  confirmed 已确认: {}\n  not yet 未确认: {}\n  gateways 网关: {}",
        list(&erasure.confirmed_regions),
        list(&erasure.unconfirmed_regions),
        list(&erasure.confirmed_gateways)
    )
}
