//! A tree from its archive, or from the index of one.
//!
//! The simplest thing that uses everything an image has: the archive is put together in a spool file beside the target,
//! by the same sources, neighbours and workers as any image, under the same kind of name, so that an interrupted
//! extraction is found again; an unpacker follows the front up to which the archive is whole, and writes the files.
//! The spool has no name any more when the tree is complete; until the neighbours need nothing more it is what they are
//! served from. It keeps only what is not yet, or not at all, content of larger files: these are read from the tree, and
//! an interrupted extraction finds them there too, the target being a seed. If a local store has every chunk there is nothing to put
//! together: the unpacker reads from the store, and there is no spool.
//!
//! Seeds that are directories, the target among them, are serialised as the archive would be, before the first file is
//! written; each chunk of them that is wanted goes into the spool, whatever file it came from.

mod follow;
mod origins;
mod sow;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ExtractError;
use super::assembly::Assembly;
use super::moved::TreeFile;
use super::reflink;
use super::sources::{SourceOptions, Stores};
use crate::browse::indexed::Indexed;
use crate::browse::reader::{ReadAt, Reader};
use crate::browse::{BrowseError, Tree, Visit};
use crate::format::archive::Kind;
use crate::format::index::Index;
use crate::format::layout::Layout;
use crate::source::seed::SeedName;
use crate::tree::unpack::{Options, UnpackError, Unpacked, Unpacker};
pub(super) use follow::{Ending, Follower};
pub(super) use origins::Origins;
pub(super) use sow::Sowing;

/// What of a tree is put where, and how.
#[derive(Debug, Clone)]
pub struct TreeTarget {
    /// The directory that the tree becomes, or that it is put into if `path` is not empty.
    pub directory: PathBuf,
    /// Only this path of the archive; its last component is what it is called in the directory.
    pub path: Vec<u8>,
    /// How it is put back.
    pub options: Options,
    /// Trees to take chunks from, besides the seeds that are files.
    pub seeds: Vec<SeedName>,
    /// Files that are equal to files of seeds become hard links to them.
    pub hardlink: bool,
}

/// Why a tree was not extracted. What was written stays, and the next run puts it right.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The archive cannot be read, or is none.
    #[error(transparent)]
    Archive(#[from] BrowseError),
    /// Something cannot be written.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Nobody takes the image.
    #[error("standard output: {0}")]
    Output(io::Error),
    /// The extraction gave up before the archive was whole.
    #[error("the archive did not become whole")]
    Abandoned,
}

/// Unpacks the archive that `source` has. Blocks.
///
/// # Errors
/// [`TreeError`]; what the target cannot have of metadata is none, but in the answer.
pub fn unpack(source: Box<dyn ReadAt>, features: Option<u64>, target: &TreeTarget) -> Result<Unpacked, TreeError> {
    unpack_sharing(source, features, target, None, None)
}

/// The same, sharing what it can with seeds that were read before, and telling the spool what it need not keep.
fn unpack_sharing(
    source: Box<dyn ReadAt>,
    features: Option<u64>,
    target: &TreeTarget,
    seeds: Option<(Arc<Origins>, Index)>,
    spool: Option<&Assembly>,
) -> Result<Unpacked, TreeError> {
    let mut tree = Tree::of(Reader::open(source, features, &target.path)?.reading_all());
    let mut unpacker: Option<Unpacker> = None;
    let mut directories = Vec::new();
    let mut content = 0..0;
    let part = !target.path.iter().all(|byte| *byte == b'/');
    loop {
        match tree.visit()? {
            Visit::Enter(node) => {
                // Nothing is touched before there is something to put there.
                let unpacker = match &mut unpacker {
                    Some(unpacker) => unpacker,
                    none => {
                        let mut unpacker = Unpacker::open(&target.directory, target.options)?;
                        if let Some((origins, _)) = seeds.as_ref().filter(|(origins, _)| origins.hardlink) {
                            let origins = origins.clone();
                            unpacker = unpacker.linking(move |digest| origins.equal(digest));
                        }
                        none.insert(unpacker)
                    }
                };
                let name = node.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                let name = if part || !directories.is_empty() { name } else { b"" };
                let kind = node.entry.kind.clone();
                directories.push(node.entry.is_directory());
                unpacker.enter(name, node.entry, tree.features())?;
                if let Kind::File { size } = kind {
                    content = tree.content_offset()..tree.content_offset().saturating_add(size);
                    if let Some((origins, index)) = &seeds {
                        unpacker.share(origins.shares(index, content.start, size));
                    }
                    let mut written = Ok(());
                    tree.content(|bytes| {
                        if written.is_ok() {
                            written = unpacker.content(bytes);
                        }
                    })?;
                    written?;
                }
            }
            Visit::Leave => {
                let directory = directories.pop().unwrap_or(false);
                if let Some(unpacker) = &mut unpacker {
                    let file = unpacker.leave(directory)?;
                    if let (Some(path), Some(top), Some(spool)) = (file, unpacker.top(), spool) {
                        spool.moved(content.clone(), TreeFile { top, path });
                    }
                }
            }
            Visit::End => return Ok(unpacker.map(Unpacker::finish).unwrap_or_default()),
        }
    }
}

