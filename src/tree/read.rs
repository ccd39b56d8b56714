//! Everything that an archive has about one file: read from a file system, as far as the feature flags want it and the
//! file system has it.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::stat::FileStat;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::owners::{Owner, Owners};
use super::posix_acl::{self, Who};
use super::{Settings, attributes};
use crate::format::archive::{Acl, AclEntry, DefaultAcl, Entry, Kind};
use crate::format::features;

const BTRFS: u64 = 0x9123_683e;
const EXT4: u64 = 0xef53;
const FUSE: u64 = 0x6573_5546;
const MSDOS: u64 = 0x4d44;
const XFS: u64 = 0x5846_5342;

/// The file systems that are the kernel's own state and nobody's files: their content is left out.
const VIRTUAL: [u64; 18] = [
    0x4249_4e4d, // binfmt_misc
    0x6367_7270, // cgroup2
    0x0027_e0eb, // cgroup
    0x6265_6570, // configfs
    0x6462_6720, // debugfs
    0x1cd1,      // devpts
    0xde5e_81e4, // efivarfs
    0x6573_5543, // fusectl
    0x9584_58f6, // hugetlbfs
    0x1980_0202, // mqueue
    0x6e66_7364, // nfsd
    0x9fa0,      // proc
    0x6165_676c, // pstore
    0x6759_6969, // rpc_pipefs
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x6265_6572, // sysfs
];

/// A file or directory that was found, and where.
pub(super) struct Found<'a> {
    /// It, open, if it is a regular file or a directory.
    pub(super) fd: Option<BorrowedFd<'a>>,
    /// Its directory and its name there; `None` for the top.
    pub(super) place: Option<(BorrowedFd<'a>, &'a CStr)>,
    pub(super) stat: &'a FileStat,
    /// Of its file system.
    pub(super) magic: u64,
    /// The attributes of `chattr`, which whoever found it has looked at already.
    pub(super) chattr: u32,
}

/// What did not work, and why.
pub(super) type Failed = (&'static str, io::Error);

fn failed(doing: &'static str) -> impl Fn(Errno) -> Failed {
    move |error| (doing, error.into())
}

/// Whether the content of a file system is the kernel's own state.
pub(super) fn is_virtual(magic: u64) -> bool {
    VIRTUAL.contains(&magic)
}

/// Which file system it is on.
pub(super) fn magic(fd: impl AsFd) -> Result<u64, Errno> {
    // The kernel's word is as wide as a register; magic numbers have 32 bits.
    Ok(u64::from(rustix::fs::fstatfs(fd)?.f_type as u32))
}

/// Reads everything.
pub(super) fn entry(found: &Found<'_>, settings: &Settings, owners: &mut Owners) -> Result<Entry, Failed> {
    let word = settings.features;
    let has = |bit: u64| word & bit != 0;
    let stat = found.stat;
    let kind = kind(found)?;
    let (file, directory) = (matches!(kind, Kind::File { .. }), kind == Kind::Directory);
    let unfit = |error: String| ("owner", io::Error::other(error));
    let (uid, user) = owners.describe(Owner::User, stat.st_uid, word, settings.shift).map_err(unfit)?;
    let (gid, group) = owners.describe(Owner::Group, stat.st_gid, word, settings.shift).map_err(unfit)?;
    let mut entry = Entry {
        uid,
        gid,
        user,
        group,
        mtime: mtime(stat, word),
        ..Entry::new(kind, permissions(stat.st_mode, directory, word))
    };
    if let Some(fd) = found.fd.filter(|_| file || directory) {
        if has(features::CHATTR) {
            entry.attributes |= features::from_chattr(found.chattr) & word;
        }
        if has(features::FAT_ATTRS) && [MSDOS, FUSE].contains(&found.magic) {
            let fat = attributes::fat(fd).map_err(failed("reading FAT attributes"))?;
            entry.attributes |= features::from_fat(fat) & word;
        }
        // The top of a subvolume always has this inode.
        if directory && has(features::SUBVOLUME) && found.magic == BTRFS && stat.st_ino == 256 {
            let read_only = attributes::is_read_only_subvolume(fd).map_err(failed("reading a subvolume's flags"))?;
            entry.attributes |= features::SUBVOLUME & word;
            entry.attributes |= if read_only { features::SUBVOLUME_RO & word } else { 0 };
        }
        if has(features::QUOTA_PROJID) && [EXT4, XFS, FUSE].contains(&found.magic) {
            let project = attributes::project(fd).map_err(failed("reading the project id"))?;
            entry.projid = (project != 0).then_some(project);
        }
        if has(features::XATTRS | features::FCAPS) {
            xattrs(fd, file, word, &mut entry)?;
        }
    }
    if has(features::SELINUX) {
        entry.selinux = selinux(found)?;
    }
    if has(features::ACL) && !matches!(entry.kind, Kind::Symlink { .. }) {
        entry.acl = acl(found, directory, settings, owners)?;
    }
    Ok(entry)
}

fn kind(found: &Found<'_>) -> Result<Kind, Failed> {
    let stat = found.stat;
    let device =
        |block| Kind::Device { block, major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) };
    Ok(match stat.st_mode & 0o170_000 {
        0o040_000 => Kind::Directory,
        0o100_000 if is_virtual(found.magic) => Kind::File { size: 0 },
        // Never negative for a regular file.
        0o100_000 => Kind::File { size: stat.st_size as u64 },
        0o120_000 => match found.place {
            Some((directory, name)) => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new());
                Kind::Symlink { target: target.map_err(failed("reading the link"))?.into_bytes() }
            }
            None => return Err(("opening", io::Error::other("is no directory"))),
        },
        0o060_000 => device(true),
        0o020_000 => device(false),
        0o010_000 => Kind::Fifo,
        0o140_000 => Kind::Socket,
        other => return Err(("looking at it", io::Error::other(format!("is of an unknown kind, {other:o}")))),
    })
}

