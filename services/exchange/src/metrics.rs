//! What a region's exchange shows of itself. Nothing is recorded while records move: all of it is read, when
//! somebody asks, from where it is kept anyway.

use crate::book::Book;
use crate::receive::PARKED_MAX;
use crate::status::{Asked, Gateway, State as Links};
use domain::kernel::{GatewayId, RegionId, Timestamp};
use domain::stream::StreamId;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use runtime::health::{Check, State, seconds_between};
use runtime::metrics::gauge_value;
use std::collections::{BTreeMap, HashMap};
use storage::ReadError;
use storage::depth::{self, DepthRow};
use storage::region::{Store, StreamRow};

/// What the exchange of all regions of one server shows. Clones share all values.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    links: Family<Way, Gauge>,
    unstored: Family<Way, Gauge>,
    depth: Family<Pair, Gauge>,
    oldest: Family<Pair, Gauge>,
    lag: Family<Pair, Gauge>,
    parked: Family<Pair, Gauge>,
    quarantined: Family<Pair, Gauge>,
    late: Family<Pair, Gauge>,
    asked: Family<Question, Counter>,
    asked_age: Family<Pair, Gauge>,
}

/// How a region stands with one other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    depth: u64,
    oldest_at: Option<Timestamp>,
    lag: u64,
    parked: u64,
    quarantined: u64,
    late: u64,
}

/// A region and a gateway of its own: one that the configuration names, or one of the first of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Way {
    region: String,
    gateway: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pair {
    region: String,
    peer: String,
}

/// A region, a neighbour that it asked directly, and what came of it: `OK`, or why not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Question {
    region: String,
    peer: String,
    outcome: &'static str,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let unit = |name: &str| Unit::Other(name.to_owned());
        let help = "Links to a gateway that are up";
        registry.register_with_unit("link_up", help, unit("links"), metrics.links.clone());
        let help = "Entries of own streams that are not yet on disk at a gateway";
        let entries = || unit("entries");
        registry.register_with_unit("outbox_unstored", help, entries(), metrics.unstored.clone());
        let help = "Entries of own streams that a peer has not receipted";
        registry.register_with_unit("outbox_depth", help, entries(), metrics.depth.clone());
        let help = "How long the oldest of them waits";
        let seconds = || Unit::Seconds;
        registry.register_with_unit("outbox_oldest_age", help, seconds(), metrics.oldest.clone());
        let help = "Entries that a peer is known to have written and that are not yet applied";
        registry.register_with_unit("inbox_lag", help, entries(), metrics.lag.clone());
        let help = "Entries of a peer that were verified and cannot be used";
        registry.register_with_unit("inbox_parked", help, entries(), metrics.parked.clone());
        let help = "Views of a peer that lie beyond its cut and are shown to nobody";
        let views = unit("views");
        registry.register_with_unit("inbox_quarantined", help, views, metrics.quarantined.clone());
        let help = "Streams of a peer without a fresh head";
        registry.register_with_unit("head_late", help, unit("streams"), metrics.late.clone());
        let help = "Questions to a neighbour on the second path, by outcome";
        registry.register("second_path_pulls", help, metrics.asked.clone());
        let help = "How long ago a neighbour last gave all on the second path";
        registry.register_with_unit("second_path_age", help, seconds(), metrics.asked_age.clone());
        metrics
    }

    /// Reads how a region stands now, and says how it is.
    ///
    /// # Errors
    /// When its store cannot be read.
    pub async fn refresh(
        &self,
        book: &Book,
        store: &Store,
        links: &Links,
        now: Timestamp,
    ) -> Result<Vec<Check>, ReadError> {
        let region = book.region.as_str();
        let (depths, inboxes) = (store.list_depths().await?, store.list_inboxes().await?);
        for (id, gateway) in links.gateways() {
            let way = way(region, id);
            self.links.get_or_create(&way).set(gauge_value(gateway.links_up() as u64));
            self.unstored.get_or_create(&way).set(gauge_value(unstored(&depths, gateway)));
        }
        for id in links.gone() {
            let way = way(region, id);
            self.links.remove(&way);
            self.unstored.remove(&way);
        }
        for (peer, asked) in links.asked() {
            self.show_asked(region, peer, asked, now);
        }
        let mut standings = standings(book, &depths, &inboxes, links);
        for (stream, views) in store.count_quarantined().await? {
            standings.entry(stream.origin).or_default().quarantined += views;
        }
        for (peer, standing) in &standings {
            self.show(region, peer, standing, now);
        }
        let sum = |of: fn(&Standing) -> u64| standings.values().map(of).sum();
        let up = links.gateways().map(|(_, gateway)| gateway.links_up()).sum();
        let wanted = links.gateways().map(|(_, gateway)| gateway.links.len()).sum();
        Ok(vec![
            Check::links(up, wanted).of(region),
            check_parked(sum(|standing| standing.parked)).of(region),
            check_quarantined(sum(|standing| standing.quarantined)).of(region),
            check_heads(sum(|standing| standing.late)).of(region),
        ])
    }

    fn show_asked(&self, region: &str, peer: &RegionId, asked: &Asked, now: Timestamp) {
        let (region, peer) = (region.to_owned(), peer.to_string());
        for (outcome, count) in &asked.outcomes {
            let question = Question { region: region.clone(), peer: peer.clone(), outcome };
            let counter = self.asked.get_or_create(&question);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        if let Some(at) = asked.well_at {
            let age = seconds_between(at, now).max(0);
            self.asked_age.get_or_create(&Pair { region, peer }).set(age);
        }
    }

    fn show(&self, region: &str, peer: &RegionId, standing: &Standing, now: Timestamp) {
        let pair = Pair { region: region.to_owned(), peer: peer.to_string() };
        let Standing { depth, oldest_at, lag, parked, quarantined, late } = *standing;
        let age = oldest_at.map_or(0, |at| seconds_between(at, now).max(0));
        self.depth.get_or_create(&pair).set(gauge_value(depth));
        self.oldest.get_or_create(&pair).set(age);
        self.lag.get_or_create(&pair).set(gauge_value(lag));
        self.parked.get_or_create(&pair).set(gauge_value(parked));
        self.quarantined.get_or_create(&pair).set(gauge_value(quarantined));
        self.late.get_or_create(&pair).set(gauge_value(late));
    }
}

