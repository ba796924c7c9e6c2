//! Certificates: each region and each gateway is its own authority, and signs for nobody else.
//!
//! Always ECDSA P-256, always the SPIFFE name beside a host name: foreign gRPC clients refuse
//! Ed25519 certificates and certificates without a host name.

mod list;

pub use list::{ListError, RevocationList};

use crate::config::Secret;
use crate::identity::{Identity, Owner};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use domain::kernel::{LinkageId, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::IpAddr;
use std::time::Duration;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509;

/// A public key of P-256 as an uncompressed point.
pub type PublicKey = [u8; 65];

/// A new certificate is valid from so long ago, for peers whose clock is behind.
const CLOCK_SKEW_MS: i64 = 10 * 60 * 1_000;
/// The last second a certificate can name: the end of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;

/// What signs the certificates of one region or one gateway.
#[derive(Debug)]
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, as one side of a connection holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedKey {
    /// The certificate, then its authority's, DER. The latter is sent along, so that a phone which
    /// knows only its fingerprint can check it.
    pub chain_der: Vec<Vec<u8>>,
    /// The private key, PKCS #8 DER.
    pub key_der: Secret<Vec<u8>>,
}

/// From when until when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First good moment.
    pub not_before: Timestamp,
    /// Last good moment.
    pub not_after: Timestamp,
}

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The text holds no such PEM block.
    #[error("{0} cannot be read as PEM")]
    Pem(&'static str, #[source] pem::Error),
    /// The bytes are no certificate.
    #[error("certificate cannot be parsed")]
    Certificate,
    /// The key is not of the one kind in use.
    #[error("key is not an ECDSA P-256 key")]
    KeyKind,
    /// The private key is not that of the certificate.
    #[error("key does not belong to the certificate")]
    KeyMismatch,
    /// The bytes are no certificate request.
    #[error("certificate request cannot be parsed")]
    Request,
    /// The request is not signed by the key it asks a certificate for.
    #[error("certificate request is not signed by its own key")]
    RequestSignature,
    /// The period ends before it starts or lies outside the years 1970 to 9999.
    #[error("certificate would never be valid")]
    Validity,
    /// The certificate could not be made.
    #[error("certificate cannot be made")]
    Make(#[source] rcgen::Error),
}

impl Validity {
    /// So many days from `now`, and from a little before it.
    pub const fn days(now: Timestamp, days: i64) -> Self {
        Self { not_before: now.plus_millis(-CLOCK_SKEW_MS), not_after: now.plus_days(days) }
    }

    /// The period of a certificate.
    ///
    /// # Errors
    /// When the bytes are no certificate.
    pub fn of(certificate_der: &[u8]) -> Result<Self, PkiError> {
        let certificate = parsed(certificate_der)?;
        let validity = certificate.validity();
        let at = |seconds: i64| Timestamp::from_micros(seconds.saturating_mul(1_000_000));
        Ok(Self {
            not_before: at(validity.not_before.timestamp()),
            not_after: at(validity.not_after.timestamp()),
        })
    }
}

impl Authority {
    /// Makes a new one with a key of its own.
    ///
    /// # Errors
    /// When the period is none.
    pub fn create(
        linkage: &LinkageId,
        owner: &Owner,
        validity: Validity,
    ) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Make)?;
        let mut params = template(&format!("{linkage} {owner} authority"), &key, validity)?;
        // It signs certificates of parties, never another authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(PkiError::Make)?;
        Ok(Self { certificate: certificate.into(), issuer: Issuer::new(params, key) })
    }

    /// Reads what [`Authority::certificate_pem`] and [`Authority::key_pem`] wrote. Both may stand
    /// in one text.
    ///
    /// # Errors
    /// When a text cannot be read, or the key is not the certificate's.
    pub fn from_pem(certificate_pem: &str, key_pem: &Secret<String>) -> Result<Self, PkiError> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| PkiError::Pem("certificate", error))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.expose().as_bytes())
            .map_err(|error| PkiError::Pem("key", error))?;
        let key = key_pair(&key)?;
        if public_key_of(&certificate)?[..] != *key.public_key_raw() {
            return Err(PkiError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(PkiError::Make)?;
        Ok(Self { certificate, issuer })
    }

    /// Its certificate.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// Its certificate as text.
    pub fn certificate_pem(&self) -> String {
        to_pem("CERTIFICATE", &self.certificate)
    }

    /// Its key as text.
    pub fn key_pem(&self) -> Secret<String> {
        Secret::new(self.issuer.key().serialize_pem())
    }

    /// SHA-256 of its certificate, which enrolment codes carry.
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.certificate)
    }

    /// A certificate and key for a server of this authority, good for serving and for dialling.
    /// It carries the host name of `identity` besides `names` and `ips`.
    ///
    /// # Errors
    /// When the period is none or a name is no host name.
    pub fn issue_server(
        &self,
        linkage: &LinkageId,
        identity: &Identity,
        names: &[String],
        ips: &[IpAddr],
        validity: Validity,
    ) -> Result<IssuedKey, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Make)?;
        let mut params = party(linkage, identity, &key, validity)?;
        for name in names {
            let name = name.as_str().try_into().map_err(PkiError::Make)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(ips.iter().map(|ip| SanType::IpAddress(*ip)));
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        let chain_der = self.sign(&params, &key)?;
        Ok(IssuedKey { chain_der, key_der: Secret::new(key.serialize_der()) })
    }

    /// A certificate, with its authority's, for the key of a request, good for dialling only. Of
    /// the request nothing but its key is used: what the peer would like to be called is not asked.
    ///
    /// # Errors
    /// When the request is none, its key is of another kind or has not signed it, or the period is
    /// none.
    pub fn issue_from_request(
        &self,
        linkage: &LinkageId,
        identity: &Identity,
        request_der: &[u8],
        validity: Validity,
    ) -> Result<Vec<Vec<u8>>, PkiError> {
        let key = checked_request(request_der)?;
        let key = SubjectPublicKeyInfo::from_der(&key).map_err(PkiError::Make)?;
        let params = party(linkage, identity, &key, validity)?;
        self.sign(&params, &key)
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<Vec<Vec<u8>>, PkiError> {
        let certificate = params.signed_by(key, &self.issuer).map_err(PkiError::Make)?;
        Ok(vec![certificate.der().to_vec(), self.certificate.to_vec()])
    }
}

