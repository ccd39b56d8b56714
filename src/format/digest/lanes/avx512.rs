//! One block in each of eight lanes, in AVX-512's own instructions, which rotate, and take three operands in any bitwise
//! function. By name, as with AVX2: closures and plain arrays became vectors in one build and single words in the next.

use std::arch::x86_64::*;

use super::{BLOCK, K};

/// Eight times 64 bits, one of each lane.
type Lanes = __m512i;

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn xor(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
    _mm512_ternarylogic_epi64::<0x96>(a, b, c)
}

/// The bits of `b` where `a` has ones, else those of `c`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn choice(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
    _mm512_ternarylogic_epi64::<0xca>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn majority(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
    _mm512_ternarylogic_epi64::<0xe8>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add(a: Lanes, b: Lanes) -> Lanes {
    _mm512_add_epi64(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn from_words(words: [u64; 8]) -> Lanes {
    let [a, b, c, d, e, f, g, h] = words.map(u64::cast_signed);
    _mm512_set_epi64(h, g, f, e, d, c, b, a)
}

/// Words `8 * part ..` of one block, most significant byte first.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn row(block: &[u8; BLOCK], part: usize) -> Lanes {
    let swap = _mm512_broadcast_i32x4(_mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    let (words, _) = block.as_chunks::<8>();
    let words: [u64; 8] = std::array::from_fn(|word| u64::from_ne_bytes(words[8 * part + word]));
    _mm512_shuffle_epi8(from_words(words), swap)
}

/// Words `8 * part ..` of the eight blocks, as eight vectors of one word each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load([a, b, c, d, e, f, g, h]: [&[u8; BLOCK]; 8], part: usize) -> [Lanes; 8] {
    let (a, b, c, d) = (row(a, part), row(b, part), row(c, part), row(d, part));
    let (e, f, g, h) = (row(e, part), row(f, part), row(g, part), row(h, part));
    let even = [
        _mm512_unpacklo_epi64(a, b),
        _mm512_unpacklo_epi64(c, d),
        _mm512_unpacklo_epi64(e, f),
        _mm512_unpacklo_epi64(g, h),
    ];
    let odd = [
        _mm512_unpackhi_epi64(a, b),
        _mm512_unpackhi_epi64(c, d),
        _mm512_unpackhi_epi64(e, f),
        _mm512_unpackhi_epi64(g, h),
    ];
    let ([w0, w2, w4, w6], [w1, w3, w5, w7]) = (transpose(even), transpose(odd));
    [w0, w1, w2, w3, w4, w5, w6, w7]
}

/// Rows become columns, of four times four pairs of words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose([a, b, c, d]: [Lanes; 4]) -> [Lanes; 4] {
    let (ab_even, ab_odd) = (_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0xdd>(a, b));
    let (cd_even, cd_odd) = (_mm512_shuffle_i64x2::<0x88>(c, d), _mm512_shuffle_i64x2::<0xdd>(c, d));
    [
        _mm512_shuffle_i64x2::<0x88>(ab_even, cd_even),
        _mm512_shuffle_i64x2::<0x88>(ab_odd, cd_odd),
        _mm512_shuffle_i64x2::<0xdd>(ab_even, cd_even),
        _mm512_shuffle_i64x2::<0xdd>(ab_odd, cd_odd),
    ]
}

/// One block of each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn compress(state: &mut [[u64; 8]; 8], blocks: [&[u8; BLOCK]; 8]) {
    let mut w = [_mm512_setzero_si512(); 16];
    for part in 0..2 {
        w[8 * part..][..8].copy_from_slice(&load(blocks, part));
    }
    let [a, b, c, d, e, f, g, h] = *state;
    let (mut a, mut b, mut c, mut d) = (from_words(a), from_words(b), from_words(c), from_words(d));
    let (mut e, mut f, mut g, mut h) = (from_words(e), from_words(f), from_words(g), from_words(h));
    let before = [a, b, c, d, e, f, g, h];
    for round in (0..80).step_by(16) {
        for i in 0..16 {
            let k = _mm512_set1_epi64(K[round + i].cast_signed());
            let s1 = xor(_mm512_ror_epi64::<14>(e), _mm512_ror_epi64::<18>(e), _mm512_ror_epi64::<41>(e));
            let t1 = add(add(add(h, add(w[i], k)), choice(e, f, g)), s1);
            let s0 = xor(_mm512_ror_epi64::<28>(a), _mm512_ror_epi64::<34>(a), _mm512_ror_epi64::<39>(a));
            let t2 = add(s0, majority(a, b, c));
            (h, g, f) = (g, f, e);
            e = add(d, t1);
            (d, c, b) = (c, b, a);
            a = add(t1, t2);
            if round < 64 {
                let [w1, w9, w14] = [w[(i + 1) % 16], w[(i + 9) % 16], w[(i + 14) % 16]];
                let s0 = xor(_mm512_ror_epi64::<1>(w1), _mm512_ror_epi64::<8>(w1), _mm512_srli_epi64::<7>(w1));
                let s1 = xor(_mm512_ror_epi64::<19>(w14), _mm512_ror_epi64::<61>(w14), _mm512_srli_epi64::<6>(w14));
                w[i] = add(add(w[i], s0), add(w9, s1));
            }
        }
    }
    for ((word, new), old) in state.iter_mut().zip([a, b, c, d, e, f, g, h]).zip(before) {
        *word = to_words(add(new, old));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn to_words(lanes: Lanes) -> [u64; 8] {
    let (low, high) = (_mm512_extracti64x4_epi64::<0>(lanes), _mm512_extracti64x4_epi64::<1>(lanes));
    [
        _mm256_extract_epi64::<0>(low),
        _mm256_extract_epi64::<1>(low),
        _mm256_extract_epi64::<2>(low),
        _mm256_extract_epi64::<3>(low),
        _mm256_extract_epi64::<0>(high),
        _mm256_extract_epi64::<1>(high),
        _mm256_extract_epi64::<2>(high),
        _mm256_extract_epi64::<3>(high),
    ]
    .map(i64::cast_unsigned)
}
