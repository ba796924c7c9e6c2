//! The terms under which regions share. One version = one view rule, one set of parties.

use crate::code_table;
use crate::kernel::{AgreementId, EmergencyLevel, Purpose, RegionId, Timestamp};
use crate::outline::Outline;

code_table! {
    /// What kind of agreement it is.
    AgreementForm {
        /// 属地协议: a region and its superior.
        Charter = 1 "CHARTER",
        /// Between any regions.
        Agreement = 2 "AGREEMENT",
        /// For an emergency: signed by all beforehand, activated by one.
        Annex = 3 "ANNEX",
    }
}

code_table! {
    /// Whether a version lets anything new leave. What it has shown is called off and closed all the same.
    Force {
        /// Between its start and its end.
        InForce = 1 "IN_FORCE",
        /// Not now.
        Suspended = 2 "SUSPENDED",
        /// Not any more.
        Closed = 3 "CLOSED",
        /// Of an annex: not until a party activates it.
        Ready = 4 "READY",
    }
}

/// Hours for which a party can activate an annex.
pub const ANNEX_HOURS_MAX: i64 = 72;

code_table! {
    /// What is granted (DOMAIN 8.10).
    Grant {
        /// Patrols and check-ins.
        PatrolSummary = 1 "PATROL_SUMMARY",
        /// Events: category, place, level, state.
        EventSummary = 2 "EVENT_SUMMARY",
        /// Events with their text.
        EventDetail = 3 "EVENT_DETAIL",
        /// Events of river and forest.
        RiverForest = 4 "RIVER_FOREST",
        /// Calls for help.
        Sos = 5 "SOS",
        /// Events may change their owner; shows nothing.
        Transfer = 6 "TRANSFER",
    }
}

code_table! {
    /// When a record may leave.
    Release {
        /// At once, marked 未核实 until an officer accepts it.
        AtOnce = 1 "AT_ONCE",
        /// After the owner's officer has accepted it.
        OnAccept = 2 "ON_ACCEPT",
    }
}

code_table! {
    /// How exactly places on the ground leave.
    Precision {
        /// As they were measured.
        Exact = 1 "EXACT",
        /// To a grid of a thousandth of a degree, about 100 m.
        HundredMetres = 2 "100_M",
        /// To a grid of a hundredth of a degree, about 1 km.
        Kilometre = 3 "1_KM",
        /// The middle of the township, else of the county; places in words do not leave.
        Township = 4 "TOWNSHIP",
    }
}

/// Where a clause holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Area {
    /// Everywhere.
    Everywhere,
    /// In one of these zones.
    Zones(Vec<Zone>),
    /// In the area of another party, or no further from its boundary than so many metres.
    NearParties(u32),
    /// Where the place in words holds one of these names.
    Places(Vec<String>),
}

/// An area that an agreement draws.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its name.
    pub name: String,
    /// Its edge.
    pub outline: Outline,
}

/// One line of the view rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// What is granted.
    pub grant: Grant,
    /// Categories granted; empty means all of the grant.
    pub categories: Vec<String>,
    /// Lowest level granted; `None` means any, also none.
    pub min_level: Option<EmergencyLevel>,
    /// When it may leave.
    pub release: Release,
    /// Fields that may leave, in proto names; empty means those of the grant.
    pub fields: Vec<String>,
    /// Where it holds.
    pub area: Area,
    /// How exactly places on the ground leave.
    pub precision: Precision,
}

impl Clause {
    /// A clause that lets all of its grant leave, from everywhere, as it is.
    pub const fn whole(grant: Grant, release: Release) -> Self {
        Self {
            grant,
            categories: Vec::new(),
            min_level: None,
            release,
            fields: Vec::new(),
            area: Area::Everywhere,
            precision: Precision::Exact,
        }
    }
}

/// A party, pinned by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// The region.
    pub region: RegionId,
    /// SHA-256 of its Ed25519 key.
    pub signing_key_sha256: [u8; 32],
}

/// One version of an agreement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The agreement in all its versions.
    pub agreement_id: AgreementId,
    /// From 1.
    pub version: u32,
    /// Kind of agreement.
    pub form: AgreementForm,
    /// Title.
    pub title: String,
    /// Its parties, by id.
    pub parties: Vec<Party>,
    /// The view rule.
    pub clauses: Vec<Clause>,
    /// Purposes for which parties may read.
    pub purposes: Vec<Purpose>,
    /// In force from.
    pub started_at: Timestamp,
    /// In force until, by the origin's clock at numbering.
    pub ended_at: Timestamp,
    /// Days that parties keep a view after it was shown, where the record is kept for longer.
    pub retention_days: Option<u32>,
    /// Whether it lets anything new leave.
    pub force: Force,
    /// SHA-256 of the signed bytes of the version whose place it takes; `None` for the first.
    pub supersedes: Option<[u8; 32]>,
    /// SHA-256 of the signed bytes.
    pub sha256: [u8; 32],
}

