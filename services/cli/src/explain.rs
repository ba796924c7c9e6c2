//! Where a record is and why, and what an agreement would show, as a person or a script reads it.

use crate::client::agreement_service;
use crate::linkage::hex;
use crate::phone::{Phone, said};
use anyhow::Result;
use bytes::Bytes;
use domain::kernel::{Kind, Lane, Purpose, Reason, RecordId, RegionId};
use domain::sharing::Withhold;
use proto::agreement::v1 as pb;
use proto::convert::kernel::decode_time;
use proto::kernel::v1::Revision;
use serde_json::{Value, json};

/// Asks a region where a record is, and prints the answer.
///
/// # Errors
/// When the region refuses or does not answer.
#[expect(clippy::print_stdout, reason = "the answer is what the command is for")]
pub async fn run(
    phone: &Phone,
    record: RecordId,
    owner: Option<&RegionId>,
    party: Option<&RegionId>,
    as_json: bool,
) -> Result<()> {
    let id = |region: Option<&RegionId>| region.map(ToString::to_string).unwrap_or_default();
    let request = pb::ExplainRecordRequest {
        record_id: Bytes::copy_from_slice(record.as_bytes()),
        owner_region: id(owner),
        party_region: id(party),
        purpose: Purpose::Duty.code(),
    };
    let mut service = agreement_service(phone.channel());
    let answer = service.explain_record(request).await.map_err(said)?.into_inner();
    if as_json {
        let sharings: Vec<_> = answer.sharings.iter().map(sharing_json).collect();
        let told = json!({
            "record_id": record.to_string(),
            "revision": answer.revision.as_ref().map(|revision| revision.n),
            "link_up": answer.link_up,
            "link_error": answer.link_error,
            "sharings": sharings,
        });
        println!("{told}");
        return Ok(());
    }
    println!("record 记录 {record}, revision 版次 {}", number(answer.revision.as_ref()));
    for sharing in &answer.sharings {
        print!("{}", sharing_text(sharing));
    }
    if answer.sharings.is_empty() {
        println!("no agreement concerns it 没有相关协议");
    }
    if !answer.link_up {
        println!("the link is down 链路中断: {}", answer.link_error);
    }
    Ok(())
}

/// Asks a region what an agreement would show, and prints the answer.
///
/// # Errors
/// When the region refuses or does not answer.
#[expect(clippy::print_stdout, reason = "the answer is what the command is for")]
pub async fn dry_run(phone: &Phone, agreement: Bytes, days: u32, as_json: bool) -> Result<()> {
    let request =
        pb::DryRunAgreementRequest { agreement, days, purpose: Purpose::Operation.code() };
    let mut service = agreement_service(phone.channel());
    let answer = service.dry_run_agreement(request).await.map_err(said)?.into_inner();
    let kind = |code| Kind::try_from(code).map_or("", |kind: Kind| kind.name());
    if as_json {
        let change = |change: &pb::DryRunChange| {
            json!({
                "record_id": id_text(&change.record_id),
                "kind": kind(change.kind),
                "before": change.before.as_ref().map(sharing_json),
                "after": change.after.as_ref().map(sharing_json),
            })
        };
        let told = json!({
            "version_before": answer.version_before,
            "records": answer.record_count,
            "more": answer.more,
            "shown_before": answer.shown_before_count,
            "shown": answer.shown_count,
            "gained": answer.gained_count,
            "lost": answer.lost_count,
            "changed": answer.changed_count,
            "changes": answer.changes.iter().map(change).collect::<Vec<_>>(),
        });
        println!("{told}");
        return Ok(());
    }
    println!(
        "{} records 记录{}: shown 共享 {} (version {} in force 现行: {}), gained 新增 {}, lost 减少 {}, changed 变更 {}",
        answer.record_count,
        if answer.more { " (the newest)" } else { "" },
        answer.shown_count,
        answer.version_before,
        answer.shown_before_count,
        answer.gained_count,
        answer.lost_count,
        answer.changed_count,
    );
    for change in &answer.changes {
        println!("{} {}", kind(change.kind), id_text(&change.record_id));
        for (mark, sharing) in [('-', &change.before), ('+', &change.after)] {
            if let Some(sharing) = sharing {
                println!("  {mark} {}", verdict(sharing));
            }
        }
    }
    Ok(())
}