impl IssuedKey {
    /// The chain as text, the party's own certificate first.
    pub fn chain_pem(&self) -> String {
        self.chain_der.iter().map(|der| to_pem("CERTIFICATE", der)).collect()
    }

    /// The key as text.
    pub fn key_pem(&self) -> Secret<String> {
        Secret::new(to_pem("PRIVATE KEY", self.key_der.expose()))
    }

    /// Reads what [`IssuedKey::chain_pem`] and [`IssuedKey::key_pem`] wrote. Both may stand in one
    /// text.
    ///
    /// # Errors
    /// When a text cannot be read, or the key is not the certificate's.
    pub fn from_pem(chain_pem: &str, key_pem: &Secret<String>) -> Result<Self, PkiError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| PkiError::Pem("certificate", error))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.expose().as_bytes())
            .map_err(|error| PkiError::Pem("key", error))?;
        let pair = key_pair(&key)?;
        let own = chain.first().ok_or(PkiError::Certificate)?;
        if public_key_of(own)?[..] != *pair.public_key_raw() {
            return Err(PkiError::KeyMismatch);
        }
        let chain_der = chain.iter().map(|der| der.to_vec()).collect();
        Ok(Self { chain_der, key_der: Secret::new(key.secret_der().to_vec()) })
    }
}

