//! `caswarm extract` of trees: everything comes back, also onto what is there already, also when it was interrupted.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use caswarm::tree::attributes;

use super::Place;
use super::grow::{self, EXT4, Soil};
use crate::support::{Need, Process, Ran, caswarm, require};

fn extract(place: &Place, arguments: &[&str]) -> Ran {
    place.ours(&[&["extract", "--no-lan"], arguments].concat())
}

/// The archive of a directory, as casync makes it.
fn archive(place: &Place, directory: &str) -> Vec<u8> {
    place.casync(&["make", "--exclude-nodump=no", "again.catar", directory]).ok();
    fs::read(place.path("again.catar")).unwrap()
}

/// A place with a grown tree, its archive and its index.
fn grown(seed: u64, entries: usize) -> Place {
    let place = Place::new();
    grow::tree(seed, entries, &place.path("tree"), EXT4);
    place.ours(&["make", "--exclude-nodump=no", "x.catar", "tree"]).ok();
    place.ours(&["make", "--exclude-nodump=no", "--chunk-size=16K", "x.caidx", "tree"]).ok();
    place
}

fn leftovers(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains("caswarm")).collect()
}

#[test]
fn what_is_extracted_has_the_archive_that_it_came_from() {
    if !require(&[Need::Root, Need::Program("casync")]) {
        return;
    }
    for seed in 41..44 {
        let place = grown(seed, 100);
        let original = fs::read(place.path("x.catar")).unwrap();
        extract(&place, &["x.catar", "a"]).ok();
        assert!(archive(&place, "a") == original, "{seed}: from an archive");
        extract(&place, &["x.caidx", "b"]).ok();
        assert!(archive(&place, "b") == original, "{seed}: from a local store");
        // Again, onto what is there.
        extract(&place, &["x.caidx", "b"]).ok();
        assert!(archive(&place, "b") == original, "{seed}: onto itself");
        assert!(leftovers(place.0.path()).is_empty());
    }
}

#[test]
fn a_tree_comes_over_http_into_a_spool_that_is_gone_afterwards() {
    if !require(&[Need::Root, Need::Program("casync")]) {
        return;
    }
    let place = grown(45, 150);
    let original = fs::read(place.path("x.catar")).unwrap();
    let web = crate::extract::web::Web::serve(place.0.path());
    let ran = extract(&place, &["--json", &web.url("x.caidx"), "out"]).ok();
    assert!(archive(&place, "out") == original);
    let report = ran.json();
    // Zeros are there without being fetched.
    let (origin, kept) = (report["from"]["origin"].as_u64().unwrap(), report["from"]["kept"].as_u64().unwrap());
    assert!(origin > kept && report["bytes_total"] == origin + kept, "{report}");
    assert!(report["entries"].as_u64().unwrap() > 50 && report["complaints_total"] == 0);
    assert!(leftovers(place.0.path()).is_empty());
    // What is there already is not fetched again, whatever it is called.
    fs::rename(place.path("out"), place.path("moved")).unwrap();
    let before = web.asked("default.castr");
    extract(&place, &["--seed=moved", &web.url("x.caidx"), "out"]).ok();
    assert_eq!(web.asked("default.castr"), before);
    assert!(archive(&place, "out") == original);
    let ran = extract(&place, &["--json", &web.url("x.caidx"), "out"]).ok();
    assert_eq!(ran.json()["from"]["origin"], 0);
    assert!(archive(&place, "out") == original);
}

#[test]
fn an_existing_tree_becomes_the_new_one_whatever_it_was() {
    if !require(&[Need::Root, Need::Program("casync")]) {
        return;
    }
    let place = grown(46, 120);
    let original = fs::read(place.path("x.catar")).unwrap();
    // Another tree of the same names, of other kinds.
    grow::tree(47, 150, &place.path("out"), EXT4);
    fs::create_dir_all(place.path("out/foreign/deep")).unwrap();
    fs::write(place.path("out/foreign/deep/file"), "x").unwrap();
    extract(&place, &["--undo-immutable=yes", "x.catar", "out"]).ok();
    assert!(archive(&place, "out") == original);
    // Every kind in the place of every other.
    let kinds = ["file", "directory", "link", "fifo"];
    let make = |top: &Path, shift: usize| {
        fs::create_dir(top).unwrap();
        for (number, name) in kinds.iter().enumerate() {
            let path = top.join(name);
            match kinds[(number + shift) % 4] {
                "file" => fs::write(path, "content").unwrap(),
                "directory" => {
                    fs::create_dir(&path).unwrap();
                    fs::write(path.join("inside"), "x").unwrap();
                }
                "link" => symlink("target", path).unwrap(),
                _ => rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap(),
            }
        }
    };
    make(&place.path("kinds"), 0);
    place.ours(&["make", "kinds.catar", "kinds"]).ok();
    for shift in 0..4 {
        let out = format!("kinds{shift}");
        make(&place.path(&out), shift);
        extract(&place, &["kinds.catar", &out]).ok();
        assert!(archive(&place, &out) == archive(&place, "kinds"), "{shift}");
    }
}