fn way(region: &str, gateway: &GatewayId) -> Way {
    Way { region: region.to_owned(), gateway: gateway.to_string() }
}

/// How the region stands with each party of its agreements.
fn standings(
    book: &Book,
    depths: &[DepthRow],
    inboxes: &[StreamRow],
    links: &Links,
) -> BTreeMap<RegionId, Standing> {
    let parties = book.agreements.values().flat_map(|signed| &signed.agreement.parties);
    let others = parties.map(|party| &party.region).filter(|party| **party != book.region);
    let mut standings: BTreeMap<RegionId, Standing> =
        others.map(|party| (party.clone(), Standing::default())).collect();
    let recipients = |stream: &StreamId| {
        let agreement = book.agreement(stream.agreement, stream.version);
        let parties = agreement.into_iter().flat_map(|agreement| &agreement.parties);
        let others = parties.map(|party| &party.region).filter(|party| **party != book.region);
        others.cloned().collect()
    };
    for (party, row) in depth::behind(depths, recipients) {
        let standing = standings.entry(party).or_default();
        standing.depth += row.depth;
        standing.oldest_at = [standing.oldest_at, row.oldest_at].into_iter().flatten().min();
    }
    for StreamRow { stream, parked_count, .. } in inboxes {
        standings.entry(stream.origin.clone()).or_default().parked += parked_count;
    }
    for (stream, received) in links.received() {
        let standing = standings.entry(stream.origin.clone()).or_default();
        standing.lag += received.known_seq.saturating_sub(received.applied.seq);
        standing.late += u64::from(received.head_late);
    }
    standings
}

/// Entries of all streams that are not yet at a gateway. Of one that has said nothing since the start it is
/// taken that it has what a party has receipted.
fn unstored(depths: &[DepthRow], gateway: &Gateway) -> u64 {
    let mut least: HashMap<&StreamId, u64> = HashMap::new();
    for row in depths {
        let depth = match (gateway.stored.get(&row.stream), &row.party) {
            (Some(stored), None) => row.depth.saturating_sub(*stored),
            (Some(_), Some(_)) => continue,
            (None, _) => row.depth,
        };
        least.entry(&row.stream).and_modify(|least| *least = depth.min(*least)).or_insert(depth);
    }
    least.values().sum()
}

fn check_parked(entries: u64) -> Check {
    let state = if entries > 0 { State::Warn } else { State::Ok };
    let reason = format!("{entries} entries are parked; a stream is paused past {PARKED_MAX}");
    Check::new("parked", state, reason, "look at the streams; a newer release may read them")
}

fn check_quarantined(views: u64) -> Check {
    let state = if views > 0 { State::Warn } else { State::Ok };
    let reason = format!("{views} views of revoked regions are quarantined");
    Check::new("quarantined", state, reason, "have a duty officer release what proves right")
}

fn check_heads(streams: u64) -> Check {
    let state = if streams > 0 { State::Warn } else { State::Ok };
    let reason = format!("{streams} streams are without a fresh head");
    Check::new("heads", state, reason, "ask the origin's operator, then the gateway's")
}
