//! How fast one thread works through casync's formats: cutting, naming, compressing, decompressing, verifying, and the
//! index. Chunks of real files of this machine, in memory.
//!
//! `cargo bench --bench formats`. Rates are of uncompressed bytes unless a line says otherwise, each the median of the
//! runs that fit into about a second; arguments choose lines by a part of their name.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../support"]
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared with the tests")]
mod support {
    pub mod data;
    pub mod lan;
    pub mod need;
    pub mod process;
}
#[allow(unreachable_pub)]
mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use caswarm::chunk::{Claim, Encoded, Encoding, verify, verify_many};
use caswarm::format::chunk_sizes::ChunkSizes;
use caswarm::format::chunker::Chunker;
use caswarm::format::compression::{Compressor, Decompressor};
use caswarm::format::digest::Digest;
use caswarm::format::features;
use caswarm::format::index::{Index, IndexChunk};
use caswarm::format::layout::Layout;
use proto::ChunkId;
use sha2::Digest as _;
use support::data::Random;

/// Bytes to work on; more than the caches hold.
const BYTES: u64 = 64 << 20;

/// What the slow compressors get of it.
const FEW: usize = 64;

/// Rows of the index: an image of about 4 GB.
const ROWS: u64 = 60_000;

/// How many chunks are named or verified at a time.
const BATCH: usize = 16;

fn main() {
    let bench = Bench { only: std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect() };
    let work = common::workplace(None);
    let file = work.path().join("data");
    common::image_of_this_machine(&file, BYTES);
    let data = std::fs::read(&file).unwrap();

    bench.line("cut, 16K:64K:256K", data.len(), || cut(&data, "64K").len());
    bench.line("cut, 256K:1M:4M", data.len(), || cut(&data, "1M").len());
    let chunks = cut(&data, "64K");
    println!("{} MB in {} chunks", data.len() / 1_000_000, chunks.len());

    naming(&bench, &chunks, data.len());
    for (encoding, chunks) in [
        (Encoding::Zstd, &chunks[..]),
        (Encoding::Gzip, &chunks[..FEW.min(chunks.len())]),
        (Encoding::Xz, &chunks[..FEW.min(chunks.len())]),
    ] {
        compression(&bench, encoding, chunks);
    }
    index(&bench);
}

fn naming(bench: &Bench, chunks: &[&[u8]], length: usize) {
    bench.line("SHA-512/256, sha2 crate", length, || {
        chunks.iter().fold(0, |sum, chunk| sum ^ sha2::Sha512_256::digest(chunk)[0])
    });
    bench.line("SHA-512/256, one chunk at a time", length, || {
        chunks.iter().fold(0, |sum, chunk| sum ^ Digest::Sha512_256.id(chunk).0[0])
    });
    bench.line("SHA-512/256, 16 chunks at a time", length, || {
        chunks.chunks(BATCH).map(|batch| Digest::Sha512_256.ids(batch)).collect::<Vec<_>>()
    });
    bench.line("SHA-256, one chunk at a time", length, || {
        chunks.iter().fold(0, |sum, chunk| sum ^ Digest::Sha256.id(chunk).0[0])
    });
}

fn compression(bench: &Bench, encoding: Encoding, chunks: &[&[u8]]) {
    let length = chunks.iter().map(|chunk| chunk.len()).sum();
    let name = format!("{encoding:?}").to_lowercase();
    let mut compressor = Compressor::new(encoding).unwrap();
    let claims: Vec<Claim> = chunks
        .iter()
        .map(|plain| Claim {
            encoded: Encoded { encoding, bytes: Bytes::from(compressor.compress(plain).unwrap()) },
            id: Digest::Sha512_256.id(plain),
            length: plain.len() as u32,
        })
        .collect();
    bench.line(&format!("{name}: compress"), length, || {
        chunks.iter().map(|plain| compressor.compress(plain).unwrap().len()).sum::<usize>()
    });
    let mut decompressor = Decompressor::new();
    bench.line(&format!("{name}: decompress"), length, || {
        let mut plain = |claim: &Claim| {
            decompressor.decompress(encoding, &claim.encoded.bytes, claim.length as usize).unwrap().len()
        };
        claims.iter().map(&mut plain).sum::<usize>()
    });
    bench.line(&format!("{name}: verify, one at a time"), length, || {
        for claim in &claims {
            verify(&claim.encoded, claim.id, Digest::Sha512_256, claim.length).unwrap();
        }
    });
    bench.line(&format!("{name}: verify, 16 at a time"), length, || {
        let verified = claims.chunks(BATCH).flat_map(|batch| verify_many(batch, Digest::Sha512_256));
        assert_eq!(verified.filter(Result::is_ok).count(), claims.len());
    });
}

fn index(bench: &Bench) {
    let mut random = Random::new(1);
    let mut id = || ChunkId(random.bytes(32).try_into().unwrap());
    let chunks = (1..=ROWS).map(|row| IndexChunk { end: row << 16, id: id() }).collect();
    let flags = features::normalised(features::BLOB | features::SHA512_256);
    let index = Index { flags, sizes: ChunkSizes::default().to_array(), chunks };
    let bytes = index.to_bytes();
    bench.line("index: parse (bytes of the file)", bytes.len(), || Index::parse(&bytes).unwrap());
    bench.line("index: write (bytes of the file)", bytes.len(), || index.to_bytes());
    bench.line("index: layout (bytes of the file)", bytes.len(), || Layout::of(&index));
}

fn cut<'a>(data: &'a [u8], sizes: &str) -> Vec<&'a [u8]> {
    let mut chunker = Chunker::new(sizes.parse().unwrap());
    let (mut chunks, mut rest) = (Vec::new(), data);
    while let Some(end) = chunker.next_cut(rest) {
        let (chunk, after) = rest.split_at(end);
        chunks.push(chunk);
        rest = after;
    }
    chunks.extend(Some(rest).filter(|rest| !rest.is_empty()));
    chunks
}

/// Which lines are wanted; all, if none is named.
struct Bench {
    only: Vec<String>,
}

impl Bench {
    /// Does the work again and again for a second, three times at least, and prints the rate.
    fn line<T>(&self, name: &str, bytes: usize, mut work: impl FnMut() -> T) {
        if !self.only.is_empty() && !self.only.iter().any(|part| name.contains(part.as_str())) {
            return;
        }
        let (began, mut seconds) = (Instant::now(), Vec::new());
        while seconds.len() < 3 || began.elapsed() < Duration::from_secs(1) {
            let start = Instant::now();
            black_box(work());
            seconds.push(start.elapsed().as_secs_f64());
        }
        let runs = seconds.len();
        println!("{name:<40} {:>8.0} MB/s  ({runs} runs)", bytes as f64 / 1e6 / common::median(seconds));
    }
}
