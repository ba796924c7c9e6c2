//! Tells whether the store that lies here is the one that was written last: a small file beside it says which file
//! that was and how far it went. A copy that was put in its place is another file, or does not go so far.

use crate::folder;
use crate::hosted::Hosted;
use domain::kernel::RegionId;
use runtime::ErrorChain;
use runtime::data_dir::{PRIVATE, write_atomic};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use storage::ReadError;
use storage::region::Store;

/// How often it is written down how far the store goes. What a copy lacks of less than this is found out by what
/// others hold.
const MARK_EVERY: Duration = Duration::from_secs(60);

const MARK: &str = "mark";

/// Which file the store is, and how far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    inode: u64,
    height: u64,
}

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The disk refuses.
    #[error("the mark beside the store cannot be read or written")]
    Io(#[from] io::Error),
    /// The store cannot be read.
    #[error("the store could not be read")]
    Store(#[from] ReadError),
}

impl Mark {
    async fn of(data: &Path, region: &RegionId, store: &Store) -> Result<Self, MarkError> {
        let inode = std::fs::metadata(folder::store_path(data, region))?.ino();
        Ok(Self { inode, height: store.height().await? })
    }

    /// What was written last; `None` where nothing was, or nothing that can be read.
    fn read(data: &Path, region: &RegionId) -> Result<Option<Self>, MarkError> {
        match std::fs::read_to_string(folder::region_dir(data, region).join(MARK)) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (inode, height) = text.trim_end().split_once(' ')?;
        Some(Self { inode: inode.parse().ok()?, height: height.parse().ok()? })
    }

    fn write(self, data: &Path, region: &RegionId) -> io::Result<()> {
        let text = format!("{} {}\n", self.inode, self.height);
        write_atomic(&folder::region_dir(data, region).join(MARK), text.as_bytes(), PRIVATE)
    }

    /// Whether the store as it is now cannot be what this was written of.
    const fn is_restored(self, now: Self) -> bool {
        now.inode != self.inode || now.height < self.height
    }
}

/// Whether a copy was put in the place of a region's store since it was last written.
pub(crate) async fn is_restored(
    data: &Path,
    region: &RegionId,
    store: &Store,
) -> Result<bool, MarkError> {
    let (before, now) = (Mark::read(data, region)?, Mark::of(data, region, store).await?);
    Ok(before.is_some_and(|before| before.is_restored(now)))
}

/// Writes down which file the store is and how far it goes.
///
/// # Errors
/// When either is not known, or nothing could be written.
pub async fn set(data: &Path, region: &RegionId, store: &Store) -> Result<(), MarkError> {
    Ok(Mark::of(data, region, store).await?.write(data, region)?)
}

/// Keeps the mark fresh until the soft stop.
pub(crate) async fn keep(data: Arc<Path>, region: Arc<Hosted>) {
    loop {
        // Neither arm holds anything.
        let stopped = tokio::select! {
            () = region.tasks.soft().cancelled() => true,
            () = tokio::time::sleep(MARK_EVERY) => false,
        };
        if let Err(error) = set(&data, &region.region, &region.store).await {
            tracing::warn!(region.id = %region.region, error = %ErrorChain(&error), "how far the store goes was not written down");
        }
        if stopped {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_or_one_that_goes_less_far_is_a_copy() {
        let mark = Mark::parse("7 100\n").unwrap();
        let now = |inode, height| mark.is_restored(Mark { inode, height });
        assert!(!now(7, 100) && !now(7, 101));
        assert!(now(7, 99) && now(8, 100) && now(8, 101));
        for bad in ["", "7", "7 x", "x 7", "7 8 9"] {
            assert_eq!(Mark::parse(bad), None, "{bad}");
        }
    }
}
