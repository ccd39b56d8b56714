//! A tree on disk with the index of its archive: chunks are put together from the files as they are asked for. The tree is
//! walked once, for a map from places in the archive to files and to the records between them, which lie in a temporary
//! file without a name; of content there is one chunk at a time in memory.
//!
//! Nothing is promised: a file may change at any time, and what does not verify is then held no longer. A tree that does
//! not fit its index in length when it is opened is cut anew, so that only what changed is missing.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use proto::ChunkId;
use roaring::RoaringBitmap;
use rustix::fs::{Mode, OFlags};

use super::holder::Holder;
use crate::chunk::{Encoded, Encoding, name_many};
use crate::format::archive::{EncodeError, Encoder, Kind};
use crate::format::chunk_sizes::ChunkSizes;
use crate::format::features;
use crate::format::index::Index;
use crate::format::layout::Layout;
use crate::make::cutter::Cutter;
use crate::source::SourceError;
use crate::tree::archiver::Archiver;
use crate::tree::beneath;
use crate::tree::owners::Shift;
use crate::tree::walk::{Step, Walk};
use crate::tree::{Settings, TreeError};

/// How much is cut at once, in bytes, and how many bytes of records are held before they are written.
const BLOCK: usize = 2 << 20;

/// The most files and directories of a tree that are remembered: some 60 bytes and a name each.
const ENTRIES: usize = 4 << 20;

/// An extracted tree, read by the layout of its archive's index.
pub(super) struct TreeHolder {
    path: PathBuf,
    top: OwnedFd,
    layout: Arc<Layout>,
    map: Map,
    /// Where each position lies in the archive of the tree as it is, where that is not what the index says.
    found: Option<Vec<Option<u64>>>,
    /// Positions that turned out not to be there.
    gone: RwLock<RoaringBitmap>,
    /// The file that was read last, by its entry.
    last: Mutex<Option<(u32, File)>>,
}

/// Where everything in the archive comes from.
#[derive(Default)]
struct Map {
    /// By where they begin in the archive.
    parts: Vec<Part>,
    entries: Vec<Named>,
    names: Vec<u8>,
    records: Option<File>,
    length: u64,
}

struct Part {
    start: u64,
    from: From,
}

enum From {
    /// A place among the records.
    Records(u64),
    /// An entry's content.
    Content(u32),
}

/// A file or directory: its name, and the directory that it is in; the top is its own.
struct Named {
    parent: u32,
    name: u32,
    length: u16,
}

impl TreeHolder {
    /// Walks the tree at `path`; `index` is that of its archive. Blocks.
    ///
    /// # Errors
    /// When the tree cannot be walked; the message names the place.
    pub(super) fn open(path: &Path, index: &Index, layout: Arc<Layout>) -> Result<Self, SourceError> {
        let failed = |error: TreeError| SourceError::Io { path: path.to_owned(), reason: error.to_string() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| SourceError::io(path, errno))?;
        let settings = Settings { features: features::normalised(index.flags), shift: Shift::default() };
        let map = Map::of(path, settings).map_err(failed)?;
        let found = match map.length == index.length() {
            true => None,
            false => Some(search(path, settings, index, &layout).map_err(failed)?),
        };
        Ok(Self { path: path.to_owned(), top, layout, map, found, gone: RwLock::default(), last: Mutex::default() })
    }

    /// Where a chunk lies in the archive, if it is held.
    fn place(&self, id: &ChunkId) -> Option<(u32, u64)> {
        let position = self.layout.position(id)?;
        if self.gone.read().unwrap_or_else(PoisonError::into_inner).contains(position) {
            return None;
        }
        let place = match &self.found {
            Some(found) => found.get(position as usize).copied().flatten(),
            None => self.layout.offsets(position).first().copied(),
        };
        Some((position, place?))
    }

    fn lose(&self, position: u32) {
        self.gone.write().unwrap_or_else(PoisonError::into_inner).insert(position);
    }

