//! Why bytes are not an archive, and where.

use std::fmt;

/// What is wrong with an archive, at which byte of it, and at which path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveError {
    /// Where, in bytes from the start of the archive: the record that is wrong, or the end of what there is.
    pub offset: u64,
    /// The path of the node that was being read, as far as known; empty for the top.
    pub path: Vec<u8>,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong with an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It ends too early.
    Truncated,
    /// A record of an unknown kind.
    UnknownRecord(u64),
    /// A record that may not be here.
    Misplaced(&'static str),
    /// A record of a size that it cannot have.
    Size(&'static str, u64),
    /// It needs features that nobody knows.
    UnknownFeatures(u64),
    /// A field or record is not what it must be.
    Invalid(&'static str),
    /// More levels than [`MAX_DEPTH`](super::MAX_DEPTH).
    TooDeep,
    /// More metadata than [`MAX_METADATA`](super::MAX_METADATA).
    TooMuchMetadata,
}

impl std::error::Error for ArchiveError {}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            Problem::Truncated => write!(f, "archive ends at byte {}", self.offset)?,
            _ => write!(f, "not a valid archive: at byte {}", self.offset)?,
        }
        if !self.path.is_empty() {
            write!(f, ", in {:?}", String::from_utf8_lossy(&self.path))?;
        }
        match &self.problem {
            Problem::Truncated => f.write_str(", before it is complete; is the copy whole?"),
            Problem::UnknownRecord(mark) => write!(f, ": a record of an unknown kind, {mark:#x}"),
            Problem::Misplaced(record) => write!(f, ": a {record} record where none may be"),
            Problem::Size(record, size) => write!(f, ": a {record} record of {size} bytes"),
            Problem::UnknownFeatures(bits) => write!(f, ": feature bits unknown to this version: {bits:#x}"),
            Problem::Invalid(what) => write!(f, ": {what}"),
            Problem::TooDeep => write!(f, ": more than {} levels of directories", super::MAX_DEPTH),
            Problem::TooMuchMetadata => write!(f, ": more than {} bytes of metadata", super::MAX_METADATA),
        }
    }
}
