//! The image as it is read: a regular file, a block device cut down to its file system, or whatever standard input is.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{MakeError, Stream, file_system};

/// An image, open at its beginning.
pub struct Input {
    file: File,
    path: PathBuf,
    /// How much to read; `None`: to the end.
    length: Option<u64>,
    read: u64,
    mode: u32,
}

impl Input {
    /// Opens a file or block device; `-` is standard input.
    ///
    /// # Errors
    /// When it cannot be opened, or is a directory.
    pub fn open(path: &Path) -> Result<Self, MakeError> {
        let failed = |error| MakeError::Input { path: path.to_owned(), error };
        let mut file = match path.as_os_str() == "-" {
            true => io::stdin().as_fd().try_clone_to_owned().map(File::from),
            false => File::open(path),
        }
        .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            let reason = "is a directory; the index of a tree ends in .caidx";
            return Err(MakeError::Unsuitable { path: path.to_owned(), reason });
        }
        let length = match (kind.is_file(), kind.is_block_device()) {
            (true, _) => Some(metadata.len().saturating_sub(file.stream_position().map_err(failed)?)),
            (_, true) => Some(device_length(&mut file).map_err(failed)?),
            _ => None,
        };
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        let mode = if length.is_some() { metadata.mode() & 0o666 } else { 0o666 };
        Ok(Self { file, path: path.to_owned(), length, read: 0, mode })
    }

    /// Permission bits for the files made of it.
    pub(super) fn mode(&self) -> u32 {
        self.mode
    }
}

impl Stream for Input {
    fn fill(&mut self, block: &mut [u8]) -> Result<usize, MakeError> {
        let room = block.len() as u64;
        let wanted = self.length.map_or(room, |length| room.min(length - self.read)) as usize;
        let mut read = 0;
        while read < wanted {
            match self.file.read(&mut block[read..wanted]) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(MakeError::Input { path: self.path.clone(), error }),
            }
        }
        self.read += read as u64;
        match self.length {
            Some(length) if read < wanted => {
                Err(MakeError::Shrunk { path: self.path.clone(), length, read: self.read })
            }
            _ => Ok(read),
        }
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

fn device_length(device: &mut File) -> io::Result<u64> {
    let length = device.seek(SeekFrom::End(0))?;
    device.rewind()?;
    let mut head = [0; file_system::HEAD];
    let read = device.read_at(&mut head, 0)?;
    Ok(file_system::size(&head[..read]).map_or(length, |size| size.min(length)))
}