/// Whether every chunk of the index is in a local store, so that nothing has to be put together.
pub(super) fn all_local(index: &Index, stores: &[super::local::StoreSource]) -> bool {
    let has = |id| stores.iter().any(|store| store.store().has(id).unwrap_or(false));
    let mut seen = std::collections::HashSet::new();
    index.chunks.iter().all(|chunk| !seen.insert(chunk.id) || has(chunk.id))
}

/// Unpacks straight from local stores.
pub(super) async fn unpack_local(
    index: Index,
    stores: Stores,
    place: String,
    target: TreeTarget,
) -> Result<Unpacked, ExtractError> {
    let features = index.flags;
    let indexed = Indexed::new(index, stores, place);
    let indexed = if target.path.is_empty() { indexed.sequential() } else { indexed };
    Ok(super::blocking(move || unpack(Box::new(indexed), Some(features), &target)).await??)
}

/// Takes chunks from every seed that is a directory, and hands those that are of the image to `found`. What cannot be
/// read is a warning. Blocks.
pub(super) fn sow(target: &TreeTarget, seed_output: bool, sowing: &Sowing<'_>) {
    for seed in seeds(target, seed_output) {
        if sowing.is_complete() {
            return;
        }
        if let Err(error) = sowing.sow(&seed) {
            tracing::warn!(%error, "this seed cannot be used; going on without it");
        }
    }
}

/// The seeds that are directories: those that were named, and the target.
fn seeds(target: &TreeTarget, seed_output: bool) -> impl Iterator<Item = SeedName> {
    let output =
        Some(&target.directory).filter(|directory| seed_output && target.path.is_empty() && directory.is_dir());
    target.seeds.iter().cloned().chain(output.map(|output| SeedName::parse(&output.to_string_lossy())))
}

/// What will be known of the seeds, if the target can share anything with them.
pub(super) fn origins(target: &TreeTarget, options: &SourceOptions, layout: &Arc<Layout>) -> Option<Arc<Origins>> {
    seeds(target, options.seed_output).next()?;
    let there = if target.directory.is_dir() { Some(target.directory.as_path()) } else { target.directory.parent() };
    let there = there.filter(|there| !there.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let reflink = options.reflink && reflink::works_in(there);
    (reflink || target.hardlink).then(|| Arc::new(Origins::new(layout.clone(), target.hardlink, reflink)))
}

/// Where the spool of a tree goes, as if it were an image of this name: beside the target, or where temporary files go
/// if nothing can be made there.
pub(super) fn spool_places(directory: &Path) -> Vec<PathBuf> {
    let real = std::fs::canonicalize(directory).unwrap_or_else(|_| {
        let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = std::fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned());
        parent.join(directory.file_name().unwrap_or_default())
    });
    let name = real.file_name().map_or_else(|| "root".into(), std::ffi::OsStr::to_owned);
    let temporary = crate::temporary::directory().join(&name);
    // The top of all file systems has nothing beside it.
    match real.parent() {
        Some(_) => vec![real, temporary],
        None => vec![temporary],
    }
}

/// Starts the unpacker that follows an assembly.
pub(super) fn follow(
    target: &TreeTarget,
    index: &Index,
    assembly: &Arc<Assembly>,
    origins: Option<Arc<Origins>>,
    seed_output: bool,
) -> io::Result<(Follower, Ending)> {
    let (target, features) = (target.clone(), index.flags);
    // What is not a seed of the next run, were this one interrupted, has to stay in the spool.
    let spool = Some(assembly.clone()).filter(|_| seed_output && target.path.is_empty());
    Follower::start(index.clone(), assembly.clone(), move |source, index| {
        let seeds = origins.map(|origins| (origins, index));
        unpack_sharing(source, Some(features), &target, seeds, spool.as_deref())
    })
}
