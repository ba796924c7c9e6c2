//! How the links stand, for whoever asks.

use crate::link::{LANE_CLASSES, LinkError};
use crate::receive::Standing;
use domain::kernel::{Epoch, GatewayId, Lane, RegionId, Timestamp};
use domain::stream::{Position, StreamId};
use runtime::ErrorChain;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Mutex as AsyncMutex;

/// How a region's links stand. Cheap to clone; all clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<Mutex<State>>, Arc<Mutex<HashMap<StreamId, Turn>>>);

/// Turns that are kept while nobody holds them.
const TURNS_MAX: usize = 10_000;

/// Held by who takes a range of a stream: how far it was applied in the last turn, and how much is parked.
pub(crate) type Turn = Arc<AsyncMutex<Option<(Position, u64)>>>;

/// A copy of the state at one moment.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The gateways that were ever linked to; see [`Self::gateways`].
    gateways: BTreeMap<GatewayId, Gateway>,
    /// When the newest head was made.
    head_at: Option<Timestamp>,
    /// The newest epoch of each origin of which something was applied.
    epochs: BTreeMap<RegionId, Epoch>,
    /// What came of asking each neighbour directly.
    asked: BTreeMap<RegionId, Asked>,
    /// What a person must look at; empty when nothing was since a link was last opened.
    pub(crate) error: String,
}

/// What came of asking a neighbour directly.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// When it last gave all there was.
    pub well_at: Option<Timestamp>,
    /// How often, by outcome: `OK`, or why not.
    pub outcomes: BTreeMap<&'static str, u64>,
}

/// How a region stands with one gateway.
#[derive(Clone, Debug, Default)]
pub struct Gateway {
    /// One a class of lanes.
    pub links: BTreeMap<&'static [Lane], Link>,
    /// Streams this region writes: on disk at the gateway up to here. One that is down has what it had.
    pub stored: HashMap<StreamId, u64>,
    /// Streams this region receives.
    received: HashMap<StreamId, Standing>,
    /// The configuration names it.
    named: bool,
    /// It was revoked, or is not in the directory.
    struck: bool,
}

/// One link to a gateway.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// It is open.
    pub up: bool,
    /// Why it failed, or what the gateway refused; empty when nothing did since it was opened.
    pub error: String,
}

impl Status {
    /// The state now.
    pub fn get(&self) -> State {
        self.with(|state| state.clone())
    }

    /// There should be links to a gateway, which the configuration may have named.
    pub fn expect(&self, gateway: &GatewayId, named: bool) {
        self.at(gateway, |gateway| {
            gateway.named = named;
            gateway.links = LANE_CLASSES.iter().map(|lanes| (*lanes, Link::default())).collect();
        });
    }

    /// The turn of a stream: the ways by which it comes take it one after another.
    pub(crate) fn turn(&self, stream: &StreamId) -> Turn {
        let mut turns = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        // A gateway can make up as many streams as it likes.
        if turns.len() >= TURNS_MAX {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        Arc::clone(turns.entry(stream.clone()).or_default())
    }

    /// Something of an epoch of an origin was applied.
    pub(crate) fn applied(&self, StreamId { origin, epoch, .. }: &StreamId) {
        self.with(|state| match state.epochs.get_mut(origin) {
            Some(newest) => *newest = (*newest).max(*epoch),
            None => drop(state.epochs.insert(origin.clone(), *epoch)),
        });
    }

    /// The newest epoch of each origin of which something was applied.
    pub(crate) fn epochs(&self) -> BTreeMap<RegionId, Epoch> {
        self.with(|state| state.epochs.clone())
    }

    /// A neighbour was asked directly, with this outcome.
    pub(crate) fn asked(&self, of: &RegionId, outcome: &'static str, now: Timestamp) {
        self.with(|state| {
            let asked = state.asked.entry(of.clone()).or_default();
            *asked.outcomes.entry(outcome).or_default() += 1;
            if outcome == "OK" {
                asked.well_at = Some(now);
            }
        });
    }

    /// When a head is made now: later than all before it, though the clock may have been set back since. What is
    /// older is taken for something that is shown again.
    pub(crate) fn head_time(&self, now: Timestamp) -> Timestamp {
        self.with(|state| {
            let after = |last: Timestamp| Timestamp::from_micros(last.micros().saturating_add(1));
            *state.head_at.insert(state.head_at.map_or(now, |last| now.max(after(last))))
        })
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        // A poisoned lock still holds whole values: every change here is one assignment.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn at(&self, gateway: &GatewayId, change: impl FnOnce(&mut Gateway)) {
        self.with(|state| change(state.gateways.entry(gateway.clone()).or_default()));
    }
}

impl State {
    /// The gateways that there should be links to: without one that was chosen out of the directory and has
    /// left it. One that the configuration names stays, so that somebody looks.
    pub fn gateways(&self) -> impl Iterator<Item = (&GatewayId, &Gateway)> {
        self.gateways.iter().filter(|(_, gateway)| gateway.named || !gateway.struck)
    }

