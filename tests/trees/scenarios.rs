//! The scenarios of casync's own test scripts (`test/` of its sources, at e6817a7), with both programs.
//!
//! | script | here |
//! | --- | --- |
//! | `test-script.sh`, local part | `a_tree_is_the_same_in_every_form_that_it_can_have`, with both digests and all compressions |
//! | `test-script-{gzip,xz,sha256}.sh` | the same test: its parameters |
//! | `test-script.sh`, seeking | `part_of_a_tree_is_the_same_as_the_part_alone` |
//! | `test-script.sh`, ssh | in the tests of ssh, against a real sshd |
//! | `test-script.sh`, HTTP | `a_tree_is_the_same_in_every_form_that_it_can_have` for the index; a `.catar` by URL is not supported: of remote trees, use the index |
//! | `test-fuse.sh`, archive part | `what_fuse_can_show_is_the_same_in_every_form`; its mount part belongs to `mount` |
//! | `test-nbd.sh`, image part | `tests/extract.rs`, `tests/make.rs`; its device part belongs to `mkdev` |
//! | `test-cache.sh` | none: there is no `--cache`, which leaves chunks out of new stores; `make` is fast without one |
//! | `meson-check-help.sh` | clap: help goes to stdout, errors to stderr, lines as wide as the terminal |
//! | C tests (`test-cachunker`, `-caindex`, `-caencoder`, `-camakebst`, `-camatch`, `-feature-flags`, …) | unit tests of `src/format` and `src/tree`, against vectors by the real program |

use std::fs;
use std::path::Path;

use super::Place;
use super::grow::{self, EXT4};
use crate::extract::web::Web;
use crate::support::{Need, Ran, require};

fn ready() -> bool {
    require(&[Need::Root, Need::Program("casync")])
}

/// What `list`, `mtree` and `digest` say of something, by either program.
fn said(place: &Place, options: &[&str], what: &str) -> [[String; 3]; 2] {
    let verbs = ["list", "mtree", "digest"];
    let words = |verb| [&[verb], options, &[what]].concat();
    [verbs.map(|verb| place.casync(&words(verb)).ok().stdout), verbs.map(|verb| place.ours(&[verb, what]).ok().stdout)]
}

fn extract(place: &Place, arguments: &[&str]) -> Ran {
    place.ours(&[&["extract", "--no-lan"], arguments].concat())
}

#[test]
fn a_tree_is_the_same_in_every_form_that_it_can_have() {
    if !ready() {
        return;
    }
    for (seed, digest, compression) in
        [(91, "sha512-256", "zstd"), (92, "sha512-256", "gzip"), (93, "sha512-256", "xz"), (94, "sha256", "zstd")]
    {
        let place = Place::new();
        grow::tree(seed, 60, &place.path("src"), EXT4);
        let (digest, compression) = (format!("--digest={digest}"), format!("--compression={compression}"));
        let make = |out: &str, more: &[&str]| {
            place.ours(&[&["make", &digest], more, &[out, "src"]].concat()).ok();
        };
        make("test.catar", &[]);
        make("test.caidx", &[&compression]);
        let told = said(&place, &[&digest], "test.catar");
        assert!(told[0] == told[1], "{digest} {compression}");
        assert!(place.casync(&["list", "src"]).ok().stdout == told[0][0]);
        assert_eq!(place.ours(&["digest", &digest, "src"]).ok().stdout, told[0][2]);
        let web = Web::serve(place.0.path());
        for index in ["test.caidx".to_owned(), web.url("test.caidx")] {
            for (verb, want) in ["list", "mtree", "digest"].iter().zip(&told[1]) {
                assert_eq!(place.ours(&[verb, &index]).ok().stdout, *want, "{index}");
            }
        }
        assert!(said(&place, &[&digest], "test.caidx")[0] == told[0]);
        for (input, options, out) in [
            ("test.catar", &[][..], "a"),
            ("test.caidx", &[], "b"),
            ("test.caidx", &["--seed=a"], "c"),
            ("test.caidx", &["--seed=a", "--hardlink=yes"], "d"),
        ] {
            extract(&place, &[options, &[input, out]].concat()).ok();
            let mtree = |what: &str| place.casync(&["mtree", &digest, what]).ok().stdout;
            assert!(mtree(out) == mtree("src"), "{out}");
            assert_eq!(place.casync(&["digest", &digest, out]).ok().stdout, told[0][2], "{out}");
        }
        // And casync takes what was made here.
        place.casync(&["extract", "test.caidx", "e"]).ok();
        assert_eq!(place.casync(&["digest", &digest, "e"]).ok().stdout, told[0][2]);
    }
}

