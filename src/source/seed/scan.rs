//! Cuts a whole file, on several threads, to see which wanted chunks are in it.
//!
//! Where the chunks of a stream end depends on where the one before ended, but mostly only just: two cuttings that ever
//! agree on one end agree for ever after. Each thread starts somewhere in the file as if a chunk began there, and goes
//! on until it comes to where a chunk of another cutting starts: from there on it would only do the same again. That
//! takes a few chunks in ordinary data, and in a long run of one byte the whole run, through which two cuttings may
//! stay out of step. So the one true cutting, which starts with the file, is always whole, whoever did its parts.
//! Whatever else is found on the way is a fact too. Holes are not read.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::{Row, Wanted};
use crate::format::chunk_sizes::ChunkSizes;
use crate::format::chunker::Chunker;
use crate::format::digest::Digest;
use crate::source::SourceError;

/// How much is read at once at least, in bytes.
const READ: u64 = 2 << 20;

/// Where threads may start: at multiples of so many bytes, or of the largest chunk if that is long.
const SEGMENT: u64 = 8 << 20;

/// A segment is at least so many of the largest chunks.
const SEGMENT_CHUNKS: u64 = 8;

/// Buffers of all threads together stay below this where chunks are so large that one for each would not.
const MEMORY: u64 = 32 << 20;

/// Finds wanted chunks in `file`, which `path` is for messages.
pub(super) fn scan(
    file: &File,
    path: &Path,
    sizes: [u64; 3],
    digest: Digest,
    wanted: &Wanted,
    threads: usize,
) -> Result<Vec<Row>, SourceError> {
    let [min, avg, max] = sizes;
    let sizes = ChunkSizes::new(min, avg, max).map_err(|error| SourceError::refused(path.display(), error))?;
    let size = rustix::fs::seek(file, SeekFrom::End(0)).map_err(|errno| SourceError::io(path, errno))?;
    if wanted.is_empty() || size == 0 {
        return Ok(Vec::new());
    }
    let buffer = READ.max(2 * max);
    let mut segment = SEGMENT.max(SEGMENT_CHUNKS * max);
    if min == max {
        // Chunks of one size never fall back into step: every segment has to start where a chunk does.
        segment = segment.next_multiple_of(max);
    }
    let threads = threads.clamp(1, usize::try_from((MEMORY / buffer).max(1)).unwrap_or(1));
    let mut lengths: Vec<u32> = wanted.chunks.iter().map(|chunk| chunk.1).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let scan = Scan {
        file,
        path,
        size,
        sizes,
        digest,
        wanted,
        lengths,
        zeros: Zeros::of(sizes),
        segment,
        buffer,
        found: (0..wanted.len()).map(|_| AtomicBool::new(false)).collect(),
        left: AtomicUsize::new(wanted.len()),
        parts: Mutex::new((0..size.div_ceil(segment)).map(|_| Part::default()).collect()),
        ended: AtomicBool::new(false),
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                scope.spawn({
                    let scan = &scan;
                    move || scan.work(worker, threads)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join()).collect()
    });
    let mut rows = Vec::new();
    for result in results {
        rows.extend(result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
    }
    Ok(rows)
}

struct Scan<'a> {
    file: &'a File,
    path: &'a Path,
    size: u64,
    sizes: ChunkSizes,
    digest: Digest,
    wanted: &'a Wanted,
    /// The lengths that wanted chunks have, sorted: a chunk of another length need not be hashed.
    lengths: Vec<u32>,
    zeros: Zeros,
    segment: u64,
    buffer: u64,
    /// By place in `wanted`.
    found: Vec<AtomicBool>,
    left: AtomicUsize,
    parts: Mutex<Vec<Part>>,
    ended: AtomicBool,
}

/// A segment of the file.
#[derive(Default)]
struct Part {
    /// Somebody started here or came here: nobody else starts.
    claimed: bool,
    /// Where chunks start in it, by any cutting, in ascending order.
    starts: Vec<u64>,
}

/// The chunk that a long run of zeros is cut into.
struct Zeros {
    length: u64,
    bytes: Vec<u8>,
}

impl Zeros {
    fn of(sizes: ChunkSizes) -> Self {
        let mut bytes = vec![0; usize::try_from(sizes.max()).unwrap_or(usize::MAX)];
        let length = Chunker::new(sizes).next_cut(&bytes).unwrap_or(bytes.len());
        bytes.truncate(length);
        Self { length: length as u64, bytes }
    }
}

/// What one thread has found, and where it is.
#[derive(Default)]
struct Worker {
    rows: Vec<Row>,
    buffer: Vec<u8>,
    /// Start of the next chunk.
    position: u64,
}

