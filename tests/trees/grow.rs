//! Trees to archive, the same in every run of a seed: every kind of entry, and all metadata that the file system and the
//! user may have.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use caswarm::tree::attributes;
use caswarm::tree::posix_acl::{self, Who};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::support::data::Random;

/// What the generated tree may have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Soil {
    /// Owners, devices, `trusted.*` attributes, capabilities and labels: what only root can plant.
    pub root: bool,
    /// User attributes.
    pub xattrs: bool,
    /// Access control lists.
    pub acl: bool,
    /// Attributes of chattr, as a mask of `FS_*_FL`.
    pub chattr: u32,
    /// Project ids.
    pub projects: bool,
}

/// ext4, as root. Project ids need a kernel with quotas there.
pub const EXT4: Soil =
    Soil { root: true, xattrs: true, acl: true, chattr: 0x80 | 0x8 | 0x10000 | 0x40, projects: false };

const NAMES: [&[u8]; 16] = [
    b"a",
    b"a.b",
    b"a-b",
    b"A",
    b"zz",
    b"\xc3\xa9",
    b"e\xcc\x81",
    b"with space",
    b"new\nline",
    b"back\\slash",
    b"ha#sh",
    b"-dash",
    b"\xff\xfe",
    b".hidden",
    b"tab\t",
    b"%41",
];

/// Grows a tree of about `entries` entries in `top`, which is made.
pub fn tree(seed: u64, entries: usize, top: &Path, soil: Soil) {
    let mut random = Random::new(seed);
    fs::create_dir(top).unwrap();
    let mut directories = vec![top.to_owned()];
    let mut all = vec![];
    for number in 0..entries {
        let parent = directories[random.below(directories.len())].clone();
        let mut name = NAMES[random.below(NAMES.len())].to_vec();
        name.extend_from_slice(format!("{}", random.below(entries)).as_bytes());
        if random.below(40) == 0 {
            name.resize(237, b'n');
        }
        let path = parent.join(OsStr::from_bytes(&name));
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        plant(&mut random, &path, &all, soil);
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() && path.components().count() < top.components().count() + 40 {
            directories.push(path.clone());
        }
        if number % 3 == 0 {
            metadata(&mut random, &path, soil);
        }
        all.push(path);
    }
    metadata(&mut random, top, soil);
    // Children change their directory's time.
    for path in all.iter().rev().chain([&top.to_owned()]) {
        time(&mut random, path);
    }
}

fn plant(random: &mut Random, path: &Path, others: &[PathBuf], soil: Soil) {
    let node = |kind, device| {
        rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), device).unwrap();
    };
    match random.below(20) {
        0..=4 => fs::create_dir(path).unwrap(),
        5..=6 => {
            let length = 1 + random.below_squared(1000);
            symlink(OsStr::from_bytes(&random.text(length)), path).unwrap();
        }
        7 => node(FileType::Fifo, 0),
        8 => drop(UnixListener::bind(path).ok().or_else(|| {
            // Too long a path for a socket's address.
            fs::write(path, "no socket").unwrap();
            None
        })),
        9 if soil.root => node(FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        10 if soil.root => {
            node(FileType::BlockDevice, rustix::fs::makedev(random.below(512) as u32, random.below(1 << 18) as u32));
        }
        11 if !others.is_empty() => {
            let other = &others[random.below(others.len())];
            let regular = fs::symlink_metadata(other).unwrap().is_file();
            if !regular || fs::hard_link(other, path).is_err() {
                fs::write(path, "").unwrap();
            }
        }
        12 => {
            let file = File::create(path).unwrap();
            file.set_len(random.below(600_000) as u64).unwrap();
        }
        13 => fs::write(path, "").unwrap(),
        14 => {
            let length = random.below(400_000);
            fs::write(path, random.bytes(length)).unwrap();
        }
        _ => {
            let length = random.below_squared(30_000);
            fs::write(path, random.text(length)).unwrap();
        }
    }
}

fn metadata(random: &mut Random, path: &Path, soil: Soil) {
    let found = fs::symlink_metadata(path).unwrap();
    let (file, directory) = (found.is_file(), found.is_dir());
    let link = found.file_type().is_symlink();
    if soil.root && random.below(2) == 0 {
        let id = |random: &mut Random| [0, 1, 2, 12_345, 65_534, 65_536, 4_294_967_294][random.below(7)];
        let (uid, gid) = (id(random), id(random));
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
    }
    if link {
        return;
    }
    let modes = [0o644, 0o600, 0o444, 0o755, 0o4755, 0o2755, 0o1777, 0o000, 0o2770];
    let mode = match (soil.root, directory) {
        (true, _) => modes[random.below(modes.len())],
        (false, true) => [0o755, 0o700][random.below(2)],
        (false, false) => [0o644, 0o755, 0o600][random.below(3)],
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let set = |name: &str, value: &[u8]| {
        let done = rustix::fs::setxattr(path, name, value, XattrFlags::empty());
        done.unwrap_or_else(|error| panic!("{name} of {}: {error}", path.display()));
    };
    if soil.acl && random.below(3) == 0 {
        set(posix_acl::ACCESS, &posix_acl::to_bytes(list(random, true, soil)));
        if directory {
            let named = random.below(2) == 0;
            set(posix_acl::DEFAULT, &posix_acl::to_bytes(list(random, named, soil)));
        }
    }
    if !file && !directory {
        return;
    }
    if soil.xattrs && random.below(3) == 0 {
        for name in ["user.zeta", "user.alpha", "user.a.b", "user.empty"] {
            let length = random.below_squared(300);
            set(name, &if name == "user.empty" { vec![] } else { random.bytes(length) });
        }
    }
    if soil.root && soil.xattrs && random.below(4) == 0 {
        set("trusted.t", b"tv\0");
        set("security.selinux", b"system_u:object_r:etc_t:s0\0");
        if file {
            let capability = [1, 0, 0, 2, 0, 0x24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            set("security.capability", &capability);
        }
    }
    let file = File::open(path).unwrap();
    if soil.projects && random.below(6) == 0 {
        attributes::set_project(&file, 1 + random.below(1000) as u32).unwrap();
    }
    if soil.chattr != 0 && random.below(4) == 0 {
        let one = 1_u32 << random.below(32);
        let wanted = if directory { soil.chattr } else { soil.chattr & !0x10000 };
        attributes::set_chattr(&file, one & wanted, one & wanted).unwrap();
        if random.below(3) == 0 {
            let any = random.next() as u32 & wanted & !0x40;
            attributes::set_chattr(&file, any, any).unwrap();
        }
    }
}

/// A valid list: whoever is named needs a mask.
fn list(random: &mut Random, named: bool, soil: Soil) -> Vec<posix_acl::Permission> {
    let mut may = || random.below(8) as u16;
    // Only root can read what its owner may not.
    let owner = if soil.root { may() } else { 7 };
    let mut list = vec![(Who::UserObj, owner), (Who::GroupObj, may()), (Who::Other, may())];
    if named {
        list.push((Who::Mask, may()));
        list.extend([
            (Who::User(12_345), may()),
            (Who::User(1), may()),
            (Who::Group(2), may()),
            (Who::Group(70_000), may()),
        ]);
        let keep = 4 + random.below(5);
        list.truncate(keep);
    }
    list
}

fn time(random: &mut Random, path: &Path) {
    let seconds = [0, 1, 1_500_000_000, 4_102_444_799, 1_600_000_001][random.below(5)];
    let nanoseconds = [0, 1, 123_456_789, 999_999_999, 500_000_000][random.below(5)];
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
