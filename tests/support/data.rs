//! Data to work on, the same in every run: images that compress in part, repeat in part and have holes, and what
//! becomes of one in its next version.

use std::path::Path;

/// Marsaglia's xorshift64*: small, fast, and the same everywhere.
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// A number in `0..bound`, more often a small one.
    pub fn below_squared(&mut self, bound: usize) -> usize {
        let below = self.below(bound);
        self.below(below + 1)
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// Bytes that compress to about a third: words of a small vocabulary.
    pub fn text(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 24);
        while bytes.len() < length {
            let word = self.next() % 4096;
            bytes.extend_from_slice(format!("{:x}-{} ", word * 2_654_435_761, word % 10).as_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// An image of exactly `length` bytes: extents of 100 kB to 1 MB, each random, text, zeros, or a repetition of an earlier
/// one.
pub fn image(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut image = Vec::with_capacity(length);
    while image.len() < length {
        let extent = (100_000 + random.below(900_000)).min(length - image.len());
        match random.below(10) {
            0..=3 => image.extend(random.bytes(extent)),
            4..=7 => image.extend(random.text(extent)),
            8 if image.len() > extent => {
                let start = random.below(image.len() - extent);
                image.extend_from_within(start..start + extent);
            }
            _ => image.resize(image.len() + extent, 0),
        }
    }
    image
}

/// The next version of an image: about a `share` (0 to 1) of it is new, in `places` places, some by overwriting and some
/// by inserting, so that what follows lies elsewhere than before.
pub fn next_version(image: &[u8], seed: u64, share: f64, places: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut next = image.to_vec();
    let piece = ((image.len() as f64 * share) as usize / places.max(1)).max(1);
    for place in 0..places {
        let at = random.below(next.len().saturating_sub(piece));
        let new = random.bytes(piece);
        let replaced = if place % 2 == 0 { at..(at + piece).min(next.len()) } else { at..at };
        next.splice(replaced, new);
    }
    next
}

/// Panics unless the file holds exactly these bytes, and says where it first differs.
pub fn assert_file_is(path: &Path, want: &[u8]) {
    let got = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if got != want {
        let first = got.iter().zip(want).position(|(a, b)| a != b);
        panic!("{}: {} bytes, wanted {}; first difference at {first:?}", path.display(), got.len(), want.len());
    }
}
