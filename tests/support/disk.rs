//! File systems of their own, on loop devices.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::run;

/// A file system on a loop device, mounted; gone when dropped.
pub struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Makes one of `size` bytes with `make` (a mkfs program and its options) and mounts it at `place/name`.
    ///
    /// # Panics
    /// When that does not work.
    pub fn mounted(place: &Path, name: &str, size: u64, make: &[&str]) -> Self {
        let backing = place.join(format!("{name}.img"));
        std::fs::File::create(&backing).unwrap().set_len(size).unwrap();
        run(Command::new(make[0]).args(&make[1..]).arg(&backing)).ok();
        let at = place.join(name);
        std::fs::create_dir_all(&at).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(&backing).arg(&at)).ok();
        Self { at }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}
