//! `caswarm make` of trees, beside `casync make` of the same.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use caswarm::format::features;

use super::Place;
use super::grow::{self, EXT4, Soil};
use crate::support::{Need, require};

fn root_and_casync() -> bool {
    require(&[Need::Root, Need::Program("casync")])
}

#[test]
fn archives_of_generated_trees_are_casyncs_byte_for_byte() {
    if !root_and_casync() {
        return;
    }
    for seed in 1..=6 {
        let place = Place::new();
        let tree = place.path("tree");
        grow::tree(seed, 40 * seed as usize, &tree, EXT4);
        let archive = place.both_make(&tree, &[]);
        assert!(archive.len() > 1000, "{seed}");
    }
}

#[test]
fn archives_with_every_feature_and_group_are_casyncs_byte_for_byte() {
    if !root_and_casync() {
        return;
    }
    let place = Place::new();
    let tree = place.path("tree");
    grow::tree(77, 120, &tree, Soil { root: true, ..EXT4 });
    for (name, _) in features::NAMES {
        // An owner beyond 16 bits does not fit, which both say.
        let narrow = ["16bit-uids", "unix"].contains(&name);
        if narrow {
            place.ours(&["make", &format!("--with={name}"), "x.catar", "tree"]).failed().says(&["16 bits"]);
            place.casync(&["make", &format!("--with={name}"), "x.catar", "tree"]).failed();
        } else {
            place.both_make(&tree, &[&format!("--with={name}")]);
        }
        if name != "32bit-uids" {
            place.both_make(&tree, &[&format!("--without={name}"), "--without=16bit-uids"]);
        }
    }
    for options in [
        &["--with=best", "--without=privileged"][..],
        &["--without=nsec-time", "--without=usec-time"],
        &["--without=acl", "--without=permissions"],
        &["--exclude-nodump=no"],
        &["--exclude-submounts=yes"],
        &["--digest=sha256"],
        &["--uid-shift=no"],
        &["--uid-range=65536", "--with=all"],
        &["--uid-range=4294967296"],
        &["--uid-range=1000", "--with=16bit-uids", "--with=unix"],
        &["--with=user-names", "--uid-shift=yes"],
    ] {
        place.both_make(&tree, options);
    }
}