/// Versions in a row that not all parties have signed: who may make one alone does not keep the others busy.
pub const SHORT_VERSIONS_MAX: usize = 32;

/// Days after its beginning for which a proposal may still be signed.
pub const PROPOSAL_DAYS: i64 = 30;

/// Whose signatures a version needs that takes another's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consent {
    /// All its parties'.
    All,
    /// Of all but any one.
    AllButOne,
    /// Of any one.
    Any,
    /// Of this one, who is no party of it any more.
    Leaver(RegionId),
}

/// How an agreement stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgreementState {
    /// Its time has not come.
    Agreed,
    /// What its clauses grant leaves.
    InForce,
    /// Nothing new leaves until another version says so.
    Suspended,
    /// Nothing new leaves any more; what was shown is called off, closed and kept as long as was agreed.
    Closing,
    /// An annex that waits for a party to activate it.
    Ready,
}

impl Agreement {
    /// Whether the region is a party.
    pub fn has_party(&self, region: &RegionId) -> bool {
        self.parties.iter().any(|party| party.region == *region)
    }

    /// Whether the agreement is in force at this moment.
    pub fn in_force(&self, now: Timestamp) -> bool {
        self.state(now) == AgreementState::InForce
    }

    /// How it stands at this moment.
    pub fn state(&self, now: Timestamp) -> AgreementState {
        match self.force {
            _ if now < self.started_at => AgreementState::Agreed,
            _ if now >= self.ended_at => AgreementState::Closing,
            Force::InForce => AgreementState::InForce,
            Force::Suspended => AgreementState::Suspended,
            Force::Closed => AgreementState::Closing,
            Force::Ready => AgreementState::Ready,
        }
    }

    /// When it can no longer be signed, if it is a proposal: by its own beginning, so that all drop it together.
    pub fn proposal_expires_at(&self) -> Timestamp {
        self.started_at.plus_days(PROPOSAL_DAYS).min(self.ended_at)
    }

    /// How many versions in a row, up to this one, not all parties have signed, given those before it, the newest
    /// first.
    pub fn short_versions<'a>(&'a self, earlier: impl IntoIterator<Item = &'a Self>) -> usize {
        let mut newest = self;
        let short = |before: &&'a Self| {
            let after = std::mem::replace(&mut newest, before);
            before.consent(after) != Consent::All
        };
        earlier.into_iter().take_while(short).count()
    }

    /// Whose signatures make `next` take this version's place. Whoever wants more than this one grants, or other
    /// parties, needs all who are parties then; going, stopping and what was agreed beforehand need fewer.
    pub fn consent(&self, next: &Self) -> Consent {
        let as_before = |next: &Self| Self {
            version: self.version,
            supersedes: self.supersedes,
            sha256: self.sha256,
            started_at: self.started_at,
            ..next.clone()
        };
        let mut left = self.parties.iter().filter(|party| !next.has_party(&party.region));
        if let (Some(leaver), None) = (left.next(), left.next()) {
            let with = Self { parties: self.parties.clone(), ..as_before(next) };
            let others = self.parties.iter().filter(|party| *party != leaver);
            if with == *self && others.eq(&next.parties) {
                return Consent::Leaver(leaver.region.clone());
            }
        }
        let stops = matches!(next.force, Force::Suspended | Force::Closed);
        if stops && (Self { force: self.force, ..as_before(next) }) == *self {
            return Consent::AllButOne;
        }
        let activates = self.form == AgreementForm::Annex
            && matches!(self.force, Force::Ready | Force::InForce)
            && next.force == Force::InForce;
        let window = Self { force: self.force, ended_at: self.ended_at, ..as_before(next) };
        if activates && window == *self { Consent::Any } else { Consent::All }
    }

    /// Whether a version shows other parties, or other things, than the one before: what is open is shown anew.
    pub fn shows_otherwise(&self, before: &Self) -> bool {
        let terms = |of: &Self| (of.retention_days, of.force == Force::InForce);
        self.parties != before.parties
            || self.clauses != before.clauses
            || terms(self) != terms(before)
    }
}

