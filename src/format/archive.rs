//! The archive (`.catar`): a tree of files as one stream of records. An [`Encoder`] turns nodes into bytes, a
//! [`Decoder`] turns bytes into nodes; neither holds more than one record, one node's metadata, and 24 bytes for each
//! entry of the directories that are open. [`find`] goes straight to a path. No file system is touched here.
//!
//! The decoder takes what casync's encoder writes and what casync's decoder takes, with these exceptions: names in a
//! directory must be sorted and distinct, a lookup table must be right (or empty), and one node's metadata may take
//! [`MAX_METADATA`]. It also takes what casync writes and cannot read itself: user names with a dot, times in
//! microseconds, times before 1970, owners by name alone where the owner is root.

mod decoder;
mod encoder;
mod error;
mod goodbye;
mod node;
mod record;
mod seek;

pub use decoder::{Decoder, Event, Node};
pub use encoder::{EncodeError, Encoder, encode_node};
pub use error::{ArchiveError, Problem};
pub use seek::{Found, find};

use super::features;

/// How many nodes a path may have, the top included.
pub const MAX_DEPTH: usize = 64;

/// How much metadata one node may have in an archive that is read, in bytes of its records.
pub const MAX_METADATA: u64 = 16 << 20;

/// A node: everything about a file or directory except its name, its content and its children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// The permission bits, set-user-id and so on: `07777` of the mode.
    pub permissions: u32,
    /// Attributes of chattr and FAT, and whether it is a subvolume, at the places of their
    /// [features].
    pub attributes: u64,
    /// The owner's number, 0 where numbers are not stored.
    pub uid: u32,
    /// The group's number, 0 where numbers are not stored.
    pub gid: u32,
    /// Nanoseconds since 1970, times before it in two's complement; a multiple of the archive's granularity.
    pub mtime: u64,
    /// The owner's name.
    pub user: Option<Vec<u8>>,
    /// The group's name.
    pub group: Option<Vec<u8>>,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Access control lists.
    pub acl: Acl,
    /// The SELinux label.
    pub selinux: Option<Vec<u8>>,
    /// The value of `security.capability`.
    pub fcaps: Option<Vec<u8>>,
    /// The quota's project id, if it is not 0.
    pub projid: Option<u32>,
}

/// What kind of thing a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Nodes with names follow.
    Directory,
    /// So many bytes follow.
    File {
        /// How many.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, 1 to 4095 bytes.
        target: Vec<u8>,
    },
    /// A device.
    Device {
        /// A block device rather than a character device.
        block: bool,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// The access control lists of a node, as far as its permission bits do not say the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl {
    /// Named users.
    pub users: Vec<AclEntry>,
    /// Named groups.
    pub groups: Vec<AclEntry>,
    /// What the owning group may, if there is a mask; the permission bits are then the mask.
    pub group_obj: Option<u64>,
    /// The list that new entries of a directory inherit.
    pub default: Option<DefaultAcl>,
    /// Its named users.
    pub default_users: Vec<AclEntry>,
    /// Its named groups.
    pub default_groups: Vec<AclEntry>,
}

/// What the classes may in a directory's default list: 4 read, 2 write, 1 execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultAcl {
    /// The owner.
    pub user: u64,
    /// The owning group.
    pub group: u64,
    /// All others.
    pub other: u64,
    /// The mask.
    pub mask: Option<u64>,
}

/// What a named user or group may.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AclEntry {
    /// Its number, 0 where numbers are not stored.
    pub id: u32,
    /// Its name.
    pub name: Option<Vec<u8>>,
    /// 4 read, 2 write, 1 execute.
    pub permissions: u64,
}

const FORMAT: u32 = 0o170_000;

impl Kind {
    /// The [feature](super::features) that an archive must have for such a node; 0 for what every archive has.
    pub fn feature(&self) -> u64 {
        match self {
            Kind::Directory | Kind::File { .. } => 0,
            Kind::Symlink { .. } => features::SYMLINKS,
            Kind::Device { .. } => features::DEVICE_NODES,
            Kind::Fifo => features::FIFOS,
            Kind::Socket => features::SOCKETS,
        }
    }

    /// The type bits of the mode.
    pub fn format_bits(&self) -> u32 {
        match self {
            Kind::Directory => 0o040_000,
            Kind::File { .. } => 0o100_000,
            Kind::Symlink { .. } => 0o120_000,
            Kind::Device { block: true, .. } => 0o060_000,
            Kind::Device { block: false, .. } => 0o020_000,
            Kind::Fifo => 0o010_000,
            Kind::Socket => 0o140_000,
        }
    }
}

impl Entry {
    /// A node with no more than a kind and permissions.
    pub fn new(kind: Kind, permissions: u32) -> Self {
        Self {
            kind,
            permissions,
            attributes: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            user: None,
            group: None,
            xattrs: Vec::new(),
            acl: Acl::default(),
            selinux: None,
            fcaps: None,
            projid: None,
        }
    }

    /// Type and permission bits, as `stat` gives them.
    pub fn mode(&self) -> u32 {
        self.kind.format_bits() | self.permissions
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }
}

#[cfg(test)]
mod tests;
