//! What only an ioctl says of a file: attributes of chattr and FAT, the project id of quotas, subvolumes of btrfs. The
//! only place of trees with unsafe code, and that is all it has.
#![allow(unsafe_code)]

use std::os::fd::AsFd;

use rustix::fs::IFlags;
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FsXAttr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// `struct btrfs_ioctl_vol_args` of `linux/btrfs.h`.
#[repr(C)]
struct VolumeArgs {
    fd: i64,
    name: [u8; 4088],
}

const FAT_GET: Opcode = opcode::read::<u32>(b'r', 0x10);
const FAT_SET: Opcode = opcode::write::<u32>(b'r', 0x11);
const FSX_GET: Opcode = opcode::read::<FsXAttr>(b'X', 31);
const FSX_SET: Opcode = opcode::write::<FsXAttr>(b'X', 32);
const SUBVOLUME_CREATE: Opcode = opcode::write::<VolumeArgs>(0x94, 14);
const SUBVOLUME_GET: Opcode = opcode::read::<u64>(0x94, 25);
const SUBVOLUME_SET: Opcode = opcode::write::<u64>(0x94, 26);
const SUBVOLUME_READ_ONLY: u64 = 2;

/// Whether an error says that a file system or kind of file has no such thing. They say it in many ways.
pub fn is_unsupported(error: Errno) -> bool {
    matches!(error, Errno::NOTTY | Errno::NOSYS | Errno::BADF | Errno::OPNOTSUPP | Errno::INVAL)
}

/// What is not supported is absent.
fn or_none<T: Default>(result: Result<T, Errno>) -> Result<T, Errno> {
    result.or_else(|error| if is_unsupported(error) { Ok(T::default()) } else { Err(error) })
}

/// Setting to nothing what is not supported has worked.
fn set(nothing: bool, result: Result<(), Errno>) -> Result<(), Errno> {
    if nothing { or_none(result) } else { result }
}

/// The attributes of `chattr` (`FS_*_FL`).
///
/// # Errors
/// Those of the system; where there is no such thing it is 0.
pub fn chattr(file: impl AsFd) -> Result<u32, Errno> {
    or_none(rustix::fs::ioctl_getflags(file).map(|flags| flags.bits()))
}

/// Sets the attributes of `mask` to those of `value` and leaves the others.
///
/// # Errors
/// Those of the system, also where there is no such thing and `value` is not 0.
pub fn set_chattr(file: impl AsFd, value: u32, mask: u32) -> Result<(), Errno> {
    let old = chattr(&file)?;
    let new = old & !mask | value & mask;
    if new == old {
        return Ok(());
    }
    set(new == 0, rustix::fs::ioctl_setflags(file, IFlags::from_bits_retain(new)))
}

/// The attributes of FAT.
///
/// # Errors
/// Those of the system; where there is no such thing it is 0.
pub fn fat(file: impl AsFd) -> Result<u32, Errno> {
    // SAFETY: FAT_IOCTL_GET_ATTRIBUTES writes a `__u32` to where its argument points.
    or_none(unsafe { ioctl(file, Getter::<FAT_GET, u32>::new()) })
}

/// Sets the attributes of `mask` to those of `value` and leaves the others.
///
/// # Errors
/// Those of the system, also where there is no such thing and `value` is not 0.
pub fn set_fat(file: impl AsFd, value: u32, mask: u32) -> Result<(), Errno> {
    let old = fat(&file)?;
    let new = old & !mask | value & mask;
    if new == old {
        return Ok(());
    }
    // SAFETY: FAT_IOCTL_SET_ATTRIBUTES reads a `__u32` from where its argument points and writes no memory of ours.
    set(new == 0, unsafe { ioctl(file, Setter::<FAT_SET, u32>::new(new)) })
}

/// The project id of quotas.
///
/// # Errors
/// Those of the system; where there is no such thing it is 0.
pub fn project(file: impl AsFd) -> Result<u32, Errno> {
    or_none(fsx(file).map(|attributes| attributes.project))
}

/// Sets the project id.
///
/// # Errors
/// Those of the system, also where there is no such thing and it is not 0.
pub fn set_project(file: impl AsFd, project: u32) -> Result<(), Errno> {
    let old = match fsx(&file) {
        Err(error) if project == 0 && is_unsupported(error) => return Ok(()),
        old => old?,
    };
    if old.project == project {
        return Ok(());
    }
    // SAFETY: FS_IOC_FSSETXATTR reads a `struct fsxattr`, which `FsXAttr` is field for field, and writes no memory of
    // ours.
    unsafe { ioctl(file, Setter::<FSX_SET, FsXAttr>::new(FsXAttr { project, ..old })) }
}

fn fsx(file: impl AsFd) -> Result<FsXAttr, Errno> {
    // SAFETY: FS_IOC_FSGETXATTR writes a `struct fsxattr`, which `FsXAttr` is field for field, to where its argument
    // points. Any bytes are one.
    unsafe { ioctl(file, Getter::<FSX_GET, FsXAttr>::new()) }
}

/// Whether the subvolume of btrfs whose top this is can only be read.
///
/// # Errors
/// Those of the system, also when this is no subvolume's top.
pub fn is_read_only_subvolume(directory: impl AsFd) -> Result<bool, Errno> {
    // SAFETY: BTRFS_IOC_SUBVOL_GETFLAGS writes a `__u64` to where its argument points.
    let flags = unsafe { ioctl(directory, Getter::<SUBVOLUME_GET, u64>::new()) }?;
    Ok(flags & SUBVOLUME_READ_ONLY != 0)
}

/// Makes a subvolume read-only, or writable.
///
/// # Errors
/// Those of the system.
pub fn set_read_only_subvolume(directory: impl AsFd, read_only: bool) -> Result<(), Errno> {
    // SAFETY: BTRFS_IOC_SUBVOL_GETFLAGS writes a `__u64` to where its argument points.
    let old = unsafe { ioctl(&directory, Getter::<SUBVOLUME_GET, u64>::new()) }?;
    let new = if read_only { old | SUBVOLUME_READ_ONLY } else { old & !SUBVOLUME_READ_ONLY };
    if new == old {
        return Ok(());
    }
    // SAFETY: BTRFS_IOC_SUBVOL_SETFLAGS reads a `__u64` from where its argument points and writes no memory of ours.
    unsafe { ioctl(directory, Setter::<SUBVOLUME_SET, u64>::new(new)) }
}

/// Makes a subvolume of btrfs in a directory.
///
/// # Errors
/// Those of the system, `ENOTTY` on other file systems, `ENAMETOOLONG` for a name that no file can have.
pub fn create_subvolume(directory: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    let mut args = VolumeArgs { fd: 0, name: [0; 4088] };
    match args.name.get_mut(..name.len()) {
        Some(place) if name.len() <= 255 => place.copy_from_slice(name),
        _ => return Err(Errno::NAMETOOLONG),
    }
    // SAFETY: BTRFS_IOC_SUBVOL_CREATE reads a `struct btrfs_ioctl_vol_args`, which `VolumeArgs` is field for field with
    // a NUL behind the name, and writes no memory of ours.
    unsafe { ioctl(directory, Setter::<SUBVOLUME_CREATE, VolumeArgs>::new(args)) }
}
