//! What counties sign of the directory: believed of whom the authority lets, as far as it lets them, and never led
//! back. Method: one linkage of three counties; parts are signed honestly, one thing about each is wrong, and the
//! same part without that is taken.

use crate::fixture::{NOW, region};
use domain::directory::{DelegatedDirectory, Directory, Region, RegionLevel};
use domain::freshness::{DelegatedHead, Freshness, Member, Revocation};
use domain::kernel::{LinkageId, Reason, RegionId, Timestamp};
use domain::outline::Outline;
use prost::Message as _;
use proto::convert::{directory, freshness, kernel::encode_time};
use proto::directory::v1::{DirectoryKey, TrustSet};
use proto::kernel::v1::SignedObject;
use seal::key::{key_fingerprint, sha256};
use seal::trust::{AUTHORITY, SET_BYTES_MAX, Trust, TrustError};
use seal::{signed, tag};
use std::collections::BTreeMap;

/// May list two townships.
const COUNTY: &str = "qianjiang";
/// May list two as well.
const OTHER: &str = "xianfeng";
/// May list none.
const THIRD: &str = "laifeng";

/// What the authority says in a test.
#[derive(Clone)]
pub(crate) struct Word {
    version: u64,
    minutes: i64,
    pub(crate) listed: Vec<Region>,
    delegations: BTreeMap<RegionId, u32>,
    named: BTreeMap<RegionId, DelegatedHead>,
    revoked: Vec<&'static str>,
}

fn id(slug: &str) -> RegionId {
    region(slug).id
}

pub(crate) fn listed(slug: &str, superior: Option<&str>) -> Region {
    let keys = region(slug);
    Region {
        region_id: keys.id,
        level: if superior.is_some() { RegionLevel::Township } else { RegionLevel::County },
        codes: Vec::new(),
        name_zh: slug.to_owned(),
        name_en: slug.to_owned(),
        superior: superior.map(id),
        signing_key: keys.signing.public(),
        sealing_key: keys.sealing.public(),
        authority_certificate: vec![1],
        endpoint: String::new(),
        outline: Outline::default(),
        former_keys: Vec::new(),
    }
}

pub(crate) fn root() -> [u8; 32] {
    region("root").signing.public()
}

pub(crate) fn linkage() -> LinkageId {
    LinkageId::parse("wuling").unwrap()
}

impl Word {
    pub(crate) fn new() -> Self {
        Self {
            version: 1,
            minutes: 0,
            listed: [COUNTY, OTHER, THIRD].map(|slug| listed(slug, None)).into(),
            delegations: [COUNTY, OTHER].map(|slug| (id(slug), 2)).into(),
            named: BTreeMap::new(),
            revoked: Vec::new(),
        }
    }

    /// The next word: a change of the directory where that is so.
    fn next(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = self.clone();
        (next.version, next.minutes) = (self.version + 1, self.minutes + 5);
        change(&mut next);
        next
    }

    fn naming(&self, part: &SignedObject) -> Self {
        let (county, head) = head(part);
        self.next(|next| {
            next.named.insert(county, head);
        })
    }

    fn at(&self) -> Timestamp {
        NOW.plus_millis(self.minutes * 60_000)
    }

