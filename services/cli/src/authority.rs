//! The authority of a linkage: who is in it, who no longer, and what is newest.
//!
//! Its folder holds three keys. The root key vouches for the directory key and may lie in a safe; the directory
//! key signs who is in the linkage and is needed when that changes; the freshness key says every few minutes
//! what is newest and who was revoked, and lies on a machine that is always on. What they have signed is the
//! folder `trust`, of which every region and gateway gets a copy, by hand or over the gateway.

use crate::linkage::{fixed, hex};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use domain::directory::{Directory, Gateway, Region, RegionLevel};
use domain::freshness::{AgreementHead, Cut, Freshness, Member, Revocation};
use domain::kernel::{Entropy, LinkageId, RegionId, Timestamp};
use prost::Message as _;
use proto::convert;
use proto::directory::v1 as pb;
use proto::exchange::v1::RefreshRequest;
use proto::exchange::v1::exchange_service_client::ExchangeServiceClient;
use proto::kernel::v1::SignedObject;
use runtime::channel::{Limits, channel};
use runtime::data_dir::{PRIVATE, SHARED, write_atomic};
use runtime::identity::Identity;
use runtime::tls::{Anchor, ClientTls};
use runtime::trust_folder::{ROOT_FILE, SIGNED_FILE, TrustFolder};
use seal::key::{SigningKey, key_fingerprint, sha256};
use seal::trust::{SET_BYTES_MAX, Trust};
use seal::{signed, tag, trust};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Days the directory key is good for.
const DIRECTORY_KEY_DAYS: i64 = 90;
/// Longest wait for a gateway that is shown what is new.
const SHOW_TIMEOUT: Duration = Duration::from_secs(10);

const ROOT_KEY: &str = "root.key";
const DIRECTORY_KEY: &str = "directory.key";
const FRESHNESS_KEY: &str = "freshness.key";

/// An authority's folder, with what it has signed so far.
pub struct Authority {
    dir: PathBuf,
    trust: Arc<Trust>,
}

