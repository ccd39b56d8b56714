//! A tree becomes an archive file: read on one thread, digested on another, written on a third.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;

use bytes::Bytes;
use proto::ChunkId;

use super::{MakeError, output};
use crate::blocks::Pool;
use crate::format::digest::Digest;
use crate::tree::Settings;
use crate::tree::archiver::Archiver;

/// How much is read at once, in bytes.
const BLOCK: usize = 1 << 20;

/// How many blocks may wait for the digest or the disk.
const WAITING: usize = 4;

/// An archive that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeArchive {
    /// The digest of the archive, which casync prints.
    pub digest: ChunkId,
    /// Its length in bytes.
    pub length: u64,
}

/// Writes the archive of the tree at `top`. Blocks.
///
/// # Errors
/// [`MakeError`]; no archive is left under its name then.
pub fn make_archive(top: &Path, settings: Settings, digest: Digest, archive: &Path) -> Result<MadeArchive, MakeError> {
    let mut archiver = Archiver::open(top, settings)?;
    let mut out = output::Output::create(archive, mode(top)?)?;
    let (to_digest, digested) = sync_channel::<Bytes>(WAITING);
    let (to_disk, written) = sync_channel::<Bytes>(WAITING);
    thread::scope(|scope| {
        let hashing = thread::Builder::new()
            .spawn_scoped(scope, move || {
                let mut hasher = digest.hasher();
                digested.iter().for_each(|block| hasher.update(&block));
                hasher.finish()
            })
            .map_err(MakeError::Thread)?;
        let writing = thread::Builder::new()
            .spawn_scoped(scope, move || {
                written.iter().try_for_each(|block| out.write(&block))?;
                Ok(out)
            })
            .map_err(MakeError::Thread)?;
        let (mut length, pool) = (0, Pool::new(BLOCK));
        let read = loop {
            let mut block = pool.block();
            let read = match archiver.fill(&mut block) {
                Ok(0) => break Ok(()),
                Ok(read) => read,
                Err(error) => break Err(MakeError::from(error)),
            };
            length += read as u64;
            let block = block.into_bytes(read);
            // If nobody takes the blocks any more, the writer says why.
            if to_disk.send(block.clone()).is_err() || to_digest.send(block).is_err() {
                break Ok(());
            }
        };
        drop((to_disk, to_digest));
        let digest = hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let out: Result<output::Output, MakeError> =
            writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        read?;
        out?.finish()?;
        Ok(MadeArchive { digest, length })
    })
}

/// The digest of the archive of the tree at `top`, without writing it. Blocks.
///
/// # Errors
/// When the tree cannot be read.
pub fn digest_tree(top: &Path, settings: Settings) -> Result<ChunkId, MakeError> {
    let mut archiver = Archiver::open(top, settings)?;
    let (to_digest, digested) = sync_channel::<Bytes>(WAITING);
    thread::scope(|scope| {
        let hashing = thread::Builder::new().spawn_scoped(scope, move || {
            let mut hasher = Digest::of_features(settings.features).hasher();
            digested.iter().for_each(|block| hasher.update(&block));
            hasher.finish()
        });
        let hashing = hashing.map_err(MakeError::Thread)?;
        let pool = Pool::new(BLOCK);
        loop {
            let mut block = pool.block();
            let read = archiver.fill(&mut block)?;
            if read == 0 || to_digest.send(block.into_bytes(read)).is_err() {
                break;
            }
        }
        drop(to_digest);
        Ok(hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Permission bits for files made of the tree at `top`.
pub(super) fn mode(top: &Path) -> Result<u32, MakeError> {
    let metadata = fs::metadata(top).map_err(|error| MakeError::Input { path: top.to_owned(), error })?;
    Ok(metadata.mode() & 0o666)
}