    pub(crate) fn set(&self, parts: &[&SignedObject]) -> TrustSet {
        let [root, key, fresh] =
            ["root", "directory", "freshness"].map(|name| region(name).signing);
        let vouched = DirectoryKey {
            linkage_id: linkage().to_string(),
            key: key.public().to_vec().into(),
            create_time: Some(encode_time(NOW.plus_days(-1))),
            expire_time: Some(encode_time(NOW.plus_days(89))),
        };
        let listed = self.listed.iter().map(|region| (region.region_id.clone(), region.clone()));
        let body = directory::encode(&Directory {
            linkage_id: linkage(),
            version: self.version,
            created_at: NOW,
            regions: listed.collect(),
            gateways: BTreeMap::new(),
            freshness_key: Some(fresh.public()),
            delegations: self.delegations.clone(),
        });
        let revoked = |slug: &&str| Revocation {
            member: Member::Region(id(slug)),
            key_sha256: key_fingerprint(&region(slug).signing.public()),
            revoked_at: NOW,
            cut: None,
        };
        let said = freshness::encode(&Freshness {
            linkage_id: linkage(),
            created_at: self.at(),
            directory_version: self.version,
            directory_sha256: sha256(&body),
            revocations: self.revoked.iter().map(revoked).collect(),
            agreements: BTreeMap::new(),
            delegated: self.named.clone(),
        });
        let vouched = vouched.encode_to_vec();
        TrustSet {
            directory_key: Some(signed::sign(tag::DIRECTORY_KEY, vouched, AUTHORITY, &root)),
            directory: Some(signed::sign(tag::DIRECTORY, body, AUTHORITY, &key)),
            freshness: Some(signed::sign(tag::FRESHNESS, said, AUTHORITY, &fresh)),
            delegated: parts.iter().copied().cloned().collect(),
        }
    }
}

fn head(part: &SignedObject) -> (RegionId, DelegatedHead) {
    let read = directory::decode_delegated(&part.body).unwrap();
    (read.superior, DelegatedHead { version: read.version, sha256: sha256(&part.body) })
}

/// A county's list of these townships.
fn part(county: &str, version: u64, townships: &[&str]) -> SignedObject {
    changed(county, version, townships, |_| {})
}

fn changed(
    county: &str,
    version: u64,
    townships: &[&str],
    change: impl FnOnce(&mut DelegatedDirectory),
) -> SignedObject {
    let regions = townships.iter().map(|slug| (id(slug), listed(slug, Some(county))));
    let mut part = DelegatedDirectory {
        linkage_id: linkage(),
        superior: id(county),
        version,
        created_at: NOW,
        regions: regions.collect(),
    };
    change(&mut part);
    let body = directory::encode_delegated(&part);
    signed::sign(tag::DELEGATED_DIRECTORY, body, county, &region(county).signing)
}

fn only(part: &SignedObject) -> TrustSet {
    TrustSet { delegated: vec![part.clone()], ..TrustSet::default() }
}

/// Reads a set from nothing; gives why parts of it are passed over.
fn read(word: &Word, parts: &[&SignedObject]) -> (Trust, Vec<Reason>) {
    let (trust, refused) = Trust::read(&root(), word.set(parts)).unwrap();
    (trust, refused.iter().map(TrustError::reason).collect())
}

/// Shows a set to who holds something; gives what it holds then, whether that was news, and what is refused.
fn show(held: &Trust, set: TrustSet) -> (Trust, bool, Vec<Reason>) {
    let (newer, refused) = held.offered(&root(), set, NOW.plus_days(1)).unwrap();
    let news = newer.is_some();
    let refused = refused.iter().map(TrustError::reason).collect();
    (newer.unwrap_or_else(|| held.clone()), news, refused)
}

fn believes(trust: &Trust, slug: &str) -> bool {
    trust.find_region(&id(slug)).is_some()
}

#[test]
fn a_township_is_believed_at_its_countys_word_alone() {
    let listed = part(COUNTY, 1, &["xiaonanhai", "zhoubai"]);
    let (trust, refused) = read(&Word::new(), &[&listed]);
    assert_eq!(refused, []);
    assert!(believes(&trust, "xiaonanhai") && believes(&trust, "zhoubai"));
    assert!(!trust.authority_directory().unwrap().regions.contains_key(&id("zhoubai")));
    // Without the part nobody believes it.
    let (without, _) = read(&Word::new(), &[]);
    assert!(!believes(&without, "xiaonanhai"));
    assert!(trust.differs(&without) && trust.mark().exceeds(&without.mark()));
    // Only the part travels to who holds the rest, and it suffices.
    let beyond = trust.signed_beyond(&without.mark());
    assert_eq!((beyond.directory.is_none(), beyond.delegated.len()), (true, 1));
    let (taken, news, refused) = show(&without, beyond);
    assert!(news && refused.is_empty() && believes(&taken, "xiaonanhai"));
    assert!(trust.signed_beyond(&taken.mark()).delegated.is_empty());
    // And so does the part alone.
    assert!(show(&without, only(&listed)).1);
    // As it is kept, so it is read again.
    let (again, refused) = Trust::read(&root(), taken.signed().clone()).unwrap();
    assert!(refused.is_empty() && !again.differs(&taken));
}

