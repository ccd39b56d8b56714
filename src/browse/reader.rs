//! Reads an archive that lies somewhere: node by node, and only what is needed of the content.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};

use super::{BrowseError, Node, Visit};
use crate::blocks::Pool;
use crate::format::archive::{ArchiveError, Decoder, Event, find};
use crate::format::digest::Hasher;

/// How much is read at once, in bytes.
pub(crate) const BLOCK: usize = 256 << 10;

/// How much is read at once where content is left out: about one node.
const SMALL_BLOCK: usize = 4 << 10;

/// Bytes at any place.
pub trait ReadAt: Send {
    /// Some bytes from `offset` on, at most so many; none only at the end.
    ///
    /// # Errors
    /// Whatever cannot be read.
    fn read_at(&mut self, offset: u64, most: usize) -> Result<Bytes, BrowseError>;

    /// How many bytes there are.
    fn length(&self) -> u64;

    /// What to call it in messages.
    fn place(&self) -> String;
}

/// An archive as a file.
pub struct ArchiveFile {
    file: File,
    path: PathBuf,
    length: u64,
    pool: Pool,
}

impl ArchiveFile {
    /// Opens it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, BrowseError> {
        let failed = |error| BrowseError::Read { path: path.to_owned(), error };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        Ok(Self { file, path: path.to_owned(), length, pool: Pool::new(BLOCK) })
    }
}

impl ReadAt for ArchiveFile {
    fn read_at(&mut self, offset: u64, most: usize) -> Result<Bytes, BrowseError> {
        let mut block = self.pool.block();
        let most = most.min(block.len());
        let read = self.file.read_at(&mut block[..most], offset);
        let read = read.map_err(|error| BrowseError::Read { path: self.path.clone(), error })?;
        Ok(block.into_bytes(read))
    }

    fn length(&self) -> u64 {
        self.length
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

/// An archive being read.
pub struct Reader {
    source: Box<dyn ReadAt>,
    decoder: Decoder,
    /// What was read and is yet to be looked at.
    block: Bytes,
    /// How much to read at once.
    size: usize,
    hasher: Option<Hasher>,
}

impl Reader {
    /// Reads from the top, or from a path in the archive, which is found by its lookup tables. `features` is the word
    /// that the archive must have, if an index says so.
    ///
    /// # Errors
    /// When there is no such path, or it cannot be looked up.
    pub fn open(mut source: Box<dyn ReadAt>, features: Option<u64>, path: &[u8]) -> Result<Self, BrowseError> {
        let path: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let path = path.join(&b'/');
        let decoder = match path.is_empty() {
            true => Decoder::new(features),
            false => seek(source.as_mut(), features, path)?,
        };
        Ok(Self { source, decoder, block: Bytes::new(), size: SMALL_BLOCK, hasher: None })
    }

    /// The same, for somebody who wants all the content.
    #[must_use]
    pub fn reading_all(self) -> Self {
        Self { size: BLOCK, ..self }
    }

    /// The same, with a digest of every byte from here on; content is then not left out.
    #[must_use]
    pub fn hashing(self, hasher: Hasher) -> Self {
        Self { hasher: Some(hasher), ..self.reading_all() }
    }

    /// The digest of all that was read.
    pub fn into_hasher(self) -> Option<Hasher> {
        self.hasher
    }

    /// What to call the archive in messages.
    pub fn place(&self) -> String {
        self.source.place()
    }

    /// The feature flags word, 0 before the first node.
    pub fn features(&self) -> u64 {
        self.decoder.features().unwrap_or(0)
    }

    /// Where the next byte of the archive lies: of a file that was just entered, of its content.
    pub(super) fn content_offset(&self) -> u64 {
        self.decoder.offset()
    }

    /// The next node, or the end of one.
    pub(super) fn next(&mut self) -> Result<Visit, BrowseError> {
        if self.hasher.is_none() {
            self.skip();
        }
        loop {
            if let Some(visit) = self.visit(|_| {})? {
                return Ok(visit);
            }
        }
    }

    /// Hands on the content of the file that was entered last.
    pub(super) fn content(&mut self, mut each: impl FnMut(&[u8])) -> Result<(), BrowseError> {
        while self.decoder.content_left() > 0 {
            self.visit(&mut each)?;
        }
        Ok(())
    }

    /// Leaves out content, and does not even read it unless that was done already.
    fn skip(&mut self) {
        let left = self.decoder.content_left();
        self.decoder.skip_content();
        let skipped = left.min(self.block.len() as u64) as usize;
        self.block.advance(skipped);
    }

    /// One event; content goes to `each`.
    fn visit(&mut self, mut each: impl FnMut(&[u8])) -> Result<Option<Visit>, BrowseError> {
        let block = self.block.clone();
        let mut input = &block[..];
        let event = self.decoder.next(&mut input);
        let used = block.len() - input.len();
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&block[..used]);
        }
        self.block.advance(used);
        let visit = match event {
            Ok(Some(Event::Enter(node))) => {
                let (offset, entry) = (node.offset, node.entry.clone());
                Visit::Enter(Box::new(Node { path: self.decoder.path(), offset, entry }))
            }
            Ok(Some(Event::Content(bytes))) => {
                each(bytes);
                return Ok(None);
            }
            Ok(Some(Event::Leave)) => Visit::Leave,
            Ok(Some(Event::End)) => Visit::End,
            Ok(None) => {
                self.refill()?;
                return Ok(None);
            }
            Err(error) => return Err(BrowseError::Archive { place: self.source.place(), error }),
        };
        Ok(Some(visit))
    }

    fn refill(&mut self) -> Result<(), BrowseError> {
        // What is there of the old one is not needed any more, and can be the new one.
        self.block = Bytes::new();
        self.block = self.source.read_at(self.decoder.offset(), self.size)?;
        match self.block.len() {
            0 => Err(BrowseError::Archive { place: self.source.place(), error: self.decoder.truncated() }),
            _ => Ok(()),
        }
    }
}

/// A decoder for the node at `path`.
fn seek(source: &mut dyn ReadAt, features: Option<u64>, path: Vec<u8>) -> Result<Decoder, BrowseError> {
    enum Failed {
        Archive(ArchiveError),
        Read(BrowseError),
    }
    impl From<ArchiveError> for Failed {
        fn from(error: ArchiveError) -> Self {
            Self::Archive(error)
        }
    }
    let place = source.place();
    let length = source.length();
    let mut read = |offset: u64, buffer: &mut [u8]| -> Result<(), Failed> {
        let mut filled = 0;
        while filled < buffer.len() {
            let bytes = source.read_at(offset + filled as u64, buffer.len() - filled).map_err(Failed::Read)?;
            if bytes.is_empty() {
                return Err(Failed::Archive(Decoder::part(0, length, length, Vec::new()).truncated()));
            }
            buffer[filled..filled + bytes.len()].copy_from_slice(&bytes);
            filled += bytes.len();
        }
        Ok(())
    };
    let found = match features {
        Some(features) => Ok(features),
        None => {
            // The word is in every node; the first one's is behind a header of 16 bytes.
            let mut word = [0; 8];
            read(16, &mut word).map(|()| u64::from_le_bytes(word))
        }
    };
    let found = found.and_then(|features| Ok((features, find(&path, length, &mut read)?)));
    match found {
        Ok((features, Some(found))) => Ok(Decoder::part(features, found.offset, found.end, path)),
        Ok((_, None)) => Err(BrowseError::NoSuchPath { place, path }),
        Err(Failed::Archive(error)) => Err(BrowseError::Archive { place, error }),
        Err(Failed::Read(error)) => Err(error),
    }
}
