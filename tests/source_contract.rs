//! What every source of chunks promises, asked of every one that there is: the same scenarios on local stores, HTTP
//! stores and seeds. What only a local store does is in `local_store`, what is found in a seed without an index in
//! `cut_seeds`.

mod cut_seeds;
mod local_store;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use caswarm::chunk::{Encoding, verify};
use caswarm::format::compression::Compressor;
use caswarm::format::digest::Digest;
use caswarm::format::index::{Index, IndexChunk};
use caswarm::source::ChunkSource;
use caswarm::source::http::{HttpClient, HttpOptions};
use caswarm::source::http_store::HttpStore;
use caswarm::source::local_store::LocalStore;
use caswarm::source::seed::{Seed, Wanted};
use proto::ChunkId;

use crate::support::data::Random;
use crate::support::wire::{Step, Wire, answer};

/// The implementations.
const KINDS: [Kind; 8] = [
    Kind::Store(Encoding::Plain),
    Kind::Store(Encoding::Zstd),
    Kind::Store(Encoding::Xz),
    Kind::Store(Encoding::Gzip),
    Kind::Http(Encoding::Zstd),
    Kind::Http(Encoding::Xz),
    Kind::SeedByIndex,
    Kind::SeedByCutting,
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Store(Encoding),
    Http(Encoding),
    SeedByIndex,
    SeedByCutting,
}

/// Chunks of one size, so that a cut seed has them where they were written.
const LENGTH: u32 = 50_000;
const CHUNKS: usize = 8;

/// A source, and what it was made from.
struct Place {
    dir: tempfile::TempDir,
    kind: Kind,
    chunks: Vec<(ChunkId, Vec<u8>)>,
    source: Arc<dyn ChunkSource>,
    /// Requests that a server answered; other kinds count nothing.
    answered: Arc<AtomicUsize>,
    _wire: Option<Wire>,
}

impl Place {
    fn new(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut random = Random::new(5);
        let chunks: Vec<_> = std::iter::repeat_with(|| random.text(LENGTH as usize))
            .take(CHUNKS)
            .map(|bytes| (Digest::default().id(&bytes), bytes))
            .collect();
        let answered = Arc::new(AtomicUsize::new(0));
        let (mut wire, top) = (None, dir.path().join("top"));
        let source: Arc<dyn ChunkSource> = match kind {
            Kind::Store(encoding) => {
                write_store(&top, encoding, &chunks);
                Arc::new(LocalStore::open(&top).unwrap())
            }
            Kind::Http(encoding) => {
                write_store(&top, encoding, &chunks);
                let (root, answered) = (dir.path().to_owned(), answered.clone());
                let served = wire.insert(Wire::serve(move |asked| {
                    answered.fetch_add(1, Ordering::Relaxed);
                    let path = root.join(&asked.target[1..]);
                    match std::fs::read(&path) {
                        Ok(bytes) => answer(200, "", &bytes),
                        // A directory in the chunk's place is what makes this server fail.
                        Err(_) if path.is_dir() => vec![Step::Close],
                        Err(_) => answer(404, "", b""),
                    }
                }));
                let options = HttpOptions { backoff: Duration::from_millis(1), ..HttpOptions::default() };
                Arc::new(HttpStore::new(&served.url("top"), HttpClient::new(options).unwrap()))
            }
            Kind::SeedByIndex => {
                std::fs::write(&top, chunks.iter().flat_map(|chunk| &chunk.1).copied().collect::<Vec<_>>()).unwrap();
                Arc::new(Seed::with_index(&top, &index(&chunks), None).unwrap())
            }
            Kind::SeedByCutting => {
                std::fs::write(&top, chunks.iter().flat_map(|chunk| &chunk.1).copied().collect::<Vec<_>>()).unwrap();
                let wanted = Wanted::new(chunks.iter().map(|(id, bytes)| (*id, bytes.len() as u32)));
                Arc::new(Seed::by_cutting(&top, [u64::from(LENGTH); 3], Digest::default(), &wanted, 2).unwrap())
            }
        };
        Self { dir, kind, chunks, source, answered, _wire: wire }
    }

    /// The file that a chunk is in, and where in it.
    fn file_of(&self, number: usize) -> (PathBuf, usize) {
        let top = self.dir.path().join("top");
        match self.kind {
            Kind::Store(encoding) | Kind::Http(encoding) => (top.join(path(&self.chunks[number].0, encoding)), 0),
            Kind::SeedByIndex | Kind::SeedByCutting => (top, number * LENGTH as usize),
        }
    }

    /// Damages a chunk in its middle.
    fn corrupt(&self, number: usize) {
        let (file, at) = self.file_of(number);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[at + 1000] ^= 0x55;
        overwrite(&file, &bytes);
    }
}

fn path(id: &ChunkId, encoding: Encoding) -> String {
    let name = id.to_string();
    let suffix = if encoding == Encoding::Plain { "" } else { ".cacnk" };
    format!("{}/{name}{suffix}", &name[..4])
}

/// As casync would have written it.
fn write_store(top: &std::path::Path, encoding: Encoding, chunks: &[(ChunkId, Vec<u8>)]) {
    std::fs::create_dir(top).unwrap();
    for (id, bytes) in chunks {
        let file = top.join(path(id, encoding));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, Compressor::new(encoding).unwrap().compress(bytes).unwrap()).unwrap();
    }
}

fn index(chunks: &[(ChunkId, Vec<u8>)]) -> Index {
    let ends = (1..).map(|number| number * u64::from(LENGTH));
    let chunks = ends.zip(chunks).map(|(end, (id, _))| IndexChunk { end, id: *id }).collect();
    let flags = caswarm::format::features::BLOB | caswarm::format::features::SHA512_256;
    Index { flags, sizes: [u64::from(LENGTH); 3], chunks }
}

