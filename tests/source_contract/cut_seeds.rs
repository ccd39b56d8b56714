//! Seeds without an index: whatever casync would cut from the file is found in it, by any number of threads.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use caswarm::chunk::verify;
use caswarm::format::chunk_sizes::ChunkSizes;
use caswarm::format::chunker::Chunker;
use caswarm::format::digest::Digest;
use caswarm::format::index::Index;
use caswarm::source::seed::{Seed, Wanted};
use proto::ChunkId;

use crate::support::data::{Random, image};
use crate::support::{Need, require, run};

const DIGEST: Digest = Digest::Sha512_256;

/// The chunks of a stream, by one pass over it.
fn cut(bytes: &[u8], sizes: [u64; 3]) -> Vec<(ChunkId, u32)> {
    let mut chunker = Chunker::new(ChunkSizes::new(sizes[0], sizes[1], sizes[2]).unwrap());
    let mut chunks = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(chunker.next_cut(rest).unwrap_or(rest.len()));
        chunks.push((DIGEST.id(chunk), chunk.len() as u32));
        rest = after;
    }
    chunks
}

/// Looks for the chunks in the file, each of which must be found, and lie where it is said to lie.
#[track_caller]
fn assert_finds_all(file: &Path, sizes: [u64; 3], chunks: &[(ChunkId, u32)], what: &str) {
    for threads in [1, 3] {
        let wanted = Wanted::new(chunks.iter().copied());
        let seed = Seed::by_cutting(file, sizes, DIGEST, &wanted, threads).unwrap();
        let lost = chunks.iter().filter(|(id, _)| seed.find(id).is_none()).count();
        assert_eq!(lost, 0, "{what}: {threads} threads lost {lost} of {} chunks", chunks.len());
        for &(id, length) in chunks {
            verify(&seed.get(id).unwrap().unwrap(), id, DIGEST, length).unwrap();
        }
    }
}

const USUAL: [u64; 3] = [16 << 10, 64 << 10, 256 << 10];

/// Files that are hard to cut in parts, by what makes them so.
fn hard_files() -> Vec<(&'static str, Vec<u8>)> {
    let mut random = Random::new(8);
    let mut noise = |length: usize| random.bytes(length);
    let run = |byte: u8, length: usize| vec![byte; length];
    let pattern = |length: usize| b"0123456789abcdefg".iter().copied().cycle().take(length).collect::<Vec<u8>>();
    vec![
        ("noise", noise(17 << 20)),
        ("zeros over a segment", [noise(3_333_333), run(0, 9 << 20), noise(5_000_000)].concat()),
        ("zeros at the start", [run(0, 9_234_567), noise(2_999_999)].concat()),
        ("runs of ones and zeros", [noise(77_777), run(255, 11 << 20), noise(300_000), run(0, 8 << 20)].concat()),
        ("a pattern", [noise(123_457), pattern(11 << 20), noise(2_000_000)].concat()),
        ("shorter than the smallest chunk", noise(1000)),
        ("one byte", noise(1)),
    ]
}

#[test]
fn every_chunk_that_one_pass_cuts_is_found_in_data_and_in_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("seed");
    for (what, bytes) in hard_files() {
        std::fs::write(&file, &bytes).unwrap();
        assert_finds_all(&file, USUAL, &cut(&bytes, USUAL), what);
    }
}

#[test]
fn holes_are_cut_as_the_zeros_that_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("seed");
    let noise = Random::new(9).bytes(3_000_000);
    let sparse = File::create(&file).unwrap();
    sparse.set_len(40 << 20).unwrap();
    sparse.write_all_at(&noise[..1_234_567], 4096).unwrap();
    sparse.write_all_at(&noise[1_234_567..], 23_333_333).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    assert_finds_all(&file, USUAL, &cut(&bytes, USUAL), "holes");
}

#[test]
fn other_sizes_find_all_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("seed");
    let bytes = [image(4, 3 << 20), vec![0; 9 << 20], image(5, 6_000_001)].concat();
    std::fs::write(&file, &bytes).unwrap();
    for sizes in [[1 << 10, 4 << 10, 16 << 10], [60_000; 3], [256 << 10, 1 << 20, 4 << 20]] {
        assert_finds_all(&file, sizes, &cut(&bytes, sizes), &format!("{sizes:?}"));
    }
}

