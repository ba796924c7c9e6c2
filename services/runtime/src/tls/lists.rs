//! The revocation lists in a folder, read again as they change.

use super::Trust;
use crate::identity::Owner;
use crate::pki::{ListError, RevocationList};
use crate::telemetry::ErrorChain;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Of each authority the newest list that was good. What cannot be read, or is older, leaves it in force;
/// where there was none, nothing is known of the authority's certificates.
#[derive(Debug, Default)]
pub struct Lists {
    dir: PathBuf,
    held: HashMap<Owner, Held>,
}

#[derive(Debug)]
struct Held {
    /// What the file looked like when it was read. A new file has a new number, even where it is as long
    /// and came in the same tick of the clock.
    seen: (u64, u64, Option<SystemTime>),
    list: Arc<RevocationList>,
}

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the file cannot be read")]
    Read(#[source] io::Error),
    #[error(transparent)]
    List(ListError),
    #[error("a newer list was in force")]
    Older,
}

impl Lists {
    /// Of this folder, which need not exist; nothing is read yet.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), held: HashMap::new() }
    }

    /// Where the list of an authority lies.
    pub fn path(dir: &Path, owner: &Owner) -> PathBuf {
        dir.join(format!("{owner}.crl").replace('/', "-"))
    }

    /// Reads the files of these authorities (their certificates in DER) that have changed; says whether
    /// any has.
    pub fn read<'a>(&mut self, authorities: impl Iterator<Item = (Owner, &'a [u8])>) -> bool {
        let mut changed = false;
        for (owner, authority) in authorities {
            let path = Self::path(&self.dir, &owner);
            // No file: no list, or the one that was there stays in force.
            let Ok(found) = fs::metadata(&path) else { continue };
            let seen = (found.ino(), found.len(), found.modified().ok());
            let held = self.held.get(&owner);
            if held.is_some_and(|held| held.seen == seen) {
                continue;
            }
            changed = true;
            let list = read(&path, authority, held.map(|held| &*held.list)).unwrap_or_else(|error| {
                tracing::error!(path = %path.display(), error = %ErrorChain(&error), "revocation list not taken");
                let before = held.map(|held| Arc::clone(&held.list));
                before.unwrap_or_else(|| Arc::new(RevocationList::unknown()))
            });
            self.held.insert(owner, Held { seen, list });
        }
        changed
    }

    /// Puts them into force.
    pub fn add_to(&self, trust: &mut Trust) {
        for (owner, held) in &self.held {
            trust.add_list(owner, Arc::clone(&held.list));
        }
    }
}

fn read(
    path: &Path,
    authority: &[u8],
    held: Option<&RevocationList>,
) -> Result<Arc<RevocationList>, Refusal> {
    let text = fs::read(path).map_err(Refusal::Read)?;
    let list = RevocationList::read(authority, &text).map_err(Refusal::List)?;
    match held {
        Some(held) if list.number < held.number => Err(Refusal::Older),
        _ => Ok(Arc::new(list)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Party, linkage, now, region};
    use crate::pki::Validity;

    struct Folder {
        dir: tempfile::TempDir,
        lists: Lists,
        party: Party,
    }

    impl Folder {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            Self { lists: Lists::of(dir.path()), dir, party: region("a") }
        }

        fn write(&mut self, bytes: &[u8]) -> bool {
            let path = Lists::path(self.dir.path(), &self.party.identity.owner());
            crate::data_dir::write_atomic(&path, bytes, crate::data_dir::SHARED).expect("written");
            self.read()
        }

        fn read(&mut self) -> bool {
            let authority = self.party.authority.certificate_der();
            self.lists.read([(self.party.identity.owner(), authority)].into_iter())
        }

        /// A list made so many seconds from now.
        fn list(&self, serial: u8, seconds: i64) -> String {
            let validity = Validity::days(now().plus_millis(seconds * 1_000), 1);
            self.party.authority.revocation_list(&[vec![serial]], validity).expect("a list")
        }

        /// The number in force, and whether what it says is out of date.
        fn in_force(&self) -> (Option<u8>, bool) {
            let mut trust = Trust::new(linkage());
            let owner = self.party.identity.owner();
            trust.add(owner.clone(), self.party.authority.certificate_der()).expect("trusted");
            self.lists.add_to(&mut trust);
            let held = self.lists.held.get(&owner);
            let serial = held.and_then(|held| (1..9).find(|serial| held.list.revokes(&[*serial])));
            (serial, trust.is_stale(&owner, now()))
        }
    }

    #[test]
    fn a_list_is_read_once_and_again_when_it_changes() {
        let mut folder = Folder::new();
        assert!(!folder.read());
        assert_eq!(folder.in_force(), (None, false));
        assert!(folder.write(folder.list(1, 1).as_bytes()));
        assert!(!folder.read());
        assert_eq!(folder.in_force(), (Some(1), false));
        assert!(folder.write(folder.list(2, 2).as_bytes()));
        assert_eq!(folder.in_force(), (Some(2), false));
    }

    #[test]
    fn garbage_and_older_lists_leave_the_old_one_in_force() {
        let mut folder = Folder::new();
        assert!(folder.write(folder.list(1, 5).as_bytes()));
        assert!(folder.write(b"garbage"));
        assert_eq!(folder.in_force(), (Some(1), false));
        assert!(folder.write(folder.list(2, 4).as_bytes()), "it is looked at");
        assert_eq!(folder.in_force(), (Some(1), false));
        let foreign = region("a");
        let foreign = foreign.authority.revocation_list(&[vec![3]], Validity::days(now(), 9));
        assert!(folder.write(foreign.expect("a list").as_bytes()));
        assert_eq!(folder.in_force(), (Some(1), false));
        assert!(folder.write(folder.list(4, 6).as_bytes()));
        assert_eq!(folder.in_force(), (Some(4), false));
    }

    #[test]
    fn where_nothing_good_was_ever_read_nothing_is_known() {
        let mut folder = Folder::new();
        assert!(folder.write(b"garbage"));
        assert_eq!(folder.in_force(), (None, true));
        assert!(folder.write(folder.list(1, 1).as_bytes()));
        assert_eq!(folder.in_force(), (Some(1), false));
    }
}
