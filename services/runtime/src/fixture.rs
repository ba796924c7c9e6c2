//! Parties, servers and clients for the tests of this crate.

use crate::accept::{self, Io, Listener};
use crate::clock::{SystemClock, SystemEntropy};
use crate::connections::Connections;
use crate::identity::Identity;
use crate::limits::Limits;
use crate::pki::{Authority, IssuedKey, Validity, new_request};
use crate::tls::{Anchor, ClientAuth, ClientTls, Hosted, ServerTls, Trust};
use domain::kernel::{Clock, DeviceId, GatewayId, LinkageId, RegionId, Timestamp};
use futures_util::Stream;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

/// Longest any awaited thing in a test may take.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) const LIMITS: Limits = Limits { connections_per_identity_max: 4, ..Limits::DEVICE };

/// A region or gateway with its authority.
pub(crate) struct Party {
    pub(crate) identity: Identity,
    pub(crate) authority: Authority,
}

/// A port with its stream of connections.
pub(crate) struct Port {
    pub(crate) addr: SocketAddr,
    pub(crate) connections: Connections,
    pub(crate) incoming: Pin<Box<dyn Stream<Item = io::Result<Io>> + Send>>,
}

pub(crate) async fn in_time<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(SOON, what).await.expect("in time")
}

pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}

pub(crate) fn linkage() -> LinkageId {
    LinkageId::parse("wuling").expect("slug")
}

pub(crate) fn region(slug: &str) -> Party {
    Party::new(Identity::Region(RegionId::parse(slug).expect("slug")))
}

pub(crate) fn gateway() -> Party {
    Party::new(Identity::Gateway(GatewayId::parse("gw1").expect("slug")))
}

impl Party {
    fn new(identity: Identity) -> Self {
        let validity = Validity::days(now(), 365);
        let authority =
            Authority::create(&linkage(), &identity.owner(), validity).expect("an authority");
        Self { identity, authority }
    }

    /// What this party's authority signs for any name, its own or not.
    pub(crate) fn sign(&self, identity: &Identity, validity: Validity) -> IssuedKey {
        self.authority.issue_server(&linkage(), identity, &[], &[], validity).expect("issued")
    }

    pub(crate) fn key(&self) -> IssuedKey {
        self.sign(&self.identity, Validity::days(now(), 7))
    }

    pub(crate) fn hosted(&self) -> Hosted {
        Hosted { server_names: vec![self.identity.dns_name(&linkage())], key: self.key() }
    }

    /// A phone of this region, enrolled by its request.
    pub(crate) fn phone(&self) -> (Identity, IssuedKey) {
        let Identity::Region(region) = &self.identity else { panic!("only regions have phones") };
        let identity = Identity::Device(region.clone(), DeviceId::mint(now(), &SystemEntropy));
        let (key_der, request) = new_request().expect("a request");
        let validity = Validity::days(now(), 30);
        let chain_der = self
            .authority
            .issue_from_request(&linkage(), &identity, &request, validity)
            .expect("issued");
        (identity, IssuedKey { chain_der, key_der })
    }

    /// A client that expects this party, and shows `own`.
    pub(crate) fn client(&self, own: Option<&IssuedKey>) -> ClientTls {
        let anchor = Anchor::Certificate(self.authority.certificate_der());
        ClientTls::new(&linkage(), self.identity.clone(), anchor, own).expect("a client")
    }
}

pub(crate) fn trust(parties: &[&Party]) -> Trust {
    let mut trust = Trust::new(linkage());
    for party in parties {
        trust.add(party.identity.owner(), party.authority.certificate_der()).expect("trusted");
    }
    trust
}

pub(crate) fn server(hosted: &[&Party], trust: Trust, client_auth: ClientAuth) -> ServerTls {
    let hosted: Vec<_> = hosted.iter().map(|party| party.hosted()).collect();
    ServerTls::new(&hosted, trust, client_auth).expect("a server")
}

impl Port {
    pub(crate) async fn open(tls: &ServerTls, limits: Limits) -> Self {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("bound");
        let addr = listener.addr();
        let connections = Connections::default();
        let incoming = accept::serve(listener, tls.clone(), limits, connections.clone());
        Self { addr, connections, incoming: Box::pin(incoming) }
    }
}