#[test]
fn what_moved_by_any_number_of_bytes_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("seed");
    let old = Random::new(10).bytes(4_000_000);
    let chunks = cut(&old, USUAL);
    for shift in [1, 511, 4095, 70_001] {
        std::fs::write(&file, [&Random::new(11).bytes(shift), &old[..]].concat()).unwrap();
        let seed = Seed::by_cutting(&file, USUAL, DIGEST, &Wanted::new(chunks.iter().copied()), 2).unwrap();
        // The first few are cut differently.
        assert!(seed.len() + 8 >= chunks.len(), "{} of {} moved by {shift}", seed.len(), chunks.len());
    }
}

#[test]
fn what_casync_cuts_from_a_file_is_found_in_it() {
    if !require(&[Need::Program("casync")]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("seed");
    let files = hard_files().into_iter().filter(|(what, _)| !what.contains("noise") && !what.contains("pattern"));
    for (what, bytes) in files {
        std::fs::write(&file, &bytes).unwrap();
        let casync = ["make", "--store=store.castr", "seed.caibx", "seed"];
        run(Command::new("casync").args(casync).current_dir(dir.path())).ok();
        let index = Index::parse(&std::fs::read(dir.path().join("seed.caibx")).unwrap()).unwrap();
        let mut start = 0;
        let length = |end: u64| (end - std::mem::replace(&mut start, end)) as u32;
        let ends: Vec<u64> = index.chunks.iter().map(|chunk| chunk.end).collect();
        let lengths: Vec<u32> = ends.into_iter().map(length).collect();
        let chunks: Vec<_> = index.chunks.iter().map(|chunk| chunk.id).zip(lengths).collect();
        assert_finds_all(&file, index.sizes, &chunks, what);
    }
}

#[test]
fn a_seed_that_changes_while_it_is_cut_only_loses_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seed");
    let bytes = image(6, 12 << 20);
    let chunks = cut(&bytes, USUAL);
    std::fs::write(&path, &bytes).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&path).unwrap();
            let mut random = Random::new(12);
            let started = std::time::Instant::now();
            // Ends also when the other thread panics.
            while !over.load(Ordering::Relaxed) && started.elapsed().as_secs() < 60 {
                match random.below(3) {
                    0 => file.set_len(random.below(bytes.len()) as u64).unwrap(),
                    1 => file.set_len(bytes.len() as u64).unwrap(),
                    _ => file.write_all_at(&random.bytes(5000), random.below(bytes.len()) as u64).unwrap(),
                }
            }
        });
        for threads in [1, 2, 3, 4] {
            let wanted = Wanted::new(chunks.iter().copied());
            let seed = Seed::by_cutting(&path, USUAL, DIGEST, &wanted, threads).unwrap();
            // What has changed since is absent or left for verify to find out, but never an error.
            seed.ids().for_each(|id| drop(seed.get(id).unwrap()));
        }
        over.store(true, Ordering::Relaxed);
    });
    std::fs::write(&path, &bytes).unwrap();
    assert_finds_all(&path, USUAL, &chunks, "after the changes");
}

#[test]
fn nothing_wanted_or_nothing_there_is_an_empty_seed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seed");
    std::fs::write(&path, b"").unwrap();
    let wanted = Wanted::new([(ChunkId([1; 32]), 5)]);
    assert!(Seed::by_cutting(&path, USUAL, DIGEST, &wanted, 2).unwrap().is_empty());
    std::fs::write(&path, image(1, 1_000_000)).unwrap();
    assert!(Seed::by_cutting(&path, USUAL, DIGEST, &wanted, 2).unwrap().is_empty());
    assert!(Seed::by_cutting(&path, USUAL, DIGEST, &Wanted::default(), 2).unwrap().is_empty());
    assert!(Seed::by_cutting(dir.path(), USUAL, DIGEST, &wanted, 2).is_err());
    assert!(Seed::by_cutting("/dev/null", USUAL, DIGEST, &wanted, 2).is_err());
}