/// Makes an authority: its keys, and an empty directory.
///
/// # Errors
/// When there is one already or the disk refuses.
pub fn init(
    dir: &Path,
    linkage: &LinkageId,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<Authority> {
    ensure!(!dir.join(ROOT_KEY).exists(), "{} holds an authority already", dir.display());
    fs::create_dir_all(dir.join("trust"))?;
    let root = SigningKey::generate(entropy);
    write_atomic(&dir.join(ROOT_KEY), &root.seed(), PRIVATE)?;
    write_atomic(&dir.join("trust").join(ROOT_FILE), &root.public(), SHARED)?;
    let empty = Directory {
        linkage_id: linkage.clone(),
        version: 0,
        created_at: now,
        regions: Default::default(),
        gateways: Default::default(),
        freshness_key: None,
        delegations: Default::default(),
    };
    let freshness = Freshness {
        linkage_id: linkage.clone(),
        created_at: now,
        directory_version: 0,
        directory_sha256: [0; 32],
        revocations: Vec::new(),
        agreements: Default::default(),
        delegated: Default::default(),
    };
    let directory_key = Some(new_keys(dir, linkage, now, entropy)?);
    let set = pb::TrustSet { directory_key, ..pb::TrustSet::default() };
    sign(dir, set, empty, freshness, now)?;
    Authority::open(dir, now)
}

/// Draws a directory key and a freshness key; gives the root's word for the first.
fn new_keys(
    dir: &Path,
    linkage: &LinkageId,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<SignedObject> {
    let root = SigningKey::from_seed(&fixed(&dir.join(ROOT_KEY))?);
    let (key, freshness) = (SigningKey::generate(entropy), SigningKey::generate(entropy));
    write_atomic(&dir.join(DIRECTORY_KEY), &key.seed(), PRIVATE)?;
    write_atomic(&dir.join(FRESHNESS_KEY), &freshness.seed(), PRIVATE)?;
    let vouched = pb::DirectoryKey {
        linkage_id: linkage.to_string(),
        key: Bytes::copy_from_slice(&key.public()),
        create_time: Some(convert::kernel::encode_time(now)),
        expire_time: Some(convert::kernel::encode_time(now.plus_days(DIRECTORY_KEY_DAYS))),
    };
    let body = vouched.encode_to_vec();
    Ok(signed::sign(tag::DIRECTORY_KEY, body, trust::AUTHORITY, &root))
}

/// Signs the next directory, and the word that it is the newest.
fn sign(
    dir: &Path,
    set: pb::TrustSet,
    directory: Directory,
    freshness: Freshness,
    now: Timestamp,
) -> Result<()> {
    let key = SigningKey::from_seed(&fixed(&dir.join(DIRECTORY_KEY))?);
    let freshness_key = SigningKey::from_seed(&fixed(&dir.join(FRESHNESS_KEY))?).public();
    let version = directory.version + 1;
    let freshness_key = Some(freshness_key);
    let directory = Directory { version, created_at: now, freshness_key, ..directory };
    let body = convert::directory::encode(&directory);
    let freshness = Freshness {
        directory_version: directory.version,
        directory_sha256: sha256(&body),
        ..freshness
    };
    let directory = Some(signed::sign(tag::DIRECTORY, body, trust::AUTHORITY, &key));
    say(dir, pb::TrustSet { directory, ..set }, freshness, now)
}

/// Says what is newest.
fn say(dir: &Path, set: pb::TrustSet, freshness: Freshness, now: Timestamp) -> Result<()> {
    let key = SigningKey::from_seed(&fixed(&dir.join(FRESHNESS_KEY))?);
    // Each word is later than the one before, or nobody would take it.
    let created_at = now.max(Timestamp::from_micros(freshness.created_at.micros() + 1));
    let freshness = Freshness { created_at, ..freshness };
    let body = convert::freshness::encode(&freshness);
    convert::freshness::decode(&body).context("there is more to say than one word can hold")?;
    let freshness = Some(signed::sign(tag::FRESHNESS, body, trust::AUTHORITY, &key));
    let set = pb::TrustSet { freshness, ..set };
    let size = set.encoded_len();
    ensure!(size <= SET_BYTES_MAX, "{size} bytes are more than a link carries, {SET_BYTES_MAX}");
    // What would not be believed is not published: a linkage must not be shut out by its authority. Nor is a part
    // of a county that is revoked, or lists more than it may now.
    let (trust, _) =
        Trust::read(&root(dir)?, set).context("what is signed here would not be believed")?;
    let published = trust.signed().encode_to_vec();
    write_atomic(&dir.join("trust").join(SIGNED_FILE), &published, SHARED)?;
    Ok(())
}

fn root(dir: &Path) -> Result<[u8; 32]> {
    fixed(&dir.join("trust").join(ROOT_FILE))
}

impl Authority {
    /// Opens an authority's folder.
    ///
    /// # Errors
    /// When what lies there is not believed.
    pub fn open(dir: &Path, now: Timestamp) -> Result<Self> {
        let trust = Arc::clone(TrustFolder::open(dir, now, trust::believe)?.held());
        Ok(Self { dir: dir.to_owned(), trust })
    }

    /// What it has signed.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Publishes the directory with these regions and gateways put in or replaced.
    ///
    /// # Errors
    /// When the directory key is not here, or the disk refuses.
    pub fn publish(
        self,
        regions: Vec<Region>,
        gateways: Vec<Gateway>,
        now: Timestamp,
    ) -> Result<Self> {
        let mut directory = self.trust.authority_directory()?;
        let region = |region: Region| (region.region_id.clone(), region);
        let gateway = |gateway: Gateway| (gateway.gateway_id.clone(), gateway);
        directory.regions.extend(regions.into_iter().map(region));
        directory.gateways.extend(gateways.into_iter().map(gateway));
        self.sign(directory, now)
    }

    /// Lets a county list so many townships of its own; none takes the right away.
    ///
    /// # Errors
    /// When it is no county of the directory, the directory key is not here, or the disk refuses.
    pub fn delegate(self, county: &RegionId, regions_max: u32, now: Timestamp) -> Result<Self> {
        let mut directory = self.trust.authority_directory()?;
        let listed = directory.regions.get(county);
        let is_county = listed.is_some_and(|region| region.level == RegionLevel::County);
        ensure!(is_county, "{county} is no county of the directory");
        if regions_max == 0 {
            directory.delegations.remove(county);
        } else {
            directory.delegations.insert(county.clone(), regions_max);
        }
        self.sign(directory, now)
    }

    /// Takes note of a county's list of its townships: from now on no older one is believed, nor another text of
    /// its version.
    ///
    /// # Errors
    /// When it is not believed, a newer one is known, or the disk refuses.
    pub fn note_townships(self, object: SignedObject, now: Timestamp) -> Result<Self> {
        let body = object.body.clone();
        let shown = pb::TrustSet { delegated: vec![object], ..pb::TrustSet::default() };
        let (newer, refused) = self.trust.offered(&root(&self.dir)?, shown, now)?;
        if let Some(error) = refused.into_iter().next() {
            return Err(error.into());
        }
        let trust = newer.unwrap_or_else(|| self.trust.as_ref().clone());
        let known = trust.signed().delegated.iter().any(|part| part.body == body);
        ensure!(known, "a newer list of these townships is known already");
        let mut freshness = self.freshness()?;
        freshness.delegated.extend(trust.delegated());
        say(&self.dir, trust.signed().clone(), freshness, now)?;
        Self::open(&self.dir, now)
    }

    /// Draws a new directory key and a new freshness key, for which the root vouches.
    ///
    /// # Errors
    /// When the root key is not here, or the disk refuses.
    pub fn rotate(self, now: Timestamp, entropy: &dyn Entropy) -> Result<Self> {
        let directory = self.trust.authority_directory()?;
        let directory_key = Some(new_keys(&self.dir, &directory.linkage_id, now, entropy)?);
        let set = pb::TrustSet { directory_key, ..self.trust.signed().clone() };
        sign(&self.dir, set, directory, self.freshness()?, now)?;
        Self::open(&self.dir, now)
    }

    /// Says that a region or gateway is no longer believed, with the key that it has now. A cut that is in force
    /// stays.
    ///
    /// # Errors
    /// When it is not in the directory, the freshness key is not here, or the disk refuses.
    pub fn revoke(self, member: Member, now: Timestamp) -> Result<Self> {
        let (freshness, _) = self.revoked(member, now)?;
        self.say(freshness, now)
    }

    /// Revokes a region whose keys were in other hands: what its present one has signed beyond the cut is void. Of one
    /// that is revoked already the cut is another from now on, or none.
    ///
    /// # Errors
    /// As of [`Self::revoke`], and when the cut is too large.
    pub fn cut(self, region: &RegionId, cut: Option<Cut>, now: Timestamp) -> Result<Self> {
        let (mut freshness, index) = self.revoked(Member::Region(region.clone()), now)?;
        freshness.revocations[index].cut = cut;
        self.say(freshness, now)
    }

    /// Says that a key which a region had before its present one is no longer believed, wherever it signed.
    ///
    /// # Errors
    /// When it had no such key, the freshness key is not here, or the disk refuses.
    pub fn revoke_former(self, region: &RegionId, key: &str, now: Timestamp) -> Result<Self> {
        let listed = self.trust.directory.regions.get(region);
        let keys = listed.iter().flat_map(|listed| &listed.former_keys);
        let mut keys = keys.map(|former| key_fingerprint(&former.signing_key));
        let Some(key_sha256) = keys.find(|sha256| hex(sha256) == key) else {
            bail!("{region} had no such key before its present one")
        };
        let mut freshness = self.freshness()?;
        let member = Member::Region(region.clone());
        if !freshness.revokes(&member, &key_sha256) {
            let revocation = Revocation { member, key_sha256, revoked_at: now, cut: None };
            freshness.revocations.push(revocation);
        }
        self.say(freshness, now)
    }

    /// What is newest with the member revoked, and where it says so.
    fn revoked(&self, member: Member, now: Timestamp) -> Result<(Freshness, usize)> {
        let directory = &self.trust.directory;
        let key_sha256 = match &member {
            Member::Region(id) => {
                directory.regions.get(id).map(|region| key_fingerprint(&region.signing_key))
            }
            Member::Gateway(id) => {
                directory.gateways.get(id).map(|gateway| sha256(&gateway.authority_certificate))
            }
        };
        let Some(key_sha256) = key_sha256 else { bail!("{member:?} is not in the directory") };
        let mut freshness = self.freshness()?;
        let known = freshness.revocations.iter().position(|revocation| {
            revocation.member == member && revocation.key_sha256 == key_sha256
        });
        let index = known.unwrap_or(freshness.revocations.len());
        if known.is_none() {
            let revocation = Revocation { member, key_sha256, revoked_at: now, cut: None };
            freshness.revocations.push(revocation);
        }
        Ok((freshness, index))
    }

    /// Takes note of an agreement version that all its parties have signed: of two texts of one version, the one
    /// that was shown first counts.
    ///
    /// # Errors
    /// When a signature is missing, a newer version or another text of this one is known, or the disk refuses.
    pub fn register(self, object: &SignedObject, now: Timestamp) -> Result<Self> {
        let agreement = trust::agreement(object, None, &self.trust)?;
        let mut freshness = self.freshness()?;
        let shown = AgreementHead { version: agreement.version, sha256: agreement.sha256 };
        if let Some(known) = freshness.agreements.get(&agreement.agreement_id) {
            let title = &agreement.title;
            ensure!(
                known.version <= shown.version,
                "version {} of `{title}` is known already",
                known.version
            );
            let fork = known.version == shown.version && known.sha256 != shown.sha256;
            ensure!(!fork, "another text of version {} of `{title}` is known", known.version);
        }
        freshness.agreements.insert(agreement.agreement_id, shown);
        self.say(freshness, now)
    }

    /// Says again what is newest.
    ///
    /// # Errors
    /// When the freshness key is not here, or the disk refuses.
    pub fn freshen(self, now: Timestamp) -> Result<Self> {
        let freshness = self.freshness()?;
        self.say(freshness, now)
    }

    fn sign(self, directory: Directory, now: Timestamp) -> Result<Self> {
        sign(&self.dir, self.trust.signed().clone(), directory, self.freshness()?, now)?;
        Self::open(&self.dir, now)
    }

    fn say(self, freshness: Freshness, now: Timestamp) -> Result<Self> {
        say(&self.dir, self.trust.signed().clone(), freshness, now)?;
        Self::open(&self.dir, now)
    }

    fn freshness(&self) -> Result<Freshness> {
        self.trust.freshness.clone().context("this authority has never said what is newest")
    }
}

/// Those of these regions whose keys a card changes by plan.
///
/// # Errors
/// When a card has another signing key than is listed, and the changes on it do not begin with that, unless it was
/// revoked: then nobody can sign the change.
pub fn key_changes<'a>(trust: &Trust, cards: &'a [Region]) -> Result<Vec<&'a RegionId>> {
    let mut changed = Vec::new();
    for Region { region_id, signing_key, former_keys, .. } in cards {
        let listed = trust.directory.regions.get(region_id);
        let Some(listed) = listed.filter(|listed| listed.signing_key != *signing_key) else {
            continue;
        };
        let leads = former_keys.iter().any(|former| former.signing_key == listed.signing_key);
        ensure!(
            leads || trust.is_revoked(listed),
            "the card of {region_id} has other keys than are listed and no change that leads to them: have it made by \
             `region rotate`, or say --replace, and all that it has agreed must be signed again"
        );
        if leads {
            changed.push(region_id);
        }
    }
    Ok(changed)
}

/// Shows a gateway what is newest; from there it reaches every region.
///
/// # Errors
/// When it cannot be reached or does not believe it.
pub async fn show(linkage: &LinkageId, set: pb::TrustSet, gateway: &Gateway) -> Result<()> {
    let identity = Identity::Gateway(gateway.gateway_id.clone());
    let anchor = Anchor::Certificate(&gateway.authority_certificate);
    let tls = ClientTls::new(linkage, identity, anchor, None)?;
    let mut service = ExchangeServiceClient::new(channel(&gateway.endpoint, tls, Limits::PEER)?);
    let shown = service.refresh(RefreshRequest { trust: Some(set) });
    tokio::time::timeout(SHOW_TIMEOUT, shown).await.context("it does not answer")??;
    Ok(())
}
