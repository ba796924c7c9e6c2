//! What a phone hands in, signed by its keystore: ECDSA P-256 with SHA-256 over the tag and the
//! encoded batch, in ASN.1 DER.

use crate::key::digest_parts;
use crate::tag;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use domain::kernel::Reason;
use std::fmt;

/// Largest encoded batch.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Length of an uncompressed point of P-256 (SEC 1, 2.3.3), and its first byte.
const POINT_LEN: usize = 65;
const UNCOMPRESSED: u8 = 4;

/// Why a batch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Over its limit.
    #[error("the batch is larger than {BATCH_BYTES_MAX} bytes")]
    TooLarge,
    /// The signature does not fit, or the key is no uncompressed point of P-256.
    #[error("the signature of the batch does not fit")]
    SignatureInvalid,
}

impl BatchError {
    /// The code that goes on the wire.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::TooLarge => Reason::LimitExceeded,
            Self::SignatureInvalid => Reason::SignatureInvalid,
        }
    }
}

/// Checks that the device with this key signed exactly this batch.
///
/// # Errors
/// When the batch is over its limit or the signature does not fit.
pub fn verify(
    public_sec1_uncompressed: &[u8],
    batch: &[u8],
    signature: &[u8],
) -> Result<(), BatchError> {
    if batch.len() > BATCH_BYTES_MAX {
        return Err(BatchError::TooLarge);
    }
    if public_sec1_uncompressed.len() != POINT_LEN
        || public_sec1_uncompressed.first() != Some(&UNCOMPRESSED)
    {
        return Err(BatchError::SignatureInvalid);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_sec1_uncompressed)
        .verify_digest(&digest_parts(&[tag::BATCH, batch]), signature)
        .map_err(|_| BatchError::SignatureInvalid)
}

/// The key of a phone without a keystore of its own: our command-line phone.
pub struct DeviceKey {
    pair: EcdsaKeyPair,
}

impl DeviceKey {
    /// A new key, drawn by the library itself.
    pub fn generate() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .expect("the system gives random bytes");
        Self { pair }
    }

    /// The key of a PKCS #8 document.
    ///
    /// # Errors
    /// When it is no P-256 key.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyInvalid> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)
            .map(|pair| Self { pair })
            .map_err(|_| KeyInvalid)
    }

    /// The key as a PKCS #8 document, to be stored and to ask for a certificate.
    pub fn pkcs8(&self) -> Vec<u8> {
        let document = self.pair.to_pkcs8v1().expect("a P-256 key has a PKCS #8 form");
        document.as_ref().to_vec()
    }

    /// The public key, an uncompressed point.
    pub fn public(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    /// Signs an encoded batch.
    pub fn sign(&self, batch: &[u8]) -> Vec<u8> {
        let signature = self
            .pair
            .sign_digest(&digest_parts(&[tag::BATCH, batch]))
            .expect("the system gives random bytes");
        signature.as_ref().to_vec()
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceKey([redacted])")
    }
}

/// The bytes are no P-256 key in PKCS #8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a P-256 key in PKCS #8")]
pub struct KeyInvalid;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_taken_only_as_its_device_signed_it() {
        let key = DeviceKey::generate();
        let signature = key.sign(b"batch");
        assert_eq!(verify(&key.public(), b"batch", &signature), Ok(()));
        let again = DeviceKey::from_pkcs8(&key.pkcs8()).unwrap();
        assert_eq!(verify(&key.public(), b"batch", &again.sign(b"batch")), Ok(()));
        let refused = Err(BatchError::SignatureInvalid);
        assert_eq!(verify(&key.public(), b"botch", &signature), refused);
        assert_eq!(verify(&DeviceKey::generate().public(), b"batch", &signature), refused);
        for bit in 0..signature.len() * 8 {
            let mut bent = signature.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verify(&key.public(), b"batch", &bent), refused, "bit {bit}");
        }
        for len in 0..signature.len() {
            assert_eq!(verify(&key.public(), b"batch", &signature[..len]), refused);
        }
    }

    #[test]
    fn a_signature_without_the_tag_is_refused() {
        let key = DeviceKey::generate();
        let bare = key.pair.sign_digest(&digest_parts(&[b"batch"])).unwrap();
        assert!(verify(&key.public(), b"batch", bare.as_ref()).is_err());
    }

    #[test]
    fn a_key_of_another_form_is_refused() {
        let key = DeviceKey::generate();
        let signature = key.sign(b"batch");
        let mut compressed = key.public()[..33].to_vec();
        compressed[0] = 2 + (key.public()[64] & 1);
        for public in [&compressed[..], &[], &[4; 65]] {
            assert!(verify(public, b"batch", &signature).is_err());
        }
        assert_eq!(DeviceKey::from_pkcs8(b"no key").unwrap_err(), KeyInvalid);
    }

    #[test]
    fn a_batch_over_its_limit_is_refused_unread() {
        let key = DeviceKey::generate();
        let batch = vec![0; BATCH_BYTES_MAX + 1];
        let signature = key.sign(&batch);
        assert_eq!(verify(&key.public(), &batch, &signature), Err(BatchError::TooLarge));
        assert_eq!(verify(&key.public(), &batch[1..], &key.sign(&batch[1..])), Ok(()));
    }

    #[test]
    fn the_key_is_not_printed() {
        assert_eq!(format!("{:?}", DeviceKey::generate()), "DeviceKey([redacted])");
    }
}
