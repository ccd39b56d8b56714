//! Indexes and stores on a machine that has nothing but SFTP, over a real sshd.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::data::{assert_file_is, image, next_version};
use crate::support::lan::wait_until;
use crate::support::process::PATIENCE;
use crate::support::sshd::{SSHD, Sshd, script};
use crate::support::{Need, Ran, caswarm, require, run};

struct Place {
    dir: tempfile::TempDir,
    sshd: Sshd,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), sshd: Sshd::start() };
        let old = image(75, 2_000_000);
        fs::write(place.path("v1"), &old).unwrap();
        fs::write(place.path("v2"), next_version(&old, 76, 0.2, 4)).unwrap();
        fs::create_dir_all(place.path("tree/sub")).unwrap();
        fs::write(place.path("tree/file"), &old[..300_000]).unwrap();
        fs::create_dir(place.path("there")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn there(&self, name: &str) -> String {
        format!("sftp://127.0.0.1:{}{}", self.sshd.port, self.path("there").join(name).display())
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = caswarm(&self.path("state"));
        command.args(arguments).current_dir(self.dir.path()).env("CASYNC_SSH_PATH", self.sshd.ssh());
        run(command.env("TMPDIR", self.dir.path()))
    }

    fn casync(&self, arguments: &[&str]) -> Ran {
        run(Command::new("casync").args(arguments).current_dir(self.dir.path())).ok()
    }
}

/// Every file of a store, and when it was written.
fn chunks(store: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let directories = fs::read_dir(store).unwrap().map(|directory| directory.unwrap().path());
    let files = directories.flat_map(|directory| fs::read_dir(directory).unwrap().map(|file| file.unwrap()));
    files.map(|file| (file.path(), file.metadata().unwrap().modified().unwrap())).collect()
}

#[test]
fn an_index_and_what_is_missing_of_it_are_written_and_read_back() {
    if !require(&[&SSHD[..], &[Need::Program("casync")]].concat()) {
        return;
    }
    let place = Place::new();
    let (first, second, tree) = (place.there("v1.caibx"), place.there("v2.caibx"), place.there("t.caidx"));
    let made = place.casync(&["make", "v1.caibx", "v1"]);
    assert_eq!(place.run(&["make", &first, "v1"]).ok().stdout, made.stdout);
    assert_file_is(&place.path("there/v1.caibx"), &fs::read(place.path("v1.caibx")).unwrap());
    let store = place.path("there/default.castr");
    let before = chunks(&store);
    assert_eq!(before.len(), chunks(&place.path("default.castr")).len());
    fs::copy(place.path("there/v1.caibx"), place.path("there/v2.caibx")).unwrap();
    place.run(&["make", &second, "v2"]).ok();
    let after = chunks(&store);
    assert!(after.len() > before.len());
    assert!(before.iter().all(|(chunk, written)| after.get(chunk) == Some(written)));
    assert!(!after.keys().any(|file| file.extension().is_some_and(|kind| kind == "tmp")));
    place.run(&["make", &tree, "tree"]).ok();
    // By the other program, from the files; and by ours from there.
    place.casync(&["extract", "there/v2.caibx", "theirs"]);
    assert_file_is(&place.path("theirs"), &fs::read(place.path("v2")).unwrap());
    place.run(&["extract", "--no-lan", &second, "ours"]).ok();
    assert_file_is(&place.path("ours"), &fs::read(place.path("v2")).unwrap());
    place.run(&["extract", "--no-lan", &tree, "out"]).ok();
    run(Command::new("diff").args(["-r", "tree", "out"]).current_dir(place.dir.path())).ok();
    let id = fs::read_to_string(place.path("there/v2.caibx.id")).unwrap();
    let index = fs::read(place.path("there/v2.caibx")).unwrap();
    assert_eq!(id.trim(), caswarm::format::index::Index::index_id(&index).to_string());

    place.run(&["extract", "--no-lan", &place.there("no.caibx"), "x"]).failed().says(&["no.caibx", "no index"]);
    place.run(&["make", &place.there("no/dir/v1.caibx"), "v1"]).failed().says(&["no/dir"]);
    place.run(&["make", "--compression=none", &first, "v1"]).failed().says(&["--compression"]);
    place.run(&["make", &first, "v1", "--store=here.castr"]).failed().says(&["here.castr"]);
    before.keys().take(5).for_each(|chunk| fs::remove_file(chunk).unwrap());
    let lacks = place.run(&["extract", "--no-lan", "--seed-output=no", &first, "x"]).failed();
    lacks.says(&["of the image's chunks", "sftp://"]);
    wait_until("no ssh is left", PATIENCE, || place.sshd.clients() == 0);
}

#[test]
fn chunks_that_are_relied_on_become_young_again() {
    if !require(&SSHD) {
        return;
    }
    let place = Place::new();
    place.run(&["make", &place.there("v1.caibx"), "v1"]).ok();
    let old = SystemTime::now() - Duration::from_secs(3600);
    for chunk in chunks(&place.path("there/default.castr")).keys() {
        fs::File::options().write(true).open(chunk).unwrap().set_modified(old).unwrap();
    }
    place.run(&["make", &place.there("again.caibx"), "v1"]).ok();
    let chunks = chunks(&place.path("there/default.castr"));
    assert!(chunks.values().all(|written| *written > old + Duration::from_secs(60)));
}

#[test]
fn an_id_beside_never_names_another_index() {
    if !require(&SSHD) {
        return;
    }
    let place = Place::new();
    let index = place.there("os.caibx");
    let named = || {
        let id = fs::read_to_string(place.path("there/os.caibx.id")).unwrap();
        let index = fs::read(place.path("there/os.caibx")).unwrap();
        id.trim() == caswarm::format::index::Index::index_id(&index).to_string()
    };
    place.run(&["make", "--id=no", &index, "v1"]).ok();
    assert!(!place.path("there/os.caibx.id").exists());
    place.run(&["make", &index, "v1"]).ok();
    assert!(named());
    place.run(&["make", "--id=no", &index, "v2"]).ok();
    assert!(named());
    // Where it cannot be removed, the index stays as it was.
    fs::remove_file(place.path("there/os.caibx.id")).unwrap();
    fs::create_dir(place.path("there/os.caibx.id")).unwrap();
    let before = fs::read(place.path("there/os.caibx")).unwrap();
    place.run(&["make", &index, "v1"]).failed().says(&["os.caibx.id"]);
    assert_file_is(&place.path("there/os.caibx"), &before);
}

#[test]
fn a_server_that_speaks_something_else_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (text, says) in [
        ("echo Welcome to this machine; exec cat", "connection failed"),
        ("exit 1", "connection failed"),
        ("exec cat /dev/urandom", "connection failed"),
        ("exec cat /dev/zero", "connection failed"),
    ] {
        script(&at("ssh"), text);
        let mut command = caswarm(&at("state"));
        command.args(["extract", "--no-lan", "sftp://box/os.caibx", "out"]).current_dir(dir.path());
        run(command.env("CASYNC_SSH_PATH", at("ssh"))).failed().says(&[says]);
        assert!(!at("out").exists());
    }
}
