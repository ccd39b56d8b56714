//! A tree as the bytes of its archive, as they are asked for: casync's serialisation, byte for byte.

use std::path::{Path, PathBuf};

use proto::ChunkId;

use super::known::Known;
use super::walk::{Step, Walk};
use super::{Settings, TreeError};
use crate::format::archive::{EncodeError, Encoder, Entry, Kind, encode_node};
use crate::format::digest::{Digest, Hasher};

/// A tree on its way to being an archive.
pub struct Archiver {
    walk: Walk,
    encoder: Encoder,
    top: PathBuf,
    /// Names of the directories that are open, and of what is inside.
    at: Vec<(Vec<u8>, bool)>,
    /// Bytes that did not fit into the last block, and how many of them are gone.
    left: Vec<u8>,
    gone: usize,
    done: bool,
    notes: Option<Notes>,
}

/// A regular file that went by.
#[derive(Debug)]
pub struct Noted {
    /// Where its content begins in the archive.
    pub offset: u64,
    /// How long it is.
    pub size: u64,
    /// What it was.
    pub file: Known,
    /// casync's hard link digest of it, if that was asked for: equal for files that are equal in all that the archive
    /// has of them.
    pub digest: Option<ChunkId>,
}

struct Notes {
    digest: Option<Digest>,
    open: Option<(Noted, Option<Hasher>)>,
    done: Vec<Noted>,
}

impl Archiver {
    /// Opens the directory that is the top of the tree.
    ///
    /// # Errors
    /// When it cannot be opened or is no directory.
    pub fn open(top: &Path, settings: Settings) -> Result<Self, TreeError> {
        let (walk, encoder) = (Walk::open(top, settings)?, Encoder::new(settings.features));
        let (at, left) = (Vec::new(), Vec::new());
        Ok(Self { walk, encoder, top: top.to_owned(), at, left, gone: 0, done: false, notes: None })
    }

    /// The same, remembering the regular files that go by until they are asked for; with their hard link digests if one
    /// is named.
    #[must_use]
    pub fn noting(self, digest: Option<Digest>) -> Self {
        Self { notes: Some(Notes { digest, open: None, done: Vec::new() }), ..self }
    }

    /// The regular files that went by since this was asked last.
    pub fn take_noted(&mut self) -> Vec<Noted> {
        self.notes.as_mut().map(|notes| std::mem::take(&mut notes.done)).unwrap_or_default()
    }

    /// What was opened.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// Fills `block` with the next bytes, unless the archive is complete before it is full. Returns how many.
    ///
    /// # Errors
    /// Whatever cannot be read, by its path.
    pub fn fill(&mut self, block: &mut [u8]) -> Result<usize, TreeError> {
        let mut filled = 0;
        loop {
            let ready = &self.left[self.gone..];
            let now = ready.len().min(block.len() - filled);
            block[filled..filled + now].copy_from_slice(&ready[..now]);
            self.gone += now;
            filled += now;
            if self.gone < self.left.len() || filled == block.len() || self.done {
                return Ok(filled);
            }
            self.left.clear();
            self.gone = 0;
            let read = self.walk.read(&mut block[filled..])?;
            if read > 0 {
                let counted = self.encoder.content(read as u64);
                counted.map_err(|error| self.failed(error))?;
                if let Some(Notes { open: Some((_, Some(hasher))), .. }) = &mut self.notes {
                    hasher.update(&block[filled..filled + read]);
                }
                filled += read;
                continue;
            }
            self.step()?;
        }
    }

    /// Leaves out the next `length` bytes, and does not even read them where they are content. Returns how many there
    /// were.
    ///
    /// # Errors
    /// Whatever cannot be read, by its path.
    pub fn skip(&mut self, length: u64) -> Result<u64, TreeError> {
        let mut skipped = 0;
        loop {
            let ready = (self.left.len() - self.gone) as u64;
            let now = ready.min(length - skipped);
            self.gone += now as usize;
            skipped += now;
            if self.gone < self.left.len() || skipped == length || self.done {
                return Ok(skipped);
            }
            self.left.clear();
            self.gone = 0;
            let content = self.walk.skip(length - skipped);
            if content > 0 {
                let counted = self.encoder.content(content);
                counted.map_err(|error| self.failed(error))?;
                skipped += content;
                if let Some(Notes { open, .. }) = &mut self.notes {
                    // A digest of all of it cannot be had any more.
                    *open = open.take().map(|(noted, _)| (noted, None));
                }
                continue;
            }
            self.step()?;
        }
    }

    fn step(&mut self) -> Result<(), TreeError> {
        let encoded = match self.walk.step()? {
            None => {
                self.done = true;
                Ok(())
            }
            Some(Step::Enter(name, entry)) => {
                let encoded = match name.as_slice() {
                    b"" => self.encoder.root(&entry, &mut self.left),
                    name => self.encoder.child(name, &entry, &mut self.left),
                };
                self.at.push((name, entry.is_directory()));
                self.note(&entry);
                encoded
            }
            Some(Step::Leave) => {
                if let Some(notes) = &mut self.notes
                    && let Some((noted, hasher)) = notes.open.take()
                {
                    notes.done.push(Noted { digest: hasher.map(Hasher::finish), ..noted });
                }
                match self.at.pop() {
                    Some((_, true)) => self.encoder.end(&mut self.left),
                    _ => Ok(()),
                }
            }
        };
        encoded.map_err(|error| self.failed(error))
    }

    fn note(&mut self, entry: &Entry) {
        let Kind::File { size } = entry.kind else { return };
        let (Some(notes), Some(file)) = (&mut self.notes, self.walk.known()) else { return };
        let hasher = notes.digest.map(|digest| {
            let (mut hasher, mut records) = (digest.hasher(), Vec::new());
            encode_node(self.encoder.features(), entry, &mut records);
            hasher.update(&records);
            hasher
        });
        notes.open = Some((Noted { offset: self.encoder.offset(), size, file, digest: None }, hasher));
    }

    fn failed(&self, error: EncodeError) -> TreeError {
        let mut path = self.top.clone();
        path.extend(self.at.iter().map(|(name, _)| PathBuf::from(String::from_utf8_lossy(name).into_owned())));
        TreeError::Archive { path, error }
    }
}
