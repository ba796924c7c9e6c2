//! How far a region had received another's streams before a moment, signed for afterwards, and the cut that the
//! authority makes of such receipts.

use crate::linkage::fixed;
use anyhow::{Context as _, Result, bail, ensure};
use domain::freshness::Cut;
use domain::kernel::{Clock as _, Epoch, RegionId, Timestamp};
use domain::stream::Position;
use prost::Message as _;
use proto::kernel::v1::SignedObject;
use runtime::clock::{SystemClock, SystemEntropy};
use runtime::data_dir::{SHARED, write_atomic};
use seal::key::SigningKey;
use seal::signed::{self, Receipt};
use seal::trust::Trust;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use storage::region::Store;

/// Writes receipts for what a region had received of another before a time; its server may be running. Tells how many
/// streams they are for.
///
/// # Errors
/// When the data folder does not hold the region, or nothing of the other had come before that time.
pub async fn sign(
    data: &Path,
    region: &RegionId,
    of: &RegionId,
    before: Timestamp,
    out: &Path,
) -> Result<usize> {
    let path = region::folder::store_path(data, region);
    ensure!(path.exists(), "{} is missing", path.display());
    let key = region::folder::region_dir(data, region).join("signing.key");
    let key = SigningKey::from_seed(&fixed(&key)?);
    let now = SystemClock.now();
    // Of a store that is there already, it is not used.
    let (store, _writer) = Store::open(&path, region, Epoch::mint(now, &SystemEntropy)).await?;
    let rows = store.list_inboxes_before(before).await?.into_iter();
    let receipts: Vec<_> = rows
        .filter(|row| row.stream.origin == *of)
        .map(|row| {
            let receipt = Receipt {
                stream: row.stream,
                position: row.position,
                party: region.clone(),
                created_at: now,
                parked: Vec::new(),
                parked_count: row.parked_count,
            };
            receipt.sign(&key).encode_length_delimited_to_vec()
        })
        .collect();
    ensure!(!receipts.is_empty(), "{region} had received nothing of {of} before that time");
    write_atomic(out, &receipts.concat(), SHARED)
        .with_context(|| format!("cannot write {}", out.display()))?;
    Ok(receipts.len())
}

/// How far a region's streams are believed by what others have signed for. Of several receipts for a stream the one
/// counts that goes furthest.
///
/// # Errors
/// When a file holds something else, a receipt is not signed by a believed region other than that one, or two of them
/// name different hashes for one place: then a person must find out who is right.
pub fn cut(trust: &Trust, region: &RegionId, files: &[PathBuf]) -> Result<Cut> {
    let mut places = BTreeMap::new();
    for path in files {
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let of_file = || format!("{} is not taken", path.display());
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let object = SignedObject::decode_length_delimited(&mut rest).with_context(of_file)?;
            let receipt = receipt(trust, region, &object).with_context(of_file)?;
            let Position { seq, h } = receipt.position;
            let known = places.insert((receipt.stream.clone(), seq), h);
            if known.is_some_and(|known| known != h) {
                let lane = receipt.stream.lane.name();
                bail!(
                    "two histories were signed for up to #{seq} of {region}'s {lane}: find out whose is right"
                );
            }
        }
    }
    // By stream and seq: the last of a stream stays.
    let of_stream = |((stream, seq), h)| (stream, Position { seq, h });
    Ok(places.into_iter().filter(|((_, seq), _)| *seq > 0).map(of_stream).collect())
}

