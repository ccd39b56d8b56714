//! How an extraction gets what is not on this machine: the seam between it and the node. The extraction says what it
//! wants and checks and writes what comes; whom to ask, and when to ask another, is not its business.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use proto::{IndexId, Position};
use tokio::sync::mpsc;

use super::assembly::Assembly;
use crate::format::layout::Layout;
use crate::node::fetch::Sink;
use crate::source::remote_store::RemoteStore;

/// One image to be fetched, as the network sees it.
pub struct Job {
    /// Names the image among peers.
    pub index_id: IndexId,
    /// The bytes of the index file, to be given to peers that do not have it.
    pub index: Bytes,
    /// Positions, ids and lengths.
    pub layout: Arc<Layout>,
    /// The target: what it holds already, and what is served from. `assembly.count()` tells cheaply whether it grew by
    /// local work.
    pub assembly: Arc<Assembly>,
    /// The remote stores in the order in which they are to be asked; [`crate::node::fetch::From::Origin`] counts them.
    pub origins: Vec<RemoteStore>,
    /// Positions to be fetched, a batch at a time, each position once, as the local work finds out what this machine
    /// lacks. The end of the channel says that there will be no more. All batches together are no longer than the
    /// index, which is what bounds the channel.
    pub wanted: mpsc::UnboundedReceiver<Vec<Position>>,
    /// Takes what came.
    pub sink: Arc<dyn Sink>,
    /// Whether the beginning is wanted first, because somebody follows the front.
    pub in_order: bool,
}

/// What the network did for a job, besides what the sink saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetworkReport {
    /// Requests that the remote stores were sent, retries included.
    pub origin_requests: u64,
    /// Neighbours that sent chunks.
    pub peers: u64,
    /// Chunks that came although they were there already.
    pub duplicates: u64,
}

/// Why some positions did not come.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{missing} of the image's chunks are nowhere to be had: {reasons}")]
pub struct FetchError {
    /// How many.
    pub missing: u64,
    /// What each source said last, for people.
    pub reasons: String,
}

/// A finished image, for those that go on serving it.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its final place; `None` if it is no file of its own any more, as an archive that became a tree.
    pub path: Option<PathBuf>,
    /// Names it.
    pub index_id: IndexId,
    /// The bytes of its index file.
    pub index: Bytes,
    /// How long to stay at most while a neighbour still needs chunks; `None` leaves it to the network.
    pub linger: Option<Duration>,
}

/// Whoever fetches for an extraction: the node, with its neighbours or without any.
pub trait Network: Send + Sync {
    /// The index with this id, if a neighbour has it. It is verified by the caller too. `origin` says whether the caller
    /// can ask the origin: `None` then means that it should, now; else that there is no hope.
    fn index(&self, id: IndexId, origin: bool) -> BoxFuture<'_, Option<Bytes>>;

    /// Fetches all that is wanted. Ends when `job.wanted` has ended and every position was stored or is nowhere to be
    /// had, or when the sink said that the target failed. Dropping the future ends all requests.
    fn fetch(&self, job: Job) -> BoxFuture<'_, Result<NetworkReport, FetchError>>;

    /// Called once when the image has its final name: hands it to a running node, or stays while it is needed.
    fn finished(&self, image: Finished) -> BoxFuture<'_, ()>;
}
