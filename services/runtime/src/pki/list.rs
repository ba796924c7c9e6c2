//! Revocation lists: what an authority no longer stands by, for so long.

use super::{
    Authority, Identity, PkiError, PublicKey, Validity, date_time_ymd, public_key_of, seconds,
    serial, to_pem,
};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use domain::kernel::Timestamp;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use std::collections::HashSet;
use std::time::Duration;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::OID_SIG_ECDSA_WITH_SHA256;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

/// What stands before the point of a P-256 key in a certificate.
const P256_KEY_INFO: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Bytes of a list; a region with a hundred thousand lost phones has one half as long.
const LIST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A list that its authority signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    /// Grows with each list of an authority.
    pub number: u64,
    /// Until when it says all there is to know.
    pub expires_at: Timestamp,
    revoked: HashSet<Vec<u8>>,
}

/// Why a list is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// It cannot be parsed, or holds what is not understood.
    #[error("revocation list cannot be read")]
    Malformed,
    /// Its authority has not signed it.
    #[error("revocation list is not signed by its authority")]
    Signature,
    /// It does not say when the next one comes.
    #[error("revocation list has no number or no end")]
    Endless,
}

impl Authority {
    /// A list of these certificates, by their numbers, as text. Lists made later have higher numbers.
    ///
    /// # Errors
    /// When the period is none.
    pub fn revocation_list(
        &self,
        serials: &[Vec<u8>],
        validity: Validity,
    ) -> Result<String, PkiError> {
        let Validity { not_before, not_after } = validity;
        let at = |time| {
            let since = seconds(time).map(Duration::from_secs).ok_or(PkiError::Validity)?;
            Ok::<_, PkiError>(date_time_ymd(1970, 1, 1) + since)
        };
        let this_update = at(not_before)?;
        let revoked = |serial: &Vec<u8>| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update,
            next_update: at(not_after)?,
            crl_number: u64::try_from(not_before.micros()).map_err(|_| PkiError::Validity)?.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = params.signed_by(&self.issuer).map_err(PkiError::Make)?;
        Ok(to_pem("X509 CRL", signed.der()))
    }

    /// The number of the certificate that [`Authority::issue_from_request`] made for this key, from what
    /// is known of it afterwards.
    pub fn serial_of_issued(
        identity: &Identity,
        public_key: &PublicKey,
        not_before: Timestamp,
    ) -> Vec<u8> {
        let info = [&P256_KEY_INFO[..], public_key].concat();
        without_zeros(&serial(info, not_before, &identity.to_string()))
    }
}

impl RevocationList {
    /// Reads what [`Authority::revocation_list`] of this authority wrote, or the same in DER.
    ///
    /// # Errors
    /// When it cannot be read or another has signed it.
    pub fn read(authority_der: &[u8], text: &[u8]) -> Result<Self, ListError> {
        if text.len() > LIST_BYTES_MAX {
            return Err(ListError::Malformed);
        }
        let decoded;
        let der = if text.starts_with(b"-----BEGIN") {
            let read = CertificateRevocationListDer::from_pem_slice(text);
            decoded = read.map_err(|_| ListError::Malformed)?;
            &decoded[..]
        } else {
            text
        };
        let Ok(([], list)) = CertificateRevocationList::from_der(der) else {
            return Err(ListError::Malformed);
        };
        let signed_by = public_key_of(authority_der).map_err(|_| ListError::Signature)?;
        if list.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
            return Err(ListError::Signature);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, signed_by)
            .verify(list.tbs_cert_list.as_ref(), &list.signature_value.data)
            .map_err(|_| ListError::Signature)?;
        let (_, authority) =
            X509Certificate::from_der(authority_der).map_err(|_| ListError::Signature)?;
        if list.issuer() != authority.subject() {
            return Err(ListError::Signature);
        }
        // A list about some certificates only, or about changes only, marks itself as critical.
        if list.extensions().iter().any(|extension| extension.critical) {
            return Err(ListError::Malformed);
        }
        let number = list.crl_number().and_then(|number| u64::try_from(number).ok());
        let (Some(number), Some(end)) = (number, list.next_update()) else {
            return Err(ListError::Endless);
        };
        let revoked = list.iter_revoked_certificates().map(|one| without_zeros(one.raw_serial()));
        Ok(Self {
            number,
            expires_at: Timestamp::from_micros(end.timestamp().saturating_mul(1_000_000)),
            revoked: revoked.collect(),
        })
    }

    /// What is known where a list should be and none can be read: nothing, and that is out of date.
    pub(crate) fn unknown() -> Self {
        Self { number: 0, expires_at: Timestamp::from_micros(0), revoked: HashSet::new() }
    }

    /// Whether the certificate of this number is on it.
    pub fn revokes(&self, serial: &[u8]) -> bool {
        self.revoked.contains(serial)
    }
}

