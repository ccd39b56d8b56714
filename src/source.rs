//! Everything that yields chunks: local stores, seeds, HTTP stores, peers.

use std::path::PathBuf;

use futures::future::BoxFuture;
use proto::ChunkId;

use crate::chunk::Encoded;

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
