//! Counters of a running extraction, read by whoever shows it. They count; they do not draw.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where bytes of the image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// They were right in the target already.
    Kept,
    /// A seed.
    Seeds,
    /// A local store.
    Store,
    /// A neighbour.
    Lan,
    /// A remote store.
    Origin,
}

/// A source that gave bytes that are not the chunk.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Blame {
    /// Path, URL or node id.
    pub source: String,
    /// The chunk it was asked for.
    pub chunk: String,
}

/// The most blames remembered one by one; a source that lies about everything shall not fill the memory.
const BLAMES: usize = 100;

/// Counters, from zero upwards.
#[derive(Debug, Default)]
pub struct Progress {
    total: AtomicU64,
    image: [AtomicU64; 5],
    received: [AtomicU64; 5],
    duplicates: AtomicU64,
    corrupt: AtomicU64,
    blames: Mutex<Vec<Blame>>,
}

impl Progress {
    /// Bytes of the image that came from `place`, counted at every offset where they belong.
    pub fn image_bytes(&self, place: Place) -> u64 {
        self.image[place as usize].load(Relaxed)
    }

    /// Bytes read or received from `place` as they were stored there, wasted ones included.
    pub fn received_bytes(&self, place: Place) -> u64 {
        self.received[place as usize].load(Relaxed)
    }

    /// Length of the image in bytes; 0 until it is known.
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Chunks that came although they were held already.
    pub fn duplicates(&self) -> u64 {
        self.duplicates.load(Relaxed)
    }

    /// Chunks that were not what they were said to be.
    pub fn corrupt(&self) -> u64 {
        self.corrupt.load(Relaxed)
    }

    /// The first hundred of them.
    pub fn blames(&self) -> Vec<Blame> {
        self.blames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_total(&self, total: u64) {
        self.total.store(total, Relaxed);
    }

    pub(super) fn add_image(&self, place: Place, bytes: u64) {
        self.image[place as usize].fetch_add(bytes, Relaxed);
    }

    pub(super) fn add_received(&self, place: Place, bytes: u64) {
        self.received[place as usize].fetch_add(bytes, Relaxed);
    }

    pub(super) fn duplicate(&self) {
        self.duplicates.fetch_add(1, Relaxed);
    }

    pub(super) fn blame(&self, source: String, chunk: String) {
        tracing::warn!(%source, %chunk, "not the chunk that was asked for; asking elsewhere");
        self.corrupt.fetch_add(1, Relaxed);
        let mut blames = self.blames.lock().unwrap_or_else(PoisonError::into_inner);
        if blames.len() < BLAMES {
            blames.push(Blame { source, chunk });
        }
    }
}
