//! A stream, cut as it is read: block by block, each with the chunks that end in it. Names and keeps nothing.

use bytes::Bytes;

use crate::blocks::Pool;
use crate::format::chunk_sizes::ChunkSizes;
use crate::format::chunker::Chunker;

/// A stream being cut.
pub(crate) struct Cutter {
    chunker: Chunker,
    pool: Pool,
    /// The beginning of a chunk of which no end was seen.
    rest: Bytes,
}

/// What came of one block.
pub(crate) struct Cut {
    /// The chunks that ended in it, in order.
    pub(crate) chunks: Vec<Bytes>,
    /// What was read.
    pub(crate) read: Bytes,
}

impl Cutter {
    /// Reads about `block` bytes at once, or more where chunks may be long.
    pub(crate) fn new(sizes: ChunkSizes, block: usize) -> Self {
        let block = block.max(2 * sizes.max() as usize);
        Self { chunker: Chunker::new(sizes), pool: Pool::new(block), rest: Bytes::new() }
    }

    /// Cuts the next block, which `fill` reads: as much as there is room for, unless the stream ends. After the end, of
    /// which the last chunk is one, nothing is read.
    pub(crate) fn next<E>(&mut self, fill: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<Cut, E> {
        let mut block = self.pool.block();
        let before = self.rest.len();
        block[..before].copy_from_slice(&self.rest);
        // Its block may be the next one's.
        self.rest = Bytes::new();
        let read = fill(&mut block[before..])?;
        let bytes = block.into_bytes(before + read);
        let (mut start, mut seen, mut chunks) = (0, before, Vec::new());
        while let Some(cut) = self.chunker.next_cut(&bytes[seen..]) {
            seen += cut;
            chunks.push(bytes.slice(start..seen));
            start = seen;
        }
        if read == 0 && start < bytes.len() {
            chunks.push(bytes.slice(start..));
            start = bytes.len();
        }
        self.rest = bytes.slice(start..);
        Ok(Cut { chunks, read: bytes.slice(before..) })
    }
}
