//! Files that are on this machine already and that a tree which is being unpacked may share: as a hard link where the
//! whole file is equal, or block by block. What is known of them is of the moment when they were read, so each is
//! compared with that again when it is used.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::stat::FileStat;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::read;

/// A regular file, and how it was found.
#[derive(Debug)]
pub struct Known {
    directory: Arc<Path>,
    name: Box<[u8]>,
    stamp: Stamp,
    /// When anything about it changed last, also what can be put back; a new name, which we give it, is such a change.
    changed: Mutex<(i64, i64)>,
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
        let changed = Mutex::new((stat.st_ctime, stat.st_ctime_nsec));
        Self { directory, name: name.into(), stamp: Stamp::of(stat), changed }
    }

    /// Opens it for reading; `None` if it cannot be opened or is not what it was.
    pub(super) fn open(&self) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file: File = rustix::fs::open(self.path(), flags, Mode::empty()).ok()?.into();
        self.is_still(&file).then_some(file)
    }

    /// Whether an open file is this one, unchanged.
    fn is_still(&self, file: &File) -> bool {
        let changed = *self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        read::stat(file)
            .is_ok_and(|stat| Stamp::of(&stat) == self.stamp && (stat.st_ctime, stat.st_ctime_nsec) == changed)
    }

    /// Gives the file one more name, in the directory `parent`, if it is still what it was.
    pub(super) fn link(&self, parent: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        let file = self.open().ok_or(Errno::NOENT)?;
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let place = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, place, parent, name, AtFlags::SYMLINK_FOLLOW)?;
        let stat = read::stat(&file)?;
        *changed = (stat.st_ctime, stat.st_ctime_nsec);
        Ok(())
    }

    /// Whether this is the file that looks like `stat`.
    pub(super) fn is_file_of(&self, stat: &FileStat) -> bool {
        (stat.st_dev, stat.st_ino) == (self.stamp.device, self.stamp.inode)
    }

    fn path(&self) -> PathBuf {
        self.directory.join(OsStr::from_bytes(&self.name))
    }
}
