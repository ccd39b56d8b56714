//! Trees: archives and indexes equal to casync's, byte for byte, over generated trees, every feature, and several file
//! systems; what is said of them; and the way back.

mod disks;
mod extract;
mod fat;
mod grow;
mod hostile;
mod look;
mod make;
mod scenarios;
mod seeds;
mod swarm;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Ran, caswarm, run};

/// A directory to work in, and both programs there.
pub struct Place(tempfile::TempDir);

impl Place {
    /// An empty one.
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs our program here.
    pub fn ours(&self, arguments: &[&str]) -> Ran {
        run(caswarm(&self.path("state")).args(arguments).current_dir(self.0.path()))
    }

    /// Runs casync here.
    pub fn casync(&self, arguments: &[&str]) -> Ran {
        run(Command::new("casync").args(arguments).current_dir(self.0.path()).env("TZ", "UTC"))
    }

    /// Makes the archive of `tree` with both programs and these options. Both are the same, and so is the digest.
    #[track_caller]
    pub fn both_make(&self, tree: &Path, options: &[&str]) -> Vec<u8> {
        let tree = tree.to_str().unwrap();
        let theirs = self.casync(&[&["make"], options, &["theirs.catar", tree]].concat()).ok();
        let ours = self.ours(&[&["make"], options, &["ours.catar", tree]].concat()).ok();
        let read = |name| std::fs::read(self.path(name)).unwrap();
        let (a, b) = (read("theirs.catar"), read("ours.catar"));
        if a != b {
            let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
            panic!("{options:?} of {tree}: {} and {} bytes, different at {at}\n{ours}", a.len(), b.len());
        }
        assert_eq!(theirs.stdout, ours.stdout, "{options:?}");
        a
    }
}
