//! The chunk index (`.caibx`, `.caidx`): the ordered list of chunks of a stream.

use proto::ChunkId;

use super::digest::Digest;

/// An index, checked: sizes in order, ends strictly increasing, no chunk longer than `max`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// casync's feature flags word, as found.
    pub flags: u64,
    /// The smallest, average and largest chunk size it was cut with, in bytes.
    pub sizes: [u64; 3],
    /// The chunks in order.
    pub chunks: Vec<IndexChunk>,
}

/// One row of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexChunk {
    /// Where the chunk ends in the stream, exclusive.
    pub end: u64,
    /// Its name.
    pub id: ChunkId,
}

impl Index {
    /// Which digest the ids are.
    pub fn digest(&self) -> Digest {
        Digest::default()
    }

    /// Length of the stream in bytes; 0 if there is no chunk.
    pub fn length(&self) -> u64 {
        self.chunks.last().map_or(0, |chunk| chunk.end)
    }
}
