//! A tree as a seed: its archive, with the features and chunk sizes of the one that is wanted, is cut as it is read, and
//! every chunk that is missing goes into the assembly. Reading and cutting on one thread, hashing and writing on the
//! others; in memory there are a few blocks.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::chunk::name_many;
use super::Origins;
use crate::extract::assembly::Assembly;
use crate::extract::plan::span;
use crate::extract::progress::{Place, Progress};
use crate::format::chunk_sizes::ChunkSizes;
use crate::format::features;
use crate::format::index::Index;
use crate::make::cutter::Cutter;
use crate::tree::archiver::Archiver;
use crate::tree::owners::Shift;
use crate::tree::{Settings, TreeError};

/// How much is cut at once, in bytes, unless the largest chunk needs more.
const BLOCK: usize = 2 << 20;

/// Takes from the tree at `top` what `assembly` lacks, and tells `origins` where everything is.
///
/// # Errors
/// What cannot be read; what was found until then is taken.
pub(super) fn sow(
    top: &Path,
    index: &Index,
    assembly: &Assembly,
    threads: usize,
    progress: &Progress,
    origins: Option<&Origins>,
) -> Result<(), TreeError> {
    // The bits that say what was left out of the archive say what to leave out of the seed, but for the digest's name.
    let settings = Settings { features: features::normalised(index.flags), shift: Shift::default() };
    let mut archiver = Archiver::open(top, settings)?;
    if let Some(origins) = origins {
        archiver = archiver.noting(origins.hardlink.then(|| index.digest()));
    }
    let [min, avg, max] = index.sizes;
    let Ok(sizes) = ChunkSizes::new(min, avg, max) else { return Ok(()) };
    let origins = origins.map(|origins| (origins, origins.seed()));
    let (send, receive) = sync_channel(threads.max(1));
    let receive = Mutex::new(receive);
    let taker = Taker { index, assembly, progress, origins };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| taker.work(&receive));
        }
        let done = taker.cut(archiver, sizes, |batch| send.send(batch).is_ok());
        drop(send);
        done
    })
}

/// Chunks that follow each other, and where the first one begins in the seed's archive.
struct Batch {
    offset: u64,
    chunks: Vec<Bytes>,
}

struct Taker<'a> {
    index: &'a Index,
    assembly: &'a Assembly,
    progress: &'a Progress,
    /// And which seed this is.
    origins: Option<(&'a Origins, u32)>,
}

impl Taker<'_> {
    /// Cuts the whole archive into batches of chunks.
    fn cut(
        &self,
        mut archiver: Archiver,
        sizes: ChunkSizes,
        mut send: impl FnMut(Batch) -> bool,
    ) -> Result<(), TreeError> {
        let mut cutter = Cutter::new(sizes, BLOCK);
        let mut offset = 0;
        loop {
            let cut = cutter.next(|block| archiver.fill(block))?;
            if let Some((origins, seed)) = self.origins {
                origins.note(seed, archiver.take_noted().into_iter());
            }
            let (last, length) = (cut.read.is_empty(), cut.chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>());
            if !send(Batch { offset, chunks: cut.chunks }) || last {
                return Ok(());
            }
            offset += length;
        }
    }

    fn work(&self, batches: &Mutex<Receiver<Batch>>) {
        loop {
            let batch = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(batch) = batch else { return };
            self.take(batch);
        }
    }

    fn take(&self, batch: Batch) {
        let layout = self.assembly.layout();
        let mut offset = batch.offset;
        for chunk in name_many(batch.chunks, self.index.digest()) {
            let begins = offset;
            offset += chunk.bytes().len() as u64;
            let Some(position) = layout.position(&chunk.id()) else { continue };
            if layout.length(position) as usize != chunk.bytes().len() {
                continue;
            }
            if let Some((origins, seed)) = self.origins {
                origins.found(position, seed, begins);
            }
            match self.assembly.put(position, &chunk) {
                Ok(true) => self.progress.add_image(Place::Seeds, span(layout, position)),
                Ok(false) => {}
                // Whoever writes next finds the same and says so.
                Err(error) => tracing::debug!(%error, "a chunk of a seed could not be written"),
            }
        }
    }
}