/// Overwrites a file where it is, as damage does.
fn overwrite(file: &std::path::Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn what_a_source_has_it_gives_as_it_lies_there() {
    for kind in KINDS {
        let place = Place::new(kind);
        for (id, bytes) in &place.chunks {
            let encoded = place.source.fetch(*id).await.unwrap().unwrap_or_else(|| panic!("{kind:?}: {id} is absent"));
            let wanted = match kind {
                Kind::Store(encoding) | Kind::Http(encoding) => encoding,
                Kind::SeedByIndex | Kind::SeedByCutting => Encoding::Plain,
            };
            assert_eq!(encoded.encoding, wanted, "{kind:?}");
            let chunk = verify(&encoded, *id, Digest::default(), LENGTH).unwrap();
            assert!(chunk.bytes()[..] == bytes[..], "{kind:?}");
        }
    }
}

#[tokio::test]
async fn what_a_source_does_not_have_is_absent_and_no_error() {
    for kind in KINDS {
        let place = Place::new(kind);
        // Also one whose directory is there.
        let mut beside = place.chunks[0].0;
        beside.0[31] ^= 1;
        for id in [ChunkId([0; 32]), beside] {
            assert!(place.source.fetch(id).await.unwrap().is_none(), "{kind:?}");
        }
    }
}

#[tokio::test]
async fn what_is_damaged_is_found_out_by_verify_not_by_the_source() {
    for kind in KINDS {
        let place = Place::new(kind);
        place.corrupt(3);
        let encoded = place.source.fetch(place.chunks[3].0).await.unwrap().unwrap();
        assert!(verify(&encoded, place.chunks[3].0, Digest::default(), LENGTH).is_err(), "{kind:?}");
        let (id, _) = place.chunks[4];
        let encoded = place.source.fetch(id).await.unwrap().unwrap();
        assert!(verify(&encoded, id, Digest::default(), LENGTH).is_ok(), "{kind:?}");
    }
}

#[tokio::test]
async fn what_became_shorter_is_absent_or_found_out() {
    for kind in KINDS {
        let place = Place::new(kind);
        let last = CHUNKS - 1;
        let (file, at) = place.file_of(last);
        let bytes = std::fs::read(&file).unwrap();
        overwrite(&file, &bytes[..at + (bytes.len() - at) / 2]);
        let id = place.chunks[last].0;
        let found = place.source.fetch(id).await.unwrap();
        let right = found.is_some_and(|encoded| verify(&encoded, id, Digest::default(), LENGTH).is_ok());
        assert!(!right, "{kind:?}");
    }
}

#[tokio::test]
async fn a_failure_names_the_place_and_leaves_the_other_chunks() {
    for kind in KINDS {
        let place = Place::new(kind);
        if matches!(kind, Kind::SeedByIndex | Kind::SeedByCutting) {
            // A file whose first page nobody can read, not even root: nothing is mapped there.
            let source = Seed::with_index("/proc/self/mem", &index(&place.chunks), None).unwrap();
            let error = source.fetch(place.chunks[0].0).await.unwrap_err().to_string();
            assert!(error.contains("/proc/self/mem"), "{kind:?}: {error}");
            continue;
        }
        let (file, _) = place.file_of(2);
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        let name = place.chunks[2].0.to_string();
        let error = place.source.fetch(place.chunks[2].0).await.unwrap_err().to_string();
        assert!(error.contains(place.source.name()) && error.contains(&name), "{kind:?}: {error}");
        assert!(place.source.fetch(place.chunks[1].0).await.unwrap().is_some(), "{kind:?}");
    }
}

#[tokio::test]
async fn a_fetch_that_is_dropped_harms_no_other() {
    for kind in KINDS {
        let place = Place::new(kind);
        for round in 0..50 {
            let id = place.chunks[round % CHUNKS].0;
            let dropped = place.source.fetch(id);
            let kept = place.source.fetch(id);
            if round % 2 == 0 {
                drop(dropped);
            } else {
                // Polled so long, then dropped.
                let _ = tokio::time::timeout(Duration::from_micros(50 * round as u64), dropped).await;
            }
            assert!(kept.await.unwrap().is_some(), "{kind:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_ask_one_source_at_once() {
    for kind in KINDS {
        let place = Place::new(kind);
        let asked = (0..200).map(|number| place.chunks[number % CHUNKS].0).map(|id| {
            let source = place.source.clone();
            tokio::spawn(async move {
                let encoded = source.fetch(id).await.unwrap().unwrap();
                verify(&encoded, id, Digest::default(), LENGTH).unwrap();
            })
        });
        for asked in asked.collect::<Vec<_>>() {
            asked.await.unwrap();
        }
        if matches!(kind, Kind::Http(_)) {
            assert_eq!(place.answered.load(Ordering::Relaxed), 200);
        }
    }
}

#[tokio::test]
async fn a_file_of_no_known_compression_is_refused_by_name() {
    for kind in KINDS {
        let (Kind::Store(encoding) | Kind::Http(encoding)) = kind else { continue };
        if encoding == Encoding::Plain {
            continue;
        }
        let place = Place::new(kind);
        let (file, _) = place.file_of(0);
        overwrite(&file, b"<html>no chunk at all</html>");
        let error = place.source.fetch(place.chunks[0].0).await.unwrap_err().to_string();
        assert!(error.contains(&place.chunks[0].0.to_string()) && error.contains("zstd"), "{kind:?}: {error}");
    }
}
