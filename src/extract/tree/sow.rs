//! A tree as a seed: its archive, with the features and chunk sizes of the one that is wanted, is cut as it is read, and
//! every chunk that is wanted is handed over. If the tree's own index is there, only what is wanted is read, and nothing
//! is cut; if it turns out to be of another tree, the seed is cut after all. Reading and cutting on one thread, hashing
//! on the others; in memory there are a few blocks.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use proto::{ChunkId, Position};

use super::Origins;
use crate::blocks::Pool;
use crate::chunk::{Chunk, name_many};
use crate::extract::sources::read_index;
use crate::format::chunk_sizes::ChunkSizes;
use crate::format::features;
use crate::format::index::{Index, IndexChunk};
use crate::format::layout::Layout;
use crate::make::cutter::Cutter;
use crate::source::seed::SeedName;
use crate::tree::archiver::Archiver;
use crate::tree::owners::Shift;
use crate::tree::{Settings, TreeError};

/// How much is cut at once, in bytes, unless the largest chunk needs more.
const BLOCK: usize = 2 << 20;

/// How many chunks may not be what a seed's index says before it is believed no more.
const MISTAKES: usize = 16;

/// How many chunks of a seed are looked at although they are not wanted, to see whether its index says the truth.
const SAMPLE: usize = 4;

/// What is looked for in seeds, and what is done with it.
pub(in crate::extract) struct Sowing<'a> {
    /// The index of what is wanted.
    pub(in crate::extract) index: &'a Index,
    /// Its layout.
    pub(in crate::extract) layout: &'a Layout,
    /// How many threads hash.
    pub(in crate::extract) threads: usize,
    /// Told where everything is.
    pub(in crate::extract) origins: Option<&'a Origins>,
    /// Whether a position is not needed any more.
    pub(in crate::extract) held: &'a (dyn Fn(Position) -> bool + Sync),
    /// Takes what was found.
    pub(in crate::extract) found: &'a (dyn Fn(Position, &Chunk) + Sync),
}

/// Chunks that follow each other, and where the first one begins in the seed's archive.
struct Batch {
    offset: u64,
    chunks: Vec<Bytes>,
    /// What an index says that they are.
    claims: Vec<ChunkId>,
}

