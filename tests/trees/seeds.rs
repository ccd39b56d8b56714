//! Trees as seeds: matched by what is in them and not by name, shared as hard links and blocks, and never believed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use caswarm::format::archive::{Entry, Kind};
use caswarm::tree::Settings;
use caswarm::tree::archiver::Archiver;
use caswarm::tree::known::Share;
use caswarm::tree::owners::Shift;
use caswarm::tree::unpack::{self, Unpacker};

use super::Place;
use super::grow::{self, EXT4};
use crate::extract::web::Web;
use crate::support::data::{Random, assert_file_is, image};
use crate::support::disk::Disk;
use crate::support::{Need, Ran, require};

fn extract(place: &Place, arguments: &[&str]) -> Ran {
    place.ours(&[&["extract", "--no-lan", "--json"], arguments].concat())
}

/// A tree of a few files, three of them long enough for several chunks, and its index on the web.
fn published(place: &Place, at: &Path) -> Web {
    fs::create_dir_all(at.join("sub")).unwrap();
    for (number, name) in ["one", "sub/two", "three"].iter().enumerate() {
        fs::write(at.join(name), image(70 + number as u64, 900_000)).unwrap();
    }
    fs::write(at.join("sub/small"), "small").unwrap();
    place.ours(&["make", "--with=unix", "--chunk-size=16K", "x.caidx", at.to_str().unwrap()]).ok();
    place.ours(&["make", "--with=unix", "x.catar", at.to_str().unwrap()]).ok();
    Web::serve(place.0.path())
}

fn same_archive(place: &Place, directory: &str) -> bool {
    place.ours(&["make", "--with=unix", "again.catar", directory]).ok();
    fs::read(place.path("again.catar")).unwrap() == fs::read(place.path("x.catar")).unwrap()
}

fn fetched(ran: &Ran) -> u64 {
    ran.json()["from"]["origin"].as_u64().unwrap()
}

#[test]
fn content_is_found_under_any_name_in_any_of_several_seeds() {
    let place = Place::new();
    let web = published(&place, &place.path("tree"));
    for (seed, name, new) in [("a", "one", "other/first"), ("b", "sub/two", "2"), ("b", "three", "deep/er/3")] {
        let to = place.path(seed).join(new);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(place.path("tree").join(name), to).unwrap();
    }
    let ran = extract(&place, &["--seed=a", "--seed=b", "--seed=nothing", &web.url("x.caidx"), "out"]).ok();
    assert!(same_archive(&place, "out"));
    // The edges of files, where chunks have what surrounds them.
    let (fetched, seeds) = (fetched(&ran), ran.json()["from"]["seeds"].as_u64().unwrap());
    assert!(seeds > 1_500_000 && fetched < 1_000_000, "{ran}");
}

#[test]
fn a_seed_with_its_index_is_read_only_where_it_is_needed_and_cut_if_the_index_lies() {
    let place = Place::new();
    let web = published(&place, &place.path("tree"));
    // Its index beside it.
    fs::rename(place.path("tree"), place.path("seed")).unwrap();
    fs::copy(place.path("x.caidx"), place.path("seed.caidx")).unwrap();
    let ran = extract(&place, &["--seed=seed/", &web.url("x.caidx"), "a"]).ok();
    assert_eq!((fetched(&ran), same_archive(&place, "a")), (0, true));
    assert!(!ran.stderr.contains("cutting"), "{ran}");
    // Named, and not beside it.
    fs::rename(place.path("seed.caidx"), place.path("other.caidx")).unwrap();
    let ran = extract(&place, &["--seed=other.caidx:seed", &web.url("x.caidx"), "b"]).ok();
    assert_eq!((fetched(&ran), same_archive(&place, "b")), (0, true));
    assert!(!ran.stderr.contains("cutting"), "{ran}");
    // One file is not what it was: what lies behind it has moved.
    fs::write(place.path("seed/one"), image(70, 900_000 - 12_345)).unwrap();
    let ran = extract(&place, &["--seed=other.caidx:seed", &web.url("x.caidx"), "c"]).ok().says(&["cutting"]);
    assert!(same_archive(&place, "c"));
    assert!(fetched(&ran) < 400_000, "{ran}");
    // An index of something else, and one that is none.
    fs::write(place.path("image"), image(3, 3_000_000)).unwrap();
    place.ours(&["make", "image.caibx", "image"]).ok();
    fs::copy(place.path("image.caibx"), place.path("seed.caidx")).unwrap();
    let ran = extract(&place, &["--seed=seed", &web.url("x.caidx"), "d"]).ok();
    assert!(same_archive(&place, "d") && fetched(&ran) < 400_000, "{ran}");
    fs::write(place.path("seed.caidx"), "no index").unwrap();
    let ran = extract(&place, &["--seed=seed", &web.url("x.caidx"), "e"]).ok().says(&["seed.caidx"]);
    assert!(same_archive(&place, "e") && fetched(&ran) < 400_000, "{ran}");
}

