//! Which content of a tree is in which files of its seeds: found while the seeds are read, used when the files are
//! written. Bounded: of very large seeds only the first files are remembered, the others are copied.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::{ChunkId, Position};

use crate::format::index::Index;
use crate::format::layout::Layout;
use crate::tree::archiver::Noted;
use crate::tree::known::{Known, Share};

/// How many files are remembered.
const MOST_FILES: usize = 200_000;

/// Blocks are shared in multiples of this, and only at equal distances from one.
const BLOCK: u64 = 4096;

/// What is known of the seeds.
pub(in crate::extract) struct Origins {
    /// Whether equal files become hard links.
    pub(super) hardlink: bool,
    /// Whether blocks are shared.
    pub(super) reflink: bool,
    layout: Arc<Layout>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Of each seed its files, by where their content begins in its archive.
    seeds: Vec<Vec<(u64, u64, Arc<Known>)>>,
    files: usize,
    /// Seed and offset there of each position that was found in one.
    chunks: Vec<Option<(u32, u64)>>,
    equal: HashMap<ChunkId, Arc<Known>>,
}

impl Origins {
    /// Nothing is known yet.
    pub(super) fn new(layout: Arc<Layout>, hardlink: bool, reflink: bool) -> Self {
        let chunks = if reflink { vec![None; layout.count() as usize] } else { Vec::new() };
        Self { hardlink, reflink, layout, inner: Mutex::new(Inner { chunks, ..Inner::default() }) }
    }

    /// One more seed begins. Returns its number.
    pub(super) fn seed(&self) -> u32 {
        let mut inner = self.lock();
        inner.seeds.push(Vec::new());
        (inner.seeds.len() - 1) as u32
    }

    /// Files of a seed, in the order of its archive.
    pub(super) fn note(&self, seed: u32, noted: impl Iterator<Item = Noted>) {
        let mut inner = self.lock();
        for noted in noted {
            if inner.files >= MOST_FILES {
                return;
            }
            inner.files += 1;
            let file = Arc::new(noted.file);
            if let Some(digest) = noted.digest {
                inner.equal.entry(digest).or_insert_with(|| file.clone());
            }
            if self.reflink && noted.size >= BLOCK {
                inner.seeds[seed as usize].push((noted.offset, noted.size, file));
            }
        }
    }

    /// A chunk is in a seed's archive at that offset.
    pub(super) fn found(&self, position: Position, seed: u32, offset: u64) {
        if let Some(place) = self.lock().chunks.get_mut(position as usize) {
            place.get_or_insert((seed, offset));
        }
    }

    /// A file whose hard link digest this is.
    pub(super) fn equal(&self, digest: &ChunkId) -> Option<Arc<Known>> {
        self.lock().equal.get(digest).cloned()
    }

    /// What of the `size` bytes from `start` on of the archive of `index` is in files of seeds, as far as blocks of it
    /// can be shared: in order, and nothing twice.
    pub(super) fn shares(&self, index: &Index, start: u64, size: u64) -> Vec<Share> {
        let mut shares: Vec<Share> = Vec::new();
        if !self.reflink || size < BLOCK {
            return shares;
        }
        let (inner, end) = (self.lock(), start + size);
        let first = index.chunks.partition_point(|chunk| chunk.end <= start);
        let mut begins = first.checked_sub(1).map_or(0, |before| index.chunks[before].end);
        for chunk in &index.chunks[first..] {
            if begins >= end {
                break;
            }
            let (from, to) = (begins.max(start), chunk.end.min(end));
            let position = self.layout.position(&chunk.id);
            let place = position.and_then(|position| inner.chunks.get(position as usize).copied().flatten());
            if let Some((seed, offset)) = place {
                let there = offset + (from - begins)..offset + (to - begins);
                let files = &inner.seeds[seed as usize];
                let at = files.partition_point(|(begin, size, _)| begin + size <= there.start);
                for (begin, size, file) in files[at..].iter().take_while(|(begin, ..)| *begin < there.end) {
                    let (a, b) = (there.start.max(*begin), there.end.min(begin + size));
                    push(&mut shares, from - start + (a - there.start), b - a, file, a - begin);
                }
            }
            begins = chunk.end;
        }
        shares.retain(|share| share.length >= BLOCK);
        shares
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a share, or to the last one if it goes on there.
fn push(shares: &mut Vec<Share>, at: u64, length: u64, file: &Arc<Known>, from: u64) {
    if at % BLOCK != from % BLOCK {
        return;
    }
    match shares.last_mut() {
        Some(last)
            if last.at + last.length == at && last.from + last.length == from && Arc::ptr_eq(&last.file, file) =>
        {
            last.length += length;
        }
        _ => shares.push(Share { at, length, file: file.clone(), from }),
    }
}
