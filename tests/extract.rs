//! `caswarm extract` as a user runs it: what ends up in the target, what is asked of whom, and what is left when it
//! goes wrong.

mod disk;
mod hostile;
pub mod web;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::data::{assert_file_is, image, next_version};
use crate::support::lan::wait_until;
use crate::support::process::PATIENCE;
use crate::support::{Need, Process, Ran, caswarm, require, run};
use web::{Fault, Web};

/// A directory with a published image: `v1.img`, `v1.caibx`, `default.castr`.
struct Place {
    dir: tempfile::TempDir,
    image: Vec<u8>,
}

impl Place {
    fn new(length: usize) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), image: image(7, length) };
        place.publish("v1", &place.image);
        place
    }

    fn publish(&self, name: &str, image: &[u8]) {
        std::fs::write(self.path(&format!("{name}.img")), image).unwrap();
        let (index, image) = (self.path(&format!("{name}.caibx")), self.path(&format!("{name}.img")));
        run(self.caswarm().arg("make").args([index, image])).ok();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn caswarm(&self) -> Command {
        caswarm(&self.path("state"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.caswarm();
        command.args(["extract", "--no-lan", "--json"]).args(arguments).current_dir(self.dir.path());
        command
    }

    fn extract(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    fn chunk_files(&self, store: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for directory in std::fs::read_dir(self.path(store)).unwrap().flatten() {
            files.extend(std::fs::read_dir(directory.path()).unwrap().flatten().map(|file| file.path()));
        }
        files.sort();
        files
    }

    /// Names in the directory that extractions left behind.
    fn leftovers(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.dir.path()).unwrap().flatten();
        names.map(|name| name.file_name().into_string().unwrap()).filter(|name| name.ends_with(".caswarm")).collect()
    }
}

fn from(ran: &Ran, place: &str) -> u64 {
    ran.json()["from"][place].as_u64().unwrap()
}

#[test]
fn an_image_from_a_local_store_is_byte_identical_and_leaves_no_temporary_file() {
    let place = Place::new(3_000_000);
    let ran = place.extract(&["v1.caibx", "out.img"]).ok();
    assert_file_is(&place.path("out.img"), &place.image);
    assert!(place.leftovers().is_empty());
    let report = ran.json();
    assert_eq!(report["bytes_total"], 3_000_000);
    let parts = report["from"].as_object().unwrap().values().map(|bytes| bytes.as_u64().unwrap());
    assert_eq!(parts.sum::<u64>(), 3_000_000, "{report}");
}

#[test]
fn an_image_comes_over_http_with_one_request_for_each_chunk() {
    let place = Place::new(3_000_000);
    let web = Web::serve(place.dir.path());
    let ran = place.extract(&[&web.url("v1.caibx"), "out.img"]).ok();
    assert_file_is(&place.path("out.img"), &place.image);
    let chunks = place.chunk_files("default.castr").len() as u32;
    assert!(web.asked("default.castr") <= chunks, "{} requests for {chunks} chunks", web.asked("default.castr"));
    assert_eq!(ran.json()["origin_requests"], web.asked("default.castr"));
}

#[test]
fn what_casync_made_extracts_and_casync_extracts_what_we_made() {
    if !require(&[Need::Program("casync")]) {
        return;
    }
    let place = Place::new(2_000_000);
    let casync = |arguments: &[&str]| run(Command::new("casync").args(arguments).current_dir(place.dir.path())).ok();
    for (number, options) in
        [&[][..], &["--digest=sha256", "--compression=xz"], &["--compression=gzip"]].iter().enumerate()
    {
        let (index, store) = (format!("c{number}.caibx"), format!("--store=c{number}.castr"));
        casync(&[&["make", &store], *options, &[&index, "v1.img"]].concat());
        place.extract(&[&store, &index, "out.img"]).ok();
        assert_file_is(&place.path("out.img"), &place.image);
        std::fs::remove_file(place.path("out.img")).unwrap();
    }
    casync(&["extract", "--store=default.castr", "v1.caibx", "theirs.img"]);
    assert_file_is(&place.path("theirs.img"), &place.image);
}

#[test]
fn a_killed_extraction_fetches_only_the_rest_the_next_time() {
    let place = Place::new(8_000_000);
    let web = Web::serve(place.dir.path());
    web.delay(Duration::from_millis(60));
    let mut first = Process::spawn(&mut place.command(&[&web.url("v1.caibx"), "out.img"]));
    crate::support::lan::wait_until("half is there", PATIENCE, || web.asked("castr") > 64);
    first.kill();
    assert!(!place.path("out.img").exists());
    let before = web.asked("castr");
    web.forget();
    web.delay(Duration::ZERO);
    let ran = place.extract(&[&web.url("v1.caibx"), "out.img"]).ok();
    assert_file_is(&place.path("out.img"), &place.image);
    let chunks = place.chunk_files("default.castr").len() as u32;
    // What was in flight when it was killed is asked for again.
    assert!(before + web.asked("castr") <= chunks + 33, "{before} and {} of {chunks}", web.asked("castr"));
    assert!(from(&ran, "kept") > 0 && place.leftovers().is_empty());
}

#[test]
fn a_failed_extraction_keeps_what_was_right_and_the_old_file() {
    let place = Place::new(3_000_000);
    std::fs::write(place.path("out.img"), b"precious").unwrap();
    let lost = place.chunk_files("default.castr")[5].clone();
    let aside = place.path("aside");
    std::fs::rename(&lost, &aside).unwrap();
    let ran = place.extract(&["v1.caibx", "out.img"]).failed();
    let id = lost.file_stem().unwrap().to_str().unwrap().to_owned();
    ran.says(&[&id, "kept in"]);
    assert_file_is(&place.path("out.img"), b"precious");
    std::fs::rename(&aside, &lost).unwrap();
    let ran = place.extract(&["v1.caibx", "out.img"]).ok();
    assert!(from(&ran, "kept") > 0);
    assert_file_is(&place.path("out.img"), &place.image);
    assert!(place.leftovers().is_empty());
}

#[test]
fn a_longer_file_leaves_no_tail_replaced_or_in_place() {
    let place = Place::new(1_000_000);
    let longer = image(8, 1_500_000);
    for options in [&[][..], &["--in-place"]] {
        std::fs::write(place.path("out.img"), &longer).unwrap();
        let inode = std::fs::metadata(place.path("out.img")).unwrap().ino();
        place.extract(&[options, &["v1.caibx", "out.img"]].concat()).ok();
        assert_file_is(&place.path("out.img"), &place.image);
        let same = std::fs::metadata(place.path("out.img")).unwrap().ino() == inode;
        assert_eq!(same, options == ["--in-place"]);
    }
}

#[test]
fn in_place_keeps_what_is_right_where_it_is() {
    let place = Place::new(3_000_000);
    let mut old = place.image.clone();
    old[1_000_000..1_200_000].fill(3);
    std::fs::write(place.path("out.img"), &old).unwrap();
    let ran = place.extract(&["--in-place", "v1.caibx", "out.img"]).ok();
    assert_file_is(&place.path("out.img"), &place.image);
    assert!(from(&ran, "kept") > 2_000_000, "{}", ran.json());
}

#[test]
fn the_mode_of_a_replaced_file_stays_and_a_link_stays_a_link() {
    let place = Place::new(200_000);
    std::fs::write(place.path("real.img"), b"old").unwrap();
    std::fs::set_permissions(place.path("real.img"), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink("real.img", place.path("link.img")).unwrap();
    place.extract(&["v1.caibx", "link.img"]).ok();
    assert_file_is(&place.path("real.img"), &place.image);
    assert!(place.path("link.img").is_symlink());
    assert_eq!(std::fs::metadata(place.path("real.img")).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn seeds_spare_the_store_with_an_index_beside_them_named_or_none() {
    let place = Place::new(4_000_000);
    let second = next_version(&place.image, 3, 0.1, 4);
    place.publish("v2", &second);
    std::fs::rename(place.path("v1.caibx"), place.path("old.caibx")).unwrap();
    std::fs::copy(place.path("old.caibx"), place.path("beside.img.caibx")).unwrap();
    std::fs::copy(place.path("v1.img"), place.path("beside.img")).unwrap();
    for seed in ["v1.img", "old.caibx:v1.img", "beside.img"] {
        let ran = place.extract(&["--seed", seed, "v2.caibx", "out.img"]).ok();
        assert_file_is(&place.path("out.img"), &second);
        assert!(from(&ran, "seeds") > 2_500_000, "{seed}: {}", ran.json());
        std::fs::remove_file(place.path("out.img")).unwrap();
    }
}

#[test]
fn the_replaced_file_is_a_seed_unless_told_otherwise() {
    let place = Place::new(3_000_000);
    let second = next_version(&place.image, 3, 0.1, 4);
    place.publish("v2", &second);
    for (word, seeds) in [("no", false), ("yes", true)] {
        std::fs::copy(place.path("v1.img"), place.path("out.img")).unwrap();
        let ran = place.extract(&[&format!("--seed-output={word}"), "v2.caibx", "out.img"]).ok();
        assert_file_is(&place.path("out.img"), &second);
        assert_eq!(from(&ran, "seeds") > 1_500_000, seeds, "{}", ran.json());
    }
}

#[test]
fn a_seed_that_lies_only_costs_time() {
    let place = Place::new(3_000_000);
    std::fs::write(place.path("liar.img"), image(99, 2_000_000)).unwrap();
    std::fs::copy(place.path("v1.caibx"), place.path("liar.img.caibx")).unwrap();
    let ran = place.extract(&["--seed", "liar.img", "--seed", "nothing.img", "v1.caibx", "out.img"]).ok();
    assert_file_is(&place.path("out.img"), &place.image);
    ran.says(&["nothing.img"]);
}

#[test]
fn a_corrupt_chunk_is_taken_from_the_next_store_and_the_first_is_blamed() {
    let place = Place::new(2_000_000);
    run(Command::new("cp").args(["-r", "default.castr", "good.castr"]).current_dir(place.dir.path())).ok();
    let files = place.chunk_files("default.castr");
    let (truncated, other) = (&files[3], &files[9]);
    let bytes = std::fs::read(truncated).unwrap();
    for file in [truncated, other] {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    std::fs::write(truncated, &bytes[..bytes.len() / 2]).unwrap();
    std::fs::copy(&files[10], other).unwrap();
    place.extract(&["v1.caibx", "alone.img"]).failed();
    assert!(!place.path("alone.img").exists());

    let web = Web::serve(place.dir.path());
    for good in ["good.castr".to_owned(), web.url("good.castr")] {
        let ran = place.extract(&["--store=default.castr", "--extra-store", &good, "v1.caibx", "out.img"]).ok();
        assert_file_is(&place.path("out.img"), &place.image);
        assert_eq!(ran.json()["corrupt_total"], 2, "{}", ran.json());
        assert_eq!(ran.json()["corrupt"][0]["source"], "default.castr");
        std::fs::remove_file(place.path("out.img")).unwrap();
    }
    assert!(web.asked("good.castr") <= 2);
}

#[test]
fn a_sick_or_absent_store_does_not_hide_the_next() {
    let place = Place::new(1_000_000);
    let web = Web::serve(place.dir.path());
    web.spoil("half.castr", Fault::Half);
    web.spoil("page.castr", Fault::Instead(b"<html>not found</html>".to_vec()));
    std::fs::write(place.path("file.castr"), b"").unwrap();
    for sick in ["absent.castr".to_owned(), "file.castr".to_owned(), web.url("gone.castr"), web.url("page.castr")] {
        place.extract(&["--store", &sick, "--extra-store=default.castr", "v1.caibx", "out.img"]).ok();
        assert_file_is(&place.path("out.img"), &place.image);
        std::fs::remove_file(place.path("out.img")).unwrap();
        place.extract(&["--store", &sick, "v1.caibx", "out.img"]).failed().says(&[&sick]);
        assert!(!place.path("out.img").exists());
    }
    let extra = web.url("default.castr");
    place.extract(&["--store", &web.url("page.castr"), "--extra-store", &extra, "v1.caibx", "out.img"]).ok();
    assert_file_is(&place.path("out.img"), &place.image);
}

#[test]
fn an_index_that_is_none_is_refused_with_its_place() {
    let place = Place::new(300_000);
    let whole = std::fs::read(place.path("v1.caibx")).unwrap();
    for (name, bytes) in [
        ("short.caibx", &whole[..whole.len() - 1]),
        ("header.caibx", &whole[..40]),
        ("empty.caibx", &[][..]),
        ("page.caibx", b"<!DOCTYPE html><html></html>"),
    ] {
        std::fs::write(place.path(name), bytes).unwrap();
    }
    let web = Web::serve(place.dir.path());
    web.spoil("cut.caibx", Fault::Half);
    web.spoil("refused.caibx", Fault::Status(403));
    for name in ["short.caibx", "header.caibx", "empty.caibx", "page.caibx", "absent.caibx"] {
        for index in [name.to_owned(), web.url(name)] {
            place.extract(&["--store=default.castr", &index, "out.img"]).failed().says(&[&index]);
        }
    }
    place.extract(&[&web.url("refused.caibx"), "out.img"]).failed().says(&["403"]);
    place.extract(&["page.caibx", "out.img"]).failed().says(&["web page"]);
    place.extract(&["http://nowhere.invalid/v1.caibx", "out.img"]).failed().says(&["nowhere.invalid"]);
    assert!(!place.path("out.img").exists() && place.leftovers().is_empty());
}

#[test]
fn a_pinned_index_is_the_only_one_taken() {
    let place = Place::new(300_000);
    let id = std::fs::read_to_string(place.path("v1.caibx.id")).unwrap();
    place.extract(&["--index-id", id.trim(), "v1.caibx", "out.img"]).ok();
    let other = "0".repeat(64);
    place.extract(&["--index-id", &other, "v1.caibx", "other.img"]).failed().says(&["--index-id", &other]);
    assert!(!place.path("other.img").exists());
}

#[test]
fn an_empty_image_is_an_empty_file() {
    let place = Place::new(0);
    place.extract(&["v1.caibx", "out.img"]).ok();
    assert_file_is(&place.path("out.img"), b"");
}

#[test]
fn zeros_become_holes_unless_told_otherwise() {
    let place = Place::new(100_000);
    let mut sparse = vec![0u8; 8 << 20];
    sparse[5_000_000..5_100_000].copy_from_slice(&place.image);
    place.publish("sparse", &sparse);
    for (word, holes) in [("yes", true), ("no", false)] {
        place.extract(&["--punch-holes", word, "sparse.caibx", "out.img"]).ok();
        assert_file_is(&place.path("out.img"), &sparse);
        let blocks = std::fs::metadata(place.path("out.img")).unwrap().blocks() * 512;
        assert_eq!(blocks < 2 << 20, holes, "{blocks} bytes allocated with --punch-holes={word}");
        std::fs::remove_file(place.path("out.img")).unwrap();
    }
    std::fs::write(place.path("out.img"), vec![7u8; 8 << 20]).unwrap();
    place.extract(&["--in-place", "sparse.caibx", "out.img"]).ok();
    assert_file_is(&place.path("out.img"), &sparse);
    assert!(std::fs::metadata(place.path("out.img")).unwrap().blocks() * 512 < 2 << 20);
}

#[test]
fn unsuitable_targets_are_refused_before_anything_is_written() {
    let place = Place::new(100_000);
    std::fs::create_dir(place.path("dir")).unwrap();
    std::os::unix::fs::symlink("nothing", place.path("dangling")).unwrap();
    for (target, says) in [
        ("-", "standard output"),
        ("dir", "directory"),
        ("absent/out.img", "directory does not exist"),
        ("dangling", "symbolic link"),
        ("/dev/null", "neither"),
    ] {
        place.extract(&["v1.caibx", target]).failed().says(&[target, says]);
    }
    assert!(place.leftovers().is_empty() && !place.path("nothing").exists());
}

#[test]
fn a_second_extraction_of_the_same_thing_says_that_the_first_is_at_it() {
    let place = Place::new(2_000_000);
    let web = Web::serve(place.dir.path());
    web.delay(Duration::from_millis(300));
    let first = Process::spawn(&mut place.command(&[&web.url("v1.caibx"), "out.img"]));
    crate::support::lan::wait_until("the first is at it", PATIENCE, || !place.leftovers().is_empty());
    place.extract(&["v1.caibx", "out.img"]).failed().says(&["another extraction"]);
    web.delay(Duration::ZERO);
    first.wait(PATIENCE).ok();
    assert_file_is(&place.path("out.img"), &place.image);
}

#[test]
fn a_dry_run_says_what_comes_from_where_and_writes_nothing() {
    let place = Place::new(2_000_000);
    let files = place.chunk_files("default.castr");
    std::fs::remove_file(&files[4]).unwrap();
    let ran = place.extract(&["--dry-run", "v1.caibx", "out.img"]).ok();
    let plan = ran.json();
    let part = |name: &str| plan[name].as_u64().unwrap();
    assert!(part("network") > 0 && part("store") > 0, "{plan}");
    assert_eq!(part("kept") + part("seeds") + part("store") + part("network"), 2_000_000);
    assert!(!place.path("out.img").exists() && place.leftovers().is_empty());
}

#[test]
fn exit_codes_tell_usage_from_failure() {
    let place = Place::new(1000);
    assert_eq!(place.extract(&["v1.caibx"]).status.code(), Some(2));
    assert_eq!(place.extract(&["--reflink=perhaps", "v1.caibx", "out.img"]).status.code(), Some(2));
    assert_eq!(place.extract(&["absent.caibx", "out.img"]).status.code(), Some(1));
    assert_eq!(run(place.caswarm().arg("--version")).status.code(), Some(0));
}

#[test]
fn who_is_stopped_while_nobody_reads_standard_output_ends() {
    let place = Place::new(3_000_000);
    let web = Web::serve(place.dir.path());
    let mut command = place.caswarm();
    command.args(["extract", "--no-lan", &web.url("v1.caibx"), "-"]).current_dir(place.dir.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let pipe = child.stdout.take().unwrap();
    wait_until("the pipe is full", PATIENCE, || rustix::io::ioctl_fionread(&pipe).unwrap() > 50_000);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut ended = None;
    wait_until("it has ended", PATIENCE, || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(143));
    drop(pipe);
}