#[test]
fn what_a_county_may_not_say_is_refused_by_name() {
    let word = Word::new();
    let spoilt = |change: fn(&mut DelegatedDirectory)| changed(COUNTY, 1, &["xiaonanhai"], change);
    let mut forged = part(COUNTY, 1, &["xiaonanhai"]);
    let thief = signed::sign(
        tag::DELEGATED_DIRECTORY,
        forged.body.clone(),
        COUNTY,
        &region("thief").signing,
    );
    forged.signatures = thief.signatures;
    let mut two = part(COUNTY, 1, &["xiaonanhai"]);
    two.signatures.push(two.signatures[0].clone());
    let mut receipt = part(COUNTY, 1, &["xiaonanhai"]);
    let of_receipt =
        signed::sign(tag::RECEIPT, receipt.body.clone(), COUNTY, &region(COUNTY).signing);
    receipt.signatures = of_receipt.signatures;
    let large = spoilt(|part| {
        for region in part.regions.values_mut() {
            region.authority_certificate = vec![7; 4_096];
        }
        let many = (0..40).map(|n| {
            let slug = format!("township-{n}");
            let region = Region { region_id: id(&slug), ..part.regions[&id("xiaonanhai")].clone() };
            (region.region_id.clone(), region)
        });
        part.regions = many.collect();
    });
    for (name, refused, reason) in [
        ("too many", part(COUNTY, 1, &["a", "b", "c"]), Reason::LimitExceeded),
        ("too large", large, Reason::LimitExceeded),
        ("not delegated", part(THIRD, 1, &["xiaonanhai"]), Reason::NotDelegated),
        ("not listed", part("nowhere", 1, &["xiaonanhai"]), Reason::NotDelegated),
        ("another's key", forged, Reason::SignatureInvalid),
        ("two signatures", two, Reason::SignatureInvalid),
        ("another tag", receipt, Reason::SignatureInvalid),
        (
            "another linkage",
            spoilt(|part| part.linkage_id = LinkageId::parse("else").unwrap()),
            Reason::SignatureInvalid,
        ),
        (
            "another county's",
            spoilt(|part| {
                part.superior = id(OTHER);
                for region in part.regions.values_mut() {
                    region.superior = Some(id(OTHER));
                }
            }),
            Reason::SignatureInvalid,
        ),
        (
            "a county",
            spoilt(|part| {
                for region in part.regions.values_mut() {
                    region.level = RegionLevel::County;
                }
            }),
            Reason::EntryUnreadable,
        ),
    ] {
        let (trust, why) = read(&word, &[&refused]);
        assert_eq!(why, [reason], "{name}");
        assert!(!believes(&trust, "xiaonanhai") && believes(&trust, COUNTY), "{name}");
        // Nor beside what is good, which it does not harm.
        let good = part(OTHER, 1, &["huangjindong"]);
        let next = word.next(|_| {});
        let (taken, news, why) = show(&trust, next.set(&[&refused, &good]));
        assert!(news && why == [reason], "{name}");
        assert!(believes(&taken, "huangjindong") && taken.mark().directory_version == 2, "{name}");
    }
    let (trust, why) = read(&word, &[&part(COUNTY, 1, &["xiaonanhai"])]);
    assert!(why.is_empty() && believes(&trust, "xiaonanhai"), "the control");
}