    /// The gateways that there should be no links to any more.
    pub(crate) fn gone(&self) -> impl Iterator<Item = &GatewayId> {
        let gone = self.gateways.iter().filter(|(_, gateway)| !gateway.named && gateway.struck);
        gone.map(|(id, _)| id)
    }

    /// What came of asking each neighbour directly.
    pub fn asked(&self) -> &BTreeMap<RegionId, Asked> {
        &self.asked
    }

    /// Whether a gateway carries all lanes: then nothing has to wait.
    pub fn link_up(&self) -> bool {
        self.gateways.values().any(Gateway::is_linked)
    }

    /// What is wrong: with all links first, then with each gateway, by name.
    pub fn errors(&self) -> Vec<String> {
        let all = Some(self.error.clone()).filter(|error| !error.is_empty());
        let of_each = self.gateways().filter_map(|(id, gateway)| {
            let error = gateway.links.values().find(|link| !link.error.is_empty())?;
            Some(format!("{id}: {}", error.error))
        });
        all.into_iter().chain(of_each).collect()
    }

    /// How far a stream of this region is on disk at some gateway. What lies at one that was struck off reaches
    /// nobody any more.
    pub fn stored(&self, stream: &StreamId) -> u64 {
        let gateways = self.gateways.values().filter(|gateway| !gateway.struck);
        gateways.filter_map(|gateway| gateway.stored.get(stream)).copied().max().unwrap_or(0)
    }

    /// How the streams stand that this region receives, by what is known of all gateways together. A fresh word
    /// by one of them is enough; those that carry nothing now are asked only where no other knows the stream.
    pub fn received(&self) -> HashMap<&StreamId, Standing> {
        let (linked, down): (Vec<_>, Vec<_>) =
            self.gateways.values().partition(|gateway| gateway.is_linked());
        let mut received: HashMap<&StreamId, Standing> = HashMap::new();
        for gateway in linked.iter().chain(&down) {
            for (stream, standing) in &gateway.received {
                let held = received.entry(stream).or_insert(*standing);
                if standing.applied.seq > held.applied.seq {
                    (held.applied, held.parked_count) = (standing.applied, standing.parked_count);
                }
                held.known_seq = held.known_seq.max(standing.known_seq);
                if gateway.is_linked() || linked.is_empty() {
                    held.head_late &= standing.head_late;
                }
            }
        }
        received
    }
}

impl Gateway {
    /// Links that are open.
    pub fn links_up(&self) -> usize {
        self.links.values().filter(|link| link.up).count()
    }

    fn is_linked(&self) -> bool {
        self.links_up() == LANE_CLASSES.len()
    }

    pub(crate) fn opened(&mut self, lanes: &'static [Lane]) {
        self.struck = false;
        self.links.insert(lanes, Link { up: true, error: String::new() });
    }

    pub(crate) fn closed(&mut self, lanes: &'static [Lane]) {
        self.links.entry(lanes).or_default().up = false;
    }

    pub(crate) fn failed(&mut self, lanes: &'static [Lane], error: &LinkError) {
        self.struck = matches!(error, LinkError::Revoked);
        self.refused(lanes, ErrorChain(error).to_string());
    }

    pub(crate) fn refused(&mut self, lanes: &'static [Lane], error: String) {
        self.links.entry(lanes).or_default().error = error;
    }