impl Sowing<'_> {
    /// Whether seeds are of no use any more.
    pub(super) fn is_complete(&self) -> bool {
        self.origins.is_none() && (0..self.layout.count()).all(|position| (self.held)(position))
    }

    /// Takes from the tree what is wanted.
    ///
    /// # Errors
    /// What cannot be read; what was found until then is taken.
    pub(super) fn sow(&self, seed: &SeedName) -> Result<(), TreeError> {
        // Whoever wants to link files has to see them whole.
        let whole = self.origins.is_some_and(|origins| origins.hardlink);
        if let Some(path) = seed.index.as_ref().filter(|_| !whole) {
            match read_index(path) {
                Ok(index) if index.digest() == self.index.digest() && index.flags & features::ALL != 0 => {
                    if self.by_index(&seed.file, &index)? {
                        return Ok(());
                    }
                    tracing::warn!("{}: not of this tree as it is now; cutting it instead", path.display());
                }
                Ok(_) => {
                    tracing::warn!("{}: of another digest, or no tree's; cutting the seed instead", path.display());
                }
                Err(reason) => tracing::warn!("{}: {reason}; cutting the seed instead", path.display()),
            }
        }
        self.by_cutting(&seed.file)
    }

    /// Cuts the whole archive of the seed.
    fn by_cutting(&self, top: &Path) -> Result<(), TreeError> {
        let mut archiver = self.archiver(top, self.index.flags)?;
        let [min, avg, max] = self.index.sizes;
        let Ok(sizes) = ChunkSizes::new(min, avg, max) else { return Ok(()) };
        let seed = self.origins.map(|origins| origins.seed());
        let mut cutter = Cutter::new(sizes, BLOCK);
        let mut offset = 0;
        self.with_takers(seed, |send| {
            loop {
                let cut = cutter.next(|block| archiver.fill(block))?;
                if let Some((origins, seed)) = self.origins.zip(seed) {
                    origins.note(seed, archiver.take_noted().into_iter());
                }
                let last = cut.read.is_empty();
                let length: u64 = cut.chunks.iter().map(|chunk| chunk.len() as u64).sum();
                if !send(Batch { offset, chunks: cut.chunks, claims: Vec::new() }) || last {
                    return Ok(());
                }
                offset += length;
            }
        })
        .map(|_| ())
    }

    /// Reads what the seed's index says that is wanted. Returns whether it said the truth.
    fn by_index(&self, top: &Path, seed_index: &Index) -> Result<bool, TreeError> {
        let mut archiver = self.archiver(top, seed_index.flags)?;
        let seed = self.origins.map(|origins| origins.seed());
        let longest = seed_index.sizes[2] as usize;
        let pool = Pool::new(BLOCK.max(longest));
        let mut longer = false;
        let mistakes = self.with_takers(seed, |send| {
            let wanted = |place: usize, id: &ChunkId| place < SAMPLE || self.is_wanted(id);
            let mut rows = seed_index.chunks.iter().enumerate().peekable();
            let mut offset = 0;
            while rows.peek().is_some() {
                let start = offset;
                let mut skip = 0;
                while let Some((_, row)) = rows.next_if(|(place, row)| !wanted(*place, &row.id)) {
                    skip += row.end - offset;
                    offset = row.end;
                }
                archiver.skip(skip)?;
                let mut block = pool.block();
                let (mut ends, mut claims) = (Vec::new(), Vec::new());
                let begin = start + skip;
                let fits = |row: &IndexChunk| (row.end - begin) as usize <= block.len();
                while let Some((_, row)) = rows.next_if(|(place, row)| wanted(*place, &row.id) && fits(row)) {
                    offset = row.end;
                    ends.push((row.end - begin) as usize);
                    claims.push(row.id);
                }
                let length = (offset - begin) as usize;
                let read = archiver.fill(&mut block[..length])?;
                if let Some((origins, seed)) = self.origins.zip(seed) {
                    origins.note(seed, archiver.take_noted().into_iter());
                }
                let bytes = block.into_bytes(read);
                let mut before = 0;
                let whole = ends.iter().take_while(|end| **end <= read);
                let chunks = whole.map(|&end| bytes.slice(std::mem::replace(&mut before, end)..end)).collect();
                if !send(Batch { offset: begin, chunks, claims }) || read < length {
                    return Ok(());
                }
            }
            longer = archiver.skip(1)? > 0;
            Ok(())
        })?;
        Ok(mistakes == 0 && !longer)
    }

    fn archiver(&self, top: &Path, flags: u64) -> Result<Archiver, TreeError> {
        // The bits that say what was left out of the archive say what to leave out of the seed, but for the digest's name.
        let settings = Settings { features: features::normalised(flags), shift: Shift::default() };
        let archiver = Archiver::open(top, settings)?;
        Ok(match self.origins {
            Some(origins) => archiver.noting(origins.hardlink.then(|| self.index.digest())),
            None => archiver,
        })
    }

    fn is_wanted(&self, id: &ChunkId) -> bool {
        // Where a chunk is that is there already may be asked, too.
        self.layout.position(id).is_some_and(|position| self.origins.is_some() || !(self.held)(position))
    }

    /// Runs `produce` with threads that take its batches. Returns how many chunks were not what an index said.
    fn with_takers(
        &self,
        seed: Option<u32>,
        produce: impl FnOnce(&mut dyn FnMut(Batch) -> bool) -> Result<(), TreeError>,
    ) -> Result<usize, TreeError> {
        let (send, receive) = sync_channel(self.threads.max(1));
        let (receive, mistakes) = (Mutex::new(receive), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| self.work(seed, &receive, &mistakes));
            }
            let produced = produce(&mut |batch| mistakes.load(Relaxed) < MISTAKES && send.send(batch).is_ok());
            drop(send);
            produced
        })?;
        Ok(mistakes.into_inner())
    }

    fn work(&self, seed: Option<u32>, batches: &Mutex<Receiver<Batch>>, mistakes: &AtomicUsize) {
        loop {
            let batch = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Batch { mut offset, chunks, claims }) = batch else { return };
            if chunks.len() < claims.len() {
                mistakes.fetch_add(MISTAKES, Relaxed);
            }
            let mut claims = claims.into_iter();
            for chunk in name_many(chunks, self.index.digest()) {
                let begins = offset;
                offset += chunk.bytes().len() as u64;
                if claims.next().is_some_and(|claim| claim != chunk.id()) {
                    mistakes.fetch_add(1, Relaxed);
                }
                let Some(position) = self.layout.position(&chunk.id()) else { continue };
                if self.layout.length(position) as usize != chunk.bytes().len() {
                    continue;
                }
                if let Some((origins, seed)) = self.origins.zip(seed) {
                    origins.found(position, seed, begins);
                }
                (self.found)(position, &chunk);
            }
        }
    }
}
