//! What the benchmarks share: something real to work on, published as casync does it, and numbers from several runs.
#![allow(dead_code, reason = "not every benchmark needs all of it")]

pub mod process;
pub mod published;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::support::data::Random;

/// Where Linux machines keep much that is much the same on each of them.
const PLACES: [&str; 4] = ["/usr/bin", "/usr/lib", "/usr/share", "/usr/sbin"];

/// Files start at multiples of this, as they do in a file system.
const BLOCK: u64 = 4096;

/// Prints what a benchmark lacks, and ends it.
pub fn lacks(what: &str) -> ! {
    eprintln!("cannot run here: {what}");
    std::process::exit(1);
}

/// A directory to work in that goes when dropped: in `place`, else in memory, else where temporary files go.
pub fn workplace(place: Option<&Path>) -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let fallback = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("caswarm-bench-").tempdir_in(place.unwrap_or(&fallback)).unwrap()
}

/// Writes files of this machine one after the other, until there are that many bytes.
pub fn image_of_this_machine(image: &Path, bytes: u64) {
    let (mut out, mut length) = (File::create_new(image).unwrap(), 0);
    for place in PLACES {
        let mut files = Vec::new();
        files_under(Path::new(place), &mut files);
        for path in files {
            if length >= bytes {
                break;
            }
            let Ok(file) = File::open(path) else { continue };
            length += std::io::copy(&mut file.take(bytes - length), &mut out).unwrap();
            length = length.next_multiple_of(BLOCK);
            out.seek(SeekFrom::Start(length)).unwrap();
        }
    }
    out.set_len(length.min(bytes)).unwrap();
}

fn files_under(dir: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => files_under(&path, files),
            Ok(meta) if meta.is_file() => files.push(path),
            _ => {}
        }
    }
}

/// Writes what the image may have been one version before: about a tenth of it differs, by overwriting and, in one
/// place, by shifting what follows by a block.
pub fn previous_version(image: &Path, previous: &Path) {
    let (mut from, mut random) = (File::open(image).unwrap(), Random::new(5));
    let mut out = File::create_new(previous).unwrap();
    let length = from.metadata().unwrap().len();
    let piece = length / 200;
    for place in 0..20 {
        let start = length * place / 20;
        let end = length * (place + 1) / 20;
        if place == 7 {
            out.write_all(&random.bytes(BLOCK as usize)).unwrap();
        }
        let new = piece.min(end - start);
        out.write_all(&random.bytes(new as usize)).unwrap();
        from.seek(SeekFrom::Start(start + new)).unwrap();
        std::io::copy(&mut (&mut from).take(end - start - new), &mut out).unwrap();
    }
}

/// Panics unless two files hold the same bytes.
pub fn assert_same_bytes(a: &Path, b: &Path) {
    let (mut one, mut two) = (File::open(a).unwrap(), File::open(b).unwrap());
    assert_eq!(one.metadata().unwrap().len(), two.metadata().unwrap().len(), "lengths of {a:?} and {b:?}");
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for at in (0..).step_by(1 << 20) {
        let read = one.read(&mut left).unwrap();
        two.read_exact(&mut right[..read]).unwrap();
        assert!(left[..read] == right[..read], "{a:?} and {b:?} differ after {at} bytes");
        if read == 0 {
            return;
        }
    }
}

/// The one in the middle; of an even number, the mean of the two.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}

/// Bytes as MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
