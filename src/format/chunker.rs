//! Where casync cuts a stream: a rolling hash over the last 48 bytes, byte for byte its decisions at any sizes. Finds
//! boundaries only; it neither keeps nor names the chunks.

use super::buzhash::{TABLE, WINDOW};
use super::chunk_sizes::ChunkSizes;

/// Finds the ends of chunks in a stream that comes in pieces of any length.
#[derive(Debug, Clone)]
pub struct Chunker {
    fixed: Option<usize>,
    /// The first size at which a chunk may end.
    first: usize,
    max: usize,
    divisor: Divisor,
    /// How much of the present chunk was seen.
    size: usize,
    hash: u32,
    /// The last bytes seen; those before the chunk's start mean nothing.
    window: [u8; WINDOW],
}

impl Chunker {
    /// Starts at the beginning of a stream.
    pub fn new(sizes: ChunkSizes) -> Self {
        Self {
            fixed: sizes.fixed().then_some(sizes.avg() as usize),
            first: (sizes.min() as usize).max(WINDOW),
            max: sizes.max() as usize,
            divisor: Divisor::new(sizes.discriminator()),
            size: 0,
            hash: 0,
            window: [0; WINDOW],
        }
    }

    /// Takes the next bytes of the stream, up to and including the first that ends a chunk: returns how many those
    /// are. `None` means that no chunk ends in these bytes, and all are taken.
    ///
    /// The end of the stream ends the last chunk; it is the caller's to notice.
    pub fn next_cut(&mut self, bytes: &[u8]) -> Option<usize> {
        let cut = match self.fixed {
            Some(size) => (bytes.len() >= size - self.size).then(|| size - self.size),
            None => self.search(bytes),
        };
        match cut {
            Some(_) => self.size = 0,
            None => {
                self.size += bytes.len();
                self.remember(bytes);
            }
        }
        cut
    }

    fn search(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        if self.size < self.first {
            // Nothing before the first window can matter.
            at = self.first - self.size;
            if bytes.len() < at {
                return None;
            }
            self.hash = self.window_ending_at(bytes, at);
            if self.divisor.ends(self.hash) || self.first >= self.max {
                return Some(at);
            }
        }
        // What leaves the window comes from the pieces before as long as this piece is shorter than the window.
        let limit = bytes.len().min(self.max - self.size);
        while at < limit.min(WINDOW) {
            self.hash = roll(self.hash, self.window[at], bytes[at]);
            at += 1;
            if self.divisor.ends(self.hash) {
                return Some(at);
            }
        }
        if at < limit {
            let mut hash = self.hash;
            let divisor = self.divisor;
            for (&out, &new) in bytes[at - WINDOW..limit - WINDOW].iter().zip(&bytes[at..limit]) {
                hash = roll(hash, out, new);
                at += 1;
                if divisor.ends(hash) {
                    return Some(at);
                }
            }
            self.hash = hash;
        }
        (at + self.size >= self.max).then_some(at)
    }

    /// The hash of the 48 bytes that end after `at` bytes of this piece.
    fn window_ending_at(&self, bytes: &[u8], at: usize) -> u32 {
        let before = &self.window[at.min(WINDOW)..];
        let now = &bytes[at.saturating_sub(WINDOW)..at];
        before.iter().chain(now).fold(0, |hash: u32, &byte| hash.rotate_left(1) ^ TABLE[byte as usize])
    }

    fn remember(&mut self, bytes: &[u8]) {
        let kept = WINDOW.saturating_sub(bytes.len());
        self.window.copy_within(WINDOW - kept.., 0);
        self.window[kept..].copy_from_slice(&bytes[bytes.len() - (WINDOW - kept)..]);
    }
}

static OUT: [u32; 256] = {
    let mut table = TABLE;
    let mut i = 0;
    while i < table.len() {
        table[i] = table[i].rotate_left(WINDOW as u32 % 32);
        i += 1;
    }
    table
};

#[inline(always)]
fn roll(hash: u32, out: u8, new: u8) -> u32 {
    hash.rotate_left(1) ^ (OUT[out as usize] ^ TABLE[new as usize])
}

/// Tests `hash % d == d - 1` without dividing: with d = odd · 2^k, n is a multiple of d exactly if n times the inverse
/// of the odd part, rotated right by k, is at most 2^64 / d.
#[derive(Debug, Clone, Copy)]
struct Divisor {
    inverse: u64,
    shift: u32,
    limit: u64,
}

impl Divisor {
    fn new(d: u64) -> Self {
        let shift = d.trailing_zeros();
        let odd = d >> shift;
        // Newton: each step doubles the number of correct low bits, from three.
        let inverse = (0..5).fold(odd, |x, _| x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x))));
        Self { inverse, shift, limit: u64::MAX / d }
    }

    #[inline(always)]
    fn ends(&self, hash: u32) -> bool {
        (u64::from(hash) + 1).wrapping_mul(self.inverse).rotate_right(self.shift) <= self.limit
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_divisor_agrees_with_division(d in 1u64..=1 << 27, hash: u32, near in 0u64..1 << 33) {
            let divisor = Divisor::new(d);
            let multiple = ((near / d) * d).wrapping_sub(1) as u32;
            for hash in [hash, multiple, multiple.wrapping_add(1), u32::MAX, 0] {
                prop_assert_eq!(divisor.ends(hash), u64::from(hash) % d == d - 1);
            }
        }
    }
}
