//! `caswarm list`, `mtree`, `stat` and `digest`, beside casync's.

use std::fs;

use super::Place;
use super::grow::{self, EXT4};
use crate::casync_formats::data;
use crate::support::{Need, require};

/// Both say the same about this.
#[track_caller]
fn same(place: &Place, arguments: &[&str]) {
    let theirs = place.casync(arguments).ok();
    let ours = place.ours(arguments).ok();
    let differs = theirs.stdout.lines().zip(ours.stdout.lines()).find(|(theirs, ours)| theirs != ours);
    assert!(theirs.stdout == ours.stdout, "{arguments:?}: {differs:?}");
}

fn vectors() -> Place {
    let place = Place::new();
    fs::write(place.path("tree.catar"), crate::archive::tree()).unwrap();
    place
}

#[test]
fn what_casync_said_of_its_vectors_is_said_again() {
    let place = vectors();
    let text = |name: &str| fs::read_to_string(data(name)).unwrap();
    assert_eq!(place.ours(&["list", "tree.catar"]).ok().stdout, text("tree/list.txt"));
    assert_eq!(place.ours(&["mtree", "tree.catar"]).ok().stdout, text("tree/mtree.txt"));
    assert_eq!(place.ours(&["digest", "tree.catar"]).ok().stdout, text("tree/digest.txt"));
    let index = data("tree/tree.caidx");
    let index = index.to_str().unwrap();
    let store = format!("--store={}", data("tree/tree.castr").display());
    assert_eq!(place.ours(&["list", &store, index]).ok().stdout, text("tree/list.txt"));
    assert_eq!(place.ours(&["mtree", &store, index]).ok().stdout, text("tree/mtree.txt"));
    assert_eq!(place.ours(&["digest", &store, index]).ok().stdout, text("tree/digest.txt"));
    let stats: Vec<String> =
        text("tree/stat.txt").trim().split("\n\n").map(|stat| format!("    {}\n", stat.trim())).collect();
    for stat in stats {
        let path = stat.lines().next().unwrap().trim_start_matches("    File: ").to_owned();
        assert_eq!(place.ours(&["stat", "tree.catar", &path]).ok().stdout, stat);
        assert_eq!(place.ours(&["stat", &store, index, &path]).ok().stdout, stat);
    }
    for entry in fs::read_dir(data("mini")).unwrap() {
        let path = entry.unwrap().path();
        // casync calls a SHA-256 by the other's name unless it is told.
        if path.extension().is_some_and(|kind| kind == "mtree") {
            let archive = path.with_extension("catar");
            let said = place.ours(&["mtree", archive.to_str().unwrap()]).ok().stdout;
            assert_eq!(said, fs::read_to_string(&path).unwrap(), "{}", path.display());
        }
    }
}

#[test]
fn archives_are_listed_described_and_digested_as_casync_does() {
    if !require(&[Need::Program("casync")]) {
        return;
    }
    let place = vectors();
    for path in ["", "names", "/deep/d01/", "hello.txt", "fifo", "many/file123", "dir/file", "link-abs", "blk-7-300"] {
        same(&place, &["list", "tree.catar", path]);
        same(&place, &["mtree", "tree.catar", path]);
        same(&place, &["stat", "tree.catar", path]);
        if !["fifo", "link-abs", "blk-7-300"].contains(&path) {
            same(&place, &["digest", "tree.catar", path]);
        }
    }
    same(&place, &["list", "--recursive=no", "tree.catar"]);
    place.ours(&["list", "tree.catar", "dir/nothing"]).failed().says(&["tree.catar", "dir/nothing"]);
    place.ours(&["list", "tree.catar", "./dir"]).failed().says(&["./dir"]);
    place.ours(&["digest", "tree.catar", "fifo"]).failed().says(&["fifo"]);
    place.ours(&["mtree", "--with=unix", "tree.catar"]).failed().says(&["--with"]);
    fs::write(place.path("empty.catar"), "").unwrap();
    place.ours(&["list", "empty.catar"]).failed().says(&["empty.catar", "byte 0"]);
    place.ours(&["list", "empty.catar", "x"]).failed().says(&["empty.catar"]);
    place.ours(&["list", "nothing.catar"]).failed().says(&["nothing.catar"]);
}