#[test]
fn nobody_is_led_back_and_two_texts_are_a_fork() {
    let [first, second] = [1, 2].map(|version| part(COUNTY, version, &["xiaonanhai"]));
    let fork = part(COUNTY, 2, &["zhoubai"]);
    let (held, _) = read(&Word::new(), &[&second]);
    // An older one is no news, as with the directory.
    let (after, news, refused) = show(&held, only(&first));
    assert!(!news && refused.is_empty() && after.mark() == held.mark());
    // Another text of its version is a fork, and the held one stays.
    let (after, news, refused) = show(&held, only(&fork));
    assert_eq!((news, refused), (false, vec![Reason::TrustForked]));
    assert!(believes(&after, "xiaonanhai") && !believes(&after, "zhoubai"));
    // The two meet, since each exceeds the other.
    let (other, _) = read(&Word::new(), &[&fork]);
    assert!(held.mark().exceeds(&other.mark()) && other.mark().exceeds(&held.mark()));
    // Until the authority was shown one of them: that one counts, and the other no more.
    let (settled, news, refused) = show(&held, Word::new().naming(&fork).set(&[&fork]));
    assert!(news && refused.is_empty());
    assert!(believes(&settled, "zhoubai") && !believes(&settled, "xiaonanhai"));
    assert_eq!(show(&settled, only(&second)).2, [Reason::TrustForked]);
    // The control: the next version is taken at the county's word.
    let (next, news, _) = show(&held, only(&part(COUNTY, 3, &["zhoubai"])));
    assert!(news && believes(&next, "zhoubai") && !believes(&next, "xiaonanhai"));
}

#[test]
fn what_is_older_than_the_authority_knows_is_not_believed() {
    let [first, second, third] = [1, 2, 3].map(|version| part(COUNTY, version, &["xiaonanhai"]));
    let naming = Word::new().naming(&second);
    assert_eq!(read(&naming, &[&first]).1, [Reason::TrustStale]);
    // Who keeps the newer one back does not keep the older one alive.
    let (held, _) = read(&Word::new(), &[&first]);
    assert!(believes(&held, "xiaonanhai"), "the control: nobody has named another");
    let (frozen, news, refused) = show(&held, naming.set(&[]));
    assert!(news && refused.is_empty() && !believes(&frozen, "xiaonanhai"));
    assert_eq!(show(&frozen, only(&first)).2, [Reason::TrustStale]);
    // It goes on with the named one, or one that is newer still.
    for newer in [&second, &third] {
        let (taken, news, _) = show(&frozen, only(newer));
        assert!(news && believes(&taken, "xiaonanhai"));
    }
}

#[test]
fn what_the_authority_takes_back_falls_with_the_countys_part() {
    let (word, listed) = (Word::new(), part(COUNTY, 1, &["xiaonanhai", "zhoubai"]));
    let beside = part(OTHER, 1, &["huangjindong"]);
    let (held, _) = read(&word, &[&listed, &beside]);
    let falls = |next: &Word, reason: Reason| {
        // It is the authority's own word: nothing of it is refused, the part is gone.
        let (after, news, refused) = show(&held, next.set(&[]));
        assert!(news && refused.is_empty() && !believes(&after, "xiaonanhai"));
        assert!(believes(&after, "huangjindong"), "another county's stays");
        assert_eq!(show(&after, only(&listed)).2, [reason]);
        assert!(after.signed().delegated.iter().all(|part| part.body != listed.body));
    };
    falls(&word.next(|next| next.revoked = vec![COUNTY]), Reason::RegionRevoked);
    falls(
        &word.next(|next| {
            next.delegations.remove(&id(COUNTY));
        }),
        Reason::NotDelegated,
    );
    falls(
        &word.next(|next| {
            next.delegations.insert(id(COUNTY), 1);
        }),
        Reason::LimitExceeded,
    );
    // A township is revoked like any region, and its county's others stay.
    let (after, ..) = show(&held, word.next(|next| next.revoked = vec!["zhoubai"]).set(&[]));
    assert!(!believes(&after, "zhoubai") && believes(&after, "xiaonanhai"));
}

