//! How a phone becomes a device of a region: a code read from a screen, a key, a certificate.

use crate::store::{Store, StoreError, int};
use crate::sync;
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use domain::kernel::{DeviceId, Epoch, LinkageId, RegionId, Role, Timestamp};
use prost::Message as _;
use proto::convert::kernel::decode_time;
use proto::device::v1 as pb;
use rusqlite::{Connection, OptionalExtension as _};
use std::fmt;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// A code as the region's screen shows it:
/// `wuling:enrol?linkage=&region=&endpoint=&ca=<sha256 hex>&code=`.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentCode {
    /// Linkage of the region; with it the region's host name and certificate are known.
    pub linkage_id: LinkageId,
    /// Region that issued it.
    pub region_id: RegionId,
    /// host:port of the region's server.
    pub endpoint: String,
    /// SHA-256 of the certificate, in DER, of the region's own authority. The phone must trust no
    /// other when it calls.
    pub authority_sha256: [u8; 32],
    /// The secret, single use, good for 15 minutes.
    pub code: String,
}

/// Why a text is no enrolment code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// It does not begin with `wuling:enrol?`, or is longer than any code.
    #[error("not an enrolment code of this system")]
    NotACode,
    /// A field is not there, or there twice.
    #[error("the enrolment code must have exactly one `{0}`")]
    NotOnce(&'static str),
    /// A field is of the wrong form.
    #[error("the `{0}` of the enrolment code is of the wrong form")]
    Invalid(&'static str),
}

/// What the enrolled phone is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Region that took it.
    pub region_id: RegionId,
    /// host:port of the region's server.
    pub endpoint: String,
    /// Certificate of the region's own authority in DER; the only one to trust when calling.
    pub authority_certificate: Bytes,
    /// Id of the device.
    pub device_id: DeviceId,
    /// What it may do.
    pub role: Role,
    /// Its certificate chain in DER, leaf first.
    pub certificate_chain: Vec<Bytes>,
    /// When the certificate ends.
    pub expires_at: Timestamp,
}

/// Why an answer to an enrolment is not taken.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// A field of the answer is of the wrong form.
    #[error("the region answered with an invalid `{0}`")]
    ResponseInvalid(&'static str),
    /// No certificate of the chain is the authority that the code names.
    #[error("the certificate chain does not hold the authority that the enrolment code names")]
    AuthorityMissing,
    /// The certificate is for another key.
    #[error("the certificate is for another key")]
    OtherKey,
    /// The store belongs to a phone of another region.
    #[error("the store belongs to region {0}; use another folder")]
    OtherRegion(RegionId),
    /// The store failed.
    #[error("the enrolment was not stored")]
    Store(#[from] StoreError),
}

/// Longer than any code: a slug, a host name and a port, 64 hex digits, 64 characters.
const CODE_TEXT_BYTES_MAX: usize = 1_024;
/// Bytes of a host name.
const HOST_BYTES_MAX: usize = 253;

impl EnrolmentCode {
    /// Reads the text of a QR code. Fields this program does not know are left alone.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let query = text.strip_prefix("wuling:enrol?").ok_or(CodeError::NotACode)?;
        if text.len() > CODE_TEXT_BYTES_MAX {
            return Err(CodeError::NotACode);
        }
        let field = |name: &'static str| {
            let mut found = query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .filter_map(|(key, value)| (key == name).then_some(value));
            match (found.next(), found.next()) {
                (Some(value), None) => Ok(value),
                _ => Err(CodeError::NotOnce(name)),
            }
        };
        let linkage_id = field("linkage")?.parse().map_err(|_| CodeError::Invalid("linkage"))?;
        let (region, endpoint) = (field("region")?, field("endpoint")?);
        let (authority, code) = (field("ca")?, field("code")?);
        let region_id = RegionId::parse(region).map_err(|_| CodeError::Invalid("region"))?;
        if !is_endpoint(endpoint) {
            return Err(CodeError::Invalid("endpoint"));
        }
        let authority_sha256 = unhex(authority).ok_or(CodeError::Invalid("ca"))?;
        let well_formed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !(16..=64).contains(&code.len()) || !code.bytes().all(well_formed) {
            return Err(CodeError::Invalid("code"));
        }
        let (endpoint, code) = (endpoint.to_owned(), code.to_owned());
        Ok(Self { linkage_id, region_id, endpoint, authority_sha256, code })
    }

    /// Whether this is the certificate of the authority that the code names.
    pub fn names_authority(&self, certificate_der: &[u8]) -> bool {
        digest(&SHA256, certificate_der).as_ref() == self.authority_sha256
    }

    /// The call to make with it; `certificate_request` is a PKCS #10 request in DER.
    pub fn request(&self, certificate_request: Vec<u8>, model: &str) -> pb::EnrolRequest {
        pb::EnrolRequest {
            region_id: self.region_id.as_str().to_owned(),
            code: self.code.clone(),
            certificate_request: certificate_request.into(),
            model: model.to_owned(),
        }
    }
}

