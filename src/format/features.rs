//! casync's feature flags word: which bits exist, what they are called, and which combinations casync accepts. What the
//! bits mean for a file system is no concern of this module.

use std::fmt;

/// Digests are SHA-512/256; without it, SHA-256.
pub const SHA512_256: u64 = 0x2000_0000_0000_0000;
/// `.caexclude` files were honoured.
pub const EXCLUDE_FILE: u64 = 0x1000_0000_0000_0000;
/// Mount points below the top were left out.
pub const EXCLUDE_SUBMOUNTS: u64 = 0x4000_0000_0000_0000;
/// Files with `chattr +d` were left out.
pub const EXCLUDE_NODUMP: u64 = 0x8000_0000_0000_0000;
/// What casync writes into a blob's index beside the digest's bit: two of its exclusion bits, which mean nothing there.
pub const BLOB: u64 = 0x9000_0000_0000_0000;

/// Numeric owners below 65535.
pub const UIDS_16: u64 = 0x1;
/// Numeric owners.
pub const UIDS_32: u64 = 0x2;
/// Owners by name.
pub const USER_NAMES: u64 = 0x4;
/// Times in seconds.
pub const SEC_TIME: u64 = 0x8;
/// Times in microseconds.
pub const USEC_TIME: u64 = 0x10;
/// Times in nanoseconds.
pub const NSEC_TIME: u64 = 0x20;
/// Times in units of two seconds, as FAT has them.
pub const TWO_SEC_TIME: u64 = 0x40;
/// Of the permissions only whether anybody may write.
pub const READ_ONLY: u64 = 0x80;
/// All permission bits.
pub const PERMISSIONS: u64 = 0x100;
/// Symbolic links.
pub const SYMLINKS: u64 = 0x200;
/// Devices.
pub const DEVICE_NODES: u64 = 0x400;
/// Named pipes.
pub const FIFOS: u64 = 0x800;
/// Sockets.
pub const SOCKETS: u64 = 0x1000;
/// The attributes of FAT: hidden, system, archive.
pub const FAT_ATTRS: u64 = 0xe000;
/// The attributes of `chattr`.
pub const CHATTR: u64 = 0x3ff_0000;
/// `chattr +d`.
pub const NODUMP: u64 = 0x10_0000;
/// Subvolumes of btrfs.
pub const SUBVOLUME: u64 = 0x400_0000;
/// Whether a subvolume is read-only.
pub const SUBVOLUME_RO: u64 = 0x800_0000;
/// Extended attributes `user.*` and `trusted.*`.
pub const XATTRS: u64 = 0x1000_0000;
/// POSIX access control lists.
pub const ACL: u64 = 0x2000_0000;
/// SELinux labels.
pub const SELINUX: u64 = 0x4000_0000;
/// File capabilities.
pub const FCAPS: u64 = 0x8000_0000;
/// Project ids of quotas.
pub const QUOTA_PROJID: u64 = 0x1_0000_0000;

/// Every bit that `--with` can set.
pub const ALL: u64 = 0x1_ffff_ffff;

const KNOWN: u64 = 0xf000_0000_0000_0000 | ALL;
const UIDS: u64 = UIDS_16 | UIDS_32;
const TIMES: u64 = SEC_TIME | USEC_TIME | NSEC_TIME | TWO_SEC_TIME;
const KINDS: u64 = SYMLINKS | DEVICE_NODES | FIFOS | SOCKETS;
const FLAG_SYSTEM: u64 = 0x4000;
const FLAG_APPEND: u64 = 0x1_0000;
const FLAG_IMMUTABLE: u64 = 0x40_0000;

