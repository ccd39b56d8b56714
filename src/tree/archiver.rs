//! A tree as the bytes of its archive, as they are asked for: casync's serialisation, byte for byte.

use std::path::{Path, PathBuf};

use super::walk::{Step, Walk};
use super::{Settings, TreeError};
use crate::format::archive::{EncodeError, Encoder};

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
}

impl Archiver {
    /// Opens the directory that is the top of the tree.
    ///
    /// # Errors
    /// When it cannot be opened or is no directory.
    pub fn open(top: &Path, settings: Settings) -> Result<Self, TreeError> {
        let (walk, encoder) = (Walk::open(top, settings)?, Encoder::new(settings.features));
        let (at, left) = (Vec::new(), Vec::new());
        Ok(Self { walk, encoder, top: top.to_owned(), at, left, gone: 0, done: false })
    }

    /// What was opened.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// Appends the next bytes until `block` is filled up to its capacity or the archive is complete. Returns how many.
    ///
    /// # Errors
    /// Whatever cannot be read, by its path.
    pub fn fill(&mut self, block: &mut Vec<u8>) -> Result<usize, TreeError> {
        let before = block.len();
        loop {
            let room = block.capacity() - block.len();
            let ready = &self.left[self.gone..];
            let now = ready.len().min(room);
            block.extend_from_slice(&ready[..now]);
            self.gone += now;
            if self.gone < self.left.len() || now == room || self.done {
                return Ok(block.len() - before);
            }
            self.left.clear();
            self.gone = 0;
            let read = self.walk.read(block, room - now)?;
            if read > 0 {
                let counted = self.encoder.content(read as u64);
                counted.map_err(|error| self.failed(error))?;
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
                encoded
            }
            Some(Step::Leave) => match self.at.pop() {
                Some((_, true)) => self.encoder.end(&mut self.left),
                _ => Ok(()),
            },
        };
        encoded.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: EncodeError) -> TreeError {
        let mut path = self.top.clone();
        path.extend(self.at.iter().map(|(name, _)| PathBuf::from(String::from_utf8_lossy(name).into_owned())));
        TreeError::Archive { path, error }
    }
}