    pub(crate) fn show<'a>(
        &mut self,
        stored: impl IntoIterator<Item = (&'a StreamId, u64)>,
        received: impl IntoIterator<Item = (&'a StreamId, Standing)>,
    ) {
        self.stored.extend(stored.into_iter().map(|(stream, seq)| (stream.clone(), seq)));
        self.received.extend(received.into_iter().map(|(stream, at)| (stream.clone(), at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::stream;

    const ALERTS: &[Lane] = LANE_CLASSES[0];
    const ROUTINE: &[Lane] = LANE_CLASSES[1];
    const BULK: &[Lane] = LANE_CLASSES[2];

    fn id(text: &str) -> GatewayId {
        text.parse().unwrap()
    }

    fn lost() -> LinkError {
        LinkError::Line("closed".to_owned())
    }

    fn standing(seq: u64, known_seq: u64, head_late: bool) -> Standing {
        let applied = Position { seq, h: [7; 32] };
        Standing { applied, known_seq, parked_count: seq, head_late }
    }

    /// Two gateways, to both of which all links are open.
    fn linked() -> Status {
        let status = Status::default();
        for gateway in ["gw-1", "gw-2"].map(id) {
            status.expect(&gateway, false);
            for lanes in LANE_CLASSES {
                status.at(&gateway, |gateway| gateway.opened(lanes));
            }
        }
        status
    }

    #[test]
    fn heads_are_made_in_order_though_the_clock_is_set_back() {
        let status = Status::default();
        let at = Timestamp::from_micros;
        let made = [5, 5, 3, 9].map(|micros| status.head_time(at(micros)));
        assert_eq!(made, [at(5), at(6), at(7), at(9)]);
    }

    #[test]
    fn a_region_is_linked_while_one_gateway_carries_all_lanes_and_what_is_down_is_named() {
        let status = linked();
        assert!(status.get().link_up() && status.get().errors().is_empty());
        for lanes in LANE_CLASSES {
            status.at(&id("gw-1"), |gateway| {
                gateway.closed(lanes);
                gateway.failed(lanes, &lost());
            });
        }
        let state = status.get();
        assert!(state.link_up());
        assert_eq!(state.errors(), ["gw-1: the gateway is not reached: closed"]);
        let up: Vec<_> = state.gateways().map(|(_, gateway)| gateway.links_up()).collect();
        assert_eq!(up, [0, 3]);
        // Half of each is not one.
        status.at(&id("gw-2"), |gateway| gateway.closed(BULK));
        status.at(&id("gw-1"), |gateway| gateway.opened(BULK));
        assert!(!status.get().link_up());
        // What fails on one link is not forgotten when another is opened.
        assert_eq!(status.get().errors().len(), 1);
        for lanes in [ALERTS, ROUTINE] {
            status.at(&id("gw-1"), |gateway| gateway.opened(lanes));
        }
        assert!(status.get().link_up() && status.get().errors().is_empty());
    }

    #[test]
    fn what_any_gateway_has_is_stored_unless_it_is_struck_off() {
        let (status, stream) = (linked(), stream("daluba", Lane::Routine));
        for (gateway, seq) in [("gw-1", 7), ("gw-2", 5)] {
            status.at(&id(gateway), |gateway| gateway.show([(&stream, seq)], []));
        }
        assert_eq!(status.get().stored(&stream), 7);
        status.at(&id("gw-1"), |gateway| gateway.closed(ALERTS));
        assert_eq!(status.get().stored(&stream), 7);
        status.at(&id("gw-1"), |gateway| gateway.failed(ALERTS, &LinkError::Revoked));
        assert_eq!(status.get().stored(&stream), 5);
    }

    #[test]
    fn a_gateway_that_is_struck_off_is_missed_only_by_who_named_it() {
        let status = linked();
        status.at(&id("gw-1"), |gateway| gateway.failed(ALERTS, &LinkError::Revoked));
        let (state, gone) = (status.get(), id("gw-1"));
        assert_eq!(state.gateways().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["gw-2"]);
        assert_eq!((state.gone().collect::<Vec<_>>(), state.errors().len()), (vec![&gone], 0));
        status.expect(&gone, true);
        status.at(&gone, |gateway| gateway.failed(ALERTS, &LinkError::Revoked));
        let state = status.get();
        assert_eq!((state.gateways().count(), state.gone().count()), (2, 0));
        assert!(state.errors()[0].starts_with("gw-1: the gateway is revoked"));
    }

    #[test]
    fn streams_stand_as_all_gateways_together_know_and_are_late_where_no_linked_one_has_word() {
        let (status, stream) = (linked(), stream("daluba", Lane::Routine));
        let show = |gateway: &str, standing| {
            status.at(&id(gateway), |gateway| gateway.show([], [(&stream, standing)]));
        };
        show("gw-1", standing(4, 9, true));
        show("gw-2", standing(6, 8, false));
        assert_eq!(status.get().received()[&stream], standing(6, 9, false));
        // A word that was fresh when the link was lost is none now.
        status.at(&id("gw-2"), |gateway| gateway.closed(ALERTS));
        assert_eq!(status.get().received()[&stream], standing(6, 9, true));
        status.at(&id("gw-1"), |gateway| gateway.closed(ALERTS));
        assert_eq!(status.get().received()[&stream], standing(6, 9, false));
    }
}