/// What `--with` and `--without` can name, and the bits meant.
pub const NAMES: [(&str, u64); 41] = [
    ("16bit-uids", UIDS_16),
    ("32bit-uids", UIDS_32),
    ("user-names", USER_NAMES),
    ("sec-time", SEC_TIME),
    ("usec-time", USEC_TIME),
    ("nsec-time", NSEC_TIME),
    ("2sec-time", TWO_SEC_TIME),
    ("read-only", READ_ONLY),
    ("permissions", PERMISSIONS),
    ("symlinks", SYMLINKS),
    ("device-nodes", DEVICE_NODES),
    ("fifos", FIFOS),
    ("sockets", SOCKETS),
    ("flag-hidden", 0x2000),
    ("flag-system", FLAG_SYSTEM),
    ("flag-archive", 0x8000),
    ("flag-append", FLAG_APPEND),
    ("flag-noatime", 0x2_0000),
    ("flag-compr", 0x4_0000),
    ("flag-nocow", 0x8_0000),
    ("flag-nodump", NODUMP),
    ("flag-dirsync", 0x20_0000),
    ("flag-immutable", FLAG_IMMUTABLE),
    ("flag-sync", 0x80_0000),
    ("flag-nocomp", 0x100_0000),
    ("flag-projinherit", 0x200_0000),
    ("subvolume", SUBVOLUME),
    ("subvolume-ro", SUBVOLUME_RO),
    ("xattrs", XATTRS),
    ("acl", ACL),
    ("selinux", SELINUX),
    ("fcaps", FCAPS),
    ("quota-projid", QUOTA_PROJID),
    (
        "best",
        UIDS_32
            | USER_NAMES
            | NSEC_TIME
            | KINDS
            | FAT_ATTRS
            | CHATTR
            | SUBVOLUME
            | SUBVOLUME_RO
            | XATTRS
            | ACL
            | SELINUX
            | FCAPS
            | QUOTA_PROJID,
    ),
    ("unix", UIDS_16 | PERMISSIONS | SEC_TIME | KINDS),
    ("fat", TWO_SEC_TIME | READ_ONLY | FAT_ATTRS),
    ("chattr", CHATTR),
    ("fat-attrs", FAT_ATTRS),
    (
        "privileged",
        UIDS | USER_NAMES
            | DEVICE_NODES
            | FLAG_SYSTEM
            | FLAG_APPEND
            | FLAG_IMMUTABLE
            | SUBVOLUME
            | SUBVOLUME_RO
            | ACL
            | SELINUX
            | FCAPS
            | QUOTA_PROJID,
    ),
    ("fuse", UIDS | TIMES | READ_ONLY | PERMISSIONS | KINDS | FAT_ATTRS | CHATTR | XATTRS),
    ("all", ALL),
];

/// The attributes of `chattr`: our bit and the kernel's (`FS_*_FL`).
const CHATTR_BITS: [(u64, u32); 10] = [
    (FLAG_APPEND, 0x20),
    (0x2_0000, 0x80),
    (0x4_0000, 0x4),
    (0x8_0000, 0x80_0000),
    (NODUMP, 0x40),
    (0x20_0000, 0x1_0000),
    (FLAG_IMMUTABLE, 0x10),
    (0x80_0000, 0x8),
    (0x100_0000, 0x400),
    (0x200_0000, 0x2000_0000),
];

/// The attributes of FAT: our bit and the kernel's (`ATTR_*`).
const FAT_BITS: [(u64, u32); 3] = [(0x2000, 2), (FLAG_SYSTEM, 4), (0x8000, 32)];

/// A word that names no feature of `--with`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownFeature(pub String);

impl std::error::Error for UnknownFeature {}

impl fmt::Display for UnknownFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no feature; there are:", self.0)?;
        NAMES.iter().try_for_each(|(name, _)| write!(f, " {name}"))
    }
}

/// The bits that a name means.
///
/// # Errors
/// When nothing has that name.
pub fn parse(name: &str) -> Result<u64, UnknownFeature> {
    let found = NAMES.iter().find(|(known, _)| *known == name);
    found.map(|(_, bits)| *bits).ok_or_else(|| UnknownFeature(name.to_owned()))
}

