//! casync's `stat`: everything about one node, the top of what is looked at.

use std::io::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{BrowseError, Node, Tree, Visit, words};
use crate::format::archive::{Kind, encode_node};
use crate::format::digest::Digest;
use crate::format::features;

/// Describes the top of a tree. Times are local.
///
/// # Errors
/// Whatever cannot be read, or written.
pub fn stat(mut tree: Tree, archive: bool, out: &mut dyn Write) -> Result<(), BrowseError> {
    let Visit::Enter(node) = tree.visit()? else { return Ok(()) };
    let word = tree.features();
    write!(out, "{}", description(&node, word, archive))?;
    if node.entry.is_directory() {
        return Ok(out.flush()?);
    }
    let digest = Digest::of_features(word);
    let (mut content, mut whole) = (digest.hasher(), digest.hasher());
    // casync's hard link digest: the node as it is in the archive, without its name.
    let mut records = Vec::new();
    encode_node(word, &node.entry, &mut records);
    whole.update(&records);
    tree.content(|bytes| {
        content.update(bytes);
        whole.update(bytes);
    })?;
    // That of a block device is of nothing.
    if let Kind::File { .. } | Kind::Device { block: true, .. } = node.entry.kind {
        writeln!(out, "  Digest: {}", content.finish())?;
    }
    writeln!(out, "HLDigest: {}", whole.finish())?;
    Ok(out.flush()?)
}

fn description(node: &Node, word: u64, archive: bool) -> String {
    let entry = &node.entry;
    let mut lines = vec![("File", words::path(&node.path)), ("Mode", words::mode(entry))];
    let kind = &entry.kind;
    if matches!(kind, Kind::Directory | Kind::File { .. }) {
        // Of an archive casync shows them always; of a directory it has also looked at them to know what to leave out.
        if archive || word & (features::CHATTR | features::EXCLUDE_NODUMP) != 0 {
            lines.push(("FileAttr", words::letters(features::to_chattr(entry.attributes), &words::CHATTR)));
        }
        if archive || word & features::FAT_ATTRS != 0 {
            lines.push(("FATAttr", words::letters(features::to_fat(entry.attributes), &words::FAT)));
        }
    }
    lines.push(("Offset", node.offset.to_string()));
    if features::granularity(word).is_some() {
        lines.push(("Time", time(entry.mtime)));
    }
    if let Kind::File { size } = kind {
        lines.push(("Size", size.to_string()));
    }
    let numbers = word & (features::UIDS_16 | features::UIDS_32) != 0;
    let names = word & features::USER_NAMES != 0;
    for (what, name, id) in [("User", &entry.user, entry.uid), ("Group", &entry.group, entry.gid)] {
        match (words::owner(name.as_ref(), id, names), numbers) {
            (Some(name), true) => lines.push((what, format!("{name} ({id})"))),
            (Some(name), false) => lines.push((what, name)),
            (None, true) => lines.push((what, id.to_string())),
            (None, false) => {}
        }
    }
    match entry.projid {
        Some(projid) => lines.push(("ProjID", projid.to_string())),
        None if !archive && word & features::QUOTA_PROJID != 0 => lines.push(("ProjID", "0".to_owned())),
        None => {}
    }
    match kind {
        Kind::Symlink { target } => lines.push(("Target", words::escape(target))),
        Kind::Device { major, minor, .. } => lines.push(("Device", format!("{major}:{minor}"))),
        _ => {}
    }
    for (name, value) in &entry.xattrs {
        lines.push(("XAttr", format!("{} → {}", words::escape(name), words::escape(value))));
    }
    lines.into_iter().map(|(what, value)| format!("{what:>8}: {value}\n")).collect()
}

fn time(mtime: u64) -> String {
    let (seconds, nanoseconds) = (mtime / 1_000_000_000, mtime % 1_000_000_000);
    match Timestamp::from_second(seconds as i64) {
        Ok(time) => {
            let local = time.to_zoned(TimeZone::system());
            format!("{}.{nanoseconds:09}", local.strftime("%Y-%m-%d %H:%M:%S"))
        }
        Err(_) => format!("{seconds}.{nanoseconds:09}"),
    }
}
