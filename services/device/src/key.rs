//! The key that a phone signs with. On a phone it stays in the hardware keystore and the app
//! implements [`Sign`]; the command-line phone has a [`KeyFile`].

use crate::store::{PRIVATE, sync_folder};
use seal::batch::DeviceKey;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Signs batches with the key that the phone was enrolled with.
pub trait Sign: Send + Sync {
    /// ECDSA P-256 with SHA-256 over the tag `wuling:batch:v1`, a zero byte and `batch`, in ASN.1 DER.
    ///
    /// # Errors
    /// When the keystore does not sign now, such as before the phone is unlocked.
    fn sign(&self, batch: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// The keystore did not sign.
#[derive(Debug, thiserror::Error)]
#[error("the keystore did not sign")]
pub struct SignError(#[source] pub Box<dyn Error + Send + Sync>);

/// A P-256 key in a file that only its owner may read.
#[derive(Debug)]
pub struct KeyFile {
    key: DeviceKey,
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Others may read or write it, so it is no secret any more.
    #[error("the key file is open to others: mode {0:o}, expected 600")]
    Exposed(u32),
    /// It holds no P-256 key in PKCS #8.
    #[error("the key file holds no P-256 key in PKCS #8")]
    NotAKey,
    /// The disk refused.
    #[error("the key file could not be read or written")]
    Io(#[from] io::Error),
    /// The certificate request could not be made.
    #[error("the certificate request could not be made")]
    Request(#[from] rcgen::Error),
}

/// A key in PKCS #8 has about 140 bytes.
const KEY_BYTES_MAX: u64 = 4_096;

impl KeyFile {
    /// Reads the key at `path`; makes and flushes one where there is none.
    ///
    /// # Errors
    /// When the file is open to others, holds no key, or the disk refuses.
    pub fn open_or_create(path: &Path) -> Result<Self, KeyFileError> {
        match File::open(path) {
            Ok(file) => Self::read(&file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path),
            Err(error) => Err(error.into()),
        }
    }

    fn read(file: &File) -> Result<Self, KeyFileError> {
        let mode = file.metadata()?.permissions().mode() & 0o777;
        if mode & !PRIVATE != 0 {
            return Err(KeyFileError::Exposed(mode));
        }
        let mut pkcs8 = Vec::new();
        file.take(KEY_BYTES_MAX).read_to_end(&mut pkcs8)?;
        let key = DeviceKey::from_pkcs8(&pkcs8).map_err(|_| KeyFileError::NotAKey)?;
        Ok(Self { key })
    }

    /// Writes beside and renames, so that a phone killed here has a whole key or none.
    fn create(path: &Path) -> Result<Self, KeyFileError> {
        let key = DeviceKey::generate();
        let beside = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(PRIVATE)
            .open(&beside)?;
        file.write_all(&key.pkcs8())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        sync_folder(path)?;
        Ok(Self { key })
    }

    /// The key in PKCS #8, for the TLS client.
    pub fn pkcs8(&self) -> Vec<u8> {
        self.key.pkcs8()
    }

    /// The public key, an uncompressed point.
    pub fn public(&self) -> Vec<u8> {
        self.key.public()
    }

    /// A PKCS #10 request for this key in DER, without a subject.
    ///
    /// # Errors
    /// When the library refuses the key.
    pub fn certificate_request(&self) -> Result<Vec<u8>, KeyFileError> {
        let pair = rcgen::KeyPair::try_from(self.key.pkcs8())?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        Ok(params.serialize_request(&pair)?.der().to_vec())
    }
}

impl Sign for KeyFile {
    fn sign(&self, batch: &[u8]) -> Result<Vec<u8>, SignError> {
        Ok(self.key.sign(batch))
    }
}
