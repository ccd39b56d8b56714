//! A path found by the lookup tables, without reading what lies before it. Believes nothing that it reads: a table that
//! lies leads to an error, or to "not there", and never in circles.

use super::goodbye::{self, ITEM};
use super::record::{FILENAME, GOODBYE, GOODBYE_TAIL, HEADER};
use super::{ArchiveError, MAX_DEPTH, Problem};

/// Where a node is in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Where its ENTRY begins.
    pub offset: u64,
    /// Where it ends.
    pub end: u64,
}

/// Why a path was not found.
#[derive(Debug)]
enum Stop<E> {
    Read(E),
    Bad(u64, Problem),
}

/// Finds the node at `path` (names separated by slashes; empty for the top) in an archive of `length` bytes.
/// `read(offset, buffer)` fills the whole buffer from the archive. `None`: there is no such path.
///
/// # Errors
/// Those of `read`, or [`ArchiveError`] where the tables cannot be right.
pub fn find<E: From<ArchiveError>>(
    path: &[u8],
    length: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Option<Found>, E> {
    let mut at = Found { offset: 0, end: length };
    let mut walked: Vec<u8> = Vec::new();
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    for (level, name) in names.enumerate() {
        let lookup = if level < MAX_DEPTH { child(at, name, &mut read) } else { return Ok(None) };
        at = match lookup {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(Stop::Read(error)) => return Err(error),
            Err(Stop::Bad(offset, problem)) => return Err(ArchiveError { offset, path: walked, problem }.into()),
        };
        walked.extend_from_slice(if walked.is_empty() { b"" } else { b"/" });
        walked.extend_from_slice(name);
    }
    Ok(Some(at))
}

/// Looks a name up in the directory at `directory`. What is no directory has no children.
fn child<E>(
    directory: Found,
    name: &[u8],
    read: &mut impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Option<Found>, Stop<E>> {
    let bad = |offset, what| Stop::Bad(offset, Problem::Invalid(what));
    // The smallest directory is an ENTRY of 64 bytes and a table of nothing but its tail.
    let tail_at = match directory.end.checked_sub(ITEM) {
        Some(tail_at) if directory.end - directory.offset >= 64 + goodbye::size(0) => tail_at,
        _ => return Ok(None),
    };
    let [entry_back, size, mark] = words(tail_at, read)?;
    if mark != GOODBYE_TAIL {
        return if directory.offset == 0 {
            Err(bad(tail_at, "no lookup table at its end; is the copy whole, and nothing behind it?"))
        } else {
            Ok(None)
        };
    }
    let room = directory.end - directory.offset;
    if size < goodbye::size(0)
        || !(size - goodbye::size(0)).is_multiple_of(ITEM)
        || entry_back.checked_add(size) != Some(room)
    {
        return Err(bad(tail_at, "a lookup table whose tail cannot be right"));
    }
    let table = directory.end - size;
    let [found_size, found_mark, _] = words(table, read)?;
    if (found_size, found_mark) != (size, GOODBYE) {
        return Err(bad(table, "no GOODBYE record where the tail of the lookup table says"));
    }
    let count = (size - goodbye::size(0)) / ITEM;
    let hash = goodbye::hash(name);
    // Names with the same hash lie on both sides of each other.
    let mut open = vec![0];
    while let Some(at) = open.pop() {
        if at >= count {
            continue;
        }
        let item_at = table + HEADER + ITEM * at;
        let [back, length, found] = words(item_at, read)?;
        let (left, right) = (2 * at + 1, 2 * at + 2);
        if found != hash {
            open.push(if hash < found { left } else { right });
            continue;
        }
        open.extend([left, right]);
        let wrong = || bad(item_at, "a lookup table that points out of its directory");
        let start = table.checked_sub(back).filter(|start| *start >= directory.offset + 64).ok_or_else(wrong)?;
        let end = start.checked_add(length).filter(|end| *end <= table).ok_or_else(wrong)?;
        let record = HEADER + name.len() as u64 + 1;
        let [name_size, name_mark, _] = words(start, read)?;
        if name_mark != FILENAME {
            return Err(bad(start, "no FILENAME record where the lookup table says"));
        }
        if name_size != record {
            continue;
        }
        let offset = start.checked_add(record).filter(|offset| *offset < end).ok_or_else(wrong)?;
        let mut bytes = vec![0; name.len() + 1];
        read(start + HEADER, &mut bytes).map_err(Stop::Read)?;
        if bytes.split_last() == Some((&0, name)) {
            return Ok(Some(Found { offset, end }));
        }
    }
    Ok(None)
}

fn words<E>(offset: u64, read: &mut impl FnMut(u64, &mut [u8]) -> Result<(), E>) -> Result<[u64; 3], Stop<E>> {
    let mut bytes = [0; ITEM as usize];
    read(offset, &mut bytes).map_err(Stop::Read)?;
    let (words, _) = bytes.as_chunks();
    Ok([0, 1, 2].map(|word: usize| u64::from_le_bytes(words[word])))
}
