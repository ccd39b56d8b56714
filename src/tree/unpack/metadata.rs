//! Metadata of one file, put back: owner before permissions, which changing it would clear; lists and attributes before
//! the time, which they would change; what forbids changes last.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;

use super::super::owners::{Owner, Owners, Shift};
use super::super::posix_acl::{self, Permission, Who};
use super::super::{attributes, read};
use super::place;
use crate::format::archive::{Acl, AclEntry, Entry, Kind};
use crate::format::features;

/// What could not be put back, and why.
pub(super) type Failure = (&'static str, io::Error);

/// Attributes that only have an effect, or may only be set, on an empty file: noatime, compr, nocow, nocomp,
/// projinherit.
const EARLY: u64 = 0x2_0000 | 0x4_0000 | 0x8_0000 | 0x100_0000 | 0x200_0000;

/// Collects failures.
#[derive(Default)]
struct Failures(Vec<Failure>);

impl Failures {
    fn note(&mut self, what: &'static str, result: Result<(), Errno>) -> bool {
        self.0.extend(result.err().map(|error| (what, error.into())));
        result.is_ok()
    }
}

/// What is set before there is any content.
pub(super) struct Early {
    flags: u64,
    mask: u64,
    project: Option<u32>,
}

pub(super) fn early(entry: &Entry, replay: u64) -> Early {
    let mask = replay & EARLY;
    let project = (replay & features::QUOTA_PROJID != 0).then(|| entry.projid.unwrap_or(0));
    Early { flags: entry.attributes & mask, mask, project }
}

impl Early {
    /// Whether a new file needs any of it.
    pub(super) fn is_some_to_set(&self) -> bool {
        self.flags != 0 || self.project.is_some_and(|project| project != 0)
    }

    pub(super) fn apply(&self, file: impl AsFd) -> Vec<Failure> {
        let mut failures = Failures::default();
        if self.mask != 0 {
            let (flags, mask) = (features::to_chattr(self.flags), features::to_chattr(self.mask));
            failures.note("attributes of chattr", attributes::set_chattr(&file, flags, mask));
        }
        if let Some(project) = self.project {
            failures.note("project id", attributes::set_project(&file, project));
        }
        failures.0
    }
}

/// Whether the archive says what the permission bits are.
pub(super) fn has_permissions(replay: u64) -> bool {
    replay & (features::PERMISSIONS | features::ACL) != 0
}

/// Everything else of a file or directory that is open, but what [`late`] does. `inherited`: it may have a list that it
/// was not given.
pub(super) fn apply(
    file: impl AsFd,
    entry: &Entry,
    replay: u64,
    shift: Shift,
    owners: &mut Owners,
    inherited: bool,
) -> Vec<Failure> {
    let mut failures = Failures::default();
    let mut stat = read::stat(&file).ok();
    let mut changed = false;
    let owned = own(entry, replay, shift, owners, &mut failures, stat, |uid, gid| {
        changed = true;
        place::chown(&file, uid, gid)
    });
    if changed {
        // Which may have cleared bits.
        stat = read::stat(&file).ok();
    }
    if let Some(stat) = stat {
        let mode = permissions(entry, replay, owned, stat.st_mode & 0o7777);
        if mode != stat.st_mode & 0o7777 {
            failures.note("permissions", place::chmod(&file, mode));
        }
    }
    if replay & features::ACL != 0 && (inherited || entry.acl != Acl::default()) {
        let set = |name: &str, value: Option<Vec<u8>>| match value {
            Some(value) => rustix::fs::fsetxattr(&file, name, &value, XattrFlags::empty()),
            None => rustix::fs::fremovexattr(&file, name),
        };
        lists(entry, replay, shift, owners, &mut failures, set);
    }
    if replay & features::XATTRS != 0 {
        xattrs(&file, entry, &mut failures);
    }
    if let Some(fcaps) = entry.fcaps.as_ref().filter(|_| replay & features::FCAPS != 0) {
        let set = rustix::fs::fsetxattr(&file, "security.capability", fcaps, XattrFlags::empty());
        failures.note("file capabilities", set);
    }
    if let Some(label) = entry.selinux.as_ref().filter(|_| replay & features::SELINUX != 0) {
        let set = rustix::fs::fsetxattr(&file, "security.selinux", &with_nul(label), XattrFlags::empty());
        failures.note("SELinux label", set);
    }
    if let Some(times) = times(entry, replay) {
        failures.note("time", rustix::fs::futimens(&file, &times));
    }
    failures.0
}

/// The same for something that cannot be opened: a symbolic link, device, pipe or socket.
pub(super) fn apply_at(
    parent: &OwnedFd,
    name: &CStr,
    entry: &Entry,
    replay: u64,
    shift: Shift,
    owners: &mut Owners,
) -> Vec<Failure> {
    let mut failures = Failures::default();
    let link = matches!(entry.kind, Kind::Symlink { .. });
    let stat = read::stat_at(parent, name).ok();
    let owned =
        own(entry, replay, shift, owners, &mut failures, stat, |uid, gid| place::chown_at(parent, name, uid, gid));
    // No call takes a directory and a name for extended attributes; the last component is not followed.
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    if !link {
        let mode = permissions(entry, replay, owned, 0o666 & !umask());
        failures.note("permissions", place::chmod_at(parent, name, mode));
        if replay & features::ACL != 0 {
            let set = |name: &str, value: Option<Vec<u8>>| match value {
                Some(value) => rustix::fs::lsetxattr(&path[..], name, &value, XattrFlags::empty()),
                None => rustix::fs::lremovexattr(&path[..], name),
            };
            lists(entry, replay, shift, owners, &mut failures, set);
        }
    }
    if let Some(label) = entry.selinux.as_ref().filter(|_| replay & features::SELINUX != 0) {
        let set = rustix::fs::lsetxattr(&path[..], "security.selinux", &with_nul(label), XattrFlags::empty());
        failures.note("SELinux label", set);
    }
    if let Some(times) = times(entry, replay) {
        failures.note("time", rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW));
    }
    failures.0
}

