//! A chunk store on another machine, by casync's remote protocol over ssh: one connection, which is made when the first
//! chunk is asked for and made anew when it broke. It does not check that an answer is the chunk.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use proto::ChunkId;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::http_store::Fetched;
use super::{ChunkSource, SourceError};
use crate::remote::Place;
use crate::remote::pull::Chunks;

/// How long after a failed connection the next is tried at the earliest.
const PAUSE: Duration = Duration::from_secs(1);

/// A store behind ssh. Cheap to clone; all clones use one connection.
#[derive(Clone)]
pub struct SshStore {
    inner: Arc<Inner>,
}

struct Inner {
    place: Place,
    name: String,
    connection: Mutex<Connection>,
}

#[derive(Default)]
struct Connection {
    chunks: Option<Arc<Chunks>>,
    failed: Option<(Instant, SourceError)>,
}

impl SshStore {
    /// The store there. Nothing is asked yet.
    pub fn new(name: String, place: Place) -> Self {
        Self { inner: Arc::new(Inner { place, name, connection: Mutex::default() }) }
    }

    /// Asks for a chunk and says how long it took.
    ///
    /// # Errors
    /// `Unavailable` when the other side is not reached or ends.
    pub async fn fetch_timed(&self, id: ChunkId) -> Result<Fetched, SourceError> {
        let started = Instant::now();
        let encoded = self.chunks(&id).await?.ask(id).await?;
        let total = started.elapsed();
        let wire_bytes = encoded.as_ref().map_or(0, |encoded| encoded.bytes.len() as u64);
        Ok(Fetched { encoded, forbidden: false, first_byte: total, total, wire_bytes })
    }

    /// The connection, or a new one if it is over, or was asked for this chunk already.
    async fn chunks(&self, id: &ChunkId) -> Result<Arc<Chunks>, SourceError> {
        let mut connection = self.inner.connection.lock().await;
        if let Some(chunks) = connection.chunks.as_ref().filter(|chunks| chunks.can_ask(id)) {
            return Ok(chunks.clone());
        }
        // Many ask at once: one failure answers all of them.
        if let Some((when, error)) = connection.failed.as_ref().filter(|(when, _)| when.elapsed() < PAUSE) {
            tracing::trace!(?when, "no new connection yet");
            return Err(error.clone());
        }
        match Chunks::connect(&self.inner.place).await {
            Ok(chunks) => Ok(connection.chunks.insert(Arc::new(chunks)).clone()),
            Err(error) => {
                connection.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

impl ChunkSource for SshStore {
    fn fetch(&self, id: ChunkId) -> BoxFuture<'_, Result<Option<crate::chunk::Encoded>, SourceError>> {
        async move { Ok(self.fetch_timed(id).await?.encoded) }.boxed()
    }

    fn name(&self) -> &str {
        &self.inner.name
    }
}
