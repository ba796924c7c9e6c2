//! The second path: a region asks its neighbours for their streams where no gateway stands between. Once a day, to
//! see whether gateways show all there is and one history of it; and in place of the gateways, when none is left.

use crate::book::Book;
use crate::home::Home;
use crate::link::{LinkError, OPENING_TIMEOUT, dial};
use crate::receive::{Outcome, PARKED_MAX};
use domain::kernel::{Lane, Reason, RegionId, TrustAge};
use domain::stream::{Position, StreamId};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use proto::convert::fetch::FETCH_BYTES_MAX;
use proto::exchange::v1::exchange_service_client::ExchangeServiceClient;
use proto::exchange::v1::{FetchRequest, FetchResponse};
use proto::kernel::v1::SignedObject;
use runtime::ErrorChain;
use runtime::backoff::Backoff;
use runtime::identity::Identity;
use runtime::pki::Authority;
use seal::segment::Segment;
use seal::signed::Head;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use storage::ReadError;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

/// How often it is looked whether somebody must be asked.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A server that starts asks so soon at the latest: one that is restarted each day must ask, too.
const FIRST_WITHIN_S: u64 = 600;
/// How long all gateways are down before neighbours are asked in their place.
const DOWN_FOR: Duration = Duration::from_secs(60);
/// Between two questions, on average, while no gateway brings anything, or a head of the neighbour is late.
const IN_PLACE_EVERY_S: u64 = 10;
/// After a failure; drawn with full jitter.
const AGAIN: Backoff = Backoff { base_ms: 10_000, cap_ms: 600_000 };
/// What gateways have under way has so long to come before it is fetched and they are named.
const UNDER_WAY: Duration = Duration::from_secs(5);
/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time with one neighbour; what is left then comes with the next question.
const PULL_TIMEOUT: Duration = Duration::from_secs(600);
/// Neighbours that are asked at a time.
const ASKED_MAX: usize = 4;
/// Bytes of an answer besides its segments: heads.
const ANSWER_BYTES_MAX: usize = 2 * 1_024 * 1_024;

/// Why a neighbour was not asked to the end.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// It cannot be reached or closed the line.
    #[error("the neighbour is not reached: {0}")]
    Line(String),
    /// It did not answer in time.
    #[error("the neighbour is silent")]
    Silent,
    /// It refused, or what it gave is refused here.
    #[error("refused: {}", .0.name())]
    Refused(Reason),
    /// It sent what it may not send.
    #[error("the neighbour broke the protocol: {0}")]
    Protocol(&'static str),
    /// It cannot be dialled.
    #[error("the neighbour cannot be dialled")]
    Dial(#[from] LinkError),
    /// The store cannot be read.
    #[error("the store could not be read")]
    Read(#[from] ReadError),
}

impl PullError {
    /// Its name among metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Line(_) => "LINE",
            Self::Silent => "SILENT",
            Self::Refused(reason) => reason.name(),
            Self::Protocol(_) => "PROTOCOL",
            Self::Dial(_) => "DIAL",
            Self::Read(_) => "READ",
        }
    }
}

/// Asks the neighbours of one region.
#[derive(Clone)]
pub struct Pull {
    /// The region, with the book that it has in hand.
    pub home: Home,
    /// Makes the region's certificate.
    pub authority: Arc<Authority>,
    /// Seconds between two questions to a neighbour while gateways bring what it writes.
    pub every_s: u64,
}

/// When a neighbour is asked next.
struct Due {
    /// As a rule.
    at: Instant,
    /// Where no gateway brings what it writes.
    in_place_at: Instant,
    failures: u32,
}

/// How far a stream is applied here, and how much of it is parked.
type Applied = (Position, u64);

