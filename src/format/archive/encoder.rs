//! Nodes to bytes, in the order of the archive. The caller walks the tree and sorts the names; this keeps count of where
//! everything lies, for the lookup tables.

use super::goodbye::{self, Item};
use super::record::*;
use super::{AclEntry, Entry, Kind, MAX_DEPTH};

/// Writes an archive node by node: [`root`](Self::root), then for each name in order [`child`](Self::child), its
/// content or its own children, and [`end`](Self::end) for each directory.
#[derive(Debug)]
pub struct Encoder {
    features: u64,
    /// How many bytes were written.
    offset: u64,
    /// How many bytes of the last file's content are still to come.
    content: u64,
    open: Vec<Directory>,
}

#[derive(Debug)]
struct Directory {
    /// Where its FILENAME is (its ENTRY for the top).
    start: u64,
    /// Where its ENTRY is.
    entry: u64,
    hash: u64,
    items: Vec<Item>,
    last: Vec<u8>,
}

/// What cannot be put into an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// More levels than there may be.
    #[error("more than {MAX_DEPTH} levels of directories; casync's format has no more")]
    TooDeep,
    /// Empty, `.`, `..`, with a slash or a NUL, or not after the name before it.
    #[error("{:?} is no name for a directory entry here", String::from_utf8_lossy(.0))]
    Name(Vec<u8>),
    /// Calls in another order than the archive's.
    #[error("an archive is a top directory, its entries with all of their content, and an end for each directory")]
    Order,
}

impl Encoder {
    /// An encoder that writes this feature flags word into every node.
    pub fn new(features: u64) -> Self {
        Self { features, offset: 0, content: 0, open: Vec::new() }
    }

    /// The feature flags word.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// How many bytes the archive has so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Begins the archive with its top directory.
    ///
    /// # Errors
    /// When this is not the beginning, or not a directory.
    pub fn root(&mut self, entry: &Entry, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.offset > 0 || !entry.is_directory() {
            return Err(EncodeError::Order);
        }
        self.node(0, 0, entry, out);
        Ok(())
    }

    /// Adds an entry to the innermost open directory, and opens it if it is a directory itself.
    ///
    /// # Errors
    /// A name that cannot be there, too many levels, or content that is missing.
    pub fn child(&mut self, name: &[u8], entry: &Entry, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let depth = self.open.len();
        let parent = self.open.last_mut().filter(|_| self.content == 0).ok_or(EncodeError::Order)?;
        if !is_name(name) || name <= parent.last.as_slice() {
            return Err(EncodeError::Name(name.to_owned()));
        }
        if depth >= MAX_DEPTH {
            return Err(EncodeError::TooDeep);
        }
        parent.last.clear();
        parent.last.extend_from_slice(name);
        let (start, before) = (self.offset, out.len());
        text(FILENAME, name, out);
        self.offset += (out.len() - before) as u64;
        let hash = goodbye::hash(name);
        self.node(start, hash, entry, out);
        if !entry.is_directory() {
            let end = self.offset + self.content;
            self.add(Item { hash, start, end });
        }
        Ok(())
    }

    /// Counts content of the last file, which the caller puts behind what was written so far.
    ///
    /// # Errors
    /// More than the file has.
    pub fn content(&mut self, length: u64) -> Result<(), EncodeError> {
        self.content = self.content.checked_sub(length).ok_or(EncodeError::Order)?;
        self.offset += length;
        Ok(())
    }

    /// Ends the innermost open directory.
    ///
    /// # Errors
    /// When none is open, or content is missing.
    pub fn end(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.content > 0 {
            return Err(EncodeError::Order);
        }
        let directory = self.open.pop().ok_or(EncodeError::Order)?;
        let before = out.len();
        goodbye::write(self.offset, directory.entry, directory.items, out);
        self.offset += (out.len() - before) as u64;
        self.add(Item { hash: directory.hash, start: directory.start, end: self.offset });
        Ok(())
    }

