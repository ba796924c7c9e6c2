//! The live connections of a server, by who is at the other end, so that a revoked peer can be cut
//! off at once: nothing in TLS, HTTP/2 or gRPC asks again who a peer is.

use crate::identity::Identity;
use crate::metrics::Accepted;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Over how long the calls that a peer gives up are counted.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(60);

/// Who is at the other end of a connection. Handlers find it among the extensions of a request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address; behind a front door the door's.
    pub addr: SocketAddr,
    /// The host name it asked for, lower case.
    pub server_name: Option<Arc<str>>,
    /// Whom its certificate names; `None` when it showed none.
    pub identity: Option<Identity>,
    /// Its certificate, as far as it is needed to know it again.
    pub certificate: Option<Shown>,
    /// The connection itself.
    pub line: Line,
}

/// A certificate that a peer showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Its number among those of its authority.
    pub serial: Arc<[u8]>,
}

/// One connection, as those know it who may end it. Clones are the same connection.
#[derive(Clone, Debug, Default)]
pub struct Line {
    closed: CancellationToken,
    given_up: Arc<Mutex<GivenUp>>,
}

#[derive(Debug, Default)]
struct GivenUp {
    since: Option<Instant>,
    count: u32,
}

/// The live connections of a server. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<Live>>, Accepted);

#[derive(Debug, Default)]
struct Live {
    next: u64,
    /// Oldest first.
    entries: BTreeMap<u64, Peer>,
}

/// The place of one connection in the list; it leaves with the connection.
#[derive(Debug)]
pub(crate) struct Registration {
    connections: Connections,
    id: u64,
}

impl Connections {
    /// Closes the connections whose peer `matches`, and says how many. They end even in the middle
    /// of a call.
    pub fn close(&self, mut matches: impl FnMut(&Peer) -> bool) -> usize {
        let live = self.live();
        live.entries.values().filter(|peer| matches(peer) && peer.line.close()).count()
    }

    /// What is counted of those that come, and of those that are refused.
    pub(crate) fn counted(&self) -> &Accepted {
        &self.1
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.live().entries.len()
    }

    /// Lists a connection. Of one identity only the newest `per_identity_max` stay: an older one is
    /// most likely what a phone that changed networks left behind.
    pub(crate) fn admit(&self, peer: Peer, per_identity_max: usize) -> Registration {
        let mut live = self.live();
        let id = live.next;
        live.next += 1;
        if peer.identity.is_some() {
            let same = live.entries.values().filter(|other| other.identity == peer.identity);
            // One that was told to close may still be listed; it no longer counts.
            let open: Vec<_> = same.filter(|other| !other.line.closed.is_cancelled()).collect();
            let surplus = (open.len() + 1).saturating_sub(per_identity_max.max(1));
            for older in open.into_iter().take(surplus) {
                older.line.close();
            }
        }
        live.entries.insert(id, peer);
        drop(live);
        Registration { connections: self.clone(), id }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        // The list is whole after every statement, so a panic elsewhere did not break it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Closes it, even in the middle of a call; says whether it was open.
    pub fn close(&self) -> bool {
        let open = !self.closed.is_cancelled();
        self.closed.cancel();
        open
    }

    /// Cancelled when the connection must close.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Counts a call that the peer gave up; one more than `max` in a minute closes the connection. Says
    /// whether this one did.
    pub(crate) fn given_up(&self, max: u32) -> bool {
        let now = Instant::now();
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        if given_up.since.is_none_or(|since| now > since + GIVEN_UP_WITHIN) {
            *given_up = GivenUp { since: Some(now), count: 0 };
        }
        given_up.count = given_up.count.saturating_add(1);
        given_up.count > max && self.close()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.live().entries.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::kernel::RegionId;

    fn peer(region: Option<&str>) -> Peer {
        Peer {
            addr: SocketAddr::from(([127, 0, 0, 1], 1)),
            server_name: None,
            identity: region.map(|slug| Identity::Region(RegionId::parse(slug).expect("slug"))),
            certificate: None,
            line: Line::default(),
        }
    }

    #[test]
    fn of_one_identity_the_newest_stay() {
        let list = Connections::default();
        let peers = [Some("a"), Some("b"), Some("a"), None, Some("a"), None, Some("a")].map(peer);
        let admitted: Vec<_> = peers.iter().map(|peer| list.admit(peer.clone(), 2)).collect();
        let closed: Vec<_> = peers.iter().map(|one| one.line.closed().is_cancelled()).collect();
        drop(admitted);
        assert_eq!(closed, [true, false, true, false, false, false, false]);
    }

    #[test]
    fn a_connection_leaves_the_list_with_its_end() {
        let list = Connections::default();
        let one = list.admit(peer(Some("a")), 1);
        let nobody = peer(None);
        let other = list.admit(nobody.clone(), 1);
        assert_eq!(list.count(), 2);
        drop(one);
        assert_eq!(list.count(), 1);
        assert_eq!(list.close(|peer| peer.identity.is_none()), 1);
        assert!(nobody.line.closed().is_cancelled());
        drop(other);
    }

    #[test]
    fn a_peer_that_gives_up_one_call_more_than_it_may_is_closed() {
        let line = Line::default();
        for _ in 0..3 {
            assert!(!line.given_up(3));
        }
        assert!(!line.closed().is_cancelled());
        assert!(line.given_up(3));
        assert!(line.closed().is_cancelled());
        assert!(!line.given_up(3), "it was closed before");
    }
}
