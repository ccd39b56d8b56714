//! `caswarm gc`: what it removes, beside casync's; what it must not remove, whoever else is at work; what stops it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use caswarm::source::local_store::LocalStore;

use crate::support::data::{Random, image, next_version};
use crate::support::lan::wait_until;
use crate::support::nginx::Nginx;
use crate::support::process::PATIENCE;
use crate::support::{Need, Process, Ran, caswarm, require, run};

/// Two versions of an image, made into one store.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let old = image(41, 3_000_000);
        fs::write(place.path("v1"), &old).unwrap();
        fs::write(place.path("v2"), next_version(&old, 42, 0.3, 6)).unwrap();
        place.run(&["make", "v1.caibx", "v1"]).ok();
        place.run(&["make", "v2.caibx", "v2"]).ok();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = caswarm(&self.path("state"));
        command.args(arguments).current_dir(self.0.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    fn files(&self) -> BTreeSet<String> {
        files(&self.path("default.castr"))
    }

    #[track_caller]
    fn extracts(&self, version: &str) {
        self.run(&["extract", "--no-lan", "--seed-output=no", &format!("{version}.caibx"), "out"]).ok();
        assert!(fs::read(self.path("out")).unwrap() == fs::read(self.path(version)).unwrap());
        fs::remove_file(self.path("out")).unwrap();
    }
}

/// Every file of a store, and every directory.
fn files(store: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for directory in fs::read_dir(store).unwrap() {
        let directory = directory.unwrap();
        names.insert(directory.file_name().into_string().unwrap());
        for file in fs::read_dir(directory.path()).into_iter().flatten() {
            names.insert(file.unwrap().file_name().into_string().unwrap());
        }
    }
    names
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to)).ok();
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn what_stays_and_what_is_said_is_what_casyncs_gc_leaves_and_says() {
    if !require(&[Need::Program("casync")]) {
        return;
    }
    let place = Place::new();
    copy(&place.path("default.castr"), &place.path("theirs.castr"));
    let casync = |arguments: &[&str]| {
        let mut command = Command::new("casync");
        run(command.args(["gc", "--store=theirs.castr"]).args(arguments).current_dir(place.0.path())).ok().stdout
    };
    let before = place.files();
    for words in [&["-n", "v2.caibx"][..], &["-n", "-v", "v2.caibx"], &["-n", "v1.caibx", "v2.caibx"]] {
        let ours = place.run(&[&["gc", "--grace=0"], words].concat()).ok().stdout;
        assert_eq!(sorted(&ours), sorted(&casync(words)), "{words:?}");
        assert_eq!(place.files(), before, "{words:?}");
    }
    let ours = place.run(&["gc", "--grace=0", "-v", "v2.caibx"]).ok().stdout;
    assert_eq!(sorted(&ours), sorted(&casync(&["-v", "v2.caibx"])));
    assert!(place.files().len() < before.len());
    assert_eq!(place.files(), files(&place.path("theirs.castr")));
    place.extracts("v2");
    assert_eq!(place.run(&["gc", "--grace=0", "v2.caibx"]).ok().stdout, "");
}

#[test]
fn trees_and_indexes_by_url_keep_their_chunks_and_the_plain_form_goes_too() {
    if !require(&[Need::Program("nginx"), Need::Program("openssl")]) {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.path("tree")).unwrap();
    fs::write(place.path("tree/file"), image(43, 400_000)).unwrap();
    place.run(&["make", "tree.caidx", "tree"]).ok();
    let plain = format!("{}", caswarm::format::digest::Digest::default().id(b"plain"));
    fs::create_dir_all(place.path("default.castr").join(&plain[..4])).unwrap();
    fs::write(place.path("default.castr").join(&plain[..4]).join(&plain), b"plain").unwrap();
    let nginx = Nginx::serve(place.0.path(), "");
    let tree = nginx.http("tree.caidx");
    place.run(&["gc", "--grace=0", "v1.caibx", &tree]).ok();
    assert!(!place.files().contains(&plain));
    place.run(&["extract", "--no-lan", "tree.caidx", "out.tree"]).ok();
    place.extracts("v1");
    place.run(&["extract", "--no-lan", "--seed-output=no", "v2.caibx", "out"]).failed();
    let refused = place.run(&["gc", "--grace=0", &tree]).failed();
    refused.says(&["default.castr", "local store only"]);
}

