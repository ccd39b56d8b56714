//! Archives that want more than a directory: nothing outside of the target is ever touched.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use bytes::Bytes;
use caswarm::browse::BrowseError;
use caswarm::browse::reader::ReadAt;
use caswarm::extract::tree::TreeTarget;
use caswarm::format::archive::{Encoder, Entry, Kind};
use caswarm::format::features;
use caswarm::tree::owners::Shift;
use caswarm::tree::unpack::Options;

use super::Place;
use crate::extract::web::Web;
use crate::support::data::image;
use crate::support::{Need, caswarm, require, run};

const WORD: u64 = 0xb000_0000_0000_1f09;

fn directory() -> Entry {
    Entry::new(Kind::Directory, 0o755)
}

fn file(size: u64) -> Entry {
    Entry::new(Kind::File { size }, 0o644)
}

fn link(target: &str) -> Entry {
    Entry::new(Kind::Symlink { target: target.into() }, 0o777)
}

/// An archive with a link out of the target and, under its name bent to be the same, a directory with a file.
fn two_of_one_name() -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(WORD);
    encoder.root(&directory(), &mut out).unwrap();
    encoder.child(b"a", &link("../outside"), &mut out).unwrap();
    let before = out.len();
    encoder.child(b"b", &directory(), &mut out).unwrap();
    encoder.child(b"planted", &file(3), &mut out).unwrap();
    out.extend_from_slice(b"bad");
    encoder.content(3).unwrap();
    encoder.end(&mut out).unwrap();
    encoder.end(&mut out).unwrap();
    out[before + 16] = b'a';
    out
}

#[test]
fn a_link_and_a_directory_of_one_name_lead_nowhere() {
    let place = Place::new();
    fs::create_dir(place.path("outside")).unwrap();
    fs::write(place.path("x.catar"), two_of_one_name()).unwrap();
    place.ours(&["extract", "x.catar", "out"]).failed().says(&["x.catar", "at byte", "twice"]);
    assert!(fs::read_dir(place.path("outside")).unwrap().next().is_none());
}

#[test]
fn links_that_are_there_already_are_replaced_and_not_followed() {
    let place = Place::new();
    fs::create_dir_all(place.path("tree/dir/sub")).unwrap();
    fs::write(place.path("tree/dir/sub/file"), "new").unwrap();
    fs::write(place.path("tree/file"), "new").unwrap();
    place.ours(&["make", "--with=unix", "x.catar", "tree"]).ok();
    fs::create_dir_all(place.path("outside/sub")).unwrap();
    fs::write(place.path("outside/kept"), "kept").unwrap();
    fs::write(place.path("victim"), "kept").unwrap();
    fs::create_dir(place.path("out")).unwrap();
    symlink("../outside", place.path("out/dir")).unwrap();
    symlink("../victim", place.path("out/file")).unwrap();
    symlink("../outside", place.path("out/foreign")).unwrap();
    place.ours(&["extract", "x.catar", "out"]).ok();
    assert_eq!(fs::read_to_string(place.path("victim")).unwrap(), "kept");
    assert_eq!(fs::read_to_string(place.path("outside/kept")).unwrap(), "kept");
    assert!(fs::read_dir(place.path("outside/sub")).unwrap().next().is_none());
    assert!(fs::symlink_metadata(place.path("out/dir")).unwrap().is_dir());
    assert!(fs::symlink_metadata(place.path("out/foreign")).is_err());
    assert_eq!(fs::read_to_string(place.path("out/file")).unwrap(), "new");
}

#[test]
fn broken_archives_are_refused_with_their_place_and_touch_nothing_else() {
    let place = Place::new();
    fs::write(place.path("kept"), "kept").unwrap();
    let results = fs::read_to_string(crate::casync_formats::data("bad/results.tsv")).unwrap();
    for line in results.lines().filter(|line| line.starts_with("cat-")) {
        let name = line.split('\t').next().unwrap();
        let archive = crate::casync_formats::data("bad").join(name);
        let ran = place.ours(&["extract", "--best-effort", archive.to_str().unwrap(), "out"]);
        if !ran.status.success() {
            // Nothing is wrong with a name of 300 bytes but that no file system takes it.
            ran.failed().says(&[if name == "cat-name-300.catar" { "too long" } else { name }]);
        }
        let _ = fs::remove_dir_all(place.path("out"));
    }
    let names: Vec<_> = fs::read_dir(place.0.path()).unwrap().map(|name| name.unwrap().file_name()).collect();
    assert_eq!(names, ["kept"]);
}

