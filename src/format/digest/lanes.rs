//! SHA-512/256 of several buffers at once, one in each lane of the CPU's vectors: several times the pace of one after
//! another. Which buffer is in which lane is decided here; what a kind of vectors does with a block of each has a file of
//! its own. For one long stream this is of no use.

use proto::ChunkId;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

const BLOCK: usize = 128;

/// Lanes that have to be at work, on average, to be faster than one buffer after another (measured: one lane has 0.38 of
/// the pace of one buffer alone with AVX-512, 0.41 with AVX2).
const WORTHWHILE: f64 = 2.6;

/// The digests of all buffers, in their order. Those that would keep one lane busy while the others have nothing left, or
/// all if there are no vectors, are digested by `alone`.
pub(super) fn sha512_256(buffers: &[&[u8]], alone: impl Fn(&[u8]) -> ChunkId) -> Vec<ChunkId> {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&buffer| std::cmp::Reverse(buffers[buffer].len()));
    let lengths: Vec<usize> = order.iter().map(|&buffer| buffers[buffer].len()).collect();
    let (first, rest) = order.split_at(too_long(&lengths, 4));
    let rest_of_them: Vec<&[u8]> = rest.iter().map(|&buffer| buffers[buffer]).collect();
    let together = if rest.is_empty() { Some(Vec::new()) } else { several(&rest_of_them) };
    let together = together.unwrap_or_else(|| rest_of_them.iter().map(|bytes| alone(bytes)).collect());
    let mut ids = vec![ChunkId([0; 32]); buffers.len()];
    for &buffer in first {
        ids[buffer] = alone(buffers[buffer]);
    }
    for (&buffer, id) in rest.iter().zip(together) {
        ids[buffer] = id;
    }
    ids
}

/// The digests of buffers by vectors; `None` where there are none that are known here.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn several(buffers: &[&[u8]]) -> Option<Vec<ChunkId>> {
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
        // SAFETY: safe code compiled for these two features, which this CPU has been found to have.
        return Some(unsafe { avx512(buffers) });
    }
    if is_x86_feature_detected!("avx2") {
        // SAFETY: safe code compiled for this feature, which this CPU has been found to have.
        return Some(unsafe { avx2(buffers) });
    }
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn several(_: &[&[u8]]) -> Option<Vec<ChunkId>> {
    None
}