impl Pull {
    /// Asks until the soft stop.
    pub async fn run(mut self) {
        let mut due: BTreeMap<RegionId, Due> = BTreeMap::new();
        let mut asked = FuturesUnordered::new();
        let mut asking = BTreeSet::new();
        let mut down_since = None;
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // No arm holds state across its await: who is asked stays in the set.
            tokio::select! {
                () = self.home.tasks.soft().cancelled() => return,
                Some((of, outcome)) = asked.next(), if !asked.is_empty() => {
                    asking.remove(&of);
                    self.note(&of, &outcome);
                    if let Some(due) = due.get_mut(&of) {
                        self.put_off(due, outcome.is_ok());
                    }
                    continue;
                }
                _ = ticks.tick() => {}
            }
            self.home.book = self.home.shelf.book();
            let (now, neighbours) = (Instant::now(), neighbours(&self.home.book));
            due.retain(|of, _| neighbours.contains(of));
            let links = self.home.status.get();
            let since = *down_since.get_or_insert(now);
            if links.link_up() {
                down_since = None;
            }
            let down = !links.link_up() && now >= since + DOWN_FOR;
            let received = links.received();
            let late = |of: &RegionId| {
                received.iter().any(|(stream, at)| stream.origin == *of && at.head_late)
            };
            for of in neighbours {
                let first =
                    Duration::from_secs(self.draw() % FIRST_WITHIN_S.min(self.every_s).max(1));
                let when = due.entry(of.clone()).or_insert_with(|| Due {
                    at: now + first,
                    in_place_at: now,
                    failures: 0,
                });
                let is_due = now >= when.at || (now >= when.in_place_at && (down || late(&of)));
                if is_due && asking.len() < ASKED_MAX && asking.insert(of.clone()) {
                    asked.push(self.clone().ask(of, !links.link_up()));
                }
            }
        }
    }

    fn draw(&self) -> u64 {
        let mut bytes = [0; 8];
        self.home.entropy.fill(&mut bytes);
        u64::from_be_bytes(bytes)
    }

    /// When a neighbour is asked again that was just asked.
    fn put_off(&self, due: &mut Due, well: bool) {
        let now = Instant::now();
        let around = |seconds: u64| {
            let ms = seconds.saturating_mul(1_000);
            now + Duration::from_millis(ms / 2 + self.draw() % ms.max(1))
        };
        if well {
            *due = Due {
                at: around(self.every_s),
                in_place_at: around(IN_PLACE_EVERY_S),
                failures: 0,
            };
        } else {
            let wait = now + Duration::from_millis(AGAIN.next(due.failures, self.draw()));
            *due = Due { at: wait, in_place_at: wait, failures: due.failures + 1 };
        }
    }

    fn note(&self, of: &RegionId, outcome: &Result<(), PullError>) {
        let name = outcome.as_ref().map_or_else(PullError::name, |()| "OK");
        if let Err(error) = outcome {
            tracing::warn!(region.id = %self.home.book.region, peer.id = %of, error = %ErrorChain(error), "a neighbour was not asked to the end");
        }
        self.home.status.asked(of, name, self.home.clock.now());
    }

    /// Asks one neighbour for all; `alone` says that no gateway brings anything now.
    async fn ask(self, of: RegionId, alone: bool) -> (RegionId, Result<(), PullError>) {
        let asked = tokio::time::timeout(PULL_TIMEOUT, self.pull(&of, alone)).await;
        (of, asked.unwrap_or(Err(PullError::Silent)))
    }

    async fn pull(&self, of: &RegionId, alone: bool) -> Result<(), PullError> {
        let mut client = self.client(of)?;
        let request = FetchRequest { origin_region: of.to_string(), ..FetchRequest::default() };
        let answer = fetch(&mut client, request).await?;
        let heads = self.verified(of, &answer.heads)?;
        let before = self.applied(of).await?;
        let held_back =
            if alone { BTreeSet::new() } else { self.behind(of, &heads, &before).await? };
        let known = heads.keys().chain(before.keys());
        // What an epoch that was left has shown is shown again in the newest.
        let newest = known.clone().map(|stream| stream.epoch).max();
        let of_newest = known.filter(|stream| Some(stream.epoch) == newest);
        let mut streams: BTreeSet<StreamId> = of_newest.cloned().collect();
        streams.retain(|stream| self.takes(stream));
        let mut queue: VecDeque<StreamId> = streams.iter().cloned().collect();
        let applied = self.applied(of).await?;
        let mut outcome = Ok(());
        while let Some(stream) = queue.pop_front() {
            match self.follow(&mut client, &stream, applied.get(&stream).copied()).await {
                Ok(left) => {
                    if held_back.contains(&stream) {
                        self.home.alarm(Some(&stream), Reason::HeldBack);
                    }
                    let lacking = left.into_iter().filter(|(stream, at)| {
                        applied.get(stream).map_or(0, |(applied, _)| applied.seq) < at.seq
                    });
                    let new = lacking.map(|(stream, _)| stream);
                    queue.extend(new.filter(|stream| streams.insert(stream.clone())));
                }
                Err(error @ (PullError::Line(_) | PullError::Silent)) => return Err(error),
                // It is of this stream alone.
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    fn client(&self, of: &RegionId) -> Result<ExchangeServiceClient<Channel>, PullError> {
        let book = &self.home.book;
        let listed = book.find_region(of).ok_or(PullError::Refused(Reason::RegionRevoked))?;
        let (to, certificate) = (Identity::Region(of.clone()), &listed.authority_certificate);
        let channel = dial(&self.home, &self.authority, to, certificate, &listed.endpoint)?;
        Ok(ExchangeServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// Whether a stream can be taken here now.
    fn takes(&self, stream: &StreamId) -> bool {
        let book = &self.home.book;
        let lapsed = book.trust.age(self.home.clock.now()) == TrustAge::Lapsed;
        let agreement = book.agreement(stream.agreement, stream.version);
        let is_party = |region| agreement.is_some_and(|of| book.find_party(of, region).is_some());
        (stream.lane == Lane::Alert || !lapsed)
            && is_party(&stream.origin)
            && is_party(&book.region)
    }

    /// What the neighbour says of its streams.
    fn verified(
        &self,
        of: &RegionId,
        heads: &[SignedObject],
    ) -> Result<BTreeMap<StreamId, Position>, PullError> {
        let (trust, now) = (&self.home.book.trust, self.home.clock.now());
        let verify = |object: &SignedObject| {
            let key = trust.key_of(of, seal::signed::key_id_of(object), now);
            let key = key.ok_or(PullError::Refused(Reason::RegionRevoked))?;
            let head = Head::verify(object, &key);
            let head = head.map_err(|error| PullError::Refused(error.reason()))?;
            Ok((head.stream, head.position))
        };
        heads.iter().map(verify).collect()
    }

    /// How far the neighbour's streams are applied here.
    async fn applied(&self, of: &RegionId) -> Result<HashMap<StreamId, Applied>, PullError> {
        let rows = self.home.store.list_inboxes().await?.into_iter();
        let own = rows.filter(|row| row.stream.origin == *of && row.position.seq > 0);
        Ok(own.map(|row| (row.stream, (row.position, row.parked_count))).collect())
    }

    /// The streams of which the neighbour has more than gateways bring, though they have time to.
    async fn behind(
        &self,
        of: &RegionId,
        heads: &BTreeMap<StreamId, Position>,
        before: &HashMap<StreamId, Applied>,
    ) -> Result<BTreeSet<StreamId>, PullError> {
        let seq = |of: &HashMap<StreamId, Applied>, stream: &StreamId| {
            of.get(stream).map_or(0, |at| at.0.seq)
        };
        let behind = heads.iter().filter(|(stream, head)| head.seq > seq(before, stream));
        let mut behind: BTreeSet<StreamId> = behind.map(|(stream, _)| stream.clone()).collect();
        if !behind.is_empty() {
            // Who waits is asked by nobody else meanwhile, and a stop drops it.
            tokio::time::sleep(UNDER_WAY).await;
            let now = self.applied(of).await?;
            behind.retain(|stream| seq(&now, stream) == seq(before, stream));
        }
        Ok(behind)
    }

    /// Takes what there is of a stream, and says what is applied; gives what it says of streams of epochs that were
    /// left.
    async fn follow(
        &self,
        client: &mut ExchangeServiceClient<Channel>,
        stream: &StreamId,
        applied: Option<Applied>,
    ) -> Result<Vec<(StreamId, Position)>, PullError> {
        let (mut at, mut parked) = applied.unwrap_or_else(|| (seal::chain::start(stream), 0));
        let mut left = Vec::new();
        loop {
            if parked > PARKED_MAX {
                return Err(PullError::Refused(Reason::LimitExceeded));
            }
            let signed = self.home.sign_receipt(stream.clone(), at, parked);
            let receipt = if at.seq > 0 { signed.await } else { None };
            let request = FetchRequest {
                stream: Some(stream.into()),
                from_seq: at.seq + 1,
                max_size: FETCH_BYTES_MAX,
                origin_region: String::new(),
                receipt,
            };
            let answer = fetch(client, request).await;
            if let Err(PullError::Refused(Reason::StreamForked)) = answer {
                self.home.alarm(Some(stream), Reason::StreamForked);
            }
            let FetchResponse { segments, last: _, heads } = answer?;
            let heads = self.verified(&stream.origin, &heads)?;
            if segments.is_empty() {
                self.compare(stream, heads.get(stream).copied(), at)?;
                return Ok(left);
            }
            let segments: Option<Vec<Segment>> =
                segments.into_iter().map(|bytes| Segment::parse(bytes).ok()).collect();
            let segments = segments.ok_or(PullError::Protocol("segment"))?;
            if segments.iter().any(|segment| segment.stream() != stream) {
                return Err(PullError::Protocol("another stream"));
            }
            (at, parked) = self.take(stream, (at, parked), segments, &mut left).await?;
        }
    }

    /// Applies segments as a link would, from where the stream stands.
    async fn take(
        &self,
        stream: &StreamId,
        (mut at, parked): Applied,
        segments: Vec<Segment>,
        left: &mut Vec<(StreamId, Position)>,
    ) -> Result<Applied, PullError> {
        loop {
            match self.home.take(at, segments.clone()).await {
                Outcome::Applied { position, parked_count, left: of_others } => {
                    left.extend(of_others);
                    return Ok((position, parked_count));
                }
                Outcome::Passed { position, parked_count } if position.seq > at.seq => {
                    return Ok((position, parked_count));
                }
                // A link went on meanwhile: once more from there.
                Outcome::Gap(position) if position.seq > at.seq => at = position,
                Outcome::Known if at.seq > 0 && segments.iter().all(|s| s.last_seq() <= at.seq) => {
                    return Ok((at, parked));
                }
                // It gives what does not lead further.
                Outcome::Known | Outcome::Passed { .. } | Outcome::Gap(_) => {
                    return Err(PullError::Refused(Reason::ChainBroken));
                }
                Outcome::Refused(_, reason) => {
                    self.home.alarm(Some(stream), reason);
                    return Err(PullError::Refused(reason));
                }
                Outcome::Unwritten => return Err(PullError::Refused(Reason::StorageUnavailable)),
            }
        }
    }

    /// Holds the origin's word on a stream of which it has no more against what is applied here.
    fn compare(
        &self,
        stream: &StreamId,
        head: Option<Position>,
        at: Position,
    ) -> Result<(), PullError> {
        let reason = match head {
            Some(head) if head.seq < at.seq => Reason::WentBack,
            Some(head) if head.seq == at.seq && head.h != at.h => Reason::StreamForked,
            Some(head) if head.seq > at.seq => return Err(PullError::Protocol("a head alone")),
            // Nothing is said of an epoch that was left.
            _ => return Ok(()),
        };
        self.home.alarm(Some(stream), reason);
        Err(PullError::Refused(reason))
    }
}

/// Those with whom a region has an agreement and who have an address.
fn neighbours(book: &Book) -> BTreeSet<RegionId> {
    let signed = book.agreements.values().map(|signed| &signed.agreement);
    let parties = signed.flat_map(|agreement| {
        agreement.parties.iter().filter_map(|party| book.find_party(agreement, &party.region))
    });
    let others = parties.filter(|of| of.region_id != book.region && !of.endpoint.is_empty());
    others.map(|of| of.region_id.clone()).collect()
}

async fn fetch(
    client: &mut ExchangeServiceClient<Channel>,
    request: FetchRequest,
) -> Result<FetchResponse, PullError> {
    match tokio::time::timeout(ANSWER_TIMEOUT + OPENING_TIMEOUT, client.fetch(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => {
            let info = status.get_details_error_info();
            let named =
                |reason: &&Reason| info.as_ref().is_some_and(|of| of.reason == reason.name());
            let reason = Reason::ALL.iter().find(named);
            Err(reason.map_or_else(
                || PullError::Line(ErrorChain(&status).to_string()),
                |reason| PullError::Refused(*reason),
            ))
        }
        Err(_) => Err(PullError::Silent),
    }
}
