//! SHA-512/256 of several buffers at once, one in each lane of the CPU's vectors: several times the pace of one after
//! another. Plain arrays, which the compiler turns into vector instructions where these can rotate; AVX2, which cannot,
//! has a file of its own. For one long stream this is of no use.

use proto::ChunkId;

use super::constants::{BLOCK, INITIAL, K};
use super::stream::Sha512_256;

#[cfg(target_arch = "x86_64")]
mod avx2;

/// Lanes that have to be at work, on average, to be faster than one buffer after another (measured: one lane has 0.38 of
/// the pace of one buffer alone with AVX-512, 0.41 with AVX2).
const WORTHWHILE: f64 = 2.6;

/// The digests of all buffers, in their order; `None` where one after another is as fast: for want of vectors, or of
/// buffers to keep the lanes busy. Buffers that would leave them idle by being much longer than the others are digested
/// alone.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
pub(super) fn sha512_256(buffers: &[&[u8]]) -> Option<Vec<ChunkId>> {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_unstable_by_key(|&buffer| std::cmp::Reverse(buffers[buffer].len()));
    let sorted: Vec<&[u8]> = order.iter().map(|&buffer| buffers[buffer]).collect();
    let (alone, together) = sorted.split_at(alone(&sorted));
    let ids = if together.is_empty() {
        return None;
    } else if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
        // SAFETY: safe code compiled for these two features, which this CPU has been found to have.
        unsafe { avx512(together) }
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: safe code compiled for this feature, which this CPU has been found to have.
        unsafe { avx2(together) }
    } else {
        return None;
    };
    let all = alone.iter().map(|bytes| ChunkId(Sha512_256::digest(bytes))).chain(ids);
    let mut in_order = vec![ChunkId([0; 32]); buffers.len()];
    order.into_iter().zip(all).for_each(|(buffer, id)| in_order[buffer] = id);
    Some(in_order)
}

/// How many of the longest buffers have to be left out for the others to keep the lanes busy; `sorted`: longest first.
fn alone(sorted: &[&[u8]]) -> usize {
    let mut left: usize = sorted.iter().map(|bytes| bytes.len()).sum();
    for (count, longest) in sorted.iter().map(|bytes| bytes.len()).enumerate() {
        if left as f64 >= WORTHWHILE * longest.max(1) as f64 {
            return count;
        }
        left -= longest;
    }
    sorted.len()
}

/// None of the vectors that are known here.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn sha512_256(_: &[&[u8]]) -> Option<Vec<ChunkId>> {
    None
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl")]
fn avx512(buffers: &[&[u8]]) -> Vec<ChunkId> {
    run::<8>(buffers, compress)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(buffers: &[&[u8]]) -> Vec<ChunkId> {
    run::<4>(buffers, |state, blocks| avx2::compress(state, blocks))
}

/// What one lane is working on: whole blocks of a buffer, then its padding.
struct Lane<'a> {
    /// Which buffer; `None` when there are no more.
    buffer: Option<usize>,
    blocks: &'a [[u8; BLOCK]],
    padding: [[u8; BLOCK]; 2],
    paddings: usize,
}

