//! The content of one regular file of a tree, with no byte more or less than the file had when it was found.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::stat::FileStat;
use rustix::io::Errno;

use super::known::Known;
use super::{TreeError, read};

/// A file that is open, and how much of it was read.
#[derive(Debug)]
pub struct Content {
    file: File,
    path: PathBuf,
    stat: FileStat,
    size: u64,
    read: u64,
}

impl Content {
    /// `size` bytes of a file that looked like `stat` when it was found.
    pub(super) fn new(file: File, path: PathBuf, stat: FileStat, size: u64) -> Self {
        Self { file, path, stat, size, read: 0 }
    }

    /// How long it is.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What will tell whether it is still the same, for a file of this directory.
    pub(super) fn known(&self, directory: Arc<Path>) -> Known {
        let name = self.path.file_name().unwrap_or_default();
        Known::new(directory, name.as_bytes(), &self.stat)
    }

    /// Leaves out the next bytes.
    pub(super) fn skip(&mut self, length: u64) {
        self.read = (self.read + length).min(self.size);
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> u64 {
        self.size - self.read
    }

    /// Reads the next bytes into `buffer`, and fills it unless there are no more. Returns how many.
    ///
    /// # Errors
    /// When it cannot be read, or the file is shorter than it was.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TreeError> {
        let wanted = (self.size - self.read).min(buffer.len() as u64) as usize;
        let mut filled = 0;
        while filled < wanted {
            match rustix::io::pread(&self.file, &mut buffer[filled..wanted], self.read) {
                Ok(0) => return Err(TreeError::Shrunk { path: self.path.clone(), length: self.size, read: self.read }),
                Ok(read) => {
                    self.read += read as u64;
                    filled += read;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.failed("reading", error.into())),
            }
        }
        Ok(wanted)
    }

    /// Says so if the file is not what it was when it was found. What was read is then of no one moment.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn check_unchanged(&self) -> Result<(), TreeError> {
        let when =
            |stat: &FileStat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
        let now = read::stat(&self.file).map_err(|error| self.failed("looking at it", error.into()))?;
        if when(&now) != when(&self.stat) {
            tracing::warn!("{}: changed while it was read; is something writing to it?", self.path.display());
        }
        Ok(())
    }

    fn failed(&self, doing: &'static str, error: io::Error) -> TreeError {
        TreeError::Io { path: self.path.clone(), doing, error }
    }
}
