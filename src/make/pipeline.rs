//! Reading, cutting, naming, compressing and storing, all at once and in bounded memory: the image is read in blocks,
//! a block's chunks are one batch for a worker, and only so many blocks exist at a time.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use bytes::Bytes;
use proto::ChunkId;

use super::cutter::Cutter;
use super::{MakeError, Plan, Stream};
use crate::chunk::{Chunk, Encoding, name_many};
use crate::format::compression::Compressor;
use crate::format::digest::Hasher;
use crate::format::index::MAX_ROWS;

/// What the blocks in flight may take together, in bytes, unless the largest chunk needs more.
const MEMORY: usize = 48 << 20;

/// The image, cut.
pub(super) struct Cut {
    /// Where each chunk ends.
    pub(super) ends: Vec<u64>,
    /// The name of each.
    pub(super) ids: Vec<ChunkId>,
    /// The digest of the whole.
    pub(super) stream: ChunkId,
    /// How many chunks were written to the store.
    pub(super) stored: usize,
}

/// The chunks of one block, in order.
struct Batch {
    number: usize,
    chunks: Vec<Bytes>,
}

/// What the workers have in common.
struct Shared<'a> {
    plan: &'a Plan,
    batches: Mutex<HashMap<usize, Vec<ChunkId>>>,
    seen: Mutex<HashSet<ChunkId>>,
    /// The ids of chunks of nothing but zeros, by length.
    zeros: Mutex<HashMap<usize, ChunkId>>,
    stored: AtomicUsize,
    stop: AtomicBool,
}

/// Does it all; returns when every chunk is stored.
pub(super) fn run(input: &mut dyn Stream, plan: &Plan) -> Result<Cut, MakeError> {
    let threads = plan.threads.max(1);
    // Each worker has one block and one waits for it; the stream's digest is at one with one waiting; one is read.
    let block = (MEMORY / (2 * threads + 3)).clamp(256 << 10, 4 << 20);
    let shared = Shared {
        plan,
        batches: Mutex::default(),
        seen: Mutex::default(),
        zeros: Mutex::default(),
        stored: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
    };
    let (to_workers, batches) = sync_channel(threads);
    let (to_digest, pieces) = sync_channel(1);
    let batches = Arc::new(Mutex::new(batches));
    let (ends, stream) = thread::scope(|scope| {
        let mut workers = Vec::new();
        for _ in 0..threads {
            let (shared, batches) = (&shared, Arc::clone(&batches));
            let worker = thread::Builder::new().spawn_scoped(scope, move || {
                let result = shared.work(&batches);
                if result.is_err() {
                    shared.stop.store(true, Ordering::Relaxed);
                }
                result
            });
            workers.push(worker.map_err(MakeError::Thread)?);
        }
        // From now on the workers alone keep the receiver: when they have all stopped, sending fails.
        drop(batches);
        let digest = thread::Builder::new()
            .spawn_scoped(scope, move || stream_digest(plan.digest.hasher(), &pieces))
            .map_err(MakeError::Thread)?;
        let ends = read(input, plan, block, &to_workers, &to_digest);
        drop((to_workers, to_digest));
        // A worker's error is the cause, the reader's would be the consequence.
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        let stream = digest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok::<_, MakeError>((ends?, stream))
    })?;
    let mut batches = lock(&shared.batches);
    let ids = (0..batches.len()).filter_map(|number| batches.remove(&number)).flatten().collect();
    Ok(Cut { ends, ids, stream, stored: shared.stored.into_inner() })
}

/// Reads and cuts to the end. Returns early, with what there is, if nobody takes the batches any more.
fn read(
    input: &mut dyn Stream,
    plan: &Plan,
    block: usize,
    to_workers: &SyncSender<Batch>,
    to_digest: &SyncSender<Bytes>,
) -> Result<Vec<u64>, MakeError> {
    let mut cutter = Cutter::new(plan.sizes, block);
    let mut ends = Vec::new();
    let mut offset = 0;
    for number in 0.. {
        let cut = cutter.next(|block| input.fill(block))?;
        ends.extend(cut.chunks.iter().map(|chunk| {
            offset += chunk.len() as u64;
            offset
        }));
        if ends.len() > MAX_ROWS {
            return Err(MakeError::TooManyChunks { path: input.path().to_owned(), rows: MAX_ROWS });
        }
        let last = cut.read.is_empty();
        if to_digest.send(cut.read).is_err() || to_workers.send(Batch { number, chunks: cut.chunks }).is_err() || last {
            break;
        }
    }
    Ok(ends)
}

fn stream_digest(mut hasher: Hasher, pieces: &Receiver<Bytes>) -> ChunkId {
    pieces.iter().for_each(|piece| hasher.update(&piece));
    hasher.finish()
}

impl Shared<'_> {
    fn work(&self, batches: &Mutex<Receiver<Batch>>) -> Result<(), MakeError> {
        let encoding = self.plan.encoding;
        let mut compressor = None;
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(batch) = lock(batches).recv() else { break };
            let ids = self.name(&batch.chunks, |chunk| {
                let Some(store) = &self.plan.store else { return Ok(()) };
                if !lock(&self.seen).insert(chunk.id()) || store.renew(chunk.id())? {
                    return Ok(());
                }
                let failed = |error| MakeError::Compress { id: chunk.id(), error };
                let stored = if encoding == Encoding::Plain {
                    store.insert_plain(chunk)?
                } else {
                    let compressor = match &mut compressor {
                        Some(compressor) => compressor,
                        none => none.insert(Compressor::new(encoding).map_err(failed)?),
                    };
                    store.insert(chunk, &compressor.compress(chunk.bytes()).map_err(failed)?)?
                };
                self.stored.fetch_add(usize::from(stored), Ordering::Relaxed);
                Ok(())
            })?;
            lock(&self.batches).insert(batch.number, ids);
        }
        Ok(())
    }

    /// Names the chunks of a batch, and hands each to `store` that is not known to be stored.
    fn name(
        &self,
        chunks: &[Bytes],
        mut store: impl FnMut(&Chunk) -> Result<(), MakeError>,
    ) -> Result<Vec<ChunkId>, MakeError> {
        let zero: Vec<bool> = chunks.iter().map(|bytes| is_zero(bytes)).collect();
        let known = |at: usize| zero[at].then(|| lock(&self.zeros).get(&chunks[at].len()).copied()).flatten();
        let mut ids: Vec<Option<ChunkId>> = (0..chunks.len()).map(known).collect();
        let unknown: Vec<usize> = (0..chunks.len()).filter(|&at| ids[at].is_none()).collect();
        let named = name_many(unknown.iter().map(|&at| chunks[at].clone()).collect(), self.plan.digest);
        for (at, chunk) in unknown.into_iter().zip(named) {
            store(&chunk)?;
            if zero[at] {
                lock(&self.zeros).insert(chunk.bytes().len(), chunk.id());
            }
            ids[at] = Some(chunk.id());
        }
        Ok(ids.into_iter().flatten().collect())
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}

/// A lock that another thread's panic does not poison: that panic ends the run anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
