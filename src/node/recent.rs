//! What came or was sent lately, as it came. Neighbours ask for a chunk within moments of its arrival: from here it is
//! served without reading, hashing or compressing again. Bounded in bytes; the oldest goes first.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::ChunkId;

use crate::chunk::Encoded;

/// Verified chunks in the encoding in which they came.
#[derive(Debug)]
pub(crate) struct Recent {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    chunks: HashMap<ChunkId, Encoded>,
    order: VecDeque<ChunkId>,
    bytes: usize,
}

impl Recent {
    /// Keeps at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, inner: Mutex::default() }
    }

    /// Keeps a chunk. The caller has verified it.
    pub(crate) fn keep(&self, id: ChunkId, encoded: Encoded) {
        let mut inner = self.lock();
        let length = encoded.bytes.len();
        if length > self.limit / 4 || inner.chunks.contains_key(&id) {
            return;
        }
        inner.bytes += length;
        inner.chunks.insert(id, encoded);
        inner.order.push_back(id);
        while inner.bytes > self.limit {
            let Some(oldest) = inner.order.pop_front() else { break };
            if let Some(gone) = inner.chunks.remove(&oldest) {
                inner.bytes -= gone.bytes.len();
            }
        }
    }

    /// The chunk, if it is still here.
    pub(crate) fn get(&self, id: &ChunkId) -> Option<Encoded> {
        self.lock().chunks.get(id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::chunk::Encoding;

    #[test]
    fn the_oldest_chunks_make_room_for_new_ones() {
        let recent = Recent::new(1000);
        let id = |n: u8| ChunkId([n; 32]);
        for n in 0..10 {
            recent.keep(id(n), Encoded { encoding: Encoding::Plain, bytes: Bytes::from(vec![n; 200]) });
        }
        assert!(recent.get(&id(4)).is_none());
        assert!((5..10).all(|n| recent.get(&id(n)).is_some()));
    }
}