    /// Puts together a stretch of the archive. Whether it is all there.
    fn fill(&self, offset: u64, bytes: &mut [u8]) -> std::io::Result<bool> {
        let mut filled = 0;
        while filled < bytes.len() {
            let at = offset + filled as u64;
            let next = self.map.parts.partition_point(|part| part.start <= at);
            let Some(part) = next.checked_sub(1).and_then(|number| self.map.parts.get(number)) else {
                return Ok(false);
            };
            let end = self.map.parts.get(next).map_or(self.map.length, |part| part.start);
            let length = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len() - filled);
            let piece = &mut bytes[filled..filled + length];
            let inside = at - part.start;
            let there = match (&part.from, &self.map.records) {
                _ if length == 0 => false,
                (From::Records(place), Some(records)) => records.read_exact_at(piece, place + inside).is_ok(),
                (From::Records(_), None) => false,
                (From::Content(entry), _) => self.content(*entry, inside, piece)?,
            };
            if !there {
                return Ok(false);
            }
            filled += length;
        }
        Ok(true)
    }

    /// Content of a file, if there is a file and so much in it.
    fn content(&self, entry: u32, offset: u64, piece: &mut [u8]) -> std::io::Result<bool> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(known, _)| *known != entry) {
            let Some(file) = self.map.open(self.top.as_fd(), entry) else { return Ok(false) };
            *last = Some((entry, file));
        }
        let Some((_, file)) = last.as_ref() else { return Ok(false) };
        let read = file.read_exact_at(piece, offset);
        // One that was replaced by its name, as package managers do, is looked up again the next time.
        let replaced = std::os::unix::fs::MetadataExt::nlink(&file.metadata()?) == 0;
        if replaced || read.is_err() {
            *last = None;
        }
        match read {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Holder for TreeHolder {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn has(&self, id: &ChunkId) -> bool {
        self.place(id).is_some()
    }

    fn read(&self, id: &ChunkId) -> Result<Option<Encoded>, SourceError> {
        let Some((position, offset)) = self.place(id) else { return Ok(None) };
        let mut bytes = vec![0; self.layout.length(position) as usize];
        match self.fill(offset, &mut bytes) {
            Ok(true) => Ok(Some(Encoded { encoding: Encoding::Plain, bytes: bytes.into() })),
            Ok(false) => {
                self.lose(position);
                Ok(None)
            }
            Err(error) => Err(SourceError::io(&self.path, error)),
        }
    }

    fn count(&self) -> u64 {
        let held =
            self.found.as_ref().map_or(u64::from(self.layout.count()), |found| found.iter().flatten().count() as u64);
        held.saturating_sub(self.gone.read().unwrap_or_else(PoisonError::into_inner).len())
    }

    fn is_removed(&self) -> bool {
        rustix::fs::fstat(&self.top).is_ok_and(|stat| stat.st_nlink == 0)
    }

    fn refused(&self, id: &ChunkId) {
        if let Some((position, _)) = self.place(id) {
            self.lose(position);
        }
    }
}

impl Map {
    /// Walks the tree. No content is read.
    fn of(top: &Path, settings: Settings) -> Result<Self, TreeError> {
        let unfit = |reason: String| TreeError::Unfit { path: top.to_owned(), reason };
        let failed = |error: EncodeError| TreeError::Archive { path: top.to_owned(), error };
        let mut walk = Walk::open(top, settings)?;
        let mut encoder = Encoder::new(settings.features);
        let mut map = Self::default();
        let mut records = crate::temporary::nameless()
            .map_err(|error| unfit(format!("no temporary file for its records: {error}")))?;
        // Records that are not written yet, and where in the file they will be.
        let (mut out, mut written) = (Vec::new(), 0);
        let mut open: Vec<Option<u32>> = Vec::new();
        while let Some(step) = walk.step()? {
            let (before, start) = (out.len(), encoder.offset());
            let mut content = None;
            match step {
                Step::Enter(name, entry) => {
                    let encoded = match name.as_slice() {
                        b"" => encoder.root(&entry, &mut out),
                        name => encoder.child(name, &entry, &mut out),
                    };
                    encoded.map_err(failed)?;
                    let file = match entry.kind {
                        Kind::File { size } if size > 0 => Some(size),
                        _ => None,
                    };
                    let number = match file.is_some() || entry.is_directory() {
                        true => Some(map.add(open.iter().rev().find_map(|at| *at), &name).map_err(unfit)?),
                        false => None,
                    };
                    content = number.zip(file);
                    open.push(number.filter(|_| entry.is_directory()));
                }
                Step::Leave => {
                    if open.pop().flatten().is_some() {
                        encoder.end(&mut out).map_err(failed)?;
                    }
                }
            }
            let after_content = map.parts.last().is_none_or(|part| matches!(part.from, From::Content(_)));
            if out.len() > before && after_content {
                map.parts.push(Part { start, from: From::Records(written + before as u64) });
            }
            if let Some((number, size)) = content {
                map.parts.push(Part { start: encoder.offset(), from: From::Content(number) });
                encoder.content(size).map_err(failed)?;
            }
            if out.len() >= BLOCK {
                records.write_all(&out).map_err(|error| unfit(format!("its records: {error}")))?;
                written += out.len() as u64;
                out.clear();
            }
        }
        records.write_all(&out).map_err(|error| unfit(format!("its records: {error}")))?;
        map.length = encoder.offset();
        map.records = Some(records);
        Ok(map)
    }

    fn add(&mut self, parent: Option<u32>, name: &[u8]) -> Result<u32, String> {
        let number = self.entries.len() as u32;
        if self.entries.len() >= ENTRIES {
            return Err(format!("more than {ENTRIES} files; too large a tree to be served from"));
        }
        // Names are at most 255 bytes, and so many of them fit.
        let (at, length) = (self.names.len() as u32, name.len() as u16);
        self.names.extend_from_slice(name);
        self.entries.push(Named { parent: parent.unwrap_or(number), name: at, length });
        Ok(number)
    }

    /// Opens a file. `None`: it is not there, or no file any more.
    fn open(&self, top: BorrowedFd<'_>, entry: u32) -> Option<File> {
        let mut names = Vec::new();
        let mut at = entry;
        loop {
            let named = self.entries.get(at as usize)?;
            if named.parent == at {
                break;
            }
            let name = self.names.get(named.name as usize..named.name as usize + usize::from(named.length))?;
            names.push(CString::new(name).ok()?);
            at = named.parent;
        }
        names.reverse();
        beneath::open_file(top, &names)
    }
}

/// Finds the chunks of an index in the archive of a tree that is not quite that of the index.
fn search(top: &Path, settings: Settings, index: &Index, layout: &Layout) -> Result<Vec<Option<u64>>, TreeError> {
    let mut found = vec![None; layout.count() as usize];
    let [min, avg, max] = index.sizes;
    let Ok(sizes) = ChunkSizes::new(min, avg, max) else { return Ok(found) };
    let mut archiver = Archiver::open(top, settings)?;
    let mut cutter = Cutter::new(sizes, BLOCK);
    let mut offset = 0;
    loop {
        let cut = cutter.next(|block| archiver.fill(block))?;
        let last = cut.read.is_empty();
        for chunk in name_many(cut.chunks, index.digest()) {
            if let Some(place) = layout.position(&chunk.id()).and_then(|position| found.get_mut(position as usize)) {
                place.get_or_insert(offset);
            }
            offset += chunk.bytes().len() as u64;
        }
        if last {
            return Ok(found);
        }
    }
}