#[test]
fn any_features_of_any_tree_are_the_same_archive_and_come_back_alike() {
    if !root_and_casync() {
        return;
    }
    let mut random = crate::support::data::Random::new(20);
    for seed in 200..212 {
        let place = Place::new();
        let (tree, out, theirs) = (place.path("tree"), "out", "theirs");
        grow::tree(seed, 20 + random.below(80), &tree, EXT4);
        let mut options = vec!["--uid-range=1000".to_owned(), "--without=usec-time".to_owned()];
        for _ in 0..1 + random.below(4) {
            let (name, _) = features::NAMES[random.below(features::NAMES.len())];
            options.push(format!("--{}={name}", ["with", "with", "without"][random.below(3)]));
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let archive = place.both_make(&tree, &options);
        // Owners by name alone casync can only read if nobody is root, and names are this machine's.
        let numbers = u64::from_le_bytes(archive[16..24].try_into().unwrap()) & (features::UIDS_16 | features::UIDS_32);
        if numbers == 0 && options.iter().any(|option| option.contains("user-names")) {
            continue;
        }
        place.ours(&["extract", "ours.catar", out]).ok();
        if !place.casync(&["extract", "ours.catar", theirs]).status.success() {
            continue;
        }
        // Alike in all that the archive has. Without permissions casync leaves new directories to their owner alone,
        // which is no reason for us to do so.
        let seen = |what: &str| place.casync(&[&["mtree"], &options[..], &[what]].concat()).ok().stdout;
        let (ours, theirs) = (seen(out), seen(theirs));
        let differs = ours.lines().zip(theirs.lines()).find(|(ours, theirs)| ours != theirs);
        assert!(ours == theirs, "{options:?}: {differs:?}");
        assert!(place.both_make(&place.path(out), &options) == archive, "{options:?}");
    }
}

#[test]
fn indexes_of_trees_and_their_chunks_are_casyncs() {
    if !root_and_casync() {
        return;
    }
    let place = Place::new();
    let tree = place.path("tree");
    grow::tree(9, 150, &tree, EXT4);
    for options in [
        &[][..],
        &["--chunk-size=16K", "--digest=sha256"],
        &["--chunk-size=4K:8K:1M", "--with=unix", "--uid-range=1000"],
    ] {
        let theirs =
            place.casync(&[&["make", "--store=theirs.castr"], options, &["theirs.caidx", "tree"]].concat()).ok();
        let ours = place.ours(&[&["make", "--store=ours.castr"], options, &["ours.caidx", "tree"]].concat()).ok();
        assert_eq!(theirs.stdout, ours.stdout, "{options:?}");
        assert!(
            fs::read(place.path("theirs.caidx")).unwrap() == fs::read(place.path("ours.caidx")).unwrap(),
            "{options:?}"
        );
        let names = |store: &str| {
            let mut names = Vec::new();
            for directory in fs::read_dir(place.path(store)).unwrap() {
                let files = fs::read_dir(directory.unwrap().path()).unwrap();
                names.extend(files.map(|file| file.unwrap().file_name()));
            }
            names.sort();
            names
        };
        assert_eq!(names("theirs.castr"), names("ours.castr"));
        let mode = |name: &str| fs::metadata(place.path(name)).unwrap().permissions().mode();
        assert_eq!(mode("theirs.caidx"), mode("ours.caidx"));
        assert!(place.path("ours.caidx.id").exists());
    }
}

#[test]
fn excluded_files_are_those_that_casync_excludes() {
    if !root_and_casync() {
        return;
    }
    let place = Place::new();
    let tree = place.path("tree");
    let names = fs::read_to_string(crate::casync_formats::data("exclude/source-files.txt")).unwrap();
    let with_children: Vec<&str> = names.lines().filter(|name| names.contains(&format!("{name}/"))).collect();
    fs::create_dir(&tree).unwrap();
    for name in names.lines().skip(1) {
        let path = tree.join(name);
        match with_children.contains(&name) || name.ends_with("inner") || name.ends_with("dirpat") {
            true => fs::create_dir_all(path).unwrap(),
            false => fs::write(path, name).unwrap_or_else(|error| panic!("{name}: {error}")),
        }
    }
    let rules = fs::read_to_string(crate::casync_formats::data("exclude/caexclude.root.txt")).unwrap();
    let more = ["", "[[:upper:]]*\n", "[!a-p]*\n!q2\n", "/sub/inner/*.o\n\\*\n", "sub?/\n*/x\n", "we\\[*\n[k-\n"];
    for more in more {
        fs::write(tree.join(".caexclude"), format!("{rules}{more}")).unwrap();
        fs::write(tree.join("sub/.caexclude"), "!c.o\n").unwrap();
        place.both_make(&tree, &[]);
    }
    fs::write(tree.join("sub/.caexclude"), "ok\na/../b\n").unwrap();
    place.ours(&["make", "x.catar", "tree"]).failed().says(&["tree/sub", ".caexclude", "line 2"]);
    place.casync(&["make", "x.catar", "tree"]).failed();
    // What Debian's casync got wrong and its successor right.
    place.ours(&["make", "--exclude-file=no", "x.catar", "tree"]).ok();
    assert!(!place.path("x.catar.id").exists());
}

#[test]
fn a_tree_of_64_levels_is_made_and_one_of_65_is_refused_by_its_path() {
    if !root_and_casync() {
        return;
    }
    let place = Place::new();
    let mut path = place.path("tree");
    (0..63).for_each(|_| path.push("d"));
    fs::create_dir_all(&path).unwrap();
    place.both_make(&place.path("tree"), &[]);
    fs::write(path.join("deepest"), "").unwrap();
    place.ours(&["make", "x.catar", "tree"]).failed().says(&["deepest", "64 levels"]);
    place.casync(&["make", "x.catar", "tree"]).failed();
    assert!(!place.path("x.catar").exists());
}

#[test]
fn what_has_no_place_in_an_archive_is_refused_by_name() {
    let place = Place::new();
    fs::create_dir(place.path("tree")).unwrap();
    fs::write(place.path("tree/file"), "x").unwrap();
    place.ours(&["make", "x.caibx", "tree"]).failed().says(&["tree", ".caidx"]);
    place.ours(&["make", "x.catar", "tree/file"]).failed().says(&["tree/file", "directory"]);
    place.ours(&["make", "x.catar", "nothing"]).failed().says(&["nothing"]);
    place.ours(&["make", "no/x.catar", "tree"]).failed().says(&["no/x.catar"]);
    place.ours(&["make", "--with=everything", "x.catar", "tree"]).failed().says(&["everything", "best"]);
    assert!(
        fs::read_dir(place.0.path()).unwrap().all(|entry| !entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains("catar"))
    );
    if Need::Root.is_met() {
        std::os::unix::fs::chown(place.path("tree/file"), Some(65_535), None).unwrap();
        place.ours(&["make", "x.catar", "tree"]).failed().says(&["tree/file", "65535"]);
    }
}

#[test]
fn an_ordinary_user_archives_what_casync_archives() {
    if !require(&[Need::Root, Need::Program("casync"), Need::Program("setpriv")]) {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.0.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let tree = place.path("tree");
    grow::tree(5, 80, &tree, Soil { xattrs: true, acl: true, ..Soil::default() });
    let own = |path: &Path| std::os::unix::fs::lchown(path, Some(1), Some(1)).unwrap();
    crate::support::run(std::process::Command::new("chown").args(["-Rh", "1:1"]).arg(&tree)).ok();
    own(&tree);
    let user = |program: &str, out: &str| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=1", "--regid=1", "--clear-groups", program, "make", out, "tree"]);
        crate::support::run(command.current_dir(place.0.path()).env("CASWARM_STATE_DIR", place.path("state"))).ok()
    };
    user("casync", "theirs.catar");
    user(env!("CARGO_BIN_EXE_caswarm"), "ours.catar");
    assert!(fs::read(place.path("theirs.catar")).unwrap() == fs::read(place.path("ours.catar")).unwrap());
}

#[test]
fn fakeroot_is_believed() {
    if !require(&[Need::Root, Need::Program("casync"), Need::Program("fakeroot"), Need::Program("setpriv")]) {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.0.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let script = format!(
        "mkdir t && echo hello > t/f && chown 5:6 t/f && mknod t/null c 1 3 && chmod 4755 t/f \
         && casync make --with=unix theirs.catar t && {} make --with=unix ours.catar t",
        env!("CARGO_BIN_EXE_caswarm")
    );
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=1", "--regid=1", "--clear-groups", "fakeroot", "sh", "-c", &script]);
    crate::support::run(command.current_dir(place.0.path()).env("CASWARM_STATE_DIR", place.path("state"))).ok();
    assert!(fs::read(place.path("theirs.catar")).unwrap() == fs::read(place.path("ours.catar")).unwrap());
}

#[test]
fn kernel_file_systems_become_empty_directories_and_mounts_are_left_out_if_asked() {
    if !root_and_casync() {
        return;
    }
    let place = Place::new();
    let tree = place.path("tree");
    for name in ["proc", "tmp", "bound", "keep"] {
        fs::create_dir_all(tree.join(name)).unwrap();
    }
    fs::write(tree.join("keep/file"), "kept").unwrap();
    fs::write(tree.join("single"), "").unwrap();
    let mount = |arguments: &[&str], at: &str| {
        crate::support::run(std::process::Command::new("mount").args(arguments).arg(tree.join(at))).ok();
    };
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            for name in ["proc", "tmp", "bound", "single"] {
                let _ = std::process::Command::new("umount").arg("-l").arg(self.0.join(name)).status();
            }
        }
    }
    let _unmount = Unmount(&tree);
    mount(&["-t", "proc", "proc"], "proc");
    mount(&["-t", "tmpfs", "tmpfs"], "tmp");
    mount(&["--bind", place.path("tree/keep").to_str().unwrap()], "bound");
    mount(&["--bind", "/proc/version"], "single");
    fs::write(tree.join("tmp/inside"), "a tmpfs is included").unwrap();
    let with = place.both_make(&tree, &[]);
    let without = place.both_make(&tree, &["--exclude-submounts=yes"]);
    assert!(without.len() < with.len());
}
