//! `AgreementService`: what this region shares, and how far it has got.

use super::{Services, bundle, erase, explain, propose, quarantine};
use crate::hosted::Hosted;
use crate::status::{malformed, refuse, refuse_field, unreadable, unwritten};
use bytes::Bytes;
use domain::agreement::{Agreement, AgreementState};
use domain::kernel::Reason;
use domain::stream::StreamId;
use exchange::status::State;
use proto::agreement::v1 as pb;
use proto::agreement::v1::agreement_service_server::AgreementService;
use proto::convert::kernel::encode_time;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use storage::ReadError;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// How often the states are sent.
const STATES_EVERY: Duration = Duration::from_secs(1);
/// Of the last errors of all links.
const LINK_ERROR_BYTES_MAX: usize = 256;
const ERRORS_BETWEEN: &str = "; ";
/// Seqs of parked entries in a digest's answer.
const PARKED_MAX: u32 = 1_000;

#[tonic::async_trait]
impl AgreementService for Services {
    async fn list_agreements(
        &self,
        request: Request<pb::ListAgreementsRequest>,
    ) -> Result<Response<pb::ListAgreementsResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.AgreementService/ListAgreements").await?;
        let purpose = super::purpose(request.into_inner().purpose)?;
        let (book, now) = (region.book(), region.now());
        let held = || book.agreements.values().map(|signed| &signed.agreement);
        let agreements: Vec<pb::Agreement> = held().map(Into::into).collect();
        let state = |agreement: &Agreement| {
            let in_force = region.store.version_in_force(agreement.agreement_id);
            if in_force.is_some_and(|in_force| in_force > agreement.version) {
                return pb::AgreementState::Superseded;
            }
            match agreement.state(now) {
                AgreementState::Agreed => pb::AgreementState::Agreed,
                AgreementState::InForce => pb::AgreementState::InForce,
                AgreementState::Suspended => pb::AgreementState::Suspended,
                AgreementState::Closing => pb::AgreementState::Closing,
                AgreementState::Ready => pb::AgreementState::Ready,
            }
        };
        let states = held().map(|agreement| state(agreement).into()).collect();
        let sha256s = held().map(|agreement| Bytes::copy_from_slice(&agreement.sha256)).collect();
        region.disclose(&caller, purpose, "ListAgreements", (0, 0), 0).await.map_err(unwritten)?;
        Ok(Response::new(pb::ListAgreementsResponse { agreements, states, sha256s }))
    }

    type WatchStreamsStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchStreamsResponse, Status>> + Send>>;

    async fn watch_streams(
        &self,
        request: Request<pb::WatchStreamsRequest>,
    ) -> Result<Response<Self::WatchStreamsStream>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.AgreementService/WatchStreams").await?;
        let purpose = super::purpose(request.into_inner().purpose)?;
        region.disclose(&caller, purpose, "WatchStreams", (0, 0), 0).await.map_err(unwritten)?;
        let (out, states) = mpsc::channel(2);
        let tasks = region.tasks.clone();
        tasks.spawn("region.watch_streams", runtime::OnExit::Log, watch_states(region, out));
        Ok(Response::new(Box::pin(ReceiverStream::new(states))))
    }

    async fn get_stream_digest(
        &self,
        request: Request<pb::GetStreamDigestRequest>,
    ) -> Result<Response<pb::GetStreamDigestResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.AgreementService/GetStreamDigest").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        let stream = request.stream.ok_or_else(|| refuse_field("stream", "must be given"))?;
        let stream = StreamId::try_from(stream).map_err(|violations| malformed(&violations))?;
        let answer = digest(&region, &stream).await.map_err(|error| unreadable(&error))?;
        let answer = answer.ok_or_else(|| refuse(Reason::RecordNotFound))?;
        region.disclose(&caller, purpose, "GetStreamDigest", (0, 0), 0).await.map_err(unwritten)?;
        Ok(Response::new(answer))
    }

    type ExportBundleStream =
        Pin<Box<dyn Stream<Item = Result<pb::ExportBundleResponse, Status>> + Send>>;

    async fn export_bundle(
        &self,
        request: Request<pb::ExportBundleRequest>,
    ) -> Result<Response<Self::ExportBundleStream>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.AgreementService/ExportBundle").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        let to = bundle::party(&region, &request.to_region)?;
        // Sealed for the party, and each entry is its own disclosure: the caller reads nothing.
        region.disclose(&caller, purpose, "ExportBundle", (0, 0), 0).await.map_err(unwritten)?;
        let (out, parts) = mpsc::channel(bundle::PARTS_QUEUED_MAX);
        let tasks = region.tasks.clone();
        let export = bundle::export(region, to, out);
        tasks.spawn("region.export_bundle", runtime::OnExit::Log, export);
        Ok(Response::new(Box::pin(ReceiverStream::new(parts))))
    }

    async fn import_bundle(
        &self,
        request: Request<Streaming<pb::ImportBundleRequest>>,
    ) -> Result<Response<pb::ImportBundleResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.AgreementService/ImportBundle").await?;
        let (answer, purpose) = bundle::import(&region, request.into_inner()).await?;
        region.disclose(&caller, purpose, "ImportBundle", (0, 0), 0).await.map_err(unwritten)?;
        Ok(Response::new(answer))
    }

    async fn erase_record(
        &self,
        request: Request<pb::EraseRecordRequest>,
    ) -> Result<Response<pb::EraseRecordResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.AgreementService/EraseRecord").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        // On record before it is done: what was there cannot be looked at afterwards.
        region.disclose(&caller, purpose, "EraseRecord", (0, 0), 1).await.map_err(unwritten)?;
        Ok(Response::new(erase::erase(&region, &caller, &request).await?))
    }

    async fn list_erasures(
        &self,
        request: Request<pb::ListErasuresRequest>,
    ) -> Result<Response<pb::ListErasuresResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.AgreementService/ListErasures").await?;
        let purpose = super::purpose(request.into_inner().purpose)?;
        let erasures = erase::list(&region, erase::ERASURES_MAX).await?;
        let listed = erasures.len();
        region
            .disclose(&caller, purpose, "ListErasures", (0, 0), listed)
            .await
            .map_err(unwritten)?;
        Ok(Response::new(pb::ListErasuresResponse { erasures }))
    }

    async fn list_quarantined(
        &self,
        request: Request<pb::ListQuarantinedRequest>,
    ) -> Result<Response<pb::ListQuarantinedResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.AgreementService/ListQuarantined").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        let answer = quarantine::list(&region, &request).await?;
        let listed = answer.views.len();
        region
            .disclose(&caller, purpose, "ListQuarantined", (0, 0), listed)
            .await
            .map_err(unwritten)?;
        Ok(Response::new(answer))
    }

    async fn release_quarantined(
        &self,
        request: Request<pb::ReleaseQuarantinedRequest>,
    ) -> Result<Response<pb::ReleaseQuarantinedResponse>, Status> {
        let (region, caller) = self
            .caller(&request, "wuling.agreement.v1.AgreementService/ReleaseQuarantined")
            .await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        // On record before it is done: from then on all see it.
        region
            .disclose(&caller, purpose, "ReleaseQuarantined", (0, 0), 1)
            .await
            .map_err(unwritten)?;
        Ok(Response::new(quarantine::release(&region, &caller, &request).await?))
    }

    async fn propose_agreement(
        &self,
        request: Request<pb::ProposeAgreementRequest>,
    ) -> Result<Response<pb::ProposeAgreementResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.AgreementService/ProposeAgreement").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        let wanted = propose::proposed(&region, &caller, request.agreement)?;
        // On record before it is done: a signature that was given cannot be taken back.
        region
            .disclose(&caller, purpose, "ProposeAgreement", (0, 0), 1)
            .await
            .map_err(unwritten)?;
        let proposal = propose::sign(&region, &caller, wanted).await?;
        Ok(Response::new(pb::ProposeAgreementResponse { proposal }))
    }

    async fn list_proposals(
        &self,
        request: Request<pb::ListProposalsRequest>,
    ) -> Result<Response<pb::ListProposalsResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.AgreementService/ListProposals").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        let proposals = propose::list(&region, &request.sha256)?;
        let listed = proposals.len();
        region
            .disclose(&caller, purpose, "ListProposals", (0, 0), listed)
            .await
            .map_err(unwritten)?;
        Ok(Response::new(pb::ListProposalsResponse { proposals }))
    }

    async fn sign_agreement(
        &self,
        request: Request<pb::SignAgreementRequest>,
    ) -> Result<Response<pb::SignAgreementResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.AgreementService/SignAgreement").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        let wanted = propose::named(&region, &caller, &request)?;
        region.disclose(&caller, purpose, "SignAgreement", (0, 0), 1).await.map_err(unwritten)?;
        let proposal = propose::sign(&region, &caller, wanted).await?;
        Ok(Response::new(pb::SignAgreementResponse { proposal }))
    }

    async fn decline_proposal(
        &self,
        request: Request<pb::DeclineProposalRequest>,
    ) -> Result<Response<pb::DeclineProposalResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.AgreementService/DeclineProposal").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        region.disclose(&caller, purpose, "DeclineProposal", (0, 0), 1).await.map_err(unwritten)?;
        propose::decline(&region, &caller, &request).await?;
        Ok(Response::new(pb::DeclineProposalResponse {}))
    }

    async fn explain_record(
        &self,
        request: Request<pb::ExplainRecordRequest>,
    ) -> Result<Response<pb::ExplainRecordResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.AgreementService/ExplainRecord").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        let answer = explain::explain_record(&region, &request).await?;
        region.disclose(&caller, purpose, "ExplainRecord", (0, 0), 1).await.map_err(unwritten)?;
        Ok(Response::new(answer))
    }

    async fn preview_operation(
        &self,
        request: Request<pb::PreviewOperationRequest>,
    ) -> Result<Response<pb::PreviewOperationResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.AgreementService/PreviewOperation").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        let answer = explain::preview(&region, &caller, request.operation).await?;
        region
            .disclose(&caller, purpose, "PreviewOperation", (0, 0), 1)
            .await
            .map_err(unwritten)?;
        Ok(Response::new(answer))
    }

    async fn dry_run_agreement(
        &self,
        request: Request<pb::DryRunAgreementRequest>,
    ) -> Result<Response<pb::DryRunAgreementResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.AgreementService/DryRunAgreement").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        let answer = explain::dry_run(&region, &request).await?;
        let named = answer.changes.len();
        region
            .disclose(&caller, purpose, "DryRunAgreement", (0, 0), named)
            .await
            .map_err(unwritten)?;
        Ok(Response::new(answer))
    }
}

