//! Names in directories: making, replacing and removing, one component at a time and never through a symbolic link.
//! Owners, modes, devices and names go through libc's calls, which fakeroot answers.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode as NixMode, SFlag};
use nix::unistd::{Gid, Uid, UnlinkatFlags};
use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use super::super::{attributes, read};
use crate::format::archive::{Entry, Kind};

/// Immutable, and append-only.
pub(super) const UNCHANGEABLE: u32 = 0x30;

pub(super) fn errno(error: nix::Error) -> Errno {
    Errno::from_raw_os_error(error as i32)
}

/// Whether there is a directory of this name; `None` if there is nothing.
pub(super) fn is_directory(parent: &OwnedFd, name: &CStr) -> Option<bool> {
    let stat = read::stat_at(parent, name).ok()?;
    Some(stat.st_mode & 0o170_000 == 0o040_000)
}

/// Makes a symbolic link, device, pipe or socket that only we may use.
pub(super) fn make(parent: &OwnedFd, name: &CStr, entry: &Entry) -> Result<(), Errno> {
    let node = |kind: SFlag, device| {
        nix::sys::stat::mknodat(parent, name, kind, NixMode::from_bits_truncate(0o600), device).map_err(errno)
    };
    match &entry.kind {
        Kind::Symlink { target } => rustix::fs::symlinkat(target.as_slice(), parent, name),
        Kind::Device { block, major, minor } => {
            let kind = if *block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
            node(kind, rustix::fs::makedev(*major, *minor))
        }
        Kind::Fifo => node(SFlag::S_IFIFO, 0),
        Kind::Socket => node(SFlag::S_IFSOCK, 0),
        Kind::Directory | Kind::File { .. } => Err(Errno::INVAL),
    }
}

pub(super) fn rename(parent: &OwnedFd, from: &CStr, to: &CStr) -> Result<(), Errno> {
    nix::fcntl::renameat(parent, from, parent, to).map_err(errno)
}

pub(super) fn unlink(parent: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    nix::unistd::unlinkat(parent, name, UnlinkatFlags::NoRemoveDir).map_err(errno)
}

pub(super) fn chmod(file: impl AsFd, mode: u32) -> Result<(), Errno> {
    nix::sys::stat::fchmod(file, NixMode::from_bits_truncate(mode)).map_err(errno)
}

pub(super) fn chmod_at(parent: &OwnedFd, name: &CStr, mode: u32) -> Result<(), Errno> {
    let mode = NixMode::from_bits_truncate(mode);
    nix::sys::stat::fchmodat(parent, name, mode, FchmodatFlags::NoFollowSymlink).map_err(errno)
}

pub(super) fn chown(file: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    nix::unistd::fchown(file, uid.map(Uid::from_raw), gid.map(Gid::from_raw)).map_err(errno)
}

pub(super) fn chown_at(parent: &OwnedFd, name: &CStr, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    nix::unistd::fchownat(parent, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(errno)
}

/// Removes whatever has this name, with all that is in it, but no mount point.
pub(super) fn remove(parent: &OwnedFd, name: &CStr, undo_immutable: bool) -> Result<(), Errno> {
    let removed = unlink(parent, name);
    let directory = match removed {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => true,
        Err(_) => is_directory(parent, name) == Some(true),
    };
    if !directory {
        if removed == Err(Errno::PERM) && undo_immutable {
            make_changeable(parent, name)?;
            return unlink(parent, name);
        }
        return removed;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let (inside, outside) = (read::stat(&directory)?, read::stat(parent)?);
    if inside.st_dev != outside.st_dev && attributes::is_read_only_subvolume(&directory).is_err() {
        return Err(Errno::BUSY);
    }
    if undo_immutable {
        let _ = attributes::set_chattr(&directory, 0, UNCHANGEABLE);
    }
    if inside.st_mode & 0o700 != 0o700 {
        let _ = chmod(&directory, 0o700);
    }
    for name in names(&directory)? {
        remove(&directory, &name, undo_immutable)?;
    }
    drop(directory);
    let remove_directory = || nix::unistd::unlinkat(parent, name, UnlinkatFlags::RemoveDir).map_err(errno);
    remove_directory()
}

fn make_changeable(parent: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    attributes::set_chattr(&file, 0, UNCHANGEABLE)
}

/// Removes every entry of a directory that is not among `keep`, which is sorted. What is a mount point stays and is put
/// into `left`.
pub(super) fn delete_others(
    directory: &OwnedFd,
    keep: &[Vec<u8>],
    undo_immutable: bool,
    base: &Path,
    left: &mut Vec<(PathBuf, String)>,
) -> Result<(), (&'static str, Errno)> {
    let failed = |error| ("removing what is not in the archive", error);
    for name in names(directory).map_err(failed)? {
        let known = keep.binary_search_by(|kept| kept.as_slice().cmp(name.to_bytes()));
        if known.is_ok() {
            continue;
        }
        match remove(directory, &name, undo_immutable) {
            Ok(()) => {}
            Err(Errno::BUSY) => {
                let path = base.join(OsStr::from_bytes(name.to_bytes()));
                left.push((path, "is not in the archive, but a mount point, and was left".to_owned()));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

fn names(directory: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if ![&b"."[..], b".."].contains(&name.to_bytes()) {
            names.push(name);
        }
    }
    Ok(names)
}