/// The names of the single bits.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().filter(|(_, bits)| bits.is_power_of_two()).map(|(name, _)| *name)
}

/// The bits that `--with` and `--without` leave: all of `--with`, everything if there is none, less all of `--without`.
pub fn select(with: &[u64], without: &[u64]) -> u64 {
    let union = |bits: &[u64]| bits.iter().fold(0, |all, bits| all | bits);
    let with = if with.is_empty() { ALL } else { union(with) };
    with & !union(without)
}

/// The bits of a word that no casync knows; 0 for a word that can be read.
pub fn unknown(flags: u64) -> u64 {
    flags & !KNOWN
}

/// The word that casync makes of a selection of flags: bits that a stronger one replaces are dropped, bits that
/// another one needs are added. casync refuses words that this changes.
pub fn normalised(mut flags: u64) -> u64 {
    if flags & ACL != 0 && flags & (UIDS | USER_NAMES) == 0 {
        flags |= UIDS_32 | USER_NAMES;
    }
    let replaced = [
        (UIDS_32, UIDS_16),
        (NSEC_TIME, USEC_TIME | SEC_TIME | TWO_SEC_TIME),
        (USEC_TIME, SEC_TIME | TWO_SEC_TIME),
        (SEC_TIME, TWO_SEC_TIME),
        (ACL, PERMISSIONS | READ_ONLY),
        (PERMISSIONS, READ_ONLY),
        (EXCLUDE_NODUMP, NODUMP),
    ];
    for (by, bits) in replaced {
        if flags & by != 0 {
            flags &= !bits;
        }
    }
    if flags & SUBVOLUME_RO != 0 {
        flags |= SUBVOLUME;
    }
    flags
}

/// What of an archive with the word `archive` is put back when `--with` and `--without` leave `wanted`: a weaker
/// feature also where the archive has the stronger one.
pub fn replayed(archive: u64, wanted: u64) -> u64 {
    normalised(expanded(archive) & expanded(wanted | !ALL))
}

/// The word with every bit added that another one implies.
fn expanded(mut flags: u64) -> u64 {
    for (any, all) in [
        (UIDS, UIDS),
        (TIMES, TIMES),
        (PERMISSIONS, READ_ONLY),
        (ACL, PERMISSIONS | READ_ONLY),
        (SUBVOLUME_RO, SUBVOLUME),
    ] {
        if flags & any != 0 {
            flags |= all;
        }
    }
    flags
}

/// The unit of times in nanoseconds; `None` if there are none.
pub fn granularity(flags: u64) -> Option<u64> {
    let units = [(NSEC_TIME, 1), (USEC_TIME, 1_000), (SEC_TIME, 1_000_000_000), (TWO_SEC_TIME, 2_000_000_000)];
    units.iter().find(|(bit, _)| flags & bit != 0).map(|(_, unit)| *unit)
}

/// The kernel's `chattr` bits as ours.
pub fn from_chattr(kernel: u32) -> u64 {
    CHATTR_BITS.iter().filter(|(_, bit)| kernel & bit != 0).fold(0, |all, (ours, _)| all | ours)
}

/// Our `chattr` bits as the kernel's.
pub fn to_chattr(flags: u64) -> u32 {
    CHATTR_BITS.iter().filter(|(ours, _)| flags & ours != 0).fold(0, |all, (_, bit)| all | bit)
}

/// The kernel's FAT attributes as ours.
pub fn from_fat(kernel: u32) -> u64 {
    FAT_BITS.iter().filter(|(_, bit)| kernel & bit != 0).fold(0, |all, (ours, _)| all | ours)
}