/// Why links are down, no longer than an answer carries: each gateway has an equal part of it.
pub(super) fn link_error(links: &State) -> String {
    let errors = links.errors();
    let part = LINK_ERROR_BYTES_MAX / errors.len().max(1);
    let part = part.saturating_sub(ERRORS_BETWEEN.len());
    let cut = |error: &String| error[..error.floor_char_boundary(part)].to_owned();
    errors.iter().map(cut).collect::<Vec<_>>().join(ERRORS_BETWEEN)
}

async fn watch_states(
    region: Arc<Hosted>,
    out: mpsc::Sender<Result<pb::WatchStreamsResponse, Status>>,
) {
    let soft = region.tasks.soft().clone();
    let mut ticks = tokio::time::interval(STATES_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // No arm holds state across its await.
        tokio::select! {
            () = soft.cancelled() => return,
            () = out.closed() => return,
            _ = ticks.tick() => {}
        }
        let message = states(&region).await.map_err(|error| unreadable(&error));
        if out.send(message).await.is_err() {
            return;
        }
    }
}

async fn states(region: &Hosted) -> Result<pb::WatchStreamsResponse, ReadError> {
    let links = region.links.get();
    let received = links.received();
    let receipts: HashMap<_, _> = region
        .store
        .list_receipts()
        .await?
        .into_iter()
        .map(|receipt| ((receipt.stream.clone(), receipt.party.clone()), receipt))
        .collect();
    let book = region.book();
    let mut streams = Vec::new();
    let present = region.store.epoch();
    let rows = region.store.list_streams().await?.into_iter();
    // What an epoch that was left has shown is shown again in the present one.
    for row in rows.filter(|row| row.stream.epoch == present) {
        let Some(agreement) = book.agreement(row.stream.agreement, row.stream.version) else {
            continue;
        };
        for party in agreement.parties.iter().filter(|party| party.region != *region.region()) {
            let receipt = receipts.get(&(row.stream.clone(), party.region.clone()));
            streams.push(pb::StreamState {
                stream: Some((&row.stream).into()),
                party_region: party.region.to_string(),
                last_seq: row.position.seq,
                stored_seq: links.stored(&row.stream),
                applied_seq: receipt.map_or(0, |receipt| receipt.position.seq),
                parked_count: receipt.map_or(0, |receipt| receipt.parked_count),
                head_late: false,
            });
        }
    }
    for row in region.store.list_inboxes().await? {
        let standing = received.get(&row.stream);
        streams.push(pb::StreamState {
            stream: Some((&row.stream).into()),
            party_region: region.region().to_string(),
            last_seq: standing
                .map_or(row.position.seq, |standing| standing.known_seq.max(row.position.seq)),
            stored_seq: 0,
            applied_seq: row.position.seq,
            parked_count: row.parked_count,
            head_late: standing.is_some_and(|standing| standing.head_late),
        });
    }
    Ok(pb::WatchStreamsResponse {
        streams,
        link_up: links.link_up(),
        link_error: link_error(&links),
        server_time: Some(encode_time(region.now())),
    })
}

/// `None` for a stream that is not known here.
async fn digest(
    region: &Hosted,
    stream: &StreamId,
) -> Result<Option<pb::GetStreamDigestResponse>, ReadError> {
    let own = stream.origin == *region.region();
    let known =
        if own { region.store.list_streams().await? } else { region.store.list_inboxes().await? };
    let Some(row) = known.into_iter().find(|row| row.stream == *stream) else { return Ok(None) };
    let (views, parked) = if own {
        (exchange::digest::shown(&region.store, stream).await?, Vec::new())
    } else {
        let parked = region.store.list_parked(stream, PARKED_MAX).await?;
        (region.store.list_received_views(stream).await?, parked)
    };
    Ok(Some(pb::GetStreamDigestResponse {
        digest: Bytes::copy_from_slice(&exchange::digest::digest(&views)),
        view_count: views.len() as u64,
        entry_count: row.position.seq,
        parked_count: row.parked_count,
        parked_seqs: parked.into_iter().map(|(seq, _)| seq).collect(),
    }))
}
