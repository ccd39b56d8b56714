//! Opening files of a tree again by where they are in it, never outside of it: one name after the other, and no symbolic
//! link is followed.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// Opens the regular file with this path for reading. `None`: it is not there, no file any more, or not for us.
pub fn open_file(top: BorrowedFd<'_>, path: &[CString]) -> Option<File> {
    // Opening a pipe would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let (last, above) = path.split_last()?;
    let mut directory: Option<OwnedFd> = None;
    for name in above {
        let inside = directory.as_ref().map_or(top, AsFd::as_fd);
        directory = Some(rustix::fs::openat(inside, name, flags | OFlags::DIRECTORY, Mode::empty()).ok()?);
    }
    let inside = directory.as_ref().map_or(top, AsFd::as_fd);
    let file: File = rustix::fs::openat(inside, last, flags, Mode::empty()).ok()?.into();
    file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file)
}
