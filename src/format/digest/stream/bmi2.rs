//! Blocks of SHA-512, one after another. The words of two blocks at a time are extended in the vectors (AVX2) while the
//! rounds, which wait for each other, run in the other units with rotations that need no copy (BMI2). A round is spelled
//! out: a compiler left to itself runs out of registers, and the rounds wait for memory.

#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::*;

use crate::format::digest::constants::{BLOCK, K};

/// Two words of one block and the same two of the next.
type Words = __m256i;

/// One round: `$h` becomes the new first word, `$d` the new fifth. `$bc` is the xor of the second and third word and
/// becomes that of the first and second. `$at` is the offset in bytes, from the pointer `$kw`, of the round's word of the
/// block with its constant added.
macro_rules! round {
    ($a:ident, $b:ident, $d:ident, $e:ident, $f:ident, $g:ident, $h:ident, $bc:ident, $kw:expr, $at:expr) => {
        let ab: u64;
        // SAFETY: it reads one word from where the callers say that there is one, and uses BMI1 and BMI2, which the
        // function that it is used in needs too.
        unsafe {
            asm!(
                "add {h}, qword ptr [{kw} + {at}]",
                "rorx {x}, {e}, 41",
                "andn {y}, {e}, {g}",
                "rorx {z}, {e}, 18",
                "add {h}, {y}",
                "mov {y}, {e}",
                "xor {x}, {z}",
                "rorx {z}, {e}, 14",
                "and {y}, {f}",
                "xor {x}, {z}",
                "add {h}, {y}",
                "rorx {z}, {a}, 39",
                "rorx {y}, {a}, 34",
                "add {h}, {x}",
                "mov {x}, {a}",
                "xor {z}, {y}",
                "rorx {y}, {a}, 28",
                "add {d}, {h}",
                "xor {x}, {b}",
                "and {bc}, {x}",
                "xor {z}, {y}",
                // The majority of three is b where a and b agree, and else c.
                "xor {bc}, {b}",
                "add {h}, {z}",
                "add {h}, {bc}",
                a = in(reg) $a, b = in(reg) $b, d = inout(reg) $d, e = in(reg) $e, f = in(reg) $f, g = in(reg) $g,
                h = inout(reg) $h, kw = in(reg) $kw, at = const $at, bc = inout(reg) $bc => _,
                x = out(reg) ab, y = out(reg) _, z = out(reg) _,
                options(pure, readonly, nostack),
            );
        }
        $bc = ab;
    };
}

/// Two rounds. The words change places: who calls this again names them in the order in which they then are.
macro_rules! rounds {
    ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident, $bc:ident, $kw:expr, $at:expr) => {
        round!($a, $b, $d, $e, $f, $g, $h, $bc, $kw, $at);
        round!($h, $a, $c, $d, $e, $f, $g, $bc, $kw, $at + 8);
    };
}

/// Changes the state by all blocks in turn.
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub(super) fn compress(state: &mut [u64; 8], blocks: &[[u8; BLOCK]]) {
    let (pairs, odd) = blocks.as_chunks::<2>();
    for [first, second] in pairs {
        let words = extended_by_first(state, first, second);
        by_second(state, &words);
    }
    for block in odd {
        extended_by_first(state, block, block);
    }
}

/// For every sixteen rounds, for every two of them: two words of the first block and two of the second, constants added.
type Extended = [[[u64; 4]; 8]; 5];

/// Extends the words of both blocks, and meanwhile changes the state by the first.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn extended_by_first(state: &mut [u64; 8], first: &[u8; BLOCK], second: &[u8; BLOCK]) -> Extended {
    let (k, _) = K.as_chunks::<16>();
    let mut kw: Extended = [[[0; 4]; 8]; 5];
    let w: [Words; 8] = std::array::from_fn(|n| load(first, second, n));
    for (n, (kw, w)) in kw[0].iter_mut().zip(w).enumerate() {
        *kw = with_constants(w, &k[0], n);
    }
    let [mut w0, mut w1, mut w2, mut w3, mut w4, mut w5, mut w6, mut w7] = w;
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    let mut bc = b ^ c;
    for turn in 0..4 {
        // Two rounds, whose words lie at `$n` of this turn, and the next turn's words.
        macro_rules! step {
            ($n:literal, $w0:ident $w2:ident $w8:ident $w10:ident $w14:ident, $($word:ident)*) => {
                $w0 = next($w0, $w2, $w8, $w10, $w14);
                rounds!($($word)*, bc, kw[turn].as_ptr(), 32 * $n);
                kw[turn + 1][$n] = with_constants($w0, &k[turn + 1], $n);
            };
        }
        step!(0, w0 w1 w4 w5 w7, a b c d e f g h);
        step!(1, w1 w2 w5 w6 w0, g h a b c d e f);
        step!(2, w2 w3 w6 w7 w1, e f g h a b c d);
        step!(3, w3 w4 w7 w0 w2, c d e f g h a b);
        step!(4, w4 w5 w0 w1 w3, a b c d e f g h);
        step!(5, w5 w6 w1 w2 w4, g h a b c d e f);
        step!(6, w6 w7 w2 w3 w5, e f g h a b c d);
        step!(7, w7 w0 w3 w4 w6, c d e f g h a b);
    }
    for eight in kw[4].as_chunks::<4>().0 {
        rounds!(a b c d e f g h, bc, eight.as_ptr(), 0);
        rounds!(g h a b c d e f, bc, eight.as_ptr(), 32);
        rounds!(e f g h a b c d, bc, eight.as_ptr(), 64);
        rounds!(c d e f g h a b, bc, eight.as_ptr(), 96);
    }
    add_to(state, [a, b, c, d, e, f, g, h]);
    kw
}

