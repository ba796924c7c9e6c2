//! TLS 1.3, both ways, with trust chosen by the name in the certificate.
//!
//! No resumption: a resumed session keeps the identity of the first one and asks no verifier, so a
//! revoked peer would stay in. No wrapper that swaps lists inside a live configuration either: each
//! change builds a new one.

mod client;
mod lists;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Anchor, ClientTls, ConnectError};
pub use lists::Lists;
pub use server::{ClientAuth, Hosted, ServerTls, Trust};

use crate::pki::IssuedKey;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::VerifierBuilderError;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore};
use std::io;
use std::sync::{Arc, LazyLock};

/// The one protocol spoken over TLS.
const ALPN: &[u8] = b"h2";

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// Why a side of TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate does not fit its key, or one of them cannot be used.
    #[error("certificate or key cannot be used")]
    Key(#[source] rustls::Error),
    /// An authority's certificate cannot be used.
    #[error("certificate of the authority cannot be used")]
    Authority(#[source] rustls::Error),
    /// No verifier can be made of it.
    #[error("no verifier can be made")]
    Verifier(#[source] VerifierBuilderError),
    /// The name is no host name.
    #[error("`{0}` is no host name")]
    Name(String),
    /// Two certificates claim one host name.
    #[error("host name `{0}` is served twice")]
    NameTwice(String),
}

/// Makes the cryptography of this program the default for libraries that ask for one. First thing
/// in `main`.
pub fn install_provider() {
    // Refused only when one is installed already, and this program has no other.
    drop(CryptoProvider::install_default(aws_lc_rs::default_provider()));
}

fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

fn roots(authority_der: &[u8]) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority_der))?;
    Ok(Arc::new(roots))
}

fn certified(issued: &IssuedKey) -> Result<CertifiedKey, TlsError> {
    let chain = issued.chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key = PrivatePkcs8KeyDer::from(issued.key_der.expose().clone());
    CertifiedKey::from_der(chain, PrivateKeyDer::Pkcs8(key), &PROVIDER).map_err(TlsError::Key)
}

/// A handshake error in the words of our verifiers, which the library shows only in debug form.
pub(crate) fn plain(error: io::Error) -> io::Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(refusal)))) => {
            io::Error::new(error.kind(), Arc::clone(refusal))
        }
        _ => error,
    }
}

fn verify_tls13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let algorithms = &PROVIDER.signature_verification_algorithms;
    rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
}

/// The answer to a question that is never asked: no configuration here offers TLS 1.2.
fn no_tls12() -> rustls::Error {
    rustls::PeerIncompatible::Tls12NotOfferedOrEnabled.into()
}