/// Makes a key (PKCS #8 DER) and a request (DER) for a certificate of it.
///
/// # Errors
/// When no key can be made.
pub fn new_request() -> Result<(Secret<Vec<u8>>, Vec<u8>), PkiError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Make)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(PkiError::Make)?;
    Ok((Secret::new(key.serialize_der()), request.der().to_vec()))
}

/// The public key of a certificate.
///
/// # Errors
/// When the bytes are no certificate or its key is of another kind.
pub fn public_key_of(certificate_der: &[u8]) -> Result<PublicKey, PkiError> {
    public_key(parsed(certificate_der)?.public_key())
}

/// The public key of a certificate request, which has signed it.
///
/// # Errors
/// When the request is none, or its key is of another kind or has not signed it.
pub fn public_key_of_request(request_der: &[u8]) -> Result<PublicKey, PkiError> {
    let key = checked_request(request_der)?;
    let (_, key) = x509::SubjectPublicKeyInfo::from_der(&key).map_err(|_| PkiError::Request)?;
    public_key(&key)
}

/// The number of a certificate among those of its authority, without zeros in front.
///
/// # Errors
/// When the bytes are no certificate.
pub fn serial_of(certificate_der: &[u8]) -> Result<Vec<u8>, PkiError> {
    Ok(list::without_zeros(parsed(certificate_der)?.raw_serial()))
}

/// SHA-256 of a certificate.
pub fn fingerprint(certificate_der: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, certificate_der).as_ref());
    out
}

/// Checks a request and gives the DER of its public key.
fn checked_request(request_der: &[u8]) -> Result<Vec<u8>, PkiError> {
    let (rest, request) =
        X509CertificationRequest::from_der(request_der).map_err(|_| PkiError::Request)?;
    if !rest.is_empty() {
        return Err(PkiError::Request);
    }
    let info = &request.certification_request_info;
    let key = public_key(&info.subject_pki)?;
    if request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
        return Err(PkiError::KeyKind);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
        .verify(info.raw, &request.signature_value.data)
        .map_err(|_| PkiError::RequestSignature)?;
    Ok(info.subject_pki.raw.to_vec())
}

fn parsed(certificate_der: &[u8]) -> Result<X509Certificate<'_>, PkiError> {
    match X509Certificate::from_der(certificate_der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(PkiError::Certificate),
    }
}

fn public_key(key: &x509::SubjectPublicKeyInfo<'_>) -> Result<PublicKey, PkiError> {
    let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
        return Err(PkiError::KeyKind);
    }
    let point: PublicKey =
        key.subject_public_key.data.as_ref().try_into().map_err(|_| PkiError::KeyKind)?;
    if point[0] == 4 { Ok(point) } else { Err(PkiError::KeyKind) }
}

fn key_pair(key: &PrivateKeyDer<'_>) -> Result<KeyPair, PkiError> {
    KeyPair::from_der_and_sign_algo(key, &PKCS_ECDSA_P256_SHA256).map_err(|_| PkiError::KeyKind)
}