/// A moment by the clocks of Beijing, which know no summer.
pub fn beijing(micros: i64) -> String {
    const EIGHT_HOURS: i64 = 8 * 3_600 * 1_000_000;
    jiff::Timestamp::from_microsecond(micros.saturating_add(EIGHT_HOURS))
        .map(|time| time.strftime("%Y-%m-%d %H:%M:%S +08:00").to_string())
        .unwrap_or_default()
}

/// A stream in one word.
pub fn stream_text(stream: &pb::StreamKey) -> String {
    let lane = Lane::try_from(stream.lane).map_or("", |lane: Lane| lane.name());
    let agreement = id_text(&stream.agreement_id);
    format!("{}/{agreement}/v{}/{lane}", stream.origin_region, stream.agreement_version)
}

fn id_text(id: &[u8]) -> String {
    RecordId::from_slice(id).map_or_else(|| hex(id), |id| id.to_string())
}

fn number(revision: Option<&Revision>) -> String {
    revision.map_or_else(|| "-".to_owned(), |revision| revision.n.to_string())
}

/// A name of a generated table without what all of its names begin with.
fn short<'a>(name: &'a str, begins: &str) -> &'a str {
    name.strip_prefix(begins).unwrap_or(name)
}

fn standing(sharing: &pb::Sharing) -> &'static str {
    match sharing.standing() {
        pb::Standing::Unspecified => "NOT_SHOWN",
        other => short(other.as_str_name(), "STANDING_"),
    }
}

fn withheld_for(sharing: &pb::Sharing) -> Option<&'static str> {
    Withhold::try_from(sharing.withhold_reason).ok().map(Withhold::name)
}

fn precision(sharing: &pb::Sharing) -> &'static str {
    short(sharing.precision().as_str_name(), "PRECISION_")
}

/// What was decided, in one line.
fn verdict(sharing: &pb::Sharing) -> String {
    let mut text = standing(sharing).to_owned();
    if let Some(why) = withheld_for(sharing) {
        text += &format!(", withheld now 现不共享: {why}");
    }
    if sharing.clause > 0 {
        text += &format!(", clause 条款 {} ({})", sharing.clause, precision(sharing));
    }
    if sharing.unverified {
        text += ", 未核实";
    }
    if !sharing.withheld_fields.is_empty() {
        text += &format!(", without 隐去 {}", sharing.withheld_fields.join(" "));
    }
    text
}

fn sharing_text(sharing: &pb::Sharing) -> String {
    let pb::Sharing { title, agreement_version, .. } = sharing;
    let mut text = format!("《{title}》 v{agreement_version}: {}", verdict(sharing));
    if sharing.seq > 0 {
        let lane = Lane::try_from(sharing.lane).map_or("", |lane: Lane| lane.name());
        let revision = number(sharing.revision.as_ref());
        text += &format!("; revision 版次 {revision}, {lane} #{}", sharing.seq);
    }
    text.push('\n');
    for delivery in &sharing.deliveries {
        let state = match delivery.state() {
            pb::DeliveryState::Unspecified => continue,
            state => short(state.as_str_name(), "DELIVERY_STATE_"),
        };
        text += &format!("  {}: {state}", delivery.party_region);
        if let Some(time) = delivery.receive_time.and_then(decode_time) {
            text += &format!(" {}", beijing(time.micros()));
        }
        if let Ok(reason) = Reason::try_from(delivery.parked_reason) {
            text += &format!(" {}: {}", reason.name(), reason.message_en());
        }
        text.push('\n');
    }
    text
}

fn sharing_json(sharing: &pb::Sharing) -> Value {
    let delivery = |delivery: &pb::Delivery| {
        json!({
            "party": delivery.party_region,
            "state": short(delivery.state().as_str_name(), "DELIVERY_STATE_"),
            "received_at": delivery.receive_time.and_then(decode_time).map(|at| beijing(at.micros())),
            "parked_reason": Reason::try_from(delivery.parked_reason).ok().map(Reason::name),
        })
    };
    json!({
        "agreement_id": id_text(&sharing.agreement_id),
        "version": sharing.agreement_version,
        "title": sharing.title,
        "standing": standing(sharing),
        "clause": sharing.clause,
        "withheld_for": withheld_for(sharing),
        "precision": precision(sharing),
        "unverified": sharing.unverified,
        "withheld_fields": sharing.withheld_fields,
        "share_n": sharing.share_n,
        "lane": Lane::try_from(sharing.lane).ok().map(Lane::name),
        "seq": sharing.seq,
        "revision": sharing.revision.as_ref().map(|revision| revision.n),
        "deliveries": sharing.deliveries.iter().map(delivery).collect::<Vec<_>>(),
    })
}