fn permissions(mode: u32, directory: bool, word: u64) -> u32 {
    let (all, read_only) = if directory { (0o777, 0o555) } else { (0o666, 0o444) };
    match mode & 0o170_000 {
        0o120_000 => 0o777,
        _ if word & (features::PERMISSIONS | features::ACL) != 0 => mode & 0o7777,
        _ if word & features::READ_ONLY != 0 && mode & 0o222 == 0 => read_only,
        _ => all,
    }
}

/// Rounded as casync rounds it, times before 1970 as the large numbers that they are without a sign.
fn mtime(stat: &FileStat, word: u64) -> u64 {
    let nanoseconds = (stat.st_mtime as u64).wrapping_mul(1_000_000_000).wrapping_add(stat.st_mtime_nsec as u64);
    features::granularity(word).map_or(0, |unit| nanoseconds / unit * unit)
}

fn xattrs(fd: BorrowedFd<'_>, file: bool, word: u64, entry: &mut Entry) -> Result<(), Failed> {
    let names = match whole(|buffer| rustix::fs::flistxattr(fd, buffer)) {
        Err(Errno::OPNOTSUPP | Errno::BADF) => return Ok(()),
        names => names.map_err(failed("listing extended attributes"))?,
    };
    for name in names.split(|byte| *byte == 0) {
        let fcaps = file && name == b"security.capability" && word & features::FCAPS != 0;
        let wanted = fcaps || is_kept(name) && word & features::XATTRS != 0;
        if !wanted {
            continue;
        }
        let value = match whole(|buffer| rustix::fs::fgetxattr(fd, name, buffer)) {
            // It may have gone since.
            Err(Errno::NODATA) => continue,
            value => value.map_err(failed("reading an extended attribute"))?,
        };
        match fcaps {
            true => entry.fcaps = Some(value),
            false => entry.xattrs.push((name.to_owned(), value)),
        }
    }
    entry.xattrs.sort_unstable();
    Ok(())
}

/// Extended attributes of other namespaces have records of their own, or belong to the system.
pub(super) fn is_kept(name: &[u8]) -> bool {
    [&b"user."[..], b"trusted."].iter().any(|space| name.len() > space.len() && name.starts_with(space))
        && name.len() <= 255
}