#[test]
fn an_archive_that_ends_early_leaves_what_was_whole_and_says_where() {
    let place = Place::new();
    let bytes = fs::read(crate::casync_formats::data("mini/unix.catar")).unwrap();
    for end in [0, 10, 64, 300, 700, bytes.len() - 1] {
        fs::write(place.path("x.catar"), &bytes[..end]).unwrap();
        let ran = place.ours(&["extract", "--best-effort", "x.catar", "out"]).failed();
        ran.says(&["x.catar", &format!("byte {end}"), "whole"]);
        let _ = fs::remove_dir_all(place.path("out"));
    }
}

#[test]
fn mount_points_are_neither_emptied_nor_removed() {
    if !require(&[Need::Root]) {
        return;
    }
    let place = Place::new();
    fs::create_dir_all(place.path("tree")).unwrap();
    fs::create_dir_all(place.path("out/mounted")).unwrap();
    place.ours(&["make", "x.catar", "tree"]).ok();
    let mut command = std::process::Command::new("mount");
    crate::support::run(command.args(["-t", "tmpfs", "tmpfs"]).arg(place.path("out/mounted"))).ok();
    fs::write(place.path("out/mounted/file"), "x").unwrap();
    let ran = place.ours(&["extract", "x.catar", "out"]);
    let there = place.path("out/mounted/file").exists();
    let _ = std::process::Command::new("umount").arg(place.path("out/mounted")).status();
    ran.failed().says(&["out/mounted", "mount point"]);
    assert!(there);
}

/// An archive in memory.
struct Memory(Bytes);

impl ReadAt for Memory {
    fn read_at(&mut self, offset: u64, most: usize) -> Result<Bytes, BrowseError> {
        let start = self.0.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        Ok(self.0.slice(start..self.0.len().min(start.saturating_add(most))))
    }

    fn length(&self) -> u64 {
        self.0.len() as u64
    }

    fn place(&self) -> String {
        "the archive".to_owned()
    }
}

/// Unpacks in this process, into a directory that is gone afterwards.
fn unpack(place: &Place, bytes: Vec<u8>, path: &[u8]) -> Result<(), String> {
    let target = TreeTarget {
        directory: place.path("out"),
        path: path.to_vec(),
        options: Options {
            wanted: features::ALL,
            shift: Shift::default(),
            delete: true,
            undo_immutable: true,
            punch_holes: true,
        },
        seeds: Vec::new(),
        hardlink: false,
    };
    let done = caswarm::extract::tree::unpack(Box::new(Memory(bytes.into())), None, &target);
    let done = done.map(|_| ()).map_err(|error| error.to_string());
    clear(&target.directory);
    done
}

fn clear(directory: &Path) {
    if fs::remove_dir_all(directory).is_err() && directory.exists() {
        // A bent archive may have made something immutable.
        let _ = std::process::Command::new("chattr").args(["-R", "-i", "-a"]).arg(directory).output();
        fs::remove_dir_all(directory).unwrap();
    }
}

/// Where the records of a good archive begin.
fn records(bytes: &[u8]) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut at = 0;
    while at + 16 <= bytes.len() {
        starts.push(at);
        at += u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    }
    starts
}

/// Links, a directory, files and a device: what can be bent into something that leads outside.
fn bendable() -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(WORD);
    encoder.root(&directory(), &mut out).unwrap();
    for (name, entry, content) in [
        (&b"a"[..], link("../outside"), &b""[..]),
        (b"b", directory(), b""),
        (b"x", file(5), b"bytes"),
        (b"y", link("/"), b""),
    ] {
        encoder.child(name, &entry, &mut out).unwrap();
        out.extend_from_slice(content);
        encoder.content(content.len() as u64).unwrap();
        if name == b"b" {
            encoder.child(b"kept", &file(3), &mut out).unwrap();
            out.extend_from_slice(b"new");
            encoder.content(3).unwrap();
            encoder.end(&mut out).unwrap();
        }
    }
    encoder.end(&mut out).unwrap();
    out
}

