//! A `.castr` directory: chunk files in 65,536 directories named by the first four digits. Reads both forms that casync
//! writes (plain, and compressed with a suffix) and inserts atomically, so that several writers at once, or one killed
//! in the middle, leave only whole chunks under chunk names. It does not look inside the chunks.
//!
//! An insert survives the death of the process at once, and a power failure only after [`LocalStore::sync`], which costs
//! the same for one chunk as for all. Until then a power failure may leave a chunk absent, empty (which counts as
//! absent) or, on some file systems, damaged, which its digest finds out. So whoever writes an index syncs first.

mod files;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use futures::future::{BoxFuture, FutureExt};
use proto::ChunkId;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::{ChunkSource, MAX_CHUNK_FILE, SourceError, chunk_path, compressed_suffix, detect, random};
use crate::chunk::{Chunk, Encoded, Encoding};
pub use files::{FileKind, StoreFile, StoreLock};

/// An open chunk store directory. Cheap to clone; all clones are one store. The methods block.
#[derive(Clone)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    name: String,
    /// Chunk files are opened relative to this: the path is walked once, and renaming the store does not disturb us.
    directory: OwnedFd,
    suffix: String,
    limit: u64,
    /// Whether the plain form was the one found last: it is then looked for first.
    plain_first: AtomicBool,
    /// One bit for each of the 65,536 directories that is known to exist.
    made: Box<[AtomicU64]>,
}

