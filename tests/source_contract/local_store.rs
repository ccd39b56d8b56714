//! Local stores as others leave them: written by several at once, read meanwhile, read-only, full, with leftovers.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use caswarm::chunk::{Chunk, Encoding, name_many, verify};
use caswarm::format::compression::Compressor;
use caswarm::format::digest::Digest;
use caswarm::source::SourceError;
use caswarm::source::local_store::LocalStore;

use super::overwrite;
use crate::support::data::{Random, image};
use crate::support::published::Published;
use crate::support::{Need, Process, caswarm, require, run};

fn chunks(seed: u64, count: usize) -> Vec<Chunk> {
    let mut random = Random::new(seed);
    let plain = (0..count).map(|_| 1 + random.below(40_000)).collect::<Vec<_>>();
    name_many(plain.into_iter().map(|length| Bytes::from(random.text(length))).collect(), Digest::default())
}

fn compress(chunk: &Chunk) -> Vec<u8> {
    Compressor::new(Encoding::Zstd).unwrap().compress(chunk.bytes()).unwrap()
}

/// Whether the store has the chunk, whole and right. One that is there and wrong is a failed test.
#[track_caller]
fn has(store: &LocalStore, chunk: &Chunk) -> bool {
    let found = store.get(chunk.id()).unwrap();
    found.is_some_and(|encoded| verify(&encoded, chunk.id(), Digest::default(), chunk.bytes().len() as u32).is_ok())
}

fn files(store: &Path) -> Vec<PathBuf> {
    let directories = std::fs::read_dir(store).unwrap().map(|directory| directory.unwrap().path());
    directories.flat_map(|directory| std::fs::read_dir(directory).unwrap()).map(|file| file.unwrap().path()).collect()
}

#[test]
fn threads_that_write_the_same_chunks_agree_on_one_and_readers_see_only_whole_ones() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = chunks(1, 200);
    let over = AtomicBool::new(false);
    let new: usize = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let store = LocalStore::open_or_create(dir.path()).unwrap();
                    while !over.load(Ordering::Relaxed) {
                        for chunk in &chunks {
                            let Some(encoded) = store.get(chunk.id()).unwrap() else { continue };
                            let length = chunk.bytes().len() as u32;
                            verify(&encoded, chunk.id(), Digest::default(), length).unwrap();
                        }
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (chunks, path) = (&chunks, dir.path());
                scope.spawn(move || {
                    let store = LocalStore::open_or_create(path).unwrap();
                    let mut random = Random::new(writer);
                    let mut order: Vec<&Chunk> = chunks.iter().collect();
                    (0..order.len()).for_each(|at| order.swap(at, random.below(chunks.len())));
                    let insert = |chunk: &&Chunk| match writer {
                        0 => store.insert_plain(chunk).unwrap(),
                        _ => store.insert(chunk, &compress(chunk)).unwrap(),
                    };
                    order.into_iter().filter(|chunk| insert(chunk)).count()
                })
            })
            .collect();
        let written: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        over.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        written.into_iter().map(Result::unwrap).sum()
    });
    let store = LocalStore::open(dir.path()).unwrap();
    assert!(chunks.iter().all(|chunk| has(&store, chunk)));
    assert_eq!(store.ids().unwrap().map(Result::unwrap).count(), chunks.len());
    // The plain writer and another may both have found the chunk absent in their own form.
    assert!(new >= chunks.len() && files(dir.path()).len() == new, "{new} of {} are new", chunks.len());
}

#[test]
fn two_makes_into_one_store_at_once_both_succeed() {
    let published = Published::new(10);
    let (first, second) = (image(21, 6_000_000), image(21, 8_000_000));
    std::fs::write(published.path("first.img"), &first).unwrap();
    std::fs::write(published.path("second.img"), &second).unwrap();
    let make = |name: &str| {
        let mut make = caswarm(&published.path("state"));
        make.args(["make", "--store=both.castr", &format!("{name}.caibx"), &format!("{name}.img")]);
        Process::spawn(make.current_dir(published.dir()))
    };
    let running = ["first", "second"].map(make);
    for process in running {
        process.wait(crate::support::process::PATIENCE).ok();
    }
    for (name, bytes) in [("first", first), ("second", second)] {
        let index = format!("{name}.caibx");
        run(&mut published.extract(&["--store=both.castr", &index, "out.img"])).ok();
        assert!(std::fs::read(published.path("out.img")).unwrap() == bytes);
        std::fs::remove_file(published.path("out.img")).unwrap();
    }
    let left = files(&published.path("both.castr"));
    assert!(left.iter().all(|file| file.extension().is_some_and(|suffix| suffix == "cacnk")), "{left:?}");
}