impl Scan<'_> {
    fn work(&self, worker: usize, threads: usize) -> Result<Vec<Row>, SourceError> {
        let mut state = Worker::default();
        let mut next = self.claim_from(worker, threads);
        while let Some(part) = next {
            state.position = part as u64 * self.segment;
            if let Err(error) = self.cut(&mut state) {
                self.ended.store(true, Relaxed);
                return Err(error);
            }
            next = if self.done() { None } else { self.claim_largest() };
        }
        Ok(state.rows)
    }

    /// Cuts chunks until one starts where another cutting's does, or to the end.
    fn cut(&self, state: &mut Worker) -> Result<(), SourceError> {
        while state.position < self.size && !self.done() {
            if self.skip_hole(state)? {
                continue;
            }
            let from = state.position;
            let length = self.buffer.min(self.size - from);
            state.buffer.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
            if let Err(error) = self.file.read_exact_at(&mut state.buffer, from) {
                // It became shorter: what was found so far is as good as ever.
                let shorter = error.kind() == ErrorKind::UnexpectedEof;
                return if shorter { Ok(()) } else { Err(SourceError::io(self.path, error)) };
            }
            let mut chunks = self.chunks(&state.buffer, from + length == self.size);
            let new = self.start_all(chunks.iter().map(|(offset, _)| from + *offset as u64));
            let merged = new < chunks.len();
            chunks.truncate(new);
            if let Some(&(offset, length)) = chunks.last() {
                state.position = from + (offset + length) as u64;
            }
            let fitting = chunks.iter().filter(|chunk| self.lengths.binary_search(&(chunk.1 as u32)).is_ok());
            let fitting: Vec<_> =
                fitting.map(|&(offset, length)| (offset, &state.buffer[offset..offset + length])).collect();
            let bytes: Vec<&[u8]> = fitting.iter().map(|chunk| chunk.1).collect();
            for ((offset, bytes), id) in fitting.iter().zip(self.digest.ids(&bytes)) {
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                self.note(&mut state.rows, Row { id, offset: from + *offset as u64, length });
            }
            if merged {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Notes where chunks start, one after the other, up to the first start that is known already. Returns how many
    /// were new.
    fn start_all(&self, starts: impl Iterator<Item = u64>) -> usize {
        let mut parts = self.parts();
        let mut new = 0;
        for start in starts {
            let part = &mut parts[(start / self.segment) as usize];
            part.claimed = true;
            match part.starts.binary_search(&start) {
                Ok(_) => break,
                Err(at) => part.starts.insert(at, start),
            }
            new += 1;
        }
        new
    }

    /// The chunks that end in `bytes`, as offset and length in them; the rest is one too, if the file ends with it.
    fn chunks(&self, bytes: &[u8], last: bool) -> Vec<(usize, usize)> {
        let mut chunker = Chunker::new(self.sizes);
        let mut chunks = Vec::new();
        let mut offset = 0;
        while offset < bytes.len() {
            let length = match chunker.next_cut(&bytes[offset..]) {
                Some(length) => length,
                None if last => bytes.len() - offset,
                None => break,
            };
            chunks.push((offset, length));
            offset += length;
        }
        chunks
    }

    /// Passes over whole chunks of zeros in a hole. Returns whether there were any.
    fn skip_hole(&self, state: &mut Worker) -> Result<bool, SourceError> {
        let data = match rustix::fs::seek(self.file, SeekFrom::Data(state.position)) {
            Ok(data) => data,
            Err(Errno::NXIO) => self.size,
            // Not every file system knows holes.
            Err(_) => return Ok(false),
        };
        let zeros = &self.zeros;
        let count = data.min(self.size).saturating_sub(state.position) / zeros.length;
        if count == 0 {
            return Ok(false);
        }
        let length = zeros.length as u32;
        if self.lengths.binary_search(&length).is_ok() {
            let row = Row { id: self.digest.id(&zeros.bytes), offset: state.position, length };
            self.note(&mut state.rows, row);
        }
        let start = state.position;
        state.position += count * zeros.length;
        let last = ((state.position - 1) / self.segment) as usize;
        self.parts()[(start / self.segment) as usize..=last].iter_mut().for_each(|part| part.claimed = true);
        Ok(true)
    }

    fn note(&self, rows: &mut Vec<Row>, row: Row) {
        let Some(place) = self.wanted.place(&row.id) else { return };
        if !self.found[place].swap(true, Relaxed) {
            rows.push(row);
            self.left.fetch_sub(1, Relaxed);
        }
    }

    fn done(&self) -> bool {
        self.left.load(Relaxed) == 0 || self.ended.load(Relaxed)
    }

    /// A thread's first segment: the threads start evenly spread.
    fn claim_from(&self, worker: usize, threads: usize) -> Option<usize> {
        let count = self.parts().len();
        let part = count * worker / threads;
        if self.claim(part) { Some(part) } else { self.claim_largest() }
    }

    fn claim(&self, part: usize) -> bool {
        self.parts().get_mut(part).is_some_and(|part| !std::mem::replace(&mut part.claimed, true))
    }

    /// Claims the middle of the longest stretch that nobody has, so that it is shared with whoever works towards it.
    fn claim_largest(&self) -> Option<usize> {
        let mut parts = self.parts();
        let mut best = 0..0;
        let mut from = 0;
        for part in 0..=parts.len() {
            if part == parts.len() || parts[part].claimed {
                if part - from > best.len() {
                    best = from..part;
                }
                from = part + 1;
            }
        }
        let middle = best.start + best.len() / 2;
        if best.is_empty() {
            return None;
        }
        parts[middle].claimed = true;
        Some(middle)
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_one_size_are_found_by_any_number_of_threads() {
        // Does not divide a segment.
        const SIZE: u64 = 60_000;
        let mut state = 1u64;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(40 << 20)
        .collect();
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let digest = Digest::default();
        let chunks: Vec<_> = bytes.chunks(SIZE as usize).map(|chunk| (digest.id(chunk), chunk.len() as u32)).collect();
        let wanted = Wanted::new(chunks.iter().copied());
        for threads in [1, 2, 3] {
            let rows = scan(&file, Path::new("seed"), [SIZE; 3], digest, &wanted, threads).unwrap();
            assert_eq!(rows.len(), chunks.len(), "{threads} threads");
        }
    }
}
