//! What of the target is right already: an interrupted extraction, an older image at the same place, and zeros where
//! the file has holes. Found by hashing what is there, so there is no journal that could be wrong.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use proto::{ChunkId, Position};
use roaring::RoaringBitmap;

use super::assembly::Assembly;
use super::holes::{self, Zeros};
use super::plan::span;
use super::progress::{Place, Progress};
use super::target::Target;
use crate::format::digest::Digest;
use crate::format::layout::Layout;

/// How many positions a thread takes at a time.
const STEP: u32 = 16;

/// Most bytes that are hashed together, unless one chunk alone is longer.
const BATCH_BYTES: usize = 2 << 20;

/// Looks through the target and counts what is right at every offset where it belongs as held.
///
/// # Errors
/// What the file system said about reading the target.
pub(super) fn keep(target: &Target, assembly: &Assembly, threads: usize, progress: &Progress) -> io::Result<()> {
    // Of a new file nothing but holes is known, and if zeros are to be written out, a hole is not what is wanted.
    if !target.has_content() && target.zeros() == Zeros::Write {
        return Ok(());
    }
    let (layout, trust_holes) = (assembly.layout(), target.zeros() != Zeros::Write);
    scan(assembly.file(), layout, threads, trust_holes, &|position| {
        if assembly.mark(position) {
            progress.add_image(Place::Kept, span(layout, position));
        }
    })
}

/// Looks through a file that is not open as a target.
///
/// # Errors
/// What the file system said about reading it.
pub(super) fn look(file: &File, layout: &Layout, threads: usize) -> io::Result<RoaringBitmap> {
    let kept = Mutex::new(RoaringBitmap::new());
    scan(file, layout, threads, true, &|position| {
        kept.lock().unwrap_or_else(PoisonError::into_inner).insert(position);
    })?;
    Ok(kept.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Looks for chunks that are right in `file` at every offset where they belong and tells each to `found`. Only with
/// `trust_holes` is a hole as good as zeros.
fn scan(
    file: &File,
    layout: &Layout,
    threads: usize,
    trust_holes: bool,
    found: &(dyn Fn(Position) + Sync),
) -> io::Result<()> {
    let data = holes::data_ranges(file, layout.total())?;
    let digest = layout.digest();
    let zeros = if trust_holes { zero_chunk(layout, digest) } else { None };
    let scan = Scan { file, layout, digest, data, zeros, found };
    let next = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(|| scan.work(&next))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that looks at the target panicked")))
        })
    })
}

/// The chunk of nothing but zeros that long runs of zeros are cut into: one of the largest size.
fn zero_chunk(layout: &Layout, digest: Digest) -> Option<(u32, ChunkId)> {
    let longest = (0..layout.count()).map(|position| layout.length(position)).max()?;
    Some((longest, digest.id(&vec![0; longest as usize])))
}

struct Scan<'a> {
    file: &'a File,
    layout: &'a Layout,
    digest: Digest,
    data: Vec<Range<u64>>,
    zeros: Option<(u32, ChunkId)>,
    found: &'a (dyn Fn(Position) + Sync),
}

impl Scan<'_> {
    fn work(&self, next: &AtomicU32) -> io::Result<()> {
        let mut buffers: Vec<Vec<u8>> = Vec::new();
        let mut hashed: Vec<Position> = Vec::new();
        loop {
            let start = next.fetch_add(STEP, Ordering::Relaxed);
            if start >= self.layout.count() {
                return Ok(());
            }
            let mut bytes = 0;
            for position in start..self.layout.count().min(start.saturating_add(STEP)) {
                let length = self.layout.length(position);
                if self.zeros.is_some_and(|(size, id)| length == size && self.layout.id(position) == id) {
                    if self.all_zero(position)? {
                        (self.found)(position);
                    }
                    continue;
                }
                let Some(&offset) = self.layout.offsets(position).first() else { continue };
                if self.all_hole(offset, length) {
                    continue;
                }
                if bytes + length as usize > BATCH_BYTES && !hashed.is_empty() {
                    self.check(&buffers, &mut hashed)?;
                    bytes = 0;
                }
                bytes += length as usize;
                if buffers.len() == hashed.len() {
                    buffers.push(Vec::new());
                }
                let buffer = &mut buffers[hashed.len()];
                buffer.resize(length as usize, 0);
                self.file.read_exact_at(buffer, offset)?;
                hashed.push(position);
            }
            self.check(&buffers, &mut hashed)?;
        }
    }

    /// Hashes what was read at the first offset of each position, and compares the others with it.
    fn check(&self, buffers: &[Vec<u8>], positions: &mut Vec<Position>) -> io::Result<()> {
        let slices: Vec<&[u8]> = buffers.iter().take(positions.len()).map(Vec::as_slice).collect();
        let ids = self.digest.ids(&slices);
        for ((position, id), bytes) in positions.drain(..).zip(ids).zip(slices) {
            if id == self.layout.id(position) && self.same_everywhere(position, bytes)? {
                (self.found)(position);
            }
        }
        Ok(())
    }

    fn same_everywhere(&self, position: Position, bytes: &[u8]) -> io::Result<bool> {
        let mut other = Vec::new();
        for &offset in self.layout.offsets(position).iter().skip(1) {
            other.resize(bytes.len(), 0);
            self.file.read_exact_at(&mut other, offset)?;
            if other != bytes {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn all_zero(&self, position: Position) -> io::Result<bool> {
        let length = self.layout.length(position);
        let mut bytes = Vec::new();
        for &offset in self.layout.offsets(position) {
            if self.all_hole(offset, length) {
                continue;
            }
            bytes.resize(length as usize, 0);
            self.file.read_exact_at(&mut bytes, offset)?;
            if !holes::is_zero(&bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn all_hole(&self, offset: u64, length: u32) -> bool {
        let after = self.data.partition_point(|data| data.end <= offset);
        self.data.get(after).is_none_or(|data| data.start >= offset + u64::from(length))
    }
}