/// A number as all write it the same.
pub(super) fn without_zeros(serial: &[u8]) -> Vec<u8> {
    let start = serial.iter().position(|byte| *byte != 0).unwrap_or(serial.len());
    serial[start..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemEntropy;
    use crate::identity::Owner;
    use crate::pki::{new_request, public_key_of_request, serial_of};
    use domain::kernel::{DeviceId, LinkageId, RegionId};

    const NOW: Timestamp = Timestamp::from_micros(1_764_000_000_000_000);
    const DAY: Validity = Validity::days(NOW, 1);

    fn region() -> RegionId {
        RegionId::parse("xiaonanhai").expect("slug")
    }

    fn authority() -> Authority {
        let linkage = LinkageId::parse("wuling").expect("slug");
        let owner = Owner::Region(region());
        Authority::create(&linkage, &owner, Validity::days(NOW, 365)).expect("an authority")
    }

    #[test]
    fn a_list_reads_back_as_written() {
        let authority = authority();
        let text = authority.revocation_list(&[vec![7, 0], vec![0, 9]], DAY).expect("a list");
        let list = RevocationList::read(authority.certificate_der(), text.as_bytes());
        let list = list.expect("read");
        assert!(list.revokes(&[7, 0]) && list.revokes(&[9]) && !list.revokes(&[7]));
        assert_eq!(list.expires_at, DAY.not_after);
        let later = Validity::days(NOW.plus_millis(1), 1);
        let later = authority.revocation_list(&[], later).expect("a list");
        let later = RevocationList::read(authority.certificate_der(), later.as_bytes());
        assert!(later.expect("read").number > list.number);
    }

    #[test]
    fn a_device_is_known_by_its_number_without_its_certificate() {
        let (authority, linkage) = (authority(), LinkageId::parse("wuling").expect("slug"));
        for _ in 0..50 {
            let (_, request) = new_request().expect("a request");
            let identity = Identity::Device(region(), DeviceId::mint(NOW, &SystemEntropy));
            let validity = Validity::days(NOW, 30);
            let issued = authority.issue_from_request(&linkage, &identity, &request, validity);
            let key = public_key_of_request(&request).expect("a key");
            let known = Authority::serial_of_issued(&identity, &key, validity.not_before);
            assert_eq!(serial_of(&issued.expect("issued")[0]).expect("a number"), known);
        }
    }

    #[test]
    fn a_list_of_another_authority_or_a_changed_one_is_refused() {
        let (own, other) = (authority(), authority());
        let text = other.revocation_list(&[vec![1]], DAY).expect("a list");
        let read = RevocationList::read(own.certificate_der(), text.as_bytes());
        assert_eq!(read, Err(ListError::Signature));
        let der = CertificateRevocationListDer::from_pem_slice(text.as_bytes()).expect("PEM");
        let good = RevocationList::read(other.certificate_der(), &der).expect("as it is");
        for at in 0..der.len() {
            let mut changed = der.to_vec();
            changed[at] ^= 1;
            // The wrapping around what is signed may be read leniently.
            let read = RevocationList::read(other.certificate_der(), &changed);
            assert!(read.is_err() || read == Ok(good.clone()), "byte {at}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let authority = authority();
        let text = authority.revocation_list(&[], DAY).expect("a list");
        let cut = &text.as_bytes()[..text.len() / 2];
        let pem = authority.certificate_pem();
        for bytes in
            [&b""[..], b"\x30", &[0xff; 64], cut, pem.as_bytes(), b"-----BEGIN X509 CRL-----"]
        {
            let read = RevocationList::read(authority.certificate_der(), bytes);
            assert_eq!(read, Err(ListError::Malformed));
        }
    }
}
