//! The live connections of a server, by who is at the other end, so that a revoked peer can be cut
//! off at once: nothing in TLS, HTTP/2 or gRPC asks again who a peer is.

use crate::identity::Identity;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Who is at the other end of a connection. Handlers find it among the extensions of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address; behind a front door the door's.
    pub addr: SocketAddr,
    /// The host name it asked for, lower case.
    pub server_name: Option<Arc<str>>,
    /// Whom its certificate names; `None` when it showed none.
    pub identity: Option<Identity>,
    /// SHA-256 of its certificate.
    pub certificate: Option<[u8; 32]>,
}

/// The live connections of a server. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<Live>>);

#[derive(Debug, Default)]
struct Live {
    next: u64,
    /// Oldest first.
    entries: BTreeMap<u64, (Peer, CancellationToken)>,
}

/// The place of one connection in the list; it leaves with the connection.
#[derive(Debug)]
pub(crate) struct Registration {
    connections: Connections,
    id: u64,
    closed: CancellationToken,
}

impl Connections {
    /// Closes the connections whose peer `matches`, and says how many. They end even in the middle
    /// of a call.
    pub fn close(&self, mut matches: impl FnMut(&Peer) -> bool) -> usize {
        let live = self.live();
        let closed = live.entries.values().filter(|(peer, _)| matches(peer));
        closed.map(|(_, token)| token.cancel()).count()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.live().entries.len()
    }

    /// Lists a connection. Of one identity only the newest `per_identity_max` stay: an older one is
    /// most likely what a phone that changed networks left behind.
    pub(crate) fn admit(&self, peer: Peer, per_identity_max: usize) -> Registration {
        let closed = CancellationToken::new();
        let mut live = self.live();
        let id = live.next;
        live.next += 1;
        if peer.identity.is_some() {
            let same = live.entries.values().filter(|(other, _)| other.identity == peer.identity);
            // One that was told to close may still be listed; it no longer counts.
            let open: Vec<_> = same.filter(|(_, token)| !token.is_cancelled()).collect();
            let surplus = (open.len() + 1).saturating_sub(per_identity_max.max(1));
            for (_, token) in open.into_iter().take(surplus) {
                token.cancel();
            }
        }
        live.entries.insert(id, (peer, closed.clone()));
        drop(live);
        Registration { connections: self.clone(), id, closed }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        // The list is whole after every statement, so a panic elsewhere did not break it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registration {
    /// Cancelled when the connection must close.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.closed
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
        }
    }

    #[test]
    fn of_one_identity_the_newest_stay() {
        let list = Connections::default();
        let admitted: Vec<_> = [Some("a"), Some("b"), Some("a"), None, Some("a"), None, Some("a")]
            .map(|region| list.admit(peer(region), 2))
            .into_iter()
            .collect();
        let closed: Vec<_> = admitted.iter().map(|one| one.closed().is_cancelled()).collect();
        assert_eq!(closed, [true, false, true, false, false, false, false]);
    }

    #[test]
    fn a_connection_leaves_the_list_with_its_end() {
        let list = Connections::default();
        let one = list.admit(peer(Some("a")), 1);
        let other = list.admit(peer(None), 1);
        assert_eq!(list.count(), 2);
        drop(one);
        assert_eq!(list.count(), 1);
        assert_eq!(list.close(|peer| peer.identity.is_none()), 1);
        assert!(other.closed().is_cancelled());
    }
}