#[test]
fn a_damaged_chunk_of_a_store_that_has_all_is_taken_from_elsewhere() {
    let place = Place::new();
    let _web = published(&place, &place.path("tree"));
    let directories = fs::read_dir(place.path("default.castr")).unwrap().flatten();
    let chunk = directories.flat_map(|directory| fs::read_dir(directory.path()).unwrap().flatten()).next().unwrap();
    fs::remove_file(chunk.path()).unwrap();
    fs::write(chunk.path(), "damaged").unwrap();
    extract(&place, &["x.caidx", "out"]).failed();
    extract(&place, &["--seed=tree", "--reflink=no", "x.caidx", "out"]).ok().says(&["asking others too"]);
    assert!(same_archive(&place, "out"));
}

#[test]
fn seeds_are_linked_where_a_whole_file_is_equal_and_only_if_asked() {
    if !require(&[Need::Root, Need::Program("casync")]) {
        return;
    }
    let place = Place::new();
    grow::tree(81, 120, &place.path("tree"), EXT4);
    place.ours(&["make", "x.caidx", "tree"]).ok();
    place.ours(&["make", "x.catar", "tree"]).ok();
    let original = fs::read(place.path("x.catar")).unwrap();
    let same = |directory: &str| {
        place.casync(&["make", "again.catar", directory]).ok();
        fs::read(place.path("again.catar")).unwrap() == original
    };
    extract(&place, &["x.caidx", "seed"]).ok();
    // A file that is only nearly equal is not linked.
    let regular = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    let files = |top: &str| {
        let mut found = Vec::new();
        let mut open = vec![place.path(top)];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if fs::symlink_metadata(&path).unwrap().is_dir() {
                    open.push(path);
                } else if regular(&path) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    };
    let changed = files("seed").into_iter().find(|path| fs::metadata(path).unwrap().len() > 100).unwrap();
    let mode = fs::metadata(&changed).unwrap().permissions().mode();
    fs::set_permissions(&changed, fs::Permissions::from_mode(mode ^ 0o1)).unwrap();
    extract(&place, &["--seed=seed", "x.caidx", "copied"]).ok();
    let ran = extract(&place, &["--seed=seed", "--hardlink=yes", "x.caidx", "linked"]).ok();
    assert!(same("copied") && same("linked"));
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let linked = |top: &str| {
        let pairs = files("seed").into_iter().map(|path| {
            let other = place.path(top).join(path.strip_prefix(place.path("seed")).unwrap());
            (inode(&other) == inode(&path), path)
        });
        pairs.filter(|(same, _)| *same).map(|(_, path)| path).collect::<Vec<_>>()
    };
    assert!(linked("copied").is_empty());
    let links = linked("linked");
    assert!(!links.contains(&changed) && links.len() > 10, "{}", links.len());
    // Several files of a tree may be equal: each is linked to one of them.
    assert!(ran.json()["linked"].as_u64().unwrap() >= links.len() as u64, "{ran}");
    // In place nothing is left behind, and what is right stays where it is.
    let before = files("linked").len();
    extract(&place, &["--hardlink=yes", "--delete=no", "x.caidx", "linked"]).ok();
    assert!(same("linked"));
    assert_eq!(files("linked").len(), before, "and nothing else");
    extract(&place, &["--hardlink=yes", "--seed=seed", "x.caidx", "copied"]).ok();
    assert!(same("copied"));
    // Who does not want everything back cannot have the same file.
    extract(&place, &["--seed=seed", "--hardlink=yes", "--without=acl", "x.caidx", "part"]).ok();
    assert!(linked("part").is_empty());
}

