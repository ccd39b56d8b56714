//! Archives that want more than a directory: nothing outside of the target is ever touched.

use std::fs;
use std::os::unix::fs::symlink;

use caswarm::format::archive::{Encoder, Entry, Kind};

use super::Place;
use crate::support::{Need, require};

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
