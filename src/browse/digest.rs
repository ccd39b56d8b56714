//! casync's `digest`: of an archive or a part of it, of the stream behind an index, of a directory's archive.

use proto::ChunkId;

use super::reader::{ReadAt, Reader};
use super::{BrowseError, Tree, Visit};
use crate::format::archive::Kind;
use crate::format::digest::{Digest, Hasher};

/// The digest of the node at `path` of an archive: of a directory, of its part of the archive; of a regular file, of its
/// content.
///
/// # Errors
/// When the path is something else, or the archive cannot be read or is broken.
pub fn of_archive(source: Box<dyn ReadAt>, features: Option<u64>, path: &[u8]) -> Result<ChunkId, BrowseError> {
    let mut source = source;
    let word = match features {
        Some(word) => word,
        None => word_of(source.as_mut())?,
    };
    let digest = Digest::of_features(word);
    let mut reader = Reader::open(source, features, path)?.hashing(digest.hasher());
    match reader.next()? {
        Visit::Enter(node) if node.entry.is_directory() => {}
        Visit::Enter(node) => match node.entry.kind {
            Kind::File { .. } => {
                let mut hasher = digest.hasher();
                Tree::of(reader).content(|bytes| hasher.update(bytes))?;
                return Ok(hasher.finish());
            }
            _ => return Err(BrowseError::NoDigest { place: reader.place(), path: path.to_owned() }),
        },
        Visit::Leave | Visit::End => {}
    }
    while reader.next()? != Visit::End {}
    Ok(reader.into_hasher().unwrap_or_else(|| digest.hasher()).finish())
}

/// The digest of everything.
///
/// # Errors
/// Whatever cannot be read.
pub fn of_stream(mut source: Box<dyn ReadAt>, mut hasher: Hasher) -> Result<ChunkId, BrowseError> {
    let mut offset = 0;
    loop {
        let bytes = source.read_at(offset, super::reader::BLOCK)?;
        if bytes.is_empty() {
            return Ok(hasher.finish());
        }
        hasher.update(&bytes);
        offset += bytes.len() as u64;
    }
}

/// The feature flags word of an archive; 0 where there is none, which reading will find out.
fn word_of(source: &mut dyn ReadAt) -> Result<u64, BrowseError> {
    let mut head = Vec::new();
    while head.len() < 24 {
        match source.read_at(head.len() as u64, 24 - head.len())? {
            bytes if bytes.is_empty() => return Ok(0),
            bytes => head.extend_from_slice(&bytes),
        }
    }
    Ok(head[16..].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
}
