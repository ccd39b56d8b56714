//! Looks into trees without extracting them: archives, indexes of archives (also remote ones, by their stores), and
//! directories. Each is the same sequence of nodes; what is told of them is casync's `list`, `mtree`, `stat` and `digest`,
//! word for word. Nothing is written anywhere.

pub mod digest;
pub mod indexed;
pub mod list;
pub mod mtree;
pub mod reader;
pub mod stat;

mod sums;
mod words;

use std::io;
use std::path::{Path, PathBuf};

use crate::extract::index_file::IndexFileError;
use crate::format::archive::{ArchiveError, Entry};
use crate::make::MakeError;
use crate::source::SourceError;
use crate::tree::content::Content;
use crate::tree::walk::{Step, Walk};
use crate::tree::{Settings, TreeError};
use proto::ChunkId;
use reader::Reader;

/// A tree to look into, from its top or from a path in it.
pub struct Tree(Kind);

enum Kind {
    Archive(Box<Reader>),
    Directory { walk: Box<Walk>, features: u64, path: Vec<Vec<u8>> },
}

/// A file or directory of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// From the top of the whole tree, names separated by slashes; empty for the top.
    pub path: Vec<u8>,
    /// Where it begins in the archive; 0 in a directory.
    pub offset: u64,
    /// What it is.
    pub entry: Entry,
}

/// What comes next in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visit {
    /// A node.
    Enter(Box<Node>),
    /// The innermost node is complete.
    Leave,
    /// So is the tree.
    End,
}

/// Why a tree cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum BrowseError {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is not an archive.
    #[error("{place}: {error}")]
    Archive {
        /// The archive or index.
        place: String,
        /// What is wrong with it.
        error: ArchiveError,
    },
    /// The directory cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// There is no index.
    #[error(transparent)]
    Index(#[from] IndexFileError),
    /// A store cannot be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The image cannot be read.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// A chunk is nowhere.
    #[error("{place}: chunk {id} is nowhere to be had: {reasons}")]
    Missing {
        /// The index.
        place: String,
        /// The chunk.
        id: ChunkId,
        /// What each store said.
        reasons: String,
    },
    /// There is no such path in the tree.
    #[error("{place}: there is no {:?} in it", String::from_utf8_lossy(path))]
    NoSuchPath {
        /// The archive or index.
        place: String,
        /// The path.
        path: Vec<u8>,
    },
    /// The path is of no use for this.
    #[error("{place}: {:?} is neither a file nor a directory and has no digest", String::from_utf8_lossy(path))]
    NoDigest {
        /// The archive or index.
        place: String,
        /// The path.
        path: Vec<u8>,
    },
    /// The system gives us no thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// What is told cannot be written.
    #[error("cannot write: {0}")]
    Write(io::Error),
}

impl From<io::Error> for BrowseError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl Tree {
    /// What a reader of an archive finds.
    pub fn of(reader: Reader) -> Self {
        Self(Kind::Archive(Box::new(reader)))
    }

    /// A directory.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn directory(top: &Path, settings: Settings) -> Result<Self, BrowseError> {
        let walk = Box::new(Walk::open(top, settings)?);
        Ok(Self(Kind::Directory { walk, features: settings.features, path: Vec::new() }))
    }

    /// The feature flags word; of an archive only after its first node.
    pub fn features(&self) -> u64 {
        match &self.0 {
            Kind::Archive(reader) => reader.features(),
            Kind::Directory { features, .. } => *features,
        }
    }

    /// Where the content of the file that was entered last begins in the archive; of a directory 0.
    pub fn content_offset(&self) -> u64 {
        match &self.0 {
            Kind::Archive(reader) => reader.content_offset(),
            Kind::Directory { .. } => 0,
        }
    }

    /// The next node, or the end of one. Content that was not asked for is left out.
    ///
    /// # Errors
    /// Whatever cannot be read or is wrong.
    pub fn visit(&mut self) -> Result<Visit, BrowseError> {
        match &mut self.0 {
            Kind::Archive(reader) => reader.next(),
            Kind::Directory { walk, path, .. } => Ok(match walk.step()? {
                None => Visit::End,
                Some(Step::Leave) => {
                    path.pop();
                    Visit::Leave
                }
                Some(Step::Enter(name, entry)) => {
                    path.push(name);
                    let names: Vec<&[u8]> = path.iter().skip(1).map(Vec::as_slice).collect();
                    Visit::Enter(Box::new(Node { path: names.join(&b'/'), offset: 0, entry: *entry }))
                }
            }),
        }
    }

    /// Gives away the file of a directory that was entered last, to be read elsewhere. An archive has none to give.
    pub fn take_content(&mut self) -> Option<Content> {
        match &mut self.0 {
            Kind::Archive(_) => None,
            Kind::Directory { walk, .. } => walk.take_content(),
        }
    }

    /// Hands the content of the file that was entered last to `each`, in pieces.
    ///
    /// # Errors
    /// Whatever cannot be read.
    pub fn content(&mut self, mut each: impl FnMut(&[u8])) -> Result<(), BrowseError> {
        match &mut self.0 {
            Kind::Archive(reader) => reader.content(each),
            Kind::Directory { walk, .. } => {
                let mut block = vec![0; reader::BLOCK];
                loop {
                    match walk.read(&mut block)? {
                        0 => return Ok(()),
                        read => each(&block[..read]),
                    }
                }
            }
        }
    }
}
