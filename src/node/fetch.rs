//! Where the node hands chunks to whoever asked for them. The words of that conversation only: who is asked is decided
//! elsewhere, and checking and writing are the receiver's.

use proto::{NodeId, Position};

use crate::chunk::Encoded;

/// Who sent a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum From {
    /// A neighbour.
    Peer(NodeId),
    /// The remote store with this ordinal, in the order in which the stores were named.
    Origin(usize),
}

/// Bytes that somebody sent as the chunk of a position. Unverified.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Which chunk of the index it claims to be.
    pub position: Position,
    /// What came.
    pub encoded: Encoded,
    /// Who sent it, to be blamed or credited.
    pub from: From,
}

/// What became of an [`Arrival`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was right and is in the target: from now on it can be served from there.
    Stored,
    /// It was not the chunk. Its sender is to blame, and the position is still wanted.
    Corrupt(String),
    /// The target failed (disk full, say): the extraction ends, and nothing more is wanted.
    Failed(String),
}

/// Told once what became of an arrival, from a worker's thread.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

/// Takes what the node fetched. Called from the node's event loop: it must not block. How much is queued is bounded by
/// what the node has asked for and not yet seen done.
pub trait Sink: Send + Sync {
    /// Takes one arrival; `done` is called exactly once.
    fn arrived(&self, arrival: Arrival, done: Done);
}
