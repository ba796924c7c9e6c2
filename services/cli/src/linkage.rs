//! What a linkage is made of besides its authority: regions, gateways, agreements; each a few files.

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use domain::agreement::{Agreement, AgreementForm, Clause, Force, Party};
use domain::directory::{
    DelegatedDirectory, Directory, DivisionCode, Gateway, Region, RegionLevel,
};
use domain::kernel::{
    AgreementId, Entropy, Epoch, GatewayId, LinkageId, Purpose, RegionId, Role, Timestamp,
};
use domain::outline::Outline;
use exchange::epoch::Leaving;
use prost::Message as _;
use proto::convert;
use proto::directory::v1::TrustSet;
use proto::kernel::v1::SignedObject;
use runtime::data_dir::{DataDir, PRIVATE, SHARED, write_atomic};
use runtime::identity::Owner;
use runtime::pki::{Authority, Validity};
use runtime::trust_folder::{ROOT_FILE, SIGNED_FILE, TrustFolder};
use seal::key::{SealingKey, SigningKey, key_fingerprint, sha256};
use seal::{signed, tag, trust};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::region::{EnrolmentCode, Store};

/// Days an authority of a region or gateway is good for.
const AUTHORITY_DAYS: i64 = 10 * 365;
/// Minutes an enrolment code is good for.
const CODE_MINUTES: i64 = 15;

/// What a region is, before it has keys.
#[derive(Clone, Debug)]
pub struct RegionSpec {
    /// Its id.
    pub region_id: RegionId,
    /// Kind of area.
    pub level: RegionLevel,
    /// Division codes.
    pub codes: Vec<DivisionCode>,
    /// Name in Chinese.
    pub name_zh: String,
    /// Name in English.
    pub name_en: String,
    /// The region above it.
    pub superior: Option<RegionId>,
    /// host:port under which phones reach it; may be empty.
    pub endpoint: String,
    /// Its area, as far as it is drawn.
    pub outline: Outline,
}

/// The directory that a data folder or an authority's folder holds, verified.
///
/// # Errors
/// When a file is missing or not believed.
pub fn read_directory(dir: &Path, now: Timestamp) -> Result<Directory> {
    Ok(region::folder::read_directory(dir, now)?)
}

/// Copies what the authority published into a data folder.
///
/// # Errors
/// When the disk refuses.
pub fn install_trust(authority: &Path, data: &Path) -> Result<()> {
    let (from, to) = (authority.join("trust"), data.join("trust"));
    fs::create_dir_all(&to)?;
    for name in [ROOT_FILE, SIGNED_FILE] {
        let bytes = fs::read(from.join(name))
            .with_context(|| format!("cannot read {}", from.join(name).display()))?;
        write_atomic(&to.join(name), &bytes, SHARED)?;
    }
    Ok(())
}