#[test]
fn an_index_that_cannot_be_read_stops_it_before_anything_is_removed() {
    let place = Place::new();
    let index = fs::read(place.path("v1.caibx")).unwrap();
    fs::write(place.path("short.caibx"), &index[..index.len() - 8]).unwrap();
    fs::write(place.path("empty.caibx"), b"").unwrap();
    fs::write(place.path("page.caibx"), b"<html>gone</html>").unwrap();
    let before = place.files();
    for bad in ["short.caibx", "empty.caibx", "page.caibx", "missing.caibx", "http://127.0.0.1:1/os.caibx"] {
        let ran = place.run(&["gc", "--grace=0", "v2.caibx", bad]).failed().says(&[bad, "nothing was removed"]);
        assert_eq!(ran.status.code(), Some(1));
        assert_eq!(place.files(), before, "{bad}");
    }
    assert_eq!(place.run(&["gc"]).status.code(), Some(2));
}

#[test]
fn what_is_young_stays_unless_told_otherwise() {
    let place = Place::new();
    let before = place.files();
    let ran = place.run(&["gc", "-v", "v2.caibx"]).ok().says(&["younger than 600 seconds", "--grace=0"]);
    assert!(ran.stdout.contains("Removed 0 chunks"), "{ran}");
    assert_eq!(place.files(), before);
}

#[test]
fn a_make_that_finds_its_chunks_there_makes_them_young_again() {
    let place = Place::new();
    let store = place.path("default.castr");
    let chunks = || {
        let directories = fs::read_dir(&store).unwrap().map(|directory| directory.unwrap().path());
        directories.flat_map(|directory| fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()))
    };
    let old = SystemTime::now() - Duration::from_secs(3600);
    for chunk in chunks() {
        fs::File::options().read(true).open(chunk).unwrap().set_modified(old).unwrap();
    }
    place.run(&["make", "again.caibx", "v1"]).ok();
    let index = caswarm::format::index::Index::parse(&fs::read(place.path("v1.caibx")).unwrap()).unwrap();
    let needed: BTreeSet<String> = index.chunks.iter().map(|chunk| format!("{}.cacnk", chunk.id)).collect();
    for chunk in chunks() {
        let young = fs::metadata(&chunk).unwrap().modified().unwrap() > old + Duration::from_secs(60);
        let name = chunk.file_name().unwrap().to_str().unwrap();
        assert_eq!(young, needed.contains(name), "{name}");
    }
}

#[test]
fn a_make_under_way_is_waited_for() {
    let place = Place::new();
    let image = fs::read(place.path("v1")).unwrap();
    // v1 is no longer needed by any index, and the make that is under way has just relied on its chunks.
    fs::remove_file(place.path("v1.caibx")).unwrap();
    let mut make = place.command(&["make", "v3.caibx", "-"]);
    let mut make = make.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut input = make.stdin.take().unwrap();
    input.write_all(&image[..2_900_000]).unwrap();
    let before = place.files();
    let mut gc = Process::spawn(&mut place.command(&["gc", "--grace=0", "v2.caibx", "v3.caibx"]));
    wait_until("gc waits", PATIENCE, || gc.stderr().contains("waiting"));
    assert_eq!(place.files(), before);
    assert!(gc.is_running());
    input.write_all(&image[2_900_000..]).unwrap();
    drop(input);
    assert!(make.wait().unwrap().success());
    gc.wait(PATIENCE).ok();
    fs::rename(place.path("v1"), place.path("v3")).unwrap();
    place.extracts("v3");
    place.extracts("v2");
}

#[test]
fn a_make_waits_for_whoever_removes() {
    let place = Place::new();
    let store = LocalStore::open(place.path("default.castr")).unwrap();
    let alone = store.own(|| panic!("nobody is there")).unwrap();
    let mut make = Process::spawn(&mut place.command(&["make", "v3.caibx", "v1"]));
    std::thread::sleep(Duration::from_millis(300));
    assert!(make.is_running() && !place.path("v3.caibx").exists());
    drop(alone);
    make.wait(PATIENCE).ok();
}

#[test]
fn files_under_way_stay_and_leftovers_go() {
    let place = Place::new();
    let store = LocalStore::open(place.path("default.castr")).unwrap();
    let id = "ab".repeat(32);
    let directory = place.path("default.castr").join("abab");
    fs::create_dir_all(&directory).unwrap();
    let foreign = ["notes.txt", ".tmp-cacnk123", &format!("{id}.xz"), &format!("{id}.zz.tmp")];
    let temporary = [format!("{id}.0123456789abcdef.tmp"), format!("{id}.1f.tmp")];
    for name in foreign.iter().map(|name| (*name).to_owned()).chain(temporary.clone()) {
        fs::write(directory.join(name), b"half").unwrap();
    }
    std::os::unix::fs::symlink("/dev/null", directory.join(format!("{id}.cacnk"))).unwrap();
    fs::write(place.path("default.castr/file"), b"in the top directory").unwrap();
    place.run(&["gc", "--grace=0", "v1.caibx", "v2.caibx"]).ok();
    assert!(temporary.iter().all(|name| place.files().contains(name)));
    let leftover = caswarm::gc::Options { dry_run: false, grace: Duration::ZERO, leftover: Duration::ZERO };
    let needed = store.ids().unwrap().map(|id| id.unwrap()).collect();
    let collected = caswarm::gc::collect(&store, &needed, leftover, |_| {}).unwrap();
    assert_eq!((collected.leftovers, collected.removed, collected.stuck), (2, 0, 0));
    let files = place.files();
    assert!(temporary.iter().all(|name| !files.contains(name)));
    assert!(foreign.iter().all(|name| files.contains(*name)) && files.contains(&format!("{id}.cacnk")));
}