/// Changes the state by the second of two blocks.
#[inline]
#[target_feature(enable = "bmi1,bmi2")]
fn by_second(state: &mut [u64; 8], kw: &Extended) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    let mut bc = b ^ c;
    for eight in kw.as_flattened().as_chunks::<4>().0 {
        rounds!(a b c d e f g h, bc, eight.as_ptr(), 16);
        rounds!(g h a b c d e f, bc, eight.as_ptr(), 48);
        rounds!(e f g h a b c d, bc, eight.as_ptr(), 80);
        rounds!(c d e f g h a b, bc, eight.as_ptr(), 112);
    }
    add_to(state, [a, b, c, d, e, f, g, h]);
}

fn add_to(state: &mut [u64; 8], words: [u64; 8]) {
    for (word, more) in state.iter_mut().zip(words) {
        *word = word.wrapping_add(more);
    }
}

/// Words `2 * pair` and the next, of both blocks.
#[inline]
#[target_feature(enable = "avx2")]
fn load(first: &[u8; BLOCK], second: &[u8; BLOCK], pair: usize) -> Words {
    let word = |block: &[u8; BLOCK], n: usize| {
        let (words, _) = block.as_chunks::<8>();
        i64::from_ne_bytes(words[2 * pair + n])
    };
    let swap = _mm256_set_epi8(
        8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7,
    );
    _mm256_shuffle_epi8(_mm256_set_epi64x(word(second, 1), word(second, 0), word(first, 1), word(first, 0)), swap)
}

/// With the constants of these two rounds, of the sixteen of a turn.
#[inline]
#[target_feature(enable = "avx2")]
fn with_constants(words: Words, constants: &[u64; 16], pair: usize) -> [u64; 4] {
    let [even, odd] = [constants[2 * pair], constants[2 * pair + 1]].map(u64::cast_signed);
    let sum = _mm256_add_epi64(words, _mm256_set_epi64x(odd, even, odd, even));
    let mut out = [0; 4];
    // SAFETY: four words of 64 bits are as long as what is stored, and need not be aligned.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), sum) };
    out
}

/// The words sixteen after `w0`; each vector is two words and named by the first.
#[inline]
#[target_feature(enable = "avx2")]
fn next(w0: Words, w2: Words, w8: Words, w10: Words, w14: Words) -> Words {
    let w1 = _mm256_alignr_epi8::<8>(w2, w0);
    let w9 = _mm256_alignr_epi8::<8>(w10, w8);
    let s0 = xor(rotate_right::<1, 63>(w1), rotate_right::<8, 56>(w1), _mm256_srli_epi64::<7>(w1));
    let s1 = xor(rotate_right::<19, 45>(w14), rotate_right::<61, 3>(w14), _mm256_srli_epi64::<6>(w14));
    _mm256_add_epi64(_mm256_add_epi64(w0, s0), _mm256_add_epi64(w9, s1))
}

#[inline]
#[target_feature(enable = "avx2")]
fn rotate_right<const RIGHT: i32, const LEFT: i32>(words: Words) -> Words {
    const { assert!(RIGHT + LEFT == 64) };
    _mm256_or_si256(_mm256_srli_epi64::<RIGHT>(words), _mm256_slli_epi64::<LEFT>(words))
}

#[inline]
#[target_feature(enable = "avx2")]
fn xor(a: Words, b: Words, c: Words) -> Words {
    _mm256_xor_si256(_mm256_xor_si256(a, b), c)
}
