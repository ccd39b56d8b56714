//! Indexes, chunk boundaries and chunk files against what casync made (`tests/data`), and against the casync program
//! itself, in both directions.

use std::path::{Path, PathBuf};
use std::process::Command;

use caswarm::chunk::verify;
use caswarm::format::chunk_sizes::ChunkSizes;
use caswarm::format::chunker::Chunker;
use caswarm::format::digest::Digest;
use caswarm::format::index::{Index, IndexChunk};
use caswarm::format::layout::Layout;
use caswarm::source::local_store::LocalStore;
use proptest::prelude::*;
use proto::ChunkId;

use crate::support::{Need, caswarm, require, run};

pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The generated stream that casync's vectors name xs: xorshift64*.
fn xs(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let words = (0..length.div_ceil(8)).flat_map(|_| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes()
    });
    words.take(length).collect()
}

fn txt(length: usize) -> Vec<u8> {
    (0..).flat_map(|n: u32| format!("{n:08}\n").into_bytes()).take(length).collect()
}

fn blob() -> Vec<u8> {
    [xs(300_000), txt(300_000), vec![0; 200_000], xs(100_000)].concat()
}

fn cut(bytes: &[u8], sizes: ChunkSizes) -> Vec<&[u8]> {
    let (mut chunker, mut chunks, mut rest) = (Chunker::new(sizes), Vec::new(), bytes);
    while let Some(end) = chunker.next_cut(rest) {
        chunks.push(&rest[..end]);
        rest = &rest[end..];
    }
    chunks.extend((!rest.is_empty()).then_some(rest));
    chunks
}

fn index_of(bytes: &[u8], sizes: [u64; 3], digest: Digest, flags: u64) -> Index {
    let chunks = cut(bytes, ChunkSizes::new(sizes[0], sizes[1], sizes[2]).unwrap());
    let mut end = 0;
    let row = |(chunk, id): (&&[u8], ChunkId)| {
        end += chunk.len() as u64;
        IndexChunk { end, id }
    };
    Index { flags, sizes, chunks: chunks.iter().zip(digest.ids(&chunks)).map(row).collect() }
}

#[test]
fn chunks_of_generated_streams_are_casyncs() {
    let lists = [
        ("xs16m.16K.tsv", xs(16 << 20)),
        ("xs16m.64K.tsv", xs(16 << 20)),
        ("xs16m.64K.sha256.tsv", xs(16 << 20)),
        ("xs16m.256K.tsv", xs(16 << 20)),
        ("txt16m.64K.tsv", txt(16 << 20)),
        ("txt16m.256K.tsv", txt(16 << 20)),
        ("zero16m.64K.tsv", vec![0; 16 << 20]),
    ];
    for (name, stream) in lists {
        let text = std::fs::read_to_string(data("chunker").join(name)).unwrap();
        let digest = if name.contains("sha256") { Digest::Sha256 } else { Digest::Sha512_256 };
        let size = name.split('.').nth(1).unwrap();
        let chunks = cut(&stream, ChunkSizes::parse(size).unwrap());
        let mut offset = 0;
        let ours = chunks.iter().zip(digest.ids(&chunks)).map(|(chunk, id)| {
            offset += chunk.len();
            format!("{}\t{}\t{id}", offset - chunk.len(), chunk.len())
        });
        let theirs = text.lines().filter(|line| !line.starts_with('#'));
        assert!(ours.eq(theirs), "{name}");
    }
}

#[test]
fn indexes_of_every_kind_of_sizes_are_casyncs_byte_for_byte() {
    let stream = xs(1_000_000);
    for entry in std::fs::read_dir(data("chunker")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let input = match name.split('.').next().unwrap() {
            "xs1m" if name.ends_with(".caibx") => &stream[..],
            "xs100k" => &stream[..100_000],
            "cut-at-min" => &stream[45_452..145_452],
            _ => continue,
        };
        let bytes = std::fs::read(&path).unwrap();
        let index = Index::parse(&bytes).unwrap();
        assert_eq!(index.to_bytes(), bytes, "{name}");
        assert_eq!(index_of(input, index.sizes, index.digest(), index.flags), index, "{name}");
    }
}

#[test]
fn streams_of_awkward_lengths_are_cut_as_casync_cuts_them() {
    let text = std::fs::read_to_string(data("chunker/prefix-lengths.tsv")).unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let stream = xs(fields[0].parse().unwrap());
        let lengths: Vec<String> =
            cut(&stream, ChunkSizes::default()).iter().map(|chunk| chunk.len().to_string()).collect();
        let want = if fields[1] == "-" { "" } else { fields[1] };
        assert_eq!(lengths.join(","), want);
        assert_eq!(Digest::Sha512_256.id(&stream).to_string(), fields[2]);
    }
}

#[test]
fn every_chunk_of_casyncs_stores_verifies_whatever_its_compression() {
    let blob = blob();
    for store in ["default", "xz", "gzip", "sha256", "raw", "mixed"] {
        let index = if store == "sha256" { "sha256" } else { "default" };
        let bytes = std::fs::read(data("blob").join(format!("{index}.caibx"))).unwrap();
        let layout = Layout::of(&Index::parse(&bytes).unwrap());
        let store = LocalStore::open(data("blob").join(format!("{store}.castr"))).unwrap();
        assert_eq!((layout.count(), layout.total()), (12, 900_000));
        for position in 0..layout.count() {
            let (id, length) = (layout.id(position), layout.length(position));
            let found = store.get(id).unwrap().unwrap();
            let chunk = verify(&found, id, layout.digest(), length).unwrap();
            for &offset in layout.offsets(position) {
                assert_eq!(&chunk.bytes()[..], &blob[offset as usize..][..length as usize]);
            }
        }
    }
}

