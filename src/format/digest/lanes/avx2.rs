//! One block in each of four lanes, in AVX2's own instructions: it has no rotation, and a compiler left to itself takes
//! every word out of the vectors to rotate it. No closures, which are not always inlined across the feature's border.

use std::arch::x86_64::*;

use super::{BLOCK, K};

/// Four times 64 bits, one of each lane.
type Lanes = __m256i;

#[inline]
#[target_feature(enable = "avx2")]
fn rotate_right<const RIGHT: i32, const LEFT: i32>(x: Lanes) -> Lanes {
    const { assert!(RIGHT + LEFT == 64) };
    _mm256_or_si256(_mm256_srli_epi64::<RIGHT>(x), _mm256_slli_epi64::<LEFT>(x))
}

#[inline]
#[target_feature(enable = "avx2")]
fn xor(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
    _mm256_xor_si256(_mm256_xor_si256(a, b), c)
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(a: Lanes, b: Lanes) -> Lanes {
    _mm256_add_epi64(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn from_words([a, b, c, d]: [u64; 4]) -> Lanes {
    _mm256_set_epi64x(d.cast_signed(), c.cast_signed(), b.cast_signed(), a.cast_signed())
}

/// Words `4 * part ..` of one block, most significant byte first.
#[inline]
#[target_feature(enable = "avx2")]
fn row(block: &[u8; BLOCK], part: usize) -> Lanes {
    let swap = _mm256_set_epi8(
        8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7,
    );
    let (words, _) = block.as_chunks::<8>();
    let [a, b, c, d] = [words[4 * part], words[4 * part + 1], words[4 * part + 2], words[4 * part + 3]];
    let row = [u64::from_ne_bytes(a), u64::from_ne_bytes(b), u64::from_ne_bytes(c), u64::from_ne_bytes(d)];
    _mm256_shuffle_epi8(from_words(row), swap)
}

/// Words `4 * part ..` of the four blocks, as four vectors of one word each.
#[inline]
#[target_feature(enable = "avx2")]
fn load([a, b, c, d]: [&[u8; BLOCK]; 4], part: usize) -> [Lanes; 4] {
    let (a, b, c, d) = (row(a, part), row(b, part), row(c, part), row(d, part));
    let (ab, ba) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let (cd, dc) = (_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
    [
        _mm256_permute2x128_si256::<0x20>(ab, cd),
        _mm256_permute2x128_si256::<0x20>(ba, dc),
        _mm256_permute2x128_si256::<0x31>(ab, cd),
        _mm256_permute2x128_si256::<0x31>(ba, dc),
    ]
}

/// One block of each lane.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn compress(state: &mut [[u64; 4]; 8], blocks: [&[u8; BLOCK]; 4]) {
    let mut w = [_mm256_setzero_si256(); 16];
    for part in 0..4 {
        w[4 * part..][..4].copy_from_slice(&load(blocks, part));
    }
    let [a, b, c, d, e, f, g, h] = *state;
    let (mut a, mut b, mut c, mut d) = (from_words(a), from_words(b), from_words(c), from_words(d));
    let (mut e, mut f, mut g, mut h) = (from_words(e), from_words(f), from_words(g), from_words(h));
    let before = [a, b, c, d, e, f, g, h];
    let mut ab = _mm256_xor_si256(b, c);
    for round in (0..80).step_by(16) {
        for i in 0..16 {
            let k = _mm256_set1_epi64x(K[round + i].cast_signed());
            let s1 = xor(rotate_right::<14, 50>(e), rotate_right::<18, 46>(e), rotate_right::<41, 23>(e));
            let ch = _mm256_xor_si256(g, _mm256_and_si256(e, _mm256_xor_si256(f, g)));
            let t1 = add(add(add(h, add(w[i], k)), ch), s1);
            let s0 = xor(rotate_right::<28, 36>(a), rotate_right::<34, 30>(a), rotate_right::<39, 25>(a));
            // The majority of three is b where a and b agree, and else c.
            let now = _mm256_xor_si256(a, b);
            let majority = _mm256_xor_si256(b, _mm256_and_si256(now, ab));
            ab = now;
            (h, g, f) = (g, f, e);
            e = add(d, t1);
            (d, c, b) = (c, b, a);
            a = add(t1, add(s0, majority));
            if round < 64 {
                let [w1, w9, w14] = [w[(i + 1) % 16], w[(i + 9) % 16], w[(i + 14) % 16]];
                let s0 = xor(rotate_right::<1, 63>(w1), rotate_right::<8, 56>(w1), _mm256_srli_epi64::<7>(w1));
                let s1 = xor(rotate_right::<19, 45>(w14), rotate_right::<61, 3>(w14), _mm256_srli_epi64::<6>(w14));
                w[i] = add(add(w[i], s0), add(w9, s1));
            }
        }
    }
    for ((word, new), old) in state.iter_mut().zip([a, b, c, d, e, f, g, h]).zip(before) {
        *word = to_words(add(new, old));
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn to_words(lanes: Lanes) -> [u64; 4] {
    [
        _mm256_extract_epi64::<0>(lanes),
        _mm256_extract_epi64::<1>(lanes),
        _mm256_extract_epi64::<2>(lanes),
        _mm256_extract_epi64::<3>(lanes),
    ]
    .map(i64::cast_unsigned)
}
