//! The stream behind an index, at any place of it: chunks from stores, verified, as they are needed; or, for somebody who
//! reads from the beginning to the end, some ahead of that.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use proto::{ChunkId, IndexId};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::BrowseError;
use super::reader::ReadAt;
use crate::chunk::{Claim, Encoded, verify, verify_many};
use crate::extract::SourceOptions;
use crate::extract::index_file;
use crate::extract::network::{FetchError, Finished, Job, Network, NetworkReport};
use crate::extract::sources::{Stores, open_stores};
use crate::format::index::Index;
use crate::format::layout::Layout;
use crate::source::ChunkSource;
use crate::source::http::HttpClient;
use crate::source::location::Location;

/// How many chunks somebody who reads everything gets together: as many as the hash likes.
const GROUP: u64 = 16;

/// How much they may be, in bytes, if every chunk were as long as may be.
const GROUP_BYTES: u64 = 4 << 20;

/// How many groups are on their way at once.
const AHEAD: u64 = 4;

/// How much they may be, in the same sense.
const AHEAD_BYTES: u64 = 16 << 20;

/// How many chunks are remembered: zeros come again and again.
const REMEMBERED: usize = 8;

/// An index and the stores that have its chunks.
pub struct Indexed {
    shared: Arc<Shared>,
    runtime: Handle,
    /// The chunk that was needed last, by its row.
    current: Option<(usize, Bytes)>,
    recent: VecDeque<(ChunkId, Bytes)>,
    ahead: Option<Ahead>,
    sequential: bool,
}

/// Chunks that are fetched before they are asked for.
struct Ahead {
    /// The row of the next.
    next: usize,
    ready: VecDeque<Result<Bytes, BrowseError>>,
    groups: mpsc::Receiver<Vec<Result<Bytes, BrowseError>>>,
}

struct Shared {
    index: Index,
    stores: Stores,
    place: String,
}

impl Indexed {
    /// Gets the index, and opens the stores that were named, or the one that belongs to it.
    ///
    /// # Errors
    /// When there is no index, or no store can be used.
    pub async fn open(location: &Location, options: &SourceOptions, http: &HttpClient) -> Result<Self, BrowseError> {
        let file = index_file::load(location, None, &Nobody, http).await?;
        let stores = open_stores(options, location, &Layout::of(&file.index), http)?;
        Ok(Self::new(file.index, stores, location.to_string()))
    }

    /// The stream behind an index that is there already. To be called, and used, where a runtime is.
    pub(crate) fn new(index: Index, stores: Stores, place: String) -> Self {
        let (shared, runtime) = (Arc::new(Shared { index, stores, place }), Handle::current());
        Self { shared, runtime, current: None, recent: VecDeque::new(), ahead: None, sequential: false }
    }

    /// The same, for somebody who reads everything in order.
    #[must_use]
    pub fn sequential(self) -> Self {
        Self { sequential: true, ..self }
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.shared.index
    }

    fn chunk(&mut self, row: usize) -> Result<Bytes, BrowseError> {
        let id = self.shared.index.chunks[row].id;
        if self.sequential {
            return self.chunk_ahead(row);
        }
        if let Some((_, bytes)) = self.recent.iter().find(|(known, _)| *known == id) {
            return Ok(bytes.clone());
        }
        let bytes = self.runtime.block_on(self.shared.clone().fetch(row))?;
        self.recent.truncate(REMEMBERED - 1);
        self.recent.push_front((id, bytes.clone()));
        Ok(bytes)
    }

    fn chunk_ahead(&mut self, row: usize) -> Result<Bytes, BrowseError> {
        let next = self.ahead.take().filter(|ahead| ahead.next == row);
        let mut ahead = next.unwrap_or_else(|| self.start(row));
        if ahead.ready.is_empty() {
            ahead.ready.extend(ahead.groups.blocking_recv().into_iter().flatten());
        }
        let chunk = ahead.ready.pop_front();
        ahead.next += 1;
        self.ahead = Some(ahead);
        chunk.unwrap_or_else(|| Err(self.shared.missing(row, "fetching stopped")))
    }

    /// Begins to fetch from a row on, until nobody listens any more.
    fn start(&self, row: usize) -> Ahead {
        let longest = self.shared.index.sizes[2].max(1);
        let group = (GROUP_BYTES / longest).clamp(1, GROUP) as usize;
        let several = (AHEAD_BYTES / (longest * group as u64)).clamp(1, AHEAD) as usize;
        let (send, groups) = mpsc::channel(1);
        let shared = self.shared.clone();
        let rows = self.shared.index.chunks.len();
        let starts = futures::stream::iter((row..rows).step_by(group));
        let mut fetching =
            starts.map(move |row| shared.clone().fetch_group(row..rows.min(row + group))).buffered(several);
        self.runtime.spawn(async move {
            while let Some(chunks) = fetching.next().await {
                let failed = chunks.iter().any(Result::is_err);
                if send.send(chunks).await.is_err() || failed {
                    break;
                }
            }
        });
        Ahead { next: row, ready: VecDeque::new(), groups }
    }
}