impl<'a> Lane<'a> {
    fn of(buffers: &[&'a [u8]], buffer: Option<usize>) -> Self {
        let Some(bytes) = buffer.map(|buffer| buffers[buffer]) else {
            return Self { buffer, blocks: &[], padding: [[0; BLOCK]; 2], paddings: 0 };
        };
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let mut padding = [[0; BLOCK]; 2];
        padding[0][..rest.len()].copy_from_slice(rest);
        padding[0][rest.len()] = 0x80;
        // The length in bits ends the padding, sixteen bytes of it.
        let paddings = if rest.len() < BLOCK - 16 { 1 } else { 2 };
        padding[paddings - 1][BLOCK - 16..].copy_from_slice(&(bytes.len() as u128 * 8).to_be_bytes());
        Self { buffer, blocks, padding, paddings }
    }
}

#[inline(always)]
fn run<const N: usize>(buffers: &[&[u8]], compress: impl Fn(&mut [[u64; N]; 8], [&[u8; BLOCK]; N])) -> Vec<ChunkId> {
    let mut ids = vec![ChunkId([0; 32]); buffers.len()];
    // The longest first: what is left for the end is short, and no lane is long at work alone.
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_unstable_by_key(|&buffer| std::cmp::Reverse(buffers[buffer].len()));
    let mut order = order.into_iter();
    let mut lanes: [Lane<'_>; N] = std::array::from_fn(|_| Lane::of(buffers, order.next()));
    let mut state: [[u64; N]; 8] = std::array::from_fn(|word| [INITIAL[word]; N]);
    static IDLE: [[u8; BLOCK]; 1] = [[0; BLOCK]];
    while lanes.iter().any(|lane| lane.buffer.is_some()) {
        // As many blocks as every lane at work has in its buffer, else one, of padding for some.
        let run = lanes.iter().filter(|lane| lane.buffer.is_some()).map(|lane| lane.blocks.len()).min().unwrap_or(0);
        if run > 0 {
            let blocks: [&[[u8; BLOCK]]; N] =
                std::array::from_fn(|n| if lanes[n].buffer.is_some() { &lanes[n].blocks[..run] } else { &IDLE[..] });
            for at in 0..run {
                compress(&mut state, std::array::from_fn(|n| blocks[n].get(at).unwrap_or(&IDLE[0])));
            }
            for lane in lanes.iter_mut().filter(|lane| lane.buffer.is_some()) {
                lane.blocks = &lane.blocks[run..];
            }
            continue;
        }
        let mut ended = [false; N];
        {
            let mut blocks: [&[u8; BLOCK]; N] = [&IDLE[0]; N];
            for (n, lane) in lanes.iter_mut().enumerate().filter(|(_, lane)| lane.buffer.is_some()) {
                if let Some((first, rest)) = lane.blocks.split_first() {
                    (blocks[n], lane.blocks) = (first, rest);
                } else {
                    lane.paddings -= 1;
                    ended[n] = lane.paddings == 0;
                    // Two paddings are taken in order; a single one is the first.
                    blocks[n] =
                        if ended[n] && lane.padding[1] != [0; BLOCK] { &lane.padding[1] } else { &lane.padding[0] };
                }
            }
            compress(&mut state, blocks);
        }
        for n in (0..N).filter(|&n| ended[n]) {
            if let Some(buffer) = lanes[n].buffer {
                for (word, bytes) in state.iter().zip(ids[buffer].0.chunks_exact_mut(8)) {
                    bytes.copy_from_slice(&word[n].to_be_bytes());
                }
            }
            lanes[n] = Lane::of(buffers, order.next());
            state.iter_mut().zip(INITIAL).for_each(|(word, initial)| word[n] = initial);
        }
    }
    ids
}

#[inline(always)]
fn map<const N: usize>(f: impl Fn(usize) -> u64) -> [u64; N] {
    let mut out = [0; N];
    let mut n = 0;
    while n < N {
        out[n] = f(n);
        n += 1;
    }
    out
}

/// One block of each lane.
#[inline(always)]
fn compress<const N: usize>(state: &mut [[u64; N]; 8], blocks: [&[u8; BLOCK]; N]) {
    let mut w = [[0u64; N]; 16];
    for (word, lanes) in w.iter_mut().enumerate() {
        for (lane, block) in lanes.iter_mut().zip(blocks) {
            let (words, _) = block.as_chunks::<8>();
            *lane = u64::from_be_bytes(words[word]);
        }
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for round in (0..80).step_by(16) {
        for i in 0..16 {
            let k = K[round + i];
            let t1: [u64; N] = map(|n| {
                let s1 = e[n].rotate_right(14) ^ e[n].rotate_right(18) ^ e[n].rotate_right(41);
                let ch = g[n] ^ (e[n] & (f[n] ^ g[n]));
                h[n].wrapping_add(s1).wrapping_add(ch).wrapping_add(k).wrapping_add(w[i][n])
            });
            let t2: [u64; N] = map(|n| {
                let s0 = a[n].rotate_right(28) ^ a[n].rotate_right(34) ^ a[n].rotate_right(39);
                s0.wrapping_add((a[n] & b[n]) | (c[n] & (a[n] | b[n])))
            });
            (h, g, f) = (g, f, e);
            e = map(|n| d[n].wrapping_add(t1[n]));
            (d, c, b) = (c, b, a);
            a = map(|n| t1[n].wrapping_add(t2[n]));
            let [w1, w9, w14] = [w[(i + 1) % 16], w[(i + 9) % 16], w[(i + 14) % 16]];
            w[i] = map(|n| {
                let s0 = w1[n].rotate_right(1) ^ w1[n].rotate_right(8) ^ (w1[n] >> 7);
                let s1 = w14[n].rotate_right(19) ^ w14[n].rotate_right(61) ^ (w14[n] >> 6);
                w[i][n].wrapping_add(s0).wrapping_add(w9[n]).wrapping_add(s1)
            });
        }
    }
    for (word, new) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = map(|n| word[n].wrapping_add(new[n]));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::Digest as _;

    use super::*;

    fn one_by_one(buffers: &[&[u8]]) -> Vec<ChunkId> {
        buffers.iter().map(|bytes| ChunkId(sha2::Sha512_256::digest(bytes).into())).collect()
    }

    fn check(lengths: &[usize]) {
        let bytes: Vec<u8> =
            (0..lengths.iter().max().copied().unwrap_or(0) + 300).map(|i| ((i * i) >> 3) as u8).collect();
        let buffers: Vec<&[u8]> = lengths.iter().enumerate().map(|(i, &n)| &bytes[i % 300..][..n]).collect();
        let want = one_by_one(&buffers);
        assert_eq!(run::<1>(&buffers, compress), want);
        assert_eq!(run::<4>(&buffers, compress), want);
        assert_eq!(run::<8>(&buffers, compress), want);
        if let Some(ids) = sha512_256(&buffers) {
            assert_eq!(ids, want);
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: safe code compiled for this feature, which this CPU has been found to have.
            #[allow(unsafe_code)]
            let ids = unsafe { avx2(&buffers) };
            assert_eq!(ids, want);
        }
    }

    #[test]
    fn every_length_around_the_blocks_is_padded_right() {
        check(&(0..=400).collect::<Vec<_>>());
        check(&(0..=400).rev().collect::<Vec<_>>());
        check(&[]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn lanes_give_what_one_by_one_gives(lengths in prop::collection::vec(0usize..3000, 0..40)) {
            check(&lengths);
        }
    }
}