impl fmt::Display for EnrolmentCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { linkage_id, region_id, endpoint, authority_sha256, code } = self;
        write!(f, "wuling:enrol?linkage={linkage_id}&region={region_id}&endpoint={endpoint}&ca=")?;
        for byte in authority_sha256 {
            write!(f, "{byte:02x}")?;
        }
        write!(f, "&code={code}")
    }
}

impl fmt::Debug for EnrolmentCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region_id, endpoint, .. } = self;
        write!(f, "EnrolmentCode({region_id} at {endpoint}, [redacted])")
    }
}

fn is_endpoint(endpoint: &str) -> bool {
    let Some((host, port)) = endpoint.rsplit_once(':') else { return false };
    let in_host =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    (1..=HOST_BYTES_MAX).contains(&host.len())
        && host.bytes().all(in_host)
        && port.bytes().all(|b| b.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16).and_then(|v| u8::try_from(v).ok());
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(out)
}

impl Store {
    /// Keeps the region's answer to an enrolment with `public_key`, an uncompressed point. A phone may
    /// be enrolled again in its region, as another device; what it has not sent stays to be sent.
    ///
    /// # Errors
    /// When the answer does not hold what it must, or the store is another region's.
    pub fn enrol(
        &mut self,
        code: &EnrolmentCode,
        public_key: &[u8],
        response: &pb::EnrolResponse,
    ) -> Result<Identity, EnrolError> {
        let authority = response
            .certificate_chain
            .iter()
            .find(|certificate| code.names_authority(certificate))
            .ok_or(EnrolError::AuthorityMissing)?
            .clone();
        let identity = identity(code.region_id.clone(), code.endpoint.clone(), authority, response)
            .map_err(EnrolError::ResponseInvalid)?;
        let epoch =
            Epoch::from_slice(&response.epoch).ok_or(EnrolError::ResponseInvalid("epoch"))?;
        if !is_for_key(identity.certificate_chain.first(), public_key) {
            return Err(EnrolError::OtherKey);
        }
        self.write(|tx| {
            match find(tx)? {
                Some(before) if before.region_id != identity.region_id => {
                    return Err(EnrolError::OtherRegion(before.region_id));
                }
                _ => {}
            }
            insert(tx, &identity, response)?;
            sync::note_epoch(tx, epoch)?;
            Ok(())
        })?;
        Ok(identity)
    }
}

fn is_for_key(leaf: Option<&Bytes>, public_key: &[u8]) -> bool {
    leaf.and_then(|leaf| X509Certificate::from_der(leaf).ok())
        .is_some_and(|(_, leaf)| leaf.public_key().subject_public_key.data == public_key)
}

/// Reads an answer; the error names the field that is wrong.
fn identity(
    region_id: RegionId,
    endpoint: String,
    authority_certificate: Bytes,
    response: &pb::EnrolResponse,
) -> Result<Identity, &'static str> {
    let pb::EnrolResponse { device_id, role, certificate_chain, expire_time, epoch: _ } = response;
    Ok(Identity {
        region_id,
        endpoint,
        authority_certificate,
        device_id: DeviceId::from_slice(device_id).ok_or("device_id")?,
        role: Role::try_from(*role).map_err(|_| "role")?,
        certificate_chain: certificate_chain.clone(),
        expires_at: expire_time.and_then(decode_time).ok_or("expire_time")?,
    })
}

fn insert(
    conn: &Connection,
    identity: &Identity,
    response: &pb::EnrolResponse,
) -> Result<(), StoreError> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO enrolment
         (singleton, region_id, endpoint, authority_certificate, response) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((
        int(1),
        identity.region_id.as_str(),
        &identity.endpoint,
        identity.authority_certificate.as_ref(),
        response.encode_to_vec(),
    ))?;
    Ok(())
}

/// Who the phone is, once it is enrolled.
pub(crate) fn find(conn: &Connection) -> Result<Option<Identity>, StoreError> {
    const UNREADABLE: StoreError = StoreError::Inconsistent("enrolment");
    let row: Option<(String, String, Vec<u8>, Vec<u8>)> = conn
        .prepare_cached(
            "SELECT region_id, endpoint, authority_certificate, response FROM enrolment",
        )?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((region, endpoint, authority, response)) = row else { return Ok(None) };
    let region_id = RegionId::parse(&region).map_err(|_| UNREADABLE)?;
    let response = pb::EnrolResponse::decode(&*response).map_err(|_| UNREADABLE)?;
    identity(region_id, endpoint, authority.into(), &response).map(Some).map_err(|_| UNREADABLE)
}