#[test]
fn a_killed_gc_has_removed_nothing_that_is_needed_and_the_next_finishes() {
    let place = Place::new();
    let mut random = Random::new(44);
    let waste = |random: &mut Random| {
        for _ in 0..400 {
            let name = hex::encode(random.bytes(32));
            let directory = place.path("default.castr").join(&name[..4]);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(format!("{name}.cacnk")), b"waste").unwrap();
        }
    };
    place.run(&["gc", "--grace=0", "v1.caibx"]).ok();
    let needed = place.files();
    let mut interrupted = 0;
    for _ in 0..6 {
        waste(&mut random);
        let all = place.files().len();
        let mut gc = Process::spawn(&mut place.command(&["gc", "--grace=0", "v1.caibx"]));
        let until = all - 1 - random.below(300);
        while gc.is_running() && place.files().len() > until {}
        interrupted += usize::from(gc.is_running());
        gc.kill();
        assert!(needed.is_subset(&place.files()));
    }
    assert!(interrupted > 0);
    place.run(&["gc", "--grace=0", "v1.caibx"]).ok();
    // A directory may have been emptied and not removed; the next chunk in it is welcome.
    let chunks = |names: BTreeSet<String>| names.into_iter().filter(|name| name.contains('.')).collect::<Vec<_>>();
    assert_eq!(chunks(place.files()), chunks(needed));
    place.extracts("v1");
}

#[test]
fn several_writers_and_a_gc_at_once_leave_every_finished_index_whole() {
    if !require(&[Need::Program("casync")]) {
        return;
    }
    let place = Place::new();
    let [v1, v2] = ["v1", "v2"].map(|name| fs::read(place.path(name)).unwrap());
    fs::write(place.path("v3"), next_version(&v1, 45, 0.3, 6)).unwrap();
    fs::write(place.path("v4"), next_version(&v2, 46, 0.3, 6)).unwrap();
    fs::write(place.path("v5"), image(47, 500_000)).unwrap();
    // What each of these has of its own goes when its index names the other, and has to be there when it is back.
    place.run(&["make", "a.caibx", "v3"]).ok();
    place.run(&["make", "b.caibx", "v4"]).ok();
    // Some that no index needs are there for certain.
    place.run(&["make", "old.caibx", "v5"]).ok();
    fs::remove_file(place.path("old.caibx")).unwrap();
    let mut removed = 0;
    std::thread::scope(|scope| {
        let ours = |name: &'static str, images: [&'static str; 2]| {
            let place = &place;
            scope.spawn(move || {
                for image in [images, images].concat() {
                    place.run(&["make", &format!("{name}.caibx"), image]).ok();
                }
            })
        };
        let mut writers = vec![ours("a", ["v4", "v3"]), ours("b", ["v3", "v4"])];
        // It knows of no lock: safe from a gc without grace is what it makes of chunks that others need.
        writers.push(scope.spawn(|| {
            for number in 0..4 {
                let mut casync = Command::new("casync");
                let index = format!("c{number}.caibx");
                run(casync.args(["make", "--store=default.castr", &index, "v1"]).current_dir(place.0.path())).ok();
            }
        }));
        loop {
            let over = writers.iter().all(std::thread::ScopedJoinHandle::is_finished);
            let ran = place.run(&["gc", "-v", "--grace=0", "v1.caibx", "v2.caibx", "a.caibx", "b.caibx"]).ok();
            let (_, said) = ran.stdout.rsplit_once("Removed ").unwrap();
            removed += said.split(' ').next().unwrap().parse::<usize>().unwrap();
            if over {
                break;
            }
        }
    });
    assert!(removed > 0);
    for (index, image) in [("a", "v3"), ("b", "v4"), ("c3", "v1"), ("v2", "v2")] {
        place.run(&["extract", "--no-lan", "--seed-output=no", &format!("{index}.caibx"), "out"]).ok();
        assert!(fs::read(place.path("out")).unwrap() == fs::read(place.path(image)).unwrap(), "{index}");
        fs::remove_file(place.path("out")).unwrap();
    }
}