/// `caswarm make` or `casync make` of `image`, with options; answers the digest that it printed.
fn make(mut program: Command, dir: &Path, name: &str, options: &[&str], image: &Path) -> String {
    let store = format!("--store={}", dir.join(format!("{name}.castr")).display());
    program.arg("make").args(options).arg(store).arg(dir.join(format!("{name}.caibx"))).arg(image);
    run(&mut program).ok().stdout.trim().to_owned()
}

#[test]
fn what_caswarm_makes_is_what_casync_makes_and_casync_extracts_it() {
    if !require(&[Need::Program("casync")]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    std::fs::write(&image, [blob(), xs(1_500_001)].concat()).unwrap();
    let options: [&[&str]; 7] = [
        &[],
        &["--chunk-size=16K", "--digest=sha256"],
        &["--chunk-size=100:16384:1048576", "--compression=gzip"],
        &["--chunk-size=65536:65536:65536", "--compression=xz"],
        &["--chunk-size=1M"],
        &["--chunk-size=9M"],
        &["--chunk-size=60000:65536:70000"],
    ];
    for options in options {
        let ours = make(caswarm(dir.path()), dir.path(), "ours", options, &image);
        let theirs = make(Command::new("casync"), dir.path(), "theirs", options, &image);
        assert_eq!(ours, theirs);
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert_eq!(read("ours.caibx"), read("theirs.caibx"), "{options:?}");
        let id = format!("{}\n", Index::index_id(&read("ours.caibx")));
        assert_eq!(read("ours.caibx.id"), id.as_bytes());
        let mut extract = Command::new("casync");
        extract.arg("extract").arg(format!("--store={}", dir.path().join("ours.castr").display()));
        run(extract.arg(dir.path().join("ours.caibx")).arg(dir.path().join("out"))).ok();
        assert_eq!(read("out"), read("image"), "{options:?}");
        // casync takes a target that is there as a seed, and trips over its own writing.
        std::fs::remove_file(dir.path().join("out")).unwrap();
        for name in ["ours.castr", "theirs.castr"] {
            std::fs::remove_dir_all(dir.path().join(name)).unwrap();
        }
    }
}

#[test]
fn make_gives_the_same_bytes_with_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    std::fs::write(&image, [blob(), vec![0; 3 << 20], txt(5 << 20)].concat()).unwrap();
    for threads in ["--threads=1", "--threads=5"] {
        make(caswarm(dir.path()), dir.path(), &threads[2..], &[threads], &image);
    }
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert_eq!(read("threads=1.caibx"), read("threads=5.caibx"));
    let stores = ["threads=1.castr", "threads=5.castr"].map(|name| LocalStore::open(dir.path().join(name)).unwrap());
    let [one, five] = stores.each_ref().map(|store| store.ids().unwrap().map(Result::unwrap).collect::<Vec<_>>());
    assert_eq!(one, five);
    for id in one {
        let [a, b] = stores.each_ref().map(|store| store.get(id).unwrap().unwrap().bytes);
        assert_eq!(a, b);
    }
}

#[test]
fn a_make_that_fails_leaves_no_index() {
    let dir = tempfile::tempdir().unwrap();
    let (image, index, file) = (dir.path().join("image"), dir.path().join("x.caibx"), dir.path().join("file"));
    std::fs::write(&image, xs(100_000)).unwrap();
    std::fs::write(&file, "no store").unwrap();
    let make = |store: &Path, image: &Path| {
        let mut command = caswarm(dir.path());
        command.arg("make").arg("--store").arg(store).arg(&index).arg(image);
        let ran = run(&mut command).failed();
        assert!(!index.exists());
        ran
    };
    make(&file, &image).says(&["file", "not a directory"]);
    make(&dir.path().join("s"), &dir.path().join("nothing")).says(&["nothing"]);
    make(&dir.path().join("s"), dir.path()).says(&["is a directory"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn cuts_do_not_depend_on_how_the_stream_comes(
        min in 1u64..300, more in 0u64..300, most in 0u64..600, seed: u8, pieces in prop::collection::vec(0usize..200, 1..60),
    ) {
        let sizes = ChunkSizes::new(min, min + more, min + more + most).unwrap();
        let bytes: Vec<u8> = xs(6000).into_iter().map(|byte| byte & seed).collect();
        let (mut chunker, mut ends, mut start) = (Chunker::new(sizes), Vec::new(), 0);
        for piece in pieces.iter().cycle().take(500) {
            let end = (start + piece).min(bytes.len());
            while let Some(cut) = chunker.next_cut(&bytes[start..end]) {
                start += cut;
                ends.push(start);
            }
            start = end;
        }
        let whole = cut(&bytes[..start], sizes);
        let mut at = 0;
        let mut want: Vec<usize> = whole.iter().map(|chunk| { at += chunk.len(); at }).collect();
        if ends.len() < want.len() {
            want.pop();
        }
        prop_assert_eq!(ends, want);
        for chunk in &whole {
            prop_assert!(chunk.len() as u64 <= sizes.max().max(48));
        }
    }

    #[test]
    fn indexes_read_back_as_written(lengths in prop::collection::vec(1u64..1000, 0..50), id: [u8; 32]) {
        let mut end = 0;
        let chunks = lengths.iter().map(|length| { end += length; IndexChunk { end, id: ChunkId(id) } }).collect();
        let index = Index { flags: 0xb000_0000_0000_0000, sizes: [1, 500, 1000], chunks };
        prop_assert_eq!(Index::parse(&index.to_bytes()), Ok(index));
    }
}
