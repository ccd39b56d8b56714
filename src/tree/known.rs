//! Files that are on this machine already and that a tree which is being unpacked may share: as a hard link where the
//! whole file is equal, or block by block. What is known of them is of the moment when they were read, so each is
//! compared with that again when it is used.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::stat::FileStat;
use rustix::fs::{Mode, OFlags};

use super::read;

/// A regular file, and how it was found.
#[derive(Debug, Clone)]
pub struct Known {
    directory: Arc<Path>,
    name: Box<[u8]>,
    stamp: Stamp,
}

/// What does not stay the same when a file changes, or another takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: i64,
    modified: (i64, i64),
    mode: u32,
    owners: (u32, u32),
}

/// Part of a file that is to be like part of a known one.
#[derive(Debug, Clone)]
pub struct Share {
    /// Where it begins in the new file.
    pub at: u64,
    /// How long it is.
    pub length: u64,
    /// The known file.
    pub file: Arc<Known>,
    /// Where it begins there.
    pub from: u64,
}

impl Stamp {
    fn of(stat: &FileStat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            mode: stat.st_mode,
            owners: (stat.st_uid, stat.st_gid),
        }
    }
}

impl Known {
    /// A file of this name that looks like `stat`.
    pub(super) fn new(directory: Arc<Path>, name: &[u8], stat: &FileStat) -> Self {
        Self { directory, name: name.into(), stamp: Stamp::of(stat) }
    }

    /// Opens it for reading; `None` if it cannot be opened or is not what it was.
    pub(super) fn open(&self) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file: File = rustix::fs::open(self.path(), flags, Mode::empty()).ok()?.into();
        self.is_still(&file).then_some(file)
    }

    /// Whether an open file is this one, unchanged.
    pub(super) fn is_still(&self, file: &File) -> bool {
        read::stat(file).is_ok_and(|stat| Stamp::of(&stat) == self.stamp)
    }

    /// Whether this is the file that looks like `stat`.
    pub(super) fn is_file_of(&self, stat: &FileStat) -> bool {
        (stat.st_dev, stat.st_ino) == (self.stamp.device, self.stamp.inode)
    }

    fn path(&self) -> PathBuf {
        self.directory.join(OsStr::from_bytes(&self.name))
    }
}