#[test]
fn what_is_not_in_the_archive_is_removed_unless_it_shall_stay() {
    let place = Place::new();
    for name in ["tree/dir", "out/dir/more"] {
        fs::create_dir_all(place.path(name)).unwrap();
    }
    fs::write(place.path("tree/dir/file"), "new").unwrap();
    fs::write(place.path("out/dir/file"), "old").unwrap();
    fs::write(place.path("out/dir/more/foreign"), "x").unwrap();
    place.ours(&["make", "--with=unix", "x.catar", "tree"]).ok();
    extract(&place, &["--delete=no", "x.catar", "out"]).ok();
    assert!(place.path("out/dir/more/foreign").exists());
    assert_eq!(fs::read_to_string(place.path("out/dir/file")).unwrap(), "new");
    extract(&place, &["x.catar", "out"]).ok();
    assert!(!place.path("out/dir/more").exists());
}

#[test]
fn part_of_a_tree_is_put_into_the_directory_under_its_name() {
    if !require(&[Need::Root, Need::Program("casync")]) {
        return;
    }
    let place = Place::new();
    grow::tree(48, 60, &place.path("tree"), EXT4);
    fs::create_dir_all(place.path("tree/part/inner")).unwrap();
    fs::write(place.path("tree/part/inner/file"), "inside").unwrap();
    place.ours(&["make", "x.catar", "tree"]).ok();
    place.ours(&["make", "x.caidx", "tree"]).ok();
    fs::create_dir(place.path("out")).unwrap();
    fs::write(place.path("out/foreign"), "stays").unwrap();
    for input in ["x.catar", "x.caidx"] {
        extract(&place, &[input, "out", "part/inner"]).ok();
        assert_eq!(fs::read_to_string(place.path("out/inner/file")).unwrap(), "inside");
        extract(&place, &[input, "out", "/part/inner/file"]).ok();
        assert_eq!(fs::read_to_string(place.path("out/file")).unwrap(), "inside");
        assert!(place.path("out/foreign").exists());
        extract(&place, &[input, "out", "part/nothing"]).failed().says(&["part/nothing"]);
    }
}

#[test]
fn an_interrupted_extraction_is_completed_by_the_next() {
    if !require(&[Need::Root, Need::Program("casync")]) {
        return;
    }
    let place = grown(49, 400);
    let original = fs::read(place.path("x.catar")).unwrap();
    let mut random = crate::support::data::Random::new(1);
    let web = crate::extract::web::Web::serve(place.0.path());
    for input in ["x.catar", "x.caidx", &web.url("x.caidx")] {
        for round in 0..6 {
            let mut command = caswarm(&place.path("state"));
            command.args(["extract", "--no-lan", input, "out"]).current_dir(place.0.path());
            let mut process = Process::spawn(&mut command);
            std::thread::sleep(Duration::from_millis(random.below(150 * (round + 1)) as u64));
            process.kill();
        }
        extract(&place, &[input, "out"]).ok();
        assert!(archive(&place, "out") == original, "{input}");
        assert!(leftovers(place.0.path()).is_empty(), "{input}");
        fs::remove_dir_all(place.path("out")).unwrap();
    }
}

