//! Chunks inside a local file or block device: which chunks lie where, by an index of it or by cutting it. What a seed
//! says may be wrong (its index may be of another file, the file may have changed since): the hash finds out later, and
//! a seed that lies only costs time.

mod scan;

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use proto::ChunkId;

use super::{ChunkSource, SourceError};
use crate::chunk::{Encoded, Encoding};
use crate::format::digest::Digest;
use crate::format::index::Index;

/// A file or device that has chunks in it. Cheap to clone. The methods block.
#[derive(Clone)]
pub struct Seed {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    name: String,
    file: File,
    /// Sorted by id, one row for each.
    rows: Vec<Row>,
}

/// Where a chunk is said to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Of its first byte, in bytes.
    pub offset: u64,
    /// In bytes.
    pub length: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    id: ChunkId,
    offset: u64,
    length: u32,
}

/// The chunks that somebody looks for in a seed, with their lengths: whatever is not wanted is not remembered, mostly
/// not even hashed, and the search ends when all are found.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Sorted by id, one for each.
    chunks: Vec<(ChunkId, u32)>,
}

impl Wanted {
    /// These chunks, in any order; repetitions are dropped.
    pub fn new(chunks: impl IntoIterator<Item = (ChunkId, u32)>) -> Self {
        let mut chunks: Vec<_> = chunks.into_iter().collect();
        chunks.sort_unstable();
        chunks.dedup_by_key(|chunk| chunk.0);
        Self { chunks }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    fn place(&self, id: &ChunkId) -> Option<usize> {
        self.chunks.binary_search_by_key(id, |chunk| chunk.0).ok()
    }
}

impl Seed {
    /// Takes an index's word for what is in the file at `path`; of its chunks only `wanted` ones are remembered (all,
    /// if `None`). The file may be shorter than the index says.
    ///
    /// # Errors
    /// `Io` when the file cannot be opened, `Refused` when it is neither a file nor a block device.
    pub fn with_index(path: impl AsRef<Path>, index: &Index, wanted: Option<&Wanted>) -> Result<Self, SourceError> {
        let file = open(path.as_ref())?;
        let mut offset = 0;
        let mut rows = Vec::new();
        for chunk in &index.chunks {
            let length = u32::try_from(chunk.end.saturating_sub(offset)).ok();
            let takes = wanted.is_none_or(|wanted| wanted.place(&chunk.id).is_some());
            if let (Some(length), true) = (length, takes) {
                rows.push(Row { id: chunk.id, offset, length });
            }
            offset = chunk.end;
        }
        Ok(Self::of(path.as_ref(), file, rows))
    }

    /// Cuts the file at `path` with a target's chunk sizes and digest on `threads` threads, and remembers where the
    /// `wanted` chunks are. Ends early when all are found.
    ///
    /// # Errors
    /// As [`Self::with_index`], and `Io` when the file cannot be read.
    pub fn by_cutting(
        path: impl AsRef<Path>,
        sizes: [u64; 3],
        digest: Digest,
        wanted: &Wanted,
        threads: usize,
    ) -> Result<Self, SourceError> {
        let path = path.as_ref();
        let file = open(path)?;
        let rows = scan::scan(&file, path, sizes, digest, wanted, threads)?;
        Ok(Self::of(path, file, rows))
    }

    fn of(path: &Path, file: File, mut rows: Vec<Row>) -> Self {
        rows.sort_unstable();
        rows.dedup_by_key(|row| row.id);
        rows.shrink_to_fit();
        let name = path.display().to_string();
        Self { inner: Arc::new(Inner { path: path.to_owned(), name, file, rows }) }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The open file, for reflinks.
    pub fn file(&self) -> &File {
        &self.inner.file
    }

    /// How many different chunks are known to be in it.
    pub fn len(&self) -> usize {
        self.inner.rows.len()
    }

    /// Whether it has nothing of use.
    pub fn is_empty(&self) -> bool {
        self.inner.rows.is_empty()
    }

    /// The ids of the chunks in it, in ascending order.
    pub fn ids(&self) -> impl Iterator<Item = ChunkId> + '_ {
        self.inner.rows.iter().map(|row| row.id)
    }

    /// Where a chunk is said to lie in the file; `None` if it is not in it.
    pub fn find(&self, id: &ChunkId) -> Option<Extent> {
        let at = self.inner.rows.binary_search_by_key(id, |row| row.id).ok()?;
        let row = self.inner.rows[at];
        Some(Extent { offset: row.offset, length: row.length })
    }

    /// Reads a chunk where it is said to lie; `None` if it is not known, or the file has become too short for it.
    ///
    /// # Errors
    /// `Io` when the file cannot be read there.
    pub fn get(&self, id: ChunkId) -> Result<Option<Encoded>, SourceError> {
        let Some(extent) = self.find(&id) else { return Ok(None) };
        let mut bytes = vec![0; extent.length as usize];
        match self.inner.file.read_exact_at(&mut bytes, extent.offset) {
            Ok(()) => Ok(Some(Encoded { encoding: Encoding::Plain, bytes: bytes.into() })),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(SourceError::io(&self.inner.path, error)),
        }
    }
}

impl ChunkSource for Seed {
    fn fetch(&self, id: ChunkId) -> BoxFuture<'_, Result<Option<Encoded>, SourceError>> {
        let seed = self.clone();
        async move {
            match tokio::task::spawn_blocking(move || seed.get(id)).await {
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

/// What `--seed` names: a file or, for trees, a directory; or desync's `INDEX:FILE`, where INDEX ends in `.caibx` or
/// `.caidx`. Its own index lies beside it as `FILE.caibx` or `DIRECTORY.caidx`, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedName {
    /// The index, if one was named or lies beside the file.
    pub index: Option<PathBuf>,
    /// The file, device or directory.
    pub file: PathBuf,
}

impl SeedName {
    /// Takes apart what was typed and looks for an index beside the file.
    pub fn parse(text: &str) -> Self {
        for mark in [".caibx:", ".caidx:"] {
            if let Some(at) = text.find(mark) {
                let (index, file) = (&text[..at + mark.len() - 1], &text[at + mark.len()..]);
                if !file.is_empty() {
                    return Self { index: Some(index.into()), file: file.into() };
                }
            }
        }
        let file = PathBuf::from(text);
        let kind = if file.is_dir() { ".caidx" } else { ".caibx" };
        let beside = PathBuf::from(format!("{}{kind}", text.trim_end_matches('/')));
        Self { index: beside.is_file().then_some(beside), file }
    }
}

fn open(path: &Path) -> Result<File, SourceError> {
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    // NONBLOCK: a fifo must not hang us.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file =
        File::options().read(true).custom_flags(flags).open(path).map_err(|error| SourceError::io(path, error))?;
    let kind = file.metadata().map_err(|error| SourceError::io(path, error))?.file_type();
    if kind.is_dir() {
        return Err(SourceError::refused(path.display(), "a directory: only files and block devices can be seeds"));
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(SourceError::refused(path.display(), "neither a file nor a block device, so not a seed"));
    }
    Ok(file)
}
