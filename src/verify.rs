//! Reads every chunk of a store and finds those that are not what their names say. Removes them only when told to, and
//! then looks at each once more. It knows no index: a chunk that is not there is nothing it could miss.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;

use bytes::Bytes;
use serde::Serialize;

use crate::chunk::plain;
use crate::format::digest::Digest;
use crate::source::local_store::{FileKind, LocalStore, StoreFile};
use crate::source::{MAX_CHUNK, SourceError};

/// How many chunks are hashed together, and how many plain bytes at most are held for that.
const BATCH: usize = 16;
const BATCH_BYTES: usize = 8 << 20;

/// A chunk file that is not what its name says, or cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bad {
    /// The chunk's name.
    pub chunk: String,
    /// Its file, below the store.
    pub file: String,
    /// What is wrong with it.
    pub reason: String,
    /// Whether it was removed.
    pub removed: bool,
    #[serde(skip)]
    store_file: StoreFile,
    /// It could not be read at all: nothing is known of it, so it is not removed.
    #[serde(skip)]
    unreadable: bool,
}

/// What was found in a store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Chunk files looked at.
    pub chunks: u64,
    /// Their bytes, as they lie there.
    pub bytes: u64,
    /// Those that are bad, by name.
    pub bad: Vec<Bad>,
}

impl Verified {
    /// Bad ones that are still there.
    pub fn left(&self) -> usize {
        self.bad.iter().filter(|bad| !bad.removed).count()
    }
}

/// How far a check has come; can be watched from another thread.
#[derive(Debug, Default)]
pub struct Progress {
    /// Directories of the store, all and done.
    pub directories: (AtomicU64, AtomicU64),
    /// Bytes read.
    pub bytes: AtomicU64,
    /// Bad chunks found.
    pub bad: AtomicU64,
}

/// What the threads have in common.
struct Check<'a> {
    store: &'a LocalStore,
    progress: &'a Progress,
    directories: Mutex<std::vec::IntoIter<String>>,
    found: Mutex<Verified>,
    failed: Mutex<Option<SourceError>>,
    stop: AtomicBool,
}

/// Checks every chunk of the store, on so many threads. Blocks.
///
/// # Errors
/// When the store cannot be listed, or a thread cannot be had.
pub fn verify(store: &LocalStore, threads: usize, progress: &Progress) -> Result<Verified, SourceError> {
    let directories = store.directories()?;
    progress.directories.0.store(directories.len() as u64, Relaxed);
    let check = Check {
        store,
        progress,
        directories: Mutex::new(directories.into_iter()),
        found: Mutex::default(),
        failed: Mutex::default(),
        stop: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let check = &check;
            thread::Builder::new().spawn_scoped(scope, move || check.work())?;
        }
        Ok(())
    })
    .map_err(|error: io::Error| SourceError::io(store.path(), error))?;
    if let Some(error) = check.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut found = check.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.bad.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(found)
}

/// Removes the bad chunks of a store that are still bad. What cannot be read is not removed: a disk or a right that fails
/// says nothing about the chunk. Blocks.
///
/// # Errors
/// When the store cannot be locked. What cannot be removed is a warning, and stays in the list as it is.
pub fn repair(store: &LocalStore, found: &mut Verified, busy: impl FnOnce()) -> Result<(), SourceError> {
    let doomed: Vec<&mut Bad> = found.bad.iter_mut().filter(|bad| !bad.unreadable).collect();
    if doomed.is_empty() {
        return Ok(());
    }
    let _alone = store.own(busy)?;
    for bad in doomed {
        match look(store, &bad.store_file) {
            // Somebody wrote it anew meanwhile.
            Look::Plain(bytes, _) if is_right(&bad.store_file, &bytes) => bad.removed = true,
            Look::Gone => bad.removed = true,
            Look::Unreadable(_) => {}
            Look::Plain(..) | Look::Bad(_) => match store.remove(&bad.store_file) {
                Ok(_) => bad.removed = true,
                Err(error) => tracing::error!("{error}: not removed"),
            },
        }
    }
    Ok(())
}

impl Check<'_> {
    fn work(&self) {
        while !self.stop.load(Relaxed) {
            let next = lock(&self.directories).next();
            let Some(directory) = next else { return };
            if let Err(error) = self.directory(&directory) {
                self.stop.store(true, Relaxed);
                lock(&self.failed).get_or_insert(error);
            }
            self.progress.directories.1.fetch_add(1, Relaxed);
        }
    }

    fn directory(&self, directory: &str) -> Result<(), SourceError> {
        let (mut batch, mut held) = (Vec::new(), 0);
        for file in self.store.files(directory)? {
            if file.kind == FileKind::Temporary {
                continue;
            }
            match look(self.store, &file) {
                Look::Gone => continue,
                Look::Plain(plain, length) => {
                    held += plain.len();
                    lock(&self.found).bytes += length;
                    self.progress.bytes.fetch_add(length, Relaxed);
                    batch.push((file, plain));
                }
                Look::Bad(reason) => self.bad(file, reason, false),
                Look::Unreadable(reason) => self.bad(file, reason, true),
            }
            lock(&self.found).chunks += 1;
            if batch.len() >= BATCH || held >= BATCH_BYTES {
                self.hash(std::mem::take(&mut batch));
                held = 0;
            }
        }
        self.hash(batch);
        Ok(())
    }

    /// A store does not say which digest names its chunks, and may have both kinds.
    fn hash(&self, batch: Vec<(StoreFile, Bytes)>) {
        let plain: Vec<&[u8]> = batch.iter().map(|(_, bytes)| &bytes[..]).collect();
        let ids = Digest::Sha512_256.ids(&plain);
        for ((file, bytes), id) in batch.into_iter().zip(ids) {
            let FileKind::Chunk { id: name, .. } = file.kind else { continue };
            if id != name && Digest::Sha256.id(&bytes) != name {
                self.bad(file, "the bytes are another chunk's or damaged".to_owned(), false);
            }
        }
    }

    fn bad(&self, file: StoreFile, reason: String, unreadable: bool) {
        let FileKind::Chunk { id, .. } = file.kind else { return };
        self.progress.bad.fetch_add(1, Relaxed);
        let place = format!("{}/{}", file.directory, file.name);
        let bad = Bad { chunk: id.to_string(), file: place, reason, removed: false, store_file: file, unreadable };
        lock(&self.found).bad.push(bad);
    }
}

/// A file at first sight.
enum Look {
    Gone,
    /// What it decompresses to, and how long it is.
    Plain(Bytes, u64),
    Bad(String),
    Unreadable(String),
}

fn look(store: &LocalStore, file: &StoreFile) -> Look {
    match store.read_file(file) {
        Ok(Some(encoded)) => match plain(&encoded, MAX_CHUNK) {
            Ok(bytes) => Look::Plain(bytes, encoded.bytes.len() as u64),
            Err(error) => Look::Bad(error.to_string()),
        },
        // Empty files read as none: what a power failure may leave.
        Ok(None) => match store.age(file) {
            Ok(None) => Look::Gone,
            Ok(Some(_)) => Look::Bad("the file is empty".to_owned()),
            Err(error) => Look::Unreadable(error.to_string()),
        },
        Err(SourceError::Refused { reason, .. }) => Look::Bad(reason),
        Err(error) => Look::Unreadable(error.to_string()),
    }
}

fn is_right(file: &StoreFile, bytes: &[u8]) -> bool {
    let FileKind::Chunk { id, .. } = file.kind else { return false };
    [Digest::Sha512_256, Digest::Sha256].iter().any(|digest| digest.id(bytes) == id)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
