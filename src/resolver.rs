//! Asks sources for a chunk, one after the other, until one gives bytes that *are* the chunk. It remembers why the
//! others did not, and may keep what it found in a local store. It does not choose by speed: that is the exchange's.

use std::sync::Arc;

use proto::ChunkId;

use crate::chunk::{self, Chunk, Encoded};
use crate::format::digest::Digest;
use crate::source::local_store::LocalStore;
use crate::source::{ChunkSource, SourceError};

/// Sources in the order in which they are asked.
pub struct Resolver {
    sources: Vec<Arc<dyn ChunkSource>>,
    digest: Digest,
    keep: Option<LocalStore>,
}

/// A chunk, and where it was.
#[derive(Clone)]
pub struct Resolved {
    /// The verified chunk.
    pub chunk: Chunk,
    /// As it was found.
    pub encoded: Encoded,
    /// Which source gave it, counted in the order of the resolver.
    pub source: usize,
    /// What the sources asked before it did wrong; those that merely do not have it are not named.
    pub blamed: Vec<Blame>,
}

/// A source that failed, and how.
#[derive(Debug, Clone)]
pub struct Blame {
    /// Which source, counted in the order of the resolver.
    pub source: usize,
    /// What it said or did, with its name.
    pub reason: String,
    /// Whether it gave bytes that are not the chunk.
    pub corrupt: bool,
}

/// No source has a chunk, or none gave it right.
#[derive(Debug, Clone, thiserror::Error)]
#[error("chunk {id}: {}", describe(.asked, .blamed))]
pub struct Unresolved {
    /// The chunk.
    pub id: ChunkId,
    /// The names of all sources asked.
    pub asked: Vec<String>,
    /// Those that failed.
    pub blamed: Vec<Blame>,
}

impl Resolver {
    /// Asks these sources in this order.
    pub fn new(sources: Vec<Arc<dyn ChunkSource>>, digest: Digest) -> Self {
        Self { sources, digest, keep: None }
    }

    /// Also keeps in `store` what other sources give. When that fails it is logged, and the chunk is still given.
    #[must_use]
    pub fn keeping(self, store: LocalStore) -> Self {
        Self { keep: Some(store), ..self }
    }

    /// Finds a chunk of `length` bytes (uncompressed). Dropping the future cancels the request under way.
    ///
    /// # Errors
    /// [`Unresolved`], with each source's failure.
    pub async fn resolve(&self, id: ChunkId, length: u32) -> Result<Resolved, Unresolved> {
        let mut blamed = Vec::new();
        for (number, source) in self.sources.iter().enumerate() {
            match self.ask(source.as_ref(), id, length).await {
                Ok(Some((chunk, encoded))) => {
                    self.keep(source.as_ref(), &chunk, &encoded).await;
                    return Ok(Resolved { chunk, encoded, source: number, blamed });
                }
                Ok(None) => {}
                Err((reason, corrupt)) => {
                    tracing::debug!(source = source.name(), reason, corrupt, "trying the next source");
                    blamed.push(Blame { source: number, reason, corrupt });
                }
            }
        }
        let asked = self.sources.iter().map(|source| source.name().to_owned()).collect();
        Err(Unresolved { id, asked, blamed })
    }

    async fn ask(
        &self,
        source: &dyn ChunkSource,
        id: ChunkId,
        length: u32,
    ) -> Result<Option<(Chunk, Encoded)>, (String, bool)> {
        let found = source.fetch(id).await.map_err(|error: SourceError| (error.to_string(), false))?;
        let Some(encoded) = found else { return Ok(None) };
        let digest = self.digest;
        let checked = tokio::task::spawn_blocking(move || {
            chunk::verify(&encoded, id, digest, length).map(|chunk| (chunk, encoded))
        });
        match checked.await {
            Ok(Ok(found)) => Ok(Some(found)),
            Ok(Err(corrupt)) => Err((format!("{}: {corrupt}", source.name()), true)),
            Err(error) => Err((format!("{}: {error}", source.name()), false)),
        }
    }

    async fn keep(&self, source: &dyn ChunkSource, chunk: &Chunk, encoded: &Encoded) {
        let Some(store) = self.keep.clone().filter(|store| store.name() != source.name()) else { return };
        let (chunk, encoded) = (chunk.clone(), encoded.clone());
        let id = chunk.id();
        match tokio::task::spawn_blocking(move || store.insert_as_found(&chunk, &encoded)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(chunk = %id, %error, "could not keep a chunk"),
            Err(error) => tracing::warn!(chunk = %id, %error, "could not keep a chunk"),
        }
    }
}

fn describe(asked: &[String], blamed: &[Blame]) -> String {
    let mut failures = blamed.iter().map(|blame| blame.reason.as_str()).collect::<Vec<_>>();
    failures.dedup();
    match (asked, failures.as_slice()) {
        ([], _) => "no source to ask".to_owned(),
        (asked, []) => format!("not in {}", asked.join(", nor in ")),
        (asked, failures) => format!("not found in {} places: {}", asked.len(), failures.join("; ")),
    }
}
