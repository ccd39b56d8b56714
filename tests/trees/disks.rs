//! Trees on file systems of their own: what ext4, XFS and btrfs have that others lack.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use caswarm::tree::attributes;

use super::Place;
use super::grow::{self, EXT4, Soil};
use crate::support::disk::Disk;
use crate::support::{Need, require, run};

fn needs(mkfs: &'static str) -> bool {
    require(&[Need::Root, Need::Program("casync"), Need::Program(mkfs)])
}

#[test]
fn archives_of_trees_on_ext4_are_casyncs_byte_for_byte() {
    if !needs("mkfs.ext4") {
        return;
    }
    let place = Place::new();
    let disk = Disk::mounted(place.0.path(), "ext4", 64 << 20, &["mkfs.ext4", "-q"]);
    let tree = disk.path().join("tree");
    grow::tree(21, 150, &tree, EXT4);
    for (name, flags) in [("append", 0x20), ("immutable", 0x10)] {
        let file = File::create(tree.join(name)).unwrap();
        attributes::set_chattr(&file, flags, flags).unwrap();
    }
    for options in [
        &[][..],
        &["--with=chattr"],
        &["--with=flag-immutable", "--with=flag-append"],
        &["--with=quota-projid"],
        &["--exclude-nodump=no"],
    ] {
        place.both_make(&tree, options);
    }
    for name in ["append", "immutable"] {
        attributes::set_chattr(File::open(tree.join(name)).unwrap(), 0, 0x30).unwrap();
    }
}

#[test]
fn archives_of_trees_on_xfs_are_casyncs_byte_for_byte() {
    if !needs("mkfs.xfs") {
        return;
    }
    let place = Place::new();
    let disk = Disk::mounted(place.0.path(), "xfs", 400 << 20, &["mkfs.xfs", "-q"]);
    let tree = disk.path().join("tree");
    grow::tree(22, 150, &tree, Soil { chattr: 0x80 | 0x8 | 0x40, projects: true, ..EXT4 });
    for options in [&[][..], &["--with=quota-projid", "--with=chattr"], &["--with=fuse"]] {
        place.both_make(&tree, options);
    }
}

#[test]
fn archives_of_subvolumes_are_casyncs_byte_for_byte() {
    if !needs("mkfs.btrfs") {
        return;
    }
    let place = Place::new();
    let disk = Disk::mounted(place.0.path(), "btrfs", 256 << 20, &["mkfs.btrfs", "-q", "-f"]);
    let top = disk.path();
    let subvolume = |path: &Path| {
        let parent = File::open(path.parent().unwrap()).unwrap();
        attributes::create_subvolume(&parent, path.file_name().unwrap().as_encoded_bytes()).unwrap();
    };
    subvolume(&top.join("top"));
    let tree = top.join("top");
    grow::tree(23, 80, &tree.join("tree"), Soil { chattr: 0x80 | 0x8 | 0x4, ..EXT4 });
    for name in ["sv", "ro"] {
        subvolume(&tree.join(name));
        fs::write(tree.join(name).join("f"), name).unwrap();
    }
    File::create(tree.join("nocow")).unwrap();
    for (name, flag) in [("nocow", "+C"), ("sv/f", "+c"), ("ro/f", "+m")] {
        run(Command::new("chattr").arg(flag).arg(tree.join(name))).ok();
    }
    attributes::set_read_only_subvolume(File::open(tree.join("ro")).unwrap(), true).unwrap();
    for options in [&[][..], &["--with=subvolume"], &["--with=subvolume-ro", "--with=chattr"], &["--without=subvolume"]]
    {
        place.both_make(&tree, options);
    }
    place.both_make(top, &[]);
    // And back, below the top and as a top.
    let archive = place.both_make(&tree, &[]);
    for (round, out) in ["back", "back"].iter().enumerate() {
        let out = top.join(out);
        place.ours(&["extract", "ours.catar", out.to_str().unwrap()]).ok();
        place.casync(&["make", "again.catar", out.to_str().unwrap()]).ok();
        assert!(fs::read(place.path("again.catar")).unwrap() == archive, "round {round}");
    }
}

#[test]
fn project_ids_and_attributes_come_back_on_xfs() {
    if !needs("mkfs.xfs") {
        return;
    }
    let place = Place::new();
    let disk = Disk::mounted(place.path("").as_path(), "xfs2", 400 << 20, &["mkfs.xfs", "-q"]);
    let (tree, out) = (disk.path().join("tree"), disk.path().join("out"));
    grow::tree(24, 100, &tree, Soil { chattr: 0x80 | 0x8, projects: true, ..EXT4 });
    let archive = place.both_make(&tree, &[]);
    place.ours(&["extract", "ours.catar", out.to_str().unwrap()]).ok();
    place.casync(&["make", "again.catar", out.to_str().unwrap()]).ok();
    assert!(fs::read(place.path("again.catar")).unwrap() == archive);
}
