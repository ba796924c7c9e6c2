//! What a gateway measures: who is connected, how far each region is behind, what was refused. It reads
//! most of it, when somebody asks, from where it is kept anyway.

use crate::book::Book;
use domain::kernel::{Reason, RegionId, Timestamp};
use domain::stream::StreamId;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use runtime::health::seconds_between;
use runtime::metrics::gauge_value;
use std::collections::BTreeMap;
use storage::depth::{self, DepthRow};

/// What one gateway measures. Clones share all values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    links: Family<Of, Gauge>,
    depth: Family<Of, Gauge>,
    oldest: Family<Of, Gauge>,
    refusals: Family<Why, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    peer: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

impl Metrics {
    /// Registers them.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let unit = |name: &str| Unit::Other(name.to_owned());
        let help = "Links of a region that are up";
        registry.register_with_unit("link_up", help, unit("links"), metrics.links.clone());
        let help = "Entries that are held for a region and not receipted by it";
        registry.register_with_unit("outbox_depth", help, unit("entries"), metrics.depth.clone());
        let help = "How long the oldest of them is held";
        let seconds = Unit::Seconds;
        registry.register_with_unit("outbox_oldest_age", help, seconds, metrics.oldest.clone());
        for reason in Reason::ALL {
            // Who has none yet shows that there are none.
            drop(metrics.refusals.get_or_create(&Why { reason: reason.name() }));
        }
        let help = "Frames of regions that were refused";
        registry.register("frame_refusals", help, metrics.refusals.clone());
        metrics
    }

    /// A frame was refused.
    pub(crate) fn refused(&self, reason: Reason) {
        self.refusals.get_or_create(&Why { reason: reason.name() }).inc();
    }

    /// Notes who is connected, and how far each region of the linkage is behind.
    pub(crate) fn behind(
        &self,
        book: &Book,
        connected: &BTreeMap<RegionId, usize>,
        depths: &[DepthRow],
        now: Timestamp,
    ) {
        let mut behind = behind(book, depths);
        for region in book.trust().directory.regions.keys() {
            let of = Of { peer: region.to_string() };
            let links = connected.get(region).copied().unwrap_or(0);
            self.links.get_or_create(&of).set(gauge_value(links as u64));
            let (depth, oldest_at) = behind.remove(region).unwrap_or_default();
            let age = oldest_at.map_or(0, |at| seconds_between(at, now).max(0));
            self.depth.get_or_create(&of).set(gauge_value(depth));
            self.oldest.get_or_create(&of).set(age);
        }
    }
}

/// Entries that each region has not receipted, and since when the oldest is held.
fn behind(book: &Book, depths: &[DepthRow]) -> BTreeMap<RegionId, (u64, Option<Timestamp>)> {
    let recipients = |stream: &StreamId| {
        let terms = book.terms_of(stream);
        terms.map(|terms| terms.recipients(&stream.origin).cloned().collect()).unwrap_or_default()
    };
    let mut behind: BTreeMap<RegionId, (u64, Option<Timestamp>)> = BTreeMap::new();
    for (party, row) in depth::behind(depths, recipients) {
        let (depth, oldest_at) = behind.entry(party).or_default();
        *depth += row.depth;
        *oldest_at = [*oldest_at, row.oldest_at].into_iter().flatten().min();
    }
    behind
}