#[test]
fn part_of_a_tree_is_the_same_as_the_part_alone() {
    if !ready() {
        return;
    }
    let place = Place::new();
    fs::create_dir_all(place.path("src/casync")).unwrap();
    grow::tree(95, 80, &place.path("src/casync/test-files"), EXT4);
    grow::tree(96, 40, &place.path("src/casync/src"), EXT4);
    let part = "src/casync/test-files";
    for input in ["seek.catar", "seek.caidx"] {
        place.ours(&["make", input, "src"]).ok();
        extract(&place, &[input, "out", "casync/test-files"]).ok();
        for verb in ["mtree", "digest"] {
            let whole = place.casync(&[verb, part]).ok().stdout;
            assert!(place.casync(&[verb, "out/test-files"]).ok().stdout == whole, "{verb} of {input}");
            assert!(place.ours(&[verb, "out/test-files"]).ok().stdout == whole, "{verb} of {input}");
        }
        let digest = place.casync(&["digest", part]).ok().stdout;
        for whose in [Place::ours, Place::casync] {
            assert_eq!(whose(&place, &["digest", input, "casync/test-files"]).ok().stdout, digest);
        }
        fs::remove_dir_all(place.path("out")).unwrap();
    }
}

#[test]
fn what_fuse_can_show_is_the_same_in_every_form() {
    if !ready() {
        return;
    }
    let place = Place::new();
    let owners = ["--with=fuse", "--uid-range=65536"];
    grow::tree(97, 80, &place.path("src"), EXT4);
    let digest = place.casync(&[&["digest"], &owners[..], &["src"]].concat()).ok().stdout;
    assert_eq!(place.ours(&[&["digest"], &owners[..], &["src"]].concat()).ok().stdout, digest);
    place.ours(&[&["make"], &owners[..], &["test.caidx", "src"]].concat()).ok();
    assert_eq!(place.ours(&["digest", "test.caidx"]).ok().stdout, digest);
    extract(&place, &["test.caidx", "out"]).ok();
    assert_eq!(place.ours(&[&["digest"], &owners[..], &["out"]].concat()).ok().stdout, digest);
}

#[test]
fn this_machines_own_programs_come_back_as_they_were() {
    let top = ["/usr/share/perl5", "/usr/share/zoneinfo", "/etc/ssl"].into_iter().find(|top| Path::new(top).is_dir());
    let Some(top) = top.filter(|_| ready()) else { return };
    let place = Place::new();
    let archive = place.both_make(Path::new(top), &[]);
    place.ours(&["make", "x.caidx", top]).ok();
    place.casync(&["make", "--store=theirs.castr", "theirs.caidx", top]).ok();
    assert!(fs::read(place.path("x.caidx")).unwrap() == fs::read(place.path("theirs.caidx")).unwrap());
    assert_eq!(place.ours(&["mtree", top]).ok().stdout, place.casync(&["mtree", top]).ok().stdout);
    for input in ["ours.catar", "x.caidx"] {
        extract(&place, &[input, "out"]).ok();
        place.casync(&["make", "again.catar", "out"]).ok();
        assert!(fs::read(place.path("again.catar")).unwrap() == archive, "{input}");
    }
}
