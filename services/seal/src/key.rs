//! Keys of regions, gateways and authorities: Ed25519 to sign, X25519 to be sealed to.

use aws_lc_rs::agreement;
use aws_lc_rs::digest::{Context, Digest, SHA256, SHA256_OUTPUT_LEN, digest};
use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use domain::kernel::{Entropy, Reason};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};
use std::fmt;

/// The signature is not one of these bytes by this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit")]
pub struct SignatureInvalid;

impl SignatureInvalid {
    /// The code that goes on the wire.
    pub const fn reason(&self) -> Reason {
        Reason::SignatureInvalid
    }
}

/// An Ed25519 key that signs objects; never used for TLS.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl SigningKey {
    /// A new key.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut seed = [0; 32];
        entropy.fill(&mut seed);
        Self::from_seed(&seed)
    }

    /// The key of a seed (RFC 8032).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed");
        let public = fixed(pair.public_key().as_ref());
        Self { pair, public }
    }

    /// The seed, to be stored.
    pub fn seed(&self) -> [u8; 32] {
        let seed = self.pair.seed().expect("an Ed25519 key has its seed");
        let bytes = seed.as_be_bytes().expect("a seed is 32 bytes");
        fixed(bytes.as_ref())
    }

    /// The public key.
    pub const fn public(&self) -> [u8; 32] {
        self.public
    }

    /// Signs these bytes; they begin with a tag.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        fixed(self.pair.sign(message).as_ref())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey([redacted])")
    }
}

/// Checks an Ed25519 signature.
///
/// # Errors
/// When it is not by this key over these bytes.
pub fn verify(public: &[u8; 32], message: &[u8], signature: &[u8]) -> Result<(), SignatureInvalid> {
    UnparsedPublicKey::new(&ED25519, public)
        .verify(message, signature)
        .map_err(|_| SignatureInvalid)
}

/// Names a signing key in segments and signatures: first 8 bytes of its fingerprint.
pub fn key_id(public: &[u8; 32]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = key_fingerprint(public);
    [a, b, c, d, e, f, g, h]
}

/// The fingerprint by which agreements pin a signing key.
pub fn key_fingerprint(public: &[u8; 32]) -> [u8; 32] {
    sha256(public)
}

/// An X25519 key to which segments are sealed.
pub struct SealingKey {
    private: HpkePrivateKey,
    public: [u8; 32],
}

impl SealingKey {
    /// A new key, drawn by HPKE itself.
    pub fn generate() -> Self {
        let (public, private) = SUITE.generate_key_pair().expect("the system gives random bytes");
        Self { private, public: fixed(&public.0) }
    }

    /// The key of these private bytes.
    pub fn from_bytes(private: &[u8; 32]) -> Self {
        let public = agreement::PrivateKey::from_private_key(&agreement::X25519, private)
            .expect("any 32 bytes are an X25519 key")
            .compute_public_key()
            .expect("every X25519 key has a public half");
        Self { private: private.to_vec().into(), public: fixed(public.as_ref()) }
    }

    /// The private bytes, to be stored.
    pub fn private(&self) -> [u8; 32] {
        fixed(self.private.secret_bytes())
    }

    /// The public key.
    pub const fn public(&self) -> [u8; 32] {
        self.public
    }

    /// Opens what [`wrap`] made for this key; `None` when it was made for another key, another
    /// `info` or another `aad`.
    pub(crate) fn unwrap(&self, info: &[u8], aad: &[u8], wrapped: &Wrapped) -> Option<Vec<u8>> {
        let enc = EncapsulatedSecret(wrapped.enc.to_vec());
        SUITE.open(&enc, info, aad, &wrapped.ciphertext, &self.private).ok()
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey([redacted])")
    }
}

/// What HPKE makes of a plaintext.
pub(crate) struct Wrapped {
    pub(crate) enc: [u8; 32],
    pub(crate) ciphertext: bytes::Bytes,
}

/// Seals to a public key; `None` when the key is of low order and so would keep no secret.
pub(crate) fn wrap(
    public: &[u8; 32],
    info: &[u8],
    aad: &[u8],
    plaintext: &[u8],
) -> Option<Wrapped> {
    let (enc, ciphertext) =
        SUITE.seal(info, aad, plaintext, &HpkePublicKey(public.to_vec())).ok()?;
    Some(Wrapped { enc: enc.0.try_into().ok()?, ciphertext: ciphertext.into() })
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    fixed(digest(&SHA256, bytes).as_ref())
}

/// SHA-256 of the parts one after the other.
pub(crate) fn sha256_parts(parts: &[&[u8]]) -> [u8; 32] {
    fixed(digest_parts(parts).as_ref())
}

pub(crate) fn digest_parts(parts: &[&[u8]]) -> Digest {
    const { assert!(SHA256_OUTPUT_LEN == 32) };
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    context.finish()
}

fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the algorithm has one output length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let bytes: Vec<u8> = (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect();
        bytes.try_into().unwrap()
    }

    /// RFC 9180, A.1.1.1, sequence number 0.
    #[test]
    fn the_hpke_suite_is_the_one_of_rfc_9180_a_1() {
        let key = SealingKey::from_bytes(&hex(
            "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8",
        ));
        let public: [u8; 32] =
            hex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d");
        assert_eq!(key.public(), public);
        let info: [u8; 20] = hex("4f6465206f6e2061204772656369616e2055726e");
        let aad: [u8; 7] = hex("436f756e742d30");
        let ciphertext: [u8; 45] = hex(concat!(
            "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a9",
            "6d8770ac83d07bea87e13c512a",
        ));
        let wrapped = Wrapped {
            enc: hex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"),
            ciphertext: ciphertext.to_vec().into(),
        };
        let plaintext = key.unwrap(&info, &aad, &wrapped).unwrap();
        assert_eq!(plaintext, b"Beauty is truth, truth beauty");
        assert_eq!(key.unwrap(&info, b"Count-1", &wrapped), None);
        assert_eq!(key.unwrap(b"", &aad, &wrapped), None);
    }

    /// RFC 8032, 7.1, test 2.
    #[test]
    fn signatures_are_those_of_rfc_8032() {
        let key = SigningKey::from_seed(&hex(
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        ));
        let signature: [u8; 64] = hex(concat!(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da",
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ));
        assert_eq!(key.sign(&[0x72]), signature);
        assert_eq!(verify(&key.public(), &[0x72], &signature), Ok(()));
        assert_eq!(verify(&key.public(), &[0x73], &signature), Err(SignatureInvalid));
        assert_eq!(verify(&key.public(), &[0x72], &signature[..63]), Err(SignatureInvalid));
    }

    #[test]
    fn keys_survive_storage_and_are_not_printed() {
        let signing = SigningKey::from_seed(&[7; 32]);
        assert_eq!(signing.seed(), [7; 32]);
        assert_eq!(format!("{signing:?}"), "SigningKey([redacted])");
        let sealing = SealingKey::generate();
        let again = SealingKey::from_bytes(&sealing.private());
        assert_eq!(again.public(), sealing.public());
        assert_eq!(format!("{sealing:?}"), "SealingKey([redacted])");
    }

    #[test]
    fn nothing_is_sealed_to_a_key_of_low_order() {
        assert!(wrap(&[0; 32], b"", b"", b"secret").is_none());
    }
}
