//! A file, block device or tree becomes chunks in a store and an index; a tree also becomes an archive. Reads and cuts on
//! one thread, digests the stream on another, names, compresses and stores on the rest; what comes out is the same
//! however many they are. What a tree's stream is, [`crate::tree`] knows.

pub(crate) mod cutter;

mod archive;
mod file_system;
mod input;
mod output;
mod pipeline;

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proto::{ChunkId, IndexId};

use crate::chunk::Encoding;
use crate::format::chunk_sizes::ChunkSizes;
use crate::format::digest::Digest;
use crate::format::features;
use crate::format::index::{Index, IndexChunk};
use crate::source::SourceError;
use crate::source::local_store::LocalStore;
use crate::tree::archiver::Archiver;
use crate::tree::{Settings, TreeError};
pub use archive::{MadeArchive, digest_tree, make_archive};
pub use input::Input;

/// What to make, and how.
#[derive(Clone)]
pub struct Plan {
    /// Where chunks go; `None` is nowhere, for those who only want to know them.
    pub store: Option<LocalStore>,
    /// How to cut.
    pub sizes: ChunkSizes,
    /// How to name chunks.
    pub digest: Digest,
    /// How to compress chunks that the store does not have yet.
    pub encoding: Encoding,
    /// How many threads compress, at least one.
    pub threads: usize,
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// The digest of the whole stream, which casync prints.
    pub stream: ChunkId,
    /// The name of the index among peers, also in the `.id` file.
    pub index: IndexId,
    /// Length of the stream in bytes.
    pub length: u64,
    /// How many chunks the index has.
    pub chunks: usize,
    /// How many of them were new to the store.
    pub stored: usize,
}

