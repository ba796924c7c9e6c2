//! Bundles in and out, for where no line goes.

use crate::hosted::Hosted;
use crate::status::{refuse, refuse_field, unreadable};
use domain::kernel::{Purpose, Reason, RegionId};
use exchange::bundle::{Export, Import, ImportError};
use proto::agreement::v1 as pb;
use runtime::ErrorChain;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// Parts that are ready before the caller has taken those before.
pub(super) const PARTS_QUEUED_MAX: usize = 4;

type Out = mpsc::Sender<Result<pb::ExportBundleResponse, Status>>;

/// The party that a bundle is for.
pub(super) fn party(region: &Hosted, id: &str) -> Result<RegionId, Status> {
    let to = RegionId::parse(id).map_err(|_| refuse(Reason::RegionUnknown))?;
    let book = region.book();
    let agreements = book.agreements.values();
    let shares = agreements.map(|signed| &signed.agreement).any(|agreed| agreed.has_party(&to));
    if to == *region.region() || !shares { Err(refuse(Reason::NotAParty)) } else { Ok(to) }
}

/// Sends the parts one after another.
pub(super) async fn export(region: Arc<Hosted>, to: RegionId, out: Out) {
    let home = region.home();
    let mut export = match Export::begin(&home, &to).await {
        Ok(export) => export,
        // Who asked may be gone, which is no failure.
        Err(error) => return drop(out.send(Err(unreadable(&error))).await),
    };
    loop {
        let part = match export.next().await {
            Ok(None) => return,
            Ok(part) => Ok(pb::ExportBundleResponse { part }),
            Err(error) => {
                tracing::error!(error = %ErrorChain(&error), "a bundle was not made");
                Err(refuse(Reason::Internal))
            }
        };
        let failed = part.is_err();
        if out.send(part).await.is_err() || failed {
            return;
        }
    }
}

/// Takes the parts one after another; gives what came of them, and why they were handed in.
pub(super) async fn import(
    region: &Hosted,
    mut parts: Streaming<pb::ImportBundleRequest>,
) -> Result<(pb::ImportBundleResponse, Purpose), Status> {
    let mut import = Import::begin(region.home()).await.map_err(|error| unreadable(&error))?;
    let mut purpose = None;
    while let Some(request) = parts.message().await? {
        if purpose.is_none() {
            purpose = Some(super::purpose(request.purpose)?);
        }
        let part = request.part.ok_or_else(|| refuse_field("part", "must be given"))?;
        import.take(part).await.map_err(|error| refused(&error))?;
    }
    import.end().map_err(|error| refused(&error))?;
    let purpose = purpose.ok_or_else(|| refuse(Reason::PurposeRequired))?;
    let streams = import.streams.iter().map(|(stream, fared)| pb::BundledStream {
        stream: Some(stream.into()),
        seq_before: fared.before,
        applied_seq: fared.applied.seq,
        parked_count: fared.parked_count,
        known_seq: fared.known_seq,
    });
    let refusals = import.refusals.iter().map(|refusal| pb::BundleRefusal {
        part: refusal.part,
        stream: refusal.stream.as_ref().map(Into::into),
        reason: refusal.reason.code(),
    });
    let answer = pb::ImportBundleResponse {
        streams: streams.collect(),
        receipt_count: import.receipts,
        refusals: refusals.collect(),
    };
    Ok((answer, purpose))
}

fn refused(error: &ImportError) -> Status {
    match error {
        ImportError::Read(error) => unreadable(error),
        ImportError::Unwritten => refuse(Reason::StorageUnavailable),
        ImportError::Header => refuse_field("part.header", "must come first, and once"),
        ImportError::Format(_) => refuse(Reason::SuiteUnknown),
        ImportError::OtherLinkage(_) => {
            refuse_field("part.header.linkage_id", "names another linkage")
        }
        ImportError::OtherRegion(_) => {
            refuse_field("part.header.to_region", "is for another region: import it there")
        }
        ImportError::Unknown => refuse_field("part", "is none of those that are known"),
        ImportError::CutOff => refuse_field(
            "part.end",
            "must come last and count the parts: the bundle was cut off, what came before it was taken",
        ),
    }
}