#[test]
fn of_two_counties_that_claim_a_township_the_first_counts_until_the_authority_settles_it() {
    let (mine, theirs) = (part(COUNTY, 1, &["xiaonanhai"]), part(OTHER, 1, &["xiaonanhai"]));
    let (held, refused) = read(&Word::new(), &[&mine, &theirs]);
    assert_eq!(refused, [Reason::TownshipTaken]);
    let superior = |trust: &Trust| trust.directory.regions[&id("xiaonanhai")].superior.clone();
    assert_eq!(superior(&held), Some(id(COUNTY)));
    assert_eq!(show(&held, only(&theirs)).2, [Reason::TownshipTaken]);
    // The newest version changes nothing in that.
    assert_eq!(show(&held, only(&part(OTHER, 9, &["xiaonanhai"]))).2, [Reason::TownshipTaken]);
    let (settled, _, refused) = show(&held, Word::new().naming(&theirs).set(&[&theirs]));
    assert!(refused.is_empty());
    assert_eq!(superior(&settled), Some(id(OTHER)));
    assert_eq!(show(&settled, only(&mine)).2, [Reason::TownshipTaken]);
    // What a set says first does not decide.
    assert_eq!(read(&Word::new().naming(&theirs), &[&mine, &theirs]).1, [Reason::TownshipTaken]);
    assert_eq!(superior(&read(&Word::new().naming(&theirs), &[&mine, &theirs]).0), Some(id(OTHER)));
}

#[test]
fn what_the_authority_lists_itself_is_nobody_elses() {
    let listed = part(COUNTY, 1, &[OTHER, "xiaonanhai"]);
    let (held, refused) = read(&Word::new(), &[&listed]);
    // One that the authority lists is passed over, and the others are believed.
    assert!(refused.is_empty() && believes(&held, "xiaonanhai"));
    assert_eq!(held.directory.regions[&id(OTHER)].superior, None);
    // It may list one at any time.
    let own = self::listed("xiaonanhai", None);
    let (after, ..) = show(&held, Word::new().next(|next| next.listed.push(own.clone())).set(&[]));
    assert_eq!(after.directory.regions[&id("xiaonanhai")], own);
    assert_eq!(after.delegated().len(), 1);
}

#[test]
fn what_does_not_fit_into_a_frame_is_passed_over() {
    let mut word = Word::new();
    let heavy = |n: usize| {
        let region = listed(&format!("county-{n}"), None);
        Region { authority_certificate: vec![1; 4_096], ..region }
    };
    word.listed.extend((0..232).map(heavy));
    let room = SET_BYTES_MAX - word.set(&[]).encoded_len();
    assert!((10_000..40_000).contains(&room), "{room} bytes are left");
    let small = part(COUNTY, 1, &["xiaonanhai"]);
    word.delegations.insert(id(COUNTY), 20);
    let (held, refused) = read(&word, &[&small]);
    assert!(refused.is_empty() && believes(&held, "xiaonanhai"));
    let large = changed(COUNTY, 2, &[], |part| {
        let many = (0..10).map(|n| {
            let region = listed(&format!("township-{n}"), Some(COUNTY));
            (region.region_id.clone(), Region { authority_certificate: vec![1; 4_096], ..region })
        });
        part.regions = many.collect();
    });
    let (after, news, refused) = show(&held, only(&large));
    assert_eq!((news, refused), (false, vec![Reason::LimitExceeded]));
    assert!(believes(&after, "xiaonanhai"), "what was held stays");
    assert!(after.signed().encoded_len() <= SET_BYTES_MAX);
}