fn selinux(found: &Found<'_>) -> Result<Option<Vec<u8>>, Failed> {
    const NAME: &str = "security.selinux";
    let value = match (found.fd, found.place) {
        (Some(fd), _) => whole(|buffer| rustix::fs::fgetxattr(fd, NAME, buffer)),
        (None, Some((directory, name))) => {
            // No call takes a directory and a name.
            let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
            path.extend_from_slice(name.to_bytes());
            whole(|buffer| rustix::fs::lgetxattr(&path[..], NAME, buffer))
        }
        (None, None) => Ok(Vec::new()),
    };
    match value {
        Ok(mut label) => {
            // The kernel's value may have a NUL at its end; a NUL inside would end the label too.
            label.truncate(label.iter().position(|byte| *byte == 0).unwrap_or(label.len()));
            Ok((!label.is_empty()).then_some(label))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(failed("reading the SELinux label")(error)),
    }
}

fn acl(found: &Found<'_>, directory: bool, settings: &Settings, owners: &mut Owners) -> Result<Acl, Failed> {
    let mut acl = Acl::default();
    let path;
    let fd = match (found.fd, found.place) {
        (Some(fd), _) => fd,
        (None, Some((parent, name))) => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            path = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(failed("opening"))?;
            path.as_fd()
        }
        (None, None) => return Ok(acl),
    };
    let mut describe = |list: &[posix_acl::Permission]| {
        let (mut users, mut groups) = (Vec::new(), Vec::new());
        for (who, may) in list {
            let (owner, id, named) = match who {
                Who::User(id) => (Owner::User, *id, &mut users),
                Who::Group(id) => (Owner::Group, *id, &mut groups),
                _ => continue,
            };
            let described = owners.describe(owner, id, settings.features, settings.shift);
            let (id, name) = described.map_err(|error| ("access control list", io::Error::other(error)))?;
            named.push(AclEntry { id, name, permissions: (*may).into() });
        }
        users.sort_unstable();
        groups.sort_unstable();
        Ok((users, groups))
    };
    let may = |list: &[posix_acl::Permission], wanted| {
        list.iter().find(|(who, _)| *who == wanted).map(|(_, may)| u64::from(*may))
    };
    if let Some(list) = acl_list(fd, posix_acl::ACCESS)? {
        (acl.users, acl.groups) = describe(&list)?;
        // Where there is a mask, the permission bits of the group are the mask's.
        acl.group_obj = may(&list, Who::Mask).and_then(|_| may(&list, Who::GroupObj));
    }
    if let Some(list) = acl_list(fd, posix_acl::DEFAULT)?.filter(|list| directory && !list.is_empty()) {
        (acl.default_users, acl.default_groups) = describe(&list)?;
        acl.default = Some(DefaultAcl {
            user: may(&list, Who::UserObj).unwrap_or(u64::MAX),
            group: may(&list, Who::GroupObj).unwrap_or(u64::MAX),
            other: may(&list, Who::Other).unwrap_or(u64::MAX),
            mask: may(&list, Who::Mask),
        });
    }
    Ok(acl)
}

fn acl_list(fd: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<posix_acl::Permission>>, Failed> {
    // A file that is open only as a path has its attributes behind its link in /proc.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let value = match whole(|buffer| rustix::fs::fgetxattr(fd, name, buffer)) {
        Err(Errno::BADF) => whole(|buffer| rustix::fs::getxattr(&path, name, buffer)),
        value => value,
    };
    match value {
        Ok(bytes) => match posix_acl::parse(&bytes) {
            Some(list) => Ok(Some(list)),
            None => Err(("reading the access control list", io::Error::other("of an unknown form"))),
        },
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::BADF) => Ok(None),
        Err(error) => Err(failed("reading the access control list")(error)),
    }
}

/// Reads something whose length is not known before.
pub(super) fn whole(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = [0; 256];
    match read(&mut buffer) {
        Ok(length) => return Ok(buffer[..length].to_vec()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    let mut longer = vec![0; 4096];
    loop {
        match read(&mut longer) {
            Ok(length) => {
                longer.truncate(length);
                return Ok(longer);
            }
            Err(Errno::RANGE) if longer.len() < 1 << 20 => longer.resize(longer.len() * 4, 0),
            Err(error) => return Err(error),
        }
    }
}

/// `lstat` of a name in a directory.
pub(super) fn stat_at(directory: impl AsFd, name: &CStr) -> Result<FileStat, Errno> {
    let flags = nix::fcntl::AtFlags::from_bits_truncate(AtFlags::SYMLINK_NOFOLLOW.bits() as i32);
    nix::sys::stat::fstatat(directory, name, flags).map_err(errno)
}

/// `fstat`.
pub(super) fn stat(file: impl AsFd) -> Result<FileStat, Errno> {
    nix::sys::stat::fstat(file).map_err(errno)
}

fn errno(error: nix::Error) -> Errno {
    Errno::from_raw_os_error(error as i32)
}