#[test]
fn directories_are_listed_described_and_digested_as_casync_does() {
    if !require(&[Need::Root, Need::Program("casync")]) {
        return;
    }
    let place = Place::new();
    grow::tree(31, 120, &place.path("tree"), EXT4);
    for options in [
        &[][..],
        &["--with=best"],
        &["--with=unix", "--uid-range=1000"],
        &["--with=nsec-time"],
        &["--with=fat"],
        &["--without=all"],
    ] {
        for verb in ["list", "mtree", "digest"] {
            same(&place, &[&[verb], options, &["tree"]].concat());
        }
    }
    same(&place, &["digest", "--digest=sha256", "tree"]);
    same(&place, &["stat", "tree"]);
    place.ours(&["list", "tree", "sub"]).failed().says(&["tree", "path"]);
    // What a feature is missing from an archive is missing from what is said of it.
    for options in
        [&["--with=unix", "--uid-range=1000"][..], &["--with=user-names"], &["--with=chattr"], &["--without=all"]]
    {
        place.ours(&[&["make"], options, &["x.catar", "tree"]].concat()).ok();
        for verb in ["list", "stat", "mtree", "digest"] {
            // Owners by name alone casync can only read if nobody is root.
            if options[0] != "--with=user-names" {
                same(&place, &[verb, "x.catar"]);
            } else {
                place.ours(&[verb, "x.catar"]).ok();
            }
        }
    }
}

#[test]
fn files_of_every_length_among_each_other_have_their_own_digests() {
    if !require(&[Need::Program("casync")]) {
        return;
    }
    let place = Place::new();
    for directory in 0..3 {
        fs::create_dir_all(place.path(&format!("tree/{directory}"))).unwrap();
        for file in 0..45 {
            let length = match file % 15 {
                3 => (1 << 20) + 1 + file,
                4 => 1 << 20,
                9 => 2_500_000 + directory,
                14 => 0,
                other => other * 3_000 + directory,
            };
            let content = crate::support::data::image((100 * directory + file) as u64, length);
            fs::write(place.path(&format!("tree/{directory}/{file}")), content).unwrap();
        }
    }
    same(&place, &["mtree", "tree"]);
    place.ours(&["make", "x.catar", "tree"]).ok();
    same(&place, &["mtree", "x.catar"]);
}

#[test]
fn indexes_are_looked_into_by_path_with_few_chunks_also_over_http() {
    let place = Place::new();
    grow::tree(32, 100, &place.path("tree"), grow::Soil::default());
    fs::write(place.path("tree/big"), crate::support::data::image(3, 4_000_000)).unwrap();
    place.ours(&["make", "--chunk-size=16K", "x.caidx", "tree"]).ok();
    place.ours(&["make", "x.catar", "tree"]).ok();
    let web = crate::extract::web::Web::serve(place.0.path());
    let url = web.url("x.caidx");
    for verb in ["list", "mtree", "digest", "stat"] {
        let archive = place.ours(&[verb, "x.catar"]).ok().stdout;
        assert_eq!(place.ours(&[verb, "x.caidx"]).ok().stdout, archive, "{verb}");
        assert_eq!(place.ours(&[verb, &url]).ok().stdout, archive, "{verb} over HTTP");
    }
    let before = web.asked("default.castr");
    assert!(place.ours(&["stat", &url, "big"]).ok().stdout.contains("Size: 4000000"));
    place.ours(&["list", &url, "big"]).ok();
    let few = web.asked("default.castr") - before;
    assert!(few > 0, "nothing was asked for");
    let victim = fs::read_dir(place.path("default.castr")).unwrap().next().unwrap().unwrap().path();
    fs::remove_dir_all(victim).unwrap();
    place.ours(&["digest", "x.caidx"]).failed().says(&["x.caidx", "chunk", "default.castr"]);
    place.ours(&["digest", "x.caidx", "--store=nowhere"]).failed().says(&["nowhere"]);
}

#[test]
fn images_have_the_digest_that_casync_gives_them() {
    if !require(&[Need::Program("casync")]) {
        return;
    }
    let place = Place::new();
    fs::write(place.path("image"), crate::support::data::image(4, 900_000)).unwrap();
    place.ours(&["make", "image.caibx", "image"]).ok();
    same(&place, &["digest", "image"]);
    same(&place, &["digest", "--digest=sha256", "image"]);
    same(&place, &["digest", "image.caibx"]);
    place.ours(&["list", "image.caibx"]).failed().says(&["image.caibx", ".caidx"]);
}
