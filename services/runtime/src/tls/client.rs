//! The client's side: which server it will talk to, and as whom.

use super::{ALPN, TlsError, certified, provider, roots};
use crate::identity::{Identity, IdentityError, identity_of};
use crate::pki::{IssuedKey, fingerprint};
use domain::kernel::LinkageId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The client's side of TLS towards one server. A change of trust or certificate builds a new one.
#[derive(Clone, Debug)]
pub struct ClientTls {
    pub(super) config: Arc<ClientConfig>,
    server: Identity,
    server_name: ServerName<'static>,
}

/// What the server's certificate must be signed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor<'a> {
    /// The authority of this certificate, DER.
    Certificate(&'a [u8]),
    /// The authority of this SHA-256, whose certificate the server sends along: all a phone knows
    /// before it is enrolled.
    Fingerprint([u8; 32]),
}

/// Why there is no connection to a server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It does not answer.
    #[error("cannot reach {endpoint}")]
    Dial {
        /// host:port.
        endpoint: String,
        /// What the network said.
        source: io::Error,
    },
    /// It is not who it should be, or refuses us.
    #[error("no secure connection to {server} at {endpoint}")]
    Handshake {
        /// Who it should be.
        server: Identity,
        /// host:port.
        endpoint: String,
        /// What failed.
        source: io::Error,
    },
}

/// Why the name in a server's certificate was refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Name(IdentityError),
    #[error("certificate is of {found} of linkage {linkage}, expected {expected}")]
    OtherParty { found: Identity, linkage: LinkageId, expected: Identity },
}

#[derive(Debug)]
struct ServerVerifier {
    anchor: HeldAnchor,
    linkage: LinkageId,
    server: Identity,
}

#[derive(Debug)]
enum HeldAnchor {
    Certificate(Arc<WebPkiServerVerifier>),
    Fingerprint([u8; 32]),
}

impl ClientTls {
    /// Talks to `server` alone, and shows the certificate `own` where there is one.
    ///
    /// # Errors
    /// When a certificate, a key or the server's host name cannot be used.
    pub fn new(
        linkage: &LinkageId,
        server: Identity,
        anchor: Anchor<'_>,
        own: Option<&IssuedKey>,
    ) -> Result<Self, TlsError> {
        let name = server.dns_name(linkage);
        let server_name = ServerName::try_from(name.clone()).map_err(|_| TlsError::Name(name))?;
        let anchor = match anchor {
            Anchor::Certificate(der) => HeldAnchor::Certificate(chain_verifier(der)?),
            Anchor::Fingerprint(fingerprint) => HeldAnchor::Fingerprint(fingerprint),
        };
        let verifier = ServerVerifier { anchor, linkage: linkage.clone(), server: server.clone() };
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Key)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match own {
            Some(own) => {
                let key = SingleCertAndKey::from(certified(own)?);
                config.with_client_cert_resolver(Arc::new(key))
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), server, server_name })
    }

    /// The host name the server is asked for by, whatever address is dialled.
    pub fn server_name(&self) -> String {
        self.server_name.to_str().into_owned()
    }

    /// Dials `endpoint` (host:port) and shakes hands. Has no deadline of its own.
    ///
    /// # Errors
    /// When nobody answers, or it is not the server expected. A server that refuses our certificate
    /// says so only when the connection is first read from.
    pub async fn connect(&self, endpoint: &str) -> Result<TlsStream<TcpStream>, ConnectError> {
        let unreached = |source| ConnectError::Dial { endpoint: endpoint.to_owned(), source };
        let tcp = TcpStream::connect(endpoint).await.map_err(unreached)?;
        tcp.set_nodelay(true).map_err(unreached)?;
        self.connect_over(tcp).await.map_err(|source| ConnectError::Handshake {
            server: self.server.clone(),
            endpoint: endpoint.to_owned(),
            source,
        })
    }

    /// Shakes hands over a connection that stands.
    pub(crate) async fn connect_over<IO>(&self, io: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        // Boxed, because a handshake is large and its callers' futures should not be.
        let handshake = Box::pin(connector.connect(self.server_name.clone(), io));
        handshake.await.map_err(super::plain)
    }
}

fn chain_verifier(authority_der: &[u8]) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let roots = roots(authority_der).map_err(TlsError::Authority)?;
    WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(TlsError::Verifier)
}

impl ServerVerifier {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (linkage, found) = identity_of(end_entity).map_err(Refusal::Name)?;
        if (&linkage, &found) != (&self.linkage, &self.server) {
            let expected = self.server.clone();
            return Err(Refusal::OtherParty { found, linkage, expected }.into());
        }
        let pinned;
        let chain = match &self.anchor {
            HeldAnchor::Certificate(verifier) => verifier,
            HeldAnchor::Fingerprint(expected) => {
                let authority = intermediates
                    .iter()
                    .find(|certificate| fingerprint(certificate) == *expected)
                    .ok_or(CertificateError::UnknownIssuer)?;
                pinned = chain_verifier(authority).map_err(|_| CertificateError::BadEncoding)?;
                &pinned
            }
        };
        chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        CertificateError::Other(OtherError(Arc::new(refusal))).into()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, server_name, ocsp_response, now)
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
