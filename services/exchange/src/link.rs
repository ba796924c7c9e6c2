//! One link to a gateway: dials, says hello, drives the two cores until the line breaks, dials again.

use crate::book::Book;
use crate::home::Home;
use crate::proposals;
use crate::receive::{self, Heard, Receiver};
use crate::send::{self, Sender};
use crate::session::Session;
use domain::kernel::{GatewayId, Lane, Reason, TrustAge};
use domain::stream::{Position, StreamId};
use proto::exchange::v1::exchange_service_client::ExchangeServiceClient;
use proto::exchange::v1::{LinkRequest, LinkResponse, Welcome, link_request, link_response};
use proto::link::{Assembler, LINK_PROTOCOL};
use runtime::ErrorChain;
use runtime::backoff::Backoff;
use runtime::channel::Limits;
use runtime::identity::Identity;
use runtime::pki::{Authority, PkiError, Validity};
use runtime::renewal::CERTIFICATE_DAYS;
use runtime::tls::{Anchor, ClientTls, TlsError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storage::{ReadError, StoreError, WriteError};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Lanes that share a connection: none does. What the system has taken to send cannot be overtaken any more, and over a
/// narrow line that is seconds of it.
pub const LANE_CLASSES: &[&[Lane]] = &[&[Lane::Alert], &[Lane::Routine], &[Lane::Bulk]];
/// Longest wait for each step of the opening.
pub(crate) const OPENING_TIMEOUT: Duration = Duration::from_secs(5);
/// Frames that may wait for the network.
const FRAMES_QUEUED_MAX: usize = 64;
/// A frame holds at most one signed agreement or one piece.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// First wait after a loss; doubles up to half a minute, drawn with full jitter. All must agree a minute
/// after a line is whole again, and what waited has yet to be sent then.
pub const REDIAL: Backoff = Backoff { base_ms: 200, cap_ms: 30_000 };

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The gateway cannot be reached or closed the line.
    #[error("the gateway is not reached: {0}")]
    Line(String),
    /// The gateway did not answer in time.
    #[error("the gateway is silent")]
    Silent,
    /// The gateway sent what it may not send.
    #[error("the gateway broke the protocol: {0}")]
    Protocol(&'static str),
    /// The gateway refused the link.
    #[error("the gateway refused the link: {0}")]
    Refused(&'static str),
    /// The gateway is not in the directory, or was revoked.
    #[error("the gateway is revoked or no longer in the directory")]
    Revoked,
    /// The certificate for the link cannot be made.
    #[error("the certificate for the link cannot be made")]
    Certificate(#[from] PkiError),
    /// TLS cannot be set up.
    #[error("TLS for the link cannot be set up")]
    Tls(#[from] TlsError),
    /// The store cannot be read.
    #[error("the store could not be read")]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error("the store could not be written")]
    Write(#[from] WriteError),
    /// It is not known whether the store went back.
    #[error(transparent)]
    Compare(#[from] StoreError),
    /// The endpoint is no host:port.
    #[error("the gateway's endpoint is wrong")]
    Endpoint(#[from] runtime::channel::ChannelError),
}

/// One link to a gateway, for one class of lanes.
#[derive(Clone)]
pub struct Exchange {
    /// The region, with the book that it has in hand.
    pub home: Home,
    /// The gateway.
    pub gateway: GatewayId,
    /// host:port of the gateway, where it is not what the directory says.
    pub endpoint: Option<String>,
    /// Makes the region's certificate.
    pub authority: Arc<Authority>,
    /// Lanes that this connection carries.
    pub lanes: &'static [Lane],
    /// Entries of a segment that is cut as they come. What is asked for again goes in whole segments.
    pub entries_per_segment_max: u32,
}

impl Exchange {
    /// Keeps the link up until the soft stop.
    pub async fn run(mut self) {
        let mut kept =
            Kept { assembler: Assembler::new(seal::key::sha256), heard: BTreeMap::new() };
        let mut failures = 0;
        while !self.home.tasks.soft().is_cancelled() {
            let mut opened = false;
            // What changes from here on is heard, however long the opening takes.
            let mut books = self.home.shelf.watch();
            self.home.book = Arc::clone(&books.borrow_and_update());
            let lanes = self.lanes_now();
            let ended = if lanes.is_empty() {
                self.until_allowed(books).await
            } else {
                self.once(lanes, &mut kept, books, &mut opened).await
            };
            if opened {
                failures = 0;
                self.home.status.at(&self.gateway, |gateway| gateway.closed(self.lanes));
            }
            let wait_ms = match ended {
                Ok(Ended::Stopped) => break,
                Ok(Ended::ComeBack(after_ms)) => u64::from(after_ms),
                // The line is good: what is new is said over another at once.
                Ok(Ended::Renewed) => 0,
                Err(error) => {
                    tracing::warn!(region.id = %self.home.book.region, gateway.id = %self.gateway, error = %ErrorChain(&error), "link lost");
                    let lanes = self.lanes;
                    self.home.status.at(&self.gateway, |gateway| gateway.failed(lanes, &error));
                    if matches!(error, LinkError::Revoked) {
                        self.until_listed().await;
                        failures = 0;
                    }
                    failures += 1;
                    REDIAL.next(failures - 1, self.draw())
                }
            };
            tokio::select! {
                () = self.home.tasks.soft().cancelled() => break,
                () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            }
        }
    }

    fn draw(&self) -> u64 {
        let mut bytes = [0; 8];
        self.home.entropy.fill(&mut bytes);
        u64::from_be_bytes(bytes)
    }

    /// The lanes that it carries now: alerts alone, when the authority has been silent for too long.
    pub(crate) fn lanes_now(&self) -> &'static [Lane] {
        let trust = &self.home.shelf.book().trust;
        match (trust.age(self.home.clock.now()), self.lanes) {
            (TrustAge::Lapsed, [Lane::Alert, ..]) => &[Lane::Alert],
            (TrustAge::Lapsed, _) => &[],
            (TrustAge::Fresh | TrustAge::Stale, lanes) => lanes,
        }
    }

    /// Waits for a newer word of the authority.
    async fn until_allowed(
        &self,
        mut books: watch::Receiver<Arc<Book>>,
    ) -> Result<Ended, LinkError> {
        let error = "the authority has been silent for too long".to_owned();
        self.home.status.at(&self.gateway, |gateway| gateway.refused(self.lanes, error));
        // Neither arm holds anything.
        tokio::select! {
            () = self.home.tasks.soft().cancelled() => Ok(Ended::Stopped),
            _ = books.changed() => Ok(Ended::Renewed),
        }
    }

    /// Waits until the directory lists the gateway again, or the soft stop.
    async fn until_listed(&self) {
        let mut books = self.home.shelf.watch();
        let listed = async {
            let listed = books.wait_for(|book| book.trust.find_gateway(&self.gateway).is_some());
            drop(listed.await);
        };
        // Neither arm holds anything.
        tokio::select! {
            () = self.home.tasks.soft().cancelled() => {}
            () = listed => {}
        }
    }

    /// Where the gateway is, and what each side shows the other: made for each connection, since a certificate
    /// runs out and a directory changes.
    fn line(&self) -> Result<Channel, LinkError> {
        let found = self.home.book.trust.find_gateway(&self.gateway);
        let gateway = found.ok_or(LinkError::Revoked)?;
        let (to, certificate) =
            (Identity::Gateway(gateway.gateway_id.clone()), &gateway.authority_certificate);
        let endpoint = self.endpoint.as_ref().unwrap_or(&gateway.endpoint);
        dial(&self.home, &self.authority, to, certificate, endpoint)
    }

    /// One connection, from dialling to its end.
    async fn once(
        &self,
        lanes: &'static [Lane],
        kept: &mut Kept,
        books: watch::Receiver<Arc<Book>>,
        opened: &mut bool,
    ) -> Result<Ended, LinkError> {
        let channel = self.line()?;
        let mut client = ExchangeServiceClient::new(channel)
            .max_decoding_message_size(FRAME_BYTES_MAX)
            .max_encoding_message_size(FRAME_BYTES_MAX);
        let (out, frames) = mpsc::channel(FRAMES_QUEUED_MAX);
        let dialled =
            tokio::time::timeout(OPENING_TIMEOUT, client.link(ReceiverStream::new(frames))).await;
        let mut inbound = dialled.map_err(|_| LinkError::Silent)?.map_err(line)?.into_inner();
        // Listening begins before the positions are read, so that no commit falls between.
        let commits = self.home.store.listen();
        let now = self.home.clock.now();
        let streams = self.home.store.list_streams().await?;
        let inboxes = self.home.store.list_inboxes().await?;
        let some = inboxes.iter().filter(|row| row.position.seq > 0);
        some.for_each(|row| self.home.status.applied(&row.stream));
        let applied: Vec<_> =
            inboxes.into_iter().filter(|row| lanes.contains(&row.stream.lane)).collect();
        let welcome = self.greet(lanes, &out, &mut inbound, &applied).await?;
        *opened = true;
        self.home.status.at(&self.gateway, |gateway| gateway.opened(self.lanes));
        self.home.status.with(|state| state.error.clear());
        tracing::info!(region.id = %self.home.book.region, gateway.id = %self.gateway, lanes = ?lanes, "link up");
        let stored = decode_stored(&welcome)?;
        let claims = self.compare(&mut client, &stored).await?;
        // What others hold otherwise is not theirs to hear again.
        let own = streams.into_iter().filter(|row| !self.home.is_lost(&row.stream));
        let own = own.map(|row| (row.stream, row.position)).collect();
        let sender = Sender::new(lanes, own, now);
        let positions =
            applied.into_iter().map(|row| (row.stream, row.position, row.parked_count)).collect();
        let receiver = Receiver::new(positions, &kept.heard, now);
        let starts = self.home.store.list_starts().await?;
        let mut session =
            Session::new(self, lanes, sender, receiver, &mut kept.assembler, claims, out);
        session.open(welcome, stored);
        session.left(starts);
        session.remind().await?;
        let ended = session.run(inbound, commits, books).await;
        kept.heard = session.heard();
        ended
    }

    /// Challenge, hello, welcome.
    async fn greet(
        &self,
        lanes: &[Lane],
        out: &mpsc::Sender<LinkRequest>,
        inbound: &mut tonic::Streaming<LinkResponse>,
        applied: &[storage::region::StreamRow],
    ) -> Result<Welcome, LinkError> {
        let Some(link_response::Frame::Challenge(challenge)) = opening(inbound).await? else {
            return Err(LinkError::Protocol("no challenge"));
        };
        let nonce =
            challenge.nonce.as_ref().try_into().map_err(|_| LinkError::Protocol("nonce"))?;
        let hello = seal::signed::Hello {
            region: self.home.book.region.clone(),
            nonce,
            gateway: self.gateway.clone(),
            protocol: LINK_PROTOCOL,
            lanes: lanes.to_vec(),
            applied: applied.iter().map(|row| (row.stream.clone(), row.position)).collect(),
            software: concat!("wuling-region ", env!("CARGO_PKG_VERSION")).to_owned(),
            trust: self.home.book.trust.mark(),
            agreements: self
                .home
                .book
                .agreements
                .values()
                .map(|held| held.agreement.sha256)
                .collect(),
            takes_proposals: proposals::are_carried_on(lanes),
        };
        let frame = link_request::Frame::Hello(hello.sign(&self.home.book.signing));
        out.send(LinkRequest { frame: Some(frame) }).await.map_err(|_| LinkError::Silent)?;
        match opening(inbound).await? {
            Some(link_response::Frame::Welcome(welcome)) => Ok(welcome),
            Some(link_response::Frame::Refusal(refusal)) => {
                Err(LinkError::Refused(reason_name(refusal.reason)))
            }
            _ => Err(LinkError::Protocol("no welcome")),
        }
    }
}

/// A channel to a member of the linkage, whose authority has this certificate, on which the region shows its own.
pub(crate) fn dial(
    home: &Home,
    authority: &Authority,
    to: Identity,
    certificate: &[u8],
    endpoint: &str,
) -> Result<Channel, LinkError> {
    let (linkage, book) = (home.book.linkage(), &home.book);
    // One that has not heard of it yet would be told by nobody else.
    if book.find_region(&book.region).is_none() {
        return Err(LinkError::Refused(Reason::RegionRevoked.name()));
    }
    let identity = Identity::Region(book.region.clone());
    let validity = Validity::days(home.clock.now(), CERTIFICATE_DAYS);
    let own = authority.issue_server(linkage, &identity, &[], &[], validity)?;
    let tls = ClientTls::new(linkage, to, Anchor::Certificate(certificate), Some(&own))?;
    Ok(runtime::channel::channel(endpoint, tls, Limits::PEER)?)
}

/// What outlives a connection.
struct Kept {
    /// Pieces of segments that are not whole yet.
    assembler: Assembler,
    /// What the gateway has said of the streams.
    heard: BTreeMap<StreamId, Heard>,
}

/// How a link ended without an error.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ended {
    /// This region stops.
    Stopped,
    /// The gateway stops; dial again after so many milliseconds.
    ComeBack(u32),
    /// What the region knows of the linkage has changed.
    Renewed,
}

/// How far the gateway has this region's streams.
fn decode_stored(welcome: &Welcome) -> Result<Vec<(StreamId, Position)>, LinkError> {
    let stored = welcome.stored.iter().cloned();
    let stored = stored.map(|position| <(StreamId, Position)>::try_from(position).ok());
    stored.collect::<Option<_>>().ok_or(LinkError::Protocol("welcome"))
}

async fn opening(
    inbound: &mut tonic::Streaming<LinkResponse>,
) -> Result<Option<link_response::Frame>, LinkError> {
    let frame = tokio::time::timeout(OPENING_TIMEOUT, inbound.message())
        .await
        .map_err(|_| LinkError::Silent)?;
    let frame = frame.map_err(line)?;
    Ok(frame.and_then(|frame| frame.frame))
}

/// A reason's name by its number on the wire.
pub(crate) fn reason_name(number: i32) -> &'static str {
    Reason::try_from(number).map_or("UNKNOWN_REASON", Reason::name)
}

/// A broken line, with its causes: a refused certificate stands deep among them.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn line(status: tonic::Status) -> LinkError {
    LinkError::Line(ErrorChain(&status).to_string())
}

/// What both cores ask for.
pub(crate) enum Work {
    /// Of the sender.
    Send(send::Effect),
    /// Of the receiver.
    Receive(receive::Effect),
}
