//! `caswarm make` as a publisher runs it: what it reads from, what it leaves where, and what it leaves when it fails.

mod durable;
mod killed;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use caswarm::format::index::Index;

use crate::support::data::{assert_file_is, image};
use crate::support::{Need, Ran, caswarm, require, run};

struct Place(tempfile::TempDir);

impl Place {
    fn new(length: usize) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::write(place.path("image"), image(11, length)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = caswarm(&self.path("state"));
        command.arg("make").args(arguments).current_dir(self.0.path());
        command
    }

    fn make(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// Makes `os.caibx`, which must fail with exit code 1, saying this, and leave neither index nor temporary file.
    fn refused(&self, arguments: &[&str], says: &[&str]) {
        let ran = self.make(&[&["os.caibx"], arguments].concat()).failed().says(says);
        assert_eq!(ran.status.code(), Some(1), "{ran}");
        let names = fs::read_dir(self.0.path()).unwrap().map(|name| name.unwrap().file_name().into_string().unwrap());
        let left: Vec<String> = names.filter(|name| name.contains("caibx")).collect();
        assert!(left.is_empty(), "{left:?} left by {ran}");
    }
}

fn chunk_files(store: &Path) -> usize {
    let count = |directory: fs::DirEntry| fs::read_dir(directory.path()).unwrap().count();
    fs::read_dir(store).unwrap().map(|directory| count(directory.unwrap())).sum()
}

#[test]
fn a_device_is_read_as_far_as_its_file_system_goes_as_casync_does() {
    let needs = [Need::Root, Need::Program("casync"), Need::Program("losetup"), Need::Program("mkfs.ext4")];
    if !require(&needs) {
        return;
    }
    let place = Place::new(1);
    let disk = place.path("disk");
    fs::File::create(&disk).unwrap().set_len(12 << 20).unwrap();
    run(Command::new("mkfs.ext4").arg("-q").arg(&disk).arg("8M")).ok();
    let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&disk)).ok().stdout.trim().to_owned();
    let ours = place.make(&["ours.caibx", &device]);
    let casync = ["make", "--store=theirs.castr", "theirs.caibx", &device];
    let theirs = run(Command::new("casync").args(casync).current_dir(place.0.path()));
    run(Command::new("losetup").args(["-d", &device])).ok();
    assert_eq!(ours.ok().stdout, theirs.ok().stdout);
    let index = fs::read(place.path("ours.caibx")).unwrap();
    assert!(index == fs::read(place.path("theirs.caibx")).unwrap());
    assert_eq!(Index::parse(&index).unwrap().length(), 8 << 20);
}

#[test]
fn standard_input_makes_the_same_index_as_the_file() {
    let place = Place::new(2_000_000);
    place.make(&["file.caibx", "image"]).ok();
    let mut child = place.command(&["stdin.caibx", "-"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    std::io::copy(&mut fs::File::open(place.path("image")).unwrap(), &mut child.stdin.take().unwrap()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_file_is(&place.path("stdin.caibx"), &fs::read(place.path("file.caibx")).unwrap());
}

#[test]
fn a_second_make_stores_nothing_and_an_old_id_is_replaced() {
    let place = Place::new(2_000_000);
    let first = place.make(&["os.caibx", "image"]).ok();
    let store = place.path("default.castr");
    let (files, times) = (chunk_files(&store), newest(&store));
    fs::write(place.path("os.caibx.id"), "of another index").unwrap();
    assert_eq!(place.make(&["os.caibx", "image"]).ok().stdout, first.stdout);
    assert_eq!((chunk_files(&store), newest(&store)), (files, times));
    let id = Index::index_id(&fs::read(place.path("os.caibx")).unwrap());
    assert_file_is(&place.path("os.caibx.id"), format!("{id}\n").as_bytes());
}

fn newest(store: &Path) -> std::time::SystemTime {
    let directories = fs::read_dir(store).unwrap().map(|directory| directory.unwrap().path());
    let files = directories.flat_map(|directory| fs::read_dir(directory).unwrap());
    files.map(|file| file.unwrap().metadata().unwrap().modified().unwrap()).max().unwrap()
}

#[test]
fn what_cannot_be_made_is_named_and_leaves_no_index() {
    let place = Place::new(300_000);
    fs::write(place.path("file"), "no store").unwrap();
    place.refused(&["--store=file", "image"], &["file", "not a directory"]);
    place.refused(&["nothing"], &["nothing", "No such file"]);
    place.refused(&["state/.."], &["directory"]);
    let to_nowhere = place.make(&["nowhere/os.caibx", "--store=s.castr", "image"]).failed();
    to_nowhere.says(&["nowhere/os.caibx"]);
    place.make(&["-", "image"]).failed().says(&["standard output"]);
    place.make(&["os.caidx", "image"]).failed().says(&["os.caidx"]);
}

#[test]
fn a_failed_make_leaves_the_index_and_id_of_before() {
    let place = Place::new(300_000);
    place.make(&["os.caibx", "image"]).ok();
    let before = ["os.caibx", "os.caibx.id"].map(|name| fs::read(place.path(name)).unwrap());
    fs::write(place.path("file"), "no store").unwrap();
    place.make(&["os.caibx", "--store=file", "image"]).failed();
    place.make(&["os.caibx", "nothing"]).failed();
    assert!(before == ["os.caibx", "os.caibx.id"].map(|name| fs::read(place.path(name)).unwrap()));
}

#[test]
fn stores_that_are_full_or_read_only_are_named() {
    if !require(&[Need::Root]) {
        return;
    }
    let place = Place::new(6_000_000);
    let at = place.path("store");
    fs::create_dir(&at).unwrap();
    for (options, says) in [("size=1m", "No space left"), ("ro", "ead-only")] {
        let mounted = Mounted::tmpfs(&at, options);
        place.refused(&["--store=store", "image"], &["store/", says]);
        drop(mounted);
    }
    fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
    place.make(&["os.caibx", "--store=store", "image"]).ok();
}

struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn tmpfs(at: &'a Path, options: &str) -> Self {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at)).ok();
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn an_image_that_shrinks_while_it_is_read_is_an_error() {
    let place = Place::new(300_000);
    // A file in /sys says 4096 bytes and gives fewer, as a file does that was cut off since.
    let Some(short) = ["/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/uevent_seqnum"]
        .into_iter()
        .find(|path| fs::metadata(path).is_ok_and(|file| file.len() == 4096))
    else {
        return;
    };
    place.refused(&[short], &[short, "4096"]);
}

#[test]
fn caswarm_extracts_what_casync_made_with_every_digest_and_compression() {
    if !require(&[Need::Program("casync")]) {
        return;
    }
    let place = Place::new(1_500_000);
    let bytes = fs::read(place.path("image")).unwrap();
    for digest in ["sha512-256", "sha256"] {
        for compression in ["zstd", "xz", "gzip"] {
            let name = format!("{digest}-{compression}");
            let (store, index) = (format!("--store={name}.castr"), format!("{name}.caibx"));
            let words = [&format!("--digest={digest}"), &format!("--compression={compression}"), &store, &index];
            run(Command::new("casync").arg("make").args(words).arg("image").current_dir(place.0.path())).ok();
            let mut extract = caswarm(&place.path("state"));
            extract.args(["extract", "--no-lan", &store, &index, &name]).current_dir(place.0.path());
            run(&mut extract).ok();
            assert_file_is(&place.path(&name), &bytes);
        }
    }
}
