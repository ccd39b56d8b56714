//! Removes from a store what no index needs: casync's `gc`. What must stay is the caller's to say, all of it before
//! anything is removed.
//!
//! Others may be writing to the store meanwhile. A `make` of this program holds the store's lock, see
//! [`LocalStore::share`], and is waited for. Other programs know of no lock: what was written or changed less than a grace
//! ago stays, because the index that needs it may be yet to come. A `make` that finds a chunk there renews its time, see
//! [`LocalStore::renew`], so that this holds for it too, also if its index came after the caller listed what there is.

use std::collections::HashSet;
use std::time::Duration;

use proto::ChunkId;

use crate::source::SourceError;
use crate::source::local_store::{FileKind, LocalStore, StoreFile};

/// How to tidy up.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Only say what would be removed.
    pub dry_run: bool,
    /// What is younger stays.
    pub grace: Duration,
    /// A temporary file that is younger stays.
    pub leftover: Duration,
}

/// What was removed, or would be, and what stays. A chunk that lies there in both forms counts twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Chunk files that are gone.
    pub removed: usize,
    /// Chunk files that stay.
    pub remaining: usize,
    /// Of those that stay, the ones that nobody needs but that are young.
    pub young: usize,
    /// Files that should have gone and could not be removed.
    pub stuck: usize,
    /// Directories that went with their last file.
    pub directories: usize,
    /// Temporary files that are gone.
    pub leftovers: usize,
}

/// Removes every chunk file that is not in `needed`. `each` is told of every file just before it goes. Blocks.
///
/// # Errors
/// When the store cannot be listed. What cannot be removed is a warning, and counted.
pub fn collect(
    store: &LocalStore,
    needed: &HashSet<ChunkId>,
    options: Options,
    mut each: impl FnMut(&StoreFile),
) -> Result<Collected, SourceError> {
    let mut collected = Collected::default();
    for directory in store.directories()? {
        for file in store.files(&directory)? {
            let (chunk, grace) = match file.kind {
                FileKind::Chunk { id, .. } if needed.contains(&id) => {
                    collected.remaining += 1;
                    continue;
                }
                FileKind::Chunk { .. } => (true, options.grace),
                FileKind::Temporary => (false, options.leftover),
            };
            if !grace.is_zero() {
                match store.age(&file)? {
                    None => continue,
                    Some(age) if age < grace => {
                        collected.remaining += usize::from(chunk);
                        collected.young += usize::from(chunk);
                        continue;
                    }
                    Some(_) => {}
                }
            }
            each(&file);
            match if options.dry_run { Ok(false) } else { store.remove(&file) } {
                Ok(emptied) => {
                    collected.removed += usize::from(chunk);
                    collected.leftovers += usize::from(!chunk);
                    collected.directories += usize::from(emptied);
                }
                Err(error) => {
                    tracing::error!("{error}: not removed");
                    collected.remaining += usize::from(chunk);
                    collected.stuck += 1;
                }
            }
        }
    }
    Ok(collected)
}