/// Makes a region's keys and its empty store in a data folder; gives what the authority must publish.
///
/// # Errors
/// When the folder holds the region already or cannot be used.
pub async fn init_region(
    data: &Path,
    linkage: &LinkageId,
    spec: RegionSpec,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<Region> {
    let _held = DataDir::open(data, region::folder::FORMAT)?;
    let dir = region::folder::region_dir(data, &spec.region_id);
    ensure!(!dir.exists(), "{} holds region {} already", data.display(), spec.region_id);
    fs::create_dir_all(dir.join("agreements"))?;
    let (signing, sealing) = (SigningKey::generate(entropy), SealingKey::generate());
    write_atomic(&dir.join("signing.key"), &signing.seed(), PRIVATE)?;
    write_atomic(&dir.join("sealing.key"), &sealing.private(), PRIVATE)?;
    let authority = write_authority(&dir, linkage, &Owner::Region(spec.region_id.clone()), now)?;
    let epoch = Epoch::mint(now, entropy);
    drop(Store::open(&dir.join("store.sqlite"), &spec.region_id, epoch).await?);
    Ok(Region {
        region_id: spec.region_id,
        level: spec.level,
        codes: spec.codes,
        name_zh: spec.name_zh,
        name_en: spec.name_en,
        superior: spec.superior,
        signing_key: signing.public(),
        sealing_key: sealing.public(),
        authority_certificate: authority.certificate_der().to_vec(),
        endpoint: spec.endpoint,
        outline: spec.outline,
        former_keys: Vec::new(),
    })
}

/// What a data folder holds of the linkage.
///
/// # Errors
/// When it is not believed.
pub fn read_trust(data: &Path, now: Timestamp) -> Result<Arc<trust::Trust>> {
    Ok(Arc::clone(TrustFolder::open(data, now, trust::believe)?.held()))
}

/// Draws the keys that a region changes to by plan, where they are not drawn yet; gives its linkage and its card with
/// the change, which the authority or its county must publish.
///
/// # Errors
/// When the folder does not hold the listed keys, or the disk refuses.
pub fn rotate_region(
    data: &Path,
    region: &RegionId,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<(LinkageId, Region)> {
    let trust = read_trust(data, now)?;
    let linkage = &trust.directory.linkage_id;
    let listed = trust.directory.regions.get(region);
    let listed = listed.with_context(|| format!("{region} is not in the directory"))?;
    Ok((linkage.clone(), region::folder::keys::rotate(data, linkage, listed, now, entropy)?))
}

/// What shall be different in a county's list of its townships.
#[derive(Clone, Debug, Default)]
pub struct Townships {
    /// Put in or replaced.
    pub put: Vec<Region>,
    /// Left out.
    pub remove: Vec<RegionId>,
    /// Whether the list before does not count.
    pub anew: bool,
}

/// Signs the next list of a county's townships and puts it into its trust folder, where a server that runs takes it
/// up by itself; gives it, and what is believed with it.
///
/// # Errors
/// When the authority does not let the county list them, or the list before is not here.
pub fn list_townships(
    data: &Path,
    county: &RegionId,
    change: Townships,
    now: Timestamp,
) -> Result<(SignedObject, Arc<trust::Trust>)> {
    let mut folder = TrustFolder::open(data, now, trust::believe)?;
    let held = Arc::clone(folder.held());
    let Townships { put, remove, anew } = change;
    let before = held.delegated_directory(county);
    let named = held.freshness.as_ref().and_then(|freshness| freshness.delegated.get(county));
    let newest = before.as_ref().map(|part| part.version).max(named.map(|head| head.version));
    let whole = before.is_some() || named.is_none();
    ensure!(
        whole || anew,
        "the list of {county} before, which the authority has seen, is not believed here: take the authority's \
         trust, or say --anew and give the cards of all townships"
    );
    let mut regions = before.filter(|_| !anew).map(|part| part.regions).unwrap_or_default();
    for region in put {
        let id = region.region_id.clone();
        let listed = held.authority_directory()?.regions.contains_key(&id);
        ensure!(!listed, "the authority lists {id} itself");
        regions.insert(id, region);
    }
    for region in remove {
        ensure!(regions.remove(&region).is_some(), "{region} is not on the list of {county}");
    }
    let part = DelegatedDirectory {
        linkage_id: held.directory.linkage_id.clone(),
        superior: county.clone(),
        version: newest.unwrap_or(0).saturating_add(1),
        created_at: now,
        regions,
    };
    let body = convert::directory::encode_delegated(&part);
    convert::directory::decode_delegated(&body).context("this cannot be listed")?;
    let seed = fixed(&region::folder::region_dir(data, county).join("signing.key"))?;
    let key = SigningKey::from_seed(&seed);
    let object = signed::sign(tag::DELEGATED_DIRECTORY, body, county.as_str(), &key);
    let shown = TrustSet { delegated: vec![object.clone()], ..TrustSet::default() };
    let looked = folder.offer(&shown.encode_to_vec(), now);
    match looked.refused.into_iter().next() {
        Some(error) => Err(error).context("the list is not believed"),
        None => Ok((object, Arc::clone(folder.held()))),
    }
}

/// Has a region go on in a new epoch, because its store was restored from a copy; gives the one it was in and the new
/// one.
///
/// # Errors
/// When a server holds the folder, or the store cannot be used.
pub async fn restore_region(
    data: &Path,
    region: &RegionId,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<(Epoch, Epoch)> {
    let _held = DataDir::open(data, region::folder::FORMAT)?;
    let path = region::folder::store_path(data, region);
    ensure!(path.exists(), "{} is missing: put the copy there first", path.display());
    let recipients = region::folder::recipients(data, region, now)?;
    // Of a store that is there already, it is not used.
    let (store, writer) = Store::open(&path, region, Epoch::mint(now, entropy)).await?;
    let writing = std::thread::spawn(move || writer.run());
    let left = store.epoch();
    let leaving = Leaving { left, beside: Vec::new(), recipients };
    let opened = exchange::epoch::open_next(&store, region, leaving, now, entropy).await;
    // Only then: a copy that is not marked is found out when its server is started.
    let marked = match &opened {
        Ok(epoch) if *epoch > left => region::mark::set(data, region, &store).await,
        _ => Ok(()),
    };
    drop(store);
    writing.join().map_err(|_| anyhow!("the writer stopped"))??;
    let epoch = opened?;
    ensure!(epoch > left, "no epoch greater than {left} could be opened");
    marked?;
    Ok((left, epoch))
}

/// Makes a gateway's keys in a data folder; gives what the authority must publish.
///
/// # Errors
/// When the folder holds one already or cannot be used.
pub fn init_gateway(
    data: &Path,
    linkage: &LinkageId,
    gateway: &GatewayId,
    endpoint: &str,
    now: Timestamp,
) -> Result<Gateway> {
    let _held = DataDir::open(data, gateway::FORMAT)?;
    let dir = data.join("gateway");
    ensure!(!dir.exists(), "{} holds a gateway already", data.display());
    fs::create_dir_all(&dir)?;
    let authority = write_authority(&dir, linkage, &Owner::Gateway(gateway.clone()), now)?;
    Ok(Gateway {
        gateway_id: gateway.clone(),
        authority_certificate: authority.certificate_der().to_vec(),
        endpoint: endpoint.to_owned(),
    })
}

fn write_authority(
    dir: &Path,
    linkage: &LinkageId,
    owner: &Owner,
    now: Timestamp,
) -> Result<Authority> {
    let authority = Authority::create(linkage, owner, Validity::days(now, AUTHORITY_DAYS))?;
    write_atomic(&dir.join("authority.crt"), authority.certificate_pem().as_bytes(), SHARED)?;
    write_atomic(&dir.join("authority.key"), authority.key_pem().expose().as_bytes(), PRIVATE)?;
    Ok(authority)
}

/// What is to be agreed.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Kind of agreement.
    pub form: AgreementForm,
    /// Title.
    pub title: String,
    /// Its parties.
    pub parties: Vec<RegionId>,
    /// The view rule.
    pub clauses: Vec<Clause>,
    /// Purposes for which parties may read.
    pub purposes: Vec<Purpose>,
    /// In force for so many days.
    pub days: i64,
    /// Days that parties keep a view.
    pub retention_days: Option<u32>,
    /// The agreement and the version of it that these terms shall replace.
    pub supersedes: Option<Box<Agreement>>,
}

impl Terms {
    /// Terms for all purposes and a year.
    pub fn plain(
        form: AgreementForm,
        title: String,
        parties: Vec<RegionId>,
        clauses: Vec<Clause>,
    ) -> Self {
        Self {
            form,
            title,
            parties,
            clauses,
            purposes: Purpose::ALL.to_vec(),
            days: 365,
            retention_days: None,
            supersedes: None,
        }
    }
}

/// Writes an agreement version down, not yet signed.
///
/// # Errors
/// When a party is not in the directory or the terms are not well formed.
pub fn propose(
    directory: &Directory,
    terms: Terms,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<SignedObject> {
    let key = |region: &RegionId| directory.regions.get(region).map(|listed| listed.signing_key);
    let keys: BTreeMap<_, _> =
        terms.parties.iter().filter_map(|region| Some((region.clone(), key(region)?))).collect();
    propose_between(&keys, terms, now, entropy)
}

/// The same, where the signing keys of the parties are known from elsewhere.
///
/// # Errors
/// When the key of a party is missing or the terms are not well formed.
pub fn propose_between(
    keys: &BTreeMap<RegionId, [u8; 32]>,
    terms: Terms,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<SignedObject> {
    let mut parties = Vec::with_capacity(terms.parties.len());
    for region in &terms.parties {
        let Some(key) = keys.get(region) else { bail!("region {region} is not in the directory") };
        parties.push(Party { region: region.clone(), signing_key_sha256: key_fingerprint(key) });
    }
    parties.sort_by(|a, b| a.region.cmp(&b.region));
    let body = convert::agreement::encode(&written(terms, parties, now, entropy));
    convert::agreement::decode(&body, sha256(&body)).context("the terms are not well formed")?;
    Ok(SignedObject { body, signatures: Vec::new() })
}

/// The agreement version that says these terms between these parties from now on.
pub(crate) fn written(
    terms: Terms,
    parties: Vec<Party>,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Agreement {
    let Terms { form, title, parties: _, clauses, purposes, days, retention_days, supersedes } =
        terms;
    let (agreement_id, version) = supersedes.as_ref().map_or_else(
        || (AgreementId::mint(now, entropy), 1),
        |before| (before.agreement_id, before.version.saturating_add(1)),
    );
    let force = if form == AgreementForm::Annex { Force::Ready } else { Force::InForce };
    Agreement {
        agreement_id,
        version,
        form,
        title,
        parties,
        clauses,
        purposes,
        started_at: now,
        ended_at: now.plus_days(days),
        retention_days,
        force,
        supersedes: supersedes.map(|before| before.sha256),
        sha256: [0; 32],
    }
}

/// Writes the version down that takes an agreement's place, not yet signed.
///
/// # Errors
/// When what it comes to is not well formed.
pub fn next_version(
    before: &Agreement,
    now: Timestamp,
    change: impl FnOnce(&mut Agreement),
) -> Result<SignedObject> {
    let mut next = Agreement {
        version: before.version.saturating_add(1),
        supersedes: Some(before.sha256),
        started_at: now,
        ..before.clone()
    };
    change(&mut next);
    let body = convert::agreement::encode(&next);
    convert::agreement::decode(&body, sha256(&body)).context("that cannot be agreed")?;
    Ok(SignedObject { body, signatures: Vec::new() })
}

/// Adds a region's signature to an agreement.
///
/// # Errors
/// When the data folder does not hold the region's key.
pub fn sign_agreement(object: &mut SignedObject, data: &Path, region: &RegionId) -> Result<()> {
    let key = SigningKey::from_seed(&fixed(
        &region::folder::region_dir(data, region).join("signing.key"),
    )?);
    signed::add_signature(object, tag::AGREEMENT, region.as_str(), &key);
    Ok(())
}

/// Puts an agreement that all have signed into a region's folder; a server that runs takes it up by itself.
///
/// # Errors
/// When a signature is missing or the region is no party.
pub fn install_agreement(
    object: &SignedObject,
    data: &Path,
    region: &RegionId,
    now: Timestamp,
) -> Result<PathBuf> {
    let held = TrustFolder::open(data, now, trust::believe)?;
    Ok(region::folder::install(data, region, object, held.held(), now)?)
}

/// Proposes an agreement, has every party sign it, puts it into every party's folder: what takes a
/// linkage's people three commands each.
///
/// # Errors
/// As of [`propose`], [`sign_agreement`] and [`install_agreement`].
pub fn conclude(
    directory: &Directory,
    terms: Terms,
    data_of: impl Fn(&RegionId) -> PathBuf,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<()> {
    let parties = terms.parties.clone();
    let mut object = propose(directory, terms, now, entropy)?;
    for party in &parties {
        sign_agreement(&mut object, &data_of(party), party)?;
    }
    for party in &parties {
        install_agreement(&object, &data_of(party), party, now)?;
    }
    Ok(())
}

/// Issues an enrolment code; gives the text of its QR picture. The server may be running.
///
/// # Errors
/// When the data folder does not hold the region.
pub fn issue_code(
    data: &Path,
    region: &RegionId,
    role: Role,
    unit: &str,
    endpoint: &str,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<String> {
    let dir = region::folder::region_dir(data, region);
    let certificate = fs::read_to_string(dir.join("authority.crt"))
        .with_context(|| format!("{} does not hold region {region}", data.display()))?;
    let key = runtime::config::Secret::new(fs::read_to_string(dir.join("authority.key"))?);
    let authority = Authority::from_pem(&certificate, &key)?;
    let mut secret = [0; 16];
    entropy.fill(&mut secret);
    let code = hex(&secret);
    let row = EnrolmentCode {
        code_sha256: sha256(code.as_bytes()),
        role,
        unit: unit.to_owned(),
        expires_at: now.plus_millis(CODE_MINUTES * 60_000),
    };
    storage::region::issue_code(&dir.join("store.sqlite"), &row)?;
    let code = device::enrolment::EnrolmentCode {
        linkage_id: read_directory(data, now)?.linkage_id,
        region_id: region.clone(),
        endpoint: endpoint.to_owned(),
        authority_sha256: authority.fingerprint(),
        code,
    };
    Ok(code.to_string())
}

/// Bytes as hexadecimal text.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn fixed(path: &Path) -> Result<[u8; 32]> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    bytes.try_into().map_err(|_| anyhow::anyhow!("{} is damaged", path.display()))
}