/// Our FAT attributes as the kernel's.
pub fn to_fat(flags: u64) -> u32 {
    FAT_BITS.iter().filter(|(ours, _)| flags & ours != 0).fold(0, |all, (_, bit)| all | bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPS: u64 = 0xb000_0000_0000_0000;

    fn word(with: &[&str], without: &[&str]) -> u64 {
        let bits = |names: &[&str]| names.iter().map(|name| parse(name).unwrap()).collect::<Vec<_>>();
        normalised(TOPS | select(&bits(with), &bits(without)))
    }

    #[test]
    fn words_that_casync_wrote_are_normalised() {
        for word in [0xb000_0001_ffef_fe26, 0x3000_0001_ffff_fe26, 0xb000_0000_0000_1f09, 0xb000_0000_0000_e0c0] {
            assert_eq!((normalised(word), unknown(word)), (word, 0), "{word:#x}");
        }
    }

    #[test]
    fn every_selection_becomes_the_word_that_casync_makes_of_it() {
        for (with, without, low) in [
            (&[][..], &[][..], 0x1_ffef_fe26),
            (&["all"], &[], 0x1_ffef_fe26),
            (&["best"], &[], 0x1_ffef_fe26),
            (&["unix"], &[], 0x1f09),
            (&["fat"], &[], 0xe0c0),
            (&["chattr"], &[], 0x3ef_0000),
            (&["fat-attrs"], &[], 0xe000),
            (&["privileged"], &[], 0x1_ec41_4406),
            (&["fuse"], &[], 0x13ef_ff22),
            (&[], &["all"], 0),
            (&[], &["best"], 0x111),
            (&[], &["unix"], 0x1_ffef_e026),
            (&[], &["fat"], 0x1_ffef_1e26),
            (&[], &["chattr"], 0x1_fc00_fe26),
            (&[], &["fat-attrs"], 0x1_ffef_1e26),
            (&[], &["privileged"], 0x13ae_bb20),
            (&[], &["fuse"], 0x1_ec00_0004),
            (&[], &["nsec-time"], 0x1_ffef_fe16),
            (&[], &["nsec-time", "usec-time"], 0x1_ffef_fe0e),
            (&[], &["user-names"], 0x1_ffef_fe22),
            (&[], &["32bit-uids"], 0x1_ffef_fe25),
            (&[], &["acl"], 0x1_dfef_ff26),
            (&[], &["acl", "permissions"], 0x1_dfef_fea6),
            (&[], &["xattrs"], 0x1_efef_fe26),
            (&[], &["subvolume"], 0x1_ffef_fe26),
            (&["unix", "user-names"], &[], 0x1f0d),
            (&["best"], &["privileged"], 0x13ae_ba20),
            (&["nsec-time", "usec-time", "sec-time"], &[], 0x20),
            (&["acl"], &[], 0x2000_0006),
            (&["flag-nodump"], &[], 0),
            (&["subvolume-ro"], &[], 0xc00_0000),
        ] {
            assert_eq!(word(with, without), TOPS | low, "with {with:?} without {without:?}");
        }
        assert!(parse("bset").unwrap_err().to_string().contains("best"));
    }

    #[test]
    fn a_weaker_feature_is_put_back_from_an_archive_with_the_stronger_one() {
        let archive = word(&[], &[]);
        assert_eq!(replayed(archive, ALL), archive);
        assert_eq!(replayed(archive, SEC_TIME | PERMISSIONS), TOPS | NSEC_TIME | PERMISSIONS, "times stay as they are");
        assert_eq!(replayed(archive, READ_ONLY | UIDS_16), TOPS | READ_ONLY | UIDS_32);
        assert_eq!(replayed(archive, ALL & !(SUBVOLUME | SUBVOLUME_RO)) & (SUBVOLUME | SUBVOLUME_RO), 0);
    }

    #[test]
    fn attributes_survive_the_way_to_the_kernel_and_back() {
        for (_, bits) in NAMES {
            assert_eq!(from_chattr(to_chattr(bits)), bits & CHATTR);
            assert_eq!(from_fat(to_fat(bits)), bits & FAT_ATTRS);
        }
    }
}
