//! Everything one peer may say to another. [`crate::codec`] knows the bytes; `SPEC.md` says what each message asks of
//! the other side.

use core::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{ChunkId, Holdings, IndexId, NodeId, Position, ZoneId};

/// One message. Some are followed by a payload, raw bytes of the length that [`Message::payload`] tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The first message on a session, from both sides at once.
    Hello(Hello),
    /// The sender takes part in the exchange of this index from now on.
    Join(Join),
    /// The sender no longer takes part: what it held, it no longer serves.
    Leave {
        /// The exchange left.
        index: IndexId,
    },
    /// All that the sender holds of the index; replaces what it said before.
    Have {
        /// Which index.
        index: IndexId,
        /// What the sender serves.
        holdings: Holdings,
    },
    /// What the sender holds beyond what it said before.
    HaveMore {
        /// Which index.
        index: IndexId,
        /// The additional positions.
        holdings: Holdings,
        /// Groups that somebody has started to fetch from the origin, as far as the sender heard: only where there are
        /// nodes with which the receiver may have no session.
        started: Vec<u32>,
    },
    /// The sender is now bringing what is missing of these groups into its zone, from the origin or from another zone.
    Claim {
        /// Which index.
        index: IndexId,
        /// Ordinals of groups of [`crate::election::GROUP`] positions.
        groups: Vec<u32>,
        /// From the origin; else from another zone.
        origin: bool,
    },
    /// Whether the sender can reach the origin. Without word of it, it can.
    Origin {
        /// Which index.
        index: IndexId,
        /// False: it cannot, and takes no part in the election.
        reachable: bool,
    },
    /// Asks for chunks. Each position is answered, in any order, by `Chunk` or `Absent`.
    Want {
        /// Which index.
        index: IndexId,
        /// Positions in the index.
        positions: Vec<Position>,
        /// The asker would rather have plain bytes than wait for compression.
        plain: bool,
    },
    /// The sender no longer needs an answer for these positions. It may still get one.
    Cancel {
        /// Which index.
        index: IndexId,
        /// Positions asked before.
        positions: Vec<Position>,
    },
    /// One chunk, as stored; the bytes follow.
    Chunk {
        /// Which index.
        index: IndexId,
        /// Its position there.
        position: Position,
        /// How the bytes are encoded.
        encoding: Encoding,
        /// How many bytes follow.
        length: u32,
    },
    /// The sender will not send these: it does not hold them, or is too busy for as long as `retry_ms` says.
    Absent {
        /// Which index.
        index: IndexId,
        /// Positions asked before.
        positions: Vec<Position>,
        /// Milliseconds after which asking again makes sense; 0 = the sender does not hold them.
        retry_ms: u32,
    },
    /// Asks for the index file itself.
    GetIndex {
        /// Which index.
        index: IndexId,
    },
    /// A part of an index file, in order from offset 0; the bytes follow.
    IndexPart {
        /// Which index.
        index: IndexId,
        /// Bytes of the whole file.
        total: u64,
        /// Where this part starts.
        offset: u64,
        /// How many bytes follow.
        length: u32,
    },
    /// The sender does not have that index file.
    NoIndex {
        /// Which index.
        index: IndexId,
    },
    /// Asks for a chunk by its id, for callers that have no index.
    GetChunk {
        /// The chunk.
        chunk: ChunkId,
    },
    /// Answers `GetChunk`; the bytes follow.
    ChunkById {
        /// The chunk.
        chunk: ChunkId,
        /// How the bytes are encoded.
        encoding: Encoding,
        /// How many bytes follow.
        length: u32,
    },
    /// Answers `GetChunk`: not held.
    NoChunk {
        /// The chunk.
        chunk: ChunkId,
    },
    /// Asks for a sign of life.
    Ping {
        /// Repeated in the answer.
        nonce: u64,
    },
    /// The sign of life.
    Pong {
        /// From the `Ping`.
        nonce: u64,
    },
    /// The sender closes the session on purpose.
    Bye {
        /// Why, for the other side's log.
        reason: String,
    },
    /// Who else takes part, as far as the sender knows.
    Others {
        /// Which index.
        index: IndexId,
        /// Zones with nodes that download.
        zones: Vec<ZoneId>,
        /// Nodes of the sender's zone that download.
        joined: Vec<NodeId>,
        /// Nodes of the sender's zone that are gone.
        left: Vec<NodeId>,
    },
    /// Nodes with which the sender has sessions, to be dialled by who looks for neighbours.
    Peers {
        /// Some of them.
        peers: Vec<PeerAddress>,
    },
    /// To a node of another zone: which chunks the sender wants to hear of, because it is one of the few of its own zone
    /// that may have to bring them in. Replaces what it said before; without word of it, all.
    Interest {
        /// Which index.
        index: IndexId,
        /// Ordinals of groups of [`crate::election::GROUP`] positions.
        groups: Holdings,
    },
}

/// Where a node accepts sessions, as somebody else saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAddress {
    /// Who.
    pub node: NodeId,
    /// In which zone.
    pub zone: ZoneId,
    /// Where.
    pub address: SocketAddr,
}

/// What a node says of itself first. Sessions between different networks end here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::VERSION`].
    pub version: u16,
    /// The network's name; empty for the default one.
    pub network: String,
    /// The name of the sender's zone: a label, or the network prefix of its segment.
    pub zone: String,
    /// The TCP port on which the sender accepts sessions; 0 = it does not.
    pub session_port: u16,
    /// The TCP port of the sender's libp2p (Kademlia) listener; 0 = it has none, or keeps no records for others.
    pub dht_port: u16,
    /// The program and its version, for people.
    pub agent: String,
}

/// What a node says when it takes part in an exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Which index.
    pub index: IndexId,
    /// True: the sender holds or downloads chunks of the index, so it is in the election unless it is complete or says
    /// `Origin { reachable: false }`. False: it only serves.
    pub downloads: bool,
    /// True: the sender can answer `GetIndex`.
    pub has_index: bool,
}

/// How the bytes of a chunk are encoded, as in a casync store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// The chunk itself.
    Plain,
    /// One zstd frame.
    Zstd,
    /// One xz stream.
    Xz,
    /// One gzip member.
    Gzip,
}

impl Message {
    /// The number of payload bytes that follow this message on the wire.
    pub fn payload(&self) -> usize {
        match self {
            Message::Chunk { length, .. } | Message::IndexPart { length, .. } | Message::ChunkById { length, .. } => {
                *length as usize
            }
            _ => 0,
        }
    }
}