/// What would have forbidden or undone the rest. `inherited`: it may have attributes that it was not given.
pub(super) fn late(file: impl AsFd, entry: &Entry, replay: u64, inherited: bool) -> Vec<Failure> {
    let mut failures = Failures::default();
    let mask = replay & features::CHATTR & !EARLY;
    let flags = entry.attributes & mask;
    if mask != 0 && (flags != 0 || inherited) {
        let set = attributes::set_chattr(&file, features::to_chattr(flags), features::to_chattr(mask));
        failures.note("attributes of chattr", set);
    }
    let mask = replay & features::FAT_ATTRS;
    let flags = entry.attributes & mask;
    // Where there are no such attributes, having none is right.
    if mask != 0 && (flags != 0 || inherited) {
        let set = attributes::set_fat(&file, features::to_fat(flags), features::to_fat(mask));
        failures.note("FAT attributes", set);
    }
    let subvolume = features::SUBVOLUME | features::SUBVOLUME_RO;
    if replay & subvolume == subvolume && entry.attributes & subvolume == subvolume {
        failures.note("read-only subvolume", attributes::set_read_only_subvolume(&file, true));
    }
    failures.0
}

/// Sets the owner, and says whether it is the right one now.
fn own(
    entry: &Entry,
    replay: u64,
    shift: Shift,
    owners: &mut Owners,
    failures: &mut Failures,
    stat: Option<nix::sys::stat::FileStat>,
    set: impl FnOnce(Option<u32>, Option<u32>) -> Result<(), Errno>,
) -> bool {
    let mut wanted = |owner, name: &Option<Vec<u8>>, number| match number_of(owner, name, number, replay, shift, owners)
    {
        Ok(number) => number,
        Err(error) => {
            failures.0.push(("owner", io::Error::other(error)));
            None
        }
    };
    let uid = wanted(Owner::User, &entry.user, entry.uid).filter(|uid| stat.is_none_or(|stat| stat.st_uid != *uid));
    let gid = wanted(Owner::Group, &entry.group, entry.gid).filter(|gid| stat.is_none_or(|stat| stat.st_gid != *gid));
    (uid.is_none() && gid.is_none()) || failures.note("owner", set(uid, gid))
}

/// Who is meant by a name and a number of the archive: the name, if this system knows it. `None`: nobody in particular.
fn number_of(
    owner: Owner,
    name: &Option<Vec<u8>>,
    number: u32,
    replay: u64,
    shift: Shift,
    owners: &mut Owners,
) -> Result<Option<u32>, String> {
    let numbers = replay & (features::UIDS_16 | features::UIDS_32) != 0;
    let names = replay & features::USER_NAMES != 0;
    if !numbers && !names {
        return Ok(None);
    }
    if let Some(name) = name.as_ref().filter(|_| names) {
        match owners.number(owner, name) {
            Some(id) => return Ok(Some(id)),
            None if !numbers => return Err(format!("nobody here is called {:?}", String::from_utf8_lossy(name))),
            None => {}
        }
    }
    let id =
        shift.out_of_archive(number).ok_or_else(|| format!("there is no number {number} with this --uid-shift"))?;
    Ok(Some(id))
}