/// Of buffers of these lengths, the longest first, how many are too long for the others to keep so many lanes busy beside
/// them.
fn too_long(lengths: &[usize], lanes: usize) -> usize {
    let mut total: usize = lengths.iter().sum();
    for (at, longest) in lengths.iter().enumerate() {
        if total as f64 >= WORTHWHILE * (*longest).max(total / lanes).max(1) as f64 {
            return at;
        }
        total -= longest;
    }
    lengths.len()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn avx512(buffers: &[&[u8]]) -> Vec<ChunkId> {
    run::<8>(buffers, |state, blocks| avx512::compress(state, blocks))
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

/// The state that SHA-512/256 starts from.
#[rustfmt::skip]
const INITIAL: [u64; 8] = [
    0x2231_2194_fc2b_f72c, 0x9f55_5fa3_c84c_64c2, 0x2393_b86b_6f53_b151, 0x9638_7719_5940_eabd,
    0x9628_3ee2_a88e_ffe3, 0xbe5e_1e25_5386_3992, 0x2b01_99fc_2c85_b8aa, 0x0eb7_2ddc_81c5_2ca2,
];

/// The constants of the rounds.
#[rustfmt::skip]
const K: [u64; 80] = [
    0x428a_2f98_d728_ae22, 0x7137_4491_23ef_65cd, 0xb5c0_fbcf_ec4d_3b2f, 0xe9b5_dba5_8189_dbbc,
    0x3956_c25b_f348_b538, 0x59f1_11f1_b605_d019, 0x923f_82a4_af19_4f9b, 0xab1c_5ed5_da6d_8118,
    0xd807_aa98_a303_0242, 0x1283_5b01_4570_6fbe, 0x2431_85be_4ee4_b28c, 0x550c_7dc3_d5ff_b4e2,
    0x72be_5d74_f27b_896f, 0x80de_b1fe_3b16_96b1, 0x9bdc_06a7_25c7_1235, 0xc19b_f174_cf69_2694,
    0xe49b_69c1_9ef1_4ad2, 0xefbe_4786_384f_25e3, 0x0fc1_9dc6_8b8c_d5b5, 0x240c_a1cc_77ac_9c65,
    0x2de9_2c6f_592b_0275, 0x4a74_84aa_6ea6_e483, 0x5cb0_a9dc_bd41_fbd4, 0x76f9_88da_8311_53b5,
    0x983e_5152_ee66_dfab, 0xa831_c66d_2db4_3210, 0xb003_27c8_98fb_213f, 0xbf59_7fc7_beef_0ee4,
    0xc6e0_0bf3_3da8_8fc2, 0xd5a7_9147_930a_a725, 0x06ca_6351_e003_826f, 0x1429_2967_0a0e_6e70,
    0x27b7_0a85_46d2_2ffc, 0x2e1b_2138_5c26_c926, 0x4d2c_6dfc_5ac4_2aed, 0x5338_0d13_9d95_b3df,
    0x650a_7354_8baf_63de, 0x766a_0abb_3c77_b2a8, 0x81c2_c92e_47ed_aee6, 0x9272_2c85_1482_353b,
    0xa2bf_e8a1_4cf1_0364, 0xa81a_664b_bc42_3001, 0xc24b_8b70_d0f8_9791, 0xc76c_51a3_0654_be30,
    0xd192_e819_d6ef_5218, 0xd699_0624_5565_a910, 0xf40e_3585_5771_202a, 0x106a_a070_32bb_d1b8,
    0x19a4_c116_b8d2_d0c8, 0x1e37_6c08_5141_ab53, 0x2748_774c_df8e_eb99, 0x34b0_bcb5_e19b_48a8,
    0x391c_0cb3_c5c9_5a63, 0x4ed8_aa4a_e341_8acb, 0x5b9c_ca4f_7763_e373, 0x682e_6ff3_d6b2_b8a3,
    0x748f_82ee_5def_b2fc, 0x78a5_636f_4317_2f60, 0x84c8_7814_a1f0_ab72, 0x8cc7_0208_1a64_39ec,
    0x90be_fffa_2363_1e28, 0xa450_6ceb_de82_bde9, 0xbef9_a3f7_b2c6_7915, 0xc671_78f2_e372_532b,
    0xca27_3ece_ea26_619c, 0xd186_b8c7_21c0_c207, 0xeada_7dd6_cde0_eb1e, 0xf57d_4f7f_ee6e_d178,
    0x06f0_67aa_7217_6fba, 0x0a63_7dc5_a2c8_98a6, 0x113f_9804_bef9_0dae, 0x1b71_0b35_131c_471b,
    0x28db_77f5_2304_7d84, 0x32ca_ab7b_40c7_2493, 0x3c9e_be0a_15c9_bebc, 0x431d_67c4_9c10_0d4c,
    0x4cc5_d4be_cb3e_42b6, 0x597f_299c_fc65_7e2a, 0x5fcb_6fab_3ad6_faec, 0x6c44_198c_4a47_5817,
];

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
        assert_eq!(sha512_256(&buffers, |bytes| ChunkId(sha2::Sha512_256::digest(bytes).into())), want);
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: safe code compiled for this feature, which this CPU has been found to have.
            #[allow(unsafe_code)]
            let ids = unsafe { avx2(&buffers) };
            assert_eq!(ids, want);
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            // SAFETY: safe code compiled for these two features, which this CPU has been found to have.
            #[allow(unsafe_code)]
            let ids = unsafe { avx512(&buffers) };
            assert_eq!(ids, want);
        }
    }

    #[test]
    fn every_length_around_the_blocks_is_padded_right() {
        check(&(0..=400).collect::<Vec<_>>());
        check(&(0..=400).rev().collect::<Vec<_>>());
        check(&[]);
    }

    #[test]
    fn what_would_keep_one_lane_busy_alone_is_too_long() {
        assert_eq!(too_long(&[], 4), 0);
        assert_eq!(too_long(&[9], 4), 1);
        assert_eq!(too_long(&[9, 9, 9], 4), 0);
        assert_eq!(too_long(&[9, 9, 5], 4), 3);
        assert_eq!(too_long(&[90, 9, 9, 9, 9], 4), 1);
        assert_eq!(too_long(&[900, 90, 9, 9, 9, 9], 4), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn lanes_give_what_one_by_one_gives(lengths in prop::collection::vec(0usize..3000, 0..40)) {
            check(&lengths);
        }
    }
}
