//! The server's side: which certificate it shows, and whose it takes.

use super::{ALPN, TlsError, certified, provider, roots};
use crate::connections::{Peer, Shown};
use crate::identity::{Identity, IdentityError, Owner, identity_of};
use crate::pki::{IssuedKey, RevocationList, Validity, fingerprint, serial_of};
use domain::kernel::{LinkageId, Timestamp};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig,
    SignatureScheme,
};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// The server's side of TLS. Clones share one state; [`ServerTls::reload`] changes it for every
/// handshake that starts afterwards.
#[derive(Clone, Debug)]
pub struct ServerTls {
    client_auth: ClientAuth,
    current: Arc<RwLock<Current>>,
}

/// Whether a client must show a certificate. One it shows is always checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// It may connect without one.
    Optional,
    /// It may not.
    Required,
}

/// A certificate a server shows, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosted {
    /// The host names it is shown for.
    pub server_names: Vec<String>,
    /// The certificate and its key.
    pub key: IssuedKey,
}

/// Whose certificates a server takes: each name only from its own owner's authority, so that no
/// authority can make another's identity.
#[derive(Clone)]
pub struct Trust {
    linkage: LinkageId,
    authorities: HashMap<Owner, Known>,
    revoked: HashSet<Identity>,
    revoked_certificates: HashSet<[u8; 32]>,
}

/// An authority, and what it no longer stands by.
#[derive(Clone)]
struct Known {
    verifier: Arc<dyn ClientCertVerifier>,
    list: Option<Arc<RevocationList>>,
    /// Its devices are let in, too.
    devices: bool,
}

impl Known {
    fn takes(&self, identity: &Identity) -> bool {
        self.devices || !matches!(identity, Identity::Device(..))
    }
}

/// Why the name in a client's certificate was refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Name(IdentityError),
    #[error("certificate is of linkage {0}")]
    OtherLinkage(LinkageId),
    #[error("no authority is known for {0}")]
    NoAuthority(Owner),
}

#[derive(Clone, Debug)]
struct Current {
    config: Arc<ServerConfig>,
    trust: Arc<Trust>,
    expires_at: Timestamp,
}

#[derive(Debug)]
struct HostedKeys {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    only: Option<Arc<CertifiedKey>>,
}

#[derive(Debug)]
struct PeerVerifier {
    trust: Arc<Trust>,
    client_auth: ClientAuth,
}

impl ServerTls {
    /// Shows what is `hosted` and takes what is in `trust`.
    ///
    /// # Errors
    /// When a certificate or a name cannot be used.
    pub fn new(hosted: &[Hosted], trust: Trust, client_auth: ClientAuth) -> Result<Self, TlsError> {
        let current = Current::build(hosted, trust, client_auth)?;
        Ok(Self { client_auth, current: Arc::new(RwLock::new(current)) })
    }

    /// Replaces both for handshakes to come. Open connections stay: who is no longer
    /// [admitted](Self::admits) is closed by
    /// [`Connections::close`](crate::connections::Connections::close), after this.
    ///
    /// # Errors
    /// When a certificate or a name cannot be used; the old state then stays.
    pub fn reload(&self, hosted: &[Hosted], trust: Trust) -> Result<(), TlsError> {
        let next = Current::build(hosted, trust, self.client_auth)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// The configuration for a handshake that starts now.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().config)
    }

    /// Whether trust still holds for a peer; one that showed no certificate rests on none. Asked once
    /// more when a handshake is over: it may have begun before a revocation.
    pub fn admits(&self, peer: &Peer) -> bool {
        match (&peer.identity, &peer.certificate) {
            (Some(identity), Some(shown)) => self.current().trust.admits(identity, shown),
            _ => true,
        }
    }

    /// Whether what the authority of `owner` has revoked since is not known. Its parties are then
    /// admitted, but may do only what harms nobody.
    pub fn is_stale(&self, owner: &Owner, now: Timestamp) -> bool {
        self.current().trust.is_stale(owner, now)
    }

    /// When the first of the certificates shown runs out.
    pub fn expires_at(&self) -> Timestamp {
        self.current().expires_at
    }

