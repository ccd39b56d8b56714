//! SHA-512/256 of one stream. Where the CPU has the instructions, its blocks are hashed by code of our own, a quarter
//! faster than that of `sha2`; elsewhere by `sha2`.

#[cfg(target_arch = "x86_64")]
mod bmi2;

use super::constants::{BLOCK, INITIAL};

/// A digest in the making.
#[derive(Debug, Clone)]
pub(super) struct Sha512_256 {
    state: [u64; 8],
    /// The begin of the next block, and how much there is of it.
    begun: [u8; BLOCK],
    filled: usize,
    /// How many bytes there were in all.
    length: u128,
}

impl Sha512_256 {
    /// Of nothing so far.
    pub(super) fn new() -> Self {
        Self { state: INITIAL, begun: [0; BLOCK], filled: 0, length: 0 }
    }

    /// Of all these bytes.
    pub(super) fn digest(bytes: &[u8]) -> [u8; 32] {
        let mut hasher = Self::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Takes the next piece.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len() as u128;
        if self.filled > 0 {
            let (first, rest) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.begun[self.filled..][..first.len()].copy_from_slice(first);
            self.filled += first.len();
            bytes = rest;
            if self.filled < BLOCK {
                return;
            }
            compress(&mut self.state, &[self.begun]);
        }
        let (blocks, rest) = bytes.as_chunks();
        compress(&mut self.state, blocks);
        self.begun[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
    }

    /// The digest of all pieces.
    pub(super) fn finish(mut self) -> [u8; 32] {
        let mut last = [[0; BLOCK]; 2];
        last[0][..self.filled].copy_from_slice(&self.begun[..self.filled]);
        last[0][self.filled] = 0x80;
        // The length in bits ends the padding, sixteen bytes of it.
        let blocks = if self.filled < BLOCK - 16 { 1 } else { 2 };
        last[blocks - 1][BLOCK - 16..].copy_from_slice(&(self.length * 8).to_be_bytes());
        compress(&mut self.state, &last[..blocks]);
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(8).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn compress(state: &mut [u64; 8], blocks: &[[u8; BLOCK]]) {
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2") {
        // SAFETY: it needs these three features, which this CPU has been found to have.
        unsafe { bmi2::compress(state, blocks) }
    } else {
        sha2::block_api::compress512(state, blocks);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn compress(state: &mut [u64; 8], blocks: &[[u8; BLOCK]]) {
    sha2::block_api::compress512(state, blocks);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::Digest as _;

    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|i| ((i * i) >> 3) as u8).collect()
    }

    #[test]
    fn every_length_around_the_blocks_has_the_digest_that_sha2_gives() {
        let bytes = bytes(700);
        for length in 0..=bytes.len() {
            let want: [u8; 32] = sha2::Sha512_256::digest(&bytes[..length]).into();
            assert_eq!(Sha512_256::digest(&bytes[..length]), want, "{length} bytes");
        }
    }

    #[test]
    fn blocks_change_any_state_as_sha2_changes_it() {
        let bytes = bytes(9 * BLOCK);
        let (blocks, _) = bytes.as_chunks();
        let mut state = [u64::MAX, 0, 1, u64::MAX << 32, 1 << 63, u64::MAX >> 1, 0x5555_5555_5555_5555, 42];
        let mut want = state;
        for count in 0..=blocks.len() {
            compress(&mut state, &blocks[..count]);
            sha2::block_api::compress512(&mut want, &blocks[..count]);
            assert_eq!(state, want, "{count} blocks");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pieces_give_what_the_whole_gives(lengths in prop::collection::vec(0usize..500, 0..20)) {
            let bytes = bytes(lengths.iter().sum());
            let (mut hasher, mut rest) = (Sha512_256::new(), &bytes[..]);
            for length in lengths {
                let piece;
                (piece, rest) = rest.split_at(length);
                hasher.update(piece);
            }
            let want: [u8; 32] = sha2::Sha512_256::digest(&bytes).into();
            prop_assert_eq!(hasher.finish(), want);
        }
    }
}