impl LocalStore {
    /// Opens an existing store; chunk files have `$CASYNC_COMPRESSED_CHUNK_SUFFIX` or `.cacnk`.
    ///
    /// # Errors
    /// `Refused` when there is nothing at `path` or it is no directory, `Io` when it may not be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SourceError> {
        Self::open_as(path.as_ref(), compressed_suffix(), MAX_CHUNK_FILE)
    }

    /// Opens a store, making the directory (and those above it) if there is none.
    ///
    /// # Errors
    /// As [`Self::open`], and `Io` when the directory cannot be made.
    pub fn open_or_create(path: impl AsRef<Path>) -> Result<Self, SourceError> {
        let path = path.as_ref();
        match std::fs::create_dir_all(path) {
            Ok(()) => {}
            // Whatever is there instead of a directory is named by open.
            Err(_) if path.exists() => {}
            Err(error) => return Err(SourceError::io(path, error)),
        }
        Self::open(path)
    }

    /// Opens a store with this suffix for compressed chunks, and reads no chunk file longer than `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(path: &Path, suffix: String, limit: u64) -> Result<Self, SourceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => SourceError::refused(
                path.display(),
                "no such chunk store: name a directory such as default.castr with --store",
            ),
            Errno::NOTDIR => SourceError::refused(path.display(), "not a directory, so not a chunk store"),
            errno => SourceError::io(path, errno),
        })?;
        let made = (0..1024).map(|_| AtomicU64::new(0)).collect();
        let inner = Inner {
            path: path.to_owned(),
            name: path.display().to_string(),
            directory,
            suffix,
            limit,
            plain_first: AtomicBool::new(false),
            made,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Reads one chunk file as it is; `None` if there is none, or if casync's symbolic link says that it is missing.
    ///
    /// # Errors
    /// `Io` when the file cannot be read, `Refused` when it is no chunk file: too long, of no known compression, no
    /// regular file.
    pub fn get(&self, id: ChunkId) -> Result<Option<Encoded>, SourceError> {
        let plain_first = self.inner.plain_first.load(Relaxed);
        for plain in [plain_first, !plain_first] {
            if let Some(found) = self.read(&id, plain)? {
                if plain != plain_first {
                    self.inner.plain_first.store(plain, Relaxed);
                }
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Whether there is a chunk file, in either form. It is not read.
    ///
    /// # Errors
    /// `Io` when the system will not say.
    pub fn has(&self, id: ChunkId) -> Result<bool, SourceError> {
        Ok(self.holds(&chunk_path(&id, &self.inner.suffix))? || self.holds(&chunk_path(&id, ""))?)
    }

    /// Stores a chunk in the compressed form `compressed`, which must decompress to it. Returns whether it is new here:
    /// if either form is there already, nothing is written.
    ///
    /// # Errors
    /// `Io` when it cannot be written: a read-only store, a full disk. Nothing is left under the chunk's name then.
    pub fn insert(&self, chunk: &Chunk, compressed: &[u8]) -> Result<bool, SourceError> {
        let path = chunk_path(&chunk.id(), &self.inner.suffix);
        if detect(compressed).is_none() {
            return Err(SourceError::refused(self.place(&path), "asked to store bytes of no known compression"));
        }
        self.write(chunk.id(), &path, compressed)
    }

    /// Stores a chunk uncompressed. Returns whether it is new here, as [`Self::insert`].
    ///
    /// # Errors
    /// As [`Self::insert`].
    pub fn insert_plain(&self, chunk: &Chunk) -> Result<bool, SourceError> {
        self.write(chunk.id(), &chunk_path(&chunk.id(), ""), chunk.bytes())
    }

    /// Makes everything that was stored here so far, by whomever, outlast a power failure. Writes back the whole file
    /// system that the store is on.
    ///
    /// # Errors
    /// `Io` when the disk fails.
    pub fn sync(&self) -> Result<(), SourceError> {
        rustix::fs::syncfs(&self.inner.directory).map_err(|errno| SourceError::io(&self.inner.path, errno))
    }

    /// The ids of all chunk files, in ascending order, one directory read at a time. Files of other names (casync's
    /// `.tmp` leftovers) are passed over; a directory that cannot be read yields an error, and the next ones follow.
    ///
    /// # Errors
    /// `Io` when the store itself cannot be listed.
    pub fn ids(&self) -> Result<impl Iterator<Item = Result<ChunkId, SourceError>> + use<>, SourceError> {
        let store = self.clone();
        Ok(self.directories()?.into_iter().flat_map(move |directory| store.ids_in(&directory)))
    }

    fn ids_in(&self, directory: &str) -> Vec<Result<ChunkId, SourceError>> {
        let files = match self.files(directory) {
            Ok(files) => files,
            Err(error) => return vec![Err(error)],
        };
        let chunk = |file: StoreFile| match file.kind {
            FileKind::Chunk { id, .. } => Some(id),
            FileKind::Temporary => None,
        };
        let mut ids: Vec<ChunkId> = files.into_iter().filter_map(chunk).collect();
        ids.dedup();
        ids.into_iter().map(Ok).collect()
    }

    fn read(&self, id: &ChunkId, plain: bool) -> Result<Option<Encoded>, SourceError> {
        let path = chunk_path(id, if plain { "" } else { &self.inner.suffix });
        // NONBLOCK: a fifo at this name must not hang us.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.inner.directory, path.as_str(), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(SourceError::io(self.place(&path), errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| SourceError::io(self.place(&path), errno))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if !is_regular(&stat) {
            return Err(SourceError::refused(self.place(&path), "not a regular file, so not a chunk"));
        }
        if size == 0 {
            return Ok(None);
        }
        if size > self.inner.limit {
            let reason = format!("{size} bytes, longer than a chunk may be ({})", self.inner.limit);
            return Err(SourceError::refused(self.place(&path), reason));
        }
        let bytes = read_whole(file.into(), size).map_err(|error| SourceError::io(self.place(&path), error))?;
        let encoding = if plain { Some(Encoding::Plain) } else { detect(&bytes) };
        let Some(encoding) = encoding else {
            return Err(SourceError::refused(self.place(&path), "compressed by nothing known: not zstd, xz or gzip"));
        };
        Ok(Some(Encoded { encoding, bytes: bytes.into() }))
    }

    /// Whether a regular, non-empty file is at `path`. An empty one is what a power failure leaves of a chunk.
    fn holds(&self, path: &str) -> Result<bool, SourceError> {
        match rustix::fs::statat(&self.inner.directory, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(is_regular(&stat) && stat.st_size > 0),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(SourceError::io(self.place(path), errno)),
        }
    }

    fn write(&self, id: ChunkId, path: &str, bytes: &[u8]) -> Result<bool, SourceError> {
        if self.ensure_directory(&id)? && self.has(id)? {
            return Ok(false);
        }
        let (temporary, mut file) = self.create_temporary(&id)?;
        let directory = &self.inner.directory;
        let written = file.write_all(bytes).map_err(|error| SourceError::io(self.place(&temporary), error));
        let renamed = written.and_then(|()| {
            match rustix::fs::renameat_with(directory, temporary.as_str(), directory, path, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(true),
                Err(Errno::EXIST) if self.holds(path)? => Ok(false),
                // Something that is no chunk has the name, or this file system cannot rename without replacing.
                Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    rustix::fs::renameat(directory, temporary.as_str(), directory, path)
                        .map(|()| true)
                        .map_err(|errno| SourceError::io(self.place(path), errno))
                }
                Err(errno) => Err(SourceError::io(self.place(path), errno)),
            }
        });
        if !matches!(renamed, Ok(true)) {
            let _ = rustix::fs::unlinkat(directory, temporary.as_str(), AtFlags::empty());
        }
        renamed
    }

    /// Creates `ID.<16 hex digits>.tmp` beside the chunk's place, as casync names it.
    fn create_temporary(&self, id: &ChunkId) -> Result<(String, File), SourceError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o444);
        let mut tries = 0;
        loop {
            let temporary = chunk_path(id, &format!(".{:016x}.tmp", random()));
            match rustix::fs::openat(&self.inner.directory, temporary.as_str(), flags, mode) {
                Ok(file) => return Ok((temporary, file.into())),
                // The directory was removed behind our back, or somebody drew the same number.
                Err(Errno::NOENT) if tries < 3 => {
                    self.make_directory(id)?;
                }
                Err(Errno::EXIST) if tries < 3 => {}
                Err(errno) => return Err(SourceError::io(self.place(&temporary), errno)),
            }
            tries += 1;
        }
    }

    /// Makes the chunk's directory unless it is known to exist. Returns whether it may already hold something.
    fn ensure_directory(&self, id: &ChunkId) -> Result<bool, SourceError> {
        let number = usize::from(u16::from_be_bytes([id.0[0], id.0[1]]));
        let (word, bit) = (&self.inner.made[number / 64], 1u64 << (number % 64));
        if word.load(Relaxed) & bit != 0 {
            return Ok(true);
        }
        let new = self.make_directory(id)?;
        word.fetch_or(bit, Relaxed);
        Ok(!new)
    }

    /// Returns whether the directory is new.
    fn make_directory(&self, id: &ChunkId) -> Result<bool, SourceError> {
        let name = hex::encode(&id.0[..2]);
        match rustix::fs::mkdirat(&self.inner.directory, name.as_str(), Mode::from_raw_mode(0o777)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(SourceError::io(self.place(&name), errno)),
        }
    }

    fn place(&self, below: &str) -> String {
        self.inner.path.join(below).display().to_string()
    }
}

impl ChunkSource for LocalStore {
    fn fetch(&self, id: ChunkId) -> BoxFuture<'_, Result<Option<Encoded>, SourceError>> {
        let store = self.clone();
        async move {
            match tokio::task::spawn_blocking(move || store.get(id)).await {
                Ok(result) => result,
                Err(error) => Err(SourceError::unavailable(self.name(), error)),
            }
        }
        .boxed()
    }

    fn name(&self) -> &str {
        &self.inner.name
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Reads up to `size` bytes; fewer if the file has become shorter.
fn read_whole(mut file: File, size: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
