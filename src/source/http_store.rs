//! A chunk store behind HTTP(S): one GET for each chunk, of its compressed form only, as casync asks. It does not check
//! that an answer is the chunk, only that it looks like one.

use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use proto::ChunkId;
use reqwest::StatusCode;

use super::http::{HttpClient, Request};
use super::location::store_base;
use super::{ChunkSource, MAX_CHUNK_FILE, SourceError, chunk_path, compressed_suffix, detect};
use crate::chunk::Encoded;

/// A store at a URL. Cheap to clone.
#[derive(Clone)]
pub struct HttpStore {
    base: String,
    suffix: String,
    limit: u64,
    client: HttpClient,
}

/// A chunk that was asked for, and what the answer took: what a scheduler has to know of a server.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The chunk; `None` if the store says that it has none.
    pub encoded: Option<Encoded>,
    /// Whether the store said so by forbidding it (403), as S3 does where keys may not be listed. For a single chunk
    /// that is absence; where it is all that a store ever says, people have to be told.
    pub forbidden: bool,
    /// From sending the request (its last try) to the head of the answer.
    pub first_byte: Duration,
    /// From sending the first try to the last byte of the answer.
    pub total: Duration,
    /// Body bytes of the answer.
    pub wire_bytes: u64,
}

impl HttpStore {
    /// The store at `url`, whose `?…`, `;…` and trailing slashes are cut off. Nothing is asked yet.
    pub fn new(url: &str, client: HttpClient) -> Self {
        Self { base: store_base(url).to_owned(), suffix: compressed_suffix(), limit: MAX_CHUNK_FILE, client }
    }

    /// Takes no answer longer than `limit` bytes: what the index's largest chunk may be as stored.
    #[must_use]
    pub fn with_limit(self, limit: u64) -> Self {
        Self { limit, ..self }
    }

    /// The client, and with it the number of bytes received.
    pub fn client(&self) -> &HttpClient {
        &self.client
    }

    /// Asks for a chunk and says how long it took.
    ///
    /// # Errors
    /// `Unavailable` when no try was answered whole, `Refused` when the answer is no chunk or trying does not help.
    pub async fn fetch_timed(&self, id: ChunkId) -> Result<Fetched, SourceError> {
        let mut asking = self.ask(id);
        loop {
            match asking.send().await {
                Err(error) if asking.may_try_again() => tracing::debug!(%error, "trying again"),
                result => return result,
            }
        }
    }

    /// A chunk to be asked for, one try at a time. Nothing is sent yet.
    pub(super) fn ask(&self, id: ChunkId) -> Asking<'_> {
        let url = format!("{}/{}", self.base, chunk_path(&id, &self.suffix));
        Asking(self.client.request(url, self.limit))
    }
}

/// A chunk that is asked for.
pub(super) struct Asking<'a>(Request<'a>);

impl Asking<'_> {
    /// Where it is.
    pub(super) fn url(&self) -> &str {
        self.0.url()
    }

    /// Whether the last failure may pass, and there were not too many.
    pub(super) fn may_try_again(&self) -> bool {
        self.0.may_try_again()
    }

    /// Tries once, after the pause that the failure before asks for.
    pub(super) async fn send(&mut self) -> Result<Fetched, SourceError> {
        let answer = self.0.send().await?;
        let wire_bytes = answer.body.len() as u64;
        let encoded = match (answer.status, detect(&answer.body)) {
            (StatusCode::OK, Some(encoding)) => Some(Encoded { encoding, bytes: answer.body }),
            (StatusCode::OK, None) => {
                let reason = "the answer is no compressed chunk (not zstd, xz or gzip): is this a chunk store?";
                return Err(SourceError::refused(self.url(), reason));
            }
            _ => None,
        };
        let forbidden = answer.status == StatusCode::FORBIDDEN;
        Ok(Fetched { encoded, forbidden, first_byte: answer.first_byte, total: answer.total, wire_bytes })
    }
}

impl ChunkSource for HttpStore {
    fn fetch(&self, id: ChunkId) -> BoxFuture<'_, Result<Option<Encoded>, SourceError>> {
        async move { Ok(self.fetch_timed(id).await?.encoded) }.boxed()
    }

    fn name(&self) -> &str {
        &self.base
    }
}