#[test]
fn whatever_bit_is_flipped_nothing_outside_the_target_is_touched() {
    let place = Place::new();
    fs::create_dir(place.path("outside")).unwrap();
    fs::write(place.path("outside/kept"), "kept").unwrap();
    let good = bendable();
    unpack(&place, good.clone(), b"").unwrap();
    let (mut refused, mut taken) = (0, 0);
    for bit in 0..good.len() * 8 {
        let mut bent = good.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        match unpack(&place, bent, b"") {
            Ok(()) => taken += 1,
            Err(error) => {
                refused += 1;
                let placed = error.contains("at byte") || error.contains("out");
                assert!(placed, "bit {bit}: {error}");
            }
        }
        assert_eq!(fs::read(place.path("outside/kept")).unwrap(), b"kept", "bit {bit}");
    }
    let names: Vec<_> = fs::read_dir(place.0.path()).unwrap().map(|name| name.unwrap().file_name()).collect();
    assert_eq!(names, ["outside"]);
    assert!(refused > taken && taken > 100, "{refused} {taken}");
}

#[test]
fn no_size_of_a_record_is_too_strange_to_be_refused() {
    let place = Place::new();
    let mini = fs::read(crate::casync_formats::data("mini/unix.catar")).unwrap();
    for good in [bendable(), mini] {
        for at in records(&good) {
            let right = u64::from_le_bytes(good[at..at + 8].try_into().unwrap());
            for size in [0, 1, 15, 16, right - 1, right + 1, 1 << 31, 1 << 40, 1 << 63, u64::MAX - 15, u64::MAX] {
                if size == right {
                    continue;
                }
                let mut bent = good.clone();
                bent[at..at + 8].copy_from_slice(&size.to_le_bytes());
                let error = unpack(&place, bent, b"").unwrap_err();
                assert!(error.contains("at byte"), "size {size} of the record at {at}: {error}");
            }
        }
    }
}

#[test]
fn an_archive_cut_off_anywhere_is_unpacked_to_an_error() {
    let place = Place::new();
    let good = bendable();
    for end in 0..good.len() {
        let error = unpack(&place, good[..end].to_vec(), b"").unwrap_err();
        assert!(error.contains(&format!("byte {end}")), "{end}: {error}");
    }
}

#[test]
fn records_in_another_order_are_refused_or_are_another_archive() {
    let place = Place::new();
    let good = bendable();
    let mut starts = records(&good);
    starts.push(good.len());
    let pieces: Vec<&[u8]> = starts.windows(2).map(|ends| &good[ends[0]..ends[1]]).collect();
    for (a, b) in (0..pieces.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
        let mut swapped = pieces.clone();
        swapped.swap(a, b);
        let error = unpack(&place, swapped.concat(), b"");
        if pieces[a].len() != pieces[b].len() || pieces[a][8..16] != pieces[b][8..16] {
            assert!(error.unwrap_err().contains("at byte"), "{a} and {b}");
        }
    }
    for gone in 0..pieces.len() {
        let mut fewer = pieces.clone();
        fewer.remove(gone);
        assert!(unpack(&place, fewer.concat(), b"").is_err(), "without record {gone}");
        // What follows the end is not looked at, as casync does.
        if gone + 1 < pieces.len() {
            let mut more = pieces.clone();
            more.insert(gone, pieces[gone]);
            assert!(unpack(&place, more.concat(), b"").is_err(), "record {gone} twice");
        }
    }
}

#[test]
fn a_lookup_table_that_lies_finds_nothing_that_is_not_there() {
    let place = Place::new();
    fs::create_dir(place.path("outside")).unwrap();
    let good = bendable();
    let table = *records(&good).last().unwrap();
    for bit in table * 8..good.len() * 8 {
        let mut bent = good.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        for path in [&b"b"[..], b"b/kept", b"x", b"a/kept"] {
            let done = unpack(&place, bent.clone(), path);
            assert!(path != b"a/kept" || done.is_err(), "bit {bit}: what is behind a link");
        }
    }
    assert!(fs::read_dir(place.path("outside")).unwrap().next().is_none());
}

#[test]
fn more_levels_than_there_may_be_are_refused_before_they_are_made() {
    let place = Place::new();
    let mut root = Vec::new();
    Encoder::new(WORD).root(&directory(), &mut root).unwrap();
    let mut deep = root.clone();
    for _ in 0..5000 {
        deep.extend_from_slice(&18_u64.to_le_bytes());
        deep.extend_from_slice(&0x6dbb_6ebc_b316_1f0b_u64.to_le_bytes());
        deep.extend_from_slice(b"d\0");
        deep.extend_from_slice(&root);
    }
    let error = unpack(&place, deep, b"").unwrap_err();
    assert!(error.contains("64 levels") && error.contains("at byte"), "{error}");
}