/// The version of an agreement that counts: the newest whose time has come.
pub fn current<'a>(
    versions: impl Iterator<Item = &'a Agreement>,
    now: Timestamp,
) -> Option<&'a Agreement> {
    versions.filter(|version| version.started_at <= now).max_by_key(|version| version.version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{NOW, agreement, clause};

    fn next(before: &Agreement, change: impl FnOnce(&mut Agreement)) -> Agreement {
        let mut next = Agreement {
            version: before.version + 1,
            supersedes: Some(before.sha256),
            sha256: [7; 32],
            started_at: NOW,
            ..before.clone()
        };
        change(&mut next);
        next
    }

    #[test]
    fn going_and_stopping_need_fewer_signatures_than_anything_else() {
        let parties = ["daluba", "xianfeng", "xiaonanhai"];
        let before = agreement(&parties, vec![clause(Grant::Sos)]);
        let consent = |change: fn(&mut Agreement)| before.consent(&next(&before, change));
        let leaver = Consent::Leaver("xianfeng".parse().unwrap());
        assert_eq!(consent(|next| drop(next.parties.remove(1))), leaver);
        assert_eq!(consent(|next| next.force = Force::Suspended), Consent::AllButOne);
        assert_eq!(consent(|next| next.force = Force::Closed), Consent::AllButOne);
        // Each beside another change, or alone where it is another.
        let more: [fn(&mut Agreement); 9] = [
            |_| {},
            |next| next.clauses[0].grant = Grant::EventDetail,
            |next| next.ended_at = next.ended_at.plus_days(1),
            |next| next.retention_days = Some(3),
            |next| next.purposes.clear(),
            |next| drop(next.parties.drain(..2)),
            |next| {
                next.parties.remove(1);
                next.clauses.clear();
            },
            |next| next.parties[0].signing_key_sha256 = [1; 32],
            |next| {
                next.force = Force::Closed;
                next.title.clear();
            },
        ];
        for change in more {
            assert_eq!(consent(change), Consent::All);
        }
        // To go on again is more than to stand still.
        let suspended = next(&before, |next| next.force = Force::Suspended);
        let again = next(&suspended, |next| next.force = Force::InForce);
        assert_eq!(suspended.consent(&again), Consent::All);
    }

    #[test]
    fn versions_that_one_party_may_make_alone_are_counted_until_all_sign_again() {
        let first = agreement(&["xianfeng", "xiaonanhai"], vec![clause(Grant::Sos)]);
        let mut versions = vec![first];
        for force in [Force::Suspended, Force::Closed, Force::Suspended] {
            versions.push(next(&versions[versions.len() - 1], |next| next.force = force));
        }
        let short = |of: usize| versions[of].short_versions(versions[..of].iter().rev());
        assert_eq!([0, 1, 2, 3].map(short), [0, 1, 2, 3]);
        let again = next(&versions[3], |next| next.force = Force::InForce);
        assert_eq!(again.short_versions(versions.iter().rev()), 0);
    }

    #[test]
    fn any_party_activates_an_annex_and_nothing_else_with_it() {
        let parties = ["xianfeng", "xiaonanhai"];
        let mut ready = agreement(&parties, vec![clause(Grant::EventDetail)]);
        (ready.form, ready.force) = (AgreementForm::Annex, Force::Ready);
        let activated = next(&ready, |next| {
            next.force = Force::InForce;
            next.ended_at = NOW.plus_days(3);
        });
        assert_eq!(ready.consent(&activated), Consent::Any);
        let again = next(&activated, |next| next.ended_at = NOW.plus_days(6));
        assert_eq!(activated.consent(&again), Consent::Any);
        let wider = next(&activated, |next| next.clauses.push(clause(Grant::Sos)));
        assert_eq!(activated.consent(&wider), Consent::All);
        let plain = agreement(&parties, vec![clause(Grant::EventDetail)]);
        let longer = next(&plain, |next| next.ended_at = NOW.plus_days(3));
        assert_eq!(plain.consent(&longer), Consent::All);
    }

    #[test]
    fn a_state_follows_from_what_was_signed_and_the_time() {
        let mut version = agreement(&["xianfeng", "xiaonanhai"], vec![clause(Grant::Sos)]);
        let states =
            |version: &Agreement| [-11, 0, 10].map(|days| version.state(NOW.plus_days(days)));
        let (agreed, closing) = (AgreementState::Agreed, AgreementState::Closing);
        for (force, state) in [
            (Force::InForce, AgreementState::InForce),
            (Force::Suspended, AgreementState::Suspended),
            (Force::Closed, closing),
            (Force::Ready, AgreementState::Ready),
        ] {
            version.force = force;
            assert_eq!(states(&version), [agreed, state, closing]);
        }
    }

    #[test]
    fn the_newest_version_counts_whose_time_has_come() {
        let one = agreement(&["xianfeng", "xiaonanhai"], vec![clause(Grant::Sos)]);
        let two = next(&one, |next| next.started_at = NOW.plus_days(1));
        let version = |days| {
            let versions = [&two, &one].into_iter();
            current(versions, NOW.plus_days(days)).map(|version| version.version)
        };
        assert_eq!([-11, 0, 1, 99].map(version), [None, Some(1), Some(2), Some(2)]);
    }
}