impl ReadAt for Indexed {
    fn read_at(&mut self, offset: u64, most: usize) -> Result<Bytes, BrowseError> {
        let row = self.shared.index.chunks.partition_point(|chunk| chunk.end <= offset);
        if row == self.shared.index.chunks.len() {
            return Ok(Bytes::new());
        }
        let bytes = match &self.current {
            Some((current, bytes)) if *current == row => bytes.clone(),
            _ => self.chunk(row)?,
        };
        self.current = Some((row, bytes.clone()));
        let start = (offset - self.shared.start(row)) as usize;
        Ok(bytes.slice(start..bytes.len().min(start.saturating_add(most))))
    }

    fn length(&self) -> u64 {
        self.shared.index.length()
    }

    fn place(&self) -> String {
        self.shared.place.clone()
    }
}

impl Shared {
    fn start(&self, row: usize) -> u64 {
        row.checked_sub(1).map_or(0, |before| self.index.chunks[before].end)
    }

    /// Several rows: what the first local store has right of them is checked together.
    async fn fetch_group(self: Arc<Self>, rows: Range<usize>) -> Vec<Result<Bytes, BrowseError>> {
        let (local, wanted) = (self.clone(), rows.clone());
        let found = tokio::task::spawn_blocking(move || local.fetch_many(wanted)).await.unwrap_or_default();
        let mut found = found.into_iter();
        let mut chunks = Vec::with_capacity(rows.len());
        for row in rows {
            chunks.push(match found.next().flatten() {
                Some(bytes) => Ok(bytes),
                None => self.clone().fetch(row).await,
            });
        }
        chunks
    }

    fn fetch_many(&self, rows: Range<usize>) -> Vec<Option<Bytes>> {
        let mut found = vec![None; rows.len()];
        let Some(store) = self.stores.local.first() else { return found };
        let mut claims = Vec::new();
        let mut places = Vec::new();
        for (place, row) in rows.enumerate() {
            let chunk = self.index.chunks[row];
            if let Ok(Some(encoded)) = store.store().get(chunk.id) {
                claims.push(Claim { encoded, id: chunk.id, length: (chunk.end - self.start(row)) as u32 });
                places.push(place);
            }
        }
        for (place, verified) in places.into_iter().zip(verify_many(&claims, self.index.digest())) {
            found[place] = verified.ok().map(|chunk| chunk.bytes().clone());
        }
        found
    }

    /// Asks the stores in their order, local ones first. A wrong chunk is as good as none.
    async fn fetch(self: Arc<Self>, row: usize) -> Result<Bytes, BrowseError> {
        let mut reasons = Vec::new();
        let local = self.clone();
        let found = tokio::task::spawn_blocking(move || local.fetch_local(row)).await;
        match found {
            Ok((Some(bytes), _)) => return Ok(bytes),
            Ok((None, said)) => reasons.extend(said),
            Err(error) => reasons.push(error.to_string()),
        }
        for store in &self.stores.remote {
            match store.fetch(self.index.chunks[row].id).await {
                Ok(Some(encoded)) => {
                    let shared = self.clone();
                    match tokio::task::spawn_blocking(move || shared.check(row, &encoded)).await {
                        Ok(Ok(bytes)) => return Ok(bytes),
                        Ok(Err(reason)) => reasons.push(format!("{}: {reason}", store.name())),
                        Err(error) => reasons.push(error.to_string()),
                    }
                }
                Ok(None) => reasons.push(format!("{} does not have it", store.name())),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(self.missing(row, &reasons.join("; ")))
    }

    fn fetch_local(&self, row: usize) -> (Option<Bytes>, Vec<String>) {
        let mut reasons = Vec::new();
        for store in &self.stores.local {
            let place = store.store().path().display();
            match store.store().get(self.index.chunks[row].id) {
                Ok(Some(encoded)) => match self.check(row, &encoded) {
                    Ok(bytes) => return (Some(bytes), reasons),
                    Err(reason) => reasons.push(format!("{place}: {reason}")),
                },
                Ok(None) => reasons.push(format!("{place} does not have it")),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        (None, reasons)
    }

    fn check(&self, row: usize, encoded: &Encoded) -> Result<Bytes, String> {
        let chunk = self.index.chunks[row];
        // At most `index::MAX_CHUNK`.
        let length = (chunk.end - self.start(row)) as u32;
        let verified = verify(encoded, chunk.id, self.index.digest(), length);
        verified.map(|chunk| chunk.bytes().clone()).map_err(|error| error.to_string())
    }

    fn missing(&self, row: usize, reasons: &str) -> BrowseError {
        let reasons = if reasons.is_empty() { "there is no store" } else { reasons };
        BrowseError::Missing { place: self.place.clone(), id: self.index.chunks[row].id, reasons: reasons.to_owned() }
    }
}

/// No neighbours: looking is not worth meeting them.
pub(crate) struct Nobody;

impl Network for Nobody {
    fn index(&self, _: IndexId, _: bool) -> BoxFuture<'_, Option<Bytes>> {
        async { None }.boxed()
    }

    fn fetch(&self, _: Job) -> BoxFuture<'_, Result<NetworkReport, FetchError>> {
        async { Ok(NetworkReport::default()) }.boxed()
    }

    fn finished(&self, _: Finished) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}
