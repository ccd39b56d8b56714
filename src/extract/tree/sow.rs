//! A tree as a seed: its archive, with the features and chunk sizes of the one that is wanted, is cut as it is read, and
//! every chunk that is missing goes into the assembly. Reading and cutting on one thread, hashing and writing on the
//! others; in memory there are a few blocks.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::chunk::name_many;
use crate::extract::assembly::Assembly;
use crate::extract::plan::span;
use crate::extract::progress::{Place, Progress};
use crate::format::chunk_sizes::ChunkSizes;
use crate::format::chunker::Chunker;
use crate::format::features;
use crate::format::index::Index;
use crate::tree::archiver::Archiver;
use crate::tree::owners::Shift;
use crate::tree::{Settings, TreeError};

/// How much is cut at once, in bytes, unless the largest chunk needs more.
const BLOCK: usize = 2 << 20;

/// Takes from the tree at `top` what `assembly` lacks.
///
/// # Errors
/// What cannot be read; what was found until then is taken.
pub(super) fn sow(
    top: &Path,
    index: &Index,
    assembly: &Assembly,
    threads: usize,
    progress: &Progress,
) -> Result<(), TreeError> {
    // The bits that say what was left out of the archive say what to leave out of the seed, but for the digest's name.
    let settings = Settings { features: features::normalised(index.flags), shift: Shift::default() };
    let archiver = Archiver::open(top, settings)?;
    let [min, avg, max] = index.sizes;
    let Ok(sizes) = ChunkSizes::new(min, avg, max) else { return Ok(()) };
    let (send, receive) = sync_channel(threads.max(1));
    let receive = Mutex::new(receive);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| take(&receive, index, assembly, progress));
        }
        cut(archiver, sizes, |batch| send.send(batch).is_ok())?;
        drop(send);
        Ok(())
    })
}

/// Cuts the whole archive into batches of chunks.
fn cut(mut archiver: Archiver, sizes: ChunkSizes, mut send: impl FnMut(Vec<Bytes>) -> bool) -> Result<(), TreeError> {
    let mut chunker = Chunker::new(sizes);
    let mut rest = Bytes::new();
    loop {
        let mut bytes = Vec::with_capacity(BLOCK.max(2 * sizes.max() as usize));
        bytes.extend_from_slice(&rest);
        let read = archiver.fill(&mut bytes)?;
        let bytes = Bytes::from(bytes);
        let (mut start, mut seen, mut chunks) = (0, rest.len(), Vec::new());
        while let Some(cut) = chunker.next_cut(&bytes[seen..]) {
            seen += cut;
            chunks.push(bytes.slice(start..seen));
            start = seen;
        }
        if read == 0 && start < bytes.len() {
            chunks.push(bytes.slice(start..));
        }
        rest = bytes.slice(start..);
        if !send(chunks) || read == 0 {
            return Ok(());
        }
    }
}

fn take(batches: &Mutex<Receiver<Vec<Bytes>>>, index: &Index, assembly: &Assembly, progress: &Progress) {
    let layout = assembly.layout();
    loop {
        let batch = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = batch else { return };
        for chunk in name_many(batch, index.digest()) {
            let Some(position) = layout.position(&chunk.id()) else { continue };
            if layout.length(position) as usize != chunk.bytes().len() {
                continue;
            }
            match assembly.put(position, &chunk) {
                Ok(true) => progress.add_image(Place::Seeds, span(layout, position)),
                Ok(false) => {}
                // Whoever writes next finds the same and says so.
                Err(error) => tracing::debug!(%error, "a chunk of a seed could not be written"),
            }
        }
    }
}
