//! The bounds on everything that a peer can make grow. Prose elsewhere links here and does not repeat the numbers.

/// Bytes of one encoded message, without the payload that may follow it.
pub const MESSAGE_BYTES: usize = 1 << 20;

/// Bytes of the payload behind one message: casync's largest chunk (128 MiB) would need more, see
/// [`SHARED_CHUNK_BYTES`].
pub const PAYLOAD_BYTES: usize = 16 << 20;

/// Chunks longer than this, uncompressed, are not exchanged between peers; they come from stores.
pub const SHARED_CHUNK_BYTES: u32 = 16 << 20;

/// Positions in one `Want` or `Cancel`.
pub const WANT_POSITIONS: usize = 64;

/// Groups in one `Claim`, and started groups in one `HaveMore`.
pub const CLAIM_GROUPS: usize = 256;

/// Positions of one index: 2^22 chunks are 256 GiB at the default chunk size.
pub const POSITIONS: u32 = 1 << 22;

/// Bytes of one index file that is fetched from a peer.
pub const INDEX_BYTES: u64 = 64 + 40 * (POSITIONS as u64) * 2;

/// Bytes of an index carried behind one `IndexPart`.
pub const INDEX_PART_BYTES: usize = 256 << 10;

/// Indexes that one peer may have joined at a time.
pub const EXCHANGES_PER_PEER: usize = 64;

/// Positions that one peer may have asked us for and not yet been answered.
pub const QUEUED_WANTS: usize = 4096;

/// Bytes of a name, label or free text in a message.
pub const TEXT_BYTES: usize = 255;

/// Zones in one `Others`, and nodes in it.
pub const OTHERS: usize = 256;

/// Nodes in one `Peers`.
pub const PEERS: usize = 32;
