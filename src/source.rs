//! Everything that yields chunks: local stores, seeds, HTTP stores, peers. Nothing here decides which is asked first
//! and nothing here trusts what it reads (that is [`crate::chunk::verify`]).

pub mod http;
pub mod http_store;
pub mod local_store;
pub mod location;
pub mod origin_stores;
pub(crate) mod rate_limit;
pub mod remote_store;
pub mod seed;
pub mod sftp_store;
pub mod ssh_store;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use proto::ChunkId;

use crate::chunk::Encoded;
pub(crate) use crate::format::compression::detect;

/// The longest chunk that a casync index may name, uncompressed, in bytes.
pub const MAX_CHUNK: u64 = 128 << 20;

/// The longest chunk *file* that is read where the caller names no limit: compression may make noise a little longer.
pub const MAX_CHUNK_FILE: u64 = MAX_CHUNK + (1 << 20);

/// Somewhere that may have chunks.
///
/// `Ok(None)` means "I do not have it"; an error means "I could not find out", and neither hides the next source.
/// Dropping the future cancels the request. What comes back is unverified.
pub trait ChunkSource: Send + Sync {
    /// Asks for one chunk.
    fn fetch(&self, id: ChunkId) -> BoxFuture<'_, Result<Option<Encoded>, SourceError>>;

    /// What to call this source in messages: a path or a URL.
    fn name(&self) -> &str;
}

/// Why a source could not tell whether it has a chunk, or could not give it. Variants follow the remedy.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// It may work later: no connection, a time-out, a server error, a broken transfer.
    #[error("{place}: {reason}")]
    Unavailable {
        /// The URL or path asked.
        place: String,
        /// What happened.
        reason: String,
    },
    /// It will not work: no such host, no permission, an answer that is no chunk store's.
    #[error("{place}: {reason}")]
    Refused {
        /// The URL or path asked.
        place: String,
        /// What happened.
        reason: String,
    },
    /// The local disk failed.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

impl SourceError {
    /// The local disk's answer about `path`.
    pub(crate) fn io(path: impl AsRef<Path>, error: impl Into<io::Error>) -> Self {
        Self::Io { path: path.as_ref().to_owned(), reason: error.into().to_string() }
    }

    /// A refusal by or about `place`.
    pub(crate) fn refused(place: impl ToString, reason: impl ToString) -> Self {
        Self::Refused { place: place.to_string(), reason: reason.to_string() }
    }

    /// A failure of `place` that may pass.
    pub(crate) fn unavailable(place: impl ToString, reason: impl ToString) -> Self {
        Self::Unavailable { place: place.to_string(), reason: reason.to_string() }
    }
}

/// The suffix of compressed chunk files where the environment names no other (`CASYNC_COMPRESSED_CHUNK_SUFFIX`).
pub const COMPRESSED_SUFFIX: &str = ".cacnk";

/// The suffix of compressed chunk files: `$CASYNC_COMPRESSED_CHUNK_SUFFIX`, or `.cacnk`. A suffix with a slash, or none
/// at all, would name other files than chunks and is ignored.
pub fn compressed_suffix() -> String {
    match std::env::var("CASYNC_COMPRESSED_CHUNK_SUFFIX") {
        Ok(suffix) if !suffix.is_empty() && !suffix.contains(['/', '\0']) => suffix,
        _ => COMPRESSED_SUFFIX.to_owned(),
    }
}

/// Where a chunk lies below the top of a store, local or remote: its first four digits, a slash, its name, the suffix.
pub(crate) fn chunk_path(id: &ChunkId, suffix: &str) -> String {
    let mut path = String::with_capacity(5 + 64 + suffix.len());
    let name = id.to_string();
    path.push_str(&name[..4]);
    path.push('/');
    path.push_str(&name);
    path.push_str(suffix);
    path
}

/// A number that nobody else is likely to draw: for temporary names and jitter, not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
