//! casync's `mtree`: everything about every node that BSD's mtree has a word for.

use std::io::Write;

use super::{BrowseError, Node, Tree, Visit, words};
use crate::format::archive::Kind;
use crate::format::digest::Digest;
use crate::format::features;

/// Describes a tree, one node a line.
///
/// # Errors
/// Whatever cannot be read, or written.
pub fn mtree(mut tree: Tree, out: &mut dyn Write) -> Result<(), BrowseError> {
    loop {
        match tree.visit()? {
            Visit::Enter(node) => {
                let word = tree.features();
                write!(out, "{}", line(&node, word))?;
                if let Kind::File { .. } = node.entry.kind {
                    let digest = Digest::of_features(word);
                    let mut hasher = digest.hasher();
                    tree.content(|bytes| hasher.update(bytes))?;
                    let name = match digest {
                        Digest::Sha512_256 => "sha512256digest",
                        Digest::Sha256 => "sha256digest",
                    };
                    write!(out, " {name}={}", hasher.finish())?;
                }
                writeln!(out)?;
            }
            Visit::Leave => {}
            Visit::End => return Ok(out.flush()?),
        }
    }
}

/// The line of a node, without the digest of its content.
fn line(node: &Node, word: u64) -> String {
    let entry = &node.entry;
    let kind = match entry.kind {
        Kind::Directory => "dir",
        Kind::File { .. } => "file",
        Kind::Symlink { .. } => "link",
        Kind::Device { block: true, .. } => "block",
        Kind::Device { block: false, .. } => "char",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
    };
    let mut line = format!("{} type={kind} mode={:04o}", words::path(&node.path), entry.permissions);
    match &entry.kind {
        Kind::File { size } => line += &format!(" size={size}"),
        Kind::Symlink { target } => line += &format!(" link={}", words::escape(target)),
        Kind::Device { major, minor, .. } => line += &format!(" device=linux,{major},{minor}"),
        _ => {}
    }
    if word & (features::UIDS_16 | features::UIDS_32) != 0 {
        line += &format!(" uid={} gid={}", entry.uid, entry.gid);
    }
    let names = word & features::USER_NAMES != 0;
    let owners = [("uname", &entry.user, entry.uid), ("gname", &entry.group, entry.gid)];
    for (what, name, id) in owners {
        if let Some(name) = words::owner(name.as_ref(), id, names) {
            line += &format!(" {what}={name}");
        }
    }
    line += &flags(node, word);
    if features::granularity(word).is_some() {
        line += &format!(" time={}.{:09}", entry.mtime / 1_000_000_000, entry.mtime % 1_000_000_000);
    }
    line
}

/// The attributes that mtree knows, as far as the archive has them. casync shows those of nodes that have none as set.
fn flags(node: &Node, word: u64) -> String {
    let table = [
        (0x2000, "hidden"),
        (0x4000, "system"),
        (0x8000, "archive"),
        (0x1_0000, "sappend"),
        (features::NODUMP, "nodump"),
        (0x40_0000, "simmutable"),
    ];
    let known = matches!(node.entry.kind, Kind::Directory | Kind::File { .. });
    let attributes = if known { node.entry.attributes } else { u64::MAX };
    let shown = table.iter().filter(|(bit, _)| word & bit != 0);
    let shown: Vec<String> =
        shown.map(|(bit, name)| format!("{}{name}", if attributes & bit == 0 { "no" } else { "" })).collect();
    if shown.is_empty() { String::new() } else { format!(" flags={}", shown.join(",")) }
}
