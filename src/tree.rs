//! Trees of files: [`walk`] reads one from a file system as the nodes of an archive, [`archiver`] as its bytes; [`unpack`]
//! is the way back. What goes in, and what is left out, is what casync would put in.

pub mod archiver;
pub mod attributes;
pub mod beneath;
pub mod content;
pub mod exclude;
pub mod known;
pub mod owners;
pub mod posix_acl;
pub mod unpack;
pub mod walk;

mod pattern;
mod read;

use std::io;
use std::path::PathBuf;

use crate::format::archive::EncodeError;
use owners::Shift;

/// What of a tree goes into an archive, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The feature flags word of the archive, normalised; see [`crate::format::features`].
    pub features: u64,
    /// How owners' numbers change on the way.
    pub shift: Shift,
}

/// Why a tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The system refuses something.
    #[error("{path}: {doing}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// Something in the tree cannot be put into an archive.
    #[error("{path}: {reason}")]
    Unfit {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file became shorter while it was read.
    #[error("{path}: ends at byte {read}, but was {length} bytes long when opened; is something writing to it?")]
    Shrunk {
        /// The file.
        path: PathBuf,
        /// Its length at first.
        length: u64,
        /// What could be read.
        read: u64,
    },
    /// The tree does not fit into an archive.
    #[error("{path}: {error}")]
    Archive {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        error: EncodeError,
    },
}
