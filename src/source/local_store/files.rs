//! The files of a store as such, for those who tidy it up or check it: which there are, reading one of them, removing it,
//! and the lock by which writers and those who remove know of each other.
//!
//! A writer that relies on chunks staying where it found them, because it is about to name them in an index, holds
//! [`LocalStore::share`] until the index is there; whoever removes chunks holds [`LocalStore::own`]. It is `flock` on the
//! store's directory. Programs other than this one do not know of it, and file systems without such locks have none.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use proto::ChunkId;
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::{LocalStore, chunk_path, is_hex, is_regular};
use crate::chunk::Encoded;
use crate::source::SourceError;

/// What is younger need not be renewed.
const RENEWED: Duration = Duration::from_secs(60);

/// A file in one of a store's directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFile {
    /// The store's directory that it is in, four digits.
    pub directory: String,
    /// Its name there.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
}

/// What a file in a store is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A chunk, compressed or `plain`.
    Chunk {
        /// Which.
        id: ChunkId,
        /// Whether it is in the form without a suffix.
        plain: bool,
    },
    /// What a writer has under way, or left behind.
    Temporary,
}

/// Keeps others from removing chunks, or from relying on them, until it is dropped.
#[derive(Debug)]
pub struct StoreLock(#[expect(dead_code, reason = "the lock is the open file's")] Option<File>);

impl LocalStore {
    /// The store's directories of chunks, sorted.
    ///
    /// # Errors
    /// `Io` when the store cannot be listed.
    pub fn directories(&self) -> Result<Vec<String>, SourceError> {
        let mut names = self.names(".")?;
        names.retain(|(name, kind)| name.len() == 4 && is_hex(name) && *kind != FileType::RegularFile);
        let mut names: Vec<String> = names.into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The chunks and temporary files in one of the directories, sorted. Symbolic links, which mean a chunk that is known
    /// to be missing, and files of other names are nobody's business. A directory that is gone is empty.
    ///
    /// # Errors
    /// `Io` when it cannot be listed.
    pub fn files(&self, directory: &str) -> Result<Vec<StoreFile>, SourceError> {
        let mut files = Vec::new();
        for (name, kind) in self.names(directory)? {
            if matches!(kind, FileType::Symlink | FileType::Directory) || !name.starts_with(directory) {
                continue;
            }
            if let Some(kind) = self.kind(&name) {
                files.push(StoreFile { directory: directory.to_owned(), name, kind });
            }
        }
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    /// Reads a chunk file. `None` if it is gone, or empty.
    ///
    /// # Errors
    /// As [`LocalStore::get`].
    pub fn read_file(&self, file: &StoreFile) -> Result<Option<Encoded>, SourceError> {
        match file.kind {
            FileKind::Chunk { id, plain } => self.read(&id, plain),
            FileKind::Temporary => Ok(None),
        }
    }

    /// Removes a file, and its directory if it was the last there. Returns whether the directory went too.
    ///
    /// # Errors
    /// `Io` when it stays. One that is gone already is no error.
    pub fn remove(&self, file: &StoreFile) -> Result<bool, SourceError> {
        let (store, path) = (&self.inner.directory, format!("{}/{}", file.directory, file.name));
        match rustix::fs::unlinkat(store, path.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(SourceError::io(self.place(&path), errno)),
        }
        Ok(rustix::fs::unlinkat(store, file.directory.as_str(), AtFlags::REMOVEDIR).is_ok())
    }

    /// How long ago a file was written, or changed in any other way; zero if that is in the future. `None` if it is gone.
    ///
    /// # Errors
    /// `Io` when the system will not say.
    pub fn age(&self, file: &StoreFile) -> Result<Option<Duration>, SourceError> {
        let stat = self.stat(&format!("{}/{}", file.directory, file.name))?;
        // The time of change as well: a copy keeps the other of what it was copied from.
        Ok(stat.map(|stat| age(stat.st_mtime.max(stat.st_ctime))))
    }

    /// Whether there is a chunk file, in either form; if so it is from now on as young as one just written, so that who
    /// removes what is old lets it stay. One that belongs to somebody else may keep its age.
    ///
    /// # Errors
    /// `Io` when the system will not say.
    pub fn renew(&self, id: ChunkId) -> Result<bool, SourceError> {
        let mut found = false;
        for suffix in [self.inner.suffix.as_str(), ""] {
            let path = chunk_path(&id, suffix);
            let Some(stat) = self.stat(&path)?.filter(|stat| is_regular(stat) && stat.st_size > 0) else { continue };
            found = true;
            if age(stat.st_mtime) > RENEWED {
                let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
                let times = Timestamps { last_access: now, last_modification: now };
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                let _ = rustix::fs::utimensat(&self.inner.directory, path.as_str(), &times, flags);
            }
        }
        Ok(found)
    }

    /// Relies on chunks staying, until the answer is dropped. Waits until nobody removes any. Blocks.
    ///
    /// # Errors
    /// `Io` when the store cannot be opened any more.
    pub fn share(&self) -> Result<StoreLock, SourceError> {
        self.lock(FlockOperation::LockShared).map(|lock| lock.unwrap_or(StoreLock(None)))
    }

    /// Is alone with the store, among those who know of the lock, until the answer is dropped. If others are there it
    /// says so by calling `busy`, and waits. Blocks.
    ///
    /// # Errors
    /// `Io` when the store cannot be opened any more.
    pub fn own(&self, busy: impl FnOnce()) -> Result<StoreLock, SourceError> {
        if let Some(lock) = self.lock(FlockOperation::NonBlockingLockExclusive)? {
            return Ok(lock);
        }
        busy();
        self.lock(FlockOperation::LockExclusive).map(|lock| lock.unwrap_or(StoreLock(None)))
    }

    /// `None` if it would have to wait and must not.
    fn lock(&self, operation: FlockOperation) -> Result<Option<StoreLock>, SourceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.inner.directory, ".", flags, Mode::empty());
        let opened = opened.map_err(|errno| SourceError::io(self.path(), errno))?;
        loop {
            return match rustix::fs::flock(&opened, operation) {
                Ok(()) => Ok(Some(StoreLock(Some(opened.into())))),
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => Ok(None),
                Err(errno) => {
                    tracing::debug!(%errno, store = self.inner.name, "cannot be locked; going on without");
                    Ok(Some(StoreLock(None)))
                }
            };
        }
    }

    fn stat(&self, path: &str) -> Result<Option<Stat>, SourceError> {
        match rustix::fs::statat(&self.inner.directory, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(SourceError::io(self.place(path), errno)),
        }
    }

    fn kind(&self, name: &str) -> Option<FileKind> {
        let suffix = self.inner.suffix.as_str();
        if let Ok(id) = name.parse() {
            return Some(FileKind::Chunk { id, plain: true });
        }
        if let Some(Ok(id)) = name.strip_suffix(suffix).map(str::parse) {
            return Some(FileKind::Chunk { id, plain: false });
        }
        let (id, number) = name.strip_suffix(".tmp")?.split_once('.')?;
        let number = number.strip_prefix("0x").unwrap_or(number);
        let temporary = id.parse::<ChunkId>().is_ok() && !number.is_empty() && is_hex(number);
        temporary.then_some(FileKind::Temporary)
    }

    /// What is in a directory of the store, with what the system says it is at first sight.
    fn names(&self, directory: &str) -> Result<Vec<(String, FileType)>, SourceError> {
        let failed = |errno: Errno| SourceError::io(self.place(directory), errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = match rustix::fs::openat(&self.inner.directory, directory, flags, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(errno) => return Err(failed(errno)),
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(opened.as_fd()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Ok(name) = entry.file_name().to_str() {
                names.push((name.to_owned(), entry.file_type()));
            }
        }
        Ok(names)
    }
}

fn age(seconds: i64) -> Duration {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    SystemTime::now().duration_since(then).unwrap_or_default()
}
