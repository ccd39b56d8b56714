//! Targets that need a disk of their own: devices, full and read-only file systems, file systems that share blocks.

use std::path::PathBuf;
use std::process::Command;

use super::{Place, from};
use crate::support::data::{assert_file_is, image};
use crate::support::{Need, require, run};

/// A file system of its own on a loop device, or a bare loop device, gone when dropped.
struct Disk {
    device: String,
    mounted: Option<PathBuf>,
}

impl Disk {
    fn bare(place: &Place, size: u64) -> Self {
        let backing = place.path(&format!("disk{size}"));
        std::fs::File::create(&backing).unwrap().set_len(size).unwrap();
        let ran = run(Command::new("losetup").args(["--find", "--show"]).arg(&backing)).ok();
        Self { device: ran.stdout.trim().to_owned(), mounted: None }
    }

    fn mounted(place: &Place, size: u64, make: &[&str]) -> Self {
        let mut disk = Self::bare(place, size);
        run(Command::new(make[0]).args(&make[1..]).arg(&disk.device)).ok();
        let at = place.path("mnt");
        std::fs::create_dir_all(&at).unwrap();
        run(Command::new("mount").arg(&disk.device).arg(&at)).ok();
        disk.mounted = Some(at);
        disk
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(at) = &self.mounted {
            let _ = Command::new("umount").arg(at).status();
        }
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

#[test]
fn a_device_is_written_in_place_kept_where_right_and_refused_where_too_small_or_mounted() {
    if !require(&[Need::Root, Need::Program("losetup"), Need::Program("mkfs.ext4")]) {
        return;
    }
    let place = Place::new(3_000_000);
    let small = Disk::bare(&place, 2 << 20);
    let before = std::fs::read(&small.device).unwrap();
    place.extract(&["v1.caibx", &small.device]).failed().says(&[&small.device, "2097152", "3000000"]);
    assert!(std::fs::read(&small.device).unwrap() == before);

    let disk = Disk::bare(&place, 4 << 20);
    place.extract(&["v1.caibx", &disk.device]).ok();
    assert!(std::fs::read(&disk.device).unwrap()[..3_000_000] == place.image[..]);
    let again = place.extract(&["v1.caibx", &disk.device]).ok();
    assert_eq!(from(&again, "kept"), 3_000_000);

    let mounted = Disk::mounted(&place, 16 << 20, &["mkfs.ext4", "-q"]);
    place.extract(&["v1.caibx", &mounted.device]).failed().says(&["in use"]);
}

#[test]
fn a_full_disk_is_named_and_what_was_written_is_found_again() {
    if !require(&[Need::Root]) {
        return;
    }
    let place = Place::new(6_000_000);
    let at = place.path("full");
    std::fs::create_dir(&at).unwrap();
    let mount = |options: &str| {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at)).ok();
    };
    mount("size=3m");
    let failed = place.extract(&["v1.caibx", "full/out.img"]);
    let there = at.join("out.img").exists();
    run(Command::new("mount").args(["-o", "remount,size=16m"]).arg(&at)).ok();
    let again = place.extract(&["v1.caibx", "full/out.img"]);
    let right = std::fs::read(at.join("out.img")).is_ok_and(|bytes| bytes == place.image);
    run(Command::new("umount").arg(&at)).ok();
    failed.failed().says(&["full/out.img", "full", "free"]);
    assert!(!there && right);
    assert!(from(&again.ok(), "kept") > 0);
}

#[test]
fn a_directory_that_may_not_be_written_is_named() {
    if !require(&[Need::Root]) {
        return;
    }
    let place = Place::new(100_000);
    let at = place.path("ro");
    std::fs::create_dir(&at).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "ro", "tmpfs"]).arg(&at)).ok();
    let ran = place.extract(&["v1.caibx", "ro/out.img"]);
    run(Command::new("umount").arg(&at)).ok();
    ran.failed().says(&["ro/", "ead-only"]);
}

#[test]
fn blocks_are_shared_with_a_seed_where_the_file_system_can() {
    if !require(&[Need::Root, Need::Program("mkfs.btrfs"), Need::Program("losetup"), Need::Program("filefrag")]) {
        return;
    }
    let place = Place::new(8_000_000);
    let mut second = place.image.clone();
    second[3_000_000..3_100_000].copy_from_slice(&image(5, 100_000));
    place.publish("v2", &second);
    let disk = Disk::mounted(&place, 256 << 20, &["mkfs.btrfs", "-q"]);
    let at = disk.mounted.clone().unwrap();
    std::fs::copy(place.path("v1.img"), at.join("v1.img")).unwrap();
    std::fs::copy(place.path("v1.caibx"), at.join("v1.img.caibx")).unwrap();
    run(Command::new("sync").arg("-f").arg(at.join("v1.img"))).ok();
    for (word, shared) in [("yes", true), ("no", false)] {
        let target = at.join(format!("{word}.img"));
        let seed = at.join("v1.img");
        let arguments = ["--seed", seed.to_str().unwrap(), "--reflink", word, "v2.caibx", target.to_str().unwrap()];
        let ran = place.extract(&arguments).ok();
        assert_file_is(&target, &second);
        assert!(from(&ran, "seeds") > 4_000_000);
        let extents = run(Command::new("filefrag").arg("-v").arg(&target)).ok().stdout;
        assert_eq!(extents.contains("shared"), shared, "{extents}");
    }
}