    fn node(&mut self, start: u64, hash: u64, entry: &Entry, out: &mut Vec<u8>) {
        let (before, at) = (out.len(), self.offset);
        encode_node(self.features, entry, out);
        self.offset += (out.len() - before) as u64;
        match entry.kind {
            Kind::Directory => {
                self.open.push(Directory { start, entry: at, hash, items: Vec::new(), last: Vec::new() });
            }
            Kind::File { size } => self.content = size,
            _ => {}
        }
    }

    fn add(&mut self, item: Item) {
        if let Some(parent) = self.open.last_mut() {
            parent.items.push(item);
        }
    }
}

/// Whether something can be the name of a directory entry.
pub(super) fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

/// The records of a node up to its content or children: what casync's hard link digest begins with.
pub fn encode_node(features: u64, entry: &Entry, out: &mut Vec<u8>) {
    let mode = u64::from(entry.mode());
    let (uid, gid) = (u64::from(entry.uid), u64::from(entry.gid));
    words(ENTRY, &[features, mode, entry.attributes, uid, gid, entry.mtime], out);
    let some = |mark, value: &Option<Vec<u8>>, out: &mut Vec<u8>| {
        if let Some(value) = value {
            text(mark, value, out);
        }
    };
    some(USER, &entry.user, out);
    some(GROUP, &entry.group, out);
    for (name, value) in &entry.xattrs {
        header(XATTR, HEADER + (name.len() + 1 + value.len()) as u64, out);
        out.extend_from_slice(name);
        out.push(0);
        out.extend_from_slice(value);
    }
    acl_entries(ACL_USER, &entry.acl.users, out);
    acl_entries(ACL_GROUP, &entry.acl.groups, out);
    if let Some(permissions) = entry.acl.group_obj {
        words(ACL_GROUP_OBJ, &[permissions], out);
    }
    if let Some(default) = entry.acl.default {
        let mask = default.mask.unwrap_or(u64::MAX);
        words(ACL_DEFAULT, &[default.user, default.group, default.other, mask], out);
    }
    acl_entries(ACL_DEFAULT_USER, &entry.acl.default_users, out);
    acl_entries(ACL_DEFAULT_GROUP, &entry.acl.default_groups, out);
    some(SELINUX, &entry.selinux, out);
    if let Some(fcaps) = &entry.fcaps {
        header(FCAPS, HEADER + fcaps.len() as u64, out);
        out.extend_from_slice(fcaps);
    }
    if let Some(projid) = entry.projid {
        words(QUOTA_PROJID, &[projid.into()], out);
    }
    match &entry.kind {
        Kind::File { size } => header(PAYLOAD, HEADER + size, out),
        Kind::Symlink { target } => text(SYMLINK, target, out),
        Kind::Device { major, minor, .. } => words(DEVICE, &[(*major).into(), (*minor).into()], out),
        Kind::Directory | Kind::Fifo | Kind::Socket => {}
    }
}

fn header(mark: u64, size: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&mark.to_le_bytes());
}

fn words(mark: u64, words: &[u64], out: &mut Vec<u8>) {
    header(mark, HEADER + 8 * words.len() as u64, out);
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

fn text(mark: u64, text: &[u8], out: &mut Vec<u8>) {
    header(mark, HEADER + text.len() as u64 + 1, out);
    out.extend_from_slice(text);
    out.push(0);
}

fn acl_entries(mark: u64, entries: &[AclEntry], out: &mut Vec<u8>) {
    for entry in entries {
        let name = entry.name.as_ref().map_or(0, |name| name.len() as u64 + 1);
        header(mark, HEADER + 16 + name, out);
        out.extend_from_slice(&u64::from(entry.id).to_le_bytes());
        out.extend_from_slice(&entry.permissions.to_le_bytes());
        if let Some(name) = &entry.name {
            out.extend_from_slice(name);
            out.push(0);
        }
    }
}