#[test]
fn zeros_become_holes_unless_they_shall_not() {
    let place = Place::new();
    fs::create_dir(place.path("tree")).unwrap();
    let sparse = fs::File::create(place.path("tree/sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    place.ours(&["make", "--with=unix", "x.catar", "tree"]).ok();
    for (word, blocks) in [("yes", 0..2000), ("no", 16_000..20_000)] {
        extract(&place, &[&format!("--punch-holes={word}"), "x.catar", word]).ok();
        let found = fs::metadata(place.path(word).join("sparse")).unwrap();
        assert_eq!(found.len(), 8 << 20);
        assert!(blocks.contains(&found.blocks()), "{word}: {}", found.blocks());
    }
}

#[test]
fn immutable_files_are_replaced_only_if_asked() {
    if !require(&[Need::Root]) {
        return;
    }
    let place = Place::new();
    for name in ["tree", "out"] {
        fs::create_dir(place.path(name)).unwrap();
        fs::write(place.path(name).join("file"), name).unwrap();
    }
    place.ours(&["make", "--with=unix", "x.catar", "tree"]).ok();
    fs::write(place.path("out/foreign"), "x").unwrap();
    for name in ["out/file", "out/foreign"] {
        attributes::set_chattr(fs::File::open(place.path(name)).unwrap(), 0x10, 0x10).unwrap();
    }
    extract(&place, &["x.catar", "out"]).failed().says(&["out/file"]);
    extract(&place, &["--undo-immutable=yes", "x.catar", "out"]).ok();
    assert_eq!(fs::read_to_string(place.path("out/file")).unwrap(), "tree");
    assert!(!place.path("out/foreign").exists());
}

#[test]
fn only_the_features_asked_for_are_put_back() {
    if !require(&[Need::Root]) {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.path("tree")).unwrap();
    fs::write(place.path("tree/file"), "x").unwrap();
    fs::set_permissions(place.path("tree/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(place.path("tree/file"), Some(12), Some(34)).unwrap();
    place.ours(&["make", "x.catar", "tree"]).ok();
    let found = |options: &[&str], out: &str| {
        extract(&place, &[options, &["x.catar", out]].concat()).ok();
        let found = fs::metadata(place.path(out).join("file")).unwrap();
        (found.mode() & 0o7777, found.uid(), found.gid())
    };
    assert_eq!(found(&[], "all").0 & 0o777, 0o751);
    assert_eq!((found(&["--without=privileged"], "plain").1, found(&["--with=sec-time"], "time")), (0, (0o644, 0, 0)));
    assert_eq!(found(&["--uid-shift=100000", "--without=user-names"], "shifted"), (0o751, 100_012, 100_034));
}

#[test]
fn what_a_user_may_not_have_is_listed_and_is_a_failure_unless_it_is_accepted() {
    if !require(&[Need::Root, Need::Program("setpriv")]) {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.0.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::create_dir(place.path("tree")).unwrap();
    fs::write(place.path("tree/file"), "content").unwrap();
    fs::set_permissions(place.path("tree/file"), fs::Permissions::from_mode(0o4755)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.path("tree/null"),
        rustix::fs::FileType::CharacterDevice,
        0o644.into(),
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    place.ours(&["make", "x.catar", "tree"]).ok();
    let user = |options: &[&str], out: &str| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=1", "--regid=1", "--clear-groups", env!("CARGO_BIN_EXE_caswarm"), "extract"]);
        command.args(options).args(["x.catar", out]).current_dir(place.0.path());
        crate::support::run(&mut command)
    };
    user(&[], "a").failed().says(&["a/file: owner", "a/null: cannot be made", "--best-effort"]);
    user(&["--best-effort"], "b").ok().says(&["b/file: owner"]);
    user(&["--without=privileged"], "c").ok();
    for out in ["a", "b"] {
        assert_eq!(fs::read_to_string(place.path(out).join("file")).unwrap(), "content");
        let mode = fs::metadata(place.path(out).join("file")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o755, "nothing runs as somebody whom it was not meant to run as");
    }
}

#[test]
fn a_full_disk_is_named_and_the_next_run_completes_the_tree() {
    if !require(&[Need::Root, Need::Program("casync")]) {
        return;
    }
    let place = Place::new();
    grow::tree(50, 100, &place.path("tree"), Soil { xattrs: false, chattr: 0, ..EXT4 });
    fs::write(place.path("tree/big"), crate::support::data::image(8, 6_000_000)).unwrap();
    place.ours(&["make", "--with=unix", "--uid-range=1000", "x.catar", "tree"]).ok();
    fs::create_dir(place.path("full")).unwrap();
    let mount = |options: &str| {
        let mut command = std::process::Command::new("mount");
        crate::support::run(command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(place.path("full"))).ok();
    };
    mount("size=3m");
    let failed = extract(&place, &["x.catar", "full/out"]);
    mount("remount,size=64m");
    let again = extract(&place, &["x.catar", "full/out"]);
    let same = again.status.success() && {
        place.casync(&["make", "--with=unix", "--uid-range=1000", "again.catar", "full/out"]).ok();
        fs::read(place.path("again.catar")).unwrap() == fs::read(place.path("x.catar")).unwrap()
    };
    let _ = std::process::Command::new("umount").arg("-l").arg(place.path("full")).status();
    failed.failed().says(&["full/out", "space"]);
    again.ok();
    assert!(same);
}

#[test]
fn options_that_make_no_sense_are_refused_by_name() {
    let place = Place::new();
    for (arguments, says) in [
        (&["--delete=no", "x.caibx", "out"][..], "--delete"),
        (&["x.caibx", "out", "path"], "path"),
        (&["--in-place", "x.caidx", "out"], "--in-place"),
        (&["--seed=x", "x.catar", "out"], "--seed"),
        (&["http://127.0.0.1:1/x.catar", "out"], "local"),
    ] {
        extract(&place, arguments).failed().says(&[says]);
    }
    fs::write(place.path("file"), "x").unwrap();
    fs::create_dir(place.path("tree")).unwrap();
    place.ours(&["make", "x.caidx", "tree"]).ok();
    extract(&place, &["x.caidx", "file"]).failed().says(&["file"]);
}