/// What certificates of all parties have in common.
fn party(
    linkage: &LinkageId,
    identity: &Identity,
    key: &impl PublicKeyData,
    validity: Validity,
) -> Result<CertificateParams, PkiError> {
    let mut params = template(&identity.to_string(), key, validity)?;
    let uri = identity.spiffe(linkage).try_into().map_err(PkiError::Make)?;
    let name = identity.dns_name(linkage).try_into().map_err(PkiError::Make)?;
    params.subject_alt_names = vec![SanType::URI(uri), SanType::DnsName(name)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn template(
    subject: &str,
    key: &impl PublicKeyData,
    validity: Validity,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    let Validity { not_before, not_after } = validity;
    let start = seconds(not_before).ok_or(PkiError::Validity)?;
    let end = seconds(not_after).filter(|end| *end > start).ok_or(PkiError::Validity)?;
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(start);
    params.not_after = epoch + Duration::from_secs(end);
    let serial = serial(key.subject_public_key_info(), not_before, subject);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// One number a certificate, without a counter to lose: left alone, a renewed certificate of the same
/// key would carry the number of the old one.
fn serial(key_info: Vec<u8>, not_before: Timestamp, subject: &str) -> [u8; 16] {
    let mut unique = key_info;
    unique.extend(not_before.micros().to_be_bytes());
    unique.extend(subject.as_bytes());
    let mut serial = [0; 16];
    serial.copy_from_slice(&fingerprint(&unique)[..16]);
    serial[0] &= 0x7f;
    serial
}

fn seconds(at: Timestamp) -> Option<u64> {
    let seconds = at.micros().div_euclid(1_000_000);
    u64::try_from(seconds).ok().filter(|_| seconds <= LAST_SECOND)
}

/// RFC 7468: base64 in lines of 64 between two marks.
fn to_pem(label: &str, der: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bits = (0..3).fold(0, |bits, at| {
                bits << 8 | usize::from(group.get(at).copied().unwrap_or_default())
            });
            for at in 0..4 {
                let letter = LETTERS[bits >> (18 - 6 * at) & 63];
                out.push(if at <= group.len() { char::from(letter) } else { '=' });
            }
        }
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::identity_of;
    use domain::kernel::{DeviceId, Entropy, GatewayId, RegionId};

    struct Ones;
    impl Entropy for Ones {
        fn fill(&self, out: &mut [u8]) {
            out.fill(1);
        }
    }

    const NOW: Timestamp = Timestamp::from_micros(1_764_000_000_000_000);
    const YEAR: Validity = Validity::days(NOW, 365);

    fn linkage() -> LinkageId {
        LinkageId::parse("wuling").expect("slug")
    }

    fn region() -> Identity {
        Identity::Region(RegionId::parse("xiaonanhai").expect("slug"))
    }

    fn phone() -> Identity {
        let region = RegionId::parse("xiaonanhai").expect("slug");
        Identity::Device(region, DeviceId::mint(NOW, &Ones))
    }

    fn authority() -> Authority {
        Authority::create(&linkage(), &region().owner(), YEAR).expect("an authority")
    }

    #[test]
    fn pem_is_what_others_write() {
        for length in 0..200 {
            let der = vec![length as u8; length];
            let pem = to_pem("CERTIFICATE", &der);
            assert_eq!(*CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM"), *der);
            assert!(pem.lines().all(|line| line.len() <= 64));
        }
        let key = KeyPair::generate().expect("a key");
        let pem = to_pem("PRIVATE KEY", key.serialized_der());
        assert_eq!(pem, key.serialize_pem());
    }

    #[test]
    fn an_authority_reads_back_and_signs_as_before() {
        let made = authority();
        let both = made.certificate_pem() + made.key_pem().expose();
        let read = Authority::from_pem(&both, &Secret::new(both.clone())).expect("read");
        assert_eq!(read.fingerprint(), made.fingerprint());
        let issued = read.issue_server(&linkage(), &region(), &[], &[], YEAR).expect("issued");
        assert_eq!(issued.chain_der[1], made.certificate_der());
        let (_, leaf) = X509Certificate::from_der(&issued.chain_der[0]).expect("a certificate");
        let (_, root) = X509Certificate::from_der(made.certificate_der()).expect("a certificate");
        assert_eq!(leaf.issuer(), root.subject());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (one, other) = (authority(), authority());
        let mixed = Authority::from_pem(&one.certificate_pem(), &other.key_pem());
        assert!(matches!(mixed, Err(PkiError::KeyMismatch)));
        let one = one.issue_server(&linkage(), &region(), &[], &[], YEAR).expect("issued");
        let other = other.issue_server(&linkage(), &region(), &[], &[], YEAR).expect("issued");
        let mixed = IssuedKey::from_pem(&one.chain_pem(), &other.key_pem());
        assert!(matches!(mixed, Err(PkiError::KeyMismatch)));
        let text = one.chain_pem();
        assert_eq!(IssuedKey::from_pem(&text, &one.key_pem()).expect("read"), one);
    }

    #[test]
    fn a_server_certificate_names_its_party_and_hosts_and_keeps_its_period() {
        let gateway = Identity::Gateway(GatewayId::parse("gw1").expect("slug"));
        let validity = Validity::days(NOW, 7);
        let authority = Authority::create(&linkage(), &gateway.owner(), YEAR).expect("made");
        let ips = [IpAddr::from([127, 0, 0, 1])];
        let names = ["localhost".to_owned()];
        let issued = authority.issue_server(&linkage(), &gateway, &names, &ips, validity);
        let leaf = &issued.expect("issued").chain_der[0];
        assert_eq!(identity_of(leaf), Ok((linkage(), gateway)));
        assert_eq!(Validity::of(leaf).expect("a period"), validity);
        let text = String::from_utf8_lossy(leaf).into_owned();
        assert!(text.contains("gw1.gateway.wuling.internal") && text.contains("localhost"));
    }

    #[test]
    fn of_a_request_only_the_key_is_used() {
        let key = KeyPair::generate().expect("a key");
        let mut wishes = CertificateParams::new(vec!["admin.example".to_owned()]).expect("params");
        wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = wishes.serialize_request(&key).expect("a request");
        let issued = authority().issue_from_request(&linkage(), &phone(), request.der(), YEAR);
        let leaf = &issued.expect("issued")[0];
        assert_eq!(identity_of(leaf), Ok((linkage(), phone())));
        assert!(!parsed(leaf).expect("a certificate").is_ca());
        assert!(!String::from_utf8_lossy(leaf).contains("admin.example"));
        assert_eq!(public_key_of(leaf).expect("a key")[..], *key.public_key_raw());
        let asked = public_key_of_request(request.der()).expect("a key");
        assert_eq!(asked[..], *key.public_key_raw());
    }

    #[test]
    fn a_changed_request_never_gives_another_key() {
        let (_, request) = new_request().expect("a request");
        let key = public_key_of_request(&request).expect("good as it is");
        for at in 0..request.len() {
            let mut changed = request.clone();
            changed[at] ^= 1;
            // The wrapping around what is signed may be read leniently.
            let read = public_key_of_request(&changed);
            assert!(read.is_err() || read.is_ok_and(|read| read == key), "byte {at}");
        }
        assert!(public_key_of_request(&request[..request.len() - 1]).is_err());
        assert!(public_key_of_request(&[request, vec![0]].concat()).is_err());
    }

    #[test]
    fn a_request_of_another_kind_of_key_is_refused() {
        for kind in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let key = KeyPair::generate_for(kind).expect("a key");
            let request = CertificateParams::default().serialize_request(&key).expect("made");
            let refused = public_key_of_request(request.der());
            assert!(matches!(refused, Err(PkiError::KeyKind)));
        }
    }

    #[test]
    fn a_renewed_certificate_has_a_number_of_its_own() {
        let (_, request) = new_request().expect("a request");
        let authority = authority();
        let serial = |now| {
            let validity = Validity::days(now, 30);
            let issued = authority.issue_from_request(&linkage(), &phone(), &request, validity);
            parsed(&issued.expect("issued")[0]).expect("a certificate").serial.clone()
        };
        assert_ne!(serial(NOW), serial(NOW.plus_millis(1)));
    }

    #[test]
    fn a_period_that_never_comes_is_refused() {
        for (from, to) in [(5, 5), (5, 4), (-1, 5), (0, i64::MAX), (i64::MIN, i64::MAX)] {
            let validity = Validity {
                not_before: Timestamp::from_micros(from),
                not_after: Timestamp::from_micros(to),
            };
            let made = Authority::create(&linkage(), &region().owner(), validity);
            assert!(matches!(made, Err(PkiError::Validity)), "{from} to {to}");
        }
    }
}
