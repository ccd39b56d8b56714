//! Chunks that this machine has: in seeds and local stores, asked in order. A source that lies, or cannot be read, only
//! costs time: the next one is asked, and the network after the last.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::{ChunkId, Position};

use super::plan::span;
use super::progress::{Place, Progress};
use super::seeds::SeedSource;
use super::workers::Context;
use crate::chunk::{self, Claim};
use crate::source::local_store::LocalStore;
use crate::source::seed::Seed;

/// The seeds and local stores of an extraction.
#[derive(Default)]
pub struct Local {
    /// In the order in which they are asked.
    pub(super) seeds: Vec<SeedSource>,
    /// In the order in which they are asked, after the seeds.
    pub stores: Vec<StoreSource>,
}

/// A local store, and whether it was complained about already.
pub struct StoreSource {
    store: LocalStore,
    warned: AtomicBool,
}

impl StoreSource {
    /// Takes chunks from `store`.
    pub fn new(store: LocalStore) -> Self {
        Self { store, warned: AtomicBool::new(false) }
    }

    /// The store.
    pub fn store(&self) -> &LocalStore {
        &self.store
    }
}

impl Local {
    /// Takes chunks from a seed, after those that were added before it.
    pub fn add_seed(&mut self, seed: Seed, reflink: bool) {
        self.seeds.push(SeedSource::new(seed, reflink));
    }

    /// Whether a seed is said to have the chunk.
    pub fn in_seed(&self, id: &ChunkId) -> bool {
        self.seeds.iter().any(|seed| seed.seed().find(id).is_some())
    }

    /// Tries every source for these positions and writes what is right. Returns the positions that none could give.
    pub(super) fn process(&self, context: &Context, positions: Vec<Position>) -> io::Result<Vec<Position>> {
        let mut pending = positions;
        for seed in &self.seeds {
            pending = seed.process(context, pending)?;
        }
        for store in &self.stores {
            pending = store.process(context, pending)?;
        }
        Ok(pending)
    }
}

impl StoreSource {
    fn process(&self, context: &Context, positions: Vec<Position>) -> io::Result<Vec<Position>> {
        if positions.is_empty() {
            return Ok(positions);
        }
        let layout = context.assembly.layout();
        let mut pending = Vec::new();
        let mut claimed = Vec::with_capacity(positions.len());
        let mut claims = Vec::with_capacity(positions.len());
        for position in positions {
            let id = layout.id(position);
            match self.store.get(id) {
                Ok(Some(encoded)) => {
                    context.progress.add_received(Place::Store, encoded.bytes.len() as u64);
                    claimed.push(position);
                    claims.push(Claim { encoded, id, length: layout.length(position) });
                }
                Ok(None) => pending.push(position),
                Err(error) => {
                    if !self.warned.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "a local store cannot be read; asking elsewhere");
                    }
                    pending.push(position);
                }
            }
        }
        let verified = chunk::verify_many(&claims, context.digest);
        drop(claims);
        for (position, verified) in claimed.into_iter().zip(verified) {
            match verified {
                Ok(chunk) => {
                    if context.assembly.put(position, &chunk)? {
                        context.progress.add_image(Place::Store, span(layout, position));
                    }
                }
                Err(_) => {
                    self.blame(&context.progress, layout.id(position));
                    pending.push(position);
                }
            }
        }
        pending.sort_unstable();
        Ok(pending)
    }

    fn blame(&self, progress: &Progress, id: ChunkId) {
        progress.blame(self.store.path().display().to_string(), id.to_string());
    }
}
