//! Sharing blocks between files instead of copying, where the file system can (btrfs, XFS, bcachefs).

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Setter, opcode};

/// Offsets and lengths must be multiples of this; a file system with larger blocks refuses with `EINVAL`.
pub(crate) const BLOCK: u64 = 4096;

/// `struct file_clone_range` of `linux/fs.h`.
#[repr(C)]
struct CloneRange {
    source: i64,
    source_offset: u64,
    length: u64,
    target_offset: u64,
}

const FICLONERANGE: rustix::ioctl::Opcode = opcode::write::<CloneRange>(0x94, 13);

/// Whether blocks can be shared between files in this directory, as far as can be tried without leaving anything there.
pub(crate) fn works_in(directory: &Path) -> bool {
    let file = || {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR).map(File::from)
    };
    let (Ok(source), Ok(target)) = (file(), file()) else { return false };
    source.write_all_at(&[1; BLOCK as usize], 0).is_ok() && clone_range(&source, 0, BLOCK, &target, 0).is_ok()
}

/// Makes `length` bytes of `target` at `target_offset` share the blocks of `source` at `source_offset`.
///
/// # Errors
/// `EOPNOTSUPP`, `EXDEV`, `EINVAL`… where the file system cannot; nothing has changed then.
pub(crate) fn clone_range(
    source: &File,
    source_offset: u64,
    length: u64,
    target: &File,
    target_offset: u64,
) -> Result<(), Errno> {
    let range = CloneRange { source: i64::from(source.as_raw_fd()), source_offset, length, target_offset };
    #[allow(unsafe_code)]
    // SAFETY: FICLONERANGE takes a pointer to a `struct file_clone_range`, which `CloneRange` is field for field, reads
    // it and writes no memory of this process.
    unsafe {
        rustix::ioctl::ioctl(target, Setter::<FICLONERANGE, CloneRange>::new(range))
    }
}