#[test]
fn a_read_only_store_is_read_and_refuses_what_is_new_by_name() {
    if !require(&[Need::Root]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [known, new] = <[Chunk; 2]>::try_from(chunks(2, 2)).ok().unwrap();
    let mounted = Mounted::tmpfs(dir.path(), "size=1m");
    LocalStore::open(dir.path()).unwrap().insert(&known, &compress(&known)).unwrap();
    mounted.remount("ro");
    let store = LocalStore::open(dir.path()).unwrap();
    assert!(has(&store, &known) && !store.insert(&known, &compress(&known)).unwrap());
    let error = store.insert(&new, &compress(&new)).unwrap_err();
    assert!(matches!(error, SourceError::Io { .. }), "{error:?}");
    let said = error.to_string();
    assert!(said.contains(&dir.path().display().to_string()) && said.contains("ead-only"), "{said}");
    store.sync().unwrap();
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing_behind() {
    if !require(&[Need::Root]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mounted = Mounted::tmpfs(dir.path(), "size=512k");
    let store = LocalStore::open(dir.path()).unwrap();
    let mut random = Random::new(3);
    let plain = (0..20).map(|_| Bytes::from(random.bytes(60_000))).collect();
    let chunks = name_many(plain, Digest::default());
    let results: Vec<_> = chunks.iter().map(|chunk| store.insert_plain(chunk)).collect();
    let stored = results.iter().filter(|result| result.is_ok()).count();
    assert!(stored > 2 && stored < 12, "{stored}");
    for (chunk, result) in chunks.iter().zip(&results) {
        assert_eq!(has(&store, chunk), result.is_ok());
        if let Err(error) = result {
            let said = error.to_string();
            assert!(said.contains("No space left") && said.contains(&chunk.id().to_string()[..4]), "{said}");
        }
    }
    assert_eq!(files(dir.path()).len(), stored);
    // Once there is room, the same handle goes on.
    mounted.remount("size=4m");
    assert!(chunks.iter().all(|chunk| store.insert_plain(chunk).is_ok() && has(&store, chunk)));
}

#[test]
fn leftovers_are_no_chunks_and_harm_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    let chunk = chunks(4, 1).remove(0);
    let directory = dir.path().join(&chunk.id().to_string()[..4]);
    std::fs::create_dir(&directory).unwrap();
    let left = directory.join(format!("{}.0123456789abcdef.tmp", chunk.id()));
    std::fs::write(&left, &compress(&chunk)[..10]).unwrap();
    assert!(!store.has(chunk.id()).unwrap() && store.get(chunk.id()).unwrap().is_none());
    assert_eq!(store.ids().unwrap().count(), 0);
    assert!(store.insert(&chunk, &compress(&chunk)).unwrap() && has(&store, &chunk));
    assert_eq!(store.ids().unwrap().map(Result::unwrap).collect::<Vec<_>>(), [chunk.id()]);
    assert!(left.exists());
}

#[test]
fn an_empty_chunk_file_is_what_a_power_failure_leaves_and_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    for (number, chunk) in chunks(5, 2).iter().enumerate() {
        let name = chunk.id().to_string();
        let file = dir.path().join(&name[..4]).join(if number == 0 { name.clone() } else { name.clone() + ".cacnk" });
        let insert = || match number {
            0 => store.insert_plain(chunk).unwrap(),
            _ => store.insert(chunk, &compress(chunk)).unwrap(),
        };
        assert!(insert() && !insert());
        overwrite(&file, b"");
        assert!(!store.has(chunk.id()).unwrap() && store.get(chunk.id()).unwrap().is_none());
        assert!(insert() && has(&store, chunk));
        assert_eq!(files(file.parent().unwrap().parent().unwrap()).iter().filter(|at| **at == file).count(), 1);
    }
}

#[test]
fn what_lies_under_a_chunks_name_and_is_no_file_is_an_error_or_absent() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    let [link, fifo, huge] = <[Chunk; 3]>::try_from(chunks(6, 3)).ok().unwrap();
    let file = |chunk: &Chunk| {
        let name = chunk.id().to_string();
        let directory = dir.path().join(&name[..4]);
        std::fs::create_dir_all(&directory).unwrap();
        directory.join(name + ".cacnk")
    };
    // casync's way of saying that a chunk is missing.
    std::os::unix::fs::symlink("/dev/null", file(&link)).unwrap();
    assert!(store.get(link.id()).unwrap().is_none() && !store.has(link.id()).unwrap());
    run(Command::new("mkfifo").arg(file(&fifo))).ok();
    assert!(store.get(fifo.id()).unwrap_err().to_string().contains("not a regular file"));
    std::fs::File::create(file(&huge)).unwrap().set_len(1 << 40).unwrap();
    assert!(store.get(huge.id()).unwrap_err().to_string().contains("longer than"));
}

#[test]
fn a_store_that_is_none_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), b"").unwrap();
    for (name, says) in [("nothing", "--store"), ("file", "not a directory")] {
        let path = dir.path().join(name);
        let error = LocalStore::open(&path).err().unwrap();
        assert!(matches!(error, SourceError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(&path.display().to_string()) && error.to_string().contains(says), "{error}");
    }
    assert!(LocalStore::open_or_create(dir.path().join("file")).is_err());
    let made = LocalStore::open_or_create(dir.path().join("a/b.castr")).unwrap();
    assert_eq!(std::fs::metadata(made.path()).unwrap().permissions().mode() & 0o700, 0o700);
}

struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn tmpfs(at: &'a Path, options: &str) -> Self {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at)).ok();
        Self(at)
    }

    fn remount(&self, options: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.0)).ok();
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}