#[test]
fn blocks_of_seeds_are_shared_where_the_file_system_can() {
    for (mkfs, make, size) in [
        ("mkfs.btrfs", &["mkfs.btrfs", "-q", "-f"][..], 256 << 20),
        ("mkfs.xfs", &["mkfs.xfs", "-q", "-m", "reflink=1"], 400 << 20),
    ] {
        if !require(&[Need::Root, Need::Program(mkfs)]) {
            continue;
        }
        let place = Place::new();
        let disk = Disk::mounted(place.0.path(), "disk", size, make);
        let (seed, out, plain) = (disk.path().join("seed"), disk.path().join("out"), disk.path().join("plain"));
        let _web = published(&place, &seed);
        // Under another name, and behind something else.
        fs::rename(seed.join("one"), seed.join("uno")).unwrap();
        let seeds = format!("--seed={}", seed.display());
        let ran = extract(&place, &[&seeds, "x.caidx", out.to_str().unwrap()]).ok();
        assert!(same_archive(&place, out.to_str().unwrap()));
        let shared = ran.json()["shared"].as_u64().unwrap();
        assert!((1_500_000..2_700_100).contains(&shared), "{mkfs}: {shared}");
        let ran = extract(&place, &[&seeds, "--reflink=no", "x.caidx", plain.to_str().unwrap()]).ok();
        assert_eq!(ran.json()["shared"], 0);
        // What is shared is no more than a copy: changing one leaves the other.
        fs::write(seed.join("three"), "changed").unwrap();
        assert!(same_archive(&place, out.to_str().unwrap()));
        assert!(fs::read_dir(disk.path()).unwrap().count() == 3, "nothing is left beside the trees");
    }
}

#[test]
fn seeds_that_change_while_they_are_read_cost_only_bytes() {
    let place = Place::new();
    let web = published(&place, &place.path("tree"));
    change_while_reading(&place, &web, &place.path("tree"), &place.path("out"));
    // And where blocks are shared.
    if !require(&[Need::Root, Need::Program("mkfs.btrfs")]) {
        return;
    }
    let place = Place::new();
    let disk = Disk::mounted(place.0.path(), "disk", 256 << 20, &["mkfs.btrfs", "-q", "-f"]);
    let web = published(&place, &disk.path().join("seed"));
    change_while_reading(&place, &web, &disk.path().join("seed"), &disk.path().join("out"));
}

