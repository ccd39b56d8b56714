//! casync's `mtree`: everything about every node that BSD's mtree has a word for.

use std::io::Write;

use proto::ChunkId;

use super::sums::{IN_MEMORY, Source, Sums};
use super::{BrowseError, Node, Tree, Visit, words};
use crate::format::archive::Kind;
use crate::format::digest::Digest;
use crate::format::features;

/// Describes a tree, one node a line. Files are digested by so many threads.
///
/// # Errors
/// Whatever cannot be read, or written.
pub fn mtree(mut tree: Tree, threads: usize, out: &mut dyn Write) -> Result<(), BrowseError> {
    std::thread::scope(|scope| {
        let mut sums = Sums::start(scope, threads)?;
        let mut name = "";
        let mut print = |(line, name): (String, &str), id: Option<ChunkId>| match id {
            Some(id) => Ok(writeln!(out, "{line} {name}={id}")?),
            None => Ok(writeln!(out, "{line}")?),
        };
        loop {
            let node = match tree.visit()? {
                Visit::Enter(node) => node,
                Visit::Leave => continue,
                Visit::End => break,
            };
            let digest = Digest::of_features(tree.features());
            let mut line = line(&node, tree.features());
            let mut source = None;
            if let Kind::File { size } = node.entry.kind {
                name = match digest {
                    Digest::Sha512_256 => "sha512256digest",
                    Digest::Sha256 => "sha256digest",
                };
                if let Some(content) = tree.take_content() {
                    source = Some(Source::File(content));
                } else if size <= IN_MEMORY {
                    let mut bytes = Vec::with_capacity(size as usize);
                    tree.content(|part| bytes.extend_from_slice(part))?;
                    source = Some(Source::Bytes(bytes));
                } else {
                    let mut hasher = digest.hasher();
                    tree.content(|bytes| hasher.update(bytes))?;
                    line += &format!(" {name}={}", hasher.finish());
                }
            }
            sums.add((line, name), source, digest, &mut print)?;
        }
        sums.finish(&mut print)
    })?;
    Ok(out.flush()?)
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
