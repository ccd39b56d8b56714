//! What this node can serve chunks from: stores, and extracted images as they lie on disk, without a second copy.
//! What a holder reads is unverified; `serve` verifies before anything leaves.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::ChunkId;

use crate::chunk::{Encoded, Encoding};
use crate::extract::assembly::Assembly;
use crate::format::layout::Layout;
use crate::source::SourceError;
use crate::source::local_store::LocalStore;

/// Somewhere on this machine that chunks can be read from. All calls block.
pub trait Holder: Send + Sync {
    /// What to call it: a path.
    fn name(&self) -> String;

    /// Whether it is worth reading. A wrong `true` costs a read.
    fn has(&self, id: &ChunkId) -> bool;

    /// The bytes of a chunk, unverified; `None` if they are not here.
    fn read(&self, id: &ChunkId) -> Result<Option<Encoded>, SourceError>;

    /// How many chunks it holds, for people.
    fn count(&self) -> u64;

    /// What it gave for this chunk was not the chunk. It need not be asked again.
    fn refused(&self, _id: &ChunkId) {}

    /// Whether what it reads from was removed, and lives on only because it is open here.
    fn is_removed(&self) -> bool {
        false
    }
}

/// A `.castr` directory. Which chunks it has is read once, when it is opened, and again when asked for.
pub struct StoreHolder {
    store: LocalStore,
    ids: HashSet<ChunkId>,
}

impl StoreHolder {
    /// Opens the store and lists it.
    ///
    /// # Errors
    /// When it is no store or cannot be read.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let store = LocalStore::open(path)?;
        let ids = store.ids()?.collect::<Result<_, _>>()?;
        Ok(Self { store, ids })
    }
}

impl Holder for StoreHolder {
    fn name(&self) -> String {
        self.store.path().display().to_string()
    }

    fn has(&self, id: &ChunkId) -> bool {
        self.ids.contains(id)
    }

    fn read(&self, id: &ChunkId) -> Result<Option<Encoded>, SourceError> {
        self.store.get(*id)
    }

    fn count(&self) -> u64 {
        self.ids.len() as u64
    }
}

/// An extracted image, read by the layout of its index.
pub struct ImageHolder {
    path: PathBuf,
    file: File,
    layout: Arc<Layout>,
}

impl ImageHolder {
    /// Opens the image. Its content is not looked at: what does not verify later is not served.
    ///
    /// # Errors
    /// When the image cannot be read; the message names the file.
    pub fn open(path: &Path, layout: Arc<Layout>) -> Result<Self, SourceError> {
        let failed = |reason: String| SourceError::Io { path: path.to_owned(), reason };
        // Opening a pipe would wait for a writer.
        let kind = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(failed("neither a file nor a block device".into()));
        }
        let file = File::open(path).map_err(|e| failed(e.to_string()))?;
        Ok(Self { path: path.to_owned(), file, layout })
    }
}

impl Holder for ImageHolder {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn has(&self, id: &ChunkId) -> bool {
        self.layout.position(id).is_some()
    }

    fn read(&self, id: &ChunkId) -> Result<Option<Encoded>, SourceError> {
        let Some(position) = self.layout.position(id) else { return Ok(None) };
        let Some(&offset) = self.layout.offsets(position).first() else { return Ok(None) };
        let mut bytes = vec![0; self.layout.length(position) as usize];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(Some(Encoded { encoding: Encoding::Plain, bytes: bytes.into() })),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(SourceError::Io { path: self.path.clone(), reason: e.to_string() }),
        }
    }

    fn count(&self) -> u64 {
        u64::from(self.layout.count())
    }

    fn is_removed(&self) -> bool {
        self.file.metadata().is_ok_and(|meta| meta.nlink() == 0)
    }
}

/// The target of an extraction under way, or done.
pub struct AssemblyHolder(pub Arc<Assembly>);

impl Holder for AssemblyHolder {
    fn name(&self) -> String {
        "the image being extracted".into()
    }

    fn has(&self, id: &ChunkId) -> bool {
        self.0.layout().position(id).is_some_and(|position| self.0.holds(position))
    }

    fn read(&self, id: &ChunkId) -> Result<Option<Encoded>, SourceError> {
        let Some(position) = self.0.layout().position(id) else { return Ok(None) };
        match self.0.read(position) {
            Ok(bytes) => Ok(Some(Encoded { encoding: Encoding::Plain, bytes: bytes.into() })),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(SourceError::Io { path: self.name().into(), reason: e.to_string() }),
        }
    }

    fn count(&self) -> u64 {
        self.0.count()
    }
}