#[test]
fn links_in_circles_are_links() {
    let place = Place::new();
    fs::create_dir(place.path("tree")).unwrap();
    for (name, target) in [("a", "b"), ("b", "a"), ("self", "self"), ("up", "..")] {
        symlink(target, place.path("tree").join(name)).unwrap();
    }
    place.ours(&["make", "--with=unix", "x.catar", "tree"]).ok();
    fs::create_dir(place.path("out")).unwrap();
    symlink("a", place.path("out/a")).unwrap();
    symlink("../out", place.path("out/up")).unwrap();
    for _ in 0..2 {
        place.ours(&["extract", "x.catar", "out"]).ok();
        place.ours(&["make", "--with=unix", "again.catar", "out"]).ok();
        assert!(fs::read(place.path("again.catar")).unwrap() == fs::read(place.path("x.catar")).unwrap());
    }
    place.ours(&["extract", "x.catar", "part", "a/b"]).failed().says(&["a/b"]);
}

#[test]
fn an_unpacker_that_fails_ends_the_run_without_waiting_for_the_rest() {
    let place = Place::new();
    fs::create_dir(place.path("tree")).unwrap();
    // The first entry cannot be made: nothing can be put into the place of what must not be removed.
    fs::write(place.path("tree/a"), "file").unwrap();
    fs::write(place.path("tree/z"), crate::support::data::image(6, 6_000_000)).unwrap();
    place.ours(&["make", "--with=unix", "--chunk-size=16K", "x.caidx", "tree"]).ok();
    if !require(&[Need::Root]) {
        return;
    }
    let chunks = fs::read_dir(place.path("default.castr")).unwrap().count() as u32;
    fs::create_dir(place.path("out")).unwrap();
    fs::write(place.path("out/a"), "old").unwrap();
    let file = fs::File::open(place.path("out/a")).unwrap();
    caswarm::tree::attributes::set_chattr(&file, 0x10, 0x10).unwrap();
    let web = crate::extract::web::Web::serve(place.0.path());
    web.delay(std::time::Duration::from_millis(20));
    let url = web.url("x.caidx");
    let ran = place.ours(&["extract", "--no-lan", "--seed-output=no", &url, "out"]);
    caswarm::tree::attributes::set_chattr(&file, 0, 0x10).unwrap();
    ran.failed().says(&["out/a"]);
    let asked = web.asked("default.castr");
    assert!(asked < chunks, "{asked} of {chunks} chunks were fetched for nothing");
}

#[test]
fn a_link_in_the_place_of_the_spool_is_not_followed() {
    let place = Place::new();
    fs::create_dir(place.path("tree")).unwrap();
    fs::write(place.path("tree/file"), image(78, 300_000)).unwrap();
    place.ours(&["make", "x.caidx", "tree"]).ok();
    fs::write(place.path("victim"), "precious").unwrap();
    let id = fs::read_to_string(place.path("x.caidx.id")).unwrap();
    let out = fs::canonicalize(place.0.path()).unwrap().join("out");
    symlink(place.path("victim"), out.with_file_name(format!(".out.{}.caswarm", &id[..8]))).unwrap();
    let web = Web::serve(place.0.path());
    // It goes where temporary files go instead.
    let temporary = place.path("temporary");
    fs::create_dir(&temporary).unwrap();
    let mut extract = caswarm(&place.path("state"));
    extract.args(["extract", "--no-lan", &web.url("x.caidx"), "out"]).current_dir(place.0.path());
    run(extract.env("TMPDIR", &temporary)).ok();
    assert_eq!(fs::read_to_string(place.path("victim")).unwrap(), "precious");
    assert!(fs::read(place.path("out/file")).unwrap() == image(78, 300_000));
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    if !require(&[Need::Root]) {
        return;
    }
    // Nor is a file of somebody else's taken up, who could go on writing into it.
    fs::remove_dir_all(place.path("out")).unwrap();
    let theirs = out.with_file_name(format!(".out.{}.caswarm", &id[..8]));
    fs::remove_file(&theirs).unwrap();
    fs::write(&theirs, "theirs").unwrap();
    std::os::unix::fs::chown(&theirs, Some(1234), None).unwrap();
    run(extract.env("TMPDIR", &temporary)).ok();
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
}
