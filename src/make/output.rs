//! Files that appear whole or not at all, also across a power failure: written under another name, then renamed, each
//! step on the disk before the next.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::MakeError;

/// Where the id of an index is written: its name with `.id` appended.
pub(super) fn id_path(index: &Path) -> PathBuf {
    let mut name = index.as_os_str().to_owned();
    name.push(".id");
    name.into()
}

/// Removes a file. Returns whether it was there.
pub(super) fn remove(path: &Path) -> Result<bool, MakeError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(MakeError::Output { path: path.to_owned(), error }),
    }
}

/// Writes a file with these permissions (less the umask) in the place of whatever is there.
pub(super) fn write(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), MakeError> {
    let mut output = Output::create(path, mode)?;
    output.write(bytes)?;
    output.finish()
}

/// A file in the making, under another name. Dropped before it is finished it disappears.
pub(crate) struct Output {
    file: File,
    path: PathBuf,
    temporary: Option<PathBuf>,
}

impl Output {
    pub(crate) fn create(path: &Path, mode: u32) -> Result<Self, MakeError> {
        let failed = |error| MakeError::Output { path: path.to_owned(), error };
        let name = path.file_name().ok_or_else(|| failed(io::Error::other("not a file name")))?;
        let mut temporary = OsString::from(".#");
        temporary.push(name);
        temporary.push(format!("{:016x}", RandomState::new().hash_one(std::process::id())));
        let temporary = path.with_file_name(temporary);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).map_err(failed)?;
        Ok(Self { file, path: path.to_owned(), temporary: Some(temporary) })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), MakeError> {
        self.file.write_all(bytes).map_err(|error| self.failed(error))
    }

    /// Makes it durable and gives it its name.
    pub(crate) fn finish(mut self) -> Result<(), MakeError> {
        self.file.sync_all().map_err(|error| self.failed(error))?;
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.path).map_err(|error| self.failed(error))?;
        }
        self.temporary = None;
        sync_directory(&self.path).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> MakeError {
        MakeError::Output { path: self.path.clone(), error }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Writes the names in a file's directory to the disk, where its file system can.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // One may be allowed to write in a directory and not to open it.
    let Ok(directory) = File::open(directory) else { return Ok(()) };
    match directory.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}