fn receipt(trust: &Trust, region: &RegionId, object: &SignedObject) -> Result<Receipt> {
    let signer = signed::signer(object)?;
    ensure!(signer != *region, "a region that is revoked does not sign for itself");
    let key = trust.key_of(&signer, signed::key_id_of(object), SystemClock.now());
    let Some(key) = key else { bail!("{signer} is not in the directory, or is revoked") };
    let receipt = Receipt::verify(object, &key)?;
    let origin = &receipt.stream.origin;
    ensure!(origin == region, "{signer} has signed for a stream of {origin}");
    Ok(receipt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority;
    use crate::linkage::{RegionSpec, init_region};
    use domain::directory::RegionLevel;
    use domain::kernel::{AgreementId, Lane};
    use domain::stream::StreamId;

    fn id(text: &str) -> RegionId {
        text.parse().unwrap()
    }

    /// A linkage of three regions, whose keys lie beside one another.
    async fn linkage(dir: &Path) -> authority::Authority {
        let (now, linkage) = (SystemClock.now(), "wuling-test".parse().unwrap());
        let signer =
            authority::init(&dir.join("authority"), &linkage, now, &SystemEntropy).unwrap();
        let mut regions = Vec::new();
        for name in ["daluba", "huolu", "xianfeng"] {
            let spec = RegionSpec {
                region_id: id(name),
                level: RegionLevel::County,
                codes: Vec::new(),
                name_zh: name.to_owned(),
                name_en: name.to_owned(),
                superior: None,
                endpoint: String::new(),
                outline: Default::default(),
            };
            regions.push(
                init_region(&dir.join("data"), &linkage, spec, now, &SystemEntropy).await.unwrap(),
            );
        }
        signer.publish(regions, Vec::new(), now).unwrap()
    }

    fn key_of(dir: &Path, name: &str) -> SigningKey {
        let key = region::folder::region_dir(&dir.join("data"), &id(name)).join("signing.key");
        SigningKey::from_seed(&fixed(&key).unwrap())
    }

    fn stream(origin: &str, lane: Lane) -> StreamId {
        let now = Timestamp::from_micros(1_782_864_000_000_000);
        StreamId {
            origin: id(origin),
            epoch: Epoch::mint(now, &SystemEntropy),
            agreement: AgreementId::mint(now, &SystemEntropy),
            version: 1,
            lane,
        }
    }

    /// A file of receipts, each for a place and by whom.
    fn file(dir: &Path, receipts: &[(&StreamId, u64, u8, &str)]) -> Vec<PathBuf> {
        let of = |(stream, seq, h, party): &(&StreamId, u64, u8, &str)| {
            let receipt = Receipt {
                stream: (*stream).clone(),
                position: Position { seq: *seq, h: [*h; 32] },
                party: id(party),
                created_at: SystemClock.now(),
                parked: Vec::new(),
                parked_count: 0,
            };
            receipt.sign(&key_of(dir, party)).encode_length_delimited_to_vec()
        };
        let path = dir.join("receipts");
        std::fs::write(&path, receipts.iter().flat_map(of).collect::<Vec<u8>>()).unwrap();
        vec![path]
    }

    #[tokio::test]
    async fn of_several_receipts_the_one_counts_that_goes_furthest() {
        let dir = tempfile::tempdir().unwrap();
        let signer = linkage(dir.path()).await;
        let (routine, alert) = (stream("xianfeng", Lane::Routine), stream("xianfeng", Lane::Alert));
        let files = file(
            dir.path(),
            &[
                (&routine, 9, 9, "daluba"),
                (&routine, 4, 4, "huolu"),
                (&alert, 2, 2, "huolu"),
                (&alert, 2, 2, "daluba"),
            ],
        );
        let cut = cut(signer.trust(), &id("xianfeng"), &files).unwrap();
        let at = |seq: u64| Position { seq, h: [seq as u8; 32] };
        assert_eq!(cut, Cut::from([(routine, at(9)), (alert, at(2))]));
        // It is what the linkage believes from then on; and lifted again it is not.
        let now = SystemClock.now();
        let said = signer.cut(&id("xianfeng"), Some(cut.clone()), now).unwrap();
        let of = |signer: &authority::Authority| {
            let freshness = signer.trust().freshness.clone().unwrap();
            freshness.cut_of(&id("xianfeng"), None).cloned()
        };
        assert_eq!(of(&said), Some(cut));
        let lifted = said.cut(&id("xianfeng"), None, now).unwrap();
        assert_eq!(of(&lifted), None);
        assert!(lifted.trust().find_region(&id("xianfeng")).is_none(), "it stays revoked");
    }

    #[tokio::test]
    async fn receipts_that_prove_nothing_or_contradict_each_other_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let signer = linkage(dir.path()).await;
        let (thiefs, others) = (stream("xianfeng", Lane::Routine), stream("huolu", Lane::Routine));
        let refused = |files: &[PathBuf]| {
            format!("{:#}", cut(signer.trust(), &id("xianfeng"), files).unwrap_err())
        };
        let by_itself = file(dir.path(), &[(&thiefs, 9, 9, "xianfeng")]);
        assert!(refused(&by_itself).contains("does not sign for itself"));
        let of_another = file(dir.path(), &[(&others, 9, 9, "daluba")]);
        assert!(refused(&of_another).contains("a stream of huolu"));
        let forked =
            [(&thiefs, 9, 9, "daluba"), (&thiefs, 9, 8, "huolu"), (&thiefs, 10, 1, "huolu")];
        assert!(refused(&file(dir.path(), &forked)).contains("two histories"));
        let sound = file(dir.path(), &[(&thiefs, 9, 9, "daluba")]);
        let bytes = std::fs::read(&sound[0]).unwrap();
        for broken in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[broken] ^= 1;
            std::fs::write(&sound[0], &bytes).unwrap();
            assert!(!refused(&sound).is_empty(), "byte {broken}");
        }
        std::fs::write(&sound[0], &bytes).unwrap();
        assert!(cut(signer.trust(), &id("xianfeng"), &sound).is_ok());
    }
}
