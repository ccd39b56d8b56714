//! How casync writes names, modes and flags.

use crate::format::archive::{Entry, Kind};

/// A name or value with everything that is not plain text as `\ooo`.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            0x21..=0x7e if *byte != b'\\' && *byte != b'#' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("\\{byte:03o}")),
        }
    }
    text
}

/// A path as it is shown: the top is a dot.
pub(super) fn path(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { escape(path) }
}

/// Type and permissions as `ls -l` shows them.
pub(super) fn mode(entry: &Entry) -> String {
    let kind = match entry.kind {
        Kind::Directory => 'd',
        Kind::File { .. } => '-',
        Kind::Symlink { .. } => 'l',
        Kind::Device { block: true, .. } => 'b',
        Kind::Device { block: false, .. } => 'c',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
    };
    let has = |bit: u32| entry.permissions & bit != 0;
    let mut text = String::from(kind);
    // Of a file casync does not show the sticky bit.
    let sticky = if entry.is_directory() { 0o1000 } else { 0 };
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, sticky, 't')] {
        text.push(if has(4 << shift) { 'r' } else { '-' });
        text.push(if has(2 << shift) { 'w' } else { '-' });
        text.push(match (has(special), has(1 << shift)) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Which flags are set, each by its letter or a dash.
pub(super) fn letters(flags: u32, table: &[(u32, char)]) -> String {
    table.iter().map(|(flag, letter)| if flags & flag != 0 { *letter } else { '-' }).collect()
}

/// The attributes of chattr, by the letters of `lsattr`, in the order in which casync shows them.
pub(super) const CHATTR: [(u32, char); 10] = [
    (0x8, 'S'),
    (0x1_0000, 'D'),
    (0x10, 'i'),
    (0x20, 'a'),
    (0x40, 'd'),
    (0x80, 'A'),
    (0x4, 'c'),
    (0x400, 'N'),
    (0x80_0000, 'C'),
    (0x2000_0000, 'P'),
];

/// The attributes of FAT.
pub(super) const FAT: [(u32, char); 3] = [(2, 'h'), (4, 's'), (32, 'a')];

/// The owner's or the group's name as it is shown: root's is not stored.
pub(super) fn owner(name: Option<&Vec<u8>>, id: u32, names: bool) -> Option<String> {
    match name {
        Some(name) => Some(escape(name)),
        None if names && id == 0 => Some("root".to_owned()),
        None => None,
    }
}
