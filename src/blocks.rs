//! Memory that is used again: blocks of one size, for those that read a lot and hand it on. A block goes back by itself
//! when the last that looks at it is done. Fresh memory would cost as much as reading does.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Blocks of one size. Cheap to clone; all clones are one pool. It makes as many blocks as are in use at once: to bound
/// them is for those that pass them on.
#[derive(Debug, Clone)]
pub struct Pool {
    size: usize,
    free: Arc<Mutex<Vec<Box<[u8]>>>>,
}

/// A block, with whatever its last user left in it.
#[derive(Debug)]
pub struct Block {
    /// Never empty while it is in use, unless its pool's blocks are.
    bytes: Box<[u8]>,
    pool: Pool,
}

impl Pool {
    /// A pool of blocks of `size` bytes.
    pub fn new(size: usize) -> Self {
        Self { size, free: Arc::default() }
    }

    /// A block that nobody uses.
    pub fn block(&self) -> Block {
        let bytes = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = bytes.unwrap_or_else(|| vec![0; self.size].into_boxed_slice());
        Block { bytes, pool: self.clone() }
    }
}

impl Block {
    /// Its first `length` bytes, to be handed on; the block is free again when nobody has any part of them.
    pub fn into_bytes(self, length: usize) -> Bytes {
        Bytes::from_owner(self).slice(..length)
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_used_again_when_its_last_part_is_gone() {
        let pool = Pool::new(10);
        let mut block = pool.block();
        block[0] = 7;
        let bytes = block.into_bytes(4);
        let part = bytes.slice(..1);
        drop(bytes);
        assert_eq!((pool.block()[0], part.len()), (0, 1), "another one, for the first is in use");
        drop((part, pool.block()));
        let (a, b) = (pool.block(), pool.block());
        assert_eq!(a[0] + b[0], 7);
        assert_eq!(pool.free.lock().unwrap().len(), 0);
    }
}