    fn current(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Trust {
    /// Trusts nobody yet.
    pub fn new(linkage: LinkageId) -> Self {
        Self {
            linkage,
            authorities: HashMap::new(),
            revoked: HashSet::new(),
            revoked_certificates: HashSet::new(),
        }
    }

    /// Takes the certificates of `owner` that this authority signed, in place of any before.
    ///
    /// # Errors
    /// When the certificate of the authority cannot be used.
    pub fn add(&mut self, owner: Owner, authority_der: &[u8]) -> Result<(), TlsError> {
        self.add_known(owner, authority_der, true)
    }

    /// Takes the certificate of `owner` itself that this authority signed, and of none of its devices.
    ///
    /// # Errors
    /// When the certificate of the authority cannot be used.
    pub fn add_without_devices(
        &mut self,
        owner: Owner,
        authority_der: &[u8],
    ) -> Result<(), TlsError> {
        self.add_known(owner, authority_der, false)
    }

    fn add_known(
        &mut self,
        owner: Owner,
        authority_der: &[u8],
        devices: bool,
    ) -> Result<(), TlsError> {
        let roots = roots(authority_der).map_err(TlsError::Authority)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(TlsError::Verifier)?;
        self.authorities.insert(owner, Known { verifier, list: None, devices });
        Ok(())
    }

    /// Takes no certificate of `owner` that is on this list. Without a list none is asked for.
    pub fn add_list(&mut self, owner: &Owner, list: Arc<RevocationList>) {
        if let Some(known) = self.authorities.get_mut(owner) {
            known.list = Some(list);
        }
    }

    /// Takes no certificate of this party, whatever its date.
    pub fn revoke(&mut self, identity: Identity) {
        self.revoked.insert(identity);
    }

    /// Takes the one certificate of this SHA-256 no longer.
    pub fn revoke_certificate(&mut self, fingerprint: [u8; 32]) {
        self.revoked_certificates.insert(fingerprint);
    }

    /// Whether a party that has proved its name is still welcome.
    fn admits(&self, identity: &Identity, shown: &Shown) -> bool {
        let Some(known) = self.authorities.get(&identity.owner()) else { return false };
        known.takes(identity)
            && !self.revoked.contains(identity)
            && !self.revoked_certificates.contains(&shown.sha256)
            && !known.list.as_ref().is_some_and(|list| list.revokes(&shown.serial))
    }

    pub(super) fn is_stale(&self, owner: &Owner, now: Timestamp) -> bool {
        let list = self.authorities.get(owner).and_then(|known| known.list.as_ref());
        list.is_some_and(|list| list.expires_at < now)
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let (linkage, identity) = identity_of(end_entity).map_err(Refusal::Name)?;
        if linkage != self.linkage {
            return Err(Refusal::OtherLinkage(linkage).into());
        }
        let owner = identity.owner();
        let known = self.authorities.get(&owner).filter(|known| known.takes(&identity));
        let Some(known) = known else {
            return Err(Refusal::NoAuthority(owner).into());
        };
        let verified = known.verifier.verify_client_cert(end_entity, intermediates, now)?;
        let serial = serial_of(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let shown = Shown { sha256: fingerprint(end_entity), serial: serial.into() };
        if self.admits(&identity, &shown) {
            Ok(verified)
        } else {
            Err(CertificateError::Revoked.into())
        }
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("linkage", &self.linkage)
            .field("authorities", &self.authorities.len())
            .field("revoked", &self.revoked.len())
            .field("revoked_certificates", &self.revoked_certificates.len())
            .finish()
    }
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        CertificateError::Other(OtherError(Arc::new(refusal))).into()
    }
}

impl Current {
    fn build(hosted: &[Hosted], trust: Trust, client_auth: ClientAuth) -> Result<Self, TlsError> {
        let trust = Arc::new(trust);
        let keys = HostedKeys::of(hosted)?;
        let ends = keys.by_name.values().filter_map(|key| key.cert.first());
        // What cannot be read was refused before; nothing shown never runs out.
        let ends = ends.filter_map(|der| Validity::of(der).ok()).map(|validity| validity.not_after);
        let expires_at = ends.min().unwrap_or(Timestamp::from_micros(i64::MAX));
        let verifier = PeerVerifier { trust: Arc::clone(&trust), client_auth };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Key)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(keys));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Self { config: Arc::new(config), trust, expires_at })
    }
}

impl HostedKeys {
    fn of(hosted: &[Hosted]) -> Result<Self, TlsError> {
        let mut by_name = HashMap::new();
        let mut only = None;
        for Hosted { server_names, key } in hosted {
            let key = Arc::new(certified(key)?);
            for name in server_names {
                let name = name.to_ascii_lowercase();
                if !matches!(ServerName::try_from(name.as_str()), Ok(ServerName::DnsName(_))) {
                    return Err(TlsError::Name(name));
                }
                if by_name.insert(name.clone(), Arc::clone(&key)).is_some() {
                    return Err(TlsError::NameTwice(name));
                }
            }
            only = (hosted.len() == 1).then_some(key);
        }
        Ok(Self { by_name, only })
    }
}

impl ResolvesServerCert for HostedKeys {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.by_name.get(name));
        // A client that dials an address names no host. Where one certificate is all there is, it
        // is the one meant; elsewhere a guess would show one region in place of another.
        named.or(self.only.as_ref()).map(Arc::clone)
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }

    /// Empty: a client has one certificate to show, and the list of all authorities is long.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.trust.verify(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(super::no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        super::verify_tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        super::PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}