/// Without the right owner nothing may run in the owner's name.
fn permissions(entry: &Entry, replay: u64, owned: bool, now: u32) -> u32 {
    let mode = match replay {
        _ if has_permissions(replay) => entry.permissions,
        _ if replay & features::READ_ONLY != 0 && entry.permissions & 0o222 == 0 => now & !0o222,
        _ => now,
    };
    if owned { mode } else { mode & !0o6000 }
}

/// Both lists of a node. A node without one has none afterwards, also where it inherited one.
fn lists(
    entry: &Entry,
    replay: u64,
    shift: Shift,
    owners: &mut Owners,
    failures: &mut Failures,
    set: impl Fn(&str, Option<Vec<u8>>) -> Result<(), Errno>,
) {
    let acl = &entry.acl;
    let mut named = |list: &mut Vec<Permission>, owner, entries: &[AclEntry]| {
        for entry in entries {
            let id = number_of(owner, &entry.name, entry.id, replay, shift, owners)?;
            let id = id.ok_or("a name of an access control list means nobody")?;
            let who = if owner == Owner::User { Who::User(id) } else { Who::Group(id) };
            list.push((who, entry.permissions as u16));
        }
        Ok::<_, String>(())
    };
    let class = |shift: u32| (entry.permissions >> shift & 7) as u16;
    let access = acl.group_obj.map(|group| {
        let mut list = vec![
            (Who::UserObj, class(6)),
            (Who::GroupObj, group as u16),
            (Who::Mask, class(3)),
            (Who::Other, class(0)),
        ];
        named(&mut list, Owner::User, &acl.users)?;
        named(&mut list, Owner::Group, &acl.groups)?;
        Ok::<_, String>(list)
    });
    let default = acl.default.map(|default| {
        let mut list = vec![
            (Who::UserObj, default.user as u16),
            (Who::GroupObj, default.group as u16),
            (Who::Other, default.other as u16),
        ];
        list.extend(default.mask.map(|mask| (Who::Mask, mask as u16)));
        named(&mut list, Owner::User, &acl.default_users)?;
        named(&mut list, Owner::Group, &acl.default_groups)?;
        Ok::<_, String>(list)
    });
    let directory = entry.is_directory();
    for (name, list) in [(posix_acl::ACCESS, access), (posix_acl::DEFAULT, default)] {
        if name == posix_acl::DEFAULT && !directory {
            continue;
        }
        match list.transpose() {
            Ok(Some(list)) => {
                failures.note("access control list", set(name, Some(posix_acl::to_bytes(list))));
            }
            Ok(None) => match set(name, None) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                error => {
                    failures.note("access control list", error);
                }
            },
            Err(error) => failures.0.push(("access control list", io::Error::other(error))),
        }
    }
}

fn xattrs(file: impl AsFd, entry: &Entry, failures: &mut Failures) {
    for (name, value) in &entry.xattrs {
        let set = rustix::fs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty());
        failures.note("extended attribute", set);
    }
    // A new file has none of its own.
    if !entry.is_directory() {
        return;
    }
    let Ok(names) = read::whole(|buffer| rustix::fs::flistxattr(&file, buffer)) else { return };
    for name in names.split(|byte| *byte == 0).filter(|name| read::is_kept(name)) {
        if entry.xattrs.binary_search_by(|(known, _)| known.as_slice().cmp(name)).is_err() {
            failures.note("extended attribute", rustix::fs::fremovexattr(&file, name));
        }
    }
}

/// The kernel keeps labels with a NUL at their end.
fn with_nul(label: &[u8]) -> Vec<u8> {
    [label, b"\0"].concat()
}

fn times(entry: &Entry, replay: u64) -> Option<Timestamps> {
    let unit = i128::from(features::granularity(replay)?);
    // Times before 1970 were rounded down as if they had no sign: the multiple just above is the one that was meant.
    let signed = i128::from(entry.mtime as i64);
    let nanoseconds = if signed < 0 { -(-signed / unit * unit) } else { signed };
    let last_modification = Timespec {
        tv_sec: nanoseconds.div_euclid(1_000_000_000) as i64,
        tv_nsec: nanoseconds.rem_euclid(1_000_000_000) as _,
    };
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    Some(Timestamps { last_access, last_modification })
}

fn umask() -> u32 {
    // Only setting it tells what it was; the kernel also writes it here.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}