/// Why nothing was made. Chunks stored so far stay; no index is left under its name.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The image cannot be read.
    #[error("{path}: {error}")]
    Input {
        /// The image.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is nothing that an image can be read from.
    #[error("{path}: {reason}")]
    Unsuitable {
        /// What was named as the image.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// The tree cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// It became shorter while it was read.
    #[error("{path}: ends at byte {read}, but was {length} bytes long when opened; is something writing to it?")]
    Shrunk {
        /// The image.
        path: PathBuf,
        /// Its length at first.
        length: u64,
        /// What could be read.
        read: u64,
    },
    /// The index would have more rows than anybody reads.
    #[error("{path}: more than {rows} chunks; use a larger --chunk-size")]
    TooManyChunks {
        /// The image.
        path: PathBuf,
        /// The most there may be.
        rows: usize,
    },
    /// The store takes no chunk.
    #[error(transparent)]
    Store(#[from] SourceError),
    /// A chunk could not be compressed.
    #[error("chunk {id}: {error}")]
    Compress {
        /// Which chunk.
        id: ChunkId,
        /// What the encoder said.
        error: io::Error,
    },
    /// The index cannot be written.
    #[error("{path}: {error}")]
    Output {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The system gives us no thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// Bytes to cut, in order.
trait Stream {
    /// Fills `block` unless the stream ends before. Returns how much was read.
    fn fill(&mut self, block: &mut [u8]) -> Result<usize, MakeError>;

    /// What it comes from.
    fn path(&self) -> &Path;
}

impl Stream for Archiver {
    fn fill(&mut self, block: &mut [u8]) -> Result<usize, MakeError> {
        Ok(Archiver::fill(self, block)?)
    }

    fn path(&self) -> &Path {
        self.top()
    }
}

/// Where an index goes.
#[derive(Debug, Clone)]
pub struct IndexFile {
    /// The file to write.
    pub path: PathBuf,
    /// Whether to write the `.id`. If not, one that is there already is still replaced.
    pub id: bool,
}

/// Cuts `input`, stores its chunks and writes the index and its `.id`. Blocks.
///
/// # Errors
/// [`MakeError`]; no index is left under its name then, unless only the `.id` could not be written.
pub fn make(mut input: Input, index: &IndexFile, plan: &Plan) -> Result<Made, MakeError> {
    let mode = input.mode();
    let flags = blob_flags(plan);
    keep(&mut input, mode, flags, index, plan)
}

/// Cuts the archive of the tree at `top`, stores its chunks and writes the index and its `.id`. Blocks. The digest is the
/// one that the feature flags name.
///
/// # Errors
/// As [`make`].
pub fn make_tree(top: &Path, settings: Settings, index: &IndexFile, plan: &Plan) -> Result<Made, MakeError> {
    let mut archiver = Archiver::open(top, settings)?;
    keep(&mut archiver, archive::mode(top)?, settings.features, index, plan)
}

/// Cuts `input` and stores its chunks; the bytes of the index are the caller's. Blocks.
///
/// # Errors
/// [`MakeError`].
pub fn cut(mut input: Input, plan: &Plan) -> Result<(Made, Bytes), MakeError> {
    cut_stream(&mut input, blob_flags(plan), plan)
}

/// The same for the archive of the tree at `top`.
///
/// # Errors
/// [`MakeError`].
pub fn cut_tree(top: &Path, settings: Settings, plan: &Plan) -> Result<(Made, Bytes), MakeError> {
    cut_stream(&mut Archiver::open(top, settings)?, settings.features, plan)
}

/// A file in the making that appears whole or not at all.
pub(crate) fn save(path: &Path, mode: u32) -> Result<output::Output, MakeError> {
    output::Output::create(path, mode)
}

/// Writes an index and its `.id`, so that there is never one that names another index.
pub(crate) fn save_index(index: &IndexFile, mode: u32, bytes: &[u8]) -> Result<(), MakeError> {
    let id = output::id_path(&index.path);
    let replaced = output::remove(&id)?;
    output::write(&index.path, mode, bytes)?;
    if index.id || replaced {
        output::write(&id, mode, format!("{}\n", Index::index_id(bytes)).as_bytes())?;
    }
    Ok(())
}

/// The digest of an image, without making anything of it. Blocks.
///
/// # Errors
/// When it cannot be read.
pub fn digest(mut input: Input, digest: Digest) -> Result<ChunkId, MakeError> {
    let mut hasher = digest.hasher();
    let mut block = vec![0; 1 << 20];
    loop {
        match input.fill(&mut block)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&block[..read]),
        }
    }
}

fn blob_flags(plan: &Plan) -> u64 {
    match plan.digest {
        Digest::Sha512_256 => features::BLOB | features::SHA512_256,
        Digest::Sha256 => features::BLOB,
    }
}

fn keep(stream: &mut dyn Stream, mode: u32, flags: u64, index: &IndexFile, plan: &Plan) -> Result<Made, MakeError> {
    // What the store has already is about to be relied on: until the index is there, nobody may remove it.
    let _shared = plan.store.as_ref().map(LocalStore::share).transpose()?;
    let (made, bytes) = cut_stream(stream, flags, plan)?;
    // Also where nothing was new: what is there may be of a make that was killed before it came to this.
    plan.store.as_ref().map(LocalStore::sync).transpose()?;
    save_index(index, mode, &bytes)?;
    Ok(made)
}

fn cut_stream(stream: &mut dyn Stream, flags: u64, plan: &Plan) -> Result<(Made, Bytes), MakeError> {
    let cut = pipeline::run(stream, plan)?;
    let chunks = cut.ends.iter().zip(cut.ids).map(|(&end, id)| IndexChunk { end, id }).collect();
    let index = Index { flags, sizes: plan.sizes.to_array(), chunks };
    let bytes = index.to_bytes();
    let (id, length, chunks) = (Index::index_id(&bytes), index.length(), index.chunks.len());
    Ok((Made { stream: cut.stream, index: id, length, chunks, stored: cut.stored }, bytes.into()))
}