#[test]
fn shared_blocks_that_are_other_bytes_are_overwritten_also_where_zeros_belong() {
    if !require(&[Need::Root, Need::Program("mkfs.btrfs")]) {
        return;
    }
    let place = Place::new();
    let disk = Disk::mounted(place.0.path(), "disk", 256 << 20, &["mkfs.btrfs", "-q", "-f"]);
    let (seed, length) = (disk.path().join("seed"), 400_000);
    fs::create_dir(&seed).unwrap();
    let mut want = vec![0x5a; length];
    fs::write(seed.join("file"), &want).unwrap();
    want[100_000..300_000].fill(0);
    for punch_holes in [true, false] {
        let mut archiver =
            Archiver::open(&seed, Settings { features: 0, shift: Shift::default() }).unwrap().noting(None);
        archiver.skip(u64::MAX).unwrap();
        let file = Arc::new(archiver.take_noted().remove(0).file);
        let options =
            unpack::Options { wanted: 0, shift: Shift::default(), delete: false, undo_immutable: false, punch_holes };
        let out = disk.path().join(format!("out{punch_holes}"));
        let mut unpacker = Unpacker::open(&out, options).unwrap();
        unpacker.enter(b"file", Entry::new(Kind::File { size: length as u64 }, 0), 0).unwrap();
        // What was known of the seed is not true any more when it is used.
        unpacker.share(vec![Share { at: 0, length: length as u64, file, from: 0 }]);
        want.chunks(65_536).for_each(|part| unpacker.content(part).unwrap());
        unpacker.leave(false).unwrap();
        assert_eq!(unpacker.finish().shared, 0);
        assert_file_is(&out.join("file"), &want);
    }
}

fn change_while_reading(place: &Place, web: &Web, seed: &Path, out: &Path) {
    let stop = std::sync::atomic::AtomicBool::new(false);
    let stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(5);
            while !stopped() {
                let path = seed.join(["one", "sub/two", "three"][random.below(3)]);
                match random.below(4) {
                    0 => drop(fs::write(path, image(random.next(), 300_000))),
                    1 => drop(fs::remove_file(path)),
                    2 => drop(fs::rename(seed.join("sub/small"), path)),
                    // As it was, in part: other bytes in the same file, its time put back.
                    _ => drop(spoil(&path)),
                }
            }
        });
        let problem = (0..5).find_map(|round| {
            let out = format!("{}{round}", out.display());
            let (seed, url) = (format!("--seed={}", seed.display()), web.url("x.caidx"));
            let ran = extract(place, &[&seed, "--hardlink=yes", &url, &out]);
            match ran.status.success() {
                true => (!same_archive(place, &out)).then(|| format!("{out} is another tree")),
                false => Some(ran.to_string()),
            }
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(problem, None);
    });
}

/// Changes a file and hides it.
fn spoil(path: &Path) -> std::io::Result<()> {
    let file = fs::File::options().write(true).open(path)?;
    let modified = file.metadata()?.modified()?;
    std::os::unix::fs::FileExt::write_all_at(&file, &[0x5a; 5000], 40_000)?;
    file.set_modified(modified)
}

#[test]
fn a_dry_run_says_what_would_come_from_where_and_writes_nothing() {
    let place = Place::new();
    let web = published(&place, &place.path("tree"));
    fs::create_dir(place.path("seed")).unwrap();
    fs::copy(place.path("tree/one"), place.path("seed/any")).unwrap();
    let before = fs::read_dir(place.0.path()).unwrap().count();
    let asked = web.asked("default.castr");
    let ran = extract(&place, &["--dry-run", "--seed=seed", &web.url("x.caidx"), "out"]).ok();
    let plan = ran.json();
    let (seeds, missing) = (plan["seeds"].as_u64().unwrap(), plan["network"].as_u64().unwrap());
    assert!((500_000..910_000).contains(&seeds) && missing > 1_500_000, "{plan}");
    let ran = extract(&place, &["--dry-run", "x.catar", "out"]).ok();
    assert_eq!((ran.json()["entries"].as_u64(), ran.json()["bytes_total"].as_u64()), (Some(6), Some(2_700_005)));
    let said = place.ours(&["extract", "--dry-run", "x.catar", "out"]).ok().stdout;
    assert!(said.contains("6 files and directories"), "{said}");
    assert_eq!((fs::read_dir(place.0.path()).unwrap().count(), web.asked("default.castr")), (before, asked));
    let ran = extract(&place, &["x.catar", "out"]).ok();
    assert_eq!((ran.json()["entries"].as_u64(), ran.json()["complaints_total"].as_u64()), (Some(6), Some(0)));
}
