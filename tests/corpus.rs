//! The corpus of the fuzz targets (`tests/fuzz`), replayed and mutated without a fuzzer.

mod claims;

use std::path::Path;

use crate::support::data::Random;

/// What must hold for any bytes; answers whether they were accepted.
type AnyBytes = fn(&[u8]) -> bool;

const TARGETS: [(&str, AnyBytes); 4] =
    [("index", claims::index), ("chunk", claims::chunk), ("message", claims::message), ("archive", claims::archive)];

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
    };
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(entry).collect();
    files.sort();
    files
}

#[test]
fn the_fuzz_corpus_replays_without_a_panic() {
    for (target, claim) in TARGETS {
        let files = corpus(target);
        assert!(files.len() >= 10, "{target}");
        for (name, bytes) in files {
            let accepted = claim(&bytes);
            assert!(accepted || !name.starts_with("valid-"), "{target}/{name} is refused");
        }
    }
}

#[test]
fn mutations_of_the_corpus_break_no_claim() {
    for (target, claim) in TARGETS {
        let files = corpus(target);
        let mut random = Random::new(3);
        for _ in 0..3000 {
            let mut bytes = files[random.below(files.len())].1.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len() + 1);
                match random.below(5) {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, random.next() as u8),
                    2 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
                    3 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
                    _ => {
                        let other = &files[random.below(files.len())].1;
                        let from = random.below(other.len() + 1);
                        let to = (from + random.below(64)).min(other.len());
                        bytes.splice(at..at, other[from..to].iter().copied());
                    }
                }
            }
            claim(&bytes);
        }
    }
}
